"""What decisions cost: an application's expressions, compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import CostsSpec, FeatureSetSpec, StreamSpec
from skyriver.decide.rules.closures import Evaluate, Values
from skyriver.decide.rules.ruleset import RuleSet, compile_number, names_of, shown
from skyriver.decide.rules.tree import Name, Tree

_PARTS = ("each", "positive", "negative")


@dataclass(frozen=True, slots=True)
class DecisionCost:
    """`trees` are those of `each`, `positive` and `negative`, to be computed of many events."""

    trees: tuple[Tree, Tree, Tree]
    each: Evaluate
    positive: Evaluate
    negative: Evaluate

    def of(self, label: bool, features: Sequence[float], values: Values) -> float | None:
        """What an event costs whose label is known; None where something of it is missing."""
        return _sum(
            _number(self.each, features, values), _number(self.positive if label else self.negative, features, values)
        )


def _number(evaluate: Evaluate, features: Sequence[float], values: Values) -> float | None:
    found = evaluate(math.nan, features, values, None)
    return float(found) if isinstance(found, int | float) else None


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def costs_of(
    costs: CostsSpec, rules: RuleSet, stream: StreamSpec, features: FeatureSetSpec | None
) -> dict[str, DecisionCost]:
    """Of each decision that the rules can end in. Raises InvalidInput (BAD_COST) that lists all mistakes."""
    known = list(rules.words)
    names = {name: own for name, own in names_of(stream, features).items() if _is_of_event(own)}
    mistakes = _misnamed(costs, known)
    found: dict[str, DecisionCost] = {}
    for cost in costs.of:
        compiled = []
        for part in _PARTS:
            text = getattr(cost, part)
            try:
                compiled.append(compile_number(text, names))
            except InvalidInput as error:
                where = f"{part}= of {cost.decision!r}: {shown(text)}: {error.message}"
                mistakes.append((where, error.next_action))
        if len(compiled) == len(_PARTS):
            (a, each), (b, positive), (c, negative) = compiled
            found[cost.decision] = DecisionCost((a, b, c), each, positive, negative)
    if mistakes:
        where = f"costs of the decisions of {stream.name}"
        raise InvalidInput(
            "; ".join(why for why, _ in mistakes),
            code="BAD_COST",
            where=where,
            next_action=next((action for _, action in mistakes if action), "Correct the costs and deploy again."),
            details=tuple({"where": where, "message": why} for why, _ in mistakes) if len(mistakes) > 1 else (),
        )
    return found


def _is_of_event(own: Name | str) -> bool:
    """What a decision costs depends on what happened, not on what a model says of it."""
    return isinstance(own, str) or own.place in ("field", "feature")


def _misnamed(costs: CostsSpec, known: Sequence[str]) -> list[tuple[str, str]]:
    """(why, what to do) of each decision that is not one, is given twice or has no cost."""
    given = [cost.decision for cost in costs.of]
    mistakes = []
    for decision in dict.fromkeys([*given, *(own.decision for own in costs.capacity)]):
        if decision not in known:
            near = get_close_matches(decision, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            mistakes.append((f"nothing decides {decision!r}{hint}", f"The decisions are {', '.join(known)}."))
        if given.count(decision) > 1:
            mistakes.append((f"{decision!r} has {given.count(decision)} costs", ""))
    for decision in known:
        if decision not in given:
            action = f'Say what it costs, {{"{decision}": sr.Cost(...)}} or --cost {decision}=0.'
            mistakes.append((f"{decision!r} has no cost", action))
    return mistakes
