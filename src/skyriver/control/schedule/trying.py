"""What a declaration would have done with a service's own history, beside the one that is in force. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from skyriver.control.schedule.advising import Asked, advice_of, declaration_of, judged_plan
from skyriver.control.schedule.doubting import doubt
from skyriver.control.schedule.history import TICK_S
from skyriver.control.schedule.lanes import Told
from skyriver.control.schedule.past import History, Outcome, Plan
from skyriver.control.schedule.replaying import replay
from skyriver.control.schedule.tables import Floats
from skyriver.core.contract_advice import Rejudged, ServiceAdvice, Side, Trace
from skyriver.core.prices import Prices
from skyriver.core.ranges import MOST_REPLICAS
from skyriver.core.spec import ServiceSpec

LEAST_S: Final = 120.0
STRETCHES: Final = 60
"""At most, of a trace."""


def try_out(asked: Asked, serve: ServiceSpec, prices: Prices, told: Told = lambda share: None) -> ServiceAdvice:
    """`serve` is `proposed`, whatever it would do. Each is judged by its own objective, as by every other command; what
    is declared by the one that is asked for too, where that is another."""
    history = asked.history
    if history is None or history.known_s < LEAST_S:
        why = "Too little is known of its demand yet: it is measured while it runs, and some minutes are needed."
        return advice_of(asked, prices, declaration_of(asked, asked.serve, None, prices, why), (), None, why)
    present, wished = judged_plan(asked, asked.serve, history), judged_plan(asked, serve, history)
    by_asked = replace(present, latency_s=wished.latency_s, share=wished.share, wake_s=wished.wake_s)
    if present.least or wished.least:  # what a request that wakes it may take is of no one that never sleeps
        by_asked = replace(by_asked, wake_s=present.wake_s)
    plans = [present, wished, by_asked, *(_priced(history, plan, present.hold_s) for plan in (present, wished))]
    before, after, again, *priced = replay(history, plans, told)
    now, then = (declaration_of(asked, of, one, prices, "") for of, one in ((asked.serve, before), (serve, after)))
    said = (
        f"{after.replicas:.3g} replicas on the mean would have been there, {before.replicas:.3g} by what is declared."
    )
    if impossible := serve.cannot_keep(history.service_s * 1e6):
        said = f"{impossible}. {said}"
    found = advice_of(asked, prices, now, (), then, said)
    own, other = (_Sides.of(asked, history, prices, one.late_price) for one in priced)
    found["trace"] = _trace(own.side(before, asked.serve), other.side(after, serve), own, other)
    if doubts := doubt(history, present, before):
        found["doubt"] = doubts
    if by_asked != present:
        found["trace"]["rejudged"] = _rejudged(again, other.side(again, asked.serve), wished)
    return found


def _priced(history: History, plan: Plan, hold_s: float | None) -> Plan:
    """By whose replay late requests are priced: of the same objective, with as many replicas as were ever needed to
    choose from, so that all declarations with that objective have the same price."""
    most = min(MOST_REPLICAS, max(2, 4 * int(np.ceil(np.nanmax(history.work)))))
    return Plan(1, most, plan.latency_s, plan.share, hold_s)


def _rejudged(again: Outcome, side: Side, by: Plan) -> Rejudged:
    return {
        "latency_ms": round(by.latency_s * 1e3, 3),
        "share": by.share,
        "late": round(again.late, 6),
        "late_cost": side["late_cost"],
        "sum": side["sum"],
    }


@dataclass(frozen=True, slots=True)
class _Sides:
    """How outcomes are told, in money or in core-hours, at the price of one objective."""

    history: History
    prices: Prices
    asked: Asked
    late_price: float
    """Of a late request."""

    @classmethod
    def of(cls, asked: Asked, history: History, prices: Prices, late_price: float) -> _Sides:
        late_price = late_price if math.isfinite(late_price) else 0.0
        sides = cls(history, prices, asked, 0.0)
        return replace(sides, late_price=late_price * sides.hourly(asked.serve))

    @property
    def unit(self) -> str:
        return self.prices.currency if self._each(self.asked.serve) else "core-hours"

    def _each(self, serve: ServiceSpec) -> float:
        return float(self.prices.per_second(self.asked.limits(serve))) * 3_600

    def hourly(self, serve: ServiceSpec) -> float:
        """What a replica costs."""
        return self._each(serve) if self._each(self.asked.serve) else serve.cpus

    @property
    def length(self) -> int:
        """Ticks of a stretch."""
        return max(1, -(-len(self.history.work) // STRETCHES))

    def side(self, one: Outcome, of: ServiceSpec) -> Side:
        history, known = self.history, np.isfinite(self.history.work)
        came = np.where(known, history.work, 0.0) * TICK_S
        requests = float(came.sum()) / history.service_s / (history.known_s / 3_600) if history.service_s else 0.0
        cost = one.replicas * self.hourly(of)
        late_cost = self.late_price * one.late * requests if self.late_price else None
        return {
            "cost": round(cost, 9),
            "late_cost": None if late_cost is None else round(late_cost, 9),
            "sum": None if late_cost is None else round(cost + late_cost, 9),
            "most": one.most,
            "replicas": _means(np.where(known, one.there, np.nan), self.length),
            "late": _shares(np.where(known, one.too_late, 0.0), came, known, self.length),
        }


def _trace(now: Side, then: Side, own: _Sides, other: _Sides) -> Trace:
    history = own.history
    return {
        "seconds": own.length * TICK_S,
        "demand": _means(history.work, own.length),
        "measured": _means(history.was_late, own.length) if len(history.was_late) else [],
        "judged": round(history.judged),
        "now": now,
        "then": then,
        "late_price": other.late_price,
        "unit": own.unit,
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
