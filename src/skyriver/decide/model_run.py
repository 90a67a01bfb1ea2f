"""One run of a model over a batch: what it gives, what it fails at, how long it takes, and no longer than it may.

A model with a deadline runs in a thread of its own, and is waited for so long. ONNX Runtime computes without the
interpreter's lock, so the wait ends in time whatever the model does; a result that comes later is dropped. While a
late run goes on, the model is not asked. One that was late LATE_LIMIT times in a row, or hangs for HUNG_US, is put
aside for ASIDE_US: what is slow for long costs some deadlines then, and not one a batch.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from skyriver.decide.records import Reason
from skyriver.decide.scorer import Scorer
from skyriver.serve.metrics import Histogram

Floats = NDArray[np.float32]
Outcomes = tuple[Floats, NDArray[np.uint8]]
"""Scores float32 [n], NaN for none, and the places in REASONS why."""

REASONS = tuple(Reason)
CODES = {reason: code for code, reason in enumerate(REASONS)}
_FINE_ALONE = np.array([CODES[Reason.NONE]], np.uint8)
_FINE_ALONE.flags.writeable = False
LATE_LIMIT = 3
HUNG_US = 1_000_000
ASIDE_US = 10_000_000


def none_of(count: int, reason: Reason) -> Outcomes:
    return np.full(count, np.nan, np.float32), np.full(count, CODES[reason], np.uint8)


def score_rows(scorer: Scorer, features: Floats) -> Outcomes:
    """One run over all. If the model raises, each half once more: an event must not fail for what stands beside it."""
    try:
        scores = np.asarray(scorer.score(features), np.float32).reshape(len(features))
    except Exception:  # a user's model: whatever it raises, the event gets its fallback
        if len(features) == 1:
            return none_of(1, Reason.MODEL_FAILED)
        half = len(features) // 2
        parts = [score_rows(scorer, part) for part in (features[:half], features[half:])]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([reasons for _, reasons in parts])
    if len(scores) == 1 and math.isfinite(scores[0]):  # most events come alone
        return scores, _FINE_ALONE
    finite = np.isfinite(scores)
    reasons = np.where(finite, np.uint8(CODES[Reason.NONE]), np.uint8(CODES[Reason.SCORE_NOT_FINITE]))
    return (scores if finite.all() else np.where(finite, scores, np.float32(np.nan))), reasons


class _Job:
    __slots__ = ("began", "done", "features", "found", "took_us")

    def __init__(self, features: Floats, began: int) -> None:
        self.features = features
        self.began = began
        self.done = threading.Event()
        self.found: Outcomes | None = None
        self.took_us = 0


def _work(scorer: Scorer, jobs: SimpleQueue[_Job | None]) -> None:
    """In the model's thread, until None comes."""
    while (job := jobs.get()) is not None:
        started = time.perf_counter_ns()
        job.found = score_rows(scorer, job.features)
        job.took_us = (time.perf_counter_ns() - started) // 1000
        job.done.set()


class ModelRun:
    """A Scorer that measures its runs, and with `deadline_us` bounds them. One caller at a time; `now` is monotonic,
    microseconds."""

    def __init__(self, scorer: Scorer, deadline_us: int, now: Callable[[], int]) -> None:
        self._scorer = scorer
        self.deadline_us = deadline_us
        self._now = now
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._late: _Job | None = None
        """A run that goes on though nobody waits for it."""
        self._lates = 0
        self._aside_until = 0
        self.run_us = Histogram()
        self.late_runs = 0
        if deadline_us:
            threading.Thread(target=_work, args=(scorer, self._jobs), name="model", daemon=True).start()
            weakref.finalize(self, self._jobs.put, None)

    @property
    def aside_us(self) -> int:
        """For so long it will not be asked."""
        return max(0, self._aside_until - self._now())

    def score(self, features: Floats) -> Floats:
        return self.run(features)[0]

    def run(self, features: Floats) -> Outcomes:
        if self.deadline_us:
            return self._collect(self._start(features), len(features))
        started = time.perf_counter_ns()
        found = score_rows(self._scorer, features)
        self.run_us.add((time.perf_counter_ns() - started) // 1000)
        return found

    def begin(self, features: Floats) -> Callable[[], Floats]:
        """Runs while the caller goes on; what is returned gives the scores, NaN where there are none in time."""
        if not self.deadline_us:
            return lambda: self.score(features)
        job = self._start(features)
        return lambda: self._collect(job, len(features))[0]

    def _start(self, features: Floats) -> _Job | Reason:
        now = self._now()
        if now < self._aside_until:
            return Reason.MODEL_ASIDE
        if self._late is not None and not self._late.done.is_set():
            self.late_runs += 1
            if now - self._late.began >= HUNG_US:
                self._aside_until = now + ASIDE_US
            return Reason.MODEL_LATE
        self._late = None
        job = _Job(features, now)
        self._jobs.put(job)
        return job

    def _collect(self, job: _Job | Reason, count: int) -> Outcomes:
        if isinstance(job, Reason):
            return none_of(count, job)
        if not job.done.wait(self.deadline_us / 1e6):
            self._late = job
            self._note_late(self._now())
            return none_of(count, Reason.MODEL_LATE)
        assert job.found is not None
        self._lates = 0
        self.run_us.add(job.took_us)
        return job.found

    def _note_late(self, now: int) -> None:
        self.late_runs += 1
        self._lates += 1
        if self._lates >= LATE_LIMIT:
            self._aside_until = now + ASIDE_US
            self._lates = 0
