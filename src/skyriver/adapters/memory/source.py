"""A broker in memory: the twin of those outside, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from skyriver.core.errors import Unavailable
from skyriver.decide.worker.sources import Message


class MemoryBroker:
    """What outlives a connection: the messages, by number, that were not acknowledged."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.delivered: set[int] = set()
        self.number = 0
        self.away = False
        self.connection: object = None
        self.news = asyncio.Event()

    def publish(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self.kept[self.number] = payload
            self.number += 1
        self.news.set()

    def stop(self) -> None:
        self.away = True
        self.cut()

    def cut(self) -> None:
        """The connection that there is ends without a word."""
        self.connection = None
        self.news.set()


class MemorySource:
    def __init__(self, broker: MemoryBroker, in_flight: int = 100) -> None:
        self._broker = broker
        self._in_flight = in_flight
        self._connection: object = None
        self._sent: set[int] = set()
        self._open: set[int] = set()

    async def connect(self) -> None:
        if self._broker.away:
            raise _away()
        self._connection = self._broker.connection = object()
        self._sent, self._open = set(), set()

    async def receive(self) -> list[Message]:
        broker = self._broker
        while True:
            if self._connection is None or broker.connection is not self._connection:
                raise _away()
            found = [number for number in sorted(broker.kept) if number not in self._sent]
            found = found[: self._in_flight - len(self._open)]
            if found:
                break
            broker.news.clear()
            await broker.news.wait()
        messages = [Message(broker.kept[n], n in broker.delivered, (self._connection, n)) for n in found]
        self._sent.update(found)
        self._open.update(found)
        broker.delivered.update(found)
        return messages

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        for message in messages:
            connection, number = message.handle
            if connection is self._connection is self._broker.connection:
                self._broker.kept.pop(number, None)
                self._open.discard(number)
        self._broker.news.set()

    async def lag(self) -> int | None:
        return len(set(self._broker.kept) - self._sent)

    async def close(self) -> None:
        if self._connection is self._broker.connection:
            self._broker.connection = None
        self._connection = None


def _away() -> Unavailable:
    return Unavailable("The broker is away.", code="BROKER_AWAY", where="memory", next_action="It is tried again.")
