"""Keeps the workers of one training: starts them, notices who is gone, says who goes on.

The membership is a sequence of generations, each the workers that are ready. A worker that dies, hangs or leaves makes
a new generation of those that are left, one that has become ready a new one with it. Survivors keep their process, and
all that they have done.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any, Final

from torch.distributed import TCPStore

from skyriver.core.errors import JobFailed, Unavailable
from skyriver.train.spread.checkpoints import Checkpoints, Written, step_of
from skyriver.train.spread.context import Context
from skyriver.train.spread.pays import About, Choice, Limits, Setting, Timed
from skyriver.train.spread.tuning import Tuning
from skyriver.train.spread.worker import work

log = logging.getLogger(__name__)

EVERY_S: Final = 60.0
STOP_S: Final = 20.0
TOGETHER_S: Final = 30.0
"""The first generation waits so long for all; then who is ready begins."""
SILENT_S: Final = 30.0
SILENT_STEPS: Final = 10
"""A worker that says nothing for the longer of this and so many median steps hangs: it does while it waits for
others."""
STOPPED_S: Final = 5.0
"""A turn of the launcher that took longer, for it waits half a second at most."""
MEDIAN_OF: Final = 21
FIRST_STEP_S: Final = 600.0
"""A worker may say nothing for so long before it has done a step."""
BROKEN_S: Final = 0.3
"""From a group that broke to the sight of who died, if somebody did."""
ENDS: Final = 10
"""Workers that may end one after another without a step that was not done before."""
HANDED_TRIES: Final = 3
"""To hand the state to who joins."""
STARTS: Final = 3
"""Workers that may end before they were ready, one after another: what ends at once would end again."""
PRELOAD: Final = ("torch", "torch._dynamo", "skyriver.train.spread.worker")
"""What each worker would import anew; the first optimizer imports the second of them, in a second of processor time."""


class Stopped(Exception):
    """It was told to, and can go on from its checkpoint."""


@dataclass(slots=True)
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    done: bool = False
    step: int = 0
    began_at: int = 0
    """Steps that were done before it came."""
    hung: bool = False
    leaving: bool = False
    """It said so, or is told to."""
    heard: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.monotonic)
    dead: bool = False
    slot: int = 0
    """The smallest number that no other one had when it began: which of the devices is its own."""


@dataclass(frozen=True, slots=True)
class Change:
    """Of the membership, for who watches."""

    at: float
    generation: int
    workers: int
    why: str
    step: int
    """That the furthest of them had done, as far as that was told."""


class Launcher:
    """`run` returns what the first worker that is done hands over. `resize` may be called from another thread."""

    def __init__(
        self,
        function: Callable[[Context], Any],
        hand_over: Callable[[Context, Any], bytes],
        workers: int,
        settings: Mapping[str, Any] | None = None,
        *,
        on_plan: Callable[[int, int], None] = lambda *_: None,
        on_beat: Callable[[int, float, Mapping[str, float]], None] = lambda *_: None,
        on_change: Callable[[Change], None] = lambda _: None,
        silent_s: float = SILENT_S,
        checkpoints: Path | None = None,
        attempt: int = 0,
        every_s: float = EVERY_S,
        cores: int = 0,
        on_choice: Callable[[Choice], None] = lambda _: None,
    ) -> None:
        """`checkpoints`: a folder of this training alone; what is there already is gone on from, and an `attempt`
        before this one is fenced. Raises JobFailed (FENCED) for one that is too late, Unavailable. `cores` over 0:
        `workers` are the most, and how many pay, with how many threads, is measured with the first steps. `on_plan`
        gets the steps there are and the rows of each, `on_beat` a step that was done, its loss and what was
        reported."""
        self._function, self._hand_over, self._settings = function, hand_over, dict(settings or {})
        self._plan, self._beat, self._on_change, self._silent_s = on_plan, on_beat, on_change, silent_s
        self._checkpoints = Checkpoints(checkpoints, attempt=attempt).claimed() if checkpoints is not None else None
        if self._checkpoints is not None:
            of = {"checkpoints": str(checkpoints), "every_s": every_s}
            self._settings["context"] = {**self._settings.get("context", {}), **of}
        threads, shards = int(self._settings.get("threads", 0)), int(self._settings.get("context", {}).get("shards", 0))
        self._tuning = Tuning(Limits(workers, cores, shards, threads)) if cores else None
        self._setting = self._tuning.setting if self._tuning is not None else Setting(workers, threads or 1)
        self._are_many = workers > 1
        self._size, self._on_choice = self._setting.workers, on_choice
        self._told_how: dict[str, int] = {}
        self._started_s = self._cut_at = 0.0
        """That a worker took to be ready; and when micro-batches became smaller for want of memory."""
        self._batch = 0
        """Rows of a step, once that is known."""
        self._store = _store()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)
        self._workers: dict[int, _Worker] = {}
        self._numbers = 0
        self._generation = 0
        self._members: tuple[int, ...] = ()
        self._began = time.monotonic()
        self._early = 0
        self._seconds: deque[float] = deque(maxlen=MEDIAN_OF)
        self._broken: tuple[float, str] | None = None
        """When somebody said that this generation is, and why."""
        self._furthest = 0
        """Steps that are known to be done; and, of those that ended since one was, how many."""
        self._ends = 0
        self._not_handed = 0
        """Generations since then in which the state did not come to all."""
        self._ended: deque[str] = deque(maxlen=ENDS)
        """How, the last of those that ended."""
        self._asked = 0
        """Who was, for what it came to."""
        self._parts: dict[int, list[bytes]] = {}
        """Of what a worker hands over."""
        self._verified: Path | None = None
        """A checkpoint that was read whole."""
        self._result: bytes | None = None
        self._stop_by: float | None = None
        self._told_to_stop = False

    def resize(self, workers: int) -> None:
        """Whether it pays or not."""
        self._tuning, self._size = None, workers
        self._wake.send_bytes(b".")

    def stop(self, within_s: float = STOP_S) -> None:
        """Somebody wants the machine back: after the step that is being done, with a checkpoint. `run` then raises
        Stopped. Safe in a signal handler."""
        self._stop_by = time.monotonic() + within_s
        self._wake.send_bytes(b".")

    @property
    def members(self) -> tuple[int, ...]:
        return self._members

    def pid(self, worker: int) -> int:
        return self._workers[worker].process.pid or 0

    def run(self) -> bytes:
        """Raises JobFailed where the function failed, or its workers end again and again."""
        try:
            while self._result is None:
                if self._stop_by is None:
                    self._fit()
                elif self._stopped():
                    raise Stopped(self._furthest)
                began = time.monotonic()
                self._listen()
                self._mend()
                self._end_hung(time.monotonic() - began)
            if self._tuning is not None and self._tuning.choice is None and self._are_many:
                log.info("it was over before it was known whether more workers pay")
            return self._result
        finally:
            self._stop()

    @property
    def checkpoints(self) -> Checkpoints | None:
        return self._checkpoints

    def _stopped(self) -> bool:
        """Whether all members are gone, or their time is up."""
        assert self._stop_by is not None
        if not self._told_to_stop:
            for worker in self._workers.values():
                if worker.number not in self._members:
                    worker.leaving = True
                    worker.process.kill()
                self._say(worker, ("stop",))
            self._told_to_stop = True
        return not self._members or time.monotonic() > self._stop_by

    def _say(self, worker: _Worker, said: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # it is noticed as gone
            worker.pipe.send(said)

    def _fit(self) -> None:
        """As many workers as there should be."""
        there = [w for w in self._workers.values() if not w.dead and not w.leaving]
        if not any(w.done for w in there):
            for _ in range(self._size - len(there)):
                self._start()
        for worker in sorted(there, key=lambda w: (w.ready, -w.number))[: max(0, len(there) - self._size)]:
            worker.leaving = True
            if worker.number in self._members:
                self._form(
                    tuple(m for m in self._members if m != worker.number),
                    f"{self._size} {'is' if self._size == 1 else 'are'} wanted",
                )
            else:
                worker.process.kill()

    def _start(self) -> None:
        self._numbers += 1
        slot = next(n for n in itertools.count() if all(w.slot != n for w in self._workers.values()))
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(
                theirs,
                ("127.0.0.1", self._store.port),
                self._numbers,
                self._function,
                self._hand_over,
                {**self._settings, "slot": slot, "named": self._are_many},
            ),
            name=f"worker-{self._numbers}",
        )
        process.start()
        theirs.close()
        self._workers[self._numbers] = _Worker(self._numbers, process, ours, slot=slot)

    def _listen(self) -> None:
        by: dict[Any, _Worker] = {}
        for each in self._workers.values():
            by[each.pipe] = by[each.process.sentinel] = each
        ended = []
        for source in wait([self._woken, *by], timeout=0.5 if self._broken is None else 0.1):
            worker = by.get(source)
            if worker is None:
                self._woken.recv_bytes()
            elif source is worker.pipe:
                self._read(worker)
            else:
                ended.append(worker)
        for worker in ended:
            self._read(worker)  # what it said last
            self._gone(worker)
        self._begin()

    def _read(self, worker: _Worker) -> None:
        while not worker.dead:
            try:
                if not worker.pipe.poll():
                    return
                kind, *what = worker.pipe.recv()
            except (EOFError, OSError):
                if not worker.process.is_alive():
                    self._gone(worker)
                return
            worker.heard = time.monotonic()
            getattr(self, f"_on_{kind}")(worker, *what)

    def _on_ready(self, worker: _Worker, step: int) -> None:
        worker.ready, worker.step, worker.began_at = True, step, step
        self._started_s = time.monotonic() - worker.began
        if self._members:
            self._early = 0
            self._form((*self._members, worker.number), f"worker {worker.number} is ready")

    def _on_plan(self, worker: _Worker, steps: int, batch: int) -> None:
        self._batch = batch
        self._plan(steps, batch)

    def _on_busy(self, worker: _Worker, seconds: float) -> None:
        """It may say nothing for so long."""
        worker.heard = time.monotonic() + seconds

    def _on_broken(self, worker: _Worker, generation: int, why: str, not_handed: bool = False) -> None:
        """Mostly somebody has died, which is seen by itself in a moment."""
        if generation != self._generation or self._broken is not None:
            return
        self._broken = time.monotonic(), f"worker {worker.number} said: {why}"
        self._not_handed += not_handed
        if self._not_handed >= HANDED_TRIES:
            raise JobFailed(
                f"What a worker needs to join could not be handed to it, {HANDED_TRIES} times in a row: {why}.",
                code="NOT_HANDED_OVER",
                next_action="See whether this machine swaps or has much other work; or declare fewer workers=.",
            )

    def _on_beat(
        self,
        worker: _Worker,
        step: int = 0,
        loss: float | None = None,
        told: Mapping[str, float] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Without a loss: it is within a step, or waits for others."""
        if loss is None:
            return
        worker.step = step
        if step > self._furthest:
            self._furthest, self._ends, self._not_handed = step, 0, 0
        if self._members[:1] == (worker.number,):
            self._seconds.append(seconds)
            self._beat(step, loss, told or {})

    def _on_points(self, worker: _Worker, points: Sequence[tuple[int, float, Mapping[str, float]]]) -> None:
        """Of steps before the one that it says next, or before it failed."""
        if self._members[:1] == (worker.number,):
            for step, loss, told in points:
                self._beat(step, loss, told)

    def _on_timed(self, worker: _Worker, generation: int, timed: Timed, about: About) -> None:
        if self._tuning is None or self._tuning.choice or generation != self._generation or self._told_to_stop:
            return
        self._tuning.measured(timed, replace(about, started_s=self._started_s))
        self._tune()

    def _tune(self) -> None:
        """As it is to be tried next, or was chosen."""
        tuning = self._tuning
        assert tuning is not None
        if tuning.choice is not None:
            self._on_choice(tuning.choice)
        self._setting, self._size = tuning.setting, tuning.setting.workers
        if any(w.done for w in self._workers.values()):
            return
        if self._members and len(self._members) == self._size and self._told_how != self._how_they_work:
            self._form(self._members, f"{self._setting.threads} threads, {self._setting.cuts} micro-batches")

    @property
    def _how_they_work(self) -> dict[str, int]:
        return {"threads": self._setting.threads, "cuts": self._setting.cuts}

    def _on_checkpoint(self, worker: _Worker, written: Written) -> None:
        assert self._checkpoints is not None
        if self._members[:1] != (worker.number,) and not self._told_to_stop:
            written.path.unlink(missing_ok=True)  # by one that is not the first any more
            return
        try:
            self._checkpoints.publish(written)
        except (OSError, Unavailable) as error:
            self._on_unwritten(worker, getattr(error, "strerror", "") or str(error))

    def _on_unwritten(self, worker: _Worker, why: str) -> None:
        """A training needs no disk: it goes on, and tries again with the next one."""
        log.warning("a checkpoint could not be written: %s", why)
        if self._checkpoints is not None:
            with contextlib.suppress(OSError, Unavailable):
                self._checkpoints.check_owned()  # it may be for good
            self._checkpoints.clear(worker.number)

    def _on_leaving(self, worker: _Worker) -> None:
        worker.leaving = True
        if worker.number not in self._members:
            return
        left = tuple(m for m in self._members if m != worker.number)
        if self._done_by(left):
            self._form(left, f"worker {worker.number} leaves")
        else:  # with a checkpoint, if they are kept: nobody has its state
            self._say(worker, ("stop",))

    def _on_done(self, worker: _Worker, step: int) -> None:
        if worker.number not in self._members:
            return
        worker.done = True
        self._ask()

    def _ask(self) -> None:
        """For what it came to: the first member, which alone tells what came of the steps. Where another one is done
        before, this one is still in the last step, and needs the others for it."""
        first = self._workers.get(self._members[0]) if self._members else None
        if first is not None and first.done and first.number != self._asked:
            self._asked, first.heard = first.number, time.monotonic()
            self._say(first, ("hand over",))

    def _on_part(self, worker: _Worker, part: bytes) -> None:
        self._parts.setdefault(worker.number, []).append(part)

    def _on_result(self, worker: _Worker) -> None:
        self._result = b"".join(self._parts.pop(worker.number, []))

    def _on_failed(self, worker: _Worker, told: Mapping[str, str], can_cut: bool) -> None:
        if can_cut and told["code"] == "OUT_OF_MEMORY" and self._cut(worker):
            log.warning("%s It goes on in smaller micro-batches.", told["message"])
            return
        message, code = told["message"], told["code"]
        kind = Unavailable if told.get("kind") == "unavailable" else JobFailed  # it is tried again
        if told.get("traceback"):  # of the first: what fails in one mostly fails in all
            sys.stderr.write(f"worker {worker.number} failed:\n{told['traceback']}")
            sys.stderr.flush()
        raise kind(message, code=code, where=told["where"], next_action=told["next_action"])

    def _cut(self, worker: _Worker) -> bool:
        """Whether it is done again in smaller micro-batches than this one had no memory for."""
        if self._tuning is None or (worker.began > self._cut_at and not self._tuning.cut()):
            return False
        if worker.began > self._cut_at:  # not one that failed beside another
            self._cut_at = time.monotonic()
            self._tune()
        return True

    def _gone(self, worker: _Worker) -> None:
        if worker.dead:
            return
        worker.dead = True
        worker.pipe.close()
        del self._workers[worker.number]
        self._parts.pop(worker.number, None)
        if self._checkpoints is not None:
            self._checkpoints.clear(worker.number)
        self._count(worker)
        if not worker.ready and not worker.leaving:
            if self._tuning is not None and not self._tuning.choice and self._setting.workers > 1 and self._members:
                self._tuning.failed(self._how(worker))
                self._tune()
                return
            self._early += 1
            if self._early >= STARTS:
                raise JobFailed(
                    f"{STARTS} workers ended one after another before their first step ({self._how(worker)}).",
                    code="WORKERS_END",
                    next_action="The log of the job has what they printed; the function must come to ctx.steps.",
                )
        if worker.number in self._members:
            left = tuple(m for m in self._members if m != worker.number)
            if self._told_to_stop:
                self._members = left
                return
            self._form(left, f"worker {worker.number} {self._how(worker)}", lost=True)
        self._ask()

    def _begin(self) -> None:
        """The first generation, and one after all are gone."""
        if self._members:
            return
        ready = [w.number for w in self._workers.values() if w.ready and not w.leaving]
        if ready and (len(ready) >= self._size or time.monotonic() - self._began > TOGETHER_S):
            self._form(tuple(ready), "all are ready")

    def _count(self, worker: _Worker) -> None:
        """Raises JobFailed (WORKERS_END) where they end again and again and nothing comes of it."""
        if worker.leaving or (worker.done and not worker.hung):
            return
        self._ends += 1
        self._ended.append(self._how(worker))
        if self._ends >= ENDS:
            of = f" for its {self._batch:,} rows" if self._batch else ""
            why = f" (perhaps there is not enough memory{of})" if worker.process.exitcode == -signal.SIGKILL else ""
            smaller = f"write global_batch={self._batch // 2}" if self._batch > 1 else "halve global_batch"
            raise JobFailed(
                f"{ENDS} workers ended one after another, and no step after {self._furthest} was done: "
                f"{', '.join(f'{n} {how}' for how, n in Counter(self._ended).items())}{why}.",
                code="WORKERS_END",
                next_action=f"The log of the job has what they printed; where memory was short, {smaller}.",
            )

    def _how(self, worker: _Worker) -> str:
        if worker.hung:
            return "hung and was ended"
        code = worker.process.exitcode or 0
        return f"ended with {code}" if code >= 0 else f"ended with {code} ({signal.Signals(-code).name})"

    def _newest(self) -> Path | None:
        """The checkpoint from which a generation goes on of which nobody is known to have done anything; who has is not
        bound to it."""
        if self._checkpoints is None:
            return None
        newest = next(self._checkpoints.newest(), None)
        if newest != self._verified:  # to read a large one takes long, and nobody is heard meanwhile
            self._verified, wrong = self._checkpoints.usable()
            for error in wrong:
                log.warning("%s", error)
        return self._verified

    def _form(self, members: tuple[int, ...], why: str, *, lost: bool = False) -> None:
        """`lost`: nobody waits for the end of a step, for it does not come."""
        before, self._members = self._members, members
        self._broken = None
        if not members:
            self._began = time.monotonic()
            return
        self._generation += 1
        step = self._done_by(members)
        checkpoint = self._newest() if not step else None
        of: dict[str, Any] = {"checkpoint": str(checkpoint)} if checkpoint is not None else {}
        of |= self._how_they_work
        self._told_how = self._how_they_work
        if self._tuning is not None and not self._tuning.choice and len(members) == self._setting.workers:
            of["measure"] = "pair" if self._tuning.asks_for_pair else "steps"
        said = ("generation", {"generation": self._generation, "members": members, "lost": lost, **of})
        for number in dict.fromkeys((*before, *members)):
            worker = self._workers.get(number)
            if worker is not None:
                self._say(worker, said)
        step = step_of(checkpoint) if checkpoint is not None else step
        self._on_change(Change(time.monotonic(), self._generation, len(members), why, step))

    def _done_by(self, members: Sequence[int]) -> int:
        """Steps, as far as that was told; 0: perhaps nobody of them has any state of the training."""
        return max((w.step for number in members if (w := self._workers.get(number)) is not None), default=0)

    def _mend(self) -> None:
        """Where a group broke, and all of it live."""
        if self._broken is not None and time.monotonic() - self._broken[0] > BROKEN_S:
            self._form(self._members, self._broken[1], lost=True)

    def _end_hung(self, turn_s: float) -> None:
        now = time.monotonic()
        if turn_s > STOPPED_S:  # the machine stood still, or this process: nobody could say anything
            for worker in self._workers.values():
                worker.heard = max(now, worker.heard)
        limit = max(self._silent_s, SILENT_STEPS * (median(self._seconds) if self._seconds else 0.0))
        asked = self._workers.get(self._asked)
        for worker in self._workers.values():
            if worker.done and asked is not None and worker is not asked:
                continue  # it has nothing to do, and nobody needs it while another one hands over
            known = worker.number in self._members and self._furthest > worker.began_at
            if not worker.dead and now - worker.heard > (limit if known and not worker.done else FIRST_STEP_S):
                worker.hung = True
                worker.process.kill()

    def _stop(self) -> None:
        for worker in self._workers.values():
            self._say(worker, ("over",))
        deadline = time.monotonic() + 5.0
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                os.kill(worker.process.pid or 0, signal.SIGKILL)
                worker.process.join(5.0)
            self._hear_last(worker)

    def _hear_last(self, worker: _Worker) -> None:
        """What it said before the result, or the error, of another was heard: the checkpoint that it wrote, and what
        came of the last steps."""
        with contextlib.suppress(EOFError, OSError, JobFailed):
            while worker.pipe.poll():
                kind, *what = worker.pipe.recv()
                if kind in ("checkpoint", "points", "beat"):
                    getattr(self, f"_on_{kind}")(worker, *what)


def _store() -> TCPStore:
    """That only this machine can reach."""
    listening = socket.create_server(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    wait = timedelta(seconds=30)
    return TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=wait, master_listen_fd=listening.detach()
    )
