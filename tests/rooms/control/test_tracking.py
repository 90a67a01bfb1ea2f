"""What a run told by step is found wherever it is: in a process, in a row, in an object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from api_stage import BASE, Stage

from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.control.cancelling import plan_cancel
from skyriver.control.explain import list_processes
from skyriver.control.jobs import KEPT_CURVES, LONGEST_CURVE, job_kind
from skyriver.control.operations import OPERATION
from skyriver.control.tracking import tracked
from skyriver.core.contract_curves import Tracked
from skyriver.core.curves import Curves
from skyriver.core.errors import Corrupt, NotFound
from skyriver.core.jobs import Capacity, new_job, new_operation
from skyriver.core.resources import Put, Resource, Snapshot
from skyriver.wiring.simulation import Simulation

APP = Resource("t", "app", "shop", spec={"spec": {"name": "shop"}, "code": {"bundle": "c" * 64, "main": "shop.py"}})
MODEL = Resource("t", "model", "returns", spec={"model": {"train": {}}}, state="DECLARED")
RUN, JOB = "returns-run-1", "returns-run-1-train"


def record(*losses: float, now: Mapping[str, float] | None = None) -> dict[str, Any]:
    curves = Curves()
    for step, loss in enumerate(losses, 1):
        curves.tell(step, {"loss": loss}, 1_000 * step, of=10)
    return {**curves.record(), "now": dict(now or {})}


class Cloud(Simulation):
    def __init__(self) -> None:
        super().__init__({"job": job_kind(Capacity(2.0, 4_000)), "operation": OPERATION})
        self.objects = MemoryObjects()
        empty = Snapshot({}, {}, {}, 0)
        job = new_job(
            empty, APP, kind="train", target="returns", name=JOB, lane="model/returns", parent=f"operation/{RUN}",
            params={"trees": 30},
        )  # fmt: skip
        operation = new_operation(empty, "t", RUN, action="train", target="returns", jobs=[JOB])
        self.commit([Put(MODEL, 0), Put(operation, 0), Put(job, 0)])

    def say(self, **report: Any) -> None:
        self.compute.report(f"t.job.{JOB}", **report)
        self.settle()

    def job(self) -> Resource:
        return self.store.get("t", "job", JOB)

    def told(self, name: str = RUN) -> Tracked:
        return tracked(self.loop.snapshot(), "t", name, self.objects.get)

    def killed(self) -> None:
        name = f"t.job.{JOB}"
        self.compute.running[name] = replace(self.compute.running[name], alive=False, exit_code=-9)
        self.settle()


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def values(run: Tracked) -> list[Any]:
    return [value for _, value, _ in run["curves"]["loss"]["points"]]


@pytest.mark.parametrize("name", [RUN, JOB])
def test_while_it_works_it_is_what_its_process_told_last(cloud: Cloud, name: str) -> None:
    assert cloud.told(name)["curves"] == {}
    cloud.say(curve=record(0.5, float("nan"), now={"cores": 1.5}))
    run = cloud.told(name)
    assert (run["name"], run["job"], run["model"], run["state"]) == (RUN, JOB, "returns", "RUNNING")
    assert values(run) == [0.5, "NaN"]
    assert (run["step"], run["of"], run["now"], run["params"]) == (2, 10, {"cores": 1.5}, {"trees": "30"})
    assert "curve" not in cloud.job().status  # rows stay small while it goes on
    assert "curve" not in list_processes(cloud.loop.snapshot(), "t")[0]["report"]


def test_what_was_told_before_a_kill_is_there_and_given_to_the_next_attempt(cloud: Cloud) -> None:
    cloud.say(curve=record(0.5, 0.4, 0.3))
    cloud.killed()
    assert cloud.job().state == "RECOVERING"
    assert values(cloud.told()) == [0.5, 0.4, 0.3]
    cloud.run(5.0)
    assert (cloud.job().state, cloud.job().attempts) == ("RUNNING", 2)
    assert Curves.of_record(cloud.compute.specs[f"t.job.{JOB}"].config["curve"]).step == 3
    assert values(cloud.told()) == [0.5, 0.4, 0.3]
    cloud.killed()  # before it told anything
    assert values(cloud.told()) == [0.5, 0.4, 0.3]


def test_a_training_that_failed_or_was_cancelled_keeps_its_curve(cloud: Cloud) -> None:
    cloud.say(curve=record(0.5, 0.4))
    rows = plan_cancel(cloud.loop.snapshot(), "t", RUN, {}, {})
    cloud.commit([Put(row, row.revision) for row in rows])
    assert values(cloud.told()) == [0.5, 0.4]


def test_a_failure_that_it_told_itself_keeps_its_curve(cloud: Cloud) -> None:
    cloud.say(curve=record(0.5), outcome="failed", reason="USER_ERROR", message="no")
    assert cloud.job().state == "FAILED"
    assert values(cloud.told()) == [0.5]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_the_newest_curves_of_a_model_are_kept_of_those_that_came_to_nothing(cloud: Cloud, how: str) -> None:
    job = cloud.job()
    row = replace(job, state="FAILED", status={"curve": record(0.5)}, revision=0)
    old = [replace(row, name=f"old-{n}", since=n) for n in range(KEPT_CURVES + 2)]
    other = replace(row, name="other", since=0, spec={**job.spec, "target": "other"})
    cloud.commit([Put(each, 0) for each in (*old, other)])
    if how == "failed":
        cloud.say(curve=record(0.5), outcome="failed", reason="USER_ERROR", message="no")
    else:
        cloud.say(curve=record(0.5))
        cloud.commit([Put(row, row.revision) for row in plan_cancel(cloud.loop.snapshot(), "t", RUN, {}, {})])
        cloud.settle()
    assert cloud.job().state == how.upper()
    kept = {row.name for row in cloud.loop.snapshot().all("t", "job") if "curve" in row.status}
    assert kept == {JOB, "other", *(f"old-{n}" for n in range(3, KEPT_CURVES + 2))}


def test_what_is_longer_than_the_product_writes_stays_out_of_the_row(cloud: Cloud) -> None:
    cloud.say(curve={**record(0.5), "more": "x" * LONGEST_CURVE})
    cloud.killed()
    assert "curve" not in cloud.job().status


def done(cloud: Cloud) -> str:
    curves = Curves.of_record(record(0.5, 0.25))
    digest = cloud.objects.put(json.dumps({**curves.document(), "now": {}}).encode())
    cloud.say(curve=record(0.5, 0.25), outcome="succeeded", outputs={"curve": digest})
    return digest


def test_after_its_end_it_is_an_object_and_not_in_the_row(cloud: Cloud) -> None:
    digest = done(cloud)
    run = cloud.told()
    assert (values(run), run["artifact"], run["state"]) == ([0.5, 0.25], digest, "SUCCEEDED")
    assert "curve" not in cloud.job().status


def test_a_version_names_it_when_the_job_is_gone(cloud: Cloud) -> None:
    digest = done(cloud)
    source = {"name": "sales", "table_version": 7, "labels_version": 3, "reference_versions": {"shops": 2}}
    spec = {
        "model": "returns",
        "version": 1,
        "job": f"{RUN}-compress",
        "split": {"train": []},
        "curve": digest,
        "source": source,
    }
    spec |= {"params": {"trees": 30}, "metrics": {"auc": 0.9}, "code": "c" * 64}
    version = Resource("t", "version", "returns:1", spec=spec, state="APPROVED")
    snapshot = Snapshot({row.key: row for row in (MODEL, version)}, {}, {}, 0)
    for name in ("returns:1", RUN, JOB):
        run = tracked(snapshot, "t", name, cloud.objects.get)
        assert (values(run), run["artifact"], run["job"], run["version"]) == ([0.5, 0.25], digest, "", "returns:1")
        assert run["data"] == {"sales": 7, "sales.labels": 3, "shops": 2}
        assert (run["params"], run["metrics"], run["code"]) == ({"trees": "30"}, {"auc": 0.9}, "c" * 64)


def test_a_name_that_nothing_bears(cloud: Cloud) -> None:
    with pytest.raises(NotFound, match="no run, job or version"):
        cloud.told("nobody")
    with pytest.raises(NotFound):
        tracked(cloud.loop.snapshot(), "other", RUN, cloud.objects.get)


@pytest.mark.parametrize(
    "curve", [{"step": 1}, {**record(1.0), "curves": {"loss": {"kept": "!"}}}, {**record(1.0), "curves": [1]}, [1]]
)
def test_what_the_product_did_not_write_is_told_as_that(cloud: Cloud, curve: Any) -> None:
    cloud.say(curve=curve)
    with pytest.raises(Corrupt) as refused:
        cloud.told()
    assert refused.value.code == "BAD_CURVE"


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff"])
def test_an_object_that_is_no_curve(cloud: Cloud, data: bytes) -> None:
    cloud.say(outcome="succeeded", outputs={"curve": cloud.objects.put(data)})
    with pytest.raises(Corrupt):
        cloud.told()


def test_it_is_read_over_http_by_who_may_look(stage: Stage) -> None:
    kept = stage.objects.put(json.dumps({**Curves.of_record(record(0.5, float("inf"))).document(), "now": {}}).encode())
    spec = {"kind": "train", "target": "returns", "params": {}}
    row = Resource("default", "job", JOB, spec=spec, status={"outputs": {"curve": kept}}, state="SUCCEEDED")
    stage.put(row)
    viewer, other = stage.issue("viewer"), stage.issue("admin", "other")
    answer = stage.caller.get(f"{BASE}/curves/{RUN}", headers=viewer)
    assert answer.status_code == 200, answer.text
    assert [value for _, value, _ in answer.json()["curves"]["loss"]["points"]] == [0.5, "Infinity"]
    assert stage.caller.get(f"{BASE}/curves/nobody", headers=viewer).status_code == 404
    assert stage.caller.get(f"{BASE}/curves/{RUN}", headers=other).status_code == 403
