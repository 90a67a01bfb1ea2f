"""Values at the border: what is given becomes a value of its field's type, or is refused.

The grammar of each type is in the head of `data.border`, whose half this is: here values are converted and scaled,
there filled and checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from skyriver.core.spec_fields import FieldSpec

Value = int | float | str | bool | None

INT_LOW, INT_HIGH = -(2**63), 2**63 - 1
TIME_LOW = (date(1, 1, 1).toordinal() - 719_163) * 86_400_000_000
TIME_HIGH = (date(9999, 12, 31).toordinal() - 719_163 + 1) * 86_400_000_000 - 1
"""Times are within the years 1 to 9999 (719,163 is the ordinal of 1970-01-01)."""
NUMBER_LENGTH = 400
"""The longest text that can be a number, in bytes; the exact decimal form of most doubles fits."""

_INT_TEXT = re.compile(r"[+-]?[0-9]+")
_FLOAT_TEXT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TIME_TEXT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r"(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)


_PLAIN_LENGTHS = frozenset({19, 23, 26})
_PLAIN_SIGNS = "--T::"
_DOT_OR_END = ("", ".")
_EPOCH = datetime(1970, 1, 1)


class Reason(StrEnum):
    """Why a row was refused. The words are in dead letters and answers: never change one."""

    MISSING = "MISSING"
    WRONG_TYPE = "WRONG_TYPE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    """Against `ge`, `gt`, `le`, `lt`, or more than 64 bits."""
    NOT_ALLOWED = "NOT_ALLOWED"
    """None of `one_of`."""
    TOO_LONG = "TOO_LONG"
    BAD_TEXT = "BAD_TEXT"
    """A NUL character or a lone surrogate."""
    BAD_TIME = "BAD_TIME"
    AHEAD_OF_CLOCK = "AHEAD_OF_CLOCK"
    """An event whose time lies further ahead than the stream's `ahead`."""
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    NOT_FINITE = "NOT_FINITE"
    OUT_OF_GRID = "OUT_OF_GRID"
    """Too large for the exact sums over this field (DESIGN 6.2)."""
    UNREADABLE = "UNREADABLE"
    """A line of a file that is not a JSON object."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row is refused: the first field, in field order, that is wrong. `value` is what was given."""

    field: str
    value: object
    reason: Reason
    message: str


class Refused(Exception):
    def __init__(self, field: str, value: object, reason: Reason, message: str) -> None:
        super().__init__()
        self.rejection = Rejection(field, value, reason, message)


Check = Callable[[object], Value]
"""Takes what was given (None: missing) and returns the clean value, or raises Refused."""


def converter(field: FieldSpec, text_numbers: bool) -> Check:
    """Conversion and scaling; None when the value is missing."""
    match field.type:
        case "int":
            return _int_converter(field, text_numbers)
        case "float":
            return _float_converter(field, text_numbers)
        case "bool":
            return _bool_converter(field, text_numbers)
        case "text":
            return _text_converter(field, text_numbers)
        case "time":
            return _time_converter(field, text_numbers)
        case other:
            assert_never(other)


def _int_converter(field: FieldSpec, text_numbers: bool) -> Check:
    name, scale = field.name, int(field.scale)

    def convert(given: object) -> Value:
        if type(given) is int:
            value = given * scale
        elif type(given) is float and given != given:
            return None
        elif text_numbers and type(given) is str:
            text = given.strip(" \t")
            if text == "" or text.lower() == "nan":
                return None
            if len(text) > NUMBER_LENGTH or not _INT_TEXT.fullmatch(text):
                raise wrong_type(name, given, "a whole number")
            value = int(text) * scale
        else:
            raise wrong_type(name, given, "a whole number")
        if INT_LOW <= value <= INT_HIGH:
            return value
        raise Refused(name, given, Reason.OUT_OF_RANGE, f"{name} is {show(given)}: it does not fit in 64 bits.")

    return convert


def _float_converter(field: FieldSpec, text_numbers: bool) -> Check:
    name, scale = field.name, float(field.scale)

    def convert(given: object) -> Value:
        if type(given) is float:
            value = given * scale
        elif type(given) is int:
            try:
                value = float(given) * scale
            except OverflowError:
                value = math.inf
        elif text_numbers and type(given) is str:
            text = given.strip(" \t")
            if text == "" or text.lower() == "nan":
                return None
            if len(text) > NUMBER_LENGTH or not _FLOAT_TEXT.fullmatch(text):
                raise wrong_type(name, given, _wanted(given))
            value = float(text) * scale
        else:
            raise wrong_type(name, given, _wanted(given))
        if math.isfinite(value):
            return value
        if value != value:
            return None
        raise Refused(name, given, Reason.NOT_FINITE, f"{name} is {show(given)}: it must be a finite number.")

    return convert


def _wanted(given: object) -> str:
    """Of a number: who spells one that is none hears which are."""
    spelt = given.strip().lstrip("+-").lower() if isinstance(given, str) else ""
    return "a finite number" if spelt in ("inf", "infinity", "nan") else "a number"


def _bool_converter(field: FieldSpec, text_numbers: bool) -> Check:
    name = field.name
    words: dict[str, Value] = {"": None, "true": True, "1": True, "false": False, "0": False}

    def convert(given: object) -> Value:
        if type(given) is bool:
            return given
        if type(given) is float and given != given:
            return None
        if text_numbers and type(given) is str:
            word = given.strip(" \t").lower()
            if word in words:
                return words[word]
        raise wrong_type(name, given, "true or false")

    return convert


