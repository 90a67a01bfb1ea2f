"""The life of an application in the real loop with in-memory parts: no process, no disk, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput, NotFound, StaleWrite
from skyriver.core.resources import Delete, Put, Resource
from skyriver.core.spec import AppSpec, FieldSpec, NatsLogSpec, ReferenceSpec
from skyriver.data.operations import plan_load
from skyriver.features.plan import plan_features
from skyriver.release.operations import plan_rollback, plan_train
from skyriver.serve.scaling_kind import new_scaling
from skyriver.wiring.deploy import plan_deploy
from skyriver.wiring.kinds import KINDS
from skyriver.wiring.simulation import Simulation

GOOD = {"average_precision": 0.7}


class Cloud(Simulation):
    """The simulated cloud, and someone who asks it for things and plays its processes."""

    def deploy(self, spec: AppSpec) -> list[str]:
        code = {"bundle": "0" * 64, "main": "app.py"}
        plan = plan_deploy(self.loop.snapshot(), "t", spec, code, files={}, prune=False)
        self.commit(list(plan.changes))
        return [f"{line.action} {line.kind}/{line.name}" for line in plan.lines]

    def ask(self, resources: list[Resource]) -> str:
        self.commit([Put(r, 0) for r in resources])
        return next(r.name for r in resources if r.kind == "operation")

    def get(self, kind: str, name: str) -> Resource:
        return self.store.get("t", kind, name)

    def finish(self, job: str, **outputs: Any) -> None:
        self.compute.report(f"t.job.{job}", outcome="succeeded", outputs=outputs)
        self.settle()

    def train(self, metrics: Mapping[str, float] = GOOD) -> str:
        """A whole training run up to the new version; its process reports are played."""
        run = self.ask(plan_train(self.loop.snapshot(), "t", "fraud", {}, {}))
        self.finish(f"{run}-materialise", tables={"payments": {"version": 0, "offset": 10}})
        self.finish(f"{run}-train", artifacts={"model": "a" * 64})
        spec = {"model": "fraud", "artifact": "a" * 64, "metrics": dict(metrics)}
        self.finish(
            f"{run}-compress", resources=[{"kind": "version", "name": "fraud", "state": "CANDIDATE", "spec": spec}]
        )
        return run

    def ready(self, *names: str, **report: Any) -> None:
        for name in names:
            self.compute.report(name, ready=True, **report)
        self.settle()


GATE = sr.Gate(average_precision=">= 0.6")


def risk(
    gate: sr.Gate = GATE, extra: str = "", replicas: int | tuple[int, int] = 1, by_key: Mapping[str, Any] | None = None
) -> AppSpec:
    """`by_key`: how the model is asked by its features' keys, which there are then."""

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float

    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="7d")
    keyed = {"payments_7d": sr.count(by="customer", over="7d")} if by_key is not None else {}
    features = app.features("behaviour", payments, {"amount": payments.amount, **keyed})

    @app.train(features, label=frauds)
    def fit(data: object) -> object:
        return data

    asked = sr.FromStream(payments, **by_key) if by_key is not None else None
    model = app.model("fraud", fit, gate=gate, serve=sr.Service(replicas=replicas, features=asked))
    app.decide(payments, model, {"block": "score >= 0.9"}, otherwise="approve")
    if extra:
        app.model(extra, fit)
    return app.spec


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


WORKER_NAME = "t.worker.payments-0"


def released(cloud: Cloud) -> None:
    """A cloud in which fraud:1 serves and the stream decides with it."""
    cloud.deploy(risk())
    cloud.ready(WORKER_NAME, model=None)
    cloud.train()
    cloud.ready("t.replica.fraud-1-1")
    cloud.ready(WORKER_NAME, model={"name": "fraud", "version": 1})


def test_deploying_twice_is_a_plan_of_nothing(cloud: Cloud) -> None:
    first = cloud.deploy(risk())
    assert {"create stream/payments", "create model/fraud", "create service/fraud"} <= set(first)
    assert {line.split()[0] for line in cloud.deploy(risk())} == {"keep"}
    assert cloud.get("service", "fraud").reason == "NO_VERSION"
    assert WORKER_NAME in cloud.compute.running


