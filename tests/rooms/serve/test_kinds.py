"""Who gets the requests."""

from __future__ import annotations

import pytest

from skyriver.core.jobs import Capacity
from skyriver.core.resources import NO_LIMIT, ProcessStatus, Put, RequestLimit, Resource, Snapshot, WantPool, WantRoute
from skyriver.serve.kinds import REPLICA, SERVICE, service_kind


def pool_of(state: str, process: ProcessStatus) -> list[str]:
    """The servers of the one version, whose only replica is in `state`."""
    spec = {"serve": {"replicas": 1}, "versions": {"1": {"weight": 100}}}
    service = Resource("t", "service", "fraud", spec=spec, state="READY")
    replica = Resource("t", "replica", "fraud-1-1", spec={"version": 1}, state=state, parent=service.ref)
    rows = {r.key: r for r in (service, replica)}
    actions = SERVICE.step(Snapshot(rows, {process.name: process}, {}, 0), service)
    return [server.name for a in actions if isinstance(a, WantPool) for server in a.pool.servers]


NAME = "t.replica.fraud-1-1"


@pytest.mark.parametrize(
    ("state", "serves"), [("STARTING", True), ("READY", True), ("LOST", True), ("DRAINING", False)]
)
def test_a_replica_that_is_ready_serves_whatever_its_row_says_yet(state: str, serves: bool) -> None:
    process = ProcessStatus(NAME, alive=True, socket="/s", report={"ready": True})
    assert pool_of(state, process) == ([NAME] if serves else [])


@pytest.mark.parametrize(
    "process", [ProcessStatus(NAME, alive=True), ProcessStatus(NAME, False, report={"ready": True})]
)
def test_a_replica_that_is_not_ready_serves_only_as_long_as_its_row_says_so(process: ProcessStatus) -> None:
    assert pool_of("LOST", process) == []
    assert pool_of("READY", process) == [NAME]


@pytest.mark.parametrize(
    ("serve", "limit"),
    [
        ({"replicas": 1}, NO_LIMIT),
        ({"replicas": 1, "limit": "100/s"}, RequestLimit(per_second=100)),
        ({"replicas": 1, "limit": "7/s", "concurrency": 32}, RequestLimit(per_second=7, at_once=32)),
    ],
)
def test_a_service_s_limits_go_with_its_route(serve: dict[str, object], limit: RequestLimit) -> None:
    service = Resource("t", "service", "fraud", spec={"serve": serve, "versions": {}}, state="READY")
    actions = SERVICE.step(Snapshot({service.key: service}, {}, {}, 0), service)
    assert [a.route.limit for a in actions if isinstance(a, WantRoute)] == [limit]


@pytest.mark.parametrize("replicas", [1, [1, 2]], ids=["fixed", "elastic"])
@pytest.mark.parametrize("row_us", [31_400.0, 900.0, float("nan"), -1.0, "slow", 1e12])
def test_a_service_whose_objective_no_number_of_replicas_keeps_says_so_while_it_serves(
    replicas: object, row_us: object
) -> None:
    serve = {"replicas": replicas, "latency": "1ms"}
    service = Resource("t", "service", "fraud", {"serve": serve, "versions": {"1": {"weight": 100}}}, state="STARTING")
    replica = Resource("t", "replica", "fraud-1-1", {"version": 1}, state="READY", parent=service.ref)
    process = ProcessStatus(NAME, alive=True, socket="/s", report={"ready": True, "row_us": row_us})
    snapshot = Snapshot({r.key: r for r in (service, replica)}, {NAME: process}, {}, 0)
    [after] = [
        a.resource for a in SERVICE.step(snapshot, service) if isinstance(a, Put) and a.resource.kind == "service"
    ]
    assert after.state == "READY"
    if row_us != 31_400.0:
        assert (after.reason, after.message, after.next_action) == ("", "", "")
        return
    assert after.reason == "CANNOT_KEEP"
    assert after.message == (
        "latency='1ms' cannot be kept by any number of replicas: the fastest answer takes 31.4 ms."
    )
    assert after.next_action == "Declare a longer latency=, or serve a smaller model."


@pytest.mark.parametrize("cpus", [2.0, 64.0])
def test_a_service_of_which_one_replica_declares_more_than_the_machine_has_says_so_while_it_serves(cpus: float) -> None:
    serve = {"replicas": 1, "cpus": cpus}
    service = Resource("t", "service", "huge", {"serve": serve, "versions": {"1": {"weight": 100}}}, state="STARTING")
    replica = Resource("t", "replica", "huge-1-1", {"version": 1}, state="READY", parent=service.ref)
    process = ProcessStatus(replica.process, alive=True, socket="/s", report={"ready": True})
    snapshot = Snapshot({r.key: r for r in (service, replica)}, {replica.process: process}, {}, 0)
    step = service_kind(Capacity(2.0, 4_000)).step
    [after] = [a.resource for a in step(snapshot, service) if isinstance(a, Put) and a.resource.kind == "service"]
    assert after.state == "READY"
    if cpus == 2.0:
        assert (after.reason, after.message, after.next_action) == ("", "", "")
        return
    assert after.reason == "LARGER_THAN_MACHINE"
    assert after.message == (
        "One replica of huge declares 64 cores and 512 MB, and this machine has 2 cores and 4,000 MB: beside it no"
        " service that follows the load gets another replica, and it is billed for what it declares."
    )
    assert after.next_action == "Declare what a replica uses (cpus=, memory_mb=)."


