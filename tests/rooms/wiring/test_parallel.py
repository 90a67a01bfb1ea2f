"""What a replica keeps of the threads that it measured, for those that come after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from onnx import TensorProto, helper

from skyriver.serve.calibration import Calibration
from skyriver.serve.replica import ReplicaSettings
from skyriver.wiring import replica as module
from skyriver.wiring.replica import Parallel

FOUR = Parallel("Xeon", 4, 50_000)
MEASURED = Calibration(256, 1, True, 100.0, 900.0, 90.0, 10.0, {1: (100.0, 9_000.0)})


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


def test_how_long_a_model_loads_is_measured_by_the_first_load(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def measured(*_: object, load_s: float, **__: Any) -> Calibration:
        asked.append(load_s)
        return replace(MEASURED, untried_load_s=load_s)

    monkeypatch.setattr(module, "calibrate", measured)
    monkeypatch.setattr(module, "limit_memory", lambda size: None)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = ReplicaSettings(model="m", version=1, fields=None, max_batch=8, queue=8, grace_s=1.0)
    _, found = module.load(model.SerializeToString(), settings, {"cores": 2})
    assert asked[0] > 0
    assert found.told["parallel"]["cores"] == 2
    module.load(model.SerializeToString(), settings, {"cores": 2, "parallel": {"threads": 9}})
    assert len(asked) == 2
