"""Decision rules over many events at once: the same trees as `decide.rules.ruleset`, evaluated a column at a time.

A value is an array (or a constant) and where it is missing (None: nowhere); what stands there is any value. A condition
on something missing is neither true nor false, as for a single event: examined equal, event by event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.data.columns import Bools, Column, Columns
from skyriver.decide.rules.source import First
from skyriver.decide.rules.tree import COMPARE, Calculate, Compare, Fixed, Join, Missing, Name, Not, Tree

EXACT = 2**53
"""Whole numbers up to here are floats without loss."""

FEW, NARROW = 256, 64
"""Up to so many events of so many fields are decided one by one: a rule costs some 18 us for all columns, 0.02 us for
one event."""
Given = tuple[Any, Bools | None]
"""Values [n] or one for all, and which are missing."""
Evaluate = Callable[["Rows"], Given]


@dataclass(frozen=True, slots=True)
class Rows:
    """What rules see of n events: float64 [n], float32 [n, F] (or None), their fields, and float32 [n] (or None)."""

    scores: NDArray[np.float64]
    features: NDArray[np.float32] | None
    columns: Columns
    probabilities: NDArray[np.float32] | None = None
    """NaN for none."""


@lru_cache(16)
def compiled(rules: tuple[Tree, ...]) -> tuple[Evaluate, ...]:
    return tuple(compile_columns(rule) for rule in rules)


def first_that_fires(rules: tuple[Evaluate, ...], rows: Rows) -> NDArray[np.int64]:
    """Of each event, the place of the first rule that fires; their number where none does."""
    n = len(rows.columns)
    found = np.full(n, len(rules), np.int64)
    for place in range(len(rules) - 1, -1, -1):  # the first one has the last word
        values, missing = rules[place](rows)
        fires = values if isinstance(values, np.ndarray) else np.full(n, bool(values))
        if fires.dtype != np.bool_:
            fires = fires.astype(np.bool_)
        found[fires if missing is None else fires & ~missing] = place
    return found


def one_by_one(first: First, rows: Rows) -> NDArray[np.int64] | None:
    """The same by the function for single events; None where columns are faster."""
    columns = rows.columns
    if len(columns) > FEW or len(columns.columns) > NARROW:
        return None
    features = rows.features.tolist() if rows.features is not None else [()] * len(columns)
    said: list[float | None] = [None] * len(columns)
    if rows.probabilities is not None:
        said = [None if value != value else value for value in rows.probabilities.tolist()]
    given = zip(rows.scores.tolist(), features, columns.rows(), said, strict=True)
    return np.fromiter((first(*row) for row in given), np.int64, len(columns))


def at_places(values: tuple[int, ...], places: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array(values, np.int64)[places]


def compile_columns(tree: Tree) -> Evaluate:
    match tree:
        case Fixed(value=value):
            return lambda rows: (value, None)
        case Name():
            return _name(tree)
        case Compare(op=op, left=left, right=right):
            return _comparison(COMPARE[op], compile_columns(left), compile_columns(right))
        case Join(op=word, parts=parts):
            return _join(word == "and", tuple(compile_columns(part) for part in parts))
        case Not(of=of):
            inner = compile_columns(of)
            return lambda rows: _negated(inner(rows))
        case Missing(of=of, wanted=wanted):
            return _is_missing(compile_columns(of), wanted)
        case Calculate(op=op, left=left, right=right):
            return _calculation(op, compile_columns(left), compile_columns(right))
        case _:
            assert_never(tree)


def _name(name: Name) -> Evaluate:
    index = name.index
    match name.place:
        case "score":
            return lambda rows: (rows.scores, None)
        case "field" | "list":
            return lambda rows: _field(rows.columns.columns[index])
        case "feature":

            def feature(rows: Rows) -> Given:
                assert rows.features is not None
                values = rows.features[:, index].astype(np.float64)
                return values, np.isnan(values)

            return feature
        case "probability":

            def probability(rows: Rows) -> Given:
                values = np.full(len(rows.columns), np.nan)
                if rows.probabilities is not None:
                    values = rows.probabilities.astype(np.float64)
                return values, np.isnan(values)

            return probability
        case "counter":
            raise InvalidInput(
                f"The rules read {name.name!r}, which is known of one event after the other alone.",
                code="RULES_READ_COUNTERS",
                next_action="Leave the rules that read counters out.",
            )
        case _:
            assert_never(name.place)


def _field(column: Column) -> Given:
    if isinstance(column.values, list):
        texts = column.values if column.missing is None else [text or "" for text in column.values]
        return np.array(texts, object), column.missing
    return column.values, column.missing


def _comparison(compare: Callable[[Any, Any], Any], left: Evaluate, right: Evaluate) -> Evaluate:
    def both(rows: Rows) -> Given:
        (a, gone), (b, gone_too) = left(rows), right(rows)
        if _is_beyond_floats(a) or _is_beyond_floats(b):  # one by one, as Python compares whole numbers with floats
            a, b = np.asarray(a).astype(object), np.asarray(b).astype(object)
        with np.errstate(invalid="ignore"):  # NaN stands where a value is missing
            return compare(a, b), _either(gone, gone_too)

    return both


def _is_beyond_floats(values: Any) -> bool:
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or not len(values):
        return False
    return int(values.max()) > EXACT or int(values.min()) < -EXACT


def _either(one: Bools | None, other: Bools | None) -> Bools | None:
    if one is None or other is None:
        return other if one is None else one
    return one | other


def _calculation(op: str, left: Evaluate, right: Evaluate) -> Evaluate:
    def calculate(rows: Rows) -> Given:
        (a, gone), (b, gone_too) = left(rows), right(rows)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        with np.errstate(all="ignore"):
            match op:
                case "+":
                    found = a + b
                case "-":
                    found = a - b
                case "*":
                    found = a * b
                case _:
                    found = np.where(b != 0, a / b, np.nan)
        none = np.isnan(found)
        if not found.ndim:  # of constants alone
            none = np.full(len(rows.columns), none)
        return found, _either(_either(gone, gone_too), none)

    return calculate


def _join(every: bool, parts: tuple[Evaluate, ...]) -> Evaluate:
    """`and` where `every`, else `or`. One part that is sure decides: a false one of `and`, a true one of `or`."""

    def joined(rows: Rows) -> Given:
        n = len(rows.columns)
        decided, missing = np.zeros(n, np.bool_), None
        for part in parts:
            values, gone = part(rows)
            sure = np.broadcast_to(values, n).astype(np.bool_) ^ every
            decided |= sure if gone is None else sure & ~gone
            missing = _either(missing, gone)
        return decided ^ every, None if missing is None else missing & ~decided

    return joined


def _negated(given: Given) -> Given:
    values, missing = given
    return np.logical_not(np.asarray(values).astype(np.bool_)), missing


def _is_missing(inner: Evaluate, wanted: bool) -> Evaluate:
    def ask(rows: Rows) -> Given:
        missing = inner(rows)[1]
        if missing is None:
            return not wanted, None
        return missing if wanted else ~missing, None

    return ask
