"""What each argument of a service, and of the objective of a stream's decisions, may be: its range and one example.
Whoever refuses a value, in a declaration, a request or an option, says it from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import PydanticCustomError

from skyriver.core.errors import InvalidInput
from skyriver.core.units import SECOND, format_duration, parse_duration

MOST_REPLICAS: Final = 64
MOST_CPUS: Final = 1_024
MOST_MEMORY_MB: Final = 2**24
MOST_AT_ONCE: Final = 1_000_000
MOST_PRIORITY: Final = 100
LEAST_ANSWER: Final = SECOND // 1000
"""A request to a loaded model and back takes about so long, through a gateway and two sockets."""
MOST_ANSWER: Final = 120 * SECOND
"""Then the gateway has given the request up, which is late anyway."""
MOST_PAUSE: Final = 30 * 86_400 * SECOND
"""Nobody declares a month in order to have replicas taken away, or to sleep; and a week of history is kept."""
MOST_SCORING_CPUS: Final = 64
LEAST_DECISION: Final = 5 * SECOND // 1000
"""A flush of the disk takes as long now and then."""


@dataclass(frozen=True, slots=True)
class Range:
    what: str
    example: str
    """As an argument in Python."""
    option: str = ""
    """What to write as an option, where that is written in another way."""
    least_us: int = 0
    most_us: int = 0
    unit: str = ""
    """Of a duration: what a bare number was probably meant in."""


def _duration(example: str, least_us: int, most_us: int = 0, unit: str = "s") -> Range:
    to = f" to {format_duration(most_us)}" if most_us else " on"
    what = f"a duration from {format_duration(least_us)}{to}"
    return Range(what, f'"{example}"', least_us=least_us, most_us=most_us, unit=unit)


_SHARE: Final = "a number above 0.5 and below 1"
SERVICE: Final[Mapping[str, Range]] = {
    "replicas": Range(
        f"a whole number from 1 to {MOST_REPLICAS}, or (least, most) with a least from 0 on",
        "(1, 4)",
        f"Write --replicas 3, or --replicas 1..8, with {MOST_REPLICAS} at the most.",
    ),
    "cpus": Range(f"a number of cores above 0, at most {MOST_CPUS:,}", "0.5"),
    "memory_mb": Range(f"a whole number from 1 to {MOST_MEMORY_MB:,}", "512"),
    "limit": Range("a whole number a second, from 1 to 999,999", '"100/s"'),
    "concurrency": Range(f"a whole number from 0, which is none, to {MOST_AT_ONCE:,}", "32"),
    "features": Range("features of a stream", "sr.FromStream(orders)"),
    "latency": _duration("150ms", LEAST_ANSWER, MOST_ANSWER, "ms"),
    "share": Range(_SHARE, "0.9"),
    "hold": _duration("5m", SECOND, MOST_PAUSE),
    "wake": _duration("5s", LEAST_ANSWER, MOST_ANSWER),
    "idle": _duration("10m", SECOND, MOST_PAUSE),
    "priority": Range(f"a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}", "10"),
}
DECISIONS: Final[Mapping[str, Range]] = {
    "latency": _duration("50ms", LEAST_DECISION, unit="ms"),
    "share": Range(f"{_SHARE}, of the events that are decided within latency", "0.99"),
    "deadline": Range("a duration, at most as long as latency", '"20ms"', unit="ms"),
    "cpus": Range(f"a whole number of cores from 1 to {MOST_SCORING_CPUS}, beside a latency", "2"),
    "cheaper": Range("the alias of a version that scores where latency cannot be kept", '"small"'),
}


def hint(of: Mapping[str, Range], name: str, given: object = None, *, option: bool = False) -> str:
    """What to write for `name`, and as near to what was given as can be guessed; "" where it is not known."""
    if name not in of:
        return ""
    known, example = of[name], _meant(name, of[name], given) or of[name].example
    if option:
        return known.option or f"--{name} is {known.what}: write --{name} {example.strip(chr(34))}."
    return f"{name} is {known.what}: write {name}={example}."


def _meant(name: str, known: Range, given: object) -> str:
    """150 for "150ms", 90 for 0.9; "" where it is no such slip."""
    if not isinstance(given, int | float) or isinstance(given, bool):
        return ""
    if name == "share":
        return f"{given / 100:g}" if 50 < given < 100 else ""
    if not known.unit or not 1 <= given < 1e6:
        return ""
    text = f"{given:.15g}{known.unit}"
    return f'"{text}"' if not outside(known, parse_duration(text)) else ""


def outside(known: Range, microseconds: int) -> str:
    """Why a duration is none of these; "" where it is one."""
    if microseconds < known.least_us:
        return f"is less than {format_duration(known.least_us)}"
    if known.most_us and microseconds > known.most_us:
        return f"is more than {format_duration(known.most_us)}"
    return ""


def duration(of: Mapping[str, Range], name: str, given: Any, what: str) -> int:
    """Microseconds of an argument. Raises InvalidInput (BAD_DURATION)."""
    try:
        return parse_duration(given, what)
    except InvalidInput as error:
        error.next_action = hint(of, name, given)
        raise


def unfit(name: str, why: str) -> PydanticCustomError:
    """Of a field of a specification that does not go with the others: it is named as that of a wrong value is."""
    return PydanticCustomError("value_error", "{error}", {"error": why, "field": name})


def field_of(found: Mapping[str, Any]) -> str:
    """Which argument one finding of pydantic's is about; "" where that is not said."""
    return str(found["loc"][0]) if found["loc"] else str(found.get("ctx", {}).get("field", ""))
