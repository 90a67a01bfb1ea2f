"""The Open Inference Protocol as pure functions: what is taken, what is refused and how."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.errors import InvalidInput, SkyriverError, Unavailable
from skyriver.release.signature import Signature, TensorSpec
from skyriver.serve import protocol
from skyriver.serve.protocol import BadJson, InferCodec, NotSupported

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("n", "INT8", (-1,))),
    (TensorSpec("score", "FP32", (-1,)), TensorSpec("label", "BYTES", (-1,))),
)
CODEC = InferCodec("fraud", 3, SIGNATURE)
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, None]}
N = {"name": "n", "shape": [1], "datatype": "INT8", "data": [7]}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def one(datatype: str, shape: list[int], data: object, wanted: tuple[int, ...] = (-1,)) -> np.ndarray:
    codec = InferCodec("m", 1, Signature((TensorSpec("t", datatype, wanted),), ()))
    return codec.decode(body({"name": "t", "shape": shape, "datatype": datatype, "data": data})).inputs["t"]


def refused(content: bytes, codec: InferCodec = CODEC) -> SkyriverError:
    with pytest.raises(SkyriverError) as caught:
        codec.decode(content)
    return caught.value


def test_tensors_come_out_as_they_were_meant() -> None:
    asked = CODEC.decode(body(X, N, id="r-1"))
    assert asked.id == "r-1"
    assert asked.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(asked.inputs["x"], np.array([[1, 2.5, np.nan]], np.float32))
    assert asked.inputs["n"].tolist() == [7]
    assert asked.outputs == ("score", "label")


def test_nested_and_flat_data_are_the_same() -> None:
    flat = one("FP32", [2, 2], [1, 2, None, 4], (-1, 2))
    nested = one("FP32", [2, 2], [[1, 2], [None, 4]], (-1, 2))
    np.testing.assert_array_equal(flat, nested)


@pytest.mark.parametrize(
    ("datatype", "data", "kind"),
    [
        ("BOOL", [True, False], np.bool_),
        ("BYTES", ["a", "ö"], np.object_),
        ("UINT64", [2**64 - 1], np.uint64),
        ("INT64", [-(2**63)], np.int64),
        ("UINT8", [255], np.uint8),
        ("FP64", [1e300, None], np.float64),
        ("FP16", [65504.0, 65519.9], np.float16),
        ("FP32", [3.4028235e38, -3.4028235e38], np.float32),
        ("FP32", [], np.float32),
    ],
)
def test_every_datatype(datatype: str, data: list[object], kind: type) -> None:
    tensor = one(datatype, [len(data)], data)
    assert tensor.dtype == kind
    assert tensor.shape == (len(data),)
    assert tensor.dtype.kind != "f" or not np.isinf(tensor).any()


@pytest.mark.parametrize(
    ("datatype", "data", "told"),
    [
        ("FP32", ["1.5"], '"1.5" at position 0 is no FP32'),
        ("FP32", [1, True], "true at position 1 is no FP32"),
        ("FP32", [1e39], "1e39 at position 0 is no FP32 value: its values are from -3.403e+38 to 3.403e+38."),
        ("FP16", [70000], "70000 at position 0 is no FP16 value: its values are from -6.55e+04 to 6.55e+04."),
        ("FP64", [None, {}], "{} at position 1 is no FP64 value: a number is wanted."),
        ("INT8", [1, 128], "128 at position 1 is no INT8 value: its values are from -128 to 127."),
        ("INT64", [1.5], "1.5 at position 0 is no INT64 value: a whole number is wanted."),
        ("INT64", [2**63], "9223372036854775808 at position 0"),
        ("INT64", [None], "null at position 0"),
        ("UINT64", [2**64], "does not fit UINT64"),
        ("UINT64", [-1], "does not fit UINT64"),
        ("UINT8", [-1], "-1 at position 0"),
        ("BOOL", [1], "1 at position 0 is no BOOL value: true or false is wanted."),
        ("BYTES", [1], "1 at position 0 is no BYTES value: a text is wanted."),
        ("BYTES", [None], "null at position 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(datatype: str, data: list[object], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        one(datatype, [len(data)], data)
    assert caught.value.code == "WRONG_VALUE"
    assert told in caught.value.message
    assert "'t'" in caught.value.message


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"-NaN"])
def test_who_sends_what_json_has_not_is_told_what_to_send(number: bytes) -> None:
    given = b'{"inputs": [{"name": "t", "shape": [2], "datatype": "FP32", "data": [1.5, %b]}]}' % number
    error = refused(given)
    assert (error.code, error.http_status) == ("BAD_JSON", 400)
    place = given.index(number.removeprefix(b"-"))
    told = number.decode().removeprefix("-")
    assert error.message == f"The body is no JSON, which has no {told}: there is one at byte {place}."
    assert error.next_action.startswith("Send null for a value that is missing.")


@pytest.mark.parametrize("data", [b'["\xff"]', b"[" * 5000 + b"]" * 5000, b'["\\ud800"]', b'[{"a": [1]}]'])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_hostile_data_is_an_error_with_a_code(datatype: str, data: bytes) -> None:
    codec = InferCodec("m", 1, Signature((TensorSpec("t", datatype, (-1,)),), ()))
    given = b'{"inputs": [{"name": "t", "shape": [1], "datatype": "%b", "data": %b}]}' % (datatype.encode(), data)
    assert refused(given, codec).code


@pytest.mark.parametrize(
    ("shape", "data", "code", "told"),
    [
        ([3], [1, 2, 3], "WRONG_SHAPE", "[3] is given, [-1, 2] is wanted"),
        ([2, 3], [1] * 6, "WRONG_SHAPE", "[2, 3] is given, [-1, 2] is wanted"),
        ([-1, 2], [1, 2], "WRONG_SHAPE", "[-1, 2] is given"),
        ([2, 2], [1, 2, 3], "WRONG_SIZE", "3 values are given, the shape [2, 2] has 4"),
        ([2, 2], [[1, 2], [3]], "WRONG_SHAPE", "a list of 1 stands where a list of 2 is wanted"),
        ([2, 2], [[1, 2], 3], "WRONG_SHAPE", "3 stands where a list of 2 is wanted"),
        ([1, 2], [[1, [2]]], "WRONG_SHAPE", "[2] stands where a single value is wanted"),
        ([1, 2], {"a": 1}, "WRONG_VALUE", "a list is wanted"),
    ],
)
def test_a_wrong_shape_is_told_with_the_one_wanted(shape: list[int], data: object, code: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        one("FP32", shape, data, (-1, 2))
    assert caught.value.code == code
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (body(X), "MISSING_INPUT", "'n' is missing"),
        (body(X, N, {**N, "name": "z"}), "UNKNOWN_INPUT", "'z' is unknown"),
        (body(X, N, N), "DUPLICATE_INPUT", "'n' is given twice"),
        (body({**X, "datatype": "FP64"}, N), "WRONG_DATATYPE", "FP64 is given, FP32 is wanted"),
        (body({**X, "datatype": "BF16"}, N), "WRONG_DATATYPE", "BF16 is given, FP32 is wanted"),
        (body({"name": "x", "shape": [1, 3], "datatype": "FP32"}, N), "MISSING_DATA", "'x' has no data"),
        (body(X, N, outputs=[{"name": "logit"}]), "UNKNOWN_OUTPUT", "'logit' is unknown"),
    ],
)
def test_what_does_not_fit_the_model_is_named(content: bytes, code: str, told: str) -> None:
    error = refused(content)
    assert error.code == code
    assert told in error.message
    assert code != "WRONG_DATATYPE" or "FP32" in error.next_action


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"inputs": 3}', b'{"inputs": [{"name": 3}]}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_request_is_a_bad_one(content: bytes) -> None:
    error = refused(content)
    assert isinstance(error, BadJson)
    assert error.http_status == 400


@pytest.mark.parametrize(
    "content",
    [
        body({"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}, N),
        body(X, N, outputs=[{"name": "score", "parameters": {"shared_memory_region": "r"}}]),
        body(X, N, outputs=[{"name": "score", "parameters": {"classification": 2}}]),
        body(X, N, parameters={"sequence_id": 7, "sequence_start": True}),
    ],
)
def test_what_is_not_built_is_refused_and_not_misread(content: bytes) -> None:
    error = refused(content)
    assert isinstance(error, NotSupported)
    assert error.http_status == 501


@pytest.mark.parametrize(
    ("path", "extension"),
    [
        ("/v2/repository/index", "model repository"),
        ("/v2/repository/models/m/load", "model repository"),
        ("/v2/systemsharedmemory/region/r/register", "shared memory"),
        ("/v2/cudasharedmemory/status", "shared memory"),
        ("/v2/trace/setting", "trace"),
        ("/v2/models/m/trace/setting", "trace"),
        ("/v2/models/stats", "statistics"),
        ("/v2/models/m/stats", "statistics"),
        ("/v2/models/m/versions/2/stats", "statistics"),
        ("/v2/models/m/config", "model configuration"),
        ("/v2/logging", "logging"),
        ("/v2/models/m/infer", ""),
        ("/v2/models/config", ""),
        ("/predict/trace", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_routes_of_extensions_are_known(path: str, extension: str) -> None:
    assert protocol.extension_of(path) == extension


def test_parameters_are_taken() -> None:
    asked = CODEC.decode(
        body({**X, "parameters": {"a": 1}}, N, parameters={"priority": 2, "binary_data_output": False})
    )
    assert set(asked.inputs) == {"x", "n"}


def test_answers_carry_id_and_the_outputs_asked_for() -> None:
    asked = CODEC.decode(body(X, N, id="7", outputs=[{"name": "label"}, {"name": "score"}]))
    outputs = {"score": np.array([0.5], np.float32), "label": np.array(["yes"], object)}
    assert json.loads(CODEC.encode(asked, outputs).body) == {
        "model_name": "fraud",
        "model_version": "3",
        "id": "7",
        "outputs": [
            {"name": "label", "shape": [1], "datatype": "BYTES", "data": ["yes"]},
            {"name": "score", "shape": [1], "datatype": "FP32", "data": [0.5]},
        ],
    }


def test_without_an_id_there_is_none() -> None:
    asked = CODEC.decode(body(X, N, outputs=[{"name": "score"}]))
    assert "id" not in json.loads(CODEC.encode(asked, {"score": np.array([1.0], np.float32)}).body)


def test_what_is_not_finite_is_null() -> None:
    asked = CODEC.decode(body(X, N, outputs=[{"name": "score"}]))
    answer = CODEC.encode(asked, {"score": np.array([np.nan, np.inf, -np.inf], np.float32)})
    assert json.loads(answer.body)["outputs"][0]["data"] == [None, None, None]


def test_metadata_names_the_tensors() -> None:
    assert json.loads(CODEC.metadata({"threads": 1})) == {
        "name": "fraud",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "n", "datatype": "INT8", "shape": [-1]},
        ],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"threads": 1},
    }


def test_errors_are_the_protocols_with_code_and_next_action() -> None:
    error = InvalidInput("It is wrong.", code="WRONG", next_action="Make it right.")
    assert json.loads(protocol.error_body(error)) == {
        "error": "It is wrong. Make it right.",
        "code": "WRONG",
        "next_action": "Make it right.",
    }
    assert protocol.error_status(error) == 400
    assert protocol.error_status(Unavailable("full")) == 503


@given(
    st.lists(
        st.lists(
            st.one_of(st.none(), st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=2, max_size=2
        ),
        max_size=20,
    )
)
def test_floats_survive_the_way_in_and_out(rows: list[list[float | None]]) -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("x", "FP32", (-1, 2)),))
    codec = InferCodec("m", 1, signature)
    asked = codec.decode(body({"name": "x", "shape": [len(rows), 2], "datatype": "FP32", "data": rows}))
    answer = json.loads(codec.encode(asked, asked.inputs).body)
    assert answer["outputs"][0]["shape"] == [len(rows), 2]
    assert answer["outputs"][0]["data"] == [value for row in rows for value in row]


@given(st.binary(max_size=200))
def test_no_bytes_at_all_end_otherwise_than_in_an_error_with_a_code(content: bytes) -> None:
    assert refused(content).code


def test_a_negative_length_is_told_for_what_it_is() -> None:
    with pytest.raises(InvalidInput) as caught:
        one("FP32", [-1, 2], [1, 2], (-1, 2))
    assert caught.value.next_action == "A length that is sent is that of the data: it is not negative."
    with pytest.raises(InvalidInput) as caught:
        one("FP32", [1, 3], [1, 2, 3], (-1, 2))
    assert caught.value.next_action == "Send a tensor of that shape."
