"""The typed tree of a decision rule, which the language's parser makes and all that decides, tunes and checks reads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

from skyriver.core.errors import InvalidInput

MAX_STEPS = 200
"""From a rule that is declared down to a name: a sum of so many parts is computed one in the other. What was declared
before there was this bound goes on with more, up to what Python's own recursion takes (some 400)."""

Type = Literal["number", "text", "truth"]
Comparison = Literal["<", "<=", ">", ">=", "==", "!="]
Arithmetic = Literal["+", "-", "*", "/"]
COMPARE: Mapping[Comparison, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
"""Of two values, or of two columns."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something that has a value at an event: where it is found is its `place`."""

    name: str
    type: Type
    place: Literal["score", "probability", "feature", "field", "list", "counter"]
    index: int = 0
    """Position among the features, or in the values: the stream's fields, behind them what lists say, at the end (below
    zero) the counters."""


@dataclass(frozen=True, slots=True)
class Fixed:
    value: float | str | bool
    type: Type
    span: tuple[int, int] = field(default=(0, 0), compare=False, repr=False)
    """Of a number, where it stands in the rule: from the first character (from 0) up to the one behind it."""


@dataclass(frozen=True, slots=True)
class Compare:
    op: Comparison
    left: Tree
    right: Tree
    type: Type = "truth"


@dataclass(frozen=True, slots=True)
class Join:
    op: Literal["and", "or"]
    parts: tuple[Tree, ...]
    type: Type = "truth"


@dataclass(frozen=True, slots=True)
class Not:
    of: Tree
    type: Type = "truth"


@dataclass(frozen=True, slots=True)
class Missing:
    of: Tree
    wanted: bool
    """`is missing`, or `is not missing`."""
    type: Type = "truth"


@dataclass(frozen=True, slots=True)
class Calculate:
    op: Arithmetic
    left: Tree
    right: Tree
    type: Type = "number"


Tree = Name | Fixed | Compare | Join | Not | Missing | Calculate


def check_steps(tree: Tree) -> None:
    """Raises InvalidInput (BAD_RULE) for one that nobody may declare any more."""
    found, level = 0, [tree]
    while level:
        found, level = found + 1, [part for own in level for part in parts_of(own)]
    if found > MAX_STEPS:
        raise too_many_steps()


def too_many_steps() -> InvalidInput:
    return InvalidInput(
        f"column 1: a rule is computed in at most {MAX_STEPS} steps, one in the other",
        code="BAD_RULE",
        next_action="Compute a part of it as a feature.",
    )


def parts_of(tree: Tree) -> tuple[Tree, ...]:
    match tree:
        case Name() | Fixed():
            return ()
        case Compare(left=left, right=right) | Calculate(left=left, right=right):
            return (left, right)
        case Join(parts=parts):
            return parts
        case Not(of=of) | Missing(of=of):
            return (of,)
        case _:
            assert_never(tree)


def names_in(tree: Tree) -> Iterator[Name]:
    """All that it reads, in the order in which it is written."""
    if isinstance(tree, Name):
        yield tree
    for part in parts_of(tree):
        yield from names_in(part)


def fixed_in(tree: Tree) -> Iterator[Fixed]:
    """Its constants, in the order in which they are written."""
    if isinstance(tree, Fixed):
        yield tree
    for part in parts_of(tree):
        yield from fixed_in(part)
