"""Producing: a stream of single events becomes batches that are sent behind the caller's back.

    with cloud.producer("payments") as producer:
        for payment in payments:
            producer.send(payment)
    print(producer.sent.accepted)

Theory of operation. `send` puts an event into a buffer; one thread (one task, on asyncio) takes what is due, which is a
full batch or whatever has waited for `linger`, sends it, and tells what became of each event. One batch is under way
at a time, so events reach the stream in the order in which they were given. A batch that meets a full queue, a part
that is away or a lost connection is sent again with growing pauses, for `retry_seconds`; as the stream knows an event
by its id, none counts twice. The buffer is bounded: when it is full, `send` waits, and then refuses.

Every event ends in exactly one of three ways, and the caller hears of each: taken, refused by the stream (with the
reason), or not delivered (with the error). `Outbox` decides all of it and does nothing; `Producer` and
`AsyncProducer` are the two short drivers, as in `client.flows`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import msgspec

from skyriver.client.flows import Awaiting, Blocking, Flow, Pause, Request
from skyriver.core.errors import Conflict, Internal, InvalidInput, QuotaExceeded, SkyriverError, Unavailable

LINES = {"Content-Type": "application/x-ndjson"}
KEPT_REFUSALS = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Producing:
    """How a producer works.

    A batch is sent when it has `batch` events or `batch_bytes`, or its first event has waited for `linger` seconds.
    `buffer` events may wait; then `send` waits for up to `block_seconds`. A batch is tried for `retry_seconds`. With
    `decisions` each event's decision is asked for and told.
    """

    batch: int = 500
    batch_bytes: int = 1 << 20
    linger: float = 0.01
    buffer: int = 10_000
    block_seconds: float = 10.0
    retry_seconds: float = 60.0
    decisions: bool = False


class Told(NamedTuple):
    """What became of one event: taken (`error` is None), with its `decision` if those were asked for."""

    event: Mapping[str, Any]
    error: SkyriverError | None
    decision: Mapping[str, Any] | None


class Undelivered(Unavailable):
    """Some events were given up; `events` are they, and may be sent again. Nothing of them was acknowledged, though the
    stream may have taken some."""

    default_code = "UNDELIVERED"

    def __init__(self, cause: SkyriverError, events: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(
            f"{len(events)} events were not delivered: {cause.message}",
            where=cause.where,
            next_action=cause.next_action or "Send them again: the stream knows an event by its id.",
        )
        self.events = events


@dataclass(slots=True)
class Produced:
    """What a producer has done so far. `rejections` are the last ones."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    undelivered: int = 0
    batches: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Of decisions, where they were asked for."""
    rejections: deque[Told] = field(default_factory=lambda: deque(maxlen=KEPT_REFUSALS))


class _Entry(NamedTuple):
    event: Mapping[str, Any]
    line: bytes


class Outbox:
    """What waits, what is under way, and what became of it. No I/O, no clock, no lock: its driver has them."""

    def __init__(self, settings: Producing, told: Callable[[Told], None] | None) -> None:
        self.settings = settings
        self.sent = Produced()
        self.closed = False
        self.lost: list[Mapping[str, Any]] = []
        """Events that were given up, until somebody hears of them."""
        self._cause: SkyriverError | None = None
        self._told = told
        self._waiting: deque[tuple[_Entry, float]] = deque()
        self._bytes = 0
        self._flying = 0
        self._hurry = 0
        """How many of those that wait are not to wait for more."""

    @property
    def full(self) -> bool:
        return len(self._waiting) + self._flying >= self.settings.buffer

    @property
    def empty(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._waiting and not self._flying

    def check(self) -> None:
        """Raises Undelivered for what nobody has heard of yet, Conflict (PRODUCER_CLOSED)."""
        if self.lost and self._cause is not None:
            lost, self.lost = self.lost, []
            raise Undelivered(self._cause, lost)
        if self.closed:
            raise Conflict("This producer is closed.", code="PRODUCER_CLOSED")

    def put(self, entry: _Entry, now: float) -> bool:
        """Whether who sends must look: there was nothing before it, or it makes a batch."""
        self._waiting.append((entry, now))
        self._bytes += len(entry.line)
        return len(self._waiting) == 1 or self.full or self._is_batch()

    def _is_batch(self) -> bool:
        return len(self._waiting) >= self.settings.batch or self._bytes >= self.settings.batch_bytes

    def hurry(self) -> None:
        """What waits now is sent at once."""
        self._hurry = len(self._waiting)

    def due_in(self, now: float) -> float | None:
        """Seconds until there is a batch to send; None: nothing waits."""
        if not self._waiting:
            return None
        if self._hurry or self.closed:
            return 0.0
        if self.full or self._is_batch():
            return 0.0
        return max(0.0, self._waiting[0][1] + self.settings.linger - now)

    def take(self) -> list[_Entry]:
        """The next batch; it is under way then, until it is settled."""
        batch: list[_Entry] = []
        size = 0
        while self._waiting and len(batch) < self.settings.batch:
            line = len(self._waiting[0][0].line)
            if batch and size + line > self.settings.batch_bytes:
                break
            batch.append(self._waiting.popleft()[0])
            size += line
        self._bytes -= size
        self._hurry = max(0, self._hurry - len(batch))
        self._flying = len(batch)
        return batch

    def settle(self, batch: Sequence[_Entry], answer: Mapping[str, Any]) -> None:
        """The stream has answered. Raises Internal for an answer that does not speak of each event: nobody was told
        anything then."""
        sent, rows = self.sent, len(batch)
        decisions = answer.get("decisions") or [None] * rows
        if answer["accepted"] + answer["duplicates"] + len(answer["rejected"]) != rows or len(decisions) != rows:
            raise Internal(f"The stream answered for other events than the {rows} that were sent.")
        sent.accepted += answer["accepted"]
        sent.duplicates += answer["duplicates"]
        refused = {row["index"]: row for row in answer["rejected"]}
        for place, (entry, decision) in enumerate(zip(batch, decisions, strict=True)):
            bad = refused.get(place)
            if decision is not None:
                sent.statuses[decision["status"]] += 1
            told = Told(entry.event, None if bad is None else _rejection(bad), decision)
            if bad is not None:
                sent.rejected += 1
                sent.rejections.append(told)
            self._tell(told)
        self._landed()

    def give_up(self, batch: Sequence[_Entry], error: SkyriverError) -> None:
        """The batch was not delivered."""
        self.sent.undelivered += len(batch)
        self._cause = error
        for entry in batch:
            if self._told is None:
                self.lost.append(entry.event)
            self._tell(Told(entry.event, error, None))
        self._landed()

    def fail(self, batch: Sequence[_Entry], error: BaseException) -> None:
        """Something went wrong here, and who sends may end."""
        _log.error("a batch could not be sent", exc_info=error)
        self.closed = self.closed or not isinstance(error, Exception)
        cause = error if isinstance(error, SkyriverError) else Internal(f"The producer failed: {error!r}.")
        self.give_up(batch, cause)

    def _landed(self) -> None:
        self.sent.batches += 1
        self._flying = 0

    def _tell(self, told: Told) -> None:
        if self._told is None:
            return
        try:
            self._told(told)
        except Exception:  # the caller's code: what it does wrong must not keep other events from being sent
            _log.exception("what became of an event could not be told")


def encode(event: Mapping[str, Any]) -> _Entry:
    """As it is now: what the caller does with it later changes nothing. Raises InvalidInput (NOT_JSON)."""
    try:
        return _Entry(event, msgspec.json.encode(event))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"The event cannot be written as JSON: {error}.",
            code="NOT_JSON",
            next_action="Events hold numbers, texts, truths, times and None.",
        ) from error


def deliver(outbox: Outbox, stream: str, batch: Sequence[_Entry]) -> Flow[None]:
    """Sends until it is answered, or for as long as the settings say."""
    settings = outbox.settings
    body = b"\n".join(entry.line for entry in batch)
    request = Request(
        "POST",
        f"/streams/{quote(stream, safe='')}/events",
        params={"wait": "decision"} if settings.decisions else {},
        headers=LINES,
        content=body,
    )
    deadline, pause = time.monotonic() + settings.retry_seconds, 0.05
    while True:
        try:
            answer = (yield request).json()
        except (Unavailable, QuotaExceeded, Internal) as error:
            if time.monotonic() + pause > deadline:
                outbox.give_up(batch, error)
                return
        except SkyriverError as error:
            if error.code == "ALL_REJECTED":
                outbox.settle(batch, {"accepted": 0, "duplicates": 0, "rejected": error.details})
            else:
                outbox.give_up(batch, error)
            return
        else:
            outbox.settle(batch, answer)
            return
        yield Pause(pause)
        pause = min(pause * 1.7, 2.0)


def _rejection(row: Mapping[str, Any]) -> SkyriverError:
    return InvalidInput(row["message"], code=row["reason"], where=row["field"])


def _buffer_full(settings: Producing) -> QuotaExceeded:
    return QuotaExceeded(
        f"{settings.buffer} events wait to be sent, and none could be within {settings.block_seconds:g} s.",
        code="BUFFER_FULL",
        next_action="Send this event again later: it was not taken.",
    )


class Producer:
    """Made by `Client.producer`. `send` may be called from any thread; `told` is called in the producer's own."""

    def __init__(
        self, client: Blocking, stream: str, settings: Producing, told: Callable[[Told], None] | None = None
    ) -> None:
        self._client = client
        self._stream = stream
        self._outbox = Outbox(settings, told)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"producer of {stream}", daemon=True)
        self._thread.start()

    @property
    def sent(self) -> Produced:
        return self._outbox.sent

    def send(self, event: Mapping[str, Any]) -> None:
        """Returns when it is in the buffer. Raises InvalidInput (NOT_JSON), QuotaExceeded (BUFFER_FULL) when there was
        no room for `block_seconds`, Undelivered for events before it that nobody was told of, Conflict
        (PRODUCER_CLOSED); the event was not taken then."""
        entry = encode(event)
        with self._changed:
            self._outbox.check()
            if not self._changed.wait_for(self._has_room, self._outbox.settings.block_seconds):
                raise _buffer_full(self._outbox.settings)
            self._outbox.check()
            if self._outbox.put(entry, time.monotonic()):
                self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> Produced:
        """Returns once all that was given before was answered or given up. Raises Undelivered, and Unavailable
        (NOT_FLUSHED) after `timeout` seconds."""
        with self._changed:
            self._outbox.hurry()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._outbox.empty, timeout):
                raise Unavailable(f"Events still wait after {timeout:g} s; they go on.", code="NOT_FLUSHED")
            if self._outbox.lost:
                self._outbox.check()
        return self._outbox.sent

    def close(self) -> Produced:
        """Sends what waits, and ends. Raises Undelivered. May be called again."""
        with self._changed:
            self._outbox.closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._outbox.lost:
            self._outbox.check()
        return self._outbox.sent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _has_room(self) -> bool:
        return not self._outbox.full or self._outbox.closed

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                self._client.run(deliver(self._outbox, self._stream, batch))
            except BaseException as error:  # nothing that goes wrong here may be silent, and nobody may wait for it
                self._outbox.fail(batch, error)
                if not isinstance(error, Exception):
                    raise
            finally:
                with self._changed:
                    self._changed.notify_all()

    def _next(self) -> list[_Entry] | None:
        """Waits for what is due; None at the end."""
        with self._changed:
            while (due := self._outbox.due_in(time.monotonic())) != 0.0:
                if due is None and self._outbox.closed:
                    return None
                self._changed.wait(due)
            return self._outbox.take()


