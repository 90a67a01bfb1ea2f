"""Pictures and forms for `/predict`: what a model's inputs take, and what is refused before it is unpacked."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skyriver.core.errors import SkyriverError
from skyriver.core.spec import FieldSpec
from skyriver.release.signature import Signature, TensorSpec, takes_pictures
from skyriver.serve.fields import PredictCodec
from skyriver.serve.images import MOST_BYTES, picture
from skyriver.serve.multipart import BadForm, parts_of

FREE = TensorSpec("photo", "UINT8", (-1, -1, -1, 3))
FIXED = TensorSpec("photo", "UINT8", (-1, 4, 6, 3))
PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
BOUNDARY = b"--x"


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def form(*parts: tuple[str, bytes], files: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
    body = b""
    for name, content in parts:
        more = b'; filename="a.png"\r\nContent-Type: image/png' if name in files else b""
        body += b'----x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), more, content)
    return body + b"----x--\r\n", b"multipart/form-data; boundary=--x"


def codec(*inputs: TensorSpec, fields: list[FieldSpec] | None = None) -> PredictCodec:
    outputs = (TensorSpec("y", "FP32", (-1,)),)
    return PredictCodec("m", 1, Signature(inputs, outputs), fields, batching=True)


def tensor(body: bytes, content_type: bytes = b"", spec: TensorSpec = FIXED) -> np.ndarray:
    return codec(spec).decode(body, content_type).runs[0][spec.name]


def refused(*arguments: Any, spec: TensorSpec = FIXED) -> SkyriverError:
    with pytest.raises(SkyriverError) as caught:
        tensor(*arguments, spec=spec)
    assert len(str(caught.value)) < 500
    return caught.value


def in_json(data: bytes) -> bytes:
    return json.dumps({"photo": {"base64": base64.b64encode(data).decode()}}).encode()


@pytest.mark.parametrize("spec", [FREE, FIXED, TensorSpec("photo", "UINT8", (4, 6, 3))])
def test_a_picture_comes_as_a_file_or_as_base64(spec: TensorSpec) -> None:
    wanted = PIXELS.reshape(1, 4, 6, 3) if len(spec.shape) == 4 else PIXELS
    np.testing.assert_array_equal(tensor(in_json(file_of(PIXELS)), spec=spec), wanted)
    np.testing.assert_array_equal(
        tensor(*form(("photo", file_of(PIXELS)), files=("photo",)), spec=spec),
        wanted,
    )


def test_rows_of_pictures_share_a_run() -> None:
    one = json.loads(in_json(file_of(PIXELS)))
    asked = tensor(json.dumps({"rows": [one, one]}).encode())
    np.testing.assert_array_equal(asked, np.stack([PIXELS, PIXELS]))


def test_sixteen_bits_are_refused_not_clipped() -> None:
    grey = TensorSpec("photo", "UINT8", (-1, 2, 2, 1))
    error = refused(in_json(file_of(np.array([[0, 4096], [8192, 65535]], np.uint16))), spec=grey)
    assert (error.code, "8 bits a channel are taken" in str(error)) == ("INVALID_FIELD", True)


def test_pictures_of_one_request_are_bounded_together() -> None:
    """Two of them are just within, the third is not; packed they are small."""
    photo = json.loads(in_json(file_of(np.zeros((1600, 1600, 3), np.uint8))))
    assert tensor(json.dumps({"rows": [photo] * 2}).encode(), spec=FREE).shape == (2, 1600, 1600, 3)
    error = refused(json.dumps({"rows": [photo] * 3}).encode(), spec=FREE)
    assert (error.code, "up to row 2" in str(error)) == ("WRONG_IMAGE", True)


def test_a_jpeg_is_read_and_channels_are_the_models() -> None:
    grey = TensorSpec("photo", "UINT8", (-1, 8, 8, 1))
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert np.abs(picture(grey, file_of(flat, "JPEG")).astype(int) - 90).max() <= 2
    alpha = TensorSpec("photo", "UINT8", (8, 8, 4))
    assert (picture(alpha, file_of(flat))[..., 3] == 255).all()
    assert picture(grey, file_of(flat[..., 0])).shape == (1, 8, 8, 1)


def test_pixels_as_numbers_are_taken_as_before() -> None:
    np.testing.assert_array_equal(tensor(json.dumps({"photo": PIXELS.tolist()}).encode()), PIXELS.reshape(1, 4, 6, 3))


@pytest.mark.parametrize(
    ("spec", "takes"),
    [
        (FREE, True),
        (TensorSpec("x", "UINT8", (1, 5, 5, 4)), True),
        (TensorSpec("x", "UINT8", (5, 5, 1)), True),
        (TensorSpec("x", "FP32", (-1, 5, 5, 3)), False),
        (TensorSpec("x", "UINT8", (-1, 3, 5, 5)), False),
        (TensorSpec("x", "UINT8", (2, 5, 5, 3)), False),
        (TensorSpec("x", "UINT8", (-1, 3)), False),
    ],
)
def test_which_inputs_take_pictures(spec: TensorSpec, takes: bool) -> None:
    assert takes_pictures(spec) is takes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claims(width: int, height: int) -> bytes:
    """A PNG that says it is so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no whole PNG or JPEG"),
        (b"GIF89a" + b"\0" * 50, "no whole PNG or JPEG"),
        (file_of(PIXELS, "GIF"), "no whole PNG or JPEG"),
        (file_of(PIXELS)[:-30], "no whole PNG or JPEG"),
        (file_of(PIXELS[:, :5]), "it is 5 x 4 pixels, the model takes 6 x 4"),
        (b"\0" * (MOST_BYTES + 1), "at most 10485760 are taken"),
    ],
)
def test_what_is_no_picture_for_this_model(data: bytes, told: str) -> None:
    error = refused(in_json(data))
    assert (error.http_status, error.code, error.where) == (422, "INVALID_FIELD", "photo")
    assert told in error.message


