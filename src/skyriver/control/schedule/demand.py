"""What is known of each service's demand: the last minutes, the busiest stretches, and the shape of its days. Pure.

Demand is work that comes, in replicas: replica-seconds a second. The busiest stretches are kept in BLOCKS blocks, each
a twentieth of the hold, so that a hold of seconds and one of hours cost the same. The days before are kept in slots of
five minutes, for two weeks.

The forecast is how much demand grows from now until replicas that are asked for now would have started and worked for
a minute: by the median shape of the days before, else by the slope of the last ten minutes where it is significant. It
only ever adds, at most doubles, and rests while its error over the last hour exceeds that of expecting no change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final
from zlib import crc32

import numpy as np

from skyriver.control.schedule.tables import Flags, Floats, Small, Table, Whole

BLOCKS: Final = 64
"""A power of two."""
NOW: Final = 4
"""Blocks that are recent."""
IN_HOLD: Final = 20
"""Blocks of a hold; of thrice the hold there are sixty."""
SLOT_S: Final = 300
DAY: Final = 86_400 // SLOT_S
DAYS: Final = 14
SLOTS: Final = DAYS * DAY
MINUTE_S: Final = 60
WINDOWS: Final = (5, 15, MINUTE_S, 120)
"""Seconds."""
SLOPE_S: Final = 600
HOUR_S: Final = 3_600.0
MOST_GROWTH: Final = 2.0
LONGEST_LEAD_S: Final = 640.0
MOST_ERROR: Final = 5.0
"""Of a forecast, logarithmic: what is wrong by more is as wrong."""
_AGES: Final = ((np.arange(BLOCKS)[:, None] - np.arange(BLOCKS)) % BLOCKS).astype(np.int8)
"""Of each block's place, by that of the newest."""
SIGNIFICANT: Final = 4.0
"""Standard errors."""
STAGGER: Final = 12
"""The shape of days is looked at every so many ticks, by as many shares of the services in turn."""

BUSY_5, BUSY_15, BUSY_60, BUSY_LONG, MEAN = range(5)


@dataclass(slots=True)
class Demand(Table):
    """`tick_s` seconds between two rows of the ring."""

    ring: Small
    """(N, ticks of SLOPE_S), newest at `ages - 1`."""
    sums: Floats
    """(N, WINDOWS) of the last ticks."""
    blocks: Small
    """(N, 3, BLOCKS) highest 5 s, 15 s and minute of each block."""
    block: Whole
    """(N,) number of the newest block."""
    held: Small
    """(N, 3) highest of the blocks within the hold, and the same of those that are recent."""
    recent: Small
    long: Small
    """(N,) highest 5 s of the blocks within thrice the hold."""
    within: Whole
    """(N,) blocks of the hold that `held` and `long` are of; -1: not known."""
    mean: Floats
    """(N,) of the last hour."""
    ages: Whole
    """(N,) ticks since it is known."""
    slots: Small
    """(N, SLOTS) mean of five minutes; NaN where it is not known."""
    slot: Whole
    """(N,) the newest."""
    slot_ticks: Whole
    """(N,) in the newest."""
    growth: Small
    """(N,) that the shape of days tells."""
    told: Small
    """(N, ticks of LONGEST_LEAD_S, 2): the last minute, and what was forecast from it."""
    errors: Floats
    """(N, 2) of the forecast and of no change, absolute and logarithmic, faded."""
    turn: Whole
    """(N,) of `turn_of`."""

    @classmethod
    def starting(cls, n: int, tick_s: float) -> Demand:
        ring, leads = round(SLOPE_S / tick_s), leads_of(tick_s)
        small = np.float32
        return cls(
            ring=np.zeros((n, ring), small),
            sums=np.zeros((n, len(WINDOWS))),
            blocks=np.zeros((n, 3, BLOCKS), small),
            block=np.full(n, -1),
            held=np.zeros((n, 3), small),
            recent=np.zeros((n, 3), small),
            long=np.zeros(n, small),
            within=np.full(n, -1),
            mean=np.zeros(n),
            ages=np.zeros(n, np.int64),
            slots=np.full((n, SLOTS), np.nan, small),
            slot=np.full(n, -1),
            slot_ticks=np.zeros(n, np.int64),
            growth=np.ones(n, small),
            told=np.zeros((n, leads, 2), small),
            errors=np.zeros((n, 2)),
            turn=np.zeros(n, np.int64),
        )