def test_a_service_that_reads_from_a_stream_is_told_of_its_worker(cloud: Cloud) -> None:
    released(cloud)
    assert "from_stream" not in cloud.compute.specs["t.replica.fraud-1-1"].live
    assert "reads" not in cloud.compute.specs[WORKER_NAME].config
    version = cloud.get("version", "fraud:1")
    features = risk(by_key={}).feature_set("behaviour").to_json()
    digest = plan_features(risk(by_key={}).feature_set("behaviour"), risk().stream("payments")).digest
    trained = {**version.spec, "features": {"set": "behaviour", "digest": digest, "names": [], "spec": features}}
    cloud.commit([Put(replace(version, spec=trained), version.revision)])
    lines = cloud.deploy(risk(by_key={"max_age": "5m", "on_old": "fallback", "fallback": 0.02}))
    assert "update service/fraud" in lines
    cloud.settle()
    assert cloud.compute.specs[WORKER_NAME].config["reads"] is True
    told = cloud.compute.specs["t.replica.fraud-1-1"].live["from_stream"]
    assert told.pop("fields") == cloud.get("stream", "payments").spec["stream"]["fields"]
    assert told == {
        "stream": "payments",
        "socket": cloud.compute.running[WORKER_NAME].socket,
        "features": digest,
        "keys": ["customer"],
        "reads": ["amount"],
        "on_unknown": "answer",
        "on_old": "fallback",
        "max_age_us": 300_000_000,
        "fallback": 0.02,
    }
    cloud.deploy(risk())
    assert "from_stream" not in cloud.compute.specs["t.replica.fraud-1-1"].live
    assert "reads" not in cloud.compute.specs[WORKER_NAME].config


def test_what_is_no_longer_in_the_file_is_named_and_stays(cloud: Cloud) -> None:
    cloud.deploy(risk(extra="second"))
    assert "orphan model/second" in cloud.deploy(risk())
    assert cloud.get("model", "second").state == "DECLARED"


def test_a_name_of_another_application_is_refused(cloud: Cloud) -> None:
    cloud.deploy(risk())
    other = risk().model_copy(update={"name": "other"})
    with pytest.raises(Conflict) as caught:
        cloud.deploy(other)
    assert caught.value.code == "NAME_TAKEN"


def test_from_training_to_serving(cloud: Cloud) -> None:
    released(cloud)
    model = cloud.get("model", "fraud")
    assert model.status["aliases"] == {"champion": 1}
    assert cloud.get("version", "fraud:1").status["settled"] == "good"
    assert cloud.get("operation", "fraud-run-1").state == "SUCCEEDED"
    assert cloud.get("service", "fraud").state == "READY"
    assert cloud.gateway.split("fraud") == (("fraud:1", 100),)
    assert cloud.gateway.servers("fraud:1") == ["t.replica.fraud-1-1"]
    assert cloud.compute.specs[WORKER_NAME].live["model"]["version"] == 1
    assert cloud.get("table", "payments").status["version"] == 0


def test_jobs_wait_for_their_inputs_and_get_their_outputs(cloud: Cloud) -> None:
    cloud.deploy(risk())
    run = cloud.ask(plan_train(cloud.loop.snapshot(), "t", "fraud", {"rounds": 9}, {}))
    states = {j.name: j.state for j in cloud.store.rows("t", "job")}
    assert states[f"{run}-materialise"] == "RUNNING"
    assert states[f"{run}-train"] == "PENDING"
    cloud.finish(f"{run}-materialise", rows=5)
    config = cloud.compute.specs[f"t.job.{run}-train"].config
    assert config["inputs"]["materialise"] == {"rows": 5}
    assert config["params"] == {"rounds": 9}


def test_a_failed_job_fails_what_needs_it_and_the_operation_says_why(cloud: Cloud) -> None:
    cloud.deploy(risk())
    run = cloud.ask(plan_train(cloud.loop.snapshot(), "t", "fraud", {}, {}))
    cloud.finish(f"{run}-materialise")
    cloud.compute.report(
        f"t.job.{run}-train", outcome="failed", reason="USER_ERROR", message="ValueError: no", next_action="Mend it."
    )
    cloud.settle()
    operation = cloud.get("operation", run)
    assert (operation.state, operation.reason, operation.message) == ("FAILED", "USER_ERROR", "ValueError: no")
    assert cloud.get("job", f"{run}-compress").reason == "INPUT_FAILED"