def test_a_cut_jpeg_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    whole = file_of(noise, "JPEG")
    for length in (len(whole) // 2, len(whole) - 20):
        assert "no whole PNG or JPEG" in refused(in_json(whole[:length]), spec=FREE).message


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (6_000_000, 1)])
def test_a_bomb_is_refused_before_it_is_unpacked(width: int, height: int) -> None:
    body = in_json(claims(width, height))
    tracemalloc.start()
    try:
        assert "pixels" in refused(body, spec=FREE).message or width > 2**30
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "given_", ['{"base64": 3}', '{"base64": "é"}', '{"base64": "abc"}', '{"base64": [1]}', "{}", '"x"']
)
def test_what_is_no_base64(given_: str) -> None:
    assert refused(b'{"photo": %b}' % given_.encode()).code == "INVALID_FIELD"


def test_without_pillow_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    error = None
    with pytest.raises(SkyriverError) as caught:
        picture(FREE, file_of(PIXELS))
    error = caught.value
    assert (error.http_status, error.code) == (501, "IMAGES_MISSING")
    assert "skyriver[images]" in error.next_action


MIXED = (TensorSpec("word", "BYTES", (-1, 1)), TensorSpec("age", "INT64", (-1,)), TensorSpec("x", "FP32", (-1, 2)))


def test_a_form_has_texts_and_numbers() -> None:
    asked = codec(*MIXED).decode(*form(("word", "12 größer".encode()), ("age", b"7"), ("x", b"[1, 2.5]")))
    assert asked.single
    assert asked.runs[0]["word"].tolist() == [["12 größer"]]
    assert asked.runs[0]["age"].tolist() == [7]
    assert asked.runs[0]["x"].tolist() == [[1, 2.5]]


def test_a_form_fills_declared_fields() -> None:
    fields = [FieldSpec(name="amount", type="float", ge=0), FieldSpec(name="night", type="bool")]
    of = codec(TensorSpec("features", "FP32", (-1, 2)), fields=fields)
    assert of.decode(*form(("amount", b"2.5"), ("night", b"true"))).runs[0]["features"].tolist() == [[2.5, 1]]
    with pytest.raises(SkyriverError) as caught:
        of.decode(*form(("amount", b"much"), ("night", b"true")))
    assert (caught.value.code, caught.value.where) == ("INVALID_FIELD", "amount")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", b"multipart/form-data; boundary=--x"),
        (form(("a", b"1"))[0], b"multipart/form-data"),
        (form(("a", b"1"))[0][:-10], b"multipart/form-data; boundary=--x"),
        (form(("a", b"1"), ("a", b"2"))[0], b"multipart/form-data; boundary=--x"),
        (b"----x\r\nContent-Type: text/plain\r\n\r\n1\r\n----x--", b"multipart/form-data; boundary=--x"),
        (b"----x\r\nno end of headers\r\n----x--", b"multipart/form-data; boundary=--x"),
        (
            b'----x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n----x--',
            b"multipart/form-data; boundary=--x",
        ),
        (form(*((str(n), b"1") for n in range(1001)))[0], b"multipart/form-data; boundary=--x"),
        (b"{}", b"multipart/form-data; boundary=--x"),
    ],
)
def test_a_form_that_is_not_whole(body: bytes, kind: bytes) -> None:
    with pytest.raises(BadForm) as caught:
        parts_of(body, kind)
    assert caught.value.http_status == 400


def test_an_unknown_part_is_named() -> None:
    error = refused(*form(("other", b"1")))
    assert error.where == "other"


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary(max_size=60), max_size=5))
def test_the_content_of_parts_comes_out_as_it_went_in(parts: dict[str, bytes]) -> None:
    if any(b"\r\n----x" in b"\r\n" + content for content in parts.values()):
        return
    found = parts_of(*form(*parts.items()))
    assert {name: part.content for name, part in found.items()} == parts


@given(
    st.binary(max_size=300),
    st.sampled_from([form(("a", b"1"))[1], b"multipart/form-data", b"multipart/form-data; boundary=a"]),
)
def test_no_bytes_end_otherwise_than_in_a_form_or_an_error(body: bytes, kind: bytes) -> None:
    for content in (body, b"----x\r\n" + body, b"----x\r\n\r\n" + body + b"\r\n----x--"):
        try:
            parts_of(content, kind)
        except BadForm as error:
            found = error.code
        else:
            found = ""
        assert found in ("", "BAD_FORM")


@given(st.data())
def test_a_damaged_picture_is_a_picture_or_an_error_with_a_code(data: st.DataObject) -> None:
    whole = bytearray(file_of(PIXELS, data.draw(st.sampled_from(["PNG", "JPEG"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        shape = picture(FIXED, bytes(whole[: data.draw(st.integers(0, len(whole)))])).shape
    except SkyriverError as error:
        shape = (error.code,)
    assert shape in ((1, 4, 6, 3), ("WRONG_IMAGE",))


def test_a_request_with_a_picture_is_told_that_pillow_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a form and in JSON: it is not the row's fault."""
    picture_in_json = json.dumps({"photo": {"base64": base64.b64encode(file_of(PIXELS)).decode()}}).encode()
    asked = [form(("photo", file_of(PIXELS)), files=("photo",)), (picture_in_json, b"application/json")]
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for body, content_type in asked:
        error = refused(body, content_type)
        assert (error.http_status, error.code) == (501, "IMAGES_MISSING")
        assert 'pip install "skyriver[images]"' in error.next_action
