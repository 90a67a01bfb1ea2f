"""What the services of `elastic.py` are asked: real hours from a folder, and days and bursts made here, from a seed.

The work of a request is a tenth of its context tokens and its generated ones, in units of the mean of its file: so a
request is one replica-second on average in every trace, a made one too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from _elastic_world import SLOT_S, Floats, Trace

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
DAY_S, DAYS_BEFORE = 86_400, 14
LEAD_S = 7_200
"""Of the made traces: all scalers have run the service for so long when it begins to count."""
SHORTEST_S, LONGEST_S = 300, 8 * DAY_S
HOURS = (0, 2, 4, 5, 6, 7, 8, 9, 10, 11.5, 12.5, 13.5, 14.5, 16, 17, 18, 19.5, 21, 22, 23, 24)
SHAPE = (32, 23, 20, 22, 32, 50, 74, 92, 100, 98, 80, 84, 97, 100, 95, 84, 90, 76, 58, 42, 32)
"""Of a working day: a steep morning, a dip at noon, a second peak in the evening; by day five times as by night."""
WEEKEND = 0.62


class BadTraces(Exception):
    """Says which file, which line, and what is wrong with it."""


def read_folder(folder: Path) -> list[Trace]:
    """Every CSV of the folder, by name, and, of several, their pool.

    Raises:
        BadTraces: There is none, or one is not of the form.
    """
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not files:
        raise BadTraces(
            f"{folder} is no folder with traces: there is no .csv file in it; give one with --traces that has "
            f"files with the columns {','.join(COLUMNS)}"
        )
    traces = [read_trace(file) for file in files]
    return [*traces, pool(traces)] if len(traces) > 1 else traces


def read_trace(file: Path) -> Trace:
    """Raises:
    BadTraces: It is not of the form.
    """
    seconds, work = [], []
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.reader(lines)
            header = [name.strip() for name in next(rows, [])]
            if absent := [name for name in COLUMNS if name not in header]:
                raise BadTraces(f"{file}, line 1: there is no column {absent[0]}; wanted are {','.join(COLUMNS)}")
            places = [header.index(name) for name in COLUMNS]
            for row in rows:
                if row:
                    at, units = _request(f"{file}, line {rows.line_num}", row, places)
                    seconds.append(at)
                    work.append(units)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTraces(f"{file} cannot be read as CSV in UTF-8: {error}") from error
    if not sum(work):
        raise BadTraces(f"{file}: there is no work in it ({len(work)} requests); a trace needs requests with tokens")
    return _by_seconds(file, np.array(seconds), np.array(work))


def _request(where: str, row: Sequence[str], places: Sequence[int]) -> tuple[float, float]:
    """When it came and its work, in tokens."""
    if len(row) <= max(places):
        raise BadTraces(f"{where}: it has {len(row)} fields, {max(places) + 1} are needed")
    stamp, *tokens = (row[place].strip() for place in places)
    try:
        at = datetime.fromisoformat(stamp)
    except ValueError:
        raise BadTraces(f"{where}: TIMESTAMP is {stamp!r}, not a time like 2023-11-16 18:17:03.9799600") from None
    counts = []
    for name, text in zip(COLUMNS[1:], tokens, strict=True):
        try:
            counts.append(float(text))
        except ValueError:
            raise BadTraces(f"{where}: {name} is {text!r}, not a number") from None
        if not 0 <= counts[-1] < math.inf:
            raise BadTraces(f"{where}: {name} is {text}, not a count of tokens")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp(), 0.1 * counts[0] + counts[1]


def _by_seconds(file: Path, at: Floats, work: Floats) -> Trace:
    second = np.floor(at - at.min()).astype(np.int64)
    length = int(second.max()) + 1
    if not SHORTEST_S <= length <= LONGEST_S:
        raise BadTraces(f"{file}: it spans {length} s; from {SHORTEST_S} to {LONGEST_S} can be replayed")
    return Trace(
        file.stem,
        np.bincount(second, work / work.mean(), minlength=length),
        np.bincount(second, minlength=length).astype(np.float64),
    )


def pool(traces: Sequence[Trace]) -> Trace:
    """All at once, from their first seconds on, as long as the shortest."""
    length = min(trace.seconds for trace in traces)
    return Trace(
        "pool",
        np.sum([trace.work[:length] for trace in traces], axis=0),
        np.sum([trace.requests[:length] for trace in traces], axis=0),
    )


def seasonal(seed: int, mean: float = 12.0, *, name: str = "seasonal", weekday: int = 2, lead_s: int = LEAD_S) -> Trace:
    """A day (0 is a Monday) of some `mean` replicas, after DAYS_BEFORE days that are known by five-minute means.

    No day is like another: its level drifts, its amplitude and its hour differ, and the rate wanders by some per cent
    within minutes.
    """
    rng = np.random.default_rng([seed, 1])
    days = DAYS_BEFORE + 1
    level = np.exp(np.cumsum(rng.normal(0.006, 0.02, days)))
    amplitude, early_h = rng.normal(1, 0.06, days), rng.normal(0, 0.2, days)
    hour = np.arange(DAY_S // SLOT_S) * (24 * SLOT_S / DAY_S)
    rates = []
    for day in range(days):
        shape = np.interp((hour + early_h[day]) % 24, HOURS, SHAPE)
        usual = 1 + (shape / np.mean(SHAPE) - 1) * amplitude[day]
        at_rest = WEEKEND if (weekday + day - DAYS_BEFORE) % 7 >= 5 else 1.0
        rates.append(level[day] * at_rest * np.maximum(usual, 0.1))
    slots = np.concatenate(rates)
    slots *= mean / slots[-len(hour) :].mean()
    slots *= np.exp(_wandering(rng, len(slots), 0.04, 5))
    before = slots[: -len(hour)] * SLOT_S
    arrived = rng.poisson(before)
    seconds = np.arange(len(slots) * SLOT_S - DAY_S - lead_s, len(slots) * SLOT_S)
    fine = np.interp(seconds / SLOT_S, np.arange(len(slots)) + 0.5, slots)
    work, requests = _asked(rng, fine * np.exp(_wandering(rng, len(fine), 0.03, 120)))
    known = rng.gamma(np.maximum(arrived, 1) / (1 + _TAIL), 1 + _TAIL) / SLOT_S
    return Trace(name, work, requests, known[: -lead_s // SLOT_S], lead_s)


def bursty(seed: int, base: float = 2.0, seconds: int = 5_400, *, name: str = "bursty") -> Trace:
    """A low rate with bursts of 20 s to five minutes that begin and end at once, at three to ten times the
    base; `seconds` of it count."""
    rng = np.random.default_rng([seed, 2])
    rate = np.full(LEAD_S + seconds, base)
    at = 0.0
    while (at := at + rng.exponential(360)) < len(rate):
        lasts, times = 20 * _pareto(rng, 1.1, 15), 3 * _pareto(rng, 1.5, 10 / 3)
        burst = slice(int(at), int(at + lasts))
        rate[burst] = np.maximum(rate[burst], base * times)
    return Trace(name, *_asked(rng, rate), lead_s=LEAD_S)


_TAIL = math.expm1(0.8**2)
"""Squared coefficient of variation of the work of a request: it is lognormal with 0.8."""


def _asked(rng: np.random.Generator, rate: Floats) -> tuple[Floats, Floats]:
    """Work and requests of each second: they arrive as a Poisson process."""
    requests = rng.poisson(rate)
    each = rng.lognormal(-(0.8**2) / 2, 0.8, int(requests.sum()))
    return np.bincount(np.repeat(np.arange(len(rate)), requests), each, minlength=len(rate)), requests.astype(float)


def _wandering(rng: np.random.Generator, steps: int, deviation: float, memory: float) -> Floats:
    """An autoregressive process that forgets in `memory` steps."""
    keeps = math.exp(-1 / memory)
    noise = rng.normal(0, deviation * math.sqrt(1 - keeps**2), steps)
    found = np.empty(steps)
    now = rng.normal(0, deviation)
    for step in range(steps):
        found[step] = now = keeps * now + noise[step]
    return found


def _pareto(rng: np.random.Generator, tail: float, most: float) -> float:
    return float(min(1 + rng.pareto(tail), most))