def test_a_training_whose_process_is_killed_goes_on_by_itself(cloud: Cloud) -> None:
    cloud.deploy(risk())
    run = cloud.ask(plan_train(cloud.loop.snapshot(), "t", "fraud", {}, {}))
    cloud.compute.kill(f"t.job.{run}-materialise", -9)
    cloud.settle()
    job = cloud.get("job", f"{run}-materialise")
    assert (job.state, job.reason) == ("RECOVERING", "SIGNALLED")
    assert "signal 9" in job.message
    cloud.run(1.5)
    cloud.finish(f"{run}-materialise")
    assert cloud.get("job", f"{run}-materialise").state == "SUCCEEDED"
    assert cloud.get("job", f"{run}-train").state == "RUNNING"


def test_the_gate_refuses_and_what_served_before_still_serves(cloud: Cloud) -> None:
    released(cloud)
    run = cloud.train({"average_precision": 0.5})
    version = cloud.get("version", "fraud:2")
    assert (version.state, version.reason) == ("REJECTED", "GATE_FAILED")
    assert cloud.get("operation", run).reason == "GATE_FAILED"
    assert cloud.gateway.split("fraud") == (("fraud:1", 100),)


def test_a_swap_waits_for_the_new_version_and_drains_the_old(cloud: Cloud) -> None:
    released(cloud)
    cloud.train()
    assert cloud.gateway.split("fraud") == (("fraud:1", 100),)  # fraud:2 is not ready yet
    cloud.gateway.busy = {"t.replica.fraud-1-1": 3}
    cloud.ready("t.replica.fraud-2-1")
    cloud.ready(WORKER_NAME, model={"name": "fraud", "version": 2})
    assert cloud.gateway.split("fraud") == (("fraud:2", 100),)
    assert cloud.gateway.servers("fraud:1") == []
    assert "t.replica.fraud-1-1" in cloud.compute.running  # three requests still run there
    cloud.gateway.busy = {}
    cloud.settle()
    assert "t.replica.fraud-1-1" not in cloud.compute.running
    assert cloud.get("model", "fraud").status["aliases"] == {"champion": 2}


def test_rollback_goes_back_and_back_again(cloud: Cloud) -> None:
    released(cloud)
    for version in (2, 3):
        cloud.train()
        cloud.ready(f"t.replica.fraud-{version}-1")
        cloud.ready(WORKER_NAME, model={"name": "fraud", "version": version})
    for version in (2, 1):
        cloud.ask(plan_rollback(cloud.loop.snapshot(), "t", "fraud", {}, {}))
        cloud.ready(f"t.replica.fraud-{version}-1")
        cloud.ready(WORKER_NAME, model={"name": "fraud", "version": version})
        assert cloud.get("model", "fraud").status["aliases"] == {"champion": version}
        assert cloud.gateway.split("fraud") == ((f"fraud:{version}", 100),)
    with pytest.raises(Conflict) as caught:
        plan_rollback(cloud.loop.snapshot(), "t", "fraud", {}, {})
    assert caught.value.code == "NO_EARLIER_VERSION"


def test_a_version_that_does_not_load_is_taken_back(cloud: Cloud) -> None:
    released(cloud)
    cloud.train()
    cloud.compute.report("t.replica.fraud-2-1", failed=True, reason="MODEL_BROKEN", message="It does not load.")
    cloud.settle()
    rollout = cloud.get("rollout", "fraud-2")
    assert (rollout.state, rollout.reason) == ("ROLLED_BACK", "VERSION_FAILED")
    assert "It does not load." in rollout.message
    assert cloud.gateway.split("fraud") == (("fraud:1", 100),)
    assert cloud.get("model", "fraud").status["aliases"] == {"champion": 1}
    assert cloud.get("operation", "fraud-run-2").state == "FAILED"


