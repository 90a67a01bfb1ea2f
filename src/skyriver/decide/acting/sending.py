"""Taking deliveries to their receivers, over the network, on the loop's thread.

Each sink has its own tasks, `parallel` at most, so that one that hangs holds up no other. What is due is read from the
database some at a time; what receivers said is collected while a transaction is on its way, and written by the next
one: many deliveries share one sync. Until it is written a delivery is not read again; after a kill it is, and the
receiver knows it by its id. So many of a sink are under way or not written at most that no more than twice `parallel`
come again after a kill; while nothing can be written, on a full disk say, nothing more is sent.

What is erased or dropped while it is in memory is not sent; what is on its way at that moment cannot be called back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from skyriver.core.clock import Clock
from skyriver.core.errors import Internal, SkyriverError, told
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.deliveries import Deliveries
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Sink, Taken

IDLE_S = 0.25
"""Between two looks for what has become due, when nobody says that there is something."""
UNUSABLE_S = 2.0
"""After a sink whose file cannot be used."""
AGAIN = 2
"""As many times `parallel` deliveries are under way or not written at most: what comes again after a kill."""
READ_AHEAD = 16
"""As many times `parallel` deliveries are in memory at most."""
FAILING = 3
"""So many failures one after the other are told."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Transact(Protocol):
    """Runs it in a transaction, on the database's thread."""

    def __call__(self, work: Callable[[Transaction], Result], /) -> Awaitable[Result]: ...


class Sinks(Protocol):
    """The sinks that names mean."""

    def open(self, name: str) -> Sink:
        """The one that it means now: another one once what is known of it has changed. Raises a SkyriverError."""
        ...

    def forget(self, name: str) -> None:
        """The one that it meant is closed by the caller; the next `open` of the name makes another one."""
        ...


