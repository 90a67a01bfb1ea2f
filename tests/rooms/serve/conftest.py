"""Tiny ONNX models, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]
Values = Sequence[tuple[str, int, Shape]]
Build = Callable[..., bytes]


def build(
    nodes: Sequence[onnx.NodeProto], inputs: Values, outputs: Values, constants: dict[str, Any] | None = None
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def make_model() -> Build:
    return build


@pytest.fixture(scope="session")
def sums() -> bytes:
    """score[n] = the sum of features[n, 3]: each row has its own answer."""
    nodes = [helper.make_node("ReduceSum", ["features", "axes"], ["score"], keepdims=0)]
    return build(
        nodes,
        [("features", TensorProto.FLOAT, ["n", 3])],
        [("score", TensorProto.FLOAT, ["n"])],
        {"axes": np.array([1], np.int64)},
    )


@pytest.fixture(scope="session")
def across_rows() -> bytes:
    """A first axis of any length, but an answer that depends on the other rows."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return build(nodes, [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])])


@pytest.fixture(scope="session")
def lookup() -> bytes:
    """value[n] = table[index[n]] of four entries: an index beyond it makes the model fail."""
    nodes = [helper.make_node("Gather", ["table", "index"], ["value"])]
    return build(
        nodes,
        [("index", TensorProto.INT64, ["n"])],
        [("value", TensorProto.FLOAT, ["n"])],
        {"table": np.array([0.5, 1.5, 2.5, 3.5], np.float32)},
    )


@pytest.fixture(scope="session")
def mixed() -> bytes:
    """Texts and numbers, one input a field: name (text), age (int64), flag (bool); gives them back."""
    nodes = [
        helper.make_node("Identity", ["name"], ["same"]),
        helper.make_node("Add", ["age", "one"], ["older"]),
        helper.make_node("Not", ["flag"], ["model"]),
    ]
    return build(
        nodes,
        [
            ("name", TensorProto.STRING, ["n", 1]),
            ("age", TensorProto.INT64, ["n", 1]),
            ("flag", TensorProto.BOOL, ["n"]),
        ],
        [
            ("same", TensorProto.STRING, ["n", 1]),
            ("older", TensorProto.INT64, ["n", 1]),
            ("model", TensorProto.BOOL, ["n"]),
        ],
        {"one": np.array([[1]], np.int64)},
    )


@pytest.fixture(scope="session")
def fixed() -> bytes:
    """One row at a time by its signature: y = 1 / x, which can be infinite."""
    nodes = [helper.make_node("Reciprocal", ["x"], ["y"])]
    return build(nodes, [("x", TensorProto.FLOAT, [1, 2])], [("y", TensorProto.FLOAT, [1, 2])])