class AsyncProducer:
    """Made by `AsyncClient.producer`: the same on asyncio, for any number of tasks of one loop."""

    def __init__(
        self, client: Awaiting, stream: str, settings: Producing, told: Callable[[Told], None] | None = None
    ) -> None:
        self._client = client
        self._stream = stream
        self._outbox = Outbox(settings, told)
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._run())

    @property
    def sent(self) -> Produced:
        return self._outbox.sent

    async def send(self, event: Mapping[str, Any]) -> None:
        """As `Producer.send`."""
        entry = encode(event)
        async with self._changed:
            self._outbox.check()
            try:
                async with asyncio.timeout(self._outbox.settings.block_seconds):
                    await self._changed.wait_for(lambda: not self._outbox.full or self._outbox.closed)
            except TimeoutError:
                raise _buffer_full(self._outbox.settings) from None
            self._outbox.check()
            if self._outbox.put(entry, time.monotonic()):
                self._changed.notify_all()

    async def flush(self, timeout: float | None = None) -> Produced:  # as the other one
        """As `Producer.flush`."""
        async with self._changed:
            self._outbox.hurry()
            self._changed.notify_all()
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: self._outbox.empty)
            except TimeoutError:
                raise Unavailable(f"Events still wait after {timeout:g} s; they go on.", code="NOT_FLUSHED") from None
            if self._outbox.lost:
                self._outbox.check()
        return self._outbox.sent

    async def close(self) -> Produced:
        """As `Producer.close`."""
        async with self._changed:
            self._outbox.closed = True
            self._changed.notify_all()
        await self._task
        if self._outbox.lost:
            self._outbox.check()
        return self._outbox.sent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        while (batch := await self._next()) is not None:
            try:
                await self._client.run(deliver(self._outbox, self._stream, batch))
            except Exception as error:  # nothing that goes wrong here may be silent
                self._outbox.fail(batch, error)
            async with self._changed:
                self._changed.notify_all()

    async def _next(self) -> list[_Entry] | None:
        async with self._changed:
            while (due := self._outbox.due_in(time.monotonic())) != 0.0:
                if due is None and self._outbox.closed:
                    return None
                try:
                    async with asyncio.timeout(due):
                        await self._changed.wait()
                except TimeoutError:
                    pass
            return self._outbox.take()
