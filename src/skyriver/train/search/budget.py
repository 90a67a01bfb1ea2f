"""When a search ends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from skyriver.core.errors import InvalidInput
from skyriver.core.prices import Prices
from skyriver.core.resources import Limits
from skyriver.core.spec import SearchSpec
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
    def of(cls, spec: SearchSpec, prices: Prices | None, reserved: Limits) -> Budget:
        """`reserved`: for the job, which is what it costs. Raises InvalidInput (NO_PRICE) where money is no limit."""
        per_second = Decimal(0)
        if spec.money:
            per_second = prices.per_second(reserved) if prices is not None else Decimal(0)
            told = prices.currency if prices is not None else ""
            if not per_second or told != spec.currency:
                raise InvalidInput(
                    f"The search may cost {spec.money:f} {spec.currency}, and "
                    + (f"prices are in {told}." if per_second else "a core costs nothing here."),
                    code="NO_PRICE",
                    next_action="Limit it by minutes= or trials=, or give this cloud prices: `skyriver price list`"
                    " shows those it has.",
                )
        return cls(spec.trials, spec.seconds, spec.money, spec.currency, per_second, spec.patience)

    def ended(self, trials: Sequence[Trial], seconds: float) -> str:
        """Why nothing more is tried after `trials` in `seconds`; "" where it goes on."""
        if self.trials and len(trials) >= self.trials:
            return f"{self.trials:,} trials"
        if self.seconds and seconds >= self.seconds:
            return f"{self.seconds / 60:g} minutes"
        if self.money and self.per_second * Decimal(seconds) >= self.money:
            return f"{self.money:f} {self.currency}"
        if self.patience and _not_better(trials) >= self.patience:
            return f"{self.patience:,} trials in a row that were not better"
        return ""


def _not_better(trials: Sequence[Trial]) -> int:
    """Trials since the best one; 0 while there is none."""
    best = max((t.value for t in trials if t.state == "complete" and t.value is not None), default=None)
    if best is None:
        return 0
    return len(trials) - 1 - next(i for i, t in enumerate(trials) if t.state == "complete" and t.value == best)
