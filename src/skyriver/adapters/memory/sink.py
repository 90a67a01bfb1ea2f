"""`skyriver.decide.acting.sinks.Sink` in memory: a receiver that knows ids, and may be away or hang."""

from __future__ import annotations

import asyncio

from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Taken


class MemoryReceiver:
    def __init__(self) -> None:
        self.acted: dict[str, bytes] = {}
        self.away = False
        self.hangs = False


class MemorySink:
    def __init__(self, receiver: MemoryReceiver, timeout_s: float) -> None:
        self._receiver = receiver
        self._timeout_s = timeout_s

    async def deliver(self, delivery: Delivery) -> Answer:
        await asyncio.sleep(self._timeout_s if self._receiver.hangs else 0)
        if self._receiver.away or self._receiver.hangs:
            return Failed("it is away")
        self._receiver.acted.setdefault(delivery.id, delivery.body)
        return Taken()

    async def close(self) -> None:
        """It holds nothing."""