def test_a_version_that_never_gets_ready_is_taken_back(cloud: Cloud) -> None:
    released(cloud)
    cloud.train()
    cloud.clock.advance(121_000_000)
    cloud.settle()
    assert cloud.get("rollout", "fraud-2").reason == "TIMED_OUT"
    assert cloud.gateway.split("fraud") == (("fraud:1", 100),)


def test_killed_replicas_and_workers_are_started_again(cloud: Cloud) -> None:
    released(cloud)
    for name, kind, row in (("t.replica.fraud-1-1", "replica", "fraud-1-1"), (WORKER_NAME, "worker", "payments-0")):
        cloud.compute.kill(name)
        cloud.loop.run_pass()
        assert cloud.compute.running[name].alive
        cloud.settle()
        cloud.ready(name, model={"name": "fraud", "version": 1})
        assert cloud.get(kind, row).state == "READY"
    assert cloud.get("service", "fraud").state == "READY"


def test_loads_into_one_table_run_one_after_the_other(cloud: Cloud) -> None:
    cloud.deploy(risk())
    files = {"files": [{"digest": "0" * 64, "name": "a.csv", "format": "csv"}]}
    for _ in range(2):
        cloud.ask(plan_load(cloud.loop.snapshot(), "t", "payments", {}, files))
    states = {j.name: j.state for j in cloud.store.rows("t", "job")}
    assert states == {"payments-load-1": "RUNNING", "payments-load-2": "QUEUED"}
    cloud.finish("payments-load-1")
    assert cloud.get("job", "payments-load-2").state == "RUNNING"


def test_a_load_of_nothing_or_of_an_unknown_format_is_refused(cloud: Cloud) -> None:
    cloud.deploy(risk())
    seen = cloud.loop.snapshot()
    with pytest.raises(InvalidInput, match="at least one file"):
        plan_load(seen, "t", "payments", {}, {"files": []})
    with pytest.raises(InvalidInput, match="xlsx"):
        plan_load(seen, "t", "payments", {}, {"files": [{"digest": "", "name": "a.xlsx", "format": "xlsx"}]})
    with pytest.raises(NotFound, match="There is no table 'nothing'"):
        plan_load(seen, "t", "nothing", {}, {"files": []})


def test_the_table_follows_the_stream_by_jobs_that_are_forgotten(cloud: Cloud) -> None:
    cloud.deploy(risk())
    for round_ in range(1, 9):
        cloud.ready(WORKER_NAME, offset=10 * round_, model=None)
        cloud.clock.advance(61_000_000)
        cloud.settle()
        job = f"payments-materialise-{round_}"
        assert cloud.get("job", job).state == "RUNNING"
        cloud.finish(job, tables={"payments": {"version": round_, "offset": 10 * round_ - 1}})
    assert cloud.get("table", "payments").status["offset"] == 79
    kept = [j.name for j in cloud.store.rows("t", "job")]
    assert len(kept) <= 6
    cloud.clock.advance(61_000_000)
    cloud.settle()  # nothing new in the log: no job
    assert [j.name for j in cloud.store.rows("t", "job") if j.state == "RUNNING"] == []


