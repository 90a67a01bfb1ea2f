"""Ways to choose how many replicas a service has, each replayed on the service's own demand. Pure.

A candidate is a base, such as the busiest minute within the hold, times a factor. Its replicas at any moment follow
from demand that was known one start-up before; so what it would have cost, and which share of the work would have been
late, follow from demand alone, whatever was really done. Of those that would have kept the objective the cheapest is
taken: no target utilisation, window or threshold is left to choose.

The accounts fade with HALF_LIFE_S, so that a service that changes is known anew. Until there are any, PRIOR_S seconds
of demand that is lognormal around the base stand in for them.

References: Vovk, "A game of prediction with expert advice" (1998); Arrow, Harris and Marschak, "Optimal inventory
policy" (1951), whose fractile is what the cheapest factor of a base that keeps an objective is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt
from typing import Final

import numpy as np

from skyriver.control.schedule.demand import MEAN, leads_of
from skyriver.control.schedule.tables import Flags, Floats, Small, Table, Whole

HALF_LIFE_S: Final = 86_400.0
PRIOR_S: Final = 300.0
PRIOR_SIGMA: Final = 0.25
LEARN_AFTER_S: Final = 60.0
"""Beside the lead time: the first minute of a service says little of the next."""
SHIFT_S: Final = 1_800.0
SHIFTED: Final = 0.3
"""That share of what is late is counted with bases of SHIFT_S before: a burst that came while the one before it was
still held for was luck, and the next one may not have it."""
SNAPSHOT_S: Final = 30.0
SNAPSHOTS: Final = 96

NAMES: Final = (
    "the busiest 5 s within the hold",
    "the busiest 15 s within the hold",
    "the busiest minute within the hold",
    "the busiest 5 s within thrice the hold",
    "the mean of the last hour",
)
"""Of the bases, in the order of `demand.observe`."""
_FACTORS: Final = (
    (0.4, 1.2, 3.0),
    (0.5, 1.4, 4.0),
    (0.7, 1.6, 8.0),
    (0.3, 1.1, 2.5),
    (0.9, 4.0, 30.0),
)
"""Of each base: from the first to the second in FINE steps, then to the third."""
_USUAL: Final = (1.3, 1.15, 1.0, 1.6, 0.5)
"""Of the base to what demand tends to be, where nothing is known yet."""
BASES: Final = len(NAMES)
FACTORS: Final = 28
FINE: Final = 19
BANK: Final = BASES * FACTORS


def factors() -> Small:
    """(BASES, FACTORS)."""
    ranges = [
        np.concatenate((np.geomspace(low, middle, FINE), np.geomspace(middle, high, FACTORS - FINE + 1)[1:]))
        for low, middle, high in _FACTORS
    ]
    return np.stack(ranges).astype(np.float32)


def prior_late() -> Small:
    """(BASES, FACTORS): the share of lognormal demand beyond the factor, E[(m - g)+] / E[m]."""

    def beyond(g: float) -> float:
        d = (-np.log(g) + PRIOR_SIGMA**2 / 2) / PRIOR_SIGMA
        return float(_normal(d) - g * _normal(d - PRIOR_SIGMA))

    shares = [[min(1.0, beyond(g * usual)) for g in row] for row, usual in zip(factors().tolist(), _USUAL, strict=True)]
    return np.array(shares, np.float32)


def _normal(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


@dataclass(slots=True)
class Accounts(Table):
    """Of each service's candidates."""

    late: Small
    """(N, BASES, FACTORS) work that would have been late, faded."""
    cost: Small
    """Replica-seconds, starts included, faded."""
    backlog: Small
    """Work that would wait now."""
    unlucky: Small
    """The same with the bases of SHIFT_S before."""
    replicas: Small
    """That there would be now."""
    came: Floats
    """(N,) work, faded."""
    ticked: Floats
    """(N,) ticks, faded."""
    bases: Small
    """(N, ticks of the longest lead, BASES) as they were."""
    now: Small
    """The same of what was recent then."""
    older: Small
    """(N, SNAPSHOTS, BASES) as `bases`, every SNAPSHOT_S."""
    ticks: Whole
    """(N,)."""
    chosen: Whole
    """(N,) the candidate's number in its bank; -1 before the first."""

    @classmethod
    def starting(cls, n: int, tick_s: float) -> Accounts:
        bank = np.zeros((n, BASES, FACTORS), np.float32)
        return cls(
            late=bank,
            cost=bank.copy(),
            backlog=bank.copy(),
            unlucky=bank.copy(),
            replicas=bank.copy(),
            came=np.zeros(n),
            ticked=np.zeros(n),
            bases=np.zeros((n, leads_of(tick_s), BASES), np.float32),
            now=np.zeros((n, leads_of(tick_s), BASES), np.float32),
            older=np.zeros((n, SNAPSHOTS, BASES), np.float32),
            ticks=np.zeros(n, np.int64),
            chosen=np.full(n, -1),
        )


