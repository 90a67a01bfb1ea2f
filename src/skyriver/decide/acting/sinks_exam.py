"""The exam of `Sink`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from skyriver.core.exam import must
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Sink, Taken

TIMEOUT_S = 5.0
"""That the harness gives its sinks."""
PATIENCE_S = 30.0


class SinkHarness(Protocol):
    """One receiver, and hands that do to it what happens to receivers."""

    def sink(self) -> Sink:
        """To the receiver, with a time limit of TIMEOUT_S, as another process would open it."""
        ...

    async def received(self) -> Sequence[tuple[str, bytes]]:
        """(id, body) of all that it has acted on, in order; an id that came twice is there once."""
        ...

    async def stop(self) -> None:
        """It is away, and keeps what it has."""
        ...

    async def start(self) -> None: ...

    async def hang(self) -> None:
        """It is there and says nothing, until `start`."""
        ...


Make = Callable[[], SinkHarness]
Check = Callable[[Make], None]


def check_sink(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a new receiver each time."""
    for check in SINK_CHECKS:
        check(make)


def _delivery(number: int) -> Delivery:
    return Delivery(f"t/s:{number}", "s", "block", b'{"id":"t/s:%d"}' % number)


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 4 * PATIENCE_S))


async def _taken(sink: Sink, delivery: Delivery) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := await sink.deliver(delivery)) != Taken():
        must(isinstance(answer, Failed), f"a receiver that comes back takes deliveries again, not {answer}")
        must(time.monotonic() < deadline, f"a receiver that is back takes deliveries, it says {answer}")
        await asyncio.sleep(0.1)


def check_delivery(make: Make) -> None:
    async def go() -> None:
        harness = make()
        await harness.start()
        sink = harness.sink()
        for number in (1, 2, 1):
            must(await sink.deliver(_delivery(number)) == Taken(), "what the receiver has is Taken")
        await sink.close()
        wanted = [(d.id, d.body) for d in (_delivery(1), _delivery(2))]
        must(list(await harness.received()) == wanted, "it has what was sent, and knows by its id what comes again")
        other = harness.sink()
        must(await other.deliver(_delivery(2)) == Taken(), "what comes again from another process is Taken")
        await other.close()
        must(list(await harness.received()) == wanted, "and known by its id")
        await harness.stop()

    _run(go())


def check_at_once(make: Make) -> None:
    async def go() -> None:
        harness = make()
        await harness.start()
        sink = harness.sink()
        answers: list[Answer] = await asyncio.gather(*(sink.deliver(_delivery(n)) for n in range(50)))
        must(answers == [Taken()] * 50, "many may be under way at once")
        await sink.close()
        must(len(await harness.received()) == 50, "and all arrive")
        await harness.stop()

    _run(go())


def check_away(make: Make) -> None:
    async def go() -> None:
        harness = make()
        await harness.start()
        sink = harness.sink()
        must(await sink.deliver(_delivery(1)) == Taken(), "what the receiver has is Taken")
        for disturb in (harness.stop, harness.hang):
            await disturb()
            begun = time.monotonic()
            answer = await sink.deliver(_delivery(2))
            must(isinstance(answer, Failed), f"what nobody took is Failed, not {answer}")
            must(time.monotonic() - begun < 3 * TIMEOUT_S, "and told within the time limit")
            await harness.start()
            await _taken(sink, _delivery(2))
        await sink.close()
        must([id_ for id_, _ in await harness.received()] == ["t/s:1", "t/s:2"], "nothing is lost, nothing twice")
        await harness.stop()

    _run(go())


SINK_CHECKS: tuple[Check, ...] = (check_delivery, check_at_once, check_away)