def test_a_row_that_cannot_be_reconciled_keeps_what_it_has_and_stops_nobody(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(cloud)
    pid = cloud.compute.running[WORKER_NAME].pid

    def poisonous(snapshot: object, row: Resource) -> list[Put]:
        raise ValueError("a row from another time")

    def unwritable(snapshot: object, row: Resource) -> list[Put]:
        return [Put(row, 0)]  # it exists: this can never be written

    for kind, step in (("worker", poisonous), ("service", unwritable)):
        monkeypatch.setitem(cloud.kinds, kind, replace(KINDS[kind], step=step))
        cloud.settle()
        assert cloud.compute.running[WORKER_NAME].pid == pid
        assert cloud.gateway.split("fraud") == (("fraud:1", 100),)
        monkeypatch.setitem(cloud.kinds, kind, KINDS[kind])
    # A control plane that starts anew leaves the process of such a row alone, too.
    monkeypatch.setitem(cloud.kinds, "worker", replace(KINDS["worker"], step=poisonous))
    cloud.start_control()
    cloud.train()  # and everything else goes on
    assert cloud.compute.running[WORKER_NAME].pid == pid
    cloud.ready("t.replica.fraud-2-1")
    assert cloud.get("replica", "fraud-2-1").state == "READY"


def test_replicas_of_a_removed_service_end(cloud: Cloud) -> None:
    released(cloud)
    service = cloud.get("service", "fraud")
    cloud.commit([Delete(*service.key, service.revision)])
    assert "t.replica.fraud-1-1" not in cloud.compute.running
    assert cloud.store.rows("t", "replica") == []


def test_a_plan_made_from_rows_that_moved_is_dropped(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    released(cloud)
    commit = cloud.store.commit
    moved = []

    def overtaken(changes: Any, **options: Any) -> list[Resource]:
        if not moved:
            moved.append(True)
            model = cloud.get("model", "fraud")
            commit([Put(replace(model, message="moved"), model.revision)], **options)
            raise StaleWrite("too late")
        return commit(changes, **options)

    monkeypatch.setattr(cloud.store, "commit", overtaken)
    cloud.compute.kill("t.replica.fraud-1-1")
    assert cloud.loop.run_pass()
    assert not cloud.compute.running["t.replica.fraud-1-1"].alive  # nothing was done on the dropped plan
    cloud.settle()
    assert cloud.compute.running["t.replica.fraud-1-1"].alive


def test_a_version_that_the_gate_refused_cannot_be_rolled_back_to(cloud: Cloud) -> None:
    released(cloud)
    cloud.train({"average_precision": 0.5})
    with pytest.raises(Conflict) as caught:
        plan_rollback(cloud.loop.snapshot(), "t", "fraud", {"version": 2}, {})
    assert caught.value.code == "NOT_APPROVED"
    with pytest.raises(InvalidInput):
        plan_rollback(cloud.loop.snapshot(), "t", "fraud", {"version": "two"}, {})


def test_removing_a_model_ends_what_waits_for_it(cloud: Cloud) -> None:
    released(cloud)
    run = cloud.train()  # its rollout waits for a replica
    for kind in ("model", "service"):
        row = cloud.get(kind, "fraud")
        cloud.commit([Delete(*row.key, row.revision)])
    assert cloud.get("rollout", "fraud-2").state == "ABORTED"
    assert (cloud.get("operation", run).state, cloud.get("operation", run).reason) == ("FAILED", "MODEL_REMOVED")


def test_a_version_that_got_ready_while_control_was_away_is_released(cloud: Cloud) -> None:
    released(cloud)
    cloud.train()
    cloud.compute.report("t.replica.fraud-2-1", ready=True)
    cloud.compute.report(WORKER_NAME, model={"name": "fraud", "version": 2})
    cloud.clock.advance(3_600_000_000)
    cloud.start_control()
    cloud.settle()
    assert cloud.get("rollout", "fraud-2").state == "DONE"


def test_a_champion_that_changed_during_a_run_is_not_compared_with(cloud: Cloud) -> None:
    cloud.deploy(risk(gate=sr.Gate(average_precision=">= 0.6", against="champion")))
    cloud.ready(WORKER_NAME, model=None)
    cloud.train()
    cloud.ready("t.replica.fraud-1-1")
    cloud.ready(WORKER_NAME, model={"name": "fraud", "version": 1})
    cloud.train()  # its proposal still says that there was no champion
    assert cloud.get("version", "fraud:2").reason == "CHAMPION_CHANGED"


def test_a_version_takes_over_with_as_many_replicas_as_the_load_needs(cloud: Cloud) -> None:
    cloud.deploy(risk(replicas=(1, 4)))
    cloud.ready(WORKER_NAME, model=None)
    cloud.train()
    cloud.ready("t.replica.fraud-1-1")
    cloud.ready(WORKER_NAME, model={"name": "fraud", "version": 1})
    cloud.commit([Put(new_scaling(cloud.get("service", "fraud"), 2, {}, cloud.clock.wall()), 0)])
    cloud.ready("t.replica.fraud-1-2")
    cloud.train()
    cloud.ready("t.replica.fraud-2-1")
    assert cloud.gateway.split("fraud") == (("fraud:1", 100),)
    cloud.ready("t.replica.fraud-2-2")
    cloud.ready(WORKER_NAME, model={"name": "fraud", "version": 2})
    assert cloud.gateway.split("fraud") == (("fraud:2", 100),)
    assert {name for name in cloud.compute.running if "fraud-" in name and "replica" in name} == {
        "t.replica.fraud-2-1",
        "t.replica.fraud-2-2",
    }


def test_a_replica_too_many_leaves_the_gateway_before_it_is_asked_to_end(cloud: Cloud) -> None:
    cloud.deploy(risk(replicas=2))
    cloud.ready(WORKER_NAME, model=None)
    cloud.train()
    cloud.ready("t.replica.fraud-1-1", "t.replica.fraud-1-2")
    cloud.ready(WORKER_NAME, model={"name": "fraud", "version": 1})
    assert len(cloud.gateway.servers("fraud:1")) == 2
    cloud.gateway.busy = {"t.replica.fraud-1-2": 1}
    cloud.deploy(risk(replicas=1))
    assert cloud.gateway.servers("fraud:1") == ["t.replica.fraud-1-1"]
    assert "t.replica.fraud-1-2" in cloud.compute.running  # its last request still runs
    cloud.gateway.busy = {}
    cloud.settle()
    assert "t.replica.fraud-1-2" not in cloud.compute.running


def test_a_replica_that_was_given_up_is_tried_again(cloud: Cloud) -> None:
    released(cloud)
    name = "t.replica.fraud-1-1"
    for _ in range(10):
        if name in cloud.compute.running:
            cloud.compute.kill(name, 1)
        cloud.loop.run_pass()
        cloud.clock.advance(1_000_000)
    assert cloud.get("replica", "fraud-1-1").reason == "CRASH_LOOP"
    assert cloud.get("service", "fraud").state == "DEGRADED"
    cloud.clock.advance(61_000_000)
    cloud.settle()
    cloud.ready(name)
    assert cloud.get("service", "fraud").state == "READY"


def test_a_stream_keeps_the_shape_of_its_events(cloud: Cloud) -> None:
    spec = risk()
    cloud.deploy(spec)
    stream = spec.streams[0]
    looser = stream.fields[3].model_copy(update={"ge": 0.0})
    cloud.deploy(
        spec.model_copy(update={"streams": (stream.model_copy(update={"fields": (*stream.fields[:3], looser)}),)})
    )
    log = NatsLogSpec(url="nats://bus", name="risk", credentials="bus")
    shops = ReferenceSpec(name="shops", fields=stream.fields, id=stream.id, time=stream.time)
    grown = stream.model_copy(update={"references": (shops,)})
    cloud.deploy(spec.model_copy(update={"streams": (grown,)}))
    assert cloud.get("table", f"{stream.name}.shops").parent == "app/risk"
    fewer = shops.model_copy(update={"fields": stream.fields[:3]})
    for changed in (
        {"fields": stream.fields[:3]},
        {"key": stream.id},
        {"log": log},
        {"references": ()},
        {"references": (fewer,)},
    ):
        with pytest.raises(Conflict) as caught:
            cloud.deploy(spec.model_copy(update={"streams": (stream.model_copy(update=changed),)}))
        assert caught.value.code == "STREAM_CHANGED"


def test_a_list_keeps_what_rules_ask_of_it(cloud: Cloud) -> None:
    spec = risk()
    stream, time = spec.streams[0], FieldSpec(name="until", type="time", nullable=True)
    own = next(f for f in stream.fields if f.name == stream.id)
    fields = (own, FieldSpec(name="at", type="time"), time, FieldSpec(name="ends", type="time", nullable=True))
    rows = ReferenceSpec(name="denied", fields=fields, id=own.name, time="at")
    denied = rows.model_copy(update={"until": "until", "by": stream.id})

    def deploy(*references: ReferenceSpec) -> None:
        changed = stream.model_copy(update={"references": references})
        cloud.deploy(spec.model_copy(update={"streams": (changed,)}))

    deploy(rows)
    deploy(denied)  # rules could not ask anything of it before
    for changed in (denied.model_copy(update={"by": stream.key}), denied.model_copy(update={"until": "ends"}), rows):
        with pytest.raises(Conflict, match="The list denied of payments is looked up by 'payment'") as caught:
            deploy(changed)
        assert caught.value.code == "STREAM_CHANGED"
        assert "under another name" in caught.value.next_action
    deploy(denied, denied.model_copy(update={"name": "refused", "by": stream.key}))
    with pytest.raises(Conflict):
        deploy(denied, denied.model_copy(update={"name": "refused"}))


@pytest.mark.parametrize("name", ["Payments", "../../tmp/pwn", "a b", ""])
def test_names_of_a_specification_are_checked_wherever_it_comes_from(name: str) -> None:
    body = risk().to_json()
    body["streams"][0]["name"] = name
    with pytest.raises(InvalidInput) as caught:
        AppSpec.model_validate(body)
    assert caught.value.code == "BAD_NAME"
    body = risk().to_json()
    body["decides"][0]["model"] = "nobody"
    with pytest.raises(InvalidInput, match="'nobody' is referred to"):
        AppSpec.model_validate(body)
    body = risk().to_json()
    body["models"][0]["onnx"] = "../../etc/passwd"
    with pytest.raises(InvalidInput, match="no path inside"):
        AppSpec.model_validate(body)


def test_what_the_store_cannot_keep_stops_nothing_else(cloud: Cloud) -> None:
    released(cloud)
    run = cloud.ask(plan_train(cloud.loop.snapshot(), "t", "fraud", {}, {}))
    cloud.compute.report(f"t.job.{run}-materialise", outcome="succeeded", outputs={"rows": float("nan")})
    cloud.compute.kill("t.replica.fraud-1-1")
    cloud.settle()
    assert cloud.compute.running["t.replica.fraud-1-1"].alive


def test_a_plan_says_what_the_features_of_a_stream_take() -> None:
    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float

    def planned(cloud: Cloud, over: str, retention: str | None = None, example: str = "block") -> str:
        app = sr.App("risk")
        payments = app.stream("payments", Payment, id="payment", time="at", key="customer", retention=retention)
        frauds = app.labels("fraud", of=payments, delay="7d")
        found = {
            "sum": sr.sum("amount", by="customer", over=over),
            "least": sr.minimum("amount", by="payment", over="1d"),
        }
        features = app.features("behaviour", payments, found)

        @app.train(features, label=frauds)
        def fit(data: object) -> object:
            return data

        decisions = app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve")
        decisions.example(example, score=0.95)
        plan = plan_deploy(
            cloud.loop.snapshot(), "t", app.spec, {"bundle": "0" * 64, "main": "app.py"}, files={}, prune=False
        )
        cloud.commit(list(plan.changes))
        return next(line.detail for line in plan.lines if line.kind == "stream")

    cloud = Cloud()
    first = planned(cloud, "28d")
    assert first == (
        "features take 56 bytes a customer, 48 to 56,048 bytes a payment of memory, 40 bytes an event of disk for 28d"
    )
    assert planned(cloud, "28d") == "", "nothing changes"
    assert planned(cloud, "28d", example="approve") == "", "another example changes no stream"
    changed = planned(cloud, "30d", retention="20d")
    assert changed.startswith("features, stream; features take 56 bytes a customer")
    assert changed.endswith("for 30d; changed ones wait 10d, for the log keeps 20d of it")


@pytest.mark.parametrize("retention", [None, "20d"])
def test_what_rows_of_references_take_is_told_at_deploy(retention: str | None) -> None:
    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int

    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer", retention=retention)
    frauds = app.labels("fraud", of=payments, delay="7d")
    customers = app.reference("customers", Payment, of=payments, id="customer", time="at")
    known = {"since": sr.lookup(customers.at, by="customer"), "last": sr.lookup(customers.payment, by="customer")}

    @app.train(app.features("behaviour", payments, known), label=frauds)
    def fit(data: object) -> object:
        return data

    app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve")
    cloud = Cloud()
    code = {"bundle": "0" * 64, "main": "app.py"}
    plan = plan_deploy(cloud.loop.snapshot(), "t", app.spec, code, files={}, prune=False)
    told = next(line.detail for line in plan.lines if line.kind == "stream")
    lasting = "; changed ones cannot be built once the log has given up its beginning, for they look up references"
    assert told == "features take 64 bytes a row of customers of memory" + (lasting if retention else "")