@pytest.mark.parametrize("latency", ["", "40s"])
@pytest.mark.parametrize(
    ("reports", "is_known"),
    [
        ([{"ended_us": 30e6}], True),
        ([{"ended_us": 30e6}, {"ended_us": 30e6}], True),
        ([{"ended_us": 30e6}, {"row_us": 900.0}], False),
        ([{"ended_us": float("nan")}], False),
        ([{"ended_us": 1e300}], False),
        ([{"ended_us": "long"}], False),
        ([{}], False),
    ],
    ids=lambda told: None if isinstance(told, bool) else "+".join("-".join(map(str, one.values())) for one in told),
)
def test_a_service_whose_model_answers_nothing_says_so_while_it_serves(
    reports: list[dict[str, object]], is_known: bool, latency: str
) -> None:
    serve = {"replicas": len(reports), **({"latency": latency} if latency else {})}
    service = Resource("t", "service", "fraud", {"serve": serve, "versions": {"1": {"weight": 100}}}, state="STARTING")
    names = [f"fraud-1-{n}" for n, _ in enumerate(reports, 1)]
    replicas = [Resource("t", "replica", name, {"version": 1}, state="READY", parent=service.ref) for name in names]
    processes = {
        replica.process: ProcessStatus(replica.process, alive=True, socket="/s", report={"ready": True, **report})
        for replica, report in zip(replicas, reports, strict=True)
    }
    snapshot = Snapshot({r.key: r for r in (service, *replicas)}, processes, {}, 0)
    found = [a.resource for a in SERVICE.step(snapshot, service) if isinstance(a, Put) and a.resource.kind == "service"]
    assert found[0].state == "READY"
    if not is_known:
        assert found[0].reason == ""
        return
    assert (found[0].reason, found[0].next_action) == (
        "NEVER_ANSWERS",
        "Serve a faster model: more replicas do not help.",
    )
    assert found[0].message == (
        "No request can be answered: one row takes the model longer than 30 s, after which a run is ended."
    )


@pytest.mark.parametrize("state", ["STARTING", "READY", "LOST"])
def test_a_replica_that_says_that_it_cannot_serve_is_failed_whatever_it_was(state: str) -> None:
    report = {"failed": True, "reason": "BAD_SIGNATURE", "message": "It was changed."}
    service = Resource("t", "service", "m", spec={"serve": {}, "versions": {"1": {"weight": 100}}}, state="READY")
    spec = {"model": "m", "version": 1, "artifact": "a" * 64, "fields": None}
    replica = Resource("t", "replica", "m-1-1", spec=spec, state=state, parent=service.ref, revision=3)
    process = ProcessStatus(replica.process, alive=False, exit_code=3, report=report)
    snapshot = Snapshot({r.key: r for r in (service, replica)}, {replica.process: process}, {}, 0)
    [put] = [action for action in REPLICA.step(snapshot, replica) if isinstance(action, Put)]
    assert (put.resource.state, put.resource.reason) == ("FAILED", "BAD_SIGNATURE")


@pytest.mark.parametrize(
    ("model", "operations", "action"),
    [
        ({"train": {}}, [], "`skyriver run` trains one."),
        ({"train": {}}, ["train"], "`skyriver explain a-train` tells why; `skyriver run a` trains again."),
        ({"onnx": "a.onnx"}, [], "`skyriver deploy` takes it in."),
        ({"onnx": "a.onnx"}, ["import"], "`skyriver explain a-import` tells why; mend the file and deploy it again."),
    ],
    ids=["to be trained", "training failed", "file not checked", "file refused"],
)
def test_what_brings_a_version_depends_on_where_models_come_from(
    model: dict[str, object], operations: list[str], action: str
) -> None:
    service = Resource("t", "service", "a", spec={"serve": {"replicas": 1}, "versions": {}}, state="PENDING")
    rows = [service, Resource("t", "model", "a", spec={"model": model})]
    for made in operations:
        spec = {"action": made, "target": "a", "params": {}}
        rows.append(Resource("t", "operation", f"a-{made}", spec=spec, state="FAILED", reason="BAD"))
    actions = SERVICE.step(Snapshot({row.key: row for row in rows}, {}, {}, 0), service)
    (told,) = [a.resource for a in actions if isinstance(a, Put) and a.resource.kind == "service"]
    assert (told.reason, told.next_action) == ("NO_VERSION", action)