_G, _PRIOR = factors(), prior_late()
_LOG_G, _PLACES = np.log(_G), np.arange(FACTORS)
_EACH, _LEAST = _G.reshape(BANK), np.float32(0)
_MOST, _LOST = np.float32(np.inf), np.float32(1e30)


@dataclass(frozen=True, slots=True)
class Tick:
    """(N,) each."""

    tick_s: float
    came: Floats
    """Replicas."""
    fresh: Flags
    lead: Whole
    """Ticks."""
    start_s: Floats
    deadline_s: Floats


# All candidates of a thousand services are half a megabyte, so what counts is how often they are passed over: in place,
# a row of BANK at a time, and without what numpy does slowly (a maximum with one number, what is chosen by a mask).


def replay(accounts: Accounts, bases: Small, now: Small, tick: Tick) -> Small:
    """Adds a tick to the accounts where it is fresh; the work that would have been late in it, (N, BANK).
    `bases`, `now`: of `demand.observe`."""
    n, size = np.arange(len(tick.came)), accounts.bases.shape[1]
    at = accounts.ticks % size
    accounts.bases[n, at], accounts.now[n, at] = bases, now
    lead = np.minimum(tick.lead, accounts.ticks)
    learns = tick.fresh & (accounts.ticks * tick.tick_s > LEARN_AFTER_S + tick.lead * tick.tick_s)
    on = None if learns.all() else _column(learns)
    came = np.repeat(tick.came.astype(np.float32), BANK).reshape(-1, BANK)
    deadline = _column(tick.deadline_s / tick.tick_s)
    then = (at - lead) % size
    decided = accounts.bases[n, then]
    replicas = _replicas(decided)
    late = _pass(accounts.backlog, replicas, came, deadline, on)
    shifted = _replicas(_shifted(accounts, bases, decided, accounts.now[n, then], lead, tick))
    unlucky = _pass(accounts.unlucky, shifted, came, deadline, on)
    late *= np.float32(1 - SHIFTED)
    unlucky *= np.float32(SHIFTED)
    late += unlucky
    accounts.ticks += tick.fresh
    fade = 0.5 ** (tick.tick_s / HALF_LIFE_S)
    fades = np.where(tick.fresh, fade, 1.0)
    fades_all = np.float32(fade) if tick.fresh.all() else _column(fades)
    account, cost = accounts.late.reshape(-1, BANK), accounts.cost.reshape(-1, BANK)
    account *= fades_all
    account += late
    started = np.subtract(replicas, accounts.replicas.reshape(-1, BANK), out=shifted)
    np.clip(started, _LEAST, _MOST, out=started)
    started *= _column(tick.start_s / tick.tick_s)
    started += replicas
    if on is not None:
        started *= on
    cost *= fades_all
    cost += started
    accounts.replicas = replicas.reshape(-1, BASES, FACTORS)
    accounts.came = accounts.came * fades + np.where(learns, tick.came, 0.0)
    accounts.ticked = accounts.ticked * fades + learns
    return late


def _column(of: Floats | Flags) -> Small:
    return of.astype(np.float32)[:, None]


def _replicas(bases: Small) -> Small:
    """(N, BANK) of (N, BASES)."""
    replicas: Small = np.repeat(bases, FACTORS, axis=1)
    replicas *= _EACH
    replicas -= np.float32(1e-4)
    np.ceil(replicas, out=replicas)
    np.clip(replicas, np.float32(1), _MOST, out=replicas)
    return replicas


def _pass(account: Small, replicas: Small, came: Small, deadline: Small, on: Small | None) -> Small:
    """A tick of so many replicas, whose backlog it changes, (N, BASES, FACTORS); the work that is late, (N, BANK). All
    are in what a replica does in a tick."""
    backlog = account.reshape(-1, BANK)
    backlog += came
    backlog -= replicas
    if on is not None:
        backlog *= on  # of those that learn; the others begin without
    np.clip(backlog, _LEAST, _MOST, out=backlog)
    late: Small = replicas * deadline
    np.subtract(backlog, late, out=late)
    np.clip(late, _LEAST, _MOST, out=late)
    np.minimum(late, came, out=late)
    if on is not None:
        late *= on
    return late