class Outlet:
    """The way to one sink."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.news = asyncio.Event()
        self.ready: deque[tuple[int, Delivery]] = deque()
        self.held: set[int] = set()
        """Numbers of deliveries in memory: ready, under way, or with an answer that is not written yet."""
        self.stale = True
        """There may be more that is due than is ready."""
        self.withdrawn = 0
        """`Deliveries.withdrawn` when what is ready was read."""
        self.under_way: set[asyncio.Task[None]] = set()
        self.failures = 0
        """Since the last success."""
        self.last = ""
        self.problem: SkyriverError | None = None
        """Why it cannot be used at all."""
        self.sink: Sink | None = None

    def note(self, answer: Answer) -> None:
        if isinstance(answer, Failed):
            self.failures += 1
            self.last = answer.message
        else:
            self.failures = 0
            self.last = "" if isinstance(answer, Taken) else answer.message

    def told(self) -> SkyriverError | None:
        if self.problem is not None:
            return told(f"Nothing is sent to {self.name}", self.problem)
        if self.failures < FAILING:
            return None
        return SkyriverError(
            f"{self.name} fails: {self.last}",
            code="SINK_FAILING",
            next_action="It is tried again by itself, with growing pauses. Look whether the receiver is well.",
        )


class Senders:
    def __init__(self, deliveries: Deliveries, transact: Transact, sinks: Sinks, clock: Clock) -> None:
        self._deliveries = deliveries
        self._transact = transact
        self._sinks = sinks
        self._clock = clock
        self._outlets: dict[str, Outlet] = {}
        self._answers: list[tuple[Outlet, int, Answer]] = []
        self._answered = asyncio.Event()
        self._unwritten = False
        """The answers could not be written when that was tried last."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """There may be something due."""
        for outlet in self._outlets.values():
            outlet.stale = True
            outlet.news.set()

    def problems(self) -> list[SkyriverError]:
        return [told for outlet in self._outlets.values() if (told := outlet.told()) is not None]

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """Of each sink: the last error, and how many failures there were since it took something."""
        return {
            name: {
                "failures": outlet.failures,
                "last_error": str(outlet.problem.message) if outlet.problem is not None else outlet.last,
                "under_way": len(outlet.under_way),
            }
            for name, outlet in self._outlets.items()
        }

    async def run(self) -> None:
        """Until it is cancelled; then what is under way is waited for by `end`."""
        while True:
            for name in self._deliveries.sinks.keys() - self._tasks.keys():
                self._outlets[name] = outlet = Outlet(name)
                self._tasks[name] = asyncio.create_task(self._serve(outlet))
            for name in self._tasks.keys() - self._deliveries.sinks.keys():
                self._tasks.pop(name).cancel()
                self._retire(self._outlets.pop(name))
                self._sinks.forget(name)
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._answered.wait()
            except TimeoutError:
                continue
            await self._write()

    async def end(self, seconds: float) -> None:
        """Waits so long for what is under way, and writes what came of it."""
        for task in self._tasks.values():
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending, timeout=seconds)
        for task in self._sending:
            task.cancel()
        await self._write()
        for outlet in self._outlets.values():
            if outlet.sink is not None:
                await outlet.sink.close()

    async def _write(self) -> None:
        self._answered.clear()
        answers, self._answers = self._answers, []
        if not answers:
            return
        settled = [(number, answer) for _, number, answer in answers]
        try:
            await self._transact(lambda do: self._deliveries.settle(do, settled, self._clock.wall()))
        except BaseException:
            self._answers = answers + self._answers  # the receivers have them: they must not be sent again for this
            self._answered.set()
            self._unwritten = True
            raise
        if self._unwritten:
            self._unwritten = False
            self.wake()
        for outlet, number, _ in answers:
            outlet.held.discard(number)
            outlet.stale = True  # the next of its lane, say
            outlet.news.set()

    async def _serve(self, outlet: Outlet) -> None:
        while True:
            outlet.news.clear()
            try:
                await self._fill(outlet)
                self._begin(outlet)
                pause = IDLE_S
            except SkyriverError as error:
                outlet.problem, pause = error, UNUSABLE_S
            except Exception as error:  # whatever it was: nobody would miss a task that has ended
                _log.exception("deliveries to %s cannot be read", outlet.name)
                outlet.problem, pause = Internal(f"{type(error).__name__}: {error}."), UNUSABLE_S
            if pause == UNUSABLE_S:
                await asyncio.sleep(pause)
                continue
            try:
                async with asyncio.timeout(pause):
                    await outlet.news.wait()
            except TimeoutError:
                outlet.stale = True  # what was to wait may be due

    def _parallel(self, outlet: Outlet) -> int:
        spec = self._deliveries.sinks.get(outlet.name)
        return spec.parallel if spec is not None else 0

    async def _fill(self, outlet: Outlet) -> None:
        parallel = self._parallel(outlet)
        if len(outlet.ready) >= parallel or not outlet.stale:
            return
        outlet.stale = False
        limit = READ_AHEAD * parallel + len(outlet.held)
        withdrawn, found = await self._transact(lambda do: self._read(do, outlet.name, limit))
        self._let_go(outlet, withdrawn)
        for number, delivery in found:
            if number not in outlet.held and len(outlet.ready) < READ_AHEAD * parallel:
                outlet.held.add(number)
                outlet.ready.append((number, delivery))

    def _read(self, do: Transaction, sink: str, limit: int) -> tuple[int, list[tuple[int, Delivery]]]:
        return self._deliveries.withdrawn, self._deliveries.due(do, sink, self._clock.wall(), limit)

    def _let_go(self, outlet: Outlet, withdrawn: int) -> None:
        """Of what is ready where some of it may have been withdrawn since it was read."""
        if withdrawn == outlet.withdrawn:
            return
        outlet.held -= {number for number, _ in outlet.ready}
        outlet.ready.clear()
        outlet.withdrawn, outlet.stale = withdrawn, True
        outlet.news.set()

    def _begin(self, outlet: Outlet) -> None:
        sink = self._sinks.open(outlet.name)  # also where nothing is due: what is wrong with it is told at once
        outlet.problem = None
        if sink is not outlet.sink:
            self._retire(outlet)
            outlet.sink = sink
        self._let_go(outlet, self._deliveries.withdrawn)
        parallel = self._parallel(outlet)
        while (
            outlet.ready
            and not self._unwritten
            and len(outlet.under_way) < parallel
            and len(outlet.held) - len(outlet.ready) < AGAIN * parallel  # under way, or answered and not written
        ):
            number, delivery = outlet.ready.popleft()
            task = asyncio.create_task(self._send(outlet, sink, number, delivery))
            self._sending.add(task)
            outlet.under_way.add(task)
            task.add_done_callback(partial(self._sent, outlet))

    def _retire(self, outlet: Outlet) -> None:
        """Its sink is closed, once what is under way by it has ended."""
        if (sink := outlet.sink) is None:
            return
        under_way = set(outlet.under_way)

        async def close() -> None:
            if under_way:
                await asyncio.wait(under_way)
            await sink.close()

        closing = asyncio.create_task(close())
        self._sending.add(closing)
        closing.add_done_callback(self._sending.discard)

    async def _send(self, outlet: Outlet, sink: Sink, number: int, delivery: Delivery) -> None:
        try:
            answer = await sink.deliver(delivery)
        except SkyriverError as error:  # nothing was sent
            outlet.problem = error
            outlet.held.discard(number)
            return
        except asyncio.CancelledError:
            outlet.held.discard(number)
            raise
        except Exception as error:  # a fault of ours must not hold the others up
            _log.exception("a delivery to %s failed", outlet.name)
            answer = Failed(f"{type(error).__name__}: {error}")
        outlet.note(answer)
        self._answers.append((outlet, number, answer))
        self._answered.set()

    def _sent(self, outlet: Outlet, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        outlet.under_way.discard(task)
        if outlet.problem is None:
            outlet.news.set()
