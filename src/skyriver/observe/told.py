"""What processes tell of the requests that they answered, and by how much it grew between two looks. Pure.

A thousand services are looked at every few seconds: what did not change is not read again, nothing is copied, and of a
histogram only the buckets are read that count, those of answers that took too long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from skyriver.core.resources import ProcessStatus
from skyriver.core.units import SECOND
from skyriver.observe.full_runs import Batch, batch_of
from skyriver.serve.objective import LONGEST_ROW_US

_EXACT: Final = 2**53
"""Whole numbers below are what floats are."""
_COUNTS: Final = ("requests", "overloaded", "expired", "run_us", "runs", "rows", "waiting")
_counts_of = itemgetter(*_COUNTS)
_WHOLE: Final = {int}
MOST_MB: Final = 1e9
"""No replica holds more."""
_NONE: Final = (0, 0, 0, 0, 0, 0, 0)


class Untrue(Exception):
    """A report says what cannot be."""


@dataclass(slots=True)
class Grown:
    """Since the last look."""

    answered: float = 0.0
    refused: float = 0.0
    expired: float = 0.0
    slow: float = 0.0
    waiting: float = 0.0
    """How many more wait."""
    busy_s: float = 0.0
    cpu_s: float = 0.0
    most_cpu_s: float = 0.0
    """Of one replica."""
    runs: float = 0.0
    rows: float = 0.0

    def add_cpu(self, seconds: float) -> None:
        if seconds > 0:
            self.cpu_s += seconds
            if seconds > self.most_cpu_s:
                self.most_cpu_s = seconds


class Teller:
    """One process, and what it told last."""

    __slots__ = (
        *("_batch_of", "_counts", "_cpu_s", "_latency_us", "_pid", "_report", "_slow"),
        *("batch", "fastest_us", "row_s", "rss_mb", "waiting"),
    )

    def __init__(self) -> None:
        self._pid = self._latency_us = 0
        self._cpu_s = 0.0
        self._report: Mapping[str, Any] = {}
        self._counts: tuple[float, ...] = ()
        self._slow = 0.0
        self.waiting = 0.0
        """Of these the gateway may know more than the process."""
        self.row_s = 0.0
        """One row takes the model alone; 0: it does not tell."""
        self.fastest_us = 0.0
        """0: nobody was answered."""
        self.rss_mb = 0.0
        self._batch_of: tuple[Any, ...] = ()
        self.batch: Batch | None = None

    def follow(
        self, name: str, process: ProcessStatus, under_way: int, latency_us: int, last: int, grown: Grown
    ) -> tuple[float, float]:
        """Adds to `grown` what the replica `name` did since it was followed last, or, if that was another pid, since
        it was started, if that was after `last`; its (requests, microseconds of runs). `under_way`: to it, by the
        gateway; `latency_us`: what takes longer is slow. Raises Untrue."""
        report, cpu_s, pid = process.report, process.cpu_seconds, process.pid
        held, peak = process.rss_mb, report.get("peak_mb", 0.0)
        self.rss_mb = peak if peak.__class__ is float and held < peak < MOST_MB else held
        is_known = pid == self._pid and latency_us == self._latency_us
        if is_known and report is self._report and under_way == self.waiting:
            return self._did_nothing(cpu_s, grown)
        counts = _read(name, report, self._counts)
        waiting = counts[6] if counts[6] > under_way else under_way
        batch_is_of = report.get("max_batch"), report.get("fixed_us"), report.get("each_us")
        if batch_is_of != self._batch_of:
            self._batch_of, self.batch = batch_is_of, batch_of(report)
        if is_known and counts is self._counts and waiting == self.waiting:
            self._report = report
            return self._did_nothing(cpu_s, grown)
        slow, self.fastest_us = slow_and_fastest(name, _latencies(report), latency_us)
        row_us: Any = report.get("row_us")
        is_number = row_us.__class__ is float or row_us.__class__ is int
        self.row_s = row_us / SECOND if is_number and 0 < row_us < LONGEST_ROW_US else 0.0
        if pid != self._pid:
            is_new = last and process.started_at >= last
            self._pid, self._cpu_s, self._latency_us = pid, cpu_s, latency_us
            self._counts, self._slow, self.waiting = (_NONE, 0, 0) if is_new else (counts, slow, waiting)
        elif latency_us != self._latency_us:  # it was declared anew
            self._slow, _ = slow_and_fastest(name, _latencies(self._report), latency_us)
            self._latency_us = latency_us
        requests, overloaded, expired, run_us, runs, rows, _ = counts
        before, self._counts = self._counts, counts
        came, refused, given_up = requests - before[0], overloaded - before[1], expired - before[2]
        ran_us, ran, ran_rows = run_us - before[3], runs - before[4], rows - before[5]
        if came < 0 or refused < 0 or given_up < 0 or ran_us < 0 or ran < 0 or ran_rows < 0:
            raise _fell(name, before, counts)
        if slow < self._slow:
            raise Untrue(f"{name} tells fewer answers that are slow than before: a count does not fall.")
        grown.answered += came
        grown.refused += refused
        grown.expired += given_up
        grown.busy_s += ran_us / SECOND
        grown.runs += ran
        grown.rows += ran_rows
        grown.waiting += waiting - self.waiting
        grown.slow += slow - self._slow
        grown.add_cpu(cpu_s - self._cpu_s)
        self._slow, self.waiting, self._cpu_s, self._report = slow, waiting, cpu_s, report
        return came, ran_us

    def _did_nothing(self, cpu_s: float, grown: Grown) -> tuple[float, float]:
        grown.add_cpu(cpu_s - self._cpu_s)
        self._cpu_s = cpu_s
        return 0, 0


def _read(name: str, report: Mapping[str, Any], known: tuple[float, ...]) -> tuple[float, ...]:
    """Its counts, in the order of `_COUNTS`: `known` itself, where they are the same. Raises Untrue."""
    try:
        counts: tuple[float, ...] = _counts_of(report)
    except KeyError:
        return _one_by_one(name, report)
    if counts == known:
        return known
    return (
        counts
        if {*map(type, counts)} == _WHOLE and min(counts) >= 0 and sum(counts) < _EXACT
        else _one_by_one(name, report)
    )


def _one_by_one(name: str, report: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(number(name, report, what) for what in _COUNTS)


def _fell(name: str, before: Sequence[float], now: Sequence[float]) -> Untrue:
    what, was, is_now = next(each for each in zip(_COUNTS, before, now, strict=False) if each[2] < each[1])
    return Untrue(f"{name} tells {what}={is_now:.0f}, and told {was:.0f} before: a count does not fall.")


def _latencies(report: Mapping[str, Any]) -> Any:
    return (report.get("counted") or {}).get("latency_us")


def number(name: str, report: Mapping[str, Any], what: str) -> float:
    """A count. Raises Untrue."""
    value = report.get(what, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise Untrue(f"{name} tells {what}={value!r:.40}, which cannot be.")
    return float(min(value, 1e300))


def slow_and_fastest(name: str, told: Any, from_us: int) -> tuple[float, float]:
    """Of latencies as [[a bucket's lower bound in microseconds, how many], ...] in order: how many took `from_us` and
    longer, or none where that is 0; and the least that one took, 0 where there is none. Raises Untrue."""
    if not told:
        return 0, 0
    slow = 0
    try:
        if from_us:
            for low, count in reversed(told):
                if low < from_us:
                    break
                slow += count
        fastest, count = told[0]
        if not count:
            fastest = next((low for low, count in told if count), 0)
        true = 0 <= slow < math.inf > count >= 0 <= fastest < math.inf
    except (TypeError, ValueError, LookupError):
        raise Untrue(f"{name} tells latencies that cannot be read.") from None
    if not true:
        raise Untrue(f"{name} tells latencies that cannot be.")
    return slow, fastest


def histogram(name: str, told: Any) -> dict[int, float]:
    """All of it, in whatever order. Raises Untrue."""
    try:
        counts = {int(low): float(count) for low, count in told or ()}
    except (TypeError, ValueError, OverflowError):
        raise Untrue(f"{name} tells latencies that cannot be read.") from None
    if any(not 0 <= count < math.inf for count in counts.values()):
        raise Untrue(f"{name} tells latencies that cannot be.")
    return counts
