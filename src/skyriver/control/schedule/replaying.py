"""A service's own history once more, under other declarations: what it would have cost, and what would have been late.

The same functions decide as live: `scaling.Fleet` on replicas, `sleeping` on sleep. Around them stands a service in
steps of five seconds: replicas start for as long as they were measured to, work waits in the order in which it came.
What waits longer than the latency is late; and for a latency that is shorter than a step, what would meet by chance: of
M/M/n the share that waits for longer (Erlang 1917). Pure.

The pieces of a history are replayed side by side, each after an hour of what came before it, and twice: the second
time each begins with what the ones before it had learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from skyriver.control.schedule.candidates import HALF_LIFE_S
from skyriver.control.schedule.demand import SLOT_S, SLOTS, leads_of
from skyriver.control.schedule.history import TICK_S, TICKS, Minute
from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.control.schedule.sleeping import (
    LEAST_IDLE_S,
    UNSEEN_S,
    Habits,
    Seen,
    Terms,
    idle_after,
    observe,
    wakes_at,
)
from skyriver.control.schedule.tables import Flags, Floats, Whole

LEAD: Final = 3_600 // TICK_S
"""Ticks."""
SHORT_PIECE, LONG_PIECE = 2 * LEAD, 6 * LEAD
"""Of a history of FEW_DAYS, and of a longer one: side by side more of them cost little."""
FEW_DAYS: Final = 2
MOST_START_S: Final = 600.0
LEAST_START_S: Final = 0.1

_LEARNT: Final = ("late", "cost", "came", "ticked")

Told = Callable[[float], None]
"""Is called with the share that is done."""


@dataclass(frozen=True, slots=True)
class History:
    """Of one service, tick by tick."""

    begins: int
    """Seconds of the wall's clock, whole minutes."""
    work: Floats
    """(T,) replicas' work that came; NaN where nobody looked."""
    late: float
    """Measured share of the judged requests; NaN: nothing was judged."""
    service_s: float
    """Replica-seconds of a request."""
    start_s: float
    cores: float
    """The most that a replica took within five seconds, and of memory ever."""
    rss_mb: float

    @property
    def known_s(self) -> float:
        return float(np.isfinite(self.work).sum()) * TICK_S

    @property
    def ends(self) -> int:
        return self.begins + len(self.work) * TICK_S


