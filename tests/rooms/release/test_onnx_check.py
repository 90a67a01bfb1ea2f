"""What may cross the border as a model, and how everything else is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from skyriver.core.errors import InvalidInput
from skyriver.release.formats import foreign_format
from skyriver.release.onnx_check import Limits, check_onnx
from skyriver.release.signature import TensorSpec

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]


def value(
    name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int | str | None] = ("n", 2)
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(*nodes: NodeProto, tensors: Sequence[TensorProto] = (), **more: Any) -> ModelProto:
    inputs = more.pop("inputs", [value("x")])
    outputs = more.pop("outputs", [value("y")])
    graph = helper.make_graph(list(nodes) or [node("Identity")], "model", inputs, outputs, list(tensors))
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8, **more)


def node(kind: str, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",), **attributes: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def outside(name: str = "w", location: str = "../../etc/passwd") -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def within(*nodes: NodeProto, tensors: Sequence[TensorProto] = ()) -> NodeProto:
    """An If whose first branch has these."""
    last = node("Identity", ("x",), ("z",))
    branch = helper.make_graph([*nodes, last], "branch", [], [value("z", shape=None)], list(tensors))
    other = helper.make_graph([last], "other", [], [value("z", shape=None)])
    return node("If", ("yes",), ("y",), then_branch=branch, else_branch=other)


YES = numpy_helper.from_array(np.array(True), "yes")


def refused(content: ModelProto | bytes, limits: Limits | None = None) -> InvalidInput:
    data = content.SerializeToString() if isinstance(content, ModelProto) else content
    with pytest.raises(InvalidInput) as caught:
        check_onnx(data, limits=limits)
    return caught.value


def test_a_good_model_is_described() -> None:
    weights = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    good = model(
        node("MatMul", ("x", "w")), tensors=[weights], outputs=[value("y", shape=("n", 3))], producer_name="me"
    )
    summary = check_onnx(good.SerializeToString())
    assert summary.signature.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert summary.signature.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    assert (summary.nodes, summary.parameters, summary.ir_version, summary.producer) == (1, 6, 8, "me")
    assert summary.opsets == {"": 17, "ai.onnx.ml": 3}
    assert summary.bytes == len(good.SerializeToString())


def test_constants_among_the_inputs_are_not_asked_for() -> None:
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    old = model(node("MatMul", ("x", "w")), tensors=[weights], inputs=[value("x"), value("w", shape=(2, 2))])
    assert [t.name for t in check_onnx(old.SerializeToString()).signature.inputs] == ["x"]


# Data outside of the file, in every place where a tensor can stand.


def in_initializer() -> ModelProto:
    return model(node("Add", ("x", "w")), tensors=[outside()])


def in_attribute() -> ModelProto:
    return model(node("Constant", (), ("w",), value=outside("")), node("Add", ("x", "w")))


def in_branch() -> ModelProto:
    return model(within(tensors=[outside()]), tensors=[YES])


def in_branch_of_branch() -> ModelProto:
    return model(within(within(node("Constant", (), ("w",), value=outside("")))), tensors=[YES])


def in_sparse() -> ModelProto:
    content = model()
    sparse = content.graph.sparse_initializer.add()
    sparse.dims.extend([4])
    sparse.values.CopyFrom(outside("s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 1], np.int64)))
    return content


def in_sparse_attribute() -> ModelProto:
    content = model(node("Constant", (), ("w",)), node("Add", ("x", "w")))
    attribute = content.graph.node[0].attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.dims.extend([4])
    attribute.sparse_tensor.indices.CopyFrom(outside("i"))
    return content


def in_function() -> ModelProto:
    inner = node("Constant", (), ("w",), value=outside(""))
    function = helper.make_function("mine", "F", ["a"], ["b"], [inner, node("Add", ("a", "w"), ("b",))], OPSETS)
    return model(node("F", domain="mine"), functions=[function])


def in_default_of_function() -> ModelProto:
    function = helper.make_function("mine", "F", ["a"], ["b"], [node("Identity", ("a",), ("b",))], OPSETS)
    function.attribute_proto.add(name="w", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside("w"))
    return model(node("F", domain="mine"), functions=[function])


def in_training() -> ModelProto:
    content = model()
    content.training_info.add().initialization.initializer.add().CopyFrom(outside())
    return content


def by_location_alone() -> ModelProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    tensor.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")
    return model(node("Add", ("x", "w")), tensors=[tensor])


PLACES = [
    in_initializer,
    in_attribute,
    in_branch,
    in_branch_of_branch,
    in_sparse,
    in_sparse_attribute,
    in_function,
    in_default_of_function,
    in_training,
    by_location_alone,
]


@pytest.mark.parametrize("place", PLACES)
def test_data_outside_of_the_file_is_found_wherever_it_stands(place: Callable[[], ModelProto]) -> None:
    error = refused(place())
    assert error.code == "ONNX_EXTERNAL_DATA"
    assert error.next_action


# Operators.


@pytest.mark.parametrize(
    "content",
    [
        model(node("Evil", domain="com.example")),
        model(node("EPContext", domain="com.microsoft", ep_cache_context="/etc/passwd", embed_mode=0)),
        model(node("Identity", domain="ai.onnx.contrib")),
        model(within(node("Evil", ("x",), ("u",), domain="com.example")), tensors=[YES]),
        model(
            node("F", domain="mine"),
            functions=[
                helper.make_function("mine", "F", ["a"], ["b"], [node("Evil", ("a",), ("b",), domain="other")], OPSETS)
            ],
        ),
        model(functions=[helper.make_function("", "Relu", ["a"], ["b"], [node("Identity", ("a",), ("b",))], OPSETS)]),
    ],
)
def test_foreign_operators_are_refused_by_name(content: ModelProto) -> None:
    assert refused(content).code == "ONNX_DOMAIN"


def test_functions_of_the_file_and_known_quantised_operators_are_taken() -> None:
    function = helper.make_function("mine", "F", ["a"], ["b"], [node("Relu", ("a",), ("b",))] * 1, OPSETS)
    content = model(node("F", domain="mine"), functions=[function])
    content.opset_import.extend([helper.make_opsetid("mine", 1), helper.make_opsetid("com.microsoft", 1)])
    assert check_onnx(content.SerializeToString()).nodes == 1
    gelu = model(node("Gelu", domain="com.microsoft"))
    gelu.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert check_onnx(gelu.SerializeToString()).nodes == 1


# Sizes.


def test_limits_of_bytes_nodes_and_elements() -> None:
    content = model(*[node("Relu", (f"{n}" if n else "x",), (f"{n + 1}" if n < 9 else "y",)) for n in range(10)])
    assert check_onnx(content.SerializeToString(), limits=Limits(nodes=10)).nodes == 10
    assert refused(content, Limits(nodes=9)).code == "ONNX_TOO_LARGE"
    assert refused(content, Limits(bytes=100)).code == "ONNX_TOO_LARGE"
    weights = [numpy_helper.from_array(np.zeros(50, np.float32), f"w{n}") for n in range(3)]
    assert refused(model(tensors=weights), Limits(elements=149)).code == "ONNX_TOO_LARGE"


def claims(shape: list[int]) -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, raw_data=b"\0" * 4)


def sparse_claim() -> ModelProto:
    content = model()
    sparse = content.graph.sparse_initializer.add()
    sparse.dims.extend([2**31, 2**31])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([1], np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0], np.int64)))
    return content


@pytest.mark.parametrize(
    "content",
    [
        model(tensors=[claims([2**40])]),
        model(tensors=[claims([2**62, 2**62])]),
        sparse_claim(),
        model(inputs=[value("x", shape=(2**40, 2))]),
        model(
            node("ConstantOfShape", ("s",), ("c",)),
            node("Identity"),
            tensors=[numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "s")],
        ),
        model(
            node("Constant", (), ("s",), value_ints=[2**40]),
            node("Expand", ("x", "s"), ("c",)),
            node("Identity"),
        ),
        model(
            within(
                node("Constant", (), ("s",), value=numpy_helper.from_array(np.array([2**40, 1], np.int64))),
                node("Tile", ("x", "s"), ("c",)),
            ),
            tensors=[YES],
        ),
        model(node("RandomNormal", (), ("c",), shape=[2**40]), node("Identity")),
    ],
)
def test_what_only_promises_to_be_huge_is_refused_without_being_made(content: ModelProto) -> None:
    assert refused(content).code == "ONNX_TOO_LARGE"


@pytest.mark.parametrize(
    "tensor",
    [
        claims([2]),
        claims([-1]),
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"\0" * 4, float_data=[1.0]),
        TensorProto(name="w", data_type=TensorProto.INT64, dims=[1], int64_data=[1, 2]),
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3]),
        TensorProto(name="w", data_type=TensorProto.INT4, dims=[4], raw_data=b"\0"),
    ],
)
def test_a_tensor_holds_what_its_shape_says(tensor: TensorProto) -> None:
    assert refused(model(tensors=[tensor])).code == "ONNX_BAD_TENSOR"


def calls(function: str, *called: str) -> onnx.FunctionProto:
    nodes = [node(name, ("a",), (f"b{n}",), domain="mine") for n, name in enumerate(called)]
    return helper.make_function("mine", function, ["a"], ["b"], [*nodes, node("Identity", ("a",), ("b",))], OPSETS)


def test_functions_that_call_themselves_are_refused() -> None:
    error = refused(model(node("F", domain="mine"), functions=[calls("F", "G"), calls("G", "F")]))
    assert error.code == "ONNX_INVALID"
    assert "calls itself" in error.message


def test_functions_that_unfold_without_measure_are_refused() -> None:
    """Forty functions, each of which calls the next one twice: 2^40 nodes."""
    functions = [calls(f"F{n}", f"F{n + 1}", f"F{n + 1}") for n in range(40)] + [calls("F40")]
    assert refused(model(node("F0", domain="mine"), functions=functions)).code == "ONNX_TOO_LARGE"


def test_graphs_in_graphs_have_an_end() -> None:
    inner = node("Relu", ("x",), ("u",))
    for _ in range(25):
        inner = within(inner)
    assert refused(model(inner, tensors=[YES])).code == "ONNX_TOO_LARGE"


# Files that are no models.


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello", b"\x08\x08", b"\xff" * 100, b"\x89PNG\r\n\x1a\n" + b"\0" * 50]
)
def test_bytes_that_are_no_model(content: bytes) -> None:
    assert refused(content).code == "ONNX_UNREADABLE"


def test_fields_that_nobody_here_knows_are_refused() -> None:
    data = model().SerializeToString()
    unknown = b"\xf2\x7f\x03abc"  # field 2046, three bytes
    assert refused(data + unknown).code == "ONNX_UNKNOWN_FIELDS"


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "way"),
    [
        (pickle.dumps({"model": [1, 2]}, protocol=4), "pickle", "skl2onnx"),
        (pickle.dumps({"loader": "joblib.numpy_pickle"}, protocol=3), "joblib", "skl2onnx"),
        (zlib.compress(pickle.dumps([1])), "joblib", "skl2onnx"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", "PyTorch", "torch.onnx.export"),
        (archive("m/data.pkl", "m/data/0"), "PyTorch", "torch.onnx.export"),
        (archive("m/data.pkl", "m/constants.pkl"), "TorchScript", "torch.onnx.export"),
        (archive("config.json", "model.weights.h5"), "Keras", ".export("),
        (archive("a.npy"), "NumPy", "model"),
        (archive("readme"), "zip", "ONNX"),
        (b"PK\x03\x04 broken", "zip", "ONNX"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "Keras", ".export("),
        (b"tree\nversion=v4\n", "LightGBM", "convert_lightgbm"),
        (b'{"learner":{}}', "XGBoost", "convert_xgboost"),
        (struct.pack("<Q", 2) + b"{}", "safetensors", "torch.onnx.export"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 20, "TensorFlow Lite", "tf2onnx"),
        (gzip.compress(b"x", mtime=0), "gzip", "gunzip"),
    ],
)
def test_other_formats_are_refused_by_name_with_the_way_to_onnx(content: bytes, name: str, way: str) -> None:
    error = refused(content)
    assert error.code == "ONNX_FOREIGN_FORMAT"
    assert name in error.message
    assert way in error.next_action


def test_no_model_is_mistaken_for_another_format() -> None:
    for ir_version in range(3, 14):
        content = model()
        content.ir_version = ir_version
        assert foreign_format(content.SerializeToString()) is None


# What is not served.


def test_maps_and_sequences_are_refused_with_the_option_that_avoids_them() -> None:
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    zipmap = node("ZipMap", domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    error = refused(model(zipmap, outputs=[helper.make_value_info("y", kind)]))
    assert error.code == "ONNX_UNSUPPORTED_TYPE"
    assert "zipmap" in error.next_action


def test_bf16_is_refused_with_what_to_do_instead() -> None:
    error = refused(model(inputs=[value("x", TensorProto.BFLOAT16)]))
    assert (error.code, "BFLOAT16" in error.message) == ("ONNX_UNSUPPORTED_TYPE", True)
    assert "an input of FP32 and a Cast to BFLOAT16" in error.next_action


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (model(inputs=[value("x", 99)]), "ONNX_UNSUPPORTED_TYPE"),
        (model(node("RandomNormal", (), ("y",), shape=[1, 2]), inputs=[]), "ONNX_NO_SIGNATURE"),
        (model(outputs=[]), "ONNX_NO_SIGNATURE"),
        (model(node("Identity", ("nowhere",))), "ONNX_INVALID"),
        (model(node("NoSuchOperator")), "ONNX_INVALID"),
    ],
)
def test_what_cannot_be_asked_or_is_invalid(content: ModelProto, code: str) -> None:
    assert refused(content).code == code


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_ends_in_a_summary_or_an_error_of_ours(data: st.DataObject) -> None:
    whole = bytearray(in_branch().SerializeToString() if data.draw(st.booleans()) else model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput):  # anything else fails the test
        check_onnx(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
