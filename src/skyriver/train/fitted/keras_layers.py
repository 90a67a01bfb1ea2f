"""Keras models of the layers that nets on tables are made of, as ONNX, whatever backend Keras runs on.

Keras itself exports by its backend: on torch by tracing, on TensorFlow by tf2onnx, one more package in the user's
environment, and on each another graph. What Dense and its like compute is a few operators, so they are written down
here; a layer that is not is left to Keras. Parity on real rows judges both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 21

_ACTIVATIONS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "exponential": ("Exp", {}),
    "gelu": ("Gelu", {}),
    "mish": ("Mish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}
_NOTHING: Final = frozenset(
    {
        "Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization", "Identity", "Flatten",
        "InputLayer",
    }
)  # fmt: skip
"""When it infers, and of rows that are flat."""
_MERGES: Final = {"Add": "Add", "Multiply": "Mul", "Subtract": "Sub", "Maximum": "Max", "Minimum": "Min"}


class UnknownLayer(Exception):
    """A layer, or a setting of it, that is not written down here."""


def export_layers(model: Any, features: int) -> onnx.ModelProto:
    """A Sequential or functional model that takes rows of `features` and gives `score`. Raises UnknownLayer."""
    graph = _Graph()
    output = graph.model(model, ["features"])
    graph.nodes.append(helper.make_node("Identity", [output], ["score"]))
    source = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", None])
    made = helper.make_graph(graph.nodes, "keras", [source], [score], graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self, model: Any, inputs: list[str]) -> str:
        kinds = {kind.__name__ for kind in type(model).__mro__}
        own = type(model).call.__module__.startswith("keras.")
        if not own or not kinds & {"Sequential", "Functional"}:
            raise UnknownLayer(f"{type(model).__name__}, a model with a call of its own")
        if "Sequential" in kinds:
            place = inputs[0]
            for layer in model.layers:
                place = self.layer(layer, [place])
            return place
        known = {id(tensor): name for tensor, name in zip(model.inputs, inputs, strict=True)}
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):  # as Keras itself runs through it
            for node in nodes:
                if node.operation is not None and not node.is_input:
                    _check_call(node)
                    given = [known[id(tensor)] for tensor in node.arguments.keras_tensors]
                    known[id(node.outputs[0])] = self.layer(node.operation, given)
        if len(model.outputs) != 1:
            raise UnknownLayer("several outputs")
        return known[id(model.outputs[0])]

    def layer(self, layer: Any, inputs: list[str]) -> str:
        kind = type(layer).__name__
        if getattr(getattr(layer, "dtype_policy", None), "compute_dtype", "float32") != "float32":
            raise UnknownLayer(f"{kind} in {layer.dtype_policy.name}")
        if hasattr(layer, "layers"):
            return self.model(layer, inputs)
        if not type(layer).__module__.startswith("keras."):
            raise UnknownLayer(f"{kind}, of the application itself")
        if kind in _NOTHING:
            return inputs[0]
        if kind in _MERGES:
            return self._merged(kind, inputs)
        if kind == "Concatenate" and layer.axis in (-1, 1):
            return self.add("Concat", inputs, axis=1)
        write = _LAYERS.get(kind)
        if write is None or len(inputs) != 1:
            raise UnknownLayer(kind)
        place = inputs[0]
        for operator, constants, attributes in write(layer):
            place = self.add(operator, [place, *map(self.constant, constants)], **attributes)
        return place

    def _merged(self, kind: str, inputs: list[str]) -> str:
        place = inputs[0]
        for other in inputs[1:]:
            place = self.add(_MERGES[kind], [place, other])
        return place

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        if operator == "Silu":
            inputs, operator = [*inputs, self.add("Sigmoid", inputs)], "Mul"
        name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name


def _check_call(node: Any) -> None:
    """An operation of keras.ops may have the name of a layer (Minimum), and constants among its arguments; a layer may
    be told to compute as it does when it trains. Raises UnknownLayer."""
    import keras

    kind = type(node.operation).__name__
    if not isinstance(node.operation, keras.layers.Layer):
        raise UnknownLayer(f"the operation {kind}, which is no layer")
    given = list(node.arguments.args)
    for name, value in node.arguments.kwargs.items():
        if not (value is None or (name == "training" and value is False)):
            given.append(value)
    flat = [part for value in given for part in (value if isinstance(value, list | tuple) else [value])]
    if not all(isinstance(part, keras.KerasTensor) for part in flat):
        raise UnknownLayer(f"{kind}, called with more than what it computes on")


Step = tuple[str, list[Any], dict[str, Any]]


def _numbers(variable: Any) -> Any:
    """In float64: what is folded into fewer numbers is rounded once."""
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable, np.float64)


def _activation(function: Any) -> Iterator[Step]:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "linear":
        return
    if name in ("silu", "swish"):
        yield "Silu", [], {}
        return
    if name not in _ACTIVATIONS or not getattr(function, "__module__", "").startswith("keras."):
        raise UnknownLayer(f"the activation {name}")
    operator, attributes = _ACTIVATIONS[name]
    yield operator, [], attributes


def _dense(layer: Any) -> Iterator[Step]:
    yield "MatMul", [_numbers(layer.kernel)], {}
    if layer.use_bias:
        yield "Add", [_numbers(layer.bias)], {}
    yield from _activation(layer.activation)


def _relu(layer: Any) -> Iterator[Step]:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise UnknownLayer("ReLU with settings of its own")
    yield "Relu", [], {}


def _batch_normalization(layer: Any) -> Iterator[Step]:
    if layer.axis not in (-1, 1, [1], [-1]):
        raise UnknownLayer("BatchNormalization along another axis")
    scale = 1.0 / np.sqrt(_numbers(layer.moving_variance) + layer.epsilon)
    scale = scale * _numbers(layer.gamma) if layer.scale else scale
    yield "Mul", [scale], {}
    yield "Add", [(_numbers(layer.beta) if layer.center else 0.0) - _numbers(layer.moving_mean) * scale], {}


def _layer_normalization(layer: Any) -> Iterator[Step]:
    if layer.axis not in (-1, 1, [1], [-1]) or not layer.scale or getattr(layer, "rms_scaling", False):
        raise UnknownLayer("LayerNormalization with settings of its own")
    bias = [_numbers(layer.beta)] if layer.center else []
    yield "LayerNormalization", [_numbers(layer.gamma), *bias], {"axis": -1, "epsilon": float(layer.epsilon)}


def _normalization(layer: Any) -> Iterator[Step]:
    if layer.invert:
        raise UnknownLayer("Normalization that inverts")
    deviation = np.maximum(np.sqrt(_numbers(layer.variance)), 1e-7)
    yield "Sub", [np.ravel(_numbers(layer.mean))], {}
    yield "Div", [np.ravel(deviation)], {}


def _rescaling(layer: Any) -> Iterator[Step]:
    yield "Mul", [layer.scale], {}
    yield "Add", [layer.offset], {}


_LAYERS: Final[Mapping[str, Callable[[Any], Iterator[Step]]]] = {
    "Dense": _dense,
    "Activation": lambda layer: _activation(layer.activation),
    "ReLU": _relu,
    "LeakyReLU": lambda layer: iter([("LeakyRelu", [], {"alpha": float(layer.negative_slope)})]),
    "ELU": lambda layer: iter([("Elu", [], {"alpha": float(layer.alpha)})]),
    "Softmax": lambda layer: iter([("Softmax", [], {"axis": -1})]),
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
}
LAYERS: Final = ", ".join(("Dense", "Dropout", *sorted(set(_LAYERS) - {"Dense"}), "Concatenate", *_MERGES))
