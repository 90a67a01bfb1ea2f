"""Compressed bodies: within a limit, and nothing behind them."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.errors import SkyriverError
from skyriver.serve.encoding import encoding_wanted, packed, unpacked

PACKERS = {b"gzip": lambda body: gzip.compress(body, mtime=0), b"deflate": zlib.compress}


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@given(body=st.binary(max_size=2000))
def test_what_is_packed_comes_out(encoding: bytes, body: bytes) -> None:
    assert unpacked(PACKERS[encoding](body), encoding, len(body)) == body
    assert unpacked(packed(body, encoding), encoding, len(body)) == body


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_is_refused_before_it_goes_off(encoding: bytes) -> None:
    bomb = PACKERS[encoding](bytes(200_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(SkyriverError) as caught:
            unpacked(bomb, encoding, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert (caught.value.http_status, caught.value.code) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (b"{}", b"gzip", "BAD_ENCODING"),
        (b"", b"gzip", "BAD_ENCODING"),
        (b"", b"deflate", "BAD_ENCODING"),
        (zlib.compress(b"{}"), b"gzip", "BAD_ENCODING"),
        (gzip.compress(b"{}", mtime=0)[:-1], b"gzip", "BAD_ENCODING"),
        (gzip.compress(b"{}", mtime=0) + gzip.compress(b"{}", mtime=0), b"gzip", "BAD_ENCODING"),
        (zlib.compress(b"{}") + b"x", b"deflate", "BAD_ENCODING"),
        (b"{}", b"br", "UNKNOWN_ENCODING"),
        (b"{}", b"gzip, gzip", "UNKNOWN_ENCODING"),
        (b"{}", b"\xff" * 1000, "UNKNOWN_ENCODING"),
    ],
)
def test_what_is_no_packed_body_is_a_bad_request(body: bytes, encoding: bytes, code: str) -> None:
    with pytest.raises(SkyriverError) as caught:
        unpacked(body, encoding, 100)
    assert (caught.value.http_status, caught.value.code) == (400, code)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("accepted", "wanted"),
    [
        (b"gzip", b"gzip"),
        (b"br, Deflate;q=0.5, gzip", b"deflate"),
        (b"gzip; q=0, deflate", b"deflate"),
        (b"gzip;q=0", b""),
        (b"", b""),
        (b"identity", b""),
        (b"gzip;q=0.000, deflate", b"deflate"),
        (b"gzip; q=0.001", b"gzip"),
    ],
)
def test_what_a_client_takes(accepted: bytes, wanted: bytes) -> None:
    assert encoding_wanted(accepted) == wanted
