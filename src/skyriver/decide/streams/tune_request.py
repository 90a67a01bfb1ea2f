"""What is asked for when thresholds are to be chosen: by which costs, of which rules, measured on how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyriver.core.costs import capacity_of
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import AppSpec, CapacitySpec, CostSpec, CostsSpec, DecideSpec
from skyriver.core.units import DAY, format_duration, parse_duration
from skyriver.decide.rules.costs import costs_of
from skyriver.decide.rules.ruleset import RuleSet, rules_of

LEAST_DAYS = 2
"""Held out: of one day there is no interval."""
PARTS = ("each", "positive", "negative")
REVIEW = "review"
PARAMETERS = ("costs", "reviews", "hold_out", "rules", "seed")


@dataclass(frozen=True, slots=True)
class TuneRequest:
    decide: DecideSpec
    """As it is declared, with the costs that were asked for."""
    hold_out_us: int
    """0: half of what there is."""
    rules: tuple[str, ...]
    """Of which rules thresholds are chosen; none: of all."""
    seed: int

    @property
    def costs(self) -> CostsSpec:
        assert self.decide.costs is not None
        return self.decide.costs

    @classmethod
    def of(cls, app: AppSpec, stream: str, params: Mapping[str, Any]) -> TuneRequest:
        """`params`: `costs` such as "approve.positive=amount" or "review=4", `reviews` such as "200/1d" or
        "call=20/1d", each in place of what is declared; `hold_out` such as "30d"; `rules` by name; `seed`.

        Raises InvalidInput: NO_DECISIONS, NO_COSTS, BAD_COST, BAD_CAPACITY, BAD_PARAMETER, UNKNOWN_NAME, BAD_DURATION.
        """
        if unknown := [name for name in params if name not in PARAMETERS]:
            raise _refuse(f"{unknown[0]!r} is no parameter of it", f"There are {', '.join(PARAMETERS)}.")
        decide = next((own for own in app.decides if own.stream == stream), None)
        if decide is None:
            raise InvalidInput(
                f"{stream} decides nothing.", code="NO_DECISIONS", next_action="Declare decisions with app.decide."
            )
        costs = _costs(decide, _texts(params, "costs"), _texts(params, "reviews"))
        decide = decide.model_copy(update={"costs": costs})
        train = app.model(decide.model).train
        features = app.feature_set(train.features) if train is not None else None
        costs_of(costs, rules_of(decide, app.stream(stream), features), app.stream(stream), features)
        known = [rule.name or rule.decision for rule in decide.rules]
        rules = _texts(params, "rules")
        for rule in rules:
            if rule not in known:
                raise InvalidInput(
                    f"{stream} has no rule {rule!r}.",
                    code="UNKNOWN_NAME",
                    next_action=f"Its rules are {', '.join(known)}.",
                )
        seed = params.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise _refuse(f"seed={seed!r:.80} is no whole number from 0 on")
        return cls(decide, _hold_out(params.get("hold_out", "")), tuple(rules), seed)

    def places(self, rules: RuleSet) -> frozenset[int]:
        """Of the rules whose thresholds are chosen, in the order in which they are asked."""
        named = [name for _, name in rules.ends[: len(rules.rules)]]
        return frozenset(place for place, name in enumerate(named) if not self.rules or name in self.rules)


def _refuse(why: str, next_action: str = "") -> InvalidInput:
    return InvalidInput(f"{why}.", code="BAD_PARAMETER", next_action=next_action)


def _texts(params: Mapping[str, Any], name: str) -> list[str]:
    found = params.get(name) or []
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise _refuse(f"{name}={found!r:.80} is no list of texts")
    return list(found)


def _hold_out(text: object) -> int:
    if text == "":
        return 0
    if not isinstance(text, str):
        raise _refuse(f"hold_out={text!r:.80} is no stretch of time", 'Write it as in "30d".')
    found = parse_duration(text, "a stretch of time")
    if found < LEAST_DAYS * DAY:
        least = format_duration(LEAST_DAYS * DAY)
        raise _refuse(f"{text!r} is too short to measure on", f"Hold out {least} or more, as in --hold-out 30d.")
    return found


def _capacity(decide: DecideSpec, decision: str, text: str) -> CapacitySpec:
    """`decision`: "" for that of reviews, if there is one."""
    if decision or REVIEW in decide.words:
        return capacity_of(decision or REVIEW, text)
    known = sorted(decide.words)
    raise InvalidInput(
        f"{text!r:.80} does not say of which decision of {decide.stream} there may be so many.",
        code="BAD_CAPACITY",
        next_action=f"Write DECISION=200/1d, of {', '.join(known)}: --reviews {known[0]}=200/1d.",
    )


def _costs(decide: DecideSpec, given: Sequence[str], reviews: Sequence[str]) -> CostsSpec:
    """Those declared, with what was asked for in their place."""
    declared = decide.costs
    if declared is None and not given:
        decisions = dict.fromkeys([*(rule.decision for rule in decide.rules), decide.otherwise, decide.fallback])
        raise InvalidInput(
            f"It is not said what the decisions of {decide.stream} cost.",
            code="NO_COSTS",
            next_action=f"Declare costs=sr.Costs(...) for {', '.join(decisions)} in app.decide, or give --cost.",
        )
    costs = {own.decision: own for own in (declared.of if declared is not None else ())}
    for text in given:
        what, sep, amount = text.partition("=")
        decision, _, part = what.strip().partition(".")
        if not sep or part not in ("", *PARTS):
            raise InvalidInput(
                f"{text!r:.80} is no cost.",
                code="BAD_COST",
                next_action="Write DECISION=AMOUNT, DECISION.positive=AMOUNT or DECISION.negative=AMOUNT.",
            )
        before = costs.get(decision) or CostSpec(decision=decision)
        costs[decision] = before.model_copy(update={part or "each": amount.strip()})
    capacity = {own.decision: own for own in (declared.capacity if declared is not None else ())}
    for text in reviews:
        decision, _, most = text.rpartition("=")
        own: CapacitySpec = _capacity(decide, decision.strip(), most)
        capacity[own.decision] = own
    return CostsSpec(
        of=tuple(costs.values()),
        capacity=tuple(capacity.values()),
        unit=declared.unit if declared is not None else "",
    )
