"""The models that are served, what is sent to them, and what the answer must be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skyriver.train.trees_onnx import read_lightgbm, to_onnx

FEATURES = 30
TREES = 100
WIDTHS = (FEATURES, 64, 32, 1)
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Case:
    """`rows` of `model` in one request."""

    model: str
    rows: int

    def __str__(self) -> str:
        return f"{self.model}, {self.rows} row{'s' if self.rows > 1 else ''} a request"


TREES_1 = Case("trees", 1)
CASES = (TREES_1, Case("mlp", 1), Case("trees", 64))


@dataclass(frozen=True)
class Models:
    """`folder`/NAME.onnx, each `features` [n, 30] -> `score` [n]."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Models:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trees.onnx").write_bytes(_trees())
        (folder / "mlp.onnx").write_bytes(_mlp())
        return cls(folder)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """64 rows; a request has the first ones."""
        return np.random.default_rng(7).normal(size=(64, FEATURES)).round(3).astype(np.float32)

    def features(self, case: Case) -> list[list[float]]:
        return [[round(float(value), 3) for value in row] for row in self.rows[: case.rows]]

    def body(self, case: Case) -> bytes:
        """The request in the JSON of the Open Inference Protocol."""
        flat = [value for row in self.features(case) for value in row]
        tensor = {"name": "features", "shape": [case.rows, FEATURES], "datatype": "FP32", "data": flat}
        return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()

    def scores(self, case: Case) -> list[float]:
        session = ort.InferenceSession(self.path(case.model), providers=["CPUExecutionProvider"])
        found: list[float] = session.run(["score"], {"features": self.rows[: case.rows]})[0].tolist()
        return found


def _trees() -> bytes:
    luck = np.random.default_rng(0)
    x = luck.normal(size=(20_000, FEATURES)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + x[:, 2] + luck.normal(size=len(x)) > 0.5).astype(int)
    settings = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbose": -1, "seed": 0}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), TREES)
    return to_onnx(read_lightgbm(booster.model_to_string()))


def _mlp() -> bytes:
    luck = np.random.default_rng(0)
    nodes, constants, last = [], [], "features"
    for number, (wide, narrow) in enumerate(pairwise(WIDTHS)):
        weights = luck.normal(size=(wide, narrow)).astype(np.float32) / np.float32(np.sqrt(wide))
        bias = luck.normal(size=narrow).astype(np.float32)
        constants += [numpy_helper.from_array(weights, f"w{number}"), numpy_helper.from_array(bias, f"b{number}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [f"h{number}"]))
        last = f"h{number}"
        if narrow > 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{number}"]))
            last = f"r{number}"
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes += [helper.make_node("Sigmoid", [last], ["p"]), helper.make_node("Squeeze", ["p", "axis"], ["score"])]
    return _model(nodes, ["n", FEATURES], ["n"], constants)


def slow_model(turns: int) -> bytes:
    """Takes one row a run (its first axis is fixed) and `turns` turns of a loop for it."""
    into = helper.make_node("Mul", ["before", "shrink"], ["smaller"])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["go"]),
            into,
            helper.make_node("Tanh", ["smaller"], ["bent"]),
            helper.make_node("Add", ["bent", "features"], ["after"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1, FEATURES]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1, FEATURES]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(turns, np.int64), "turns"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(0.9, np.float32), "shrink"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    nodes = [
        helper.make_node("Loop", ["turns", "yes", "features"], ["bent_often"], body=body),
        helper.make_node("ReduceMean", ["bent_often"], ["score"], axes=[1], keepdims=0),
    ]
    return _model(nodes, [1, FEATURES], [1], constants[:3])


def _model(
    nodes: list[onnx.NodeProto], taken: list[str | int], given: list[str | int], constants: list[onnx.TensorProto]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, given)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
