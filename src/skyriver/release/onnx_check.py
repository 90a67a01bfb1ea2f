"""A model file from outside is walked before anything may load it (DESIGN section 9).

Refused: data outside of the file, wherever a tensor can stand; operators other than ONNX's own and a list of
onnxruntime's that only compute (by name, so that one which reads files, as EPContext does, is not among them); more
bytes, nodes, elements or depth than the limits, all found without allocating what a number promises; functions that
call themselves or that unfold into too much; fields that this release of `onnx` does not know, for onnxruntime might;
types that are not served. The walk goes over every message there is, not over a list of places, so a place that
nobody thought of is walked too. Then `onnx.checker` has its say.

What cannot be found by looking: how long a loop runs, how much memory a run takes. For this the processes that
load models have limits of their own.

This module loads `onnx`, so only jobs import it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # its stubs are a package
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from skyriver.core.errors import InvalidInput
from skyriver.release.formats import foreign_format
from skyriver.release.signature import ANY, Signature, TensorSpec, cast_instead

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MICROSOFT_OPERATORS = frozenset(
    """
    Attention BiasGelu DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization FastGelu
    FusedConv FusedGemm FusedMatMul Gelu GroupQueryAttention MatMulInteger16 MatMulIntegerToFloat MatMulNBits
    MultiHeadAttention QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool
    QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu
    RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization Tokenizer
    Trilu
    """.split()  # noqa: SIM905  # forty words a line each
)
"""Of `com.microsoft`: what quantisers and transformer exporters write, and what cuts strings into characters, for which
ONNX has no operator. They compute, they touch nothing else."""

_DATATYPES: Mapping[int, str] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.STRING: "BYTES",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    **{getattr(TensorProto, f"{kind}{bits}"): f"{kind}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}
_GROWS: Mapping[str, int] = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Range": 1}
"""Operators that make a tensor as large as the values of this input say."""
_SMALL = 64
"""Constants with more elements are no shapes."""
_TENSOR = "Make it with `onnx.numpy_helper.from_array`, and export the model again."


@dataclass(frozen=True, slots=True)
class Limits:
    bytes: int = 512 * 1024 * 1024
    nodes: int = 200_000
    """With all functions unfolded."""
    elements: int = 256 * 1024 * 1024
    """Of all tensors of the file together, and of each tensor whose size it tells."""
    depth: int = 60
    """Of messages in messages; a graph in a graph is three. (protobuf itself stops at 100.)"""


@dataclass(frozen=True, slots=True)
class OnnxSummary:
    """What was found in a file that may be loaded."""

    signature: Signature
    bytes: int
    nodes: int
    """With all functions unfolded."""
    parameters: int
    """Elements of all its tensors."""
    ir_version: int
    opsets: Mapping[str, int]
    producer: str


def check_onnx(data: bytes, *, limits: Limits | None = None) -> OnnxSummary:
    """The summary of a model file that may be loaded.

    Raises InvalidInput, naming what is wrong and where: ONNX_FOREIGN_FORMAT, ONNX_UNREADABLE, ONNX_UNKNOWN_FIELDS,
    ONNX_TOO_LARGE, ONNX_EXTERNAL_DATA, ONNX_DOMAIN, ONNX_BAD_TENSOR, ONNX_UNSUPPORTED_TYPE, ONNX_NO_SIGNATURE,
    ONNX_INVALID.
    """
    limits = limits or Limits()
    if len(data) > limits.bytes:
        _too_large(f"The file has {len(data)} bytes", limits.bytes)
    model = _parse(data)
    walk = _Walk(limits)
    walk.message(model)
    nodes = _unfolded(model, limits)
    _check_operators(walk.nodes, model)
    _check_growth(walk, limits)
    signature = Signature(tuple(_inputs(model.graph)), tuple(_spec(v, "output") for v in model.graph.output))
    if not signature.inputs or not signature.outputs:
        _refuse(
            "The model has no input or no output: there is nothing to ask it.",
            "ONNX_NO_SIGNATURE",
            next_action="Declare the graph's inputs and outputs in the export.",
        )
    _check_by_onnx(model)
    return OnnxSummary(
        signature=signature,
        bytes=len(data),
        nodes=nodes,
        parameters=walk.elements,
        ir_version=model.ir_version,
        opsets={o.domain: o.version for o in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip()[:200],
    )


def _refuse(message: str, code: str, *, where: str = "", next_action: str = "") -> NoReturn:
    raise InvalidInput(message, code=code, where=where, next_action=next_action)


def _too_large(what: str, limit: int, where: str = "") -> NoReturn:
    _refuse(
        f"{what}; at most {limit} are allowed.",
        "ONNX_TOO_LARGE",
        where=where,
        next_action="Train a smaller model, or export it with less in it.",
    )


def _parse(data: bytes) -> ModelProto:
    foreign = foreign_format(data)
    if foreign is not None:
        _refuse(
            f"This is {foreign.told}; only ONNX crosses this border.",
            "ONNX_FOREIGN_FORMAT",
            next_action=foreign.conversion,
        )
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidInput(
            "The file cannot be read as ONNX: it is damaged or something else.",
            code="ONNX_UNREADABLE",
            next_action="Export the model once more: `onnx.load(FILE)` must read it.",
        ) from error
    if not model.HasField("graph") or not model.ir_version:
        _refuse(
            "The file holds no ONNX model.",
            "ONNX_UNREADABLE",
            next_action="Export the model once more: `onnx.load(FILE)` must read it.",
        )
    known = ModelProto()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.ByteSize() != model.ByteSize():
        _refuse(
            f"The file has fields that onnx {onnx.__version__} does not know.",
            "ONNX_UNKNOWN_FIELDS",
            next_action="Upgrade `onnx` here, or export the model for an older release.",
        )
    return model


class _Walk:
    """Every message of a file, once; what is checked on the way is checked where it stands."""

    def __init__(self, limits: Limits) -> None:
        self.nodes: list[NodeProto] = []
        self.elements = 0
        self.constants: dict[str, list[int]] = {}
        """Name of a small whole-number constant to the products of its values, of all that have the name."""
        self.sparse: list[str] = []
        self._limits = limits

    def message(self, root: Message) -> None:
        pending: list[tuple[Message, int]] = [(root, 0)]
        while pending:
            message, depth = pending.pop()
            if depth > self._limits.depth:
                _too_large("Graphs in graphs in the file are nested too deeply", self._limits.depth)
            self._visit(message)
            for descriptor, value in message.ListFields():
                if descriptor.message_type is not None:
                    repeated = not isinstance(value, Message)
                    pending.extend((part, depth + 1) for part in (value if repeated else (value,)))

    def _visit(self, message: Message) -> None:
        match message:
            case TensorProto():
                self._tensor(message)
            case SparseTensorProto():
                self._count(message.dims, f"the sparse tensor {message.values.name!r}")
            case NodeProto():
                self.nodes.append(message)
                if len(self.nodes) > self._limits.nodes:
                    _too_large("The file has too many nodes", self._limits.nodes)
                self._constant(message)
            case onnx.TypeProto.Tensor():
                self._declared(message)
            case _:
                pass

    def _tensor(self, tensor: TensorProto) -> None:
        where = f"the tensor {tensor.name!r}"
        if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            _refuse(
                f"Its data is outside of the file ({location[:200]!r}).",
                "ONNX_EXTERNAL_DATA",
                where=where,
                next_action="Save it in one file: `onnx.save_model(onnx.load(FILE), 'whole.onnx')`.",
            )
        if tensor.HasField("segment"):
            _refuse("It is given in segments.", "ONNX_BAD_TENSOR", where=where, next_action=_TENSOR)
        elements = self._count(tensor.dims, where)
        _check_content(tensor, elements, where)
        if tensor.name:
            self._remember(tensor.name, tensor)

    def _count(self, dims: Iterable[int], where: str) -> int:
        shape = list(dims)
        if any(axis < 0 for axis in shape):
            _refuse(f"It has the shape {shape}.", "ONNX_BAD_TENSOR", where=where, next_action=_TENSOR)
        elements = math.prod(shape)
        self.elements += elements
        if self.elements > self._limits.elements:
            _too_large("The tensors of the file have too many elements together", self._limits.elements, where)
        return elements

    def _declared(self, tensor: onnx.TypeProto.Tensor) -> None:
        """A shape that the file declares of a value: what is fixed in it must be possible."""
        fixed = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
        if math.prod(max(axis, 1) for axis in fixed) > self._limits.elements:
            _too_large(f"A tensor of shape {fixed} is declared", self._limits.elements)

    def _constant(self, node: NodeProto) -> None:
        if node.op_type != "Constant" or not node.output:
            return
        for attribute in node.attribute:
            if attribute.name == "value":
                self._remember(node.output[0], attribute.t)
            elif attribute.name in ("value_ints", "value_int"):
                values = list(attribute.ints) if attribute.name == "value_ints" else [attribute.i]
                if len(values) <= _SMALL:
                    self.constants.setdefault(node.output[0], []).append(math.prod(values))

    def _remember(self, name: str, tensor: TensorProto) -> None:
        if tensor.data_type in (TensorProto.INT64, TensorProto.INT32) and math.prod(tensor.dims) <= _SMALL:
            self.constants.setdefault(name, []).append(math.prod(_whole_numbers(tensor)))


_RAW_BITS: Mapping[int, int] = {
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 8),
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), 4),
    TensorProto.COMPLEX128: 128,
}
"""Bits of an element in `raw_data`; of the rest (8-bit and narrower floats) only that there is not more than a byte."""
_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _check_content(tensor: TensorProto, elements: int, where: str) -> None:
    """As many values as the shape says, neither more nor fewer."""
    typed = sum(len(getattr(tensor, name)) for name in _TYPED_FIELDS)
    if tensor.raw_data and typed:
        _refuse("It has its values twice.", "ONNX_BAD_TENSOR", where=where, next_action=_TENSOR)
    bits = _RAW_BITS.get(tensor.data_type)
    if typed:
        complex_ones = tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
        least = elements if bits is not None and bits >= 8 else elements // 8  # narrow ones are packed
        good = typed == elements * 2 if complex_ones else least <= typed <= elements
        given = f"{typed} values"
    else:
        size = len(tensor.raw_data)
        good = size == (elements * bits + 7) // 8 if bits is not None else size <= elements
        given = f"{size} bytes"
    if not good:
        _refuse(
            f"{given} are given for the shape {list(tensor.dims)}.", "ONNX_BAD_TENSOR", where=where, next_action=_TENSOR
        )


def _whole_numbers(tensor: TensorProto) -> list[int]:
    if tensor.raw_data:
        width = 8 if tensor.data_type == TensorProto.INT64 else 4
        raw = tensor.raw_data
        return [int.from_bytes(raw[n : n + width], "little", signed=True) for n in range(0, len(raw), width)]
    return list(tensor.int64_data) or list(tensor.int32_data)


def _check_operators(nodes: Iterable[NodeProto], model: ModelProto) -> None:
    defined = {(f.domain, f.name) for f in model.functions}
    for domain, name in defined:
        if domain in STANDARD_DOMAINS or domain == "com.microsoft":
            _refuse(
                f"The file defines {name} in the domain {domain!r}, which is not its own.",
                "ONNX_DOMAIN",
                next_action="Give the function a domain of its own, or export the model without it.",
            )
    for node in nodes:
        standard = node.domain in STANDARD_DOMAINS
        known = node.domain == "com.microsoft" and node.op_type in MICROSOFT_OPERATORS
        if not standard and not known and (node.domain, node.op_type) not in defined:
            _refuse(
                f"The operator {node.op_type[:100]!r} of the domain {node.domain[:100]!r} is not allowed.",
                "ONNX_DOMAIN",
                where=f"the node {node.name!r}",
                next_action="Export the model with the operators of ONNX itself.",
            )


def _unfolded(model: ModelProto, limits: Limits) -> int:
    """Nodes when every call of a function is replaced by its body. Raises when that has no end or is too much."""
    bodies: dict[tuple[str, str], list[FunctionProto]] = {}
    for function in model.functions:
        bodies.setdefault((function.domain, function.name), []).append(function)  # it may have overloads
    sizes: dict[tuple[str, str], int] = {}
    under_way: set[tuple[str, str]] = set()

    def size_of(called: tuple[str, str]) -> int:
        if called in sizes:
            return sizes[called]
        if called in under_way:
            _refuse(
                f"The function {called[1]!r} calls itself.",
                "ONNX_INVALID",
                next_action="Export the model with `Loop` or `Scan` in the function's place.",
            )
        if len(under_way) > limits.depth:
            _too_large("Functions call functions too deeply", limits.depth)
        under_way.add(called)
        sizes[called] = max(total(body) for body in bodies[called])
        under_way.discard(called)
        return sizes[called]

    def total(part: GraphProto | FunctionProto) -> int:
        calls = Counter((node.domain, node.op_type) for node in _nodes_of(part))
        unfolded = sum(count * (size_of(called) if called in bodies else 1) for called, count in calls.items())
        if unfolded > limits.nodes:
            _too_large("The model, with its functions unfolded, has too many nodes", limits.nodes)
        return unfolded

    for called in bodies:
        size_of(called)
    return total(model.graph)


def _nodes_of(part: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Its nodes and those of the graphs in their attributes."""
    pending: list[NodeProto] = list(part.node)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in _graphs_of(attribute):
                pending.extend(graph.node)


