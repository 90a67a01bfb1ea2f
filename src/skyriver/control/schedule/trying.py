"""What a declaration would have done with a service's own history, beside the one that is in force. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from skyriver.control.schedule.advising import Asked, advice_of, declaration_of, plan_of
from skyriver.control.schedule.history import TICK_S
from skyriver.control.schedule.lanes import Told
from skyriver.control.schedule.past import Outcome
from skyriver.control.schedule.replaying import replay
from skyriver.control.schedule.tables import Floats
from skyriver.core.contract_advice import ServiceAdvice, Side, Trace
from skyriver.core.prices import Prices
from skyriver.core.spec import ServiceSpec

LEAST_S: Final = 120.0
STRETCHES: Final = 60
"""At most, of a trace."""


def try_out(asked: Asked, serve: ServiceSpec, prices: Prices, told: Told = lambda share: None) -> ServiceAdvice:
    """`serve` is `proposed`, whatever it would do; both are judged by its latency."""
    history = asked.history
    if history is None or history.known_s < LEAST_S:
        why = "Too little is known of its demand yet: it is measured while it runs, and some minutes are needed."
        return advice_of(asked, prices, declaration_of(asked, asked.serve, None, prices, why), (), None, why)
    present, wished = plan_of(asked.serve), plan_of(serve)
    present = replace(present, latency_s=wished.latency_s, wake_s=wished.wake_s if present.least == 0 else 0.0)
    follows = wished if wished.is_elastic else replace(wished, least=max(wished.least, 1), most=wished.most + 1)
    before, after, priced = replay(history, [present, wished, follows], told)
    now, then = (declaration_of(asked, of, one, prices, "") for of, one in ((asked.serve, before), (serve, after)))
    said = (
        f"{after.replicas:.3g} replicas on the mean would have been there, {before.replicas:.3g} by what is declared."
    )
    if impossible := serve.cannot_keep(history.service_s * 1e6):
        said = f"{impossible}. {said}"
    found = advice_of(asked, prices, now, (), then, said)
    found["trace"] = _trace(asked, serve, (before, after), priced.late_price, prices)
    return found


def _trace(
    asked: Asked, serve: ServiceSpec, outcomes: tuple[Outcome, Outcome], late_price: float, prices: Prices
) -> Trace:
    history = asked.history
    assert history is not None
    each = float(prices.per_second(asked.limits(serve))) * 3_600
    length = max(1, -(-len(history.work) // STRETCHES))
    known = np.isfinite(history.work)
    came = np.where(known, history.work, 0.0) * TICK_S
    hours = history.known_s / 3_600
    late_price = late_price if math.isfinite(late_price) else 0.0
    requests = float(came.sum()) / history.service_s / hours if history.service_s else 0.0

    def side(one: Outcome, of: ServiceSpec) -> Side:
        price = float(prices.per_second(asked.limits(of))) * 3_600 if each else 1.0
        cost = one.replicas * price
        late_cost = late_price * (each or 1.0) * one.late * requests if late_price else None
        return {
            "cost": round(cost, 9),
            "late_cost": None if late_cost is None else round(late_cost, 9),
            "sum": None if late_cost is None else round(cost + late_cost, 9),
            "most": one.most,
            "replicas": _means(np.where(known, one.there, np.nan), length),
            "late": _shares(np.where(known, one.too_late, 0.0), came, known, length),
        }

    return {
        "seconds": length * TICK_S,
        "demand": _means(history.work, length),
        "now": side(outcomes[0], asked.serve),
        "then": side(outcomes[1], serve),
        "late_price": late_price * (each or 1.0),
        "unit": prices.currency if each else "replica-hours",
    }


def _stretches(values: Floats, length: int) -> Iterable[Floats]:
    return (values[at : at + length] for at in range(0, len(values), length))


def _means(values: Floats, length: int) -> Sequence[float | None]:
    return [round(float(np.nanmean(of)), 3) if np.isfinite(of).any() else None for of in _stretches(values, length)]


def _shares(late: Floats, came: Floats, known: Any, length: int) -> Sequence[float | None]:
    found: list[float | None] = []
    for lost, of, seen in zip(
        _stretches(late, length), _stretches(came, length), _stretches(known, length), strict=True
    ):
        total = float(of.sum())
        found.append(None if not seen.any() else round(min(1.0, float(lost.sum()) / total), 6) if total else 0.0)
    return found
