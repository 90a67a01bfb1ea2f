"""Tiny ONNX models, made on the spot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import model_of

Build = Callable[..., bytes]


@pytest.fixture(scope="session")
def make_model() -> Build:
    return model_of


@pytest.fixture(scope="session")
def sums() -> bytes:
    """score[n] = the sum of features[n, 3]: each row has its own answer."""
    nodes = [helper.make_node("ReduceSum", ["features", "axes"], ["score"], keepdims=0)]
    return model_of(
        nodes,
        [("features", TensorProto.FLOAT, ["n", 3])],
        [("score", TensorProto.FLOAT, ["n"])],
        {"axes": np.array([1], np.int64)},
    )


@pytest.fixture(scope="session")
def across_rows() -> bytes:
    """A first axis of any length, but an answer that depends on the other rows."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return model_of(nodes, [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])])


@pytest.fixture(scope="session")
def lookup() -> bytes:
    """value[n] = table[index[n]] of four entries: an index beyond it makes the model fail."""
    nodes = [helper.make_node("Gather", ["table", "index"], ["value"])]
    return model_of(
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
    return model_of(
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
    return model_of(nodes, [("x", TensorProto.FLOAT, [1, 2])], [("y", TensorProto.FLOAT, [1, 2])])
