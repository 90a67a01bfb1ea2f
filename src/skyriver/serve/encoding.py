"""Compressed bodies, gzip and deflate (zlib, as HTTP means it): unpacked within a limit, packed where asked for."""

from __future__ import annotations

import re
import zlib

from skyriver.core.errors import InvalidInput

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""What zlib calls the two formats."""
_LEVEL = 1
"""Of our answers: three times faster than the usual 6, and numbers in JSON come out within a tenth of its size."""
_FORBIDDEN = re.compile(rb"q\s*=\s*0(\.0{0,3})?")
"""A weight that forbids (RFC 9110, 12.4.2)."""
WORTH_PACKING = 512
"""Bytes; a shorter answer stays as it is."""


class BadEncoding(InvalidInput):
    """A body that is not what its content-encoding says, or in one that is not taken."""

    default_code = "BAD_ENCODING"
    default_action = "Pack the body anew, or send it as it is."
    http_status = 400


class TooLarge(InvalidInput):
    """A body that unpacks to more than is taken."""

    default_code = "BODY_TOO_LARGE"
    default_action = "Send less in one request."
    http_status = 413


def unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Never makes more than `limit` bytes. Raises BadEncoding, TooLarge."""
    window = _WINDOWS.get(encoding)
    if window is None:
        raise BadEncoding(
            f"The content-encoding {encoding[:40].decode('latin-1')!r} is not taken.",
            code="UNKNOWN_ENCODING",
            next_action="Send the body as it is, or in gzip or deflate.",
        )
    unpacker = zlib.decompressobj(window)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadEncoding(f"The body is no {encoding.decode()}: {error}.") from error
    if len(plain) > limit:
        raise TooLarge(f"The body unpacks to more than {limit} bytes.")
    if not unpacker.eof or unpacker.unused_data:
        wrong = "goes on behind" if unpacker.eof else "ends in the middle of"
        raise BadEncoding(f"The body {wrong} its {encoding.decode()}.")
    return plain


def encoding_wanted(accepted: bytes) -> bytes:
    """The first of gzip and deflate that an accept-encoding header names without forbidding it, else b""."""
    for item in accepted.lower().split(b","):
        name, _, weight = item.partition(b";")
        if name.strip() in (b"gzip", b"deflate") and not _FORBIDDEN.fullmatch(weight.strip()):
            return name.strip()
    return b""


def packed(body: bytes, encoding: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[encoding])
    return packer.compress(body) + packer.flush()