def turn_of(name: str) -> int:
    """In which the shape of a service's days is looked at: its own, whichever others there are."""
    return crc32(name.encode()) % STAGGER


def leads_of(tick_s: float) -> int:
    """Ticks of LONGEST_LEAD_S, and one."""
    return int(np.ceil(LONGEST_LEAD_S / tick_s)) + 1


def lead_ticks(start_s: Floats, tick_s: float) -> Whole:
    """From a decision to its effect: until it is taken, and until what it starts is ready."""
    return np.clip(np.ceil((start_s + tick_s) / tick_s), 1, leads_of(tick_s) - 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one tick: when it was, and what is declared and measured of each service."""

    tick_s: float
    second: float
    """Of a clock that nobody sets."""
    wall: float
    """Seconds of the wall's clock, for the shape of days."""
    start_s: Floats
    block: Whole
    """Number of the block of its hold that it is in, and how many of them the hold reaches back over."""
    within: Whole
    forecasts: bool = True

    @classmethod
    def of(
        cls, tick_s: float, second: float, wall: float, hold_s: Floats, start_s: Floats, forecasts: bool = True
    ) -> Pace:
        length_s = block_s(hold_s, tick_s)
        block, within = ((of / length_s) for of in (second, hold_s))
        blocks = np.floor(block).astype(np.int64), np.ceil(within).astype(np.int64)
        return cls(tick_s, second, wall, start_s, *blocks, forecasts)


@dataclass(frozen=True, slots=True)
class Observed:
    bases: Small
    """(N, 5) replicas, in the order above."""
    now: Small
    """The same, if all that is longer ago than NOW blocks were forgotten."""
    growth: Small
    """(N,) that is in both."""
    means: Floats
    """(N, WINDOWS) of the last ticks."""


def observe(demand: Demand, came: Floats, fresh: Flags, pace: Pace) -> Observed:
    """Adds a tick's demand, (N,) replicas, where it is `fresh`."""
    every = pace.tick_s
    _ring(demand, came, fresh, every)
    known = np.minimum(np.maximum(demand.ages, 1)[:, None], _counts(every))
    means = np.maximum(demand.sums, 0.0) / known  # or of as many as there are
    busy = means[:, :3].astype(np.float32)
    _block(demand, busy, pace)
    hours = np.maximum(every / HOUR_S, 1 / np.maximum(demand.ages, 1))
    demand.mean += np.where(fresh, (came - demand.mean) * hours, 0.0)
    _slot(demand, came, fresh, pace)
    growth = _growth(demand, busy[:, 2], pace) if pace.forecasts else np.ones(len(came), np.float32)
    bases, now = np.empty((len(came), 5), np.float32), np.zeros((len(came), 5), np.float32)
    np.multiply(demand.held, growth[:, None], out=bases[:, :3])
    np.multiply(demand.long, growth, out=bases[:, 3])
    bases[:, 4] = demand.mean
    np.multiply(demand.recent, growth[:, None], out=now[:, :3])
    now[:, 3] = now[:, 0]
    return Observed(bases, now, growth, means)


def _ring(demand: Demand, came: Floats, fresh: Flags, tick_s: float) -> None:
    n, size = np.flatnonzero(fresh), demand.ring.shape[1]
    new, ages = came[n].astype(np.float32), demand.ages[n]
    leave = demand.ring[n[:, None], (ages[:, None] - _counts(tick_s)) % size]  # 0 where there are not as many yet
    # Sums of float32 numbers in float64: what is added is taken off again.
    demand.sums[n] += new[:, None].astype(np.float64) - leave
    demand.ring[n, ages % size] = new
    demand.ages[n] += 1


@cache
def _counts(tick_s: float) -> Whole:
    """(WINDOWS,) ticks of each."""
    return np.array([max(1, round(seconds / tick_s)) for seconds in WINDOWS])


def _block(demand: Demand, busy: Small, pace: Pace) -> None:
    """Blocks that nobody saw are as the newest was: nothing was seen to fall."""
    number = pace.block
    new = np.flatnonzero(number != demand.block)
    before = demand.block
    missed = (before[new] >= 0) & (number[new] > before[new] + 1)
    for row in new[missed]:
        for between in range(max(before[row] + 1, number[row] - BLOCKS + 1), number[row]):
            demand.blocks[row, :, between % BLOCKS] = demand.blocks[row, :, (between - 1) % BLOCKS]
    n, at = np.arange(len(number)), number & (BLOCKS - 1)
    demand.blocks[new, :, at[new]] = 0.0
    demand.block = number
    demand.blocks[n, :, at] = np.maximum(demand.blocks[n, :, at], busy)
    np.maximum(demand.held, busy, out=demand.held)
    np.maximum(demand.recent, busy, out=demand.recent)
    np.maximum(demand.long, busy[:, 0], out=demand.long)
    if new.size:
        _forget(demand, new, missed | (number[new] < before[new]), pace)


def _forget(demand: Demand, new: Whole, irregular: Flags, pace: Pace) -> None:
    """What left with the oldest block of each stretch, in the rows that have a `new` one. Looked for again is only what
    was as high as that, and where more than one left, or the hold is another one."""
    number, within = pace.block[new], pace.within[new]
    irregular |= demand.within[new] != within
    demand.within[new] = within
    stretches = ((demand.held, within), (demand.recent, np.full(len(new), NOW)), (demand.long[:, None], 3 * within))
    for highest, blocks in stretches:
        kinds, then = highest.shape[1], highest[new]
        left = demand.blocks[new, :kinds, (number - blocks - 1) & (BLOCKS - 1)]
        again = np.flatnonzero(irregular | ((left >= then) & (then > 0)).any(1))
        if again.size:
            age = _AGES[number[again] & (BLOCKS - 1)]
            within_it = (age <= blocks[again, None])[:, None, :]
            highest[new[again]] = np.where(within_it, demand.blocks[new[again], :kinds], np.float32(0)).max(2)


def block_s(hold_s: Floats, tick_s: float) -> Floats:
    """Whole ticks."""
    blocks: Floats = np.maximum(1, np.ceil(hold_s / IN_HOLD / tick_s)) * tick_s
    return blocks


def _slot(demand: Demand, came: Floats, fresh: Flags, pace: Pace) -> None:
    number = int(pace.wall // SLOT_S)
    begun = demand.slot != number
    if begun.any():
        for row in np.flatnonzero(begun & (demand.slot >= 0)):  # those that nobody saw are not known
            gap = min(number - int(demand.slot[row]), SLOTS)
            for missed in range(number - gap + 1, number + 1) if gap > 0 else range(0):
                demand.slots[row, missed % SLOTS] = np.nan
        demand.slot[begun], demand.slot_ticks[begun] = number, 0
    at, ticks = number % SLOTS, demand.slot_ticks
    ticks += fresh
    known = demand.slots[:, at]
    before = np.where(ticks <= 1, 0.0, known)
    demand.slots[:, at] = np.where(fresh, before + (came - before) / np.maximum(ticks, 1), known)


def _growth(demand: Demand, minute: Small, pace: Pace) -> Small:
    """(N,) from 1 to MOST_GROWTH."""
    n = np.arange(len(minute))
    turn = np.flatnonzero(demand.turn == round(pace.second / pace.tick_s) % STAGGER)
    if turn.size:
        shape = _shape_growth(demand, turn, pace)
        unknown = np.isnan(shape)
        if unknown.any():
            rows = turn[unknown]
            shape[unknown] = _slope_growth(demand, rows, minute[rows], pace)
        demand.growth[turn] = np.clip(shape, 1.0, MOST_GROWTH)
    growth = demand.growth
    size = demand.told.shape[1]
    lead, at = lead_ticks(pace.start_s + MINUTE_S / 2, pace.tick_s), demand.ages % size
    then = demand.told[n, (at - lead) % size]
    known = (demand.ages > lead) & (then[:, 0] > 0) & (minute > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        missed = np.minimum(np.abs(np.log(minute[:, None] / then[:, ::-1])), MOST_ERROR)
    demand.errors *= 0.5 ** (pace.tick_s / HOUR_S)
    demand.errors += np.where(known[:, None], missed, 0.0)
    demand.told[n, at] = np.column_stack((minute, minute * growth))
    rests = demand.errors[:, 0] > demand.errors[:, 1]
    return np.where(rests, np.float32(1), growth)


def _shape_growth(demand: Demand, rows: Whole, pace: Pace) -> Small:
    """(rows,) the median over days; NaN with less than two of them."""
    here = pace.wall / SLOT_S - 0.5
    there = here + (pace.start_s[rows, None] + MINUTE_S) / SLOT_S
    days = DAY * np.arange(1.0, DAYS)
    now, then = (_between(demand.slots, rows, of - days) for of in (np.full((1, 1), here), there))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(now > 0, then / now, np.nan)
    ratios.sort(axis=1)  # what is not known comes last
    days_known = DAYS - 1 - np.isnan(ratios).sum(1)
    k, middle = np.arange(len(rows)), np.maximum(days_known, 1)
    median = (ratios[k, (middle - 1) // 2] + ratios[k, middle // 2]) / 2
    return np.where(days_known >= 2, median, np.nan).astype(np.float32)


def _between(slots: Small, rows: Whole, places: Floats) -> Floats:
    """(rows, K) of (N, SLOTS), at places between the middles of slots, (rows or 1, K)."""
    low = np.floor(places)
    share, at = places - low, low.astype(np.int64) % SLOTS
    first, second = slots[rows[:, None], at], slots[rows[:, None], (at + 1) % SLOTS]
    between: Floats = first * (1 - share) + second * share
    return between


def _slope_growth(demand: Demand, rows: Whole, minute: Small, pace: Pace) -> Floats:
    """(rows,) by the least squares of the last SLOPE_S, where its slope is SIGNIFICANT standard errors above 0."""
    size = demand.ring.shape[1]
    ages = demand.ages[rows]
    x, back = _before(size, pace.tick_s)
    values = demand.ring[rows[:, None], back[(ages - 1) % size]].astype(np.float64)
    centred = values - values.mean(1, keepdims=True)
    sxx = float((x * x).sum())
    slope = centred @ x / sxx
    rest = (centred * centred).sum(1) - slope * slope * sxx
    error = np.sqrt(np.maximum(rest, 0.0) / max(size - 2, 1) / sxx)
    sure = (ages >= size) & (slope > SIGNIFICANT * error) & (minute > 0)
    ahead = slope * (pace.start_s[rows] + MINUTE_S)
    growth: Floats = np.where(sure, 1.0 + ahead / np.maximum(minute, 1e-9), 1.0)
    return growth


@cache
def _before(size: int, tick_s: float) -> tuple[Floats, Whole]:
    """Of the places of a ring: (size,) seconds to the middle of them, later is more, from the newest on; and, by where
    the newest is, (size, size) the places of all, from the newest on."""
    back = np.arange(size)
    return (back.mean() - back) * tick_s, (back[:, None] - back) % size
