"""Until when an answer is wanted: what a request says of it, as a moment of this process's own clock; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from skyriver.core.errors import InvalidInput
from skyriver.serve.batching import NO_DEADLINE

DEADLINE_HEADER = b"x-request-deadline"
"""Unix time in seconds, decimals allowed."""
ARRIVED_HEADER = b"x-skyriver-arrived"
"""When the request came to the gateway, in the same form; the gateway takes it away from what comes from outside."""


def until_ns(
    headers: Mapping[bytes, bytes], timeout_us: int | None, *, arrived_ns: int, now_ns: int, wall: float
) -> int:
    """The earlier of the header's moment and the protocol's timeout. `arrived_ns` and `now_ns` are of the clock that
    the answer is in, `wall` is the Unix time now.

    Raises InvalidInput (BAD_DEADLINE) where a header is no time.
    """
    until = NO_DEADLINE
    if DEADLINE_HEADER in headers:
        until = now_ns + _ns(_seconds(headers, DEADLINE_HEADER) - wall)
    if timeout_us is not None:
        if ARRIVED_HEADER in headers:
            arrived_ns = min(arrived_ns, now_ns + _ns(_seconds(headers, ARRIVED_HEADER) - wall))
        until = min(until, arrived_ns + timeout_us * 1000)
    return until


def _seconds(headers: Mapping[bytes, bytes], name: bytes) -> float:
    text = headers[name].decode("latin-1")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidInput(
            f"The header {name.decode()} is {text[:80]!r}.",
            code="BAD_DEADLINE",
            next_action="Send the Unix time in seconds, e.g. 1767225600.25.",
        )
    return seconds


def _ns(seconds: float) -> int:
    return int(max(-1e9, min(seconds, 1e9)) * 1e9)
