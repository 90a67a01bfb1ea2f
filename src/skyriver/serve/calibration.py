"""How many threads and how many rows a run is best given, measured on made-up rows when a replica starts.

The limit of rows is the smallest number whose rows a second are within a twentieth of the best that was seen: a larger
batch would only keep its members waiting. More threads are taken where they make a run of that size at least a fifth
faster, or one row alone fast enough for the objective; only where more cores were granted: a replica is one core's work
otherwise. Each number that is tried is a load of the model, and so is the way back: what takes long to load keeps one,
but where one row alone then takes longer than the objective: that start may take AGAIN_S longer, once for all replicas.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from skyriver.core.errors import SkyriverError
from skyriver.serve.curve import TIMES
from skyriver.serve.devices import CPU
from skyriver.serve.runner import Runner

BUDGET_S = 0.3
AGAIN_S: Final = 5.0
"""Of loading with more threads, and back, what one thread is too slow for: what is found out is kept."""
NEAR: Final = 0.95
"""Of the best rate: more is not worth a larger batch."""
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
    fixed_us: float = 0.0
    """Of a run, however many rows it has."""
    each_us: float = 0.0
    """Of a run, for each row."""
    by_threads: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """One row alone, and rows a second, with so many threads; empty where no more than one were to be tried."""
    untried_load_s: float = 0.0
    """How long the model loads, where that left no time to try more than one thread."""
    ended_us: float = 0.0
    """One row was ended after so long, and nothing else is known; else 0."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """A curve that is kept (`serve.curve`)."""
        times = {what: float(told[what]) for what in TIMES}
        return cls(told["max_batch"], told["threads"], measured=True, **times)  # type: ignore[arg-type]  # TIMES are

    def times(self, factor: float) -> Self:
        """Of runs that take so many times as long."""
        return replace(self, **{what: getattr(self, what) * factor for what in TIMES})

    def to_json(self) -> dict[str, object]:
        told: dict[str, object] = {"max_batch": self.max_batch, "threads": self.threads}
        if self.measured:
            told |= {what: round(getattr(self, what), 1) for what in TIMES}
        return told


def calibrate(
    runner: Runner,
    model: bytes,
    *,
    max_batch: int,
    cores: int = 1,
    latency_us: float = 0.0,
    load_s: float = 0.0,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration:
    """Says what to give a runner that is warm, `max_batch` rows at most; sets its threads, where it has more `cores`
    than one. `latency_us`: in which an answer is wanted; `load_s`: how long it took to load the model, which is loaded
    anew only while `budget_s` allows it, and the way back. Takes `budget_s`, and one run more where a run is long;
    AGAIN_S more where one row alone takes longer than `latency_us`."""
    if not runner.warm:  # nothing is known of the rows that it takes
        return Calibration(max_batch, runner.threads, ended_us=runner.ended_us)
    try_threads = cores > 1 and runner.device == CPU
    end = clock() + budget_s
    rows_end = end - budget_s / 2 if try_threads else end  # or a slow model would leave no time for its threads
    times: dict[int, float] = {}
    if runner.slow_us:  # another run would take as long again
        times, rows_end, end = {1: runner.slow_us}, 0.0, clock()
    try:
        rows = 1
        while not runner.slow_us and rows <= (max_batch if runner.batching else 1):
            times[rows] = _time_us(runner, rows, rows_end, clock)
            if clock() + 2 * times[rows] / 1e6 > rows_end:
                break
            rows *= 2
    except SkyriverError:  # a number of rows that it does not take, or too much for its memory
        return Calibration(max_batch, runner.threads)
    limit = best_limit(times, max_batch) if runner.batching else max_batch
    longest, most = min(limit, max(times)), max(times)
    by_threads: dict[int, tuple[float, float]] = {}
    untried_s = 0.0
    if try_threads and times[longest] >= _THREADS_FROM_US:
        if 0 < latency_us < times[1]:
            end = max(end, clock() + AGAIN_S)
        one, untried_s = {1: (times[1], times[longest])}, load_s if clock() + 2 * load_s > end else 0.0
        trying = _Trying(runner, model, longest, latency_us, load_s, end, clock)
        found = one if untried_s else trying.try_threads(cores, one)
        by_threads = {threads: (alone, longest / many * 1e6) for threads, (alone, many) in found.items()}
        if runner.threads > 1:
            most, (times[1], times[longest]) = longest, found[runner.threads]
    fixed, each = curve_of(times[1], most, times[most])
    measured = (times[1], times[longest], fixed, each)
    return Calibration(limit, runner.threads, True, *measured, by_threads, untried_s)


def curve_of(one_us: float, rows: int, rows_us: float) -> tuple[float, float]:
    """(of a run, of each row in it), where one row takes `one_us`, and `rows` of them `rows_us`."""
    if rows == 1:
        return 0.0, one_us
    each = max(0.0, (rows_us - one_us) / (rows - 1))
    return max(0.0, one_us - each), each


def best_limit(times: dict[int, float], max_batch: int) -> int:
    """`times`: of runs, by their rows."""
    rates = {rows: rows / max(us, 0.1) for rows, us in times.items()}
    enough = NEAR * max(rates.values())
    found = min(rows for rows, rate in rates.items() if rate >= enough)
    return max_batch if found * 2 > max_batch else found


def best_threads(times: Mapping[int, tuple[float, float]], latency_us: float) -> int:
    """`times`: of one row, and of a batch, by threads. Of those with which one row keeps `latency_us` (of all, where it
    does with none, or there is no objective) the fewest that another number does not beat by a fifth."""
    kept = {threads: many for threads, (one, many) in times.items() if one <= latency_us}
    able = kept or {threads: many for threads, (_, many) in times.items()}
    best = min(able)
    for threads in sorted(able):
        if able[threads] < _WORTH * able[best]:
            best = threads
    return best


def thread_counts(cores: int) -> list[int]:
    """That are tried beside one: all cores, and halves of that."""
    counts = []
    while cores > 1:
        counts.append(cores)
        cores //= 2
    return counts


@dataclass(frozen=True, slots=True)
class _Trying:
    runner: Runner
    model: bytes
    rows: int
    """Of a run."""
    latency_us: float
    load_s: float
    end: float
    clock: Callable[[], float]

    def try_threads(self, cores: int, times: Mapping[int, tuple[float, float]]) -> Mapping[int, tuple[float, float]]:
        """`times` with those of more threads; the runner has the best number."""
        found, took = dict(times), self.load_s
        for threads in thread_counts(cores):
            started = self.clock()
            if started + 2 * took > self.end:  # there would be no time to go back either
                break
            self.runner.use_threads(self.model, threads)
            took = self.clock() - started
            with contextlib.suppress(SkyriverError):  # what it cannot do with more, it did with one
                many = self._time_us(self.rows)
                found[threads] = (self._time_us(1) if self.rows > 1 else many, many)
        if (best := best_threads(found, self.latency_us)) != self.runner.threads:
            self.runner.use_threads(self.model, best)
        return found

    def _time_us(self, rows: int) -> float:
        return _time_us(self.runner, rows, self.end, self.clock)


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
