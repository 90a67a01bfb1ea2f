"""Durations and sizes as people write them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from skyriver.core.errors import InvalidInput

SECOND = 1_000_000
DAY = 86_400 * SECOND
"""Times and durations are whole microseconds everywhere."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_time(at: int) -> str | None:
    """Microseconds since 1970 as ISO 8601, to the microsecond, in UTC; None beyond the years that have a name."""
    try:
        return (_EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return None


def utc_time(at: float) -> str:
    """Microseconds since 1970 as people read them, to the second, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at / 1e6))


def iso_seconds(at: int) -> str:
    """The same as ISO 8601 has it, as in 2026-01-31T08:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1e6))


_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 7 * 86_400 * SECOND,
}
LONGEST = 2**62
"""Microseconds: clocks count to no more."""
_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)"
_DURATION = re.compile(rf"\s*{_NUMBER}\s*(us|ms|s|m|h|d|w)\s*")


def parse_duration(text: str, what: str = "a duration") -> int:
    """Microseconds of `"7d"`, `"90m"`, `"5ms"`, `"1.5h"`.

    Raises InvalidInput (BAD_DURATION) naming the value and the units there are.
    """
    found = _microseconds(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(
            f"{text!r:.60} is not {what}.",
            code="BAD_DURATION",
            next_action='Write a number, of 15 digits at most, and a unit of us, ms, s, m, h, d or w, as in "7d".',
        )
    return found


@lru_cache(maxsize=4_096)  # every pass and every look asks for those of every service
def _microseconds(text: str) -> int | None:
    found = _DURATION.fullmatch(text)
    microseconds = round(float(found[1]) * _UNITS[found[2]]) if found is not None else LONGEST + 1
    return microseconds if microseconds <= LONGEST else None


_RATE = re.compile(r"\s*([1-9]\d{0,5})\s*/\s*s\s*")


def parse_rate(text: str, what: str = "a rate") -> int:
    """ "100/s" as 100 a second. Raises InvalidInput (BAD_RATE)."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"{text!r} is not {what}.",
            code="BAD_RATE",
            next_action='Write a whole number a second, from 1 to 999,999, as in "100/s".',
        )
    return int(found[1])


_SIZES = {"MB": 1, "GB": 1_000, "TB": 1_000_000}
_SIZE = re.compile(rf"\s*{_NUMBER}\s*(MB|GB|TB)\s*")


def parse_memory(text: str, what: str = "a size") -> int:
    """MB (10^6 bytes) of `"512MB"`, `"1.5GB"`. Raises InvalidInput (BAD_SIZE)."""
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(
            f"{text!r:.60} is not {what}.",
            code="BAD_SIZE",
            next_action='Write a number and a unit of MB, GB or TB, as in "512MB" or "2GB".',
        )
    return round(float(found[1]) * _SIZES[found[2]])


_BYTES = {"B": 1, "KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_OF_BYTES = re.compile(rf"\s*{_NUMBER}\s*(B|KB|MB|GB)\s*")


def parse_bytes(text: str, what: str = "a size of a file") -> int:
    """Bytes of `"500KB"`, `"20MB"`. Raises InvalidInput (BAD_SIZE)."""
    found = _OF_BYTES.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(
            f"{text!r:.60} is not {what}.",
            code="BAD_SIZE",
            next_action='Write a number and a unit of B, KB, MB or GB, as in "500KB" or "20MB".',
        )
    return round(float(found[1]) * _BYTES[found[2]])


def format_bytes(size: int) -> str:
    """About how large, for people: "183 KB", "20 MB"."""
    for unit in ("GB", "MB", "KB"):
        if size >= _BYTES[unit]:
            return f"{size / _BYTES[unit]:.3g} {unit}"
    return f"{size} B"


def format_span(microseconds: int) -> str:
    """About how long, for people: "40 days", "3 hours", "61.5 s"."""
    seconds = microseconds / SECOND
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.3g} s"


def format_duration(microseconds: int) -> str:
    """The shortest exact form: 604800000000 -> "7d" (weeks are written in days)."""
    for unit in ("d", "h", "m", "s", "ms"):
        if microseconds and microseconds % _UNITS[unit] == 0:
            return f"{microseconds // _UNITS[unit]}{unit}"
    return f"{microseconds}us"
