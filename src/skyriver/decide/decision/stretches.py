"""One run of a model in several threads: each scores a stretch of the rows.

The runtime's own threads would add the leaves of trees in another order, and a replay holds scores against their
records to the bit. A row gets the same bits whichever rows stand beside it, so stretches may be scored each by itself;
they begin at multiples of ALIGNED, so that what the processor takes at a time stays together. A model that does not
give a sample the same bits so is not cut. Nor is a run that one thread is soon done with: to wake another takes time.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Score = Callable[[Floats], Floats]

ALIGNED = 16
"""Rows of a stretch at least."""
LEAST_US = 500.0
"""What a stretch takes at least."""
SAMPLE = 2 * ALIGNED + 9
"""Rows by which a model is tried."""
NEWEST = 0.2
"""The weight of the newest run in what a row takes."""


@dataclass(slots=True)
class Threads:
    """How many a run may take, from the next one on; set while none is under way."""

    count: int = 1


class Stretches:
    """The runs of one scorer: one caller at a time. Its threads are there from when they are first needed on, and end
    with it."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._others: list[SimpleQueue[_Part | None]] = []
        self._row_us = 0.0
        """In one thread."""
        self._alike: bool | None = None
        """Whether stretches get the same bits; None: it was not tried."""

    def score(self, score: Score, features: Floats) -> Floats:
        """`score` MUST bear to be called by several threads at once. Returns, or raises what it raised, once none of
        them is under way."""
        starts = self._starts(len(features))
        if len(starts) > 1 and self._alike is None:
            self._alike = _is_alike(score, features[:SAMPLE])
        if len(starts) == 1 or not self._alike:
            began = time.perf_counter_ns()
            found = score(features)
            self._note(len(features), began)
            return found
        ends = [*starts[1:], len(features)]
        parts = [_Part(score, features[start:end]) for start, end in zip(starts, ends, strict=True)]
        while len(self._others) < len(parts) - 1:
            self._begin_thread()
        for jobs, part in zip(self._others, parts[1:], strict=False):
            jobs.put(part)
        began = time.perf_counter_ns()
        parts[0].run()
        self._note(ends[0], began)
        for part in parts:
            part.done.wait()
        return np.concatenate([part.result() for part in parts])

    def _starts(self, rows: int) -> list[int]:
        """Where stretches begin; the last one may be half as long as the others."""
        wanted = min(self._threads.count, int(rows * self._row_us / LEAST_US), rows // ALIGNED)
        return [int(number * rows / (wanted * ALIGNED) + 0.5) * ALIGNED for number in range(wanted)] or [0]

    def _note(self, rows: int, began_ns: int) -> None:
        each = (time.perf_counter_ns() - began_ns) / 1_000 / rows
        self._row_us += (NEWEST if self._row_us else 1.0) * (each - self._row_us)

    def _begin_thread(self) -> None:
        jobs: SimpleQueue[_Part | None] = SimpleQueue()
        threading.Thread(target=_work, args=(jobs,), name="model stretch", daemon=True).start()
        weakref.finalize(self, jobs.put, None)
        self._others.append(jobs)


class _Part:
    __slots__ = ("done", "error", "features", "found", "score")

    def __init__(self, score: Score, features: Floats) -> None:
        self.score = score
        self.features = features
        self.done = threading.Event()
        self.found: Floats | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.found = self.score(self.features)
        except Exception as error:  # a user's model may raise anything; it is raised where the run was asked for
            self.error = error
        finally:
            self.done.set()

    def result(self) -> Floats:
        if self.error is not None:
            raise self.error
        assert self.found is not None
        return self.found


def _work(jobs: SimpleQueue[_Part | None]) -> None:
    while (part := jobs.get()) is not None:
        part.run()
        del part  # it holds the scorer, with which this thread ends


def _is_alike(score: Score, rows: Floats) -> bool:
    whole = score(rows)
    parts = [score(rows[:ALIGNED]), score(rows[ALIGNED:])]
    return np.array_equal(whole, np.concatenate(parts), equal_nan=True)
