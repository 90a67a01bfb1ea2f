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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from skyriver.core.errors import InvalidInput
from skyriver.data.border_values import (
    INT_HIGH,
    INT_LOW,
    Check,
    Reason,
    Refused,
    Rejection,
    Value,
    converter,
    parse_time,
    show,
)

if TYPE_CHECKING:
    from skyriver.core.spec_fields import FieldSpec

__all__ = [
    "Reason",
    "Rejection",
    "RowCleaner",
    "Rule",
    "Value",
    "compile_check",
    "compile_rule",
    "parse_time",
    "show",
    "summed_limit",
]


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
    from skyriver.core.spec_fields import GRID_LIMIT  # as TYPE_CHECKING

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
    raise InvalidInput(
        f"The field {field.name!r} cannot be cleaned: {why}.",
        code="BAD_FIELD",
        where=field.name,
        next_action=f"Correct the declaration of {field.name!r} and deploy again.",
    )


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
    from skyriver.core.spec_fields import FieldSpec  # as above

    bare = FieldSpec(name=field.name, type=field.type, time_unit=field.time_unit, max_length=field.max_length)
    given = field.fill
    if field.type == "int" and isinstance(given, float) and given.is_integer():
        given = int(given)  # JSON may have written a whole fill as 0.0
    try:
        return converter(bare, text_numbers=False)(given)
    except Refused as refused:
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
        self._checks = tuple(
            (f.name, compile_check(compile_rule(f, f.name in summed), text_numbers)) for f in self.fields
        )
        self._names = frozenset(f.name for f in self.fields)

    def clean(self, row: Mapping[str, object]) -> list[Value] | Rejection:
        """The clean values in field order, or why the row is refused. A key that is no field is refused."""
        get = row.get
        try:
            values = [check(get(name)) for name, check in self._checks]
        except Refused as refused:
            return refused.rejection
        if not self._names.issuperset(row):
            unknown = next(name for name in row if name not in self._names)
            message = f"{show(unknown)} is not one of the declared fields: {', '.join(f.name for f in self.fields)}."
            return Rejection(str(unknown), row[unknown], Reason.UNKNOWN_FIELD, message)
        return values


def compile_check(rule: Rule, text_numbers: bool = False) -> Check:
    """Takes what was given for the field (None: missing) and returns the clean value, or raises Refused."""
    convert = converter(rule.spec, text_numbers)
    test = _tester(rule)
    name, fill, nullable = rule.name, rule.fill, rule.spec.nullable

    def check(given: object) -> Value:
        value = convert(given) if given is not None else None
        if value is None:
            if fill is None:
                if nullable:
                    return None
                raise Refused(name, given, Reason.MISSING, f"{name} is missing.")
            value = fill
        if test is not None:
            test(value, given)
        return value

    return check


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
            raise Refused(name, given, Reason.OUT_OF_RANGE, message)
        if one_of:
            _test_allowed(name, value, given, allowed)
        if grid is not None and not -grid < value < grid:
            message = (
                f"{name} is {show(value)}: it is summed exactly, which allows absolute values below {grid:g};"
                " larger ones must be declared with ge and le."
            )
            raise Refused(name, given, Reason.OUT_OF_GRID, message)

    return test


def _test_allowed(
    name: str, value: object, given: object, allowed: frozenset[str] | frozenset[int] | frozenset[float]
) -> None:
    if value not in allowed:
        some = ", ".join(repr(v) for v in sorted(allowed)[:20])
        message = f"{name} is {show(value)}: it must be one of {some}{', ...' if len(allowed) > 20 else ''}."
        raise Refused(name, given, Reason.NOT_ALLOWED, message)


def _bounds(field: FieldSpec) -> str:
    pairs = ((">=", field.ge), (">", field.gt), ("<=", field.le), ("<", field.lt))
    return " and ".join(f"{sign} {bound:g}" for sign, bound in pairs if bound is not None)
