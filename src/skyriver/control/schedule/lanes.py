"""A service whose replicas follow the load once more: pieces of its history under several declarations, side by side.
Pure; `replaying` has the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from skyriver.control.schedule.candidates import (
    BASES,
    FACTORS,
    HALF_LIFE_S,
    choose,
    costs,
    late_prices,
    shares_late,
)
from skyriver.control.schedule.chance import by_chance
from skyriver.control.schedule.demand import SLOT_S, SLOTS, leads_of, turn_of
from skyriver.control.schedule.history import TICK_S, TICKS
from skyriver.control.schedule.past import History, Plan, Total, late_by_start
from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.control.schedule.tables import Flags, Floats, Whole

LEAD: Final = 3_600 // TICK_S
"""Ticks."""
SHORT_PIECE, LONG_PIECE = 2 * LEAD, 6 * LEAD
"""Of a history of FEW_DAYS, and of a longer one: side by side more of them cost little."""
FEW_DAYS: Final = 2
_LEARNT: Final = ("late", "cost", "came", "ticked")

Told = Callable[[float], None]
"""Is called with the share that is done."""


@dataclass(slots=True)
class Lanes:
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


def lanes_of(history: History, plans: Sequence[Plan], awake: Mapping[Plan, Flags], sums: Mapping[Plan, Total]) -> Lanes:
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
            there = up[at][LEAD:] * float(max(plan.least, 1))
            sums[plan].replicas += float(there[counted].sum())
            sums[plan].put(piece * ticks - front, there, 0.0 * there)
    values = np.stack([column for column, _ in columns], 1) if columns else np.zeros((LEAD + ticks, 0))
    return Lanes(
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
    """Ticks, whole slots of a day; of a short history no more than there are."""
    per_slot = SLOT_S // TICK_S
    there = -(-(history.begins % SLOT_S // TICK_S + len(history.work)) // per_slot) * per_slot
    return min(there, SHORT_PIECE if len(history.work) * TICK_S <= FEW_DAYS * 86_400 else LONG_PIECE)


def _slots(before: Floats, first: int) -> Floats:
    """(SLOTS,) as the fleet keeps them by its clock, of `before`, oldest first, whose last is just before `first`."""
    kept = before[-SLOTS:]
    found = np.full(SLOTS, np.nan)
    found[(first - len(kept) + np.arange(len(kept))) % SLOTS] = kept
    return found


def fleet_of(lanes: Lanes, before: Fleet | None = None) -> Fleet:
    """That knows the days before; and what the pieces `before` have learnt, each of those that are earlier."""
    fleet = Fleet(float(TICK_S))
    rules = [Rules(plan.share, plan.latency_s, plan.least, plan.most, plan.hold_s) for plan in lanes.plans]
    fleet.add_all({str(lane): (of, None) for lane, of in enumerate(rules)})
    # By the piece: what a plan would have done does not go by which others are asked for with it.
    fleet.demand.turn[:] = [turn_of(str(piece)) for piece in lanes.piece]
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


def run(history: History, lanes: Lanes, fleet: Fleet, sums: Mapping[Plan, Total] | None, told: Told) -> Fleet:
    count = len(lanes.plans)
    if not count:
        return fleet
    first = np.ceil(1.5 * lanes.came[:TICKS].mean(0) / TICK_S)
    ready = np.clip(first, np.maximum(lanes.of(lambda plan: plan.least), 1), lanes.of(lambda plan: plan.most))
    ring = np.zeros((leads_of(TICK_S) + 2, count))
    world = _World(ready, np.zeros(count), ring, np.zeros(count), np.zeros(count), np.ones(count, bool))
    cost, late, most = np.zeros(count), np.zeros(count), np.zeros(count)
    all_there, all_late = np.zeros_like(lanes.came), np.zeros_like(lanes.came)
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
        all_there[tick], all_late[tick] = there, is_late
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
        prices = _late_prices(history, lanes, fleet)
        for lane, plan in enumerate(lanes.plans):
            total = sums[plan]
            total.replicas += float(cost[lane])
            total.late += float(late[lane])
            total.most = max(total.most, int(most[lane]))
            begins = lanes.piece[lane] * lanes.ticks - history.begins % SLOT_S // TICK_S
            total.put(begins, all_there[LEAD:, lane], all_late[LEAD:, lane])
            total.late_price = float(prices[lane])
    return fleet


def _late_prices(history: History, lanes: Lanes, fleet: Fleet) -> Floats:
    """(L,) of a late request, in replica-hours: at which the objective just holds, by all that was learnt and by the
    demand of the whole history. That of its last minutes moves the price a thousandfold from one minute to the next."""
    n, mean = np.arange(len(lanes.plans)), np.nanmean(history.work) * lanes.of(lambda plan: plan.slower)
    allowed = 1.0 - lanes.of(lambda plan: plan.share)
    base, factor = np.divmod(choose(fleet.accounts, mean, allowed, np.ones(BASES, bool), float(TICK_S)), FACTORS)
    late = shares_late(fleet.accounts, mean, TICK_S)[n, base].astype(np.float64)
    cost = costs(fleet.accounts, mean, TICK_S)[n, base].astype(np.float64)
    requests = mean * 3_600.0 / max(history.service_s, 1e-9)
    found: Floats = late_prices(late, cost, factor) / np.maximum(requests, 1e-9)
    return found


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
    def of(cls, history: History, lanes: Lanes) -> _Terms:
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
    late = np.where(waking, np.maximum(late, late_by_start(came, world.left_s, terms.allowed_s, waker_s)), late)
    chance = by_chance(came / TICK_S, world.ready, terms.latency_s, terms.service_s)
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
