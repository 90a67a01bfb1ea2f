"""What a job tells of itself while it works, step by step: kept bounded, handed on once a second, told in its log.

Who tells pays for adding a few numbers. All else is done by a thread of its own: what was told is handed on within a
second also where the next step takes an hour, so that it is there after a kill -9.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from skyriver.adapters.processes.identity import look_at
from skyriver.core.curves import Curves

EVERY_S: Final = 1.0
LEAST_S: Final = 0.2
"""Processor time is counted in hundredths of a second."""
FIRST_LINE_S: Final = 2.0
LONGEST_LINE_S: Final = 60.0
LINES: Final = 20
"""The next line of the log comes after one part in so many of the time since the first: a training of a minute prints
one each few seconds, one of a day one a minute."""
SHOWN: Final = 6
"""Metrics in a line."""


class Tracking:
    """`publish` is given all that was told, as a record of `Curves`, `say` lines of the log; both from a thread.
    `known` is what the attempt before had told."""

    def __init__(
        self,
        publish: Callable[[Mapping[str, Any]], None],
        say: Callable[[str], None],
        known: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        usage: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        self._publish, self._say, self._clock = publish, say, clock
        self._usage = usage if usage is not None else usage_of_all
        self._curves = Curves.of_record(known) if known else Curves()
        self._goes_on = known is not None
        self._lock = threading.Lock()
        self._fresh = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = self._next_line = 0.0
        self._line_of = (-1, 0)
        """Step and samples that the last line told."""
        self._last: tuple[float, float, int] | None = None
        """Clock, seconds of processor time and samples when the system was looked at last."""
        self._peak_mb = 0.0
        self.now: dict[str, float] = {}

    def tell(self, step: int, values: Mapping[str, Any], samples: int = 0, of: int = 0) -> None:
        """Values of a step, by their names: of so many steps in all, and so many samples that this one took. From any
        thread. Raises InvalidInput (BAD_METRIC, TOO_MANY_METRICS)."""
        at_ms = time.time_ns() // 1_000_000
        with self._lock:
            if self._goes_on:
                self._curves.cut(step)
                self._goes_on = False
            self._curves.tell(step, values, at_ms, samples=samples, of=of)
            self._fresh = True
        if self._thread is None:
            self._begin()

    @property
    def told(self) -> bool:
        return bool(self._curves.curves)

    def record(self) -> dict[str, Any] | None:
        """None where nothing was told."""
        with self._lock:
            return {**self._curves.record(), "now": dict(self.now)} if self.told else None

    def document(self) -> bytes | None:
        """All of it as JSON, for good; None where nothing was told."""
        with self._lock:
            if not self.told:
                return None
            return json.dumps({**self._curves.document(), "now": dict(self.now)}, separators=(",", ":")).encode()

    def flush(self) -> None:
        """Hands on what is new."""
        now = self._clock()
        with self._lock:
            if not self._fresh:
                return
            self._fresh = False
            self._look(now)
            line = self._line() if now >= self._next_line or self._is_last_untold else ""
        if line:
            self._next_line = now + min(max(FIRST_LINE_S, (now - self._began) / LINES), LONGEST_LINE_S)
            self._say(line)
        record = self.record()
        if record is not None:
            self._publish(record)

    def finish(self) -> None:
        """Nothing is told after it."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._thread is not None and self._is_untold:
            self._say(self._line())

    def _begin(self) -> None:
        with self._lock:
            if self._thread is not None or self._ended.is_set():
                return
            self._began = self._clock()
            self._next_line = self._began
            self._last = (self._began, self._usage()[0], 0)
            self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.flush()

    def _look(self, now: float) -> None:
        """What the process takes, as part of the curves; not where it was looked at just now. What has begun just now
        is looked at all the same: a short training may be over."""
        if self._last is not None and "cores" in self.now and now < self._last[0] + LEAST_S:
            return
        cpu, rss_mb = self._usage()
        before = self._last
        self._last = (now, cpu, self._curves.samples)
        self._peak_mb = max(self._peak_mb, rss_mb)
        self.now |= {"rss_mb": round(rss_mb, 1), "peak_mb": round(self._peak_mb, 1), "cpu_seconds": round(cpu, 2)}
        if before is not None and now > before[0]:
            seconds = now - before[0]
            self.now["cores"] = round(max(0.0, cpu - before[1]) / seconds, 2)
            if self._curves.samples:
                self.now["samples_per_s"] = round(max(0, self._curves.samples - before[2]) / seconds, 1)
        shown = ("cores", "rss_mb", "samples_per_s")
        self._curves.take({name: self.now[name] for name in shown if name in self.now})

    @property
    def _is_untold(self) -> bool:
        """The newest step is in no line yet."""
        return self._line_of[0] != self._curves.step

    @property
    def _is_last_untold(self) -> bool:
        """Told at once: what comes after the training may take long, and prints lines of its own."""
        return self._curves.step == self._curves.of != 0 and self._is_untold

    def _line(self) -> str:
        self._line_of = (self._curves.step, self._curves.samples)
        return line_of(self._curves, self.now)


def line_of(curves: Curves, now: Mapping[str, float]) -> str:
    """`step 1,200/4,000  loss 0.312  auc 0.91  12,400 samples/s  1.8 cores  640 MB`"""
    latest = curves.latest
    words = [f"step {curves.step:,}" + (f"/{curves.of:,}" if curves.of else "")]
    words += [f"{name} {value:.4g}" for name, value in list(latest.items())[:SHOWN]]
    words += [f"and {len(latest) - SHOWN} more"] if len(latest) > SHOWN else []
    words += [f"{now['samples_per_s']:,.0f} samples/s"] if "samples_per_s" in now else []
    words += [f"{now['cores']:.1f} cores"] if "cores" in now else []
    words += [f"{now['rss_mb']:,.0f} MB"] if "rss_mb" in now else []
    return "  ".join(words)


def usage_of_all() -> tuple[float, float]:
    """Seconds of processor time and resident MB of this process and all that it started and that still run."""
    cpu = rss_mb = 0.0
    seen = set()
    left = [os.getpid()]
    while left:
        pid = left.pop()
        look = look_at(pid) if pid not in seen else None
        seen.add(pid)
        if look is not None:
            cpu, rss_mb = cpu + look.cpu_seconds, rss_mb + look.rss_mb
            left.extend(_children(pid))
    return cpu, rss_mb


def _children(pid: int) -> Iterator[int]:
    """Of all of its threads."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  # once a second
    except OSError:
        return
    for task in tasks:
        try:
            yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            continue