def _text_converter(field: FieldSpec, text_numbers: bool) -> Check:
    name, longest = field.name, field.max_length

    def convert(given: object) -> Value:
        if type(given) is not str:
            if type(given) is float and given != given:
                return None
            raise wrong_type(name, given, "a text")
        if text_numbers and given == "":
            return None
        if "\0" in given or not (given.isascii() or _has_utf8(given)):
            raise Refused(name, given, Reason.BAD_TEXT, f"{name} holds a NUL character or a lone surrogate.")
        if given == "" and field.role == "id":
            raise Refused(name, given, Reason.MISSING, f"{name} is empty: an id must not be.")
        if len(given) > longest:
            message = f"{name} has {len(given)} characters: at most {longest} are allowed."
            raise Refused(name, given, Reason.TOO_LONG, message)
        return given

    return convert


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds of a unit; of nanoseconds there are 1000 in one."""


def _time_converter(field: FieldSpec, text_numbers: bool) -> Check:
    name, unit = field.name, field.time_unit
    factor = PER_UNIT.get(unit, 0)

    def convert(given: object) -> Value:
        number: object = given
        if type(given) is str:
            text = given.strip(" \t") if text_numbers else given
            if text_numbers and text == "":
                return None
            if text_numbers and len(text) <= NUMBER_LENGTH and _INT_TEXT.fullmatch(text):
                number = int(text)
            else:
                number = parse_time(text)
                if number is None:
                    message = f"{name} is {show(given)}: write a time as 2026-01-31T12:30:00.5Z."
                    raise Refused(name, given, Reason.BAD_TIME, message)
                return number
        if type(number) is int:
            value = number * factor if factor else number // 1000
            if field.role == "time" and (meant := unit_meant(number, unit)):
                message = f"{name} is {show(given)}, as {unit} since 1970 {_iso(value)}: {WORDS[meant]}?"
                raise Refused(name, given, Reason.BAD_TIME, f"{message} Declare sr.field(time_unit={meant!r}).")
            if TIME_LOW <= value <= TIME_HIGH:
                return value
            message = f"{name} is {show(given)}: as {unit} since 1970 it lies outside the years 1 to 9999."
            raise Refused(name, given, Reason.BAD_TIME, message)
        if type(given) is float and given != given:
            return None
        raise wrong_type(name, given, f"a time: ISO 8601, or a whole number of {unit} since 1970")

    return convert


WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
LIKELY = (631_152_000_000_000, 4_102_444_800_000_000)
"""The years 1990 to 2099."""


@cache
def units_mistaken(unit: str) -> dict[str, tuple[int, int]]:
    """Whole numbers, from and to, that are in 1990 to 2099 in a longer unit than `unit`. In `unit` they are in the
    first weeks of 1970, and no number is in those years in two of the longer ones."""
    longer = {"ns": ("us", "ms", "s"), "us": ("ms", "s"), "ms": ("s",)}.get(unit, ())
    return {meant: (LIKELY[0] // PER_UNIT[meant], LIKELY[1] // PER_UNIT[meant]) for meant in longer}


def unit_meant(number: int, unit: str) -> str:
    """The unit that an event's time `number` was most likely meant in; "" for its own."""
    return next((meant for meant, (low, high) in units_mistaken(unit).items() if low <= number < high), "")


def _iso(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="seconds")


def parse_time(text: str) -> int | None:
    """Microseconds since 1970 of an ISO 8601 text in the form of this module's head; None when it has none."""
    at = plain_time(text)
    if at is not None:
        return at
    found = _TIME_TEXT.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hour, off_minute = found.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - 719_163
    except ValueError:
        return None
    value = days * 86_400
    if hour is not None:
        hours, minutes, seconds = int(hour), int(minute), int(second or 0)
        if hours > 23 or minutes > 59 or seconds > 59:
            return None
        value += hours * 3_600 + minutes * 60 + seconds
    if sign is not None:
        hours, minutes = int(off_hour), int(off_minute or 0)
        if hours > 23 or minutes > 59:
            return None
        value -= (hours * 3_600 + minutes * 60) * (-1 if sign == "-" else 1)
    value *= 1_000_000
    if fraction is not None:
        value += int(fraction[:6].ljust(6, "0"))
    return value if TIME_LOW <= value <= TIME_HIGH else None


def plain_time(text: str) -> int | None:
    """As `parse_time`, of the form that programs write most, 2026-01-31T12:30:00[.000[000]] with Z, +00:00 or nothing
    behind it, in a fifth of the time; None: it may have another one. The places of the signs are checked here, for
    `fromisoformat` takes much more than we do."""
    if text[-1:] == "Z":
        plain = text[:-1]
    elif text[-6:] == "+00:00":
        plain = text[:-6]
    else:
        plain = text
    if len(plain) not in _PLAIN_LENGTHS or plain[4:17:3] != _PLAIN_SIGNS or plain[19:20] not in _DOT_OR_END:
        return None
    try:
        at = datetime.fromisoformat(plain)
    except ValueError:
        return None
    if at.tzinfo is not None:
        return None
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def wrong_type(name: str, given: object, wanted: str) -> Refused:
    return Refused(name, given, Reason.WRONG_TYPE, f"{name} is {show(given)}: it must be {wanted}.")


def show(value: object) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, str):
        value = value[:80]
    elif isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    elif isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'JSON object'}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
