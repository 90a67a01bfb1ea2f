"""What decisions cost, as an application says it.

app.decide(payments, model, {"block": "score >= 0.9", "review": "score >= 0.5"}, otherwise="approve",
    costs=sr.Costs(
        {
            "approve": sr.Cost(positive="amount"),              # what is lost
            "block": sr.Cost(negative=25),                      # what a customer who is sent away is worth
            "review": sr.Cost(4, positive="0.05 * amount"),     # a reviewer's time, and what he does not see
        },
        capacity={"review": "200/1d"},
        unit="EUR",
    ))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from skyriver.core import spec as specs
from skyriver.core.errors import InvalidInput
from skyriver.core.events import refuse
from skyriver.core.names import check_name
from skyriver.core.units import format_duration, parse_duration

Amount = int | float | str
"""A number, or an expression of the rules' language over an event's fields and features."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an event costs that gets a decision: `each`, and on top of it `positive` where its label is 1 and `negative`
    where it is 0. Below zero it is a gain."""

    each: Amount = 0
    positive: Amount = 0
    negative: Amount = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of each decision there is, and how many of one there may be in a period: `{"review": "200/1d"}`."""

    of: Mapping[str, Cost]
    capacity: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""


def costs_of(given: Costs | None) -> specs.CostsSpec | None:
    if given is None:
        return None
    if not isinstance(given, Costs) or not isinstance(given.of, Mapping) or not isinstance(given.capacity, Mapping):
        refuse("costs= are no costs.", "BAD_COST", 'Write sr.Costs({"approve": sr.Cost(positive="amount"), ...}).')
    costs = []
    for decision, cost in given.of.items():
        check_name(decision, "a decision")
        if not isinstance(cost, Cost):
            refuse(f"The cost of {decision!r} is {cost!r:.80}.", "BAD_COST", "Write sr.Cost(...).")
        texts = {what: amount_text(getattr(cost, what), decision) for what in ("each", "positive", "negative")}
        costs.append(specs.CostSpec(decision=decision, **texts))
    return specs.CostsSpec(
        of=tuple(costs),
        capacity=tuple(capacity_of(decision, text) for decision, text in given.capacity.items()),
        unit=_unit(given.unit),
    )


def _unit(unit: object) -> str:
    if not isinstance(unit, str) or len(unit) > 16:
        refuse(f"unit={unit!r:.80} of the costs is no text of at most 16 characters.", "BAD_COST", 'Write unit="EUR".')
    return unit


def amount_text(amount: object, decision: str) -> str:
    """As the specification has it."""
    if isinstance(amount, str):
        return amount
    if not isinstance(amount, int | float) or isinstance(amount, bool) or not math.isfinite(amount):
        refuse(
            f"{amount!r:.80} is no cost of {decision!r}.",
            "BAD_COST",
            'Give a number, or an expression in quotes: "0.05 * amount".',
        )
    return repr(amount)


def capacity_of(decision: str, text: object) -> specs.CapacitySpec:
    """Of "200/1d". Raises InvalidInput (BAD_CAPACITY)."""
    check_name(decision, "a decision")
    most, _, per = text.partition("/") if isinstance(text, str) else ("", "", "")
    try:
        return specs.CapacitySpec(decision=decision, most=int(most), per_us=parse_duration(per))
    except (ValueError, InvalidInput, ValidationError) as error:
        least = format_duration(specs.LEAST_PERIOD)
        raise InvalidInput(
            f"{text!r:.80} is not how many {decision!r} there may be.",
            code="BAD_CAPACITY",
            next_action=f'Write a number from 1 on and a period from {least} on: "200/1d".',
        ) from error
