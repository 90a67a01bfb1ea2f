"""The exam of `Source`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from skyriver.core.errors import SkyriverError, Unavailable
from skyriver.core.exam import must
from skyriver.decide.worker.sources import Message, Source

PATIENCE_S = 30.0
QUIET_S = 1.0
"""What has not come after so long does not come."""


class SourceHarness(Protocol):
    """One broker with one durable subscription, and hands that do to it what happens to brokers."""

    async def publish(self, payloads: Sequence[bytes]) -> None:
        """In this order; returns when the broker has acknowledged all of them."""
        ...

    def source(self, in_flight: int = 100) -> Source:
        """Of the subscription, as another process would open it. The first `connect` makes it."""
        ...

    async def cut(self, source: Source) -> None:
        """The source's connection is lost, without a word of either side."""
        ...

    async def stop(self) -> None:
        """The broker ends in good order, and keeps what it has."""
        ...

    async def start(self) -> None: ...


Make = Callable[[], SourceHarness]
Check = Callable[[Make], None]


def check_source(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a new subscription each time."""
    for check in SOURCE_CHECKS:
        check(make)


def _numbers(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


async def _receive(source: Source, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += await source.receive()
    return found


async def _receive_up_to(source: Source, last: bytes) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while not found or found[-1].payload != last:
            found += await source.receive()
    return found


async def _nothing_comes(source: Source) -> bool:
    try:
        async with asyncio.timeout(QUIET_S):
            await source.receive()
    except TimeoutError:
        return True
    return False


async def _error_of(call: Coroutine[Any, Any, object], law: str) -> SkyriverError:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await call
    except SkyriverError as error:
        return error
    raise AssertionError(f"broken law: {law}")


async def _fresh(make: Make, in_flight: int = 100) -> tuple[SourceHarness, Source]:
    harness = make()
    source = harness.source(in_flight)
    await source.connect()
    return harness, source


def messages_come_once_and_in_order(make: Make) -> None:
    async def check() -> None:
        harness, source = await _fresh(make)
        await harness.publish([*_numbers(0, 50), b"", b"\0\xff" * 500])
        found = await _receive(source, 52)
        must([m.payload for m in found] == [*_numbers(0, 50), b"", b"\0\xff" * 500], "as they were sent")
        must(not any(m.redelivered for m in found), "none was delivered before")
        must(await _nothing_comes(source), "nothing comes twice on a connection")
        await source.acknowledge(found)
        await harness.publish(_numbers(50, 5))
        must([m.payload for m in await _receive(source, 5)] == _numbers(50, 5), "and the next ones after them")
        await source.close()

    asyncio.run(check())


def what_was_not_acknowledged_comes_again_and_first(make: Make) -> None:
    async def check(orderly: bool) -> None:
        harness, source = await _fresh(make)
        await harness.publish(_numbers(0, 20))
        found = await _receive(source, 20)
        await source.acknowledge([*found[:5], *found[7:10]])
        if orderly:
            await source.close()
        else:
            await harness.cut(source)
            error = await _error_of(source.receive(), "a lost connection is told")
            must(isinstance(error, Unavailable) and bool(error.next_action), "with what to do")
            await source.acknowledge(found)
        await harness.publish(_numbers(20, 10))
        again = harness.source()
        await again.connect()
        left = [b"%d" % n for n in (5, 6, *range(10, 20), *range(20, 30))]
        got = await _receive_up_to(again, left[-1])
        came = [m.payload for m in got]
        must([p for p in came if p in left] == left, "what was left first, then the newer")
        must(came == left or not orderly, "nothing that was acknowledged; after a cut it may come")
        must(all(m.redelivered for m in got[:12]), "what was delivered before says so")
        must(not any(m.redelivered for m in got[-5:]), "what was not does not")
        await again.acknowledge(got)
        await again.close()
        await source.connect()
        must(await _nothing_comes(source), "what was acknowledged does not come again")
        await source.close()

    asyncio.run(check(True))
    asyncio.run(check(False))


def no_more_is_delivered_than_is_declared(make: Make) -> None:
    async def check() -> None:
        harness, source = await _fresh(make, in_flight=10)
        await harness.publish(_numbers(0, 35))
        got: list[bytes] = []
        for round_ in range(4):
            found = await _receive(source, 10 if round_ < 3 else 5)
            must(len(found) <= 10 and await _nothing_comes(source), "the broker waits with the others")
            got += [m.payload for m in found]
            await source.acknowledge(found)
        must(got == _numbers(0, 35), "all come in the end, in order")
        await source.close()

    asyncio.run(check())


def what_comes_meanwhile_is_kept(make: Make) -> None:
    async def check() -> None:
        harness, source = await _fresh(make)
        await source.close()
        await source.close()
        await harness.publish(_numbers(0, 40))
        await harness.stop()
        error = await _error_of(source.connect(), "a broker that is away is told")
        must(isinstance(error, Unavailable) and error.code == "BROKER_AWAY", "as BROKER_AWAY")
        must(bool(error.next_action and error.where), "with place and what to do")
        await harness.start()
        await source.connect()
        must([m.payload for m in await _receive(source, 40)] == _numbers(0, 40), "what it has kept comes")
        waiting = asyncio.create_task(_error_of(source.receive(), "that it goes is told to who waits"))
        await harness.stop()
        must(isinstance(await waiting, Unavailable), "as Unavailable")
        await source.close()
        await harness.start()
        await source.connect()
        found = await _receive(source, 40)
        must([m.payload for m in found] == _numbers(0, 40), "and what was not acknowledged comes again")
        await source.acknowledge(found)
        await source.close()

    asyncio.run(check())


def what_waits_is_counted(make: Make) -> None:
    async def check() -> None:
        harness, source = await _fresh(make, in_flight=10)
        await harness.publish(_numbers(0, 30))
        found = await _receive(source, 10)
        lag = await source.lag()
        must(lag in (None, 20), f"20 have not been delivered, not {lag}")
        await source.acknowledge(found)
        await source.acknowledge(await _receive(source, 10))
        await source.acknowledge(await _receive(source, 10))
        must(await source.lag() in (None, 0), "then none")
        await source.close()

    asyncio.run(check())


SOURCE_CHECKS: tuple[Check, ...] = (
    messages_come_once_and_in_order,
    what_was_not_acknowledged_comes_again_and_first,
    no_more_is_delivered_than_is_declared,
    what_comes_meanwhile_is_kept,
    what_waits_is_counted,
)
