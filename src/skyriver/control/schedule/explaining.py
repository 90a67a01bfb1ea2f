"""Why a service has so many replicas, in words and in the sum that was minimised. Pure, and of one service, so in plain
Python: a call of numpy on three numbers takes longer than all that is done with them here."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from skyriver.control.schedule.candidates import BANK, FACTORS, NAMES, factors
from skyriver.control.schedule.demand import BUSY_60, MEAN
from skyriver.control.schedule.scaling import Decided, Rules

HOUR: Final = 3_600.0
NOTHING: Final = 0.005
"""Replicas' work; what is told of less is 0.00."""
OWN: Final = 0.9
"""Of what a candidate is chosen by: from then on it is said to be a service's own demand."""
_G: Final[list[list[float]]] = factors().tolist()
_LOG_G: Final = [[math.log(g) for g in row] for row in _G]


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
    worth = late_price_of(decided.late, [cost * price for cost in decided.costs], factor)
    late_price = worth / requests if requests > 0 else 0.0
    around = [decided.wanted - 1, decided.wanted, decided.wanted + 1]
    shares, means = zip(*(_replayed(decided, base, replicas) for replicas in around), strict=True)
    requests *= decided.wanted / means[1] if means[1] > 0 else 1.0  # what it had on the mean came of fewer
    hours = [replicas + max(replicas - decided.there, 0.0) * decided.start_s / HOUR for replicas in around]
    if decided.wanted <= decided.wish:
        may_be_more = decided.wanted < decided.wish
        late, costs = [requests * share for share in shares], [price * hour for hour in hours]
        late_price = _at_which(late_price, late, costs, may_be_more=may_be_more)
    price = max(price, opportunity)
    choices = tuple(
        Choice(replicas, hour * price, share, late_price * share * requests if share else 0.0)
        for replicas, share, hour in zip(around, shares, hours, strict=True)
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


def late_price_of(late: Sequence[float], costs: Sequence[float], factor: int) -> float:
    """As `candidates.late_prices`, of one service; `late` and `costs`: (FACTORS,)."""
    smaller = zip((1.0, *late[:factor]), (0.0, *costs[:factor]), strict=True)
    share, paid = late[factor], costs[factor]
    return max([0.0, *((paid - cost) / (of - share) for of, cost in smaller if of > share)])


def place_of(base: int, ratio: float) -> float:
    """As `candidates.places`, of one number."""
    by, known = math.log(max(ratio, 1e-9)), _LOG_G[base]
    at = min(max(bisect_right(known, by) - 1, 0), FACTORS - 2)
    return min(max(at + (by - known[at]) / (known[at + 1] - known[at]), 0.0), FACTORS - 1.0)


def at_place(table: Sequence[float], place: float) -> float:
    """As `candidates.at_places`, of one row."""
    at = min(int(place), FACTORS - 2)
    return table[at] + (place - at) * (table[at + 1] - table[at])


def _replayed(decided: Decided, base: int, replicas: int) -> tuple[float, float]:
    """(share late, mean replicas) by the factor that would have asked for so many now."""
    needed = decided.bases[base] * decided.queue * decided.headroom
    if needed <= 0 or decided.came < NOTHING:  # the sum is of demand as it is now, and of nothing nothing is late
        return 0.0, float(replicas)
    ratio = replicas / needed
    place = place_of(base, ratio)
    # more than any candidate asks for
    return at_place(decided.late, place), at_place(decided.costs, place) * max(ratio / _G[base][-1], 1.0)


def _lines(decided: Decided, base: int, factor: int) -> list[tuple[str, str]]:
    rules = decided.rules
    lines = [("objective", _objective(rules))]
    if not decided.fresh:
        return [*lines, ("stale", f"There are no fresh measurements: it stays at {decided.wanted}.")]
    minute = decided.bases[BUSY_60] / decided.growth
    lines.append(
        (
            "demand",
            f"{decided.came:.2f} replicas' work comes now, {minute:.2f} in the busiest minute within the hold,"
            f" {decided.bases[MEAN]:.2f} on the mean of an hour; a replica is ready {decided.start_s:.1f} s"
            " after it was asked for.",
        )
    )
    grows = f"It is to grow by {decided.growth - 1:.0%} until a replica that is asked for now has worked for a minute."
    lines.append(("forecast", grows if decided.growth > 1.005 else "It is not expected to grow until then."))
    lines.append(("candidate", _candidate(decided, base, factor)))
    if decided.queue > 1.005:
        lines.append(
            (
                "queue",
                f"{decided.queue:.2f} times what `candidate` says: requests that come at once must not wait for long.",
            )
        )
    if abs(decided.headroom - 1) > 0.005:
        why = (
            "more was late than that foresaw" if decided.headroom > 1 else "less than half of what is allowed was late"
        )
        lines.append(("headroom", f"{decided.headroom:.2f} times what the lines before say: {why}."))
    if decided.floor > 0:
        lines.append(("floor", f"At least {decided.floor:.2f}: the last two minutes' demand, and what waits."))
    if decided.wish < decided.there and decided.wanted > decided.wish:
        told = f"{decided.wish:.0f} would do now; {decided.held:.0f} were wanted"
        lines.append(("hold", f"{told} within the last {decided.hold_s:,.0f} s."))
    if decided.wish > 2 * decided.there + 4:
        lines.append(("step", f"{decided.wish:.0f} are wanted; at most twice as many and four more come at a time."))
    if decided.wanted == rules.most < decided.wish:
        lines.append(("limits", f"{decided.wish:.0f} are wanted, and at most {rules.most} are declared."))
    elif decided.wanted == rules.least > decided.wish:
        lines.append(("limits", f"{decided.wish:.0f} would do, and at least {rules.least} are declared."))
    return lines


def _candidate(decided: Decided, base: int, factor: int) -> str:
    """By what it was chosen: its own demand, or until there is some the one that stands in for it."""
    told, late = f"{_G[base][factor]:.2f} times {NAMES[base]}:", f"{decided.late[factor]:.3%} would have been late"
    cheapest = f"cheapest of {BANK} that keep to {1 - decided.rules.share:.2g}"
    with_mean = f"with {decided.costs[factor]:.2f} replicas on the mean"
    if decided.own < 0.005:
        return (
            f"{told} of its own demand nothing is replayed yet; of one that varies by a quarter, which stands in for it"
            f" in every new service, {late}, {cheapest}."
        )
    if decided.own < OWN:
        return (
            f"{told} {late} {with_mean}, {cheapest}: {decided.own:.0%} of what that goes by is its own demand, the rest"
            " one that varies by a quarter, which stands in until more is known."
        )
    return f"{told} on its own demand {late} {with_mean}, {cheapest}."


def _objective(rules: Rules) -> str:
    within = f" within {rules.latency_s * 1000:,.0f} ms" if rules.latency_s else ""
    return f"{rules.share:.4g} of the requests are answered{within}, with {rules.least} to {rules.most} replicas."
