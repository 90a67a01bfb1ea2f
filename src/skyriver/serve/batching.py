"""Natural batching: whatever waits when the model is free runs together; nothing ever waits for company.

Requests that arrive in one turn of the event loop are one batch; those that arrive while a run is under way are the
next. Not even the first of a turn is run before the others were read: alone it would take a run of its own, which costs
as much as all of them. A run that is expected to be short is made on the loop itself (a
thread hop costs more than it); a long one on a thread of its own, so that the loop goes on taking requests, refusing
what is too much, and saying that it lives.

A run that several shared and that failed gives no answers: each of them waits again, at the front, to be run alone. One
request's values must not fail the others; and who has left or is too late by then is not run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from skyriver.core.errors import DeadlineExceeded, Internal, SkyriverError, Unavailable
from skyriver.core.units import format_span
from skyriver.serve.metrics import Counters
from skyriver.serve.pace import Pace
from skyriver.serve.runner import Array, Tensors
from skyriver.serve.scores import Scores

INLINE_US = 2000.0
"""Longer runs go to the thread: 2 ms is what a health check or another request may be kept waiting by."""

Answer = Callable[[Tensors | SkyriverError], None]

_log = logging.getLogger(__name__)


class Model(Protocol):
    """What of a `Runner` is needed here."""

    @property
    def batching(self) -> bool: ...

    def run(self, inputs: Tensors) -> dict[str, Array]: ...

    def expected_us(self, rows: int) -> float: ...

    def note(self, rows: int, nanoseconds: int) -> None: ...


NO_DEADLINE = (1 << 63) - 1
_SURELY = 0.8
"""Of the shortest run of one row that there was: who has less time is not answered in time, however many replicas."""
_LONG_NS = 10_000_000
"""A run that took less is over before it matters."""
_RUN_AGAIN_NS = 10_000_000_000
"""After so long without a run such a request is run all the same: only a run can show that the model is faster now."""


class Ask:
    """One run that someone waits for until `until_ns` (of `time.perf_counter_ns`). `answer` is called once, on the
    loop, with outputs for these rows or an error; not at all after `withdraw`."""

    __slots__ = ("alone", "answer", "inputs", "rows", "until_ns", "unwanted")

    def __init__(self, inputs: dict[str, Array], answer: Answer, until_ns: int = NO_DEADLINE) -> None:
        self.inputs = inputs
        self.answer = answer
        self.until_ns = until_ns
        first = next(iter(inputs.values())).shape if inputs else ()
        self.rows = first[0] if first else 1
        self.alone = len(inputs) > 1 and any(array.shape[:1] != first[:1] for array in inputs.values())
        """It shares no run: its inputs do not have as many rows each, or the run that it shared has failed."""
        self.unwanted = False

    def fits(self, other: Ask) -> bool:
        """Rows share a run only where everything behind the first axis has one shape."""
        return (
            not self.alone
            and not other.alone
            and all(array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items())
        )


class Batcher:
    """Lives on one event loop. `limit` requests may wait; `max_rows` share a run (one request may bring more). The
    values of the output `score` are counted."""

    def __init__(
        self,
        model: Model,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        *,
        max_rows: int = 256,
        limit: int = 1024,
        inline_us: float = INLINE_US,
        pace: Pace | None = None,
        score: str | None = None,
    ) -> None:
        self._model = model
        self._loop = loop
        self._counters = counters
        self.max_rows = max_rows
        """May change at any time: the next batch follows it."""
        self._limit = limit
        self._inline_us = inline_us
        self._waiting: deque[Ask] = deque()
        self._running = False
        """A run is under way, or will be in this turn of the loop."""
        self._score = score
        self.scores = Scores()
        self.answered: Callable[[Sequence[Ask], Sequence[Tensors | SkyriverError], int], None] | None = None
        """Is given each batch, and how many rows it has, once its answers are on their way."""
        self._under_way = 0
        self._rows = 0
        """Of what waits or is under way."""
        self._pace = pace or Pace()
        self._busy_ns = 0
        """When the last run ended, if something waited then; else 0."""
        self._ran_ns = -_RUN_AGAIN_NS
        """When the last run began."""
        self._row_ns = 0
        """The least that a run of one row took, as far as was seen; 0: there was none yet."""
        self._surely_ns = 0.0
        """Surely too short for a run, where one row alone takes long."""
        self._thread: ThreadPoolExecutor | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in the run that is under way on the thread."""
        return self._under_way

    def check(self, until_ns: int, rows: int = 0) -> None:
        """What is known before a request's body is read: refusing must be cheap where there is much to refuse. `rows`:
        of its own that go ahead of its last. Raises as `submit` does."""
        if until_ns != NO_DEADLINE:
            self._check_time(until_ns, self._rows + rows)
        self._check_room(1)

    def _check_room(self, asks: int) -> None:
        """Raises Unavailable (OVERLOADED) when so many more may not wait. One request alone always may: how much
        it can ask for is bounded by the size of its body."""
        if self._waiting and len(self._waiting) + asks > self._limit:
            raise Unavailable(
                f"{len(self._waiting)} requests wait already.",
                code="OVERLOADED",
                next_action="Try again in a second, or give the service more replicas.",
            )

    def withdraw(self, *asks: Ask) -> None:
        """Nobody waits for them any more: those that are not under way are not run, and leave their place."""
        for ask in asks:
            ask.unwanted = True
            with contextlib.suppress(ValueError):  # it is under way
                self._waiting.remove(ask)
                self._rows -= ask.rows

    def submit(self, *asks: Ask) -> None:
        """All or none. Raises Unavailable (OVERLOADED) when too many wait, or too many to be answered in time,
        DeadlineExceeded when it is too late."""
        rows = 0
        for ask in asks:
            if ask.until_ns != NO_DEADLINE:
                self._check_time(ask.until_ns, self._rows + rows)
            rows += ask.rows
        self._check_room(len(asks))
        self._put(asks, rows)

    def go_on(self, ask: Ask) -> None:
        """The next run of a request that was taken, in its turn: it is refused no more."""
        self._put((ask,), ask.rows)

    def _put(self, asks: Sequence[Ask], rows: int) -> None:
        self._waiting.extend(asks)
        self._rows += rows
        if self._running:
            return
        self._running = True
        self._loop.call_soon(self._turn)

    def _check_time(self, until_ns: int, rows_ahead: int) -> None:
        """What could not be answered in time is refused when it comes, so that what is taken is answered in time:
        a queue that is as long as all wait answers each of them too late."""
        now = time.perf_counter_ns()
        left = until_ns - now
        if left <= 0:
            raise _too_late()
        if left < self._surely_ns and (rows_ahead or now - self._ran_ns < _RUN_AGAIN_NS):
            raise _never_in_time(self._row_ns, left)
        if not self._pace.leaves_time(rows_ahead, left):
            raise Unavailable(
                f"{len(self._waiting) + self._under_way} requests are ahead of it, too many to answer it in time.",
                code="OVERLOADED",
                next_action="Try again in a second, give more time, or the service more replicas.",
            )

    def close(self) -> None:
        """After the last answer."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _turn(self) -> None:
        batch, others = self._take()
        self._dismiss(others)
        if not batch:
            self._rest(time.perf_counter_ns())
        elif self._model.expected_us(sum([ask.rows for ask in batch])) <= self._inline_us:
            self._answer(batch, self._run(batch), time.perf_counter_ns())
            self._rest(self._busy_ns)
        else:
            self._under_way = len(batch)
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
            self._thread.submit(self._work, batch)

    def _work(self, batch: list[Ask]) -> None:
        """On the thread: one long run after another while something waits. The way over the loop between two runs
        would leave the model idle for as long as the loop is busy, and at overload it is busy refusing."""
        while True:
            results, ended_ns = self._run(batch), time.perf_counter_ns()
            following, others = self._take() if self._next_is_long() else ([], [])
            self._under_way = len(following)
            self._loop.call_soon_threadsafe(self._ran, batch, results, ended_ns, others, not following)
            if not following:
                return
            batch = following

    def _next_is_long(self) -> bool:
        """By the first that waits; what it shares its run with may still make it so, which the loop sees."""
        try:
            return self._model.expected_us(self._waiting[0].rows) > self._inline_us
        except IndexError:
            return False

    def _ran(
        self, batch: list[Ask], results: list[Tensors | SkyriverError], ended_ns: int, others: list[Ask], last: bool
    ) -> None:
        self._answer(batch, results, ended_ns)
        self._dismiss(others)
        if last:
            self._rest(ended_ns)

    def _take(self) -> tuple[list[Ask], list[Ask]]:
        """The first that waits, and those behind it that may share its run, in their order; and those that are not run,
        for nobody waits for them any more. Called by one at a time, the loop's turn or the thread, while the loop puts
        more behind and takes out what is withdrawn: so what is looked at is taken out first."""
        batch: list[Ask] = []
        others: list[Ask] = []
        rows = 0
        now = time.perf_counter_ns()
        while True:
            try:
                ask = self._waiting.popleft()
            except IndexError:
                break
            if ask.unwanted or ask.until_ns <= now:
                others.append(ask)
            elif batch and not (self._model.batching and rows + ask.rows <= self.max_rows and ask.fits(batch[0])):
                self._waiting.appendleft(ask)
                break
            else:
                rows += ask.rows
                batch.append(ask)
        return batch, others

    def _run(self, batch: list[Ask]) -> list[Tensors | SkyriverError]:
        """Results in the order of `batch`. None where they could not share a run: then they wait again."""
        if len(batch) == 1:
            return [self._once(batch[0].inputs, batch[0].rows)]
        try:
            results = self._together(batch)
        except Exception:  # no memory for a copy of all, for one
            _log.exception("requests could not be run together")
            results = []
        if not results:
            for ask in batch:
                ask.alone = True
            self._waiting.extendleft(reversed(batch))
        return results

    def _together(self, batch: list[Ask]) -> list[Tensors | SkyriverError]:
        """Nothing where they cannot share a run."""
        together = {name: np.concatenate([ask.inputs[name] for ask in batch]) for name in batch[0].inputs}
        rows = sum(ask.rows for ask in batch)
        outputs = self._once(together, rows)
        if isinstance(outputs, SkyriverError):
            return []
        whole = all(array.ndim and array.shape[0] == rows for array in outputs.values())
        return _split(outputs, batch) if whole else []

    def _once(self, inputs: Tensors, rows: int) -> Tensors | SkyriverError:
        started = self._ran_ns = time.perf_counter_ns()
        try:
            outputs: Tensors = self._model.run(inputs)
        except SkyriverError as error:
            if error.code == "MODEL_TOO_SLOW":  # a refusal takes no time, and says nothing of an answer's
                self._learn(rows, time.perf_counter_ns() - started)
            return error
        except Exception:
            _log.exception("the model failed in an unforeseen way")
            return Internal("The model failed on this input.", code="MODEL_FAILED")
        took = time.perf_counter_ns() - started
        self._model.note(max(rows, 1), took)
        self._learn(rows, took)
        self._counters.batch_rows.add(rows)
        self._counters.run_us.add(took // 1000)
        if self._score is not None:
            self.scores.add(outputs[self._score])
        return outputs

    def _learn(self, rows: int, took: int) -> None:
        """Full runs, of which there are no others at overload, say only that one row takes no longer. And what one row
        took once it may take again: one that took longer since was kept waiting, by the machine or by its values."""
        if (rows == 1 and not self._row_ns) or (rows and took < self._row_ns):
            self._row_ns = took
            self._surely_ns = _SURELY * took if took > _LONG_NS else 0.0

    def _answer(self, batch: list[Ask], results: list[Tensors | SkyriverError], ended_ns: int) -> None:
        if not results:  # they wait again
            return
        rows = 0
        for ask, result in zip(batch, results, strict=True):
            if not ask.unwanted:
                ask.answer(result)
            rows += ask.rows
        if self.answered is not None:
            self.answered(batch, results, rows)
        self._rows -= rows
        if self._busy_ns:
            self._pace.note(rows, ended_ns - self._busy_ns)
        self._busy_ns = ended_ns

    def _dismiss(self, others: list[Ask]) -> None:
        for ask in others:
            self._rows -= ask.rows
            if not ask.unwanted:
                ask.answer(_too_late())

    def _rest(self, ended_ns: int) -> None:
        """Until something comes, where nothing waits; else another turn."""
        if self._waiting:
            self._busy_ns = ended_ns
            self._loop.call_soon(self._turn)
        else:
            self._busy_ns = 0
            self._running = False


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The deadline was over before the model could run.",
        next_action="Give more time, or the service more replicas.",
    )


def _never_in_time(row_ns: int, left_ns: int) -> DeadlineExceeded:
    takes, has = (format_span(int(ns / 1000)) for ns in (row_ns, left_ns))
    return DeadlineExceeded(
        f"The model takes {takes} for one row, and the request has {has} left: no replica answers it in time.",
        next_action="Sending it again does not help: give it more time, or have who deploys the model serve a faster"
        " one.",
    )


def _split(outputs: Tensors, batch: list[Ask]) -> list[Tensors | SkyriverError]:
    parts: list[Tensors | SkyriverError] = []
    start = 0
    for ask in batch:
        end = start + ask.rows
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts
