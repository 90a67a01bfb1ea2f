"""What an application says of its decisions beside the rules: how many there may be, how many there were, and which of
several rules wins.

app.decide(payments, model, [
        sr.Rule("block", "score >= 0.9"),
        sr.Rule("review", "score >= 0.5 or blocks_today >= 2"),
    ],
    otherwise="approve",
    budgets={"block": sr.Budget(100, per="1h", overflow="review")},
    counters={"blocks_today": sr.Count("block", by="customer", over="1d")},
    combine=sr.Strictest("block", "review"),
)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skyriver.core import spec as specs
from skyriver.core.events import refuse
from skyriver.core.misread import made
from skyriver.core.names import check_field, check_name
from skyriver.core.units import parse_duration

_A_BUDGET = 'Write {"block": sr.Budget(100, per="1h", overflow="review")}.'
_A_COUNTER = 'Write {"blocks_today": sr.Count("block", by="customer", over="1d")}.'


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `most` events get a decision within any stretch of `per` of the stream's time, of each value of the field
    `by` where one is named; those beyond it get the decision `overflow`."""

    most: int
    per: str
    overflow: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """How many events before this one got a decision within the last `over` of the stream's time, of those with its
    value of the field `by` where one is named; it counts up to `most`."""

    decision: str
    over: str
    by: str = ""
    most: int = specs.COUNTED


class Strictest:
    """All rules are looked at: of the decisions whose rules fire, the one that is named first here wins."""

    def __init__(self, *decisions: str) -> None:
        for decision in decisions:
            check_name(decision, "a decision")
        if not decisions or len(set(decisions)) < len(decisions):
            refuse(
                f"sr.Strictest{decisions!r:.80} names no decision, or one twice.",
                "BAD_DECISION",
                'Name each decision of the rules once, the strictest first: sr.Strictest("block", "review").',
            )
        self.decisions = decisions


def budgets_of(given: Mapping[str, Budget | Sequence[Budget]] | None) -> tuple[specs.BudgetSpec, ...]:
    if not isinstance(given, Mapping | None):
        refuse(f"budgets={given!r:.80} are no budgets.", "BAD_BUDGET", _A_BUDGET)
    found = []
    for decision, budgets in (given or {}).items():
        check_name(decision, "a decision")
        for budget in budgets if isinstance(budgets, list | tuple) else [budgets]:
            if not isinstance(budget, Budget):
                refuse(f"The budget of {decision!r} is {budget!r:.80}.", "BAD_BUDGET", _A_BUDGET)
            check_name(budget.overflow, "a decision")
            found.append(_budget(decision, budget))
    return tuple(found)


def _budget(decision: str, budget: Budget) -> specs.BudgetSpec:
    return made(
        specs.BudgetSpec,
        f"budget of {decision!r}",
        "BAD_BUDGET",
        _LIMITS,
        {
            "decision": decision,
            "most": budget.most,
            "per_us": parse_duration(budget.per, "a period of a budget"),
            "overflow": budget.overflow,
            "by": budget.by,
        },
        per_us="per",
    )


def counters_of(given: Mapping[str, Count] | None) -> tuple[specs.CounterSpec, ...]:
    if not isinstance(given, Mapping | None):
        refuse(f"counters={given!r:.80} are no counters.", "BAD_COUNTER", _A_COUNTER)
    found = []
    for name, count in (given or {}).items():
        check_field(name, "a counter")
        if not isinstance(count, Count):
            refuse(f"The counter {name!r} is {count!r:.80}.", "BAD_COUNTER", _A_COUNTER)
        check_name(count.decision, "a decision")
        body = {
            "name": name,
            "decision": count.decision,
            "over_us": parse_duration(count.over, "a period of a counter"),
            "by": count.by,
            "most": count.most,
        }
        counter = made(specs.CounterSpec, f"counter {name!r}", "BAD_COUNTER", _LIMITS, body, over_us="over")
        found.append(counter)
    return tuple(found)


def combine_of(given: object) -> tuple[str, ...]:
    if given == "first":
        return ()
    if not isinstance(given, Strictest):
        refuse(
            f"combine={given!r:.80} is not known.",
            "BAD_DECISION",
            'Write "first": the first rule that fires decides, or sr.Strictest("block", "review").',
        )
    return given.decisions


_LIMITS = "A period is from 1s to 366d; a budget from 0 to 1,000,000, and a counter counts to 100,000 at most."
