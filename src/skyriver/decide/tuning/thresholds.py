"""The thresholds of rules: the numbers that something with the score is compared with. They can be chosen by data.

score >= 0.9 and amount > 100          has one, 0.9
score * amount >= 40 or score > 0.95   has two, 40 and 0.95
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from skyriver.decide.rules.tree import Compare, Comparison, Fixed, Join, Missing, Not, Tree, names_in, parts_of

OF_MODEL = frozenset({"score", "probability"})
"""Places of what a model says."""
_TURNED: dict[Comparison, Comparison] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""Those with an order; == and != have no threshold."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """`signal op value`, in the rule at a place."""

    rule: int
    signal: Tree
    op: Comparison
    value: float
    span: tuple[int, int]
    """Where the number stands in the rule's text."""

    @property
    def fires_above(self) -> bool:
        return self.op in (">", ">=")

    @property
    def inclusive(self) -> bool:
        """Whether a signal that equals the number counts as above it."""
        return self.op in (">=", "<")


def thresholds_of(rules: Sequence[Tree], of: Collection[int] | None = None) -> tuple[Threshold, ...]:
    """Of the rules at these places, or of all, in the order in which they are written."""
    places = range(len(rules)) if of is None else sorted(of)
    return tuple(found for place in places for found in _in(rules[place], place))


def _in(tree: Tree, rule: int) -> Iterator[Threshold]:
    own = _threshold(tree, rule)
    if own is not None:
        yield own
        return
    for part in parts_of(tree):
        yield from _in(part, rule)


def _threshold(tree: Tree, rule: int) -> Threshold | None:
    if not isinstance(tree, Compare) or tree.op not in _TURNED:
        return None
    left, right, op = tree.left, tree.right, tree.op
    if isinstance(left, Fixed):
        left, right, op = right, left, _TURNED[op]
    if not isinstance(right, Fixed) or not any(name.place in OF_MODEL for name in names_in(left)):
        return None
    return Threshold(rule, left, op, float(right.value), right.span)


def beside(tree: Tree) -> Iterator[Tree]:
    """The conditions of a rule that hold or not whatever its thresholds are, as large as they come."""
    if _threshold(tree, 0) is not None:
        return
    if next(_in(tree, 0), None) is None:
        yield tree
        return
    for part in parts_of(tree):
        yield from beside(part)


def with_thresholds(
    rules: Sequence[Tree], values: Sequence[float | bool], of: Collection[int] | None = None
) -> tuple[Tree, ...]:
    """The rules, those at these places with these numbers as their thresholds. A truth stands for the whole
    comparison."""
    left = iter(values)
    return tuple(
        tree if of is not None and place not in of else _replaced(tree, left) for place, tree in enumerate(rules)
    )


def _replaced(tree: Tree, values: Iterator[float | bool]) -> Tree:
    own = _threshold(tree, 0)
    if own is not None:
        value = next(values)
        return Fixed(value, "truth") if isinstance(value, bool) else Compare(own.op, own.signal, Fixed(value, "number"))
    match tree:
        case Join(op=op, parts=parts):
            return Join(op, tuple(_replaced(part, values) for part in parts))
        case Not(of=of):
            return Not(_replaced(of, values))
        case Missing(of=of, wanted=wanted):
            return Missing(_replaced(of, values), wanted)
        case Compare(op=op_, left=left, right=right):
            return Compare(op_, _replaced(left, values), _replaced(right, values))
        case _:
            return tree


def rewritten(text: str, spans: Sequence[tuple[int, int]], values: Sequence[float]) -> str:
    """A rule's text with other numbers in these places, which are in order."""
    for (start, end), value in reversed(list(zip(spans, values, strict=True))):
        text = text[:start] + spelled(value) + text[end:]
    return text


def spelled(value: float) -> str:
    """As short as it means the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
