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
reason), or not delivered (with the error). `client.outbox` decides all of it; `Producer` and `AsyncProducer` are its
two short drivers, as in `client.flows`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from skyriver.client.flows import Awaiting, Blocking
from skyriver.client.outbox import (
    Entry,
    Outbox,
    Produced,
    Producing,
    Told,
    Undelivered,
    buffer_full,
    deliver,
    encode,
    not_flushed,
)

__all__ = ["AsyncProducer", "Produced", "Producer", "Producing", "Told", "Undelivered"]


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
                raise buffer_full(self._outbox.settings)
            self._outbox.check()
            if self._outbox.put(entry, time.monotonic()):
                self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> Produced:
        """Returns once all that was given before was answered or given up. Raises Undelivered, and Unavailable
        (NOT_FLUSHED) after `timeout` seconds."""
        with self._changed:
            given = self._outbox.hurry()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._outbox.ended(given), timeout):
                raise not_flushed(timeout)
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
        try:
            while (batch := self._next()) is not None:
                try:
                    self._client.run(deliver(self._outbox, self._stream, batch))
                except Exception as error:  # nothing that goes wrong here may be silent
                    self._outbox.fail(error)
                with self._changed:
                    self._changed.notify_all()
        except BaseException as error:  # nobody may wait for a thread that has ended
            with self._changed:
                self._outbox.closed = True
            self._outbox.end(error)
            raise
        finally:
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> list[Entry] | None:
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
                raise buffer_full(self._outbox.settings) from None
            self._outbox.check()
            if self._outbox.put(entry, time.monotonic()):
                self._changed.notify_all()

    async def flush(self, timeout: float | None = None) -> Produced:  # as the other one
        """As `Producer.flush`."""
        async with self._changed:
            given = self._outbox.hurry()
            self._changed.notify_all()
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: self._outbox.ended(given))
            except TimeoutError:
                raise not_flushed(timeout) from None
            if self._outbox.lost:
                self._outbox.check()
        return self._outbox.sent

    async def close(self) -> Produced:
        """As `Producer.close`."""
        async with self._changed:
            self._outbox.closed = True
            self._changed.notify_all()
        await asyncio.wait([self._task])  # what ended it was told of each event
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
        try:
            while (batch := await self._next()) is not None:
                try:
                    await self._client.run(deliver(self._outbox, self._stream, batch))
                except Exception as error:  # as the other one
                    self._outbox.fail(error)
                async with self._changed:
                    self._changed.notify_all()
        except BaseException as error:
            self._outbox.closed = True
            self._outbox.end(error)
            raise
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _next(self) -> list[Entry] | None:
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
