"""The border for one row: what comes from a stream or over HTTP is cleaned here, without state (DESIGN 6.3).

`FieldSpec` in `core.spec` gives the order: convert, scale, fill what is missing, check. What it leaves open is
settled here, the same for rows and (examined) for whole frames in `data.border_frame`:

- int    a whole number that fits in 64 bits. A bool is none; 3.0 is none either, nor is a column of floats: an id
         that passed through floats may already be another id.
- float  a finite number, whole or not; NaN is missing. Infinity, also one that `scale` made, is NOT_FINITE.
- bool   true or false. 0 and 1 are numbers.
- text   no NUL character and no lone surrogate, at most `max_length` characters.
- time   ISO 8601 `YYYY-MM-DD[(T| )hh:mm[:ss[.fraction]][Z|+hh[[:]mm]]]`, UTC without an offset, cut to
         microseconds; or a whole number of `time_unit`, rounded down to microseconds. In the years 1 to 9999: a
         number of nanoseconds that is taken for microseconds lies beyond and is found out.

In CSV everything is text (`text_numbers`): spaces and tabs around a number, time or bool do not count, an empty
text is missing, so is `nan` in a number; `1.5e3` and `+5` are numbers; true, false, 1 and 0 in any case are bools; only
digits are a number of `time_unit`.

Scale of an int is a whole number and exact. `fill` is a value after conversion and scaling, and is checked
like any other. Bounds of a time count in microseconds, bounds of a bool take it as 0 or 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import NoReturn, assert_never

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import GRID_LIMIT, FieldSpec

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


class _Refused(Exception):
    def __init__(self, field: str, value: object, reason: Reason, message: str) -> None:
        super().__init__()
        self.rejection = Rejection(field, value, reason, message)


Check = Callable[[object], Value]
"""Takes what was given (None: missing) and returns the clean value, or raises _Refused."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A FieldSpec made ready: what the cleaning of rows and of frames have in common. Bounds of whole numbers are whole
    and inclusive; `grid` is exclusive, of the absolute value."""

    name: str
    low: int | float | None
    high: int | float | None
    low_open: bool
    high_open: bool
    grid: float | None
    allowed: frozenset[str] | frozenset[int] | frozenset[float]
    scale: int | float
    fill: Value
    spec: FieldSpec


def summed_limit(field: FieldSpec) -> float:
    """Values of a summed field are below this in absolute value: 2^22, or what is declared if that is more."""
    bounds = [b for b in (field.ge, field.gt, field.le, field.lt) if b is not None and math.isfinite(b)]
    largest = max((abs(b) for b in (*bounds, *_numbers(field))), default=0.0)
    return math.nextafter(largest, math.inf) if largest >= GRID_LIMIT else float(GRID_LIMIT)


def compile_rule(field: FieldSpec, summed: bool) -> Rule:
    """Raises InvalidInput (BAD_FIELD) for a declaration that means nothing, such as a bound of a text."""
    bounds = (field.ge, field.gt, field.le, field.lt)
    if any(b is not None and math.isnan(b) for b in bounds):
        _refuse_field(field, "a bound is not a number")
    if field.type == "text" and any(b is not None for b in bounds):
        _refuse_field(field, "ge, gt, le and lt are for numbers, and it is a text")
    if field.scale != 1.0 and field.type not in ("int", "float"):
        _refuse_field(field, f"scale is for numbers, and it is a {field.type}")
    if not math.isfinite(field.scale) or field.scale == 0:
        _refuse_field(field, f"{field.scale} is no scale")
    if field.type == "int" and (not field.scale.is_integer() or abs(field.scale) > 2**53):
        _refuse_field(field, f"the scale {field.scale} is not a whole number: declare a float")
    if summed and field.type not in ("int", "float", "bool"):
        _refuse_field(field, f"a {field.type} cannot be summed")
    low, low_open = _tighter(field.ge, field.gt, max)
    high, high_open = _tighter(field.le, field.lt, min)
    if field.type != "float":
        low = None if low is None else _whole(low, low_open, up=True)
        high = None if high is None else _whole(high, high_open, up=False)
        low_open = high_open = False
    rule = Rule(
        name=field.name,
        low=low,
        high=high,
        low_open=low_open,
        high_open=high_open,
        grid=summed_limit(field) if summed else None,
        allowed=_allowed(field),
        scale=int(field.scale) if field.type == "int" else field.scale,
        fill=None,
        spec=field,
    )
    if field.fill is None:
        return rule
    return replace(rule, fill=_fill(field))


def _refuse_field(field: FieldSpec, why: str) -> NoReturn:
    raise InvalidInput(f"The field {field.name!r} cannot be cleaned: {why}.", code="BAD_FIELD", where=field.name)


def _tighter(
    closed: float | None, opened: float | None, pick: Callable[[float, float], float]
) -> tuple[float | None, bool]:
    """The tighter of an inclusive and an exclusive bound, and whether it is the exclusive one."""
    if closed is None or opened is None:
        return (opened, True) if closed is None else (closed, False)
    tight = pick(closed, opened)
    return tight, tight == opened


def _whole(bound: float, opened: bool, *, up: bool) -> int | None:
    """The inclusive whole bound that means the same for whole numbers; None for none."""
    if math.isinf(bound):
        nothing = (bound > 0) == up  # >= infinity
        return (INT_HIGH + 1 if up else INT_LOW - 1) if nothing else None
    if up:
        return math.floor(bound) + 1 if opened else math.ceil(bound)
    return math.ceil(bound) - 1 if opened else math.floor(bound)


def _numbers(field: FieldSpec) -> list[float]:
    return [float(v) for v in field.one_of if not isinstance(v, str)]


def _allowed(field: FieldSpec) -> frozenset[str] | frozenset[int] | frozenset[float]:
    texts = [v for v in field.one_of if isinstance(v, str)]
    numbers = [v for v in field.one_of if not isinstance(v, str)]
    if (numbers and field.type == "text") or (texts and field.type != "text"):
        _refuse_field(field, f"one_of holds values that are no {field.type}")
    if field.type == "text":
        return frozenset(texts)
    return frozenset(float(n) for n in numbers) if field.type == "float" else frozenset(int(n) for n in numbers)


def _fill(field: FieldSpec) -> Value:
    """`fill` as a clean value; its scale has been applied already."""
    bare = FieldSpec(name=field.name, type=field.type, time_unit=field.time_unit, max_length=field.max_length)
    plain = compile_rule(bare, summed=False)
    given = field.fill
    if field.type == "int" and isinstance(given, float) and given.is_integer():
        given = int(given)  # JSON may have written a whole fill as 0.0
    try:
        return _converter(plain, text_numbers=False)(given)
    except _Refused as refused:
        _refuse_field(field, f"its fill does not fit: {refused.rejection.message}")


class RowCleaner:
    """Cleans rows of plain JSON values (dict, list, str, int, float, bool, None), one at a time.

    Compiled once per set of fields; `summed` names the fields that some feature sums. Raises InvalidInput (BAD_FIELD).
    """

    __slots__ = ("_checks", "_names", "fields")

    def __init__(
        self, fields: Sequence[FieldSpec], summed: frozenset[str] = frozenset(), *, text_numbers: bool = False
    ) -> None:
        self.fields = tuple(fields)
        self._checks = tuple((f.name, _compile(compile_rule(f, f.name in summed), text_numbers)) for f in self.fields)
        self._names = frozenset(f.name for f in self.fields)

    def clean(self, row: Mapping[str, object]) -> list[Value] | Rejection:
        """The clean values in field order, or why the row is refused. A key that is no field is refused."""
        get = row.get
        try:
            values = [check(get(name)) for name, check in self._checks]
        except _Refused as refused:
            return refused.rejection
        if not self._names.issuperset(row):
            unknown = next(name for name in row if name not in self._names)
            message = f"{show(unknown)} is not one of the declared fields: {', '.join(f.name for f in self.fields)}."
            return Rejection(str(unknown), row[unknown], Reason.UNKNOWN_FIELD, message)
        return values


def _compile(rule: Rule, text_numbers: bool) -> Check:
    convert = _converter(rule, text_numbers)
    test = _tester(rule)
    name, fill, nullable = rule.name, rule.fill, rule.spec.nullable

    def check(given: object) -> Value:
        value = convert(given) if given is not None else None
        if value is None:
            if fill is None:
                if nullable:
                    return None
                raise _Refused(name, given, Reason.MISSING, f"{name} is missing.")
            value = fill
        if test is not None:
            test(value, given)
        return value

    return check


def _converter(rule: Rule, text_numbers: bool) -> Check:
    """Conversion and scaling; None when the value is missing."""
    match rule.spec.type:
        case "int":
            return _int_converter(rule, text_numbers)
        case "float":
            return _float_converter(rule, text_numbers)
        case "bool":
            return _bool_converter(rule, text_numbers)
        case "text":
            return _text_converter(rule, text_numbers)
        case "time":
            return _time_converter(rule, text_numbers)
        case other:
            assert_never(other)


def _int_converter(rule: Rule, text_numbers: bool) -> Check:
    name, scale = rule.name, int(rule.scale)

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
                raise _wrong_type(name, given, "a whole number")
            value = int(text) * scale
        else:
            raise _wrong_type(name, given, "a whole number")
        if INT_LOW <= value <= INT_HIGH:
            return value
        raise _Refused(name, given, Reason.OUT_OF_RANGE, f"{name} is {show(given)}: it does not fit in 64 bits.")

    return convert


def _float_converter(rule: Rule, text_numbers: bool) -> Check:
    name, scale = rule.name, float(rule.scale)

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
                raise _wrong_type(name, given, "a number")
            value = float(text) * scale
        else:
            raise _wrong_type(name, given, "a number")
        if math.isfinite(value):
            return value
        if value != value:
            return None
        raise _Refused(name, given, Reason.NOT_FINITE, f"{name} is {show(given)}: it is not finite.")

    return convert


def _bool_converter(rule: Rule, text_numbers: bool) -> Check:
    name = rule.name
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
        raise _wrong_type(name, given, "true or false")

    return convert


def _text_converter(rule: Rule, text_numbers: bool) -> Check:
    name, longest = rule.name, rule.spec.max_length

    def convert(given: object) -> Value:
        if type(given) is not str:
            if type(given) is float and given != given:
                return None
            raise _wrong_type(name, given, "a text")
        if text_numbers and given == "":
            return None
        if "\0" in given or not (given.isascii() or _has_utf8(given)):
            raise _Refused(name, given, Reason.BAD_TEXT, f"{name} holds a NUL character or a lone surrogate.")
        if len(given) > longest:
            message = f"{name} has {len(given)} characters: at most {longest} are allowed."
            raise _Refused(name, given, Reason.TOO_LONG, message)
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


def _time_converter(rule: Rule, text_numbers: bool) -> Check:
    name, unit = rule.name, rule.spec.time_unit
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
                    raise _Refused(name, given, Reason.BAD_TIME, message)
                return number
        if type(number) is int:
            value = number * factor if factor else number // 1000
            if TIME_LOW <= value <= TIME_HIGH:
                return value
            message = f"{name} is {show(given)}: as {unit} since 1970 it lies outside the years 1 to 9999."
            raise _Refused(name, given, Reason.BAD_TIME, message)
        if type(given) is float and given != given:
            return None
        raise _wrong_type(name, given, f"a time: ISO 8601, or a whole number of {unit} since 1970")

    return convert


def parse_time(text: str) -> int | None:
    """Microseconds since 1970 of an ISO 8601 text in the form of this module's head; None when it has none."""
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


