"""Weights beside a model are put into it, and what it names is never a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from skyriver.core.errors import InvalidInput
from skyriver.release.onnx_check import Limits, check_onnx
from skyriver.release.onnx_weights import whole

WEIGHTS = np.arange(4_096, dtype=np.float32).reshape(64, 64) / 4_096
ROWS = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def saved(folder: Path) -> tuple[bytes, dict[str, Path], bytes]:
    """As MLflow saves one: the model, what is beside it, and the model with its weights in it."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["score"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inside = model.SerializeToString()
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="weights.data")
    return (folder / "model.onnx").read_bytes(), {"weights.data": folder / "weights.data"}, inside


def run(model: bytes) -> bytes:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return bytes(session.run(None, {"x": ROWS})[0].tobytes())


def test_a_model_with_its_weights_in_it_answers_the_same_to_the_bit(tmp_path: Path) -> None:
    data, beside, inside = saved(tmp_path)
    with pytest.raises(InvalidInput, match="outside of the file"):
        check_onnx(data)
    made = whole(data, beside)
    check_onnx(made)
    assert run(made) == run(inside)
    assert whole(inside, beside) is inside, "nothing to do"
    assert whole(b"no model", beside) == b"no model"


def named(data: bytes, **entries: str) -> bytes:
    model = onnx.load_from_string(data)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "/etc/passwd"},
        {"location": "../weights.data"},
        {"location": "./weights.data"},
        {"location": ""},
        {"offset": "-1"},
        {"offset": "1"},
        {"offset": "x"},
        {"length": "-4"},
        {"length": "1000000"},
    ],
    ids=str,
)
def test_what_is_not_among_the_files_is_not_read(tmp_path: Path, entries: dict[str, str]) -> None:
    data, beside, _ = saved(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        whole(named(data, **entries), beside)
    assert caught.value.code == "ONNX_EXTERNAL_DATA"


def test_many_tensors_of_one_file_do_not_become_more_than_a_model_may_have(tmp_path: Path) -> None:
    data, beside, _ = saved(tmp_path)
    model = onnx.load_from_string(data)
    for number in range(20):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"w{number}"
    with pytest.raises(InvalidInput) as caught:
        whole(model.SerializeToString(), beside, Limits(bytes=100_000))
    assert caught.value.code == "ONNX_TOO_LARGE"
