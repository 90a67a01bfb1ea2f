"""An ONNX graph that a framework exported, in the form in which all models are served.

`features` float32 [n, F] -> `score` float32 [n]. All names of its own get a prefix, so that none meets those of what
comes before it (`skyriver.train.cleaning`), and what exporters note about the code they read is left out: paths and
lines of the user's program are nobody else's, and the same model gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from skyriver.train.fitted.fitted import refuse_model

FEATURES, SCORE, PREFIX = "features", "score", "model/"
_IR_VERSION: Final = 10
_SHAPES: Final = frozenset({"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Cast", "Gather", "Slice"})
_PROBABILITIES: Final = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})


def ends_in(model: onnx.ModelProto, output: str) -> str:
    """The operator that gives the numbers of `output`, whatever shape they are put into."""
    producers = {name: node for node in model.graph.node for name in node.output}
    while (node := producers.get(output)) is not None and node.op_type in _SHAPES:
        output = node.input[0]
    return "" if node is None else str(node.op_type)


def is_probability(model: onnx.ModelProto, output: str) -> bool:
    return ends_in(model, output) in _PROBABILITIES


def scoring_graph(
    model: onnx.ModelProto, features: int, output: str, *, column: int | None = None, softmax: bool = False
) -> bytes:
    """The score is the `output` of shape (n,) or (n, 1), or its `column` where it is (n, k); `softmax` first."""
    graph = onnx.compose.add_prefix(_needed(model, output), PREFIX).graph
    if len(graph.input) != 1:
        refuse_model(f"its graph takes {len(graph.input)} inputs", "Let it take one, the rows of all features.")
    nodes = [helper.make_node("Identity", [FEATURES], [graph.input[0].name]), *graph.node]
    place = PREFIX + output
    constants = [*graph.initializer, numpy_helper.from_array(np.array([-1], np.int64), "flat")]
    for kind, wanted in (("Softmax", softmax), ("Gather", column is not None)):
        if wanted:
            given = [place, "column"] if kind == "Gather" else [place]
            nodes.append(helper.make_node(kind, given, [f"after_{kind}"], axis=1))
            place = f"after_{kind}"
    if column is not None:
        constants.append(numpy_helper.from_array(np.array(column, np.int64), "column"))
    if graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [place], ["as_float"], to=TensorProto.FLOAT))
        place = "as_float"
    nodes.append(helper.make_node("Reshape", [place, "flat"], [SCORE]))
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "fitted",
            [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", features])],
            [helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["n"])],
            constants,
        ),
        opset_imports=list(model.opset_import),
        ir_version=min(model.ir_version, _IR_VERSION),
        producer_name="skyriver",
        functions=list(model.functions),
    )
    _forget(made.graph.node)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _needed(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The part of the model that `output` is computed by."""
    wanted, nodes = {output}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input) | set(_outer(node))
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    kept = [initializer for initializer in model.graph.initializer if initializer.name in wanted]
    known = {initializer.name for initializer in kept}
    inputs = [value for value in model.graph.input if value.name not in known]
    outputs = [value for value in model.graph.output if value.name == output]
    for field in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
        del field[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    return cut


def _outer(node: Any) -> Iterable[str]:
    """What the graphs in a node read."""
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.type else []:
            for inner in graph.node:
                yield from inner.input
                yield from _outer(inner)


def _forget(nodes: Iterable[Any]) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                _forget(graph.node)