def _tester(rule: Rule) -> Callable[..., None] | None:
    """Bounds, one_of and grid, in this order; None when there is nothing to test."""
    name, low, high, allowed, grid = rule.name, rule.low, rule.high, rule.allowed, rule.grid
    if rule.spec.type == "text":
        return (lambda value, given: _test_allowed(name, value, given, allowed)) if rule.spec.one_of else None
    if low is None and high is None and grid is None and not rule.spec.one_of:
        return None
    below = low if low is not None else -math.inf
    above = high if high is not None else math.inf
    low_open, high_open, one_of = rule.low_open, rule.high_open, bool(rule.spec.one_of)

    def test(value: float, given: object) -> None:
        if value < below or value > above or (low_open and value == below) or (high_open and value == above):
            message = f"{name} is {show(value)}: it must be {_bounds(rule.spec)}."
            raise _Refused(name, given, Reason.OUT_OF_RANGE, message)
        if one_of:
            _test_allowed(name, value, given, allowed)
        if grid is not None and not -grid < value < grid:
            message = (
                f"{name} is {show(value)}: it is summed exactly, which allows absolute values below {grid:g};"
                " larger ones must be declared with ge and le."
            )
            raise _Refused(name, given, Reason.OUT_OF_GRID, message)

    return test


def _test_allowed(
    name: str, value: object, given: object, allowed: frozenset[str] | frozenset[int] | frozenset[float]
) -> None:
    if value not in allowed:
        some = ", ".join(repr(v) for v in sorted(allowed)[:20])
        message = f"{name} is {show(value)}: it must be one of {some}{', ...' if len(allowed) > 20 else ''}."
        raise _Refused(name, given, Reason.NOT_ALLOWED, message)


def _bounds(field: FieldSpec) -> str:
    pairs = ((">=", field.ge), (">", field.gt), ("<=", field.le), ("<", field.lt))
    return " and ".join(f"{sign} {bound:g}" for sign, bound in pairs if bound is not None)


def _wrong_type(name: str, given: object, wanted: str) -> _Refused:
    return _Refused(name, given, Reason.WRONG_TYPE, f"{name} is {show(given)}: it must be {wanted}.")


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
