"""Rules as closures: what one computes of an event, from its tree.

A condition on something missing is neither true nor false (None, Kleene's logic); see `decide.rules.ruleset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from skyriver.decide.rules.constants import calculate
from skyriver.decide.rules.tree import (
    COMPARE,
    Calculate,
    Compare,
    Fixed,
    Join,
    Missing,
    Name,
    Not,
    Tree,
    too_many_steps,
)

Values = Sequence[int | float | str | bool | None]
Operand = int | float | str | bool | None
Evaluate = Callable[[float, Sequence[float], Values, float | None], Operand]
"""(score, features, values, probability) -> value; values are those of the fields, and then those of the counters;
None is missing, or a condition on something missing."""


def compiled_rule(tree: Tree) -> Evaluate:
    """Raises InvalidInput (BAD_RULE) for one that nobody may declare any more, and that is too deep for Python."""
    try:
        return compile_tree(tree)
    except RecursionError as error:
        raise too_many_steps() from error


def compile_tree(tree: Tree) -> Evaluate:
    match tree:
        case Fixed(value=value):
            return lambda score, features, values, probability: value
        case Name():
            return _compile_name(tree)
        case Compare():
            return _compile_comparison(tree)
        case Join(op="and", parts=parts):
            return _all_of(tuple(compile_tree(p) for p in parts))
        case Join(parts=parts):
            return _any_of(tuple(compile_tree(p) for p in parts))
        case Not(of=of):
            return _not(compile_tree(of))
        case Missing(of=of, wanted=wanted):
            inner = compile_tree(of)
            return lambda score, features, values, probability: (
                (inner(score, features, values, probability) is None) is wanted
            )
        case Calculate():
            return _compile_calculation(tree)
        case _:
            assert_never(tree)


def _compile_name(name: Name) -> Evaluate:
    index = name.index
    match name.place:
        case "score":
            return lambda score, features, values, probability: score
        case "probability":
            return lambda score, features, values, probability: probability
        case "field" | "list" | "counter":
            return lambda score, features, values, probability: values[index]
        case "feature":

            def feature(score: float, features: Sequence[float], values: Values, probability: float | None) -> Operand:
                value = features[index]
                return value if value == value else None  # NaN is missing

            return feature
        case _:
            assert_never(name.place)


def _compile_comparison(tree: Compare) -> Evaluate:
    compare = COMPARE[tree.op]
    if isinstance(tree.right, Fixed) and isinstance(tree.left, Name):
        limit = tree.right.value
        if tree.left.place == "score":  # never missing; by far the most frequent rule
            return lambda score, features, values, probability: compare(score, limit)
        if tree.left.place == "field":
            index = tree.left.index

            def field_to_limit(
                score: float, features: Sequence[float], values: Values, probability: float | None
            ) -> Operand:
                value = values[index]
                return None if value is None else compare(value, limit)

            return field_to_limit
    left, right = compile_tree(tree.left), compile_tree(tree.right)

    def both(score: float, features: Sequence[float], values: Values, probability: float | None) -> Operand:
        a = left(score, features, values, probability)
        b = right(score, features, values, probability)
        return None if a is None or b is None else compare(a, b)

    return both


def _compile_calculation(tree: Calculate) -> Evaluate:
    left, right = compile_tree(tree.left), compile_tree(tree.right)
    op = tree.op

    def calculated(score: float, features: Sequence[float], values: Values, probability: float | None) -> Operand:
        a = left(score, features, values, probability)
        b = right(score, features, values, probability)
        if a is None or b is None:
            return None
        result = calculate(op, float(a), float(b))
        return result if result == result else None  # NaN (infinity less infinity) is missing

    return calculated


def _all_of(parts: tuple[Evaluate, ...]) -> Evaluate:
    def every(score: float, features: Sequence[float], values: Values, probability: float | None) -> Operand:
        result: Operand = True
        for part in parts:
            value = part(score, features, values, probability)
            if value is None:
                result = None
            elif not value:
                return False
        return result

    return every


def _any_of(parts: tuple[Evaluate, ...]) -> Evaluate:
    def some(score: float, features: Sequence[float], values: Values, probability: float | None) -> Operand:
        result: Operand = False
        for part in parts:
            value = part(score, features, values, probability)
            if value is None:
                result = None
            elif value:
                return True
        return result

    return some


def _not(inner: Evaluate) -> Evaluate:
    def negated(score: float, features: Sequence[float], values: Values, probability: float | None) -> Operand:
        value = inner(score, features, values, probability)
        return None if value is None else not value

    return negated