def _graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _check_growth(walk: _Walk, limits: Limits) -> None:
    """Tensors that a node would make, as large as a constant of the file says: a few bytes must not be terabytes."""
    for node in walk.nodes:
        sizes: list[int] = []
        place = _GROWS.get(node.op_type)
        if place is not None and len(node.input) > place:
            sizes = walk.constants.get(node.input[place], [])
        elif node.op_type in ("RandomNormal", "RandomUniform"):
            sizes = [math.prod(a.ints) for a in node.attribute if a.name == "shape"]
        if any(abs(size) > limits.elements for size in sizes):
            _too_large(
                f"A {node.op_type} makes a tensor of {max(map(abs, sizes))} elements",
                limits.elements,
                f"the node {node.name!r}",
            )


def _inputs(graph: GraphProto) -> Iterator[TensorSpec]:
    """What has to be given: older files list their constants among the inputs."""
    constants = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    for value in graph.input:
        if value.name not in constants:
            yield _spec(value, "input")


def _spec(value: Any, side: str) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    element = value.type.tensor_type.elem_type
    if kind != "tensor_type" or element not in _DATATYPES:
        names = {number: name for name, number in TensorProto.DataType.items()}
        told = names.get(element, str(element)) if kind == "tensor_type" else str(kind).removesuffix("_type")
        _refuse(
            f"The {side} {value.name!r} is of the type {told}, which is not served.",
            "ONNX_UNSUPPORTED_TYPE",
            next_action="A scikit-learn classifier is converted with options={'zipmap': False}."
            if kind == "sequence_type"
            else cast_instead(side, told),
        )
    shape = value.type.tensor_type.shape
    if not value.type.tensor_type.HasField("shape"):
        _refuse(
            f"The {side} {value.name!r} has no declared shape.",
            "ONNX_NO_SIGNATURE",
            next_action="Declare it in the export; `onnx.shape_inference.infer_shapes` finds most.",
        )
    axes = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else ANY for d in shape.dim)
    return TensorSpec(value.name, _DATATYPES[element], axes)


def _check_by_onnx(model: ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise InvalidInput(
            f"onnx finds the model invalid: {first}",
            code="ONNX_INVALID",
            next_action="Correct its export until `onnx.checker.check_model` takes it.",
        ) from error
