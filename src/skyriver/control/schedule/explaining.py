"""Why a service has so many replicas, in words and in the sum that was minimised. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from skyriver.control.schedule.candidates import FACTORS, NAMES, at_places, factors, late_prices, places
from skyriver.control.schedule.demand import BUSY_60, MEAN
from skyriver.control.schedule.scaling import Decided, Rules
from skyriver.control.schedule.tables import Floats, Whole

HOUR: Final = 3_600.0
_G: Final = factors()


@dataclass(frozen=True, slots=True)
class Choice:
    """What so many replicas cost an hour, and the requests that are then late, were demand always as it is now: by what
    the replay of the service's own demand says."""

    replicas: int
    cost: float
    """c, starts included."""
    late_share: float
    """Of requests."""
    late_cost: float
    """D."""

    @property
    def total(self) -> float:
        return self.cost + self.late_cost


@dataclass(frozen=True, slots=True)
class Explained:
    replicas: int
    lines: tuple[tuple[str, str], ...]
    """(rule, what it said), in the order in which they are applied."""
    choices: tuple[Choice, ...]
    """One fewer, the chosen number, one more."""
    late_price: float
    """Of a late request: the least at which the chosen candidate is cheaper than all that are smaller."""
    unit: str
    """Of costs: `money`, or `replica-hours` where a replica has no price."""


def explain(decided: Decided, opportunity: float = 0.0) -> Explained:
    """`opportunity`: what a replica costs others an hour, where there is not enough for all; what it costs at least."""
    rules, (base, factor) = decided.rules, divmod(decided.candidate, FACTORS)
    price, unit = (rules.price, "money") if rules.price else (1.0, "replica-hours")
    requests = decided.requests * HOUR
    of, means_of = decided.late[base], decided.costs[base] * price
    worth = late_prices(of[None].astype(np.float64), means_of[None].astype(np.float64), np.array([factor]))
    late_price = float(worth[0]) / requests if requests > 0 else 0.0
    around = np.array((decided.wanted - 1, decided.wanted, decided.wanted + 1))
    shares, means = _replayed(decided, around)
    requests *= decided.wanted / float(means[1]) if means[1] > 0 else 1.0  # what it had on the mean came of fewer
    hours = around + np.maximum(around - decided.there, 0) * decided.start_s / HOUR
    if decided.wanted <= decided.wish:
        may_be_more = decided.wanted < decided.wish
        late, costs = (requests * shares).tolist(), (price * hours).tolist()
        late_price = _at_which(late_price, late, costs, may_be_more=may_be_more)
    price = max(price, opportunity)
    choices = tuple(
        Choice(replicas, hour * price, share, late_price * share * requests if share else 0.0)
        for replicas, share, hour in zip(around.tolist(), shares.tolist(), hours.tolist(), strict=True)
        if replicas >= max(rules.least, 1)
    )
    return Explained(decided.wanted, tuple(_lines(decided, base, factor)), choices, late_price, unit)


def _at_which(late_price: float, late: Sequence[float], costs: Sequence[float], *, may_be_more: bool) -> float:
    """The price nearest to `late_price` at which neither one replica fewer nor one more is cheaper, where there is one:
    candidates are some percent apart, and replicas are whole. Where more are wanted than there may be (`may_be_more`)
    one more may be cheaper, and one fewer is not. `late` requests and `costs`: of one fewer, of as many as were chosen,
    of one more."""
    least, most = (
        max(0.0, costs[n + 1] - costs[n]) / (late[n] - late[n + 1]) if late[n] > late[n + 1] else math.inf
        for n in (0, 1)
    )
    if may_be_more:
        return max(late_price, least) if math.isfinite(least) else late_price
    return min(max(late_price, least), most) if least <= most and math.isfinite(least) else late_price


def _replayed(decided: Decided, replicas: Whole) -> tuple[Floats, Floats]:
    """(share late, mean replicas) by the factor that would have asked for so many now."""
    base = decided.candidate // FACTORS
    needed = float(decided.bases[base]) * decided.queue * decided.headroom
    if needed <= 0:  # nothing came for so long that no factor of it says anything
        return np.zeros(len(replicas)), replicas.astype(np.float64)
    ratio = replicas / needed
    place = places(np.full(len(replicas), base), ratio)
    shares, means = (at_places(of, np.full(len(replicas), base), place) for of in (decided.late, decided.costs))
    return shares, means * np.maximum(ratio / _G[base][-1], 1.0)  # more than any candidate asks for


def _lines(decided: Decided, base: int, factor: int) -> list[tuple[str, str]]:
    rules = decided.rules
    lines = [("objective", _objective(rules))]
    if not decided.fresh:
        return [*lines, ("stale", f"There are no fresh measurements: it stays at {decided.wanted}.")]
    minute = float(decided.bases[BUSY_60]) / decided.growth
    lines.append(
        (
            "demand",
            f"{decided.came:.2f} replicas' work comes now, {minute:.2f} in the busiest minute within the hold,"
            f" {float(decided.bases[MEAN]):.2f} on the mean of an hour; a replica is ready {decided.start_s:.1f} s"
            " after it was asked for.",
        )
    )
    grows = f"It is to grow by {decided.growth - 1:.0%} until a replica that is asked for now has worked for a minute."
    lines.append(("forecast", grows if decided.growth > 1.005 else "It is not expected to grow until then."))
    factor_of, late, mean = (float(of[base][factor]) for of in (_G, decided.late, decided.costs))
    lines.append(
        (
            "candidate",
            f"{factor_of:.2f} times {NAMES[base]}: on its own demand {late:.3%} would have been late with"
            f" {mean:.2f} replicas on the mean, cheapest of {decided.late.size} that keep to {1 - rules.share:.2g}.",
        )
    )
    if decided.queue > 1.005:
        lines.append(("queue", f"{decided.queue:.2f} times that: requests that meet by chance must not wait for long."))
    if abs(decided.headroom - 1) > 0.005:
        why = (
            "more was late than that foresaw" if decided.headroom > 1 else "less than half of what is allowed was late"
        )
        lines.append(("headroom", f"{decided.headroom:.2f} times that: {why}."))
    if decided.floor > 0:
        lines.append(("floor", f"At least {decided.floor:.2f}: the last two minutes' demand, and what waits."))
    if decided.wish < decided.there and decided.wanted > decided.wish:
        told = f"{decided.wish:.0f} would do now; {decided.held:.0f} were wanted"
        lines.append(("hold", f"{told} within the last {decided.hold_s:,.0f} s."))
    if decided.wish > 2 * decided.there + 4:
        lines.append(("step", f"{decided.wish:.0f} are wanted; at most twice as many and four more come at a time."))
    if decided.wanted in (rules.least, rules.most) and decided.wish != decided.wanted:
        lines.append(
            ("limits", f"{rules.least} to {rules.most} replicas are declared, and {decided.wish:.0f} are wanted.")
        )
    return lines


def _objective(rules: Rules) -> str:
    within = f" within {rules.latency_s * 1000:,.0f} ms" if rules.latency_s else ""
    return f"{rules.share:.4g} of the requests are answered{within}, with {rules.least} to {rules.most} replicas."
