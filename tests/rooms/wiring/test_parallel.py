"""What a replica keeps of what it measured, for those that come after it, and what it loads at its start."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
from onnx import TensorProto, helper

from skyriver.serve import runner as runner_module
from skyriver.serve.calibration import Calibration
from skyriver.serve.replica import ReplicaSettings
from skyriver.serve.runner import Runner
from skyriver.wiring import replica as module
from skyriver.wiring.replica import Parallel

FOUR = Parallel("Xeon", 4, 50_000)
MEASURED = Calibration(256, 1, True, 100.0, 900.0, 90.0, 10.0, {1: (100.0, 9_000.0)})
VALUES = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("x", "y")]
GRAPH = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", VALUES[:1], VALUES[1:])
RELU = helper.make_model(GRAPH, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_what_was_measured_or_cannot_be_is_kept_and_not_measured_again() -> None:
    two = replace(MEASURED, threads=2, by_threads={1: (100.0, 9_000.0), 2: (60.0, 16_000.0)})
    long = replace(MEASURED, untried_load_s=5.012)
    assert FOUR.told(two)["threads"] == 2
    assert FOUR.told(long) == {
        "machine": "Xeon",
        "cores": 4,
        "latency_us": 50_000,
        "threads": 1,
        "measured": {"1": [100, 9_000.0]},
        "untried_load_s": 5.01,
    }
    for found in (two, long):
        told = FOUR.told(found)
        assert FOUR.known(told) == told
        assert replace(FOUR, cores=2).known(told) == {}
    assert FOUR.told(MEASURED) == FOUR.told(replace(MEASURED, by_threads={})) == {}


def test_what_was_measured_of_the_version_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def calibrated(*_: object, **__: Any) -> Calibration:
        measured.append(1)
        return Calibration(8, 1, True, 1e6, 1e6, 0.0, 1e6)  # far slower than it is

    monkeypatch.setattr(module, "calibrate", calibrated)
    monkeypatch.setattr(module, "limit_memory", lambda size: None)
    monkeypatch.setattr(Runner, "expected_us", lambda self, rows: 100.0)
    tried: list[int] = []
    monkeypatch.setattr(Runner, "_rows_are_independent", lambda self: tried.append(1) or False)
    settings = ReplicaSettings("m", 1, max_batch=8)
    _, first = module.load(RELU, settings, {})
    curve = {**first.measured_for, "batching": True, **MEASURED.to_json(), "max_batch": 4}
    assert (len(measured), len(tried)) == (1, 1)
    runner, found = module.load(RELU, settings, {"curve": curve})
    assert (len(measured), len(tried), runner.batching) == (1, 1, True)
    assert found.calibration == replace(MEASURED, max_batch=4, by_threads={})
    assert found.measured_for == first.measured_for
    others = ({"machine": "another"}, {"runtime": "1.0"}, {"threads": 2}, {"most": 9}, {"device": "cuda"})
    for number, other in enumerate((*others, {"row_us": "9"}, {"row_us": 201.0}), 2):  # the last: at a busy moment
        module.load(RELU, settings, {"curve": {**curve, **other}})
        assert len(measured) == number
    assert len(tried) == 7  # that rows may share a run is so at any moment
    module.load(RELU, settings, {"curve": curve, "cores": 2})  # how many threads are best is to be found first
    assert len(measured) == 9


@pytest.mark.parametrize(("row_us", "measures"), [(100.0, False), (300_000.0, True)])
def test_that_rows_may_not_share_a_run_may_have_been_a_busy_moment(
    monkeypatch: pytest.MonkeyPatch, row_us: float, measures: bool
) -> None:
    monkeypatch.setattr(module, "limit_memory", lambda size: None)
    monkeypatch.setattr(Runner, "expected_us", lambda self, rows: 100.0)
    monkeypatch.setattr(runner_module, "LONG_ROW_S", 60.0)  # this machine may be busy indeed
    settings = ReplicaSettings("m", 1, max_batch=8)
    with monkeypatch.context() as busy:
        busy.setattr(runner_module, "LONG_ROW_S", 0.0)
        busy_runner, first = module.load(RELU, settings, {})
    curve = {**first.measured_for, "batching": busy_runner.batching, **MEASURED.to_json(), "row_us": row_us}
    assert curve["batching"] is False
    runner, found = module.load(RELU, settings, {"curve": curve})
    assert runner.batching
    assert (found.calibration.row_us != row_us) == measures


def test_a_row_that_takes_too_long_to_be_tried_is_not_tried_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(module, "limit_memory", lambda size: None)
    monkeypatch.setattr(Runner, "expected_us", lambda self, rows: 300_000.0)
    settings = ReplicaSettings("m", 1, max_batch=8)
    _, first = module.load(RELU, settings, {})
    monkeypatch.setattr(Runner, "try_batching", lambda self: tried.append(1))
    curve = {**first.measured_for, "batching": False, **MEASURED.to_json(), "row_us": 300_000.0}
    runner, _ = module.load(RELU, settings, {"curve": curve})
    assert (runner.batching, tried) == (False, [])


def test_what_only_some_live_settings_need_is_loaded_beside_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any] | None] = [{"latency_us": 5}, {"log": {"profile": "a"}}, None, {"latency_us": 6}]
    may_end = threading.Event()

    def load(live: object) -> None:
        may_end.wait(30)
        monkeypatch.setitem(sys.modules, "a_module", sys)

    monkeypatch.setattr(module, "_NEEDED_FOR", {"log": ("a_module",)})
    monkeypatch.setattr(module, "load_for", load)
    live = module.Prepared(lambda: told.pop(0) if told else None)
    assert live() == {"latency_us": 5}
    assert (live(), live()) == (None, None)
    may_end.set()
    for thread in threading.enumerate():
        if thread.name == "loading":
            thread.join(30)
    assert (live(), live()) == ({"latency_us": 6}, None)  # what was told last


def test_a_replica_of_a_model_without_fields_loads_no_specifications() -> None:
    code = """
import sys
import skyriver.wiring.replica
print([name for name in ("pydantic", "skyriver.core.resources", "polars", "onnx", "lightgbm") if name in sys.modules])
skyriver.wiring.replica.load_for({"log": {"profile": "a"}, "from_stream": {"stream": "s"}})
print([name for name in ("skyriver.core.spec", "skyriver.core.spec_streams") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", ""]


def test_how_long_a_model_loads_is_measured_by_the_first_load(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def measured(*_: object, load_s: float, **__: Any) -> Calibration:
        asked.append(load_s)
        return replace(MEASURED, untried_load_s=load_s)

    monkeypatch.setattr(module, "calibrate", measured)
    monkeypatch.setattr(module, "limit_memory", lambda size: None)
    settings = ReplicaSettings(model="m", version=1, fields=None, max_batch=8, queue=8, grace_s=1.0)
    _, found = module.load(RELU, settings, {"cores": 2})
    assert asked[0] > 0
    assert found.told["parallel"]["cores"] == 2
    module.load(RELU, settings, {"cores": 2, "parallel": {"threads": 9}})
    assert len(asked) == 2
