"""When a search ends. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from skyriver.core.errors import InvalidInput
from skyriver.core.prices import Prices
from skyriver.core.resources import Limits
from skyriver.core.spec import SearchSpec
from skyriver.core.spending import never_spent
from skyriver.train.search.trial import Trial


@dataclass(frozen=True, slots=True)
class Budget:
    """What is reached first of these ends it; 0 is no limit. `per_second`: what the job costs, in the `currency`."""

    trials: int = 0
    seconds: float = 0.0
    money: Decimal = Decimal(0)
    currency: str = ""
    per_second: Decimal = Decimal(0)
    patience: int = 0

    @classmethod
    def of(cls, spec: SearchSpec, prices: Prices, reserved: Limits) -> Budget:
        """`reserved`: for the job, which is what it costs. Raises InvalidInput (NO_PRICE) where money is no limit."""
        why, action = never_spent(spec, prices, reserved)
        if why:
            raise InvalidInput(why, code="NO_PRICE", next_action=action)
        per_second = prices.per_second(reserved) if spec.money else Decimal(0)
        return cls(spec.trials, spec.seconds, spec.money, spec.currency, per_second, spec.patience)

    def ended(self, begun: int, known: Sequence[Trial], spent: Spent) -> str:
        """Why nothing more is tried where so many trials have `begun`, of which the first ones are `known`; "" where it
        goes on."""
        if self.trials and begun >= self.trials:
            return f"{self.trials:,} trials"
        if begun and (over := self.over(spent)):
            return over
        if self.patience and _not_better(known) >= self.patience:
            return f"{self.patience:,} trials in a row that were not better"
        return ""

    @property
    def timed(self) -> bool:
        return bool(self.seconds or self.money)

    def over(self, spent: Spent) -> str:
        """Which limit of time or money is reached; "": none."""
        if self.seconds and spent.seconds >= self.seconds:
            return f"{self.seconds / 60:g} minutes"
        if self.money and self.per_second * Decimal(spent.paid) >= self.money:
            return f"{self.money:f} {self.currency}"
        return ""


@dataclass(frozen=True, slots=True)
class Spent:
    """`seconds` in which anything was tried, and those that are `paid`: all in which somebody was there to try."""

    seconds: float
    paid: float

    @classmethod
    def of(cls, tried: Iterable[tuple[float, float]], there: Iterable[tuple[float, float]]) -> Spent:
        """From when to when something was tried, and from when to when each was there."""
        seconds, until = 0.0, -math.inf
        for start, end in sorted(tried):
            seconds += max(0.0, end - max(start, until))
            until = max(until, end)
        return cls(seconds, sum(max(0.0, end - start) for start, end in there))


def _not_better(trials: Sequence[Trial]) -> int:
    """Trials since the best one; 0 while there is none."""
    best = max((t.value for t in trials if t.state == "complete" and t.value is not None), default=None)
    if best is None:
        return 0
    return len(trials) - 1 - next(i for i, t in enumerate(trials) if t.state == "complete" and t.value == best)
