"""The binary tensor extension as pure functions: what goes in, what comes out, what is refused and how."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.release.signature import Signature, TensorSpec
from skyriver.serve.binary import bytes_of_tensor, tensor_of_bytes
from skyriver.serve.protocol import Infer, InferCodec

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("word", "BYTES", (-1,)), TensorSpec("flag", "BOOL", (-1,))),
    (TensorSpec("score", "FP32", (-1,)), TensorSpec("label", "BYTES", (-1,))),
)
Found = TypeVar("Found")
CODEC = InferCodec("fraud", 3, SIGNATURE)
WORDS = bytes_of_tensor(np.array(["a", "größer"], object))
TAIL = np.arange(6, dtype=np.float32).tobytes() + WORDS + b"\1\0"


def head(*changes: tuple[int, dict[str, Any]], **more: Any) -> dict[str, Any]:
    inputs: list[dict[str, Any]] = [
        {"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}},
        {"name": "word", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(WORDS)}},
        {"name": "flag", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}},
    ]
    for place, change in changes:
        inputs[place] = {name: value for name, value in (inputs[place] | change).items() if value is not None}
    return {"inputs": inputs, **more}


def decode(document: dict[str, Any], tail: bytes = TAIL) -> Infer:
    text = json.dumps(document).encode()
    return CODEC.decode(text + tail, str(len(text)).encode())


def refused(document: dict[str, Any], tail: bytes = TAIL) -> SkyriverError:
    with pytest.raises(SkyriverError) as caught:
        decode(document, tail)
    return caught.value


def test_tensors_behind_the_json_are_taken_in_its_order() -> None:
    asked = decode(head())
    assert asked.inputs["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert asked.inputs["word"].tolist() == ["a", "größer"]
    assert asked.inputs["flag"].tolist() == [True, False]
    assert (asked.outputs, asked.binary) == (("score", "label"), frozenset())


def test_bytes_and_json_stand_side_by_side() -> None:
    document = head((0, {"parameters": None, "data": [0, 1, 2, 3, 4, None]}))
    asked = decode(document, WORDS + b"\1\0")
    np.testing.assert_array_equal(asked.inputs["x"], np.array([[0, 1, 2], [3, 4, np.nan]], np.float32))
    assert asked.inputs["word"].tolist() == ["a", "größer"]


OUTPUTS = {"score": np.array([0.5, np.nan], np.float32), "label": np.array(["yes", "ä"], object)}


def test_all_outputs_come_as_bytes_where_it_is_asked_for() -> None:
    reply = CODEC.encode(decode(head(id="7", parameters={"binary_data_output": True})), OUTPUTS)
    assert json.loads(reply.body[: reply.json_size]) == {
        "model_name": "fraud",
        "model_version": "3",
        "id": "7",
        "outputs": [
            {"name": "score", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "label", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 13}},
        ],
    }
    tail = reply.body[reply.json_size :]
    np.testing.assert_array_equal(np.frombuffer(tail[:8], np.float32), OUTPUTS["score"])
    assert tail[8:] == struct.pack("<I", 3) + b"yes" + struct.pack("<I", 2) + "ä".encode()


def test_an_output_may_say_otherwise_than_the_request() -> None:
    wanted = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "score"}]
    reply = CODEC.encode(decode(head(outputs=wanted, parameters={"binary_data_output": True})), OUTPUTS)
    first, second = json.loads(reply.body[: reply.json_size])["outputs"]
    assert (first["name"], first["data"]) == ("label", ["yes", "ä"])
    assert (second["name"], second["parameters"]) == ("score", {"binary_data_size": 8})
    assert len(reply.body) == reply.json_size + 8


def test_an_output_alone_may_be_bytes() -> None:
    wanted = [{"name": "score", "parameters": {"binary_data": True}}, {"name": "label"}]
    assert decode(head(outputs=wanted)).binary == {"score"}


@pytest.mark.parametrize(
    "kind", ["BOOL", "FP16", "FP32", "FP64", *(f"{k}INT{bits}" for k in ("", "U") for bits in (8, 16, 32, 64))]
)
def test_every_datatype_survives_the_way(kind: str) -> None:
    spec = TensorSpec("t", kind, (-1, 2))
    width = {"BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}.get(kind, kind.lower())
    array = np.array([[0, 1], [1, 1]]).astype(width)
    for shift in (0, 1):  # bytes at an odd place are taken too
        data = memoryview(b"\0" * shift + bytes_of_tensor(array))[shift:]
        taken = tensor_of_bytes(spec, [2, 2], data)
        assert taken.flags.aligned
        np.testing.assert_array_equal(taken, array)
        assert taken.dtype == array.dtype


@pytest.mark.parametrize(
    ("document", "tail", "code", "told"),
    [
        (head(), TAIL[:-1], "WRONG_SIZE", "binary_data_size is 2, 1 bytes are left"),
        (head(), TAIL + b"\0", "WRONG_SIZE", "1 bytes are left behind the last tensor"),
        (head((0, {"shape": [3, 3]})), TAIL, "WRONG_SIZE", "24 bytes are given, 36 bytes are wanted"),
        (head((0, {"shape": [-2, 3]})), TAIL, "WRONG_SHAPE", "[-2, 3] is given"),
        (head((0, {"shape": [2**40, 2**40]})), TAIL, "WRONG_SHAPE", "is given"),
        (head((0, {"shape": [2**62, 3]})), TAIL, "WRONG_SIZE", "are wanted"),
        (head((0, {"shape": [0, 3]})), TAIL, "WRONG_SIZE", "0 bytes are wanted"),
        (head((0, {"shape": [2**30, 3]})), TAIL, "WRONG_SIZE", "are wanted"),
        (head((0, {"datatype": "FP64"})), TAIL, "WRONG_DATATYPE", "FP64 is given"),
        (head((0, {"parameters": {"binary_data_size": -1}})), TAIL, "WRONG_SIZE", "a number of bytes is wanted"),
        (head((0, {"parameters": {"binary_data_size": "24"}})), TAIL, "WRONG_SIZE", "a number of bytes is wanted"),
        (head((0, {"parameters": {"binary_data_size": True}})), TAIL, "WRONG_SIZE", "a number of bytes is wanted"),
        (head((0, {"parameters": {"binary_data_size": 2**40}})), TAIL, "WRONG_SIZE", "bytes are left"),
        (head((0, {"parameters": None})), TAIL, "MISSING_DATA", "has no data"),
        (head((0, {"data": [1, 2, 3, 4, 5, 6]})), TAIL, "DATA_TWICE", "both"),
        (head((1, {"shape": [2**40]})), TAIL, "WRONG_SIZE", "texts with their lengths are wanted"),
        (head((1, {"shape": [1]})), TAIL, "WRONG_SIZE", "17 bytes are given, 5 for 1 texts are wanted"),
        (head((1, {"shape": [4]})), TAIL, "WRONG_SIZE", "2 texts are given, 4 are wanted"),
        (head(), TAIL.replace(b"\1\0\0\0a", b"\xff\0\0\0a"), "WRONG_SIZE", "at position 0 has 255 bytes by its length"),
        (head(), TAIL.replace(b"a", b"\xff"), "WRONG_VALUE", "position 0 is not UTF-8"),
        (head(), TAIL[:-1] + b"\2", "WRONG_VALUE", "the byte 2 at position 1 is no BOOL"),
        (head(parameters={"timeout": -1}), TAIL, "WRONG_VALUE", "timeout is -1"),
        (head(parameters={"timeout": "soon"}), TAIL, "WRONG_VALUE", "a whole number of microseconds"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], tail: bytes, code: str, told: str) -> None:
    error = refused(document, tail)
    assert error.code == code
    assert told in error.message


@pytest.mark.parametrize("header", [b"x", b"-1", b"", b"1.5", b"9" * 30, b"1000000000", "²".encode("latin-1")])
def test_a_header_that_is_no_length_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        CODEC.decode(b"{}", header)
    assert caught.value.code == "WRONG_SIZE"


def test_a_body_without_json_is_the_only_input() -> None:
    numbers = InferCodec("m", 1, Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),)))
    asked = numbers.decode(np.ones(6, np.float32).tobytes(), b"0")
    assert asked.inputs["x"].shape == (2, 3)
    assert asked.binary == {"y"}
    texts = InferCodec("m", 1, Signature((TensorSpec("x", "BYTES", (-1, 1)),), ()))
    assert texts.decode(b"ein Bild", b"0").inputs["x"].tolist() == [["ein Bild"]]
    for codec, content, code in (
        (numbers, b"\0" * 13, "WRONG_SIZE"),
        (CODEC, b"\0" * 12, "MISSING_INPUT"),
        (InferCodec("m", 1, Signature((TensorSpec("x", "FP32", (-1, -1)),), ())), b"\0" * 4, "WRONG_SHAPE"),
        (InferCodec("m", 1, Signature((TensorSpec("x", "BYTES", (2,)),), ())), b"ab", "WRONG_SHAPE"),
    ):
        with pytest.raises(InvalidInput) as caught:
            codec.decode(content, b"0")
        assert caught.value.code == code


def test_a_claim_of_much_allocates_little() -> None:
    """Shapes and lengths that promise gigabytes are refused by what is there."""
    claims = [
        (head((0, {"shape": [357_913_941, 3], "parameters": {"binary_data_size": 2**32 - 4}})), TAIL),
        (head((1, {"shape": [2**30]})), TAIL),
        (head(), TAIL.replace(b"\1\0\0\0a", b"\xff\xff\xff\xffa")),
    ]
    tracemalloc.start()
    try:
        for document, tail in claims:
            assert refused(document, tail).code == "WRONG_SIZE"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=12)


@given(texts)
def test_texts_survive_the_way(words: list[str]) -> None:
    array = np.array([*words, None], object)[:-1]
    spec = TensorSpec("t", "BYTES", (-1,))
    assert tensor_of_bytes(spec, [len(words)], memoryview(bytes_of_tensor(array))).tolist() == words


@given(st.data())
def test_damaged_requests_end_in_tensors_or_in_an_error_with_a_code(data: st.DataObject) -> None:
    """Bytes changed, cut or added anywhere, under any header: never another exception, never a tensor of another
    shape than was said."""
    text = json.dumps(head(parameters={"binary_data_output": True})).encode()
    whole = bytearray(text + TAIL)
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(whole[: data.draw(st.integers(0, len(whole)))]) + data.draw(st.binary(max_size=9))
    header = str(data.draw(st.one_of(st.just(len(text)), st.integers(0, len(body) + 2)))).encode()
    found = attempt(lambda: CODEC.decode(body, header))
    if isinstance(found, SkyriverError):
        assert found.code
        assert len(found.message) < 1000
    else:
        assert set(found.inputs) == {"x", "word", "flag"}
        assert found.inputs["x"].shape[1:] == (3,)


def attempt(what: Callable[[], Found]) -> Found | SkyriverError:
    try:
        return what()
    except SkyriverError as error:
        return error


shapes = st.lists(st.one_of(st.integers(-3, 6), st.sampled_from([2**31, 2**40, 2**63, 2**64, 10**30])), max_size=5)


@given(shapes, st.binary(max_size=64), st.sampled_from(["FP32", "BYTES", "BOOL", "INT64"]))
def test_no_shape_gives_another_number_of_values(shape: list[int], content: bytes, kind: str) -> None:
    spec = TensorSpec("t", kind, (-1,) * len(shape))
    found = attempt(lambda: tensor_of_bytes(spec, shape, memoryview(content)))
    if isinstance(found, SkyriverError):
        assert found.code in ("WRONG_SHAPE", "WRONG_SIZE", "WRONG_VALUE")
    else:
        assert list(found.shape) == shape


@given(shapes)
def test_no_shape_and_no_values_are_an_error_with_a_code(shape: list[int]) -> None:
    codec = InferCodec("m", 1, Signature((TensorSpec("t", "FP32", (-1,) * len(shape)),), ()))
    tensor = {"name": "t", "datatype": "FP32", "shape": shape, "data": []}
    found = attempt(lambda: codec.decode(json.dumps({"inputs": [tensor]}).encode()))
    if isinstance(found, SkyriverError):
        assert found.code in ("WRONG_SHAPE", "WRONG_SIZE")
    else:
        assert list(found.inputs["t"].shape) == shape


def test_errors_stay_short_whatever_is_sent() -> None:
    long = "x" * 1_000_000
    for document in (
        head((0, {"name": long})),
        head((0, {"datatype": long})),
        head((0, {"shape": [1] * 100_000})),
        head((0, {"shape": [int("9" * 4000), 3]})),
        head((1, {"shape": [int("9" * 4000)]})),
        head(outputs=[{"name": long}]),
        head(parameters={"timeout": long}),
        head(parameters={"sequence_id": long}),
    ):
        assert len(str(refused(document))) < 1000
