"""Decision rules as one Python function that tells which of them fires first: a quarter of what their closures take.

It is made of the typed trees alone, never of text that somebody wrote: names stand in it by their places, numbers and
texts as Python writes them.

In three-valued logic a condition is true, false or neither. Each is written by when it is true, and where a `not` is
above it by when it is false: `a and b` is false when a is false or b is false. So nothing in between is ever computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, assert_never

from skyriver.decide.rules.tree import Calculate, Compare, Fixed, Join, Missing, Name, Not, Tree, names_in

First = Callable[[float, Sequence[float], Sequence[Any], float | None], int]
"""(score, features, values, probability) -> the place of the first rule that fires, or how many there are."""

LONGEST: Final = 10_000
"""Characters of a rule; what asks `is missing` of conditions may grow beyond all bounds: its closure is run then."""
_GIVEN: Final = "score, features, values, probability"


def compile_first(rules: Sequence[tuple[Tree, Callable[..., Any]]]) -> First:
    """Of trees with the closures that do the same."""
    names: dict[str, Any] = {"nan": math.nan}
    conditions = []
    for place, (tree, closure) in enumerate(rules):
        try:
            condition = _Writer().true(tree)
            compile(condition, "<rule>", "eval")  # Python bounds how deep brackets are nested
            conditions.append(condition)
        except (_TooLong, SyntaxError, RecursionError):
            names[f"rule{place}"] = closure
            conditions.append(f"rule{place}({_GIVEN}) is True")
    lines = [f"def first({_GIVEN}):"]
    lines += [f"    {line}" for line in _loads([tree for tree, _ in rules])]
    lines += [f"    if {condition}: return {place}" for place, condition in enumerate(conditions)]
    lines.append(f"    return {len(rules)}")
    exec(compile("\n".join(lines), "<rules>", "exec"), names)  # noqa: S102  # written above, of numbers and places
    found: First = names["first"]
    return found


def _loads(trees: Sequence[Tree]) -> Iterator[str]:
    """What rules read, each once."""
    for name in dict.fromkeys(name for tree in trees for name in names_in(tree)):
        if name.place == "feature":
            yield f"{_variable(name)} = features[{name.index}]"
        elif name.place not in ("score", "probability"):
            yield f"{_variable(name)} = values[{name.index}]"


def _variable(name: Name) -> str:
    match name.place:
        case "score" | "probability":
            return name.place
        case "feature":
            return f"f{name.index}"
        case "field" | "list" | "counter":
            return f"v{name.index}" if name.index >= 0 else f"w{-name.index}"
        case _:
            assert_never(name.place)


class _TooLong(Exception):
    pass


class _Writer:
    """One rule. A feature is missing by being NaN, everything else by being None."""

    def __init__(self) -> None:
        self._temporaries = 0

    def true(self, tree: Tree) -> str:
        match tree:
            case Fixed(value=value):
                return str(bool(value))
            case Name():
                return _variable(tree)  # None is not true either
            case Not(of=of):
                return self.false(of)
            case Join(op=op, parts=parts):
                return _joined(op, map(self.true, parts))
            case Compare():
                return self._compared(tree, wanted=True)
            case Missing(of=of, wanted=wanted):
                return self.missing(of) if wanted else f"(not {self.missing(of)})"
            case Calculate():
                raise AssertionError("a number is no condition")
            case _:
                assert_never(tree)

    def false(self, tree: Tree) -> str:
        match tree:
            case Fixed(value=value):
                return str(not value)
            case Name():
                return f"({_variable(tree)} is False)"
            case Not(of=of):
                return self.true(of)
            case Join(op=op, parts=parts):
                return _joined("or" if op == "and" else "and", map(self.false, parts))
            case Compare():
                return self._compared(tree, wanted=False)
            case Missing(of=of, wanted=wanted):
                return f"(not {self.missing(of)})" if wanted else self.missing(of)
            case Calculate():
                raise AssertionError("a number is no condition")
            case _:
                assert_never(tree)

    def missing(self, tree: Tree) -> str:
        match tree:
            case Fixed():
                return "False"
            case Name(place="score"):
                return "False"
            case Name(place="feature"):
                return f"({_variable(tree)} != {_variable(tree)})"
            case Name():
                return f"({_variable(tree)} is None)"
            case Not(of=of):
                return self.missing(of)
            case Compare(left=left, right=right):
                return _joined("or", (self.missing(left), self.missing(right)))
            case Join() | Missing():
                return f"(not {self.true(tree)} and not {self.false(tree)})"
            case Calculate():
                own = self._temporary()
                return f"(({own} := {self._number(tree)}) != {own})"
            case _:
                assert_never(tree)

    def _compared(self, tree: Compare, *, wanted: bool) -> str:
        """Both sides are there, and it holds, or does not."""
        there, sides = [], []
        for side in (tree.left, tree.right):
            if isinstance(side, Calculate):
                own = self._temporary()
                there.append(f"({own} := {self._number(side)}) == {own}")
                sides.append(own)
            else:
                missing = self.missing(side)
                there += [] if missing == "False" else [f"not {missing}"]
                sides.append(_literal(side) if isinstance(side, Fixed) else self._value(side))
        holds = f"{sides[0]} {tree.op} {sides[1]}"
        return _joined("and", (*there, holds if wanted else f"not {holds}"))

    def _value(self, side: Tree) -> str:
        """Of what is there: a name, or a condition that is compared with a truth."""
        return _variable(side) if isinstance(side, Name) else f"({self.true(side)})"

    def _number(self, tree: Tree) -> str:
        """As a float, NaN where it is missing."""
        match tree:
            case Fixed():
                return f"float({_literal(tree)})"
            case Name(place="score" | "feature"):
                return f"float({_variable(tree)})"
            case Name():
                return f"(nan if {_variable(tree)} is None else float({_variable(tree)}))"
            case Calculate(op="/", left=left, right=right):
                own = self._temporary()
                above = self._number(left)
                return _short(f"({above} / {own} if ({own} := {self._number(right)}) else nan)")
            case Calculate(op=op, left=left, right=right):
                return _short(f"({self._number(left)} {op} {self._number(right)})")
            case _:
                raise AssertionError("a condition is no number")

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"


def _joined(word: str, parts: Iterator[str] | Sequence[str]) -> str:
    return _short(f"({f' {word} '.join(parts)})")


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise _TooLong
    return text


def _literal(fixed: Fixed) -> str:
    value = fixed.value
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)
