"""One run of a model over a batch: what it gives, what it fails at, how long it takes, and no longer than it may.

A model with a deadline runs in a thread of its own, and is waited for so long. ONNX Runtime computes without the
interpreter's lock, so the wait ends in time whatever the model does; a result that comes later is dropped. While a
late run goes on, the model is not asked. One that was late LATE_LIMIT times in a row, or hangs for HUNG_US, is put
aside for ASIDE_US: what is slow for long costs some deadlines then, and not one a batch.

Without a deadline it runs where it is asked, and everything waits: a thread would cost each batch some microseconds.
So that a model that does not end (a loop over its input) cannot stop a stream, a thread looks now and then, and has the
runtime end a run that it sees for CEILING_S. The model is then put aside for ENDED_ASIDE_US. It does the same with a
late run that goes on for so long.
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

from skyriver.data.decisions import Reason
from skyriver.decide.decision.scorer import EndableScorer, Ended, Scorer
from skyriver.serve.metrics import Histogram

Floats = NDArray[np.float32]
Outcomes = tuple[Floats, NDArray[np.uint8]]
"""Scores float32 [n], NaN for none, and the places in REASONS why."""

REASONS = tuple(Reason)
CODES = {reason: code for code, reason in enumerate(REASONS)}
_FINE, _NOT_FINITE = (np.uint8(CODES[reason]) for reason in (Reason.NONE, Reason.SCORE_NOT_FINITE))
_FINE_ALONE = np.array([_FINE], np.uint8)
_FINE_ALONE.flags.writeable = False
LATE_LIMIT = 3
HUNG_US = 1_000_000
ASIDE_US = 10_000_000
CEILING_S, LOOK_S = 5.0, 0.5
ENDED_ASIDE_US = 600_000_000


def none_of(count: int, reason: Reason) -> Outcomes:
    return np.full(count, np.nan, np.float32), np.full(count, CODES[reason], np.uint8)


def score_rows(scorer: Scorer, features: Floats) -> Outcomes:
    """One run over all. If the model raises, each half once more: an event must not fail for what stands beside it.
    Raises Ended."""
    try:
        scores = np.asarray(scorer.score(features), np.float32).reshape(len(features))
    except Ended:
        raise
    except Exception:  # a user's model: whatever it raises, the event gets its fallback
        if len(features) == 1:
            return none_of(1, Reason.MODEL_FAILED)
        half = len(features) // 2
        parts = [score_rows(scorer, part) for part in (features[:half], features[half:])]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([reasons for _, reasons in parts])
    if len(scores) == 1 and math.isfinite(scores[0]):  # most events come alone
        return scores, _FINE_ALONE
    finite = np.isfinite(scores)
    reasons = np.where(finite, _FINE, _NOT_FINITE)
    return (scores if finite.all() else np.where(finite, scores, np.float32(np.nan))), reasons


class _Job:
    __slots__ = ("began", "done", "features", "found", "took_us")

    def __init__(self, features: Floats, began: int) -> None:
        self.features = features
        self.began = began
        self.done = threading.Event()
        self.found: Outcomes | None = None
        self.took_us = 0


class _Guard:
    """The runs of a scorer, as the thread that looks at them sees them."""

    __slots__ = ("__weakref__", "cut", "ended", "running", "scorer", "took_us")

    def __init__(self, scorer: EndableScorer) -> None:
        self.scorer = scorer
        self.running = 0
        """When the run under way began; 0: none is."""
        self.ended = 0
        """When the run began that was to be ended last."""
        self.cut = False
        """That one did not end by itself."""
        self.took_us = 0

    def run(self, features: Floats) -> Outcomes:
        self.running = started = time.perf_counter_ns()
        try:
            found = score_rows(self.scorer, features)
        except Ended:
            self.cut = self.cut or self.ended == started
            found = none_of(len(features), Reason.MODEL_LATE)
        self.running = 0
        self.took_us = (time.perf_counter_ns() - started) // 1000
        return found


def _work(guard: _Guard, jobs: SimpleQueue[_Job | None]) -> None:
    """In the model's thread, until None comes."""
    while (job := jobs.get()) is not None:
        job.found = guard.run(job.features)
        job.took_us = guard.took_us
        job.done.set()


def _watch(watched: weakref.ref[_Guard]) -> None:
    """In a thread, for as long as the guard is there. Counts its looks, not the time: a process that was stopped has
    not run for long."""
    before, looks = 0, 0
    while (guard := watched()) is not None:
        running = guard.running
        looks = looks + 1 if running and running == before else 0
        before = running
        if looks * LOOK_S >= CEILING_S:
            looks, guard.ended = 0, running
            guard.scorer.end()
        del guard
        time.sleep(LOOK_S)


class ModelRun:
    """A Scorer that measures and bounds its runs. One caller at a time; `now` is monotonic,
    microseconds."""

    def __init__(self, scorer: EndableScorer, deadline_us: int, now: Callable[[], int]) -> None:
        self._guard = _Guard(scorer)
        self.deadline_us = deadline_us
        self._now = now
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._late: _Job | None = None
        """A run that goes on though nobody waits for it."""
        self._lates = 0
        self._aside_until = 0
        self.run_us = Histogram()
        self.late_runs = 0
        self.waited_us = 0
        """That whoever asked for scores had to wait for them."""
        threading.Thread(target=_watch, args=(weakref.ref(self._guard),), name="model watch", daemon=True).start()
        if deadline_us:
            threading.Thread(target=_work, args=(self._guard, self._jobs), name="model", daemon=True).start()
            weakref.finalize(self, self._jobs.put, None)

    @property
    def aside_us(self) -> int:
        """For so long it will not be asked."""
        now = self._now()
        return self._aside_until - now if self._is_aside(now) else 0

    def score(self, features: Floats) -> Floats:
        return self.run(features)[0]

    def run(self, features: Floats) -> Outcomes:
        if self.deadline_us:
            return self._collect(self._start(features), len(features))
        guard = self._guard
        if self._aside_until and self._is_aside(self._now()):
            return none_of(len(features), Reason.MODEL_ASIDE)
        found = guard.run(features)
        self.run_us.add(guard.took_us)
        self.waited_us += guard.took_us
        if guard.cut:
            self.late_runs += 1
            self._is_aside(self._now())
        return found

    def begin(self, features: Floats) -> Callable[[], Floats]:
        """Runs while the caller goes on; what is returned gives the scores, NaN where there are none in time."""
        if not self.deadline_us:
            return lambda: self.score(features)
        job = self._start(features)
        return lambda: self._collect(job, len(features))[0]

    def _start(self, features: Floats) -> _Job | Reason:
        now = self._now()
        if self._is_aside(now):
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

    def _is_aside(self, now: int) -> bool:
        """Whether it is not to be asked; from now on, if its last run had to be ended."""
        if self._guard.cut:
            self._guard.cut = False
            self._aside_until = now + ENDED_ASIDE_US
        return now < self._aside_until

    def _collect(self, job: _Job | Reason, count: int) -> Outcomes:
        if isinstance(job, Reason):
            return none_of(count, job)
        began = time.perf_counter_ns()
        done = job.done.wait(self.deadline_us / 1e6)
        self.waited_us += (time.perf_counter_ns() - began) // 1000
        if not done:
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
