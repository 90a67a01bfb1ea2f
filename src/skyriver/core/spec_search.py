"""Of an application's specification: which values the parameters of a training may have, and how long the best ones
are looked for."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from skyriver.core.spec_base import FieldName, Spec

SearchMetric = Literal["average_precision", "auc", "log_loss", "brier"]
METRICS: tuple[SearchMetric, ...] = ("average_precision", "auc", "log_loss", "brier")
"""By which trials are compared."""
LOWER_IS_BETTER = frozenset({"log_loss", "brier"})
MOST_PARAMETERS = 50
MOST_TRIALS = 1_000
MOST_PARALLEL = 64
TRIALS = 50
"""Where nothing limits a search."""
Value = int | float | str | bool


class ParameterSpec(Spec):
    """What a parameter may be: a whole number or a number from `low` to `high`, both included, evenly or (`log`) evenly
    in its logarithm; or one of `choices`."""

    name: FieldName
    kind: Literal["int", "float", "choice"]
    low: float = Field(default=0.0, allow_inf_nan=False)
    high: float = Field(default=0.0, allow_inf_nan=False)
    log: bool = False
    choices: tuple[Value, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "seed":
            raise ValueError("'seed' is no parameter to search: it is data.seed, the same in all trials")
        if self.kind == "choice":
            if odd := [choice for choice in self.choices if isinstance(choice, float) and not math.isfinite(choice)]:
                raise ValueError(f"{self.name}: {odd[0]} is no finite number")
            if len(self.choices) < 2 or len({(type(c), c) for c in self.choices}) < len(self.choices):
                raise ValueError(f"{self.name}: {list(self.choices)} are not two or more different values")
            return self
        if self.choices:
            raise ValueError(f"{self.name}: choices are those of sr.Choice")
        if self.low >= self.high:
            raise ValueError(f"{self.name}: low={self.low:g} is not below high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.name}: log=True needs low above 0, and it is {self.low:g}")
        if self.kind == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"{self.name}: {self.low:g} to {self.high:g} are not whole numbers")
        return self


class SearchSpec(Spec):
    """It ends with what is reached first of `trials`, `seconds` and `money` (0, "": not limited by it), or after
    `patience` trials in a row that were not better (0: however many)."""

    space: tuple[ParameterSpec, ...] = Field(min_length=1, max_length=MOST_PARAMETERS)
    metric: SearchMetric = "average_precision"
    trials: int = Field(default=0, ge=0, le=MOST_TRIALS)
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    money: Decimal = Field(default=Decimal(0), exclude_if=lambda value: not value)
    currency: str = Field(default="", exclude_if=lambda value: not value)
    patience: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    parallel: int = Field(default=1, ge=1, le=MOST_PARALLEL, exclude_if=lambda value: value == 1)
    """So many trials at a time, each in a job of an array."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name, count in Counter(p.name for p in self.space).items() if count > 1]
        if twice:
            raise ValueError(f"the parameter {twice[0]!r} is there twice")
        if not (self.trials or self.seconds or self.money):
            raise ValueError("a search needs trials, minutes or money")
        if self.trials and self.parallel > self.trials:
            raise ValueError(f"parallel={self.parallel} of {self.trials} trials: some would have nothing to try")
        return self