def _shifted(accounts: Accounts, bases: Small, decided: Small, now: Small, lead: Whole, tick: Tick) -> Small:
    """(N, BASES) of SHIFT_S before those by which it `decided`, or the oldest there are, at the level of now; and,
    where a start is over before a request is late, with what was seen to come since. `now`: of when it decided."""
    n, every = np.arange(len(bases)), max(1, round(SNAPSHOT_S / tick.tick_s))
    newest = accounts.ticks // every
    accounts.older[n, newest % SNAPSHOTS] = bases
    back = np.minimum(newest, (lead + round(SHIFT_S / tick.tick_s)) // every)
    first = np.minimum(newest, round(LEARN_AFTER_S / SNAPSHOT_S))
    older = accounts.older[n, np.maximum(newest - back, first) % SNAPSHOTS]
    level, level_then = decided[:, MEAN], older[:, MEAN]
    rises = np.where(level_then > 0, level / np.maximum(level_then, np.float32(1e-9)), np.float32(1))
    older *= np.minimum(np.maximum(rises, np.float32(0.5)), np.float32(2))[:, None]
    reacts = lead * tick.tick_s <= tick.deadline_s
    found: Small = np.maximum(older, np.where(reacts[:, None], now, np.float32(0)), out=older)
    return found


def shares_late(accounts: Accounts, mean: Floats, tick_s: float) -> Small:
    """(N, BASES, FACTORS) of the work; `mean`: (N,) demand, by which the prior weighs."""
    prior = PRIOR_S / tick_s * mean
    shares: Small = _with_prior(accounts.late, prior, _PRIOR)
    shares /= (accounts.came + prior + 1e-9).astype(np.float32)[:, None, None]
    return shares


def costs(accounts: Accounts, mean: Floats, tick_s: float) -> Small:
    """(N, BASES, FACTORS) mean replicas, starts included."""
    found: Small = _with_prior(accounts.cost, PRIOR_S / tick_s * mean, _G)
    found /= (accounts.ticked + PRIOR_S / tick_s).astype(np.float32)[:, None, None]
    return found


def of_base(accounts: Accounts, row: int, base: int, mean: float, tick_s: float) -> tuple[list[float], list[float]]:
    """(FACTORS,) `shares_late` and `costs` of one service and base."""
    prior, ticks = PRIOR_S / tick_s * mean, PRIOR_S / tick_s
    late, cost = (np.float32(prior) * of[base] for of in (_PRIOR, _G))
    late += accounts.late[row, base]
    cost += accounts.cost[row, base]
    late /= np.float32(accounts.came[row] + prior + 1e-9)
    cost /= np.float32(accounts.ticked[row] + ticks)
    return late.tolist(), cost.tolist()


def own_part(accounts: Accounts, row: int, mean: float, tick_s: float) -> float:
    """Which share of what `shares_late` goes by is demand of the service, and not the prior."""
    came = float(accounts.came[row])
    return came / (came + PRIOR_S / tick_s * mean) if came else 0.0


def _with_prior(account: Small, weight: Floats, of: Small) -> Small:
    found: Small = weight.astype(np.float32)[:, None, None] * of
    found += account
    return found


def choose(accounts: Accounts, mean: Floats, allowed: Floats, bases: Flags, tick_s: float) -> Whole:
    """The cheapest candidate of each service that keeps to the share `allowed`, (N,); of the `bases`, (BASES,), that
    may be taken. Where none does, the one that comes nearest."""
    prior = PRIOR_S / tick_s * mean
    late, cost = (
        _with_prior(account, prior, of).reshape(-1, BANK)
        for account, of in ((accounts.late, _PRIOR), (accounts.cost, _G))
    )
    if not bases.all():
        late.reshape(-1, BASES, FACTORS)[:, ~bases] = np.inf
    cost += np.multiply(late > _column(allowed * (accounts.came + prior + 1e-9)), _LOST)
    best: Whole = cost.argmin(1)
    lost = cost[np.arange(len(best)), best] >= _LOST
    if lost.any():
        best[lost] = late[lost].argmin(1)
    accounts.chosen = best
    return best


def late_prices(late: Floats, cost: Floats, factor: Whole) -> Floats:
    """(N,) what all of the work is worth that it is not late, so that no smaller candidate of the same base, nor none
    at all, is cheaper than the chosen `factor`; `late` and `cost`: (N, FACTORS)."""
    n = np.arange(len(factor))
    late, cost = (np.concatenate((np.full((len(n), 1), of), all_of), 1) for of, all_of in ((1.0, late), (0.0, cost)))
    spared = late - late[n, factor + 1][:, None]
    paid = cost[n, factor + 1][:, None] - cost
    fewer = (np.arange(FACTORS + 1) <= factor[:, None]) & (spared > 0)
    prices: Floats = np.where(fewer, paid / np.where(fewer, spared, 1.0), 0.0).max(1)
    return prices


def places(base: Whole, ratio: Floats) -> Floats:
    """(M,) where demand that is multiplied by `ratio` stands among the factors of `base`, by their logarithms; between
    two of them it is no whole number."""
    by = np.log(np.maximum(ratio, 1e-9))
    found = np.empty(len(by))
    for each in {*base.tolist()}:
        here = base == each
        found[here] = np.interp(by[here], _LOG_G[each], _PLACES)
    return found


def at_places(table: Floats | Small, row: Whole, place: Floats) -> Floats:
    """(M,) what `table`, (N, FACTORS), says in its `row` there: on a straight line between two factors."""
    at = np.minimum(place.astype(np.int64), FACTORS - 2)
    low = table[row, at]
    found: Floats = low + (place - at) * (table[row, at + 1] - low)
    return found
