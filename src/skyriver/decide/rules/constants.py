"""What parts of a rule come to whatever the event is: `2 * 3`, `1 > 2`, `amount / 0`."""

from __future__ import annotations

import math
from enum import Enum
from typing import Literal, assert_never

from skyriver.decide.rules.tree import (
    COMPARE,
    Arithmetic,
    Calculate,
    Compare,
    Fixed,
    Join,
    Missing,
    Name,
    Not,
    Tree,
    parts_of,
)


class Standing(Enum):
    VARIES = "varies"
    """It may be one thing for one event and another for the next."""
    MISSING = "missing"
    """It is missing always, or a condition on something that is."""


VARIES: Literal[Standing.VARIES] = Standing.VARIES
MISSING: Literal[Standing.MISSING] = Standing.MISSING
Constant = float | str | bool | Standing


def constant(tree: Tree) -> Constant:
    """As the compiled rule has it, by Kleene's logic."""
    match tree:
        case Fixed(value=value):
            return value
        case Name():
            return VARIES
        case Missing(of=of, wanted=wanted):
            own = constant(of)
            return VARIES if own is VARIES else (own is MISSING) is wanted
        case Not(of=of):
            own = constant(of)
            return own if isinstance(own, Standing) else not own
        case Join(op=op, parts=parts):
            return _joined(op, [constant(part) for part in parts])
        case Compare(op=op, left=left, right=right):
            a, b = constant(left), constant(right)
            if isinstance(a, Standing) or isinstance(b, Standing):
                return MISSING if MISSING in (a, b) else VARIES
            return bool(COMPARE[op](a, b))
        case Calculate():
            return _calculated(tree)
        case _:
            assert_never(tree)


def _joined(op: Literal["and", "or"], parts: list[Constant]) -> Constant:
    ends = op == "or"
    if any(part is ends for part in parts):
        return ends
    if VARIES in parts:
        return VARIES
    return MISSING if MISSING in parts else not ends


def _calculated(tree: Calculate) -> Constant:
    a, b = constant(tree.left), constant(tree.right)
    if MISSING in (a, b) or divides_by_zero(tree):
        return MISSING
    if isinstance(a, Standing) or isinstance(b, Standing):
        return VARIES
    result = calculate(tree.op, float(a), float(b))
    return result if result == result else MISSING


def divides_by_zero(tree: Tree) -> bool:
    """Whether it is a division that comes to nothing for every event."""
    if not isinstance(tree, Calculate) or tree.op != "/":
        return False
    by = constant(tree.right)
    return not isinstance(by, Standing) and by == 0


def division_by_zero(tree: Tree) -> Tree | None:
    """The first one in a rule, as it is written."""
    if divides_by_zero(tree):
        return tree
    return next((found for part in parts_of(tree) if (found := division_by_zero(part)) is not None), None)


def calculate(op: Arithmetic, a: float, b: float) -> float:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a / b if b else math.nan  # as in features: a division by zero is missing
        case _:
            assert_never(op)
