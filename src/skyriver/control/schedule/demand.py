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
    hold_s: Floats
    start_s: Floats
    forecasts: bool = True


def observe(demand: Demand, came: Floats, fresh: Flags, pace: Pace) -> tuple[Small, Small, Small]:
    """Adds a tick's demand, (N,) replicas, where it is `fresh`; the bases, (N, 5) replicas, in the order above,
    what they would be if all that is longer ago than NOW blocks were forgotten, and the growth that is in both."""
    every = pace.tick_s
    _ring(demand, came, fresh, every)
    busy = np.column_stack([last(demand, seconds, every) for seconds in WINDOWS[:3]]).astype(np.float32)
    _block(demand, busy, pace)
    hours = np.maximum(every / HOUR_S, 1 / np.maximum(demand.ages, 1))
    demand.mean += np.where(fresh, (came - demand.mean) * hours, 0.0)
    _slot(demand, came, fresh, pace)
    growth = _growth(demand, busy[:, 2], pace) if pace.forecasts else np.ones(len(came), np.float32)
    grown = growth[:, None]
    columns = (demand.held * grown, demand.long[:, None] * grown, demand.mean[:, None])
    short = (demand.recent * grown, demand.recent[:, :1] * grown, 0 * grown)
    return np.hstack(columns).astype(np.float32), np.hstack(short), growth


def _ring(demand: Demand, came: Floats, fresh: Flags, tick_s: float) -> None:
    n, size = np.flatnonzero(fresh), demand.ring.shape[1]
    new, ages = came[n].astype(np.float32), demand.ages[n]
    for i, seconds in enumerate(WINDOWS):
        count = _ticks(seconds, tick_s)
        leaves = np.where(ages >= count, demand.ring[n, (ages - count) % size], 0)
        # Sums of float32 numbers in float64: what is added is taken off again.
        demand.sums[n, i] += new.astype(np.float64) - leaves
    demand.ring[n, ages % size] = new
    demand.ages[n] += 1


def _ticks(seconds: float, tick_s: float) -> int:
    return max(1, round(seconds / tick_s))


def last(demand: Demand, seconds: int, tick_s: float) -> Floats:
    """(N,) mean of the last `seconds`, one of WINDOWS, or of as many as there are."""
    known = np.clip(demand.ages, 1, _ticks(seconds, tick_s))
    mean: Floats = np.maximum(demand.sums[:, WINDOWS.index(seconds)], 0.0) / known
    return mean


def _block(demand: Demand, busy: Small, pace: Pace) -> None:
    """Blocks that nobody saw are as the newest was: nothing was seen to fall."""
    number = (pace.second // block_s(pace.hold_s, pace.tick_s)).astype(np.int64)
    new = np.flatnonzero(number != demand.block)
    missed = (demand.block[new] >= 0) & (number[new] > demand.block[new] + 1)
    for row in new[missed]:
        for between in range(max(demand.block[row] + 1, number[row] - BLOCKS + 1), number[row]):
            demand.blocks[row, :, between % BLOCKS] = demand.blocks[row, :, (between - 1) % BLOCKS]
    n, at = np.arange(len(number)), number & (BLOCKS - 1)
    demand.blocks[new, :, at[new]] = 0.0
    demand.block = number
    demand.blocks[n, :, at] = np.maximum(demand.blocks[n, :, at], busy)
    np.maximum(demand.held, busy, out=demand.held)
    np.maximum(demand.recent, busy, out=demand.recent)
    np.maximum(demand.long, busy[:, 0], out=demand.long)
    if new.size:
        blocks = demand.blocks[new]
        age = (number[new, None] - np.arange(BLOCKS)) & (BLOCKS - 1)
        within = blocks_in(pace.hold_s[new], pace.tick_s)[:, None]
        demand.held[new] = np.where((age <= within)[:, None, :], blocks, 0.0).max(2)
        demand.recent[new] = np.where((age <= NOW)[:, None, :], blocks, 0.0).max(2)
        demand.long[new] = np.where(age <= 3 * within, blocks[:, 0], 0.0).max(1)


def block_s(hold_s: Floats, tick_s: float) -> Floats:
    """Whole ticks."""
    blocks: Floats = np.maximum(1, np.ceil(hold_s / IN_HOLD / tick_s)) * tick_s
    return blocks


def blocks_in(hold_s: Floats, tick_s: float) -> Whole:
    """(N,) blocks that a hold reaches back over: IN_HOLD, and fewer where it is of few ticks."""
    return np.ceil(hold_s / block_s(hold_s, tick_s)).astype(np.int64)


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
    before = np.where(ticks <= 1, 0.0, demand.slots[:, at])
    demand.slots[:, at] = np.where(fresh, before + (came - before) / np.maximum(ticks, 1), demand.slots[:, at])


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
    then = demand.told[n, (demand.ages - lead) % size]
    known = (demand.ages > lead) & (then[:, 0] > 0) & (minute > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        missed = np.minimum(np.abs(np.log(minute[:, None] / then[:, ::-1])), MOST_ERROR)
    fade = 0.5 ** (pace.tick_s / HOUR_S)
    demand.errors *= fade
    demand.errors += np.where(known[:, None], missed, 0.0)
    demand.told[n, at, 0], demand.told[n, at, 1] = minute, minute * growth
    rests = demand.errors[:, 0] > demand.errors[:, 1]
    return np.where(rests, 1.0, growth).astype(np.float32)


def _shape_growth(demand: Demand, rows: Whole, pace: Pace) -> Small:
    """(rows,) the median over days; NaN with less than two of them."""
    here = pace.wall / SLOT_S - 0.5
    there = here + (pace.start_s[rows, None] + MINUTE_S) / SLOT_S
    days = DAY * np.arange(1, DAYS)
    now = _between(demand.slots[rows], np.broadcast_to(here - days, (len(rows), len(days))))
    then = _between(demand.slots[rows], there - days)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(now > 0, then / now, np.nan)
    ratios[(~np.isnan(ratios)).sum(1) < 2] = np.nan
    known = ~np.isnan(ratios).all(1)
    found = np.full(len(rows), np.nan, np.float32)
    if known.any():
        found[known] = np.nanmedian(ratios[known], 1)
    return found


def _between(slots: Small, places: Floats) -> Floats:
    """(M, K) of (M, SLOTS), at places between the middles of slots."""
    low = np.floor(places).astype(np.int64)
    share = places - low
    first, second = (np.take_along_axis(slots, (low + more) % SLOTS, 1) for more in (0, 1))
    between: Floats = first * (1 - share) + second * share
    return between


def _slope_growth(demand: Demand, rows: Whole, minute: Small, pace: Pace) -> Floats:
    """(rows,) by the least squares of the last SLOPE_S, where its slope is SIGNIFICANT standard errors above 0."""
    size = demand.ring.shape[1]
    back = np.arange(size)
    ages = demand.ages[rows]
    values = demand.ring[rows[:, None], (ages[:, None] - 1 - back) % size].astype(np.float64)
    x = (back.mean() - back) * pace.tick_s  # seconds, later is more
    centred = values - values.mean(1, keepdims=True)
    sxx = float((x * x).sum())
    slope = centred @ x / sxx
    rest = (centred * centred).sum(1) - slope * slope * sxx
    error = np.sqrt(np.maximum(rest, 0.0) / max(size - 2, 1) / sxx)
    sure = (ages >= size) & (slope > SIGNIFICANT * error) & (minute > 0)
    ahead = slope * (pace.start_s[rows] + MINUTE_S)
    growth: Floats = np.where(sure, 1.0 + ahead / np.maximum(minute, 1e-9), 1.0)
    return growth