def history_of(minutes: Iterable[Minute]) -> History | None:
    """None where nothing is kept."""
    kept = list(minutes)
    if not kept:
        return None
    first, last = kept[0].number, kept[-1].number
    work = np.full((last - first + 1, TICKS), np.nan)
    for minute in kept:
        work[minute.number - first] = [np.nan if came is None else came for came in minute.work]
    judged, late = (sum(getattr(minute, what) for minute in kept) for what in ("judged", "late"))
    came = float(np.nansum(work)) / TICKS
    return History(
        begins=first * 60,
        work=work.ravel(),
        late=min(late / judged, 1.0) if judged else np.nan,
        service_s=came / judged if judged else 0.0,
        start_s=min(max(float(np.median([minute.start_s for minute in kept])), LEAST_START_S), MOST_START_S),
        cores=max(minute.cores for minute in kept),
        rss_mb=max(minute.rss_mb for minute in kept),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is declared."""

    least: int
    most: int
    latency_s: float = 0.0
    share: float = 0.99
    hold_s: float | None = None
    wake_s: float = 0.0
    idle_s: float | None = None
    slower: float = 1.0
    """Times as long as a request takes now."""

    @property
    def is_elastic(self) -> bool:
        return self.most > max(self.least, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the time that is known."""

    replicas: float
    """On the mean, those that start too."""
    late: float
    """Share of the work."""
    most: int
    """Replicas at once."""


@dataclass(slots=True)
class _Sum:
    replicas: float = 0.0
    late: float = 0.0
    most: int = 0


def replay(history: History, plans: Sequence[Plan], told: Told = lambda share: None) -> list[Outcome]:
    """In the order of `plans`."""
    sums = {plan: _Sum() for plan in plans}
    awake = {plan: _awake(history, plan) for plan in sums}
    elastic = [plan for plan in sums if plan.is_elastic]
    for plan, total in sums.items():
        if not plan.is_elastic:
            _steady(history, plan, awake[plan], total)
    if elastic:
        lanes = _lanes(history, elastic, awake, sums)
        first = _run(history, lanes, _fleet(lanes), None, lambda share: told(share / 2))
        _run(history, lanes, _fleet(lanes, first), sums, lambda share: told((1 + share) / 2))
    known = np.isfinite(history.work)
    came = float(history.work[known].sum()) * TICK_S
    return [
        Outcome(
            replicas=sums[plan].replicas / max(int(known.sum()), 1),
            late=sums[plan].late / (came * plan.slower) if came else 0.0,
            most=sums[plan].most,
        )
        for plan in plans
    ]


def _awake(history: History, plan: Plan) -> Flags:
    """(T,) whether it is, by the rule of services that sleep; a look at least every half minute."""
    ticks = len(history.work)
    if plan.least:
        return np.ones(ticks, bool)
    came, known = np.nan_to_num(history.work) > 0, np.isfinite(history.work)
    following = np.append(np.flatnonzero(came), ticks)
    upcoming = following[np.searchsorted(following, np.arange(ticks))]
    requests = np.nan_to_num(history.work) * TICK_S / max(history.service_s, 1e-9)
    terms = Terms(plan.share, plan.wake_s or plan.latency_s, plan.idle_s)
    habits, awake = Habits(start_s=history.start_s), np.zeros(ticks, bool)
    up, last, idle_s, at = True, float(history.begins), 0.0, 0
    while at < ticks:
        now = float(history.begins + (at + 1) * TICK_S)
        if not known[at]:
            awake[at], at = up, at + 1
            continue
        if came[at]:
            held, up, last, idle_s = float(not up), True, now, 0.0
            observe(habits, Seen(now, last, float(requests[at]), held))
            awake[at], at = True, at + 1
            continue
        observe(habits, Seen(now, last))
        step = min(int(upcoming[at]) - at, int(UNSEEN_S / 2) // TICK_S)
        if now - last >= LEAST_IDLE_S:
            idle_s = idle_s or idle_after(habits, terms).seconds
            warming = wakes_at(habits, terms, now)
            up = (up and now - last < idle_s) or (warming is not None and warming.at <= now < warming.until)
            step = min(step, max(1, int(np.ceil((last + idle_s - now) / TICK_S)))) if now - last < idle_s else step
        else:
            step = 1
        awake[at : at + step], at = up, at + max(1, step)
    return awake


def _steady(history: History, plan: Plan, awake: Flags, total: _Sum) -> None:
    """Of a number of replicas that stays, while it is awake."""
    known, n = np.isfinite(history.work), float(plan.most)
    came = np.nan_to_num(history.work) * TICK_S * plan.slower
    capacity = np.where(awake, n * TICK_S, 0.0)
    deadline = np.full(len(came), plan.latency_s)
    late = np.zeros(len(came))
    allowed_s, service_s = plan.wake_s or plan.latency_s, history.service_s * plan.slower
    begun = np.flatnonzero(awake & ~np.append(True, awake[:-1]))
    for tick in range(int(np.ceil(history.start_s / TICK_S))):
        at, left_s = begun[begun + tick < len(came)] + tick, history.start_s - tick * TICK_S
        capacity[at] = n * max(0.0, TICK_S - left_s)
        deadline[at] = np.maximum(allowed_s, deadline[at])
        late[at] = _late_by_start(came[at], left_s, allowed_s, service_s if tick == 0 else 0.0)
    surplus = np.cumsum(came - capacity)
    backlog = surplus - np.minimum(np.minimum.accumulate(surplus), 0.0)
    late = np.maximum(late, np.clip(backlog - n * deadline, 0.0, came))
    late = np.maximum(late, came * _by_chance(came / TICK_S, np.full(len(came), n), plan.latency_s, service_s))
    total.late += float(np.minimum(late, came)[known].sum())
    total.replicas += float((n * awake)[known].sum())
    total.most = plan.most


def _late_by_start(came: Floats, left_s: float | Floats, allowed_s: float | Floats, waker_s: float | Floats) -> Floats:
    """Of the work that comes in a tick, with the first replica ready in `left_s`: whoever comes so early that he waits
    too long. `waker_s`: of the request that woke it, which waits all the time; 0: nobody did."""
    early = np.clip((np.asarray(left_s) - allowed_s) / TICK_S, 0.0, 1.0)
    waker = np.where(np.asarray(left_s) > allowed_s, np.minimum(1.0, waker_s / np.maximum(came, 1e-9)), 0.0)
    late: Floats = came * np.where(np.asarray(allowed_s) > 0, np.maximum(early, waker), 0.0)
    return late


def _by_chance(load: Floats, servers: Floats, latency_s: float | Floats, service_s: float | Floats) -> Floats:
    """The share that waits for longer than what of a latency is left after the work itself, in M/M/n: Erlang's C times
    exp(-(n - load) t / service); for a latency that is shorter than a tick."""
    n = np.maximum(servers, 1.0)
    blocked = np.ones_like(load)
    for k in range(1, int(n.max(initial=1.0)) + 1):
        blocked = np.where(k <= n, load * blocked / (k + load * blocked), blocked)
    room = np.maximum(n - load, 1e-9)
    waits = np.minimum(1.0, n * blocked / (room + load * blocked))
    left = np.maximum(np.asarray(latency_s) - service_s, 0.0) / np.maximum(service_s, 1e-9)
    short = (np.asarray(latency_s) > 0) & (np.asarray(latency_s) < TICK_S) & (np.asarray(service_s) > 0)
    share: Floats = np.where(short & (load > 0) & (load < n), waits * np.exp(-room * left), 0.0)
    return share


@dataclass(slots=True)
class _Lanes:
    """(L,) each: a plan over a piece of the history, in which something comes."""

    plans: Sequence[Plan]
    piece: Sequence[int]
    ticks: int
    """Of a piece."""
    came: Floats
    """(K, L) replica-seconds in a tick."""
    fresh: Flags
    awake: Flags
    clock: int
    """Seconds of the wall at the first tick, for all of them."""
    slots: Floats
    """(L, SLOTS) what came before."""

    def of(self, what: Callable[[Plan], float]) -> Floats:
        return np.array([what(plan) for plan in self.plans], np.float64)


def _lanes(history: History, plans: Sequence[Plan], awake: Mapping[Plan, Flags], sums: Mapping[Plan, _Sum]) -> _Lanes:
    """Of pieces without any work nothing is to be decided: they have as few as is declared."""
    front = history.begins % SLOT_S // TICK_S
    ticks = _piece(history)
    count = -(-(front + len(history.work)) // ticks)
    pad = LEAD + front, count * ticks - front - len(history.work)
    work = np.pad(history.work, pad, constant_values=np.nan)
    clock = history.begins // SLOT_S * SLOT_S - LEAD * TICK_S
    per_slot = SLOT_S // TICK_S
    known = np.isfinite(work).reshape(-1, per_slot)
    means = np.where(known, work.reshape(-1, per_slot), 0.0).sum(1) / np.maximum(known.sum(1), 1)
    means[~known.any(1)] = np.nan
    chosen, columns, slots = [], [], []
    for plan in plans:
        up = np.pad(awake[plan], pad, constant_values=True)
        for piece in range(count):
            at = slice(piece * ticks, (piece + 1) * ticks + LEAD)
            if np.nansum(work[at]) > 0:
                chosen.append((plan, piece))
                columns.append((work[at] * plan.slower, up[at]))
                slots.append(_slots(means[: at.start // per_slot] * plan.slower, clock // SLOT_S))
                continue
            counted = np.isfinite(work[at])[LEAD:]
            sums[plan].replicas += float((counted & up[at][LEAD:]).sum()) * max(plan.least, 1)
    values = np.stack([column for column, _ in columns], 1) if columns else np.zeros((LEAD + ticks, 0))
    return _Lanes(
        plans=[plan for plan, _ in chosen],
        piece=[piece for _, piece in chosen],
        ticks=ticks,
        came=np.nan_to_num(values) * TICK_S,
        fresh=np.isfinite(values),
        awake=np.stack([up for _, up in columns], 1) if columns else np.zeros((LEAD + ticks, 0), bool),
        clock=clock,
        slots=np.stack(slots) if slots else np.zeros((0, SLOTS)),
    )


def _piece(history: History) -> int:
    """Ticks."""
    return SHORT_PIECE if len(history.work) * TICK_S <= FEW_DAYS * 86_400 else LONG_PIECE


def _slots(before: Floats, first: int) -> Floats:
    """(SLOTS,) as the fleet keeps them by its clock, of `before`, oldest first, whose last is just before `first`."""
    kept = before[-SLOTS:]
    found = np.full(SLOTS, np.nan)
    found[(first - len(kept) + np.arange(len(kept))) % SLOTS] = kept
    return found


def _fleet(lanes: _Lanes, before: Fleet | None = None) -> Fleet:
    """That knows the days before; and what the pieces `before` have learnt, each of those that are earlier."""
    fleet = Fleet(float(TICK_S))
    rules = [Rules(plan.share, plan.latency_s, plan.least, plan.most, plan.hold_s) for plan in lanes.plans]
    fleet.add_all({str(lane): (of, None) for lane, of in enumerate(rules)})
    fleet.demand.slots[:] = lanes.slots
    fleet.demand.slot[:] = lanes.clock // SLOT_S - 1
    if before is None:
        return fleet
    numbers = {(plan, piece): lane for lane, (plan, piece) in enumerate(zip(lanes.plans, lanes.piece, strict=True))}
    fade = 0.5 ** (lanes.ticks * TICK_S / HALF_LIFE_S)
    for (plan, piece), lane in numbers.items():
        for ago in range(1, piece + 1):
            if (known := numbers.get((plan, piece - ago))) is None:
                continue
            weight = fade ** (ago - 1)
            for name in _LEARNT:
                getattr(fleet.accounts, name)[lane] += weight * getattr(before.accounts, name)[known]
    return fleet


@dataclass(slots=True)
class _World:
    """(L,) each."""

    ready: Floats
    pending: Floats
    becoming: Floats
    """(ticks, L) replicas that are ready within a tick."""
    backlog: Floats
    left_s: Floats
    """Until the first one is ready that was woken; 0 and less: there is one."""
    up: Flags


def _run(history: History, lanes: _Lanes, fleet: Fleet, sums: Mapping[Plan, _Sum] | None, told: Told) -> Fleet:
    count = len(lanes.plans)
    if not count:
        return fleet
    first = np.ceil(1.5 * lanes.came[:TICKS].mean(0) / TICK_S)
    ready = np.clip(first, np.maximum(lanes.of(lambda plan: plan.least), 1), lanes.of(lambda plan: plan.most))
    ring = np.zeros((leads_of(TICK_S) + 2, count))
    world = _World(ready, np.zeros(count), ring, np.zeros(count), np.zeros(count), np.ones(count, bool))
    cost, late, most = np.zeros(count), np.zeros(count), np.zeros(count)
    terms = _Terms.of(history, lanes)
    begun = {name: getattr(fleet.accounts, name).copy() for name in _LEARNT}
    later = np.flatnonzero(lanes.piece)
    for tick in range(len(lanes.came)):
        if tick == LEAD:  # a piece begins without what the one before it was busy with, and is not to learn of that
            for name, known in begun.items():
                getattr(fleet.accounts, name)[later] = known[later]
        came, fresh = lanes.came[tick], lanes.fresh[tick]
        is_late = _pass(world, terms, tick, came, lanes.awake[tick], np.maximum(fleet.steering.wanted, 1))
        there = world.ready + world.pending
        if tick >= LEAD:
            cost += there * fresh
            late += is_late
            most = np.maximum(most, there)
        requests = came / terms.service_s
        ticks = Ticks(
            work=came,
            requests=requests,
            judged=requests,
            late=np.minimum(is_late / terms.service_s, requests),
            backlog=world.backlog.copy(),
            ready=world.ready.copy(),
            pending=world.pending.copy(),
            start_s=terms.starts,
            service_s=terms.service_s,
            fresh=fresh,
        )
        wanted = fleet.decide(ticks, (tick + 1.0) * TICK_S, lanes.clock + (tick + 1.0) * TICK_S)
        _resize(world, tick, np.where(world.up, wanted, 0), terms.start_s)
        if tick % 120 == 0:
            told(tick / len(lanes.came))
    if sums is not None:
        for lane, plan in enumerate(lanes.plans):
            total = sums[plan]
            total.replicas += float(cost[lane])
            total.late += float(late[lane])
            total.most = max(total.most, int(most[lane]))
    return fleet


@dataclass(frozen=True, slots=True)
class _Terms:
    """(L,) of the lanes' plans."""

    start_s: float
    starts: Floats
    latency_s: Floats
    allowed_s: Floats
    """Of who wakes it."""
    service_s: Floats

    @classmethod
    def of(cls, history: History, lanes: _Lanes) -> _Terms:
        return cls(
            start_s=history.start_s,
            starts=np.full(len(lanes.plans), history.start_s),
            latency_s=lanes.of(lambda plan: plan.latency_s),
            allowed_s=lanes.of(lambda plan: plan.wake_s or plan.latency_s),
            service_s=np.maximum(history.service_s * lanes.of(lambda plan: plan.slower), 1e-6),
        )


def _pass(world: _World, terms: _Terms, tick: int, came: Floats, awake: Flags, wakes: Whole) -> Floats:
    """A tick; the work that came in it and is late. `wakes`: replicas that start where it wakes."""
    slot, woken = tick % len(world.becoming), awake & ~world.up
    world.up = awake
    for lanes in (world.ready, world.pending, world.backlog):
        lanes[~awake] = 0.0
    world.becoming[:, ~awake] = 0.0
    world.left_s = np.where(woken, terms.start_s, world.left_s)
    later, _ = divmod(terms.start_s, TICK_S)
    asked = np.where(woken, wakes, 0.0)
    world.becoming[(slot + int(later)) % len(world.becoming)] += asked
    world.pending += asked
    coming, world.becoming[slot] = world.becoming[slot].copy(), 0.0
    world.pending -= coming
    part = 1.0 - terms.start_s % TICK_S / TICK_S
    capacity = (world.ready + part * coming) * TICK_S
    world.ready += coming
    world.backlog = np.maximum(world.backlog + came - capacity, 0.0)
    waking = world.left_s > 0
    deadline = np.where(waking, np.maximum(terms.allowed_s, terms.latency_s), terms.latency_s)
    clears = np.where(waking, np.maximum(world.ready + world.pending, 1.0), world.ready)
    late = np.clip(world.backlog - clears * deadline, 0.0, came)
    waker_s = np.where(woken, terms.service_s, 0.0)
    late = np.where(waking, np.maximum(late, _late_by_start(came, world.left_s, terms.allowed_s, waker_s)), late)
    chance = _by_chance(came / TICK_S, world.ready, terms.latency_s, terms.service_s)
    world.left_s -= TICK_S
    found: Floats = np.minimum(came, np.maximum(late, came * chance))
    return found


def _resize(world: _World, tick: int, wanted: Floats | Whole, start_s: float) -> None:
    """After a decision at the end of a tick; what is not ready yet goes first, the youngest of all."""
    change = wanted - world.ready - world.pending
    size, later = len(world.becoming), int(start_s // TICK_S)
    more = np.maximum(change, 0.0)
    world.becoming[(tick + 1 + later) % size] += more
    world.pending += more
    for lane in np.flatnonzero(change < 0):
        fewer = -change[lane]
        for ahead in range(later + 1, 0, -1):
            given = min(fewer, world.becoming[(tick + ahead) % size, lane])
            world.becoming[(tick + ahead) % size, lane] -= given
            world.pending[lane] -= given
            fewer -= given
        world.ready[lane] -= min(fewer, world.ready[lane])
