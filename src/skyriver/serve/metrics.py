"""What a replica counts of itself, cheap enough for every request, and its text form for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_STEPS = 8
"""Buckets between two powers of two: a quantile is off by at most 6%."""
_OCTAVES = 28
"""The last bucket starts at 2^28: 268 seconds, in microseconds."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Histogram:
    """Whole numbers (microseconds, rows) in buckets that grow by an eighth of a power of two."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (_STEPS * (_OCTAVES - 2) + 1)
        self.total = 0

    def add(self, value: int, times: int = 1) -> None:
        self.total += value * times
        bits = value.bit_length()
        if bits < 4:
            self.counts[value if value > 0 else 0] += times
        elif bits <= _OCTAVES:
            self.counts[(bits - 3) * _STEPS + (value >> (bits - 4)) - _STEPS] += times
        else:
            self.counts[-1] += times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def told(self) -> list[list[int]]:
        """[the bucket's lower bound, how many] of the buckets that have any, in order."""
        return [[_bounds(bucket)[0], count] for bucket, count in enumerate(self.counts) if count]

    def quantile(self, share: float, before: list[int] | None = None) -> float:
        """The value that `share` of what was added (since the copy `before` of `counts`) lies below; 0 of nothing."""
        counts = self.counts if before is None else [now - then for now, then in zip(self.counts, before, strict=True)]
        rank = share * sum(counts)
        if rank == 0:
            return 0.0
        passed = 0
        for bucket, count in enumerate(counts):
            if passed + count >= rank:
                low, high = _bounds(bucket)
                return low + (high - low) * (rank - passed) / count
            passed += count
        return float(_bounds(len(counts) - 1)[1])

    def cumulative(self) -> list[tuple[int, int]]:
        """(bound, how many are below it) at powers of two: exact, they are bounds of buckets."""
        return [(1 << octave, sum(self.counts[: _first_from(octave)])) for octave in range(_OCTAVES)]


def _first_from(octave: int) -> int:
    """The bucket that starts at 2^octave."""
    return 1 << octave if octave < 3 else (octave - 2) * _STEPS


def _bounds(bucket: int) -> tuple[int, int]:
    if bucket < _STEPS:
        return bucket, bucket + 1
    octave, step = divmod(bucket, _STEPS)
    return (_STEPS + step) << (octave - 1), (_STEPS + step + 1) << (octave - 1)


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def peak_bytes() -> int:
    """The most that this process ever held; `ru_maxrss` would count what started it too. 0: the kernel does not say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Counters:
    """Of the requests that ask for a prediction."""

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.latency_us = Histogram()
        """From the last byte of a request to the first of its answer."""
        self.batch_rows = Histogram()
        self.run_us = Histogram()
        self.read_us = Histogram()
        """Of those by key: from the last byte of a request to its features, or to the fallback in their place."""
        self.unread = 0
        """Requests by key for which the stream could not be read: no fault of the version's."""
        self.fallbacks: dict[str, int] = {}
        """Rows that got the fallback, by why."""

    def found(self, instead: Sequence[str], microseconds: int) -> None:
        """`instead`: of each row that was asked for by key why it gets the fallback, or ""."""
        self.read_us.add(microseconds)
        for why in filter(None, instead):
            self.fallbacks[why] = self.fallbacks.get(why, 0) + 1

    def answered(self, status: int, microseconds: int) -> None:
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.latency_us.add(microseconds)

    @property
    def requests(self) -> int:
        return sum(self.by_status.values())

    @property
    def errors(self) -> int:
        """What was our or the model's fault; being full (503) is counted apart, as `overloaded`, and so is an answer
        that nobody waited for any more (504)."""
        return sum(count for status, count in self.by_status.items() if status >= 500 and status not in (501, 503, 504))

    @property
    def refused(self) -> int:
        return sum(count for status, count in self.by_status.items() if 400 <= status < 500 or status == 501)

    @property
    def overloaded(self) -> int:
        return self.by_status.get(503, 0) - self.unread

    @property
    def expired(self) -> int:
        return self.by_status.get(504, 0)


def prometheus(counters: Counters, labels: Mapping[str, str], *, waiting: int, running: int, connections: int) -> bytes:
    """The text exposition format, version 0.0.4."""
    common = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
    lines: list[str] = []
    lines += _head("skyriver_requests_total", "counter", "Predictions asked for, by status of the answer.")
    for status, count in sorted(counters.by_status.items()):
        lines.append(f'skyriver_requests_total{{{common},code="{status}"}} {count}')
    name = "skyriver_request_seconds"
    lines += _head(name, "histogram", "From a whole request to its answer.")
    lines += _histogram(name, common, counters.latency_us, 1e-6, range(6, 24))
    if counters.read_us.total:
        lines += _head("skyriver_feature_read_seconds", "histogram", "From a whole request by key to its features.")
        lines += _histogram("skyriver_feature_read_seconds", common, counters.read_us, 1e-6, range(6, 24))
    if counters.fallbacks:
        lines += _head("skyriver_fallback_rows_total", "counter", "Rows that got the declared fallback, by reason.")
        for reason, count in sorted(counters.fallbacks.items()):
            lines.append(f'skyriver_fallback_rows_total{{{common},reason="{reason}"}} {count}')
    lines += _head("skyriver_run_seconds", "histogram", "One run of the model.")
    lines += _histogram("skyriver_run_seconds", common, counters.run_us, 1e-6, range(2, 24))
    lines += _head("skyriver_batch_rows", "histogram", "Rows of one run of the model.")
    lines += _histogram("skyriver_batch_rows", common, counters.batch_rows, 1, range(12))
    for name, value, told in (
        ("skyriver_waiting_requests", waiting, "Requests that wait for a run."),
        ("skyriver_running_requests", running, "Requests in a run that is under way."),
        ("skyriver_connections", connections, "Open connections."),
        ("process_resident_memory_bytes", resident_bytes(), "Resident memory."),
    ):
        lines += _head(name, "gauge", told)
        lines.append(f"{name}{{{common}}} {value}")
    return ("\n".join(lines) + "\n").encode()


def prometheus_of_holding(
    waiting: Mapping[str, int], ended: Mapping[str, int], hold_us: Histogram, *, connections: int
) -> bytes:
    """Of the activator: requests held now by model, those no longer held by what became of them, how long they were."""
    lines = [*_head("skyriver_held_requests", "gauge", "Requests that wait for a service that wakes.")]
    lines += [f'skyriver_held_requests{{model="{escape(name)}"}} {count}' for name, count in sorted(waiting.items())]
    lines += _head(
        "skyriver_held_requests_total", "counter", "Requests that are no longer held, by what became of them."
    )
    lines += [f'skyriver_held_requests_total{{outcome="{what}"}} {count}' for what, count in ended.items()]
    lines += _head("skyriver_hold_seconds", "histogram", "From a whole request to a replica that takes it.")
    lines += _histogram("skyriver_hold_seconds", 'outcome="forwarded"', hold_us, 1e-6, range(10, 28))
    for name, value, told in (
        ("skyriver_connections", connections, "Open connections."),
        ("process_resident_memory_bytes", resident_bytes(), "Resident memory."),
    ):
        lines += [*_head(name, "gauge", told), f"{name} {value}"]
    return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, told: str) -> tuple[str, str]:
    return f"# HELP {name} {told}", f"# TYPE {name} {kind}"


def _histogram(name: str, common: str, histogram: Histogram, unit: float, octaves: Iterable[int]) -> list[str]:
    """`le` is inclusive in Prometheus and our values are whole: below 2^n is at most 2^n - 1."""
    below = dict(histogram.cumulative())
    lines = [
        f'{name}_bucket{{{common},le="{((1 << octave) - 1) * unit:.9g}"}} {below[1 << octave]}' for octave in octaves
    ]
    count = histogram.count
    lines.append(f'{name}_bucket{{{common},le="+Inf"}} {count}')
    lines.append(f"{name}_sum{{{common}}} {histogram.total * unit:.9g}")
    lines.append(f"{name}_count{{{common}}} {count}")
    return lines


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
