"""Rules that can never fire: what each demands, and whether rules before it take all of that.

A rule is brought into clauses of which one must hold (disjunctive normal form, of being surely true). A clause is what
it demands of each name: an interval, some texts, a truth, to be there or to be missing; anything else is taken as it is
written. Only what is sure is told: a rule of which nothing is said may be unreachable all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from skyriver.core.expr import Aggregate, Binary, Calendar, Node, Same, Unary
from skyriver.core.spec import CounterSpec, FeatureSetSpec, FieldSpec, StreamSpec
from skyriver.decide.rules.constants import VARIES, Standing, constant
from skyriver.decide.rules.ruleset import RuleSet, shown
from skyriver.decide.rules.tree import Compare, Comparison, Fixed, Join, Missing, Name, Not, Tree

MOST_CLAUSES = 64
"""Of a rule; one with more of them is not looked at."""

_NEGATED: Mapping[Comparison, Comparison] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_TURNED: Mapping[Comparison, Comparison] = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

Literal = tuple[Tree, bool]
"""What must be surely true, or surely false."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one name: numbers from `low` to `high`, one of the texts `among` (None: any), none of `never` (numbers or
    texts), a truth, and whether it is there."""

    low: tuple[float, bool] = (-math.inf, False)
    """The bound, and whether it is excluded."""
    high: tuple[float, bool] = (math.inf, False)
    among: frozenset[str] | None = None
    never: frozenset[float | str] = frozenset()
    truth: bool | None = None
    there: bool | None = None
    impossible: bool = False

    def possible(self) -> bool:
        if self.impossible or (self.among is not None and not self.among - self.never):
            return False
        low, high = self.low[0], self.high[0]
        return low < high or (low == high and not (self.low[1] or self.high[1]) and low not in self.never)

    def and_also(self, other: Demand) -> Demand:
        among = self.among if other.among is None else other.among if self.among is None else self.among & other.among
        clash = {self.truth, other.truth} == {True, False} or {self.there, other.there} == {True, False}
        return Demand(
            max(self.low, other.low),
            min(self.high, other.high, key=lambda bound: (bound[0], not bound[1])),
            among,
            self.never | other.never,
            self.truth if other.truth is None else other.truth,
            self.there if other.there is None else other.there,
            self.impossible or other.impossible or clash,
        )

    def implies(self, other: Demand) -> bool:
        """Whether all that it allows is allowed by the other."""
        if self.there is not None and other.there is not None and self.there != other.there:
            return False
        if other.there is not None and self.there is None:
            return False
        if self.there is False:
            return True
        if other.truth is not None and self.truth != other.truth:
            return False
        if other.among is not None and (self.among is None or not self.among - self.never <= other.among):
            return False
        inside = self.low >= other.low and (self.high[0], not self.high[1]) <= (other.high[0], not other.high[1])
        return inside and all(self._excludes(value) for value in other.never)

    def _excludes(self, value: float | str) -> bool:
        if value in self.never:
            return True
        if isinstance(value, str):
            return self.among is not None and value not in self.among
        return (value, False) < self.low or (self.high[0], not self.high[1]) < (value, True)


@dataclass(frozen=True, slots=True)
class Clause:
    names: Mapping[Name, Demand] = field(default_factory=dict)
    others: frozenset[Literal] = frozenset()

    def and_also(self, other: Clause) -> Clause:
        names = dict(self.names)
        for name, demand in other.names.items():
            names[name] = names[name].and_also(demand) if name in names else demand
        return Clause(names, self.others | other.others)

    def possible(self) -> bool:
        clash = any((tree, not wanted) in self.others for tree, wanted in self.others)
        return not clash and all(demand.possible() for demand in self.names.values())

    def implies(self, other: Clause) -> bool:
        nothing = Demand()
        return other.others <= self.others and all(
            self.names.get(name, nothing).implies(demand) for name, demand in other.names.items()
        )


def never_fire(rules: RuleSet, stream: StreamSpec, features: FeatureSetSpec | None = None) -> list[tuple[str, str]]:
    """(name of the rule, why) of those that surely never fire."""
    known = {own.name: _computed(own.expr) for own in (features.features if features is not None else ())}
    known |= _of_fields(stream) | {own.name: _counted(own) for own in rules.counters}
    clauses = [_possible(_clauses((tree, True)), known) for tree in rules.trees]
    found = []
    for place, own in enumerate(clauses):
        if own is None:
            continue
        name = rules.ends[place][1]
        if not own:
            found.append((name, f"nothing can be as it demands: {shown(rules.texts[place][1])}"))
            continue
        with_score = _taken(own, clauses, range(place))
        before = _taken(own, clauses, [p for p in rules.without_score if p < place])
        if with_score and (place not in rules.without_score or before):
            others = dict.fromkeys(rules.ends[p][1] for p in with_score)
            found.append((name, f"what it demands is decided before it, by {' and '.join(map(repr, others))}"))
    return found


def _taken(own: Sequence[Clause], clauses: Sequence[Sequence[Clause] | None], places: Iterable[int]) -> list[int]:
    """Of each own clause, a place whose rule takes all of it; empty where one clause is left."""
    earlier = [(place, clause) for place in places for clause in clauses[place] or ()]
    found = [next((place for place, other in earlier if clause.implies(other)), -1) for clause in own]
    return [] if -1 in found else found


def _of_fields(stream: StreamSpec) -> dict[str, Demand]:
    """What the border has seen to."""
    return {own.name: _declared(own) for own in stream.fields}


_PARTS = {"minute": (0, 59), "hour": (0, 23), "weekday": (0, 6), "day": (1, 31), "month": (1, 12)}


def _computed(expression: Node) -> Demand:
    """What a feature can be when it is there. All bounds are float32 as features are."""
    match expression:
        case Same() | Unary(kind="not" | "is_missing"):
            return Demand(low=(0, False), high=(1, False))
        case Binary(kind=kind) if kind not in ("+", "-", "*", "/"):
            return Demand(low=(0, False), high=(1, False))
        case Calendar(part=part):
            low, high = _PARTS[part]
            return Demand(low=(low, False), high=(high, False))
        case Aggregate(kind="count" | "distinct" | "std"):
            return Demand(low=(0, False))
    return Demand()


def _counted(own: CounterSpec) -> Demand:
    return Demand(low=(0, False), high=(own.most, False), there=True)


def _declared(own: FieldSpec) -> Demand:
    there = True if not own.nullable or own.fill is not None else None
    texts = frozenset(value for value in own.one_of if isinstance(value, str))
    found = Demand(among=texts if texts and own.type == "text" else None, there=there)
    if own.type in ("int", "float"):
        for bound, opened in ((own.ge, False), (own.gt, True)):
            found = found if bound is None else found.and_also(Demand(low=(bound, opened)))
        for bound, opened in ((own.le, False), (own.lt, True)):
            found = found if bound is None else found.and_also(Demand(high=(bound, opened)))
    return found


def _possible(clauses: list[Clause] | None, known: Mapping[str, Demand]) -> list[Clause] | None:
    if clauses is None:
        return None
    return [clause for clause in (_with(clause, known) for clause in clauses) if clause.possible()]


def _with(clause: Clause, known: Mapping[str, Demand]) -> Clause:
    """With what is known of its fields, and that rules on the score are asked where there is one."""
    names = {}
    for name, demand in clause.names.items():
        always = name.place == "score" or (name.place in ("field", "counter") and known[name.name].there is True)
        if demand.there is False:
            names[name] = replace(demand, impossible=demand.impossible or always)
        else:
            names[name] = demand.and_also(_bounds(name, known))
    return Clause(names, clause.others)


def _bounds(name: Name, known: Mapping[str, Demand]) -> Demand:
    match name.place:
        case "field" | "counter":
            return known[name.name]
        case "feature":
            return known.get(name.name, Demand())
        case "probability":
            return Demand(low=(0.0, False), high=(1.0, False))
        case _:
            return Demand()


def _clauses(literal: Literal) -> list[Clause] | None:
    """None: too many."""
    tree, wanted = literal
    if (always := constant(tree)) is not VARIES:
        return [Clause()] if always is wanted else []
    match tree:
        case Not(of=of):
            return _clauses((of, not wanted))
        case Join(op=op, parts=parts):
            return _joined([(part, wanted) for part in parts], every=(op == "and") is wanted)
        case Missing(of=Name() as name, wanted=missing):
            return [Clause({name: Demand(there=missing is not wanted)})]
        case Name():
            return [Clause({tree: Demand(truth=wanted, there=True)})]
        case Compare(op=op, left=left, right=right):
            left, right = _folded(left), _folded(right)
            if isinstance(left, Fixed) and isinstance(right, Name):
                left, right, op = right, left, _TURNED[op]
            demand = _compared(op if wanted else _NEGATED[op], right) if isinstance(right, Fixed) else None
            if isinstance(left, Name) and demand is not None:
                return [Clause({left: demand})]
    return [Clause(others=frozenset({literal}))]


def _folded(tree: Tree) -> Tree:
    value = constant(tree)
    return tree if isinstance(value, Standing) else Fixed(value, tree.type)


def _compared(op: Comparison, fixed: Fixed) -> Demand | None:
    value = fixed.value
    if isinstance(value, bool):
        return Demand(truth=value if op == "==" else not value, there=True)
    if isinstance(value, str):
        match op:
            case "==":
                return Demand(among=frozenset({value}), there=True)
            case "!=":
                return Demand(never=frozenset({value}), there=True)
        return None
    match op:
        case "<" | "<=":
            return Demand(high=(value, op == "<"), there=True)
        case ">" | ">=":
            return Demand(low=(value, op == ">"), there=True)
        case "==":
            return Demand(low=(value, False), high=(value, False), there=True)
        case "!=":
            return Demand(never=frozenset({value}), there=True)


def _joined(parts: Sequence[Literal], *, every: bool) -> list[Clause] | None:
    found: list[Clause] = [Clause()] if every else []
    for part in parts:
        own = _clauses(part)
        if own is None:
            return None
        found = [a.and_also(b) for a in found for b in own] if every else [*found, *own]
        if len(found) > MOST_CLAUSES:
            return None
    return found
