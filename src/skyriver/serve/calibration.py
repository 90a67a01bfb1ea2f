"""How many threads and how many rows a run is best given, measured on made-up rows when a replica starts.

The limit of rows is the smallest number whose rows a second are within a twentieth of the best that was seen: a larger
batch would only keep its members waiting. More threads than one are taken where they make a run of that size at least a
fifth faster, and only where more cores were granted: a replica is one core's work otherwise.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from skyriver.core.errors import SkyriverError
from skyriver.serve.devices import CPU
from skyriver.serve.runner import Runner

BUDGET_S = 0.3
_NEAR = 0.95
_WORTH = 0.8
_THREADS_FROM_US = 200.0
"""A shorter run is over before threads have met."""
_TRIES = 3
_LONG_US = 5000.0
"""A longer run is timed once: what disturbs it is small beside it."""


@dataclass(frozen=True, slots=True)
class Calibration:
    max_batch: int
    """Rows of one run."""
    threads: int = 1
    measured: bool = False
    row_us: float = 0.0
    """One row alone."""
    batch_us: float = 0.0
    """A run of `max_batch` rows."""

    def to_json(self) -> dict[str, object]:
        if not self.measured:
            return {"max_batch": self.max_batch, "threads": self.threads}
        times = {"row_us": round(self.row_us, 1), "batch_us": round(self.batch_us, 1)}
        return {"max_batch": self.max_batch, "threads": self.threads, **times}


def calibrate(
    runner: Runner,
    model: bytes,
    *,
    max_batch: int,
    cores: int = 1,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration:
    """Sets the threads of a runner that is warm, and says what to give it, `max_batch` at most. Takes `budget_s`, and
    one run more where a run is long."""
    if not runner.warm:  # nothing is known of the rows that it takes
        return Calibration(max_batch)
    try_threads = cores > 1 and runner.device == CPU
    end = clock() + budget_s
    rows_end = end - budget_s / 2 if try_threads else end  # or a slow model would leave no time for its threads
    times: dict[int, float] = {}
    try:
        rows = 1
        while rows <= (max_batch if runner.batching else 1):
            times[rows] = _time_us(runner, rows, rows_end, clock)
            if clock() + 2 * times[rows] / 1e6 > rows_end:
                break
            rows *= 2
        limit = best_limit(times, max_batch) if runner.batching else max_batch
        longest = min(limit, max(times))
        if try_threads and times[longest] >= _THREADS_FROM_US:
            times[longest] = _try_threads(runner, model, cores, longest, times[longest], end, clock)
            if runner.threads > 1 and longest > 1:
                times[1] = _time_us(runner, 1, end, clock)
    except SkyriverError:  # a number of rows that it does not take, or too much for its memory
        if runner.threads > 1:
            runner.use_threads(model, 1)
        return Calibration(max_batch)
    return Calibration(limit, runner.threads, True, times[1], times[longest])


def best_limit(times: dict[int, float], max_batch: int) -> int:
    """`times`: of runs, by their rows."""
    rates = {rows: rows / max(us, 0.1) for rows, us in times.items()}
    enough = _NEAR * max(rates.values())
    found = min(rows for rows, rate in rates.items() if rate >= enough)
    return max_batch if found * 2 > max_batch else found


def _try_threads(
    runner: Runner, model: bytes, cores: int, rows: int, one_us: float, end: float, clock: Callable[[], float]
) -> float:
    """The time of a run with the threads that were kept."""
    started = clock()
    runner.use_threads(model, cores)
    if started + 2 * (clock() - started) < end:  # else there is no time to go back either
        with contextlib.suppress(SkyriverError):  # what it cannot do with more, it did with one
            many_us = _time_us(runner, rows, end, clock)
            if many_us < _WORTH * one_us:
                return many_us
    runner.use_threads(model, 1)
    return one_us


def _time_us(runner: Runner, rows: int, end: float, clock: Callable[[], float]) -> float:
    """The best of a few runs, of which the first pays for what is set up lazily."""
    probe = runner.probe(rows, seed=rows)
    best = float("inf")
    for _ in range(_TRIES + 1):
        started = clock()
        runner.run(probe)
        took = (clock() - started) * 1e6
        best = min(best, took)
        if took > _LONG_US or clock() > end:
            break
    return best
