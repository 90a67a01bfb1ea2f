"""Small ONNX models, written node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[str | int | None]
Values = Sequence[tuple[str, int, Shape]]


def model_of(
    nodes: Sequence[NodeProto], inputs: Values, outputs: Values, constants: Mapping[str, Any] | None = None
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


def counts(most: str, going: str, constants: Mapping[str, Any]) -> tuple[list[NodeProto], dict[str, Any]]:
    """Nodes that give `count`, how often a loop turned, with their constants: `most` times, or not at all without
    `going`."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["go"]), helper.make_node("Add", ["before", "one"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.INT64, [1]),
        ],
    )
    loop = helper.make_node("Loop", [most, going, "zero"], ["count"], body=body)
    return [loop], {"zero": np.array([0], np.int64), "one": np.array([1], np.int64), **constants}
