"""Searching the parameters of a training, as an application declares it.

@app.train(
    behaviour,
    label=frauds,
    search=sr.Search({"leaves": sr.Int(8, 128, log=True), "rate": sr.Float(0.01, 0.3, log=True)}, minutes=10),
)
def fit(data: sr.TrainingData) -> lightgbm.Booster:
    settings = {"num_leaves": data.params["leaves"], "learning_rate": data.params["rate"], ...}
    return lightgbm.train(settings, ..., callbacks=[data.early_stopping])
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from skyriver.core import spec_search as specs
from skyriver.core.events import refuse
from skyriver.core.misread import made
from skyriver.core.names import nearest

_A_SEARCH: Final = 'Write sr.Search({"leaves": sr.Int(8, 128, log=True)}, metric="average_precision", minutes=10).'
_MONEY: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Z]{3})\s*")


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, both included; `log`: evenly in its logarithm."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Float:
    """A number from `low` to `high`; `log`: evenly in its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values: `sr.Choice("gbdt", "dart")`."""

    values: tuple[specs.Value, ...]

    def __init__(self, *values: specs.Value) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Search:
    """The best parameters of a training are looked for: `Search({"leaves": Int(8, 128, log=True)}, minutes=10)`.

    A trial is the training function called with other `data.params`. It is judged by `metric` ("average_precision",
    "auc", "log_loss" or "brier") on the last stretch of the training part, which the trial does not get; the test part
    chooses nothing. With the best parameters the function is then called on the whole training part. A parameter that
    `skyriver run -p NAME=VALUE` gives is not searched.

    The search ends with what is reached first: `trials`, `minutes`, `money` (as "2 EUR", by the price of what the job
    reserves); 50 trials unless one of them is given. `patience`: or after so many trials in a row that were not better.
    `parallel`: so many trials at a time, in jobs of their own; `minutes` is how long it takes, `money` what all cost.
    """

    spec: specs.SearchSpec

    def __init__(
        self,
        space: Mapping[str, Int | Float | Choice],
        *,
        metric: str = "average_precision",
        trials: int | None = None,
        minutes: float | None = None,
        money: str | None = None,
        patience: int = 0,
        parallel: int = 1,
    ) -> None:
        if not isinstance(space, Mapping) or not space:
            refuse(f"space={space!r:.80} has no parameters.", "BAD_SEARCH", _A_SEARCH)
        if metric not in specs.METRICS:
            refuse(
                f"metric={metric!r:.80}: trials are not judged by it{nearest(str(metric), specs.METRICS)}.",
                "BAD_SEARCH",
                f"There are {', '.join(specs.METRICS)}.",
            )
        amount, currency = _money(money)
        given = {
            "space": tuple(_parameter(name, values) for name, values in space.items()),
            "metric": metric,
            "trials": _limit("trials", trials, whole=True),
            "seconds": float(_limit("minutes", minutes)) * 60,
            "money": amount,
            "currency": currency,
            "patience": patience,
            "parallel": parallel,
        }
        if not (given["trials"] or given["seconds"] or amount):
            given["trials"] = specs.TRIALS
        object.__setattr__(self, "spec", made(specs.SearchSpec, "sr.Search", "BAD_SEARCH", _A_SEARCH, given))


def search_of(value: object) -> specs.SearchSpec | None:
    if value is None:
        return None
    if not isinstance(value, Search):
        refuse(f"search={value!r:.80} is no sr.Search.", "BAD_SEARCH", _A_SEARCH)
    return value.spec


def _parameter(name: str, values: object) -> specs.ParameterSpec:
    given: dict[str, Any]
    match values:
        case Choice():
            given = {"kind": "choice", "choices": values.values}
        case Int() | Float():
            whole = isinstance(values, Int)
            for end in (values.low, values.high):
                if isinstance(end, bool) or not isinstance(end, int if whole else int | float):
                    kind = "whole number" if whole else "number"
                    refuse(f"The parameter {name!r}: {end!r:.80} is no {kind}.", "BAD_SEARCH", _A_SEARCH)
                if not _is_float(end, exactly=whole):
                    told = f"an end of it is no number that a float of 64 bits holds{' exactly' if whole else ''}"
                    refuse(f"The parameter {name!r}: {told}.", "BAD_SEARCH", "Give numbers up to 2**53.")
            given = {"kind": "int" if whole else "float", "low": float(values.low), "high": float(values.high)}
            given["log"] = values.log
        case _:
            refuse(
                f"The parameter {name!r}: {values!r:.80} is no sr.Int, sr.Float or sr.Choice.", "BAD_SEARCH", _A_SEARCH
            )
    return made(specs.ParameterSpec, f"The parameter {name!r}", "BAD_SEARCH", _A_SEARCH, {"name": name, **given})


def _is_float(number: float, *, exactly: bool) -> bool:
    try:
        return float(number) == number or not exactly
    except OverflowError:
        return False


def _limit(what: str, value: float | None, *, whole: bool = False) -> float:
    """0 where it is not given: what is given as 0 would try nothing, and is refused."""
    if value is None:
        return 0
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        refuse(
            f"{what}={value!r:.80}: with that nothing would be tried.",
            "BAD_SEARCH",
            f"Give a {'whole ' if whole else ''}number above 0, or leave it out.",
        )
    return value


def _money(text: str | None) -> tuple[Decimal, str]:
    if text is None:
        return Decimal(0), ""
    found = _MONEY.fullmatch(text) if isinstance(text, str) else None
    if found is None or not Decimal(found[1]):
        refuse(f"money={text!r:.80} is no amount above 0.", "BAD_SEARCH", 'Write it with its currency, as in "2 EUR".')
    return Decimal(found[1]), found[2]
