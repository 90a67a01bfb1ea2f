"""A training whose trials are done several at a time: an array of jobs before it."""

from collections.abc import Sequence
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import Resource, Snapshot
from skyriver.release.operations import plan_train


def _planned(streams: bool = False, runs: Sequence[Resource] = (), **search: Any) -> dict[str, Resource]:
    app = sr.App("shop")
    sale = type("Sale", (sr.Event,), {"__annotations__": {"sale": int, "price": float, "back": int}})
    sales = app.table("sales", sale, id="sale")
    features = app.features("f", sales, {"price": sales.price})
    trained = app.train(features, label=sales.back, search=sr.Search({"rate": sr.Float(0, 1)}, **search))
    app.model("m", trained(lambda data: None))
    spec = app.spec.to_json()
    rows = [
        Resource("t", "app", "shop", {"spec": spec, "code": {"bundle": "b", "main": "app.py"}}, state="READY"),
        Resource("t", "model", "m", {"model": spec["models"][0], "source": "sales", "streams": streams}, state="READY",
                 parent="app/shop"),
        *runs,
    ]  # fmt: skip
    snapshot = Snapshot({row.key: row for row in rows}, {}, {}, 0)
    return {row.name: row for row in plan_train(snapshot, "t", "m", {"seed": 3}, {})}


@pytest.mark.parametrize("streams", [False, True])
def test_trials_at_a_time_are_jobs_that_the_training_needs(streams: bool) -> None:
    planned = _planned(streams, trials=9, parallel=3)
    array = [planned[f"m-run-1-search-{index}"] for index in range(3)]
    first = ["m-run-1-materialise"] if streams else []
    assert [job.spec["index"] for job in array] == [0, 1, 2]
    assert {job.spec["environment"] for job in array} == {planned["m-run-1-train"].spec["environment"]}
    for job in array:
        assert (job.spec["kind"], job.spec["params"], job.spec["inputs"]) == (
            "search",
            {"seed": 3},
            {"study": "m-run-1"},
        )
        assert job.spec["needs"] == first
    assert len({job.spec["lane"] for job in array} | {planned["m-run-1-train"].spec["lane"]}) == 4, "all at once"
    assert planned["m-run-1-train"].spec["needs"] == [*first, *(job.name for job in array)]
    assert planned["m-run-1-train"].spec["inputs"]["study"] == "m-run-1"
    assert planned["m-run-1-compress"].spec["needs"] == ["m-run-1-train"]
    assert planned["m-run-1"].spec["jobs"] == [name for name in planned if name != "m-run-1"]


def test_one_trial_at_a_time_is_the_training_s_own() -> None:
    planned = _planned(trials=9)
    assert list(planned) == ["m-run-1", "m-run-1-train", "m-run-1-compress"]
    assert "study" not in planned["m-run-1-train"].spec["inputs"]


def test_a_training_knows_which_runs_are_not_done() -> None:
    runs = [
        Resource("t", "operation", f"{target}-{action}-{number}", {"action": action, "target": target}, state=state)
        for target, action, number, state in [
            ("m", "train", 1, "SUCCEEDED"), ("m", "train", 2, "RUNNING"), ("m", "train", 3, "FAILED"),
            ("m", "import", 4, "RUNNING"), ("other", "train", 5, "RUNNING"),
        ]
    ]  # fmt: skip
    inputs = _planned(runs=runs, trials=9, parallel=3)["m-run-1-train"].spec["inputs"]
    assert (inputs["run"], inputs["beside"]) == ("m-run-1", ["m-train-2"])
