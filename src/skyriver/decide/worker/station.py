"""The station of a partition: a bounded queue before the engine, and turns that empty it.

Natural batching: a turn takes what waits, up to MAX_BATCH rows, runs the engine on it, syncs the log once, and
answers. Where the stream lingers, and it pays, the thread sleeps before a turn, which takes what came meanwhile
(`decide.worker.lingering`); whatever else the loop is asked for waits as long. Where the stream declares within what
time its events are decided, a `Pacer` says what a turn takes. At durability "disk" the sync waits in a thread, and what
comes meanwhile is parsed, cleaned and queued: it is the next batch (group commit). A request with
more rows than fit goes on at the end of the queue, so that it does not hold up the others.

When the engine or the sync fails half-way, those who wait get the error, and the engine is recovered from the log; as
long as that does not work (a full disk) requests are refused with 503 and it is tried again every second. A log that
was lost to another process, or refuses to write, ends the station: the process must end then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, assert_never

from skyriver.core.errors import Conflict, Internal, InvalidInput, QuotaExceeded, SkyriverError, Unavailable
from skyriver.data.log import Log
from skyriver.decide.decision.stretches import Threads
from skyriver.decide.log.records import DecisionRecord
from skyriver.decide.partition.engine import AsOf, Engine
from skyriver.decide.partition.receipt import Receipt
from skyriver.decide.worker.lingering import Linger
from skyriver.decide.worker.looking import Found, Looks, decision_or_why, fill
from skyriver.decide.worker.metrics import Meter
from skyriver.decide.worker.pacing import Pacer
from skyriver.decide.worker.work import (
    READS_A_TURN,
    ChangeWork,
    EventWork,
    FindWork,
    LabelWork,
    LoadWork,
    ReadWork,
    Reply,
    RowWork,
    Turn,
    Work,
    next_turn,
    rows_left,
)

MAX_BATCH = 1024
"""Rows of one batch: some 4 ms of work for small events, 60 ms for those of 300 fields; beyond it a row costs hardly
less."""
QUEUE_BYTES = 128 << 20
"""Of all requests that wait for their answer, also when their clients are gone; one alone may be larger."""
QUEUE_READS = 1024
"""Rows that are to be read and wait."""
LESS = (
    "Send it again in a second, and less at a time if this stays: `skyriver stream list` shows what waits,"
    " `skyriver stream get` what can be decided."
)
RETRY_SECONDS = 1.0
LOADING_SECONDS = 30.0
"""A load that sends no block for so long, since its last one or the start, keeps live events waiting no longer."""
REFUSED_LOADS = frozenset({"LOAD_OUT_OF_ORDER", "HISTORY_AFTER_LIVE", "AHEAD_OF_CLOCK"})
"""Codes with which an engine refuses a block before it has changed anything."""
FATAL = frozenset({"LOG_LOST", "LOG_FAILED", "LOG_CLOSED"})

_log = logging.getLogger(__name__)


class Checkpoints(Protocol):
    """When and how a station takes checkpoints; `begin` is called in the log's thread, while no batch is under way."""

    def due(self, offset: int) -> bool: ...

    def begin(self, engine: Engine, offset: int) -> None: ...


class Station:
    """All methods on the loop's thread. `open_engine` recovers an engine from the log, in a thread. `threads`: what the
    engine's scorers go by."""

    def __init__(
        self,
        log: Log,
        open_engine: Callable[[], Engine],
        checkpoints: Checkpoints,
        looks: Looks,
        *,
        to_disk: bool,
        queue: int,
        linger_us: int = 0,
        meter: Meter | None = None,
        threads: Threads | None = None,
    ) -> None:
        self.meter = meter if meter is not None else Meter()
        self._scoring_threads = threads if threads is not None else Threads()
        self._log = log
        self._open_engine = open_engine
        self._checkpoints = checkpoints
        self._looks = looks
        self._to_disk = to_disk
        self._limit = queue
        self._linger = Linger(linger_us)
        self.pacer: Pacer | None = None
        """Keeps the stream's objective, where one is declared."""
        self._read_ns = 0
        """When the sockets were read last: what waits now came after it, but for what a full turn has left."""
        self._free_ns = 0
        """Since when the thread reads and answers, between two turns."""
        self._expects = False
        """The last turn had events, and more of them may come soon."""
        self._queue: deque[Work] = deque()
        self._rows = self._event_rows = 0
        self._bytes = 0
        self._reads = 0
        self._busy = False
        self._threads = ThreadPoolExecutor(1, "log")
        self._loading_until = 0.0
        self.engine: Engine | None = None
        self.problem = ""
        """Why there is no engine now."""
        self._why: Unavailable | None = None
        """What the recovery wants, and is tried again for: room on a full disk."""
        self.full: SkyriverError | None = None
        """Why nothing may be appended now, though there is one."""
        self.failed: asyncio.Future[SkyriverError] = asyncio.get_running_loop().create_future()
        """Done when the process must end."""

    @property
    def waiting_rows(self) -> int:
        return self._rows

    async def start(self) -> None:
        """Returns once there is an engine, or nothing can be done (`failed`)."""
        await self._recover()

    def submit(self, work: Work) -> None:
        """Queues it; `work.answer` is called once, in a later turn. Raises QuotaExceeded (QUEUE_FULL), Unavailable
        (RECOVERING, or what the recovery wants: DISK_FULL; LOADING for events while a load is under way)."""
        if self.engine is None:
            raise self._not_ready()
        self._check_room(work)
        if isinstance(work, RowWork):
            self._rows += len(work.submission)
            self._event_rows += len(work.submission) if isinstance(work, EventWork) else 0
        if isinstance(work, EventWork | LabelWork | LoadWork) and work.size:
            self._bytes += work.size
            work.answer = partial(self._release, work.size, work.answer)
        if isinstance(work, ReadWork):
            self._reads += len(work.rows)
            work.answer = partial(self._release_reads, len(work.rows), work.answer)
        self._queue.append(work)
        if not self._busy:
            self._busy = True
            self._read_ns = self._free_ns = time.perf_counter_ns()
            self._begin()

    def tick(self) -> None:
        """Now and then: takes a checkpoint that is due though nothing comes any more."""
        if self.pacer is not None and not self._busy:
            if self.engine is not None:
                self.pacer.know(cheaper=self.engine.deciding.cheaper is not None)
            self.pacer.rest(self._event_rows)
        if not self._busy and self.engine is not None and self._checkpoints.due(self._log.next_offset):
            self._busy, self._free_ns = True, time.perf_counter_ns()
            self._save()

    async def drain(self, seconds: float) -> None:
        """Waits until all that was submitted is answered, at most so long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._busy and loop.time() < deadline and not self.failed.done():
            await asyncio.sleep(0.005)
        self._give_up(
            Unavailable(
                "The stream is being stopped.", code="STOPPING", next_action="Send it again: the stream starts anew."
            )
        )
        self._looks.close()
        self._threads.shutdown()

    def _check_room(self, work: Work) -> None:
        if self.full is not None and isinstance(work, RowWork | LoadWork):
            raise Unavailable(self.full.message, code=self.full.code, next_action=self.full.next_action)
        rows = len(work.submission) if isinstance(work, RowWork) else 0
        if (rows and self._rows and self._rows + rows > self._limit) or len(self._queue) >= self._limit:
            waiting = f"{self._rows} rows wait in {len(self._queue)} requests, {self._limit} may"
            raise self._is_full(work, waiting)
        size = work.size if isinstance(work, EventWork | LabelWork | LoadWork) else 0
        if size and self._bytes and self._bytes + size > QUEUE_BYTES:
            waiting = f"requests of {self._bytes} bytes wait, {QUEUE_BYTES} may"
            raise self._is_full(work, waiting)
        if isinstance(work, ReadWork):
            self._check_reads(len(work.rows))
        if isinstance(work, EventWork) and asyncio.get_running_loop().time() < self._loading_until:
            raise Unavailable(
                "History is being loaded; live events come after it.",
                code="LOADING",
                next_action="Try again in a second.",
            )

    def _is_full(self, work: Work, waiting: str) -> QuotaExceeded:
        if self.pacer is not None and isinstance(work, EventWork):
            self.pacer.refused(len(work.submission))
        message = f"More comes than the stream's worker can do: {waiting}. Nothing of this request was taken."
        return QuotaExceeded(message, code="QUEUE_FULL", next_action=LESS)

    def _check_reads(self, rows: int) -> None:
        if rows > READS_A_TURN:
            raise InvalidInput(
                f"The features of {rows} rows are asked for, {READS_A_TURN} may be.",
                code="TOO_MANY_ROWS",
                next_action="Ask for them in parts.",
            )
        if self._reads + rows > QUEUE_READS:
            message = f"The features of {self._reads} rows are being read, {QUEUE_READS} may."
            raise QuotaExceeded(message, code="READS_FULL", next_action="Try again in a second.")

    def _release_reads(self, rows: int, answer: Callable[[Any], None], given: object) -> None:
        self._reads -= rows
        answer(given)

    def _release(self, size: int, answer: Callable[[Any], None], given: object) -> None:
        self._bytes -= size
        answer(given)

    def _begin(self) -> None:
        asyncio.get_running_loop().call_soon(self._wait if self._linger.waits else self._turn)

    def _wait(self) -> None:
        """The thread itself stands still, also where nothing waits yet: what comes meanwhile is read in one go then.
        Read as it came, each request would wake the process and find the caches cold, which costs as much as the turn
        that it is to share."""
        now = time.perf_counter_ns()
        if not self._queue or isinstance(self._queue[0], EventWork):
            more = self._linger.wait_us((now - self._read_ns) // 1000, self._rows)
            if more:
                time.sleep(more / 1e6)
                slept, now = now, time.perf_counter_ns()
                self._free_ns += now - slept
        self._read_ns = now
        asyncio.get_running_loop().call_soon(self._turn)  # not at once: first the loop reads

    def _turn(self) -> None:
        if self.engine is None or not self._queue:
            self._busy = False
            return
        pacer = self.pacer
        turn = next_turn(self._queue, MAX_BATCH) if pacer is None else self._paced(pacer, self.engine)
        turn.before_us = max(0, turn.began_ns - self._free_ns) // 1000
        self._rows -= turn.rows
        self._event_rows -= sum(len(part) for _, part in turn.events)
        self._linger.note(len(turn.events), turn.began_ns // 1000)
        self._expects = bool(turn.events)
        try:
            replies = self._work(self.engine, turn)
            # A turn that only asks writes nothing, so this waits for no disk; that the log refuses is noticed still.
            here = not self._to_disk or all(isinstance(work, FindWork | ReadWork) for work in turn.works)
            if here:
                self._log.sync()
        except Exception as error:  # whatever it was, memory is no longer what the log says
            self._break_off(turn, error)
            return
        if here:
            self._finish(turn, replies, time.perf_counter_ns())
            return
        loop = asyncio.get_running_loop()
        syncing = self._threads.submit(self._sync)
        syncing.add_done_callback(lambda done: loop.call_soon_threadsafe(self._synced, turn, replies, done))

    def _paced(self, pacer: Pacer, engine: Engine) -> Turn:
        pacer.know(cheaper=engine.deciding.cheaper is not None)
        return pacer.take(self._queue, self._event_rows, MAX_BATCH, self._rows - self._event_rows)

    def _sync(self) -> int:
        """When it was done. In the log's thread: the loop may be reading for longer, which is no part of the turn."""
        self._log.sync()
        return time.perf_counter_ns()

    def _synced(self, turn: Turn, replies: list[Reply], done: Future[int]) -> None:
        error = done.exception()
        if error is None:
            self._finish(turn, replies, done.result())
        elif isinstance(error, Exception):
            self._break_off(turn, error)
        else:
            raise error

    def _finish(self, turn: Turn, replies: list[Reply], durable_ns: int) -> None:
        took_us = (time.perf_counter_ns() - turn.began_ns) // 1000
        if rows := sum(len(part) for _, part in turn.events):
            self.meter.decision_us.add(took_us, rows)
        self._free_ns = durable_ns
        if self.pacer is not None:
            self.pacer.done(turn, (durable_ns - turn.began_ns) // 1000)
        for reply in replies:
            _answer(reply)
        if self._checkpoints.due(self._log.next_offset):
            self._save()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._queue or (self._expects and self._linger.waits):
            self._begin()
        else:
            self._busy = False

    def _save(self) -> None:
        engine, loop = self.engine, asyncio.get_running_loop()
        assert engine is not None
        saving = self._threads.submit(self._checkpoints.begin, engine, self._log.next_offset)
        saving.add_done_callback(lambda done: loop.call_soon_threadsafe(self._saved, done))

    def _saved(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:  # it only makes the next start longer; after the usual time it is tried again
            _log.error("a checkpoint could not be taken", exc_info=error)
        self._free_ns = time.perf_counter_ns()  # what it took is no part of what answering takes
        self._go_on()

    def _work(self, engine: Engine, turn: Turn) -> list[Reply]:
        """Runs the engine; what it returns is to be called after the sync."""
        replies: list[Reply] = []
        if turn.events:
            self._scoring_threads.count = turn.threads
            lanes, waited_us = engine.deciding.lanes, engine.deciding.lanes.waited_us
            receipts = engine.decide([part for _, part in turn.events], turn.effort)
            turn.scoring_us = lanes.waited_us - waited_us
            replies += [partial(self._complete, work, r) for (work, _), r in zip(turn.events, receipts, strict=True)]
        decided_ns = time.perf_counter_ns()
        if turn.labels:
            got = engine.label([part for _, part in turn.labels])
            replies += [partial(work.complete, r) for (work, _), r in zip(turn.labels, got, strict=True)]
        if turn.references:
            told = engine.learn([part for _, part in turn.references])
            replies += [partial(work.complete, news) for (work, _), news in zip(turn.references, told, strict=True)]
        replies += [self._other(engine, work) for work in turn.others]
        turn.besides_us = (time.perf_counter_ns() - decided_ns) // 1000
        return replies

    def _other(self, engine: Engine, work: LoadWork | FindWork | ReadWork | ChangeWork) -> Reply:
        match work:
            case ChangeWork():
                try:
                    work.change(engine)
                except Conflict as refusal:
                    return partial(work.answer, refusal)
                return partial(work.answer, None)
            case FindWork():
                return self._find(engine, work)
            case ReadWork():
                found = _read(engine, work)
                self.meter.read_rows += len(work.rows) if isinstance(found, AsOf) else 0
                return partial(work.answer, found)
            case LoadWork():
                try:
                    answer = engine.load(work.block, work.step)
                except SkyriverError as error:
                    if error.code not in REFUSED_LOADS:
                        raise
                    return partial(work.answer, error)
                self._note_loading(engine)
                return partial(work.answer, answer)
            case _:
                assert_never(work)

    def _find(self, engine: Engine, work: FindWork) -> Reply:
        offset, recent = engine.find(work.id)

        def answer(found: Found | SkyriverError) -> None:
            decision = found if isinstance(found, SkyriverError) else found.get(offset)
            other = isinstance(decision, DecisionRecord) and decision.id != work.id
            work.answer(None if other else decision)

        if offset < 0 or recent is not None:
            return partial(answer, {offset: recent} if recent is not None else {})
        return partial(self._looks.begin, [offset], answer, partial(decision_or_why, work.id))

    def _complete(self, work: EventWork, part: Receipt) -> None:
        """Answers once all parts of the request are there: the one that was taken last is the last to come here."""
        receipt = work.receipt
        receipt.add(part)
        if work.taken < len(work.submission):
            return
        if receipt.sought is None:
            work.answer(receipt)
            return

        def answer(found: Found | SkyriverError) -> None:
            work.answer(found if isinstance(found, SkyriverError) else fill(receipt, found))

        self._looks.begin([offset for _, offset in receipt.sought], answer)

    def _note_loading(self, engine: Engine) -> None:
        self._loading_until = asyncio.get_running_loop().time() + LOADING_SECONDS if engine.loading else 0.0

    def _break_off(self, turn: Turn, error: Exception) -> None:
        told = error if isinstance(error, SkyriverError) else _internal(error)
        _log.error("a batch failed: %s", told, exc_info=None if error is told else error)
        self.engine = None
        self.problem = str(told)
        partly = [work for work in turn.works if work in self._queue]
        self._queue = deque(work for work in self._queue if work not in partly)
        self._rows -= sum(rows_left(work) for work in partly)
        self._event_rows -= sum(rows_left(work) for work in partly if isinstance(work, EventWork))
        for work in turn.works:
            _answer(partial(work.answer, told))
        if told.code in FATAL:
            self._give_up(told)
        else:
            self._recovering = asyncio.get_running_loop().create_task(self._recover())

    def _not_ready(self) -> Unavailable:
        why = self._why
        if why is not None:
            message = f"The stream is not ready. {why.message}"
            return Unavailable(message, code=why.code, next_action=why.next_action)
        message = f"The stream is not ready. {self.problem}"
        return Unavailable(message, code="RECOVERING", next_action="Try again in a second.")

    def _give_up(self, error: SkyriverError) -> None:
        self._busy = False
        waiting, self._queue, self._rows, self._event_rows = self._queue, deque(), 0, 0
        for work in waiting:
            _answer(partial(work.answer, error))
        if not self.failed.done():
            self.failed.set_result(error)

    async def _recover(self) -> None:
        """Tries until it works, or nothing can be done."""
        loop = asyncio.get_running_loop()
        engine = None
        while engine is None:
            try:
                engine = await loop.run_in_executor(self._threads, self._open_engine)
            except Unavailable as error:
                _log.warning("the stream cannot be opened now: %s", error)
                self.problem, self._why = str(error), error
                if error.code in FATAL:
                    self._give_up(error)
                    return
                await asyncio.sleep(RETRY_SECONDS)
            except SkyriverError as error:
                _log.error("the stream cannot be opened: %s", error)
                self.problem = str(error)
                self._give_up(error)
                return
            except Exception as error:
                _log.exception("the stream cannot be opened")
                self.problem = f"{type(error).__name__}: {error}"
                self._give_up(_internal(error))
                return
        self.engine = engine
        self.problem, self._why = "", None
        self._note_loading(engine)
        self._busy, self._free_ns = True, time.perf_counter_ns()
        loop.call_soon(self._turn)


def _answer(reply: Reply) -> None:
    """Nothing that goes wrong with one answer may keep the others from theirs."""
    try:
        reply()
    except Exception:
        _log.exception("an answer could not be given")


def _read(engine: Engine, work: ReadWork) -> AsOf | SkyriverError:
    """Nothing is changed by it, so what goes wrong is its asker's alone."""
    try:
        return engine.read(work.digest, work.rows)
    except SkyriverError as error:
        return error
    except Exception:
        _log.exception("features could not be read")
        return Internal("The features could not be read.", next_action="The worker's log says why.")


def _internal(cause: Exception) -> Internal:
    error = Internal("The batch failed; what was taken of it is in the log.", next_action="Send it again.")
    error.__cause__ = cause
    return error
