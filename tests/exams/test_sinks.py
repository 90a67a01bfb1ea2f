"""The exam of the sink, on each implementation and on real receivers."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nats
import pytest
from broker_servers import NatsServer, wait_for
from free_ports import free_port
from nats.js.api import StreamConfig
from receiver import SECRET, Receiver

from skyriver.adapters.memory.sink import MemoryReceiver, MemorySink
from skyriver.adapters.nats.sink import NatsSink
from skyriver.adapters.webhook.sink import WebhookSink
from skyriver.decide.acting.sinks import Answer, Delivery, Place, Sink, Taken
from skyriver.decide.acting.sinks_exam import SINK_CHECKS, TIMEOUT_S, Check, SinkHarness, check_sink


class MemoryHarness:
    def __init__(self) -> None:
        self.receiver = MemoryReceiver()

    def sink(self) -> Sink:
        return MemorySink(self.receiver, TIMEOUT_S)

    async def received(self) -> Sequence[tuple[str, bytes]]:
        return list(self.receiver.acted.items())

    async def stop(self) -> None:
        self.receiver.away = True

    async def start(self) -> None:
        self.receiver.away = self.receiver.hangs = False

    async def hang(self) -> None:
        self.receiver.hangs = True


class WebhookHarness:
    def __init__(self) -> None:
        self.receiver: Receiver | None = None
        self.before: list[tuple[str, bytes]] = []
        self.port = free_port()  # the same after each stop: one of the system's own would be somebody's connection then

    def sink(self) -> Sink:
        place = Place(f"http://127.0.0.1:{self.port}/", timeout_s=TIMEOUT_S, secrets=(SECRET,))
        return WebhookSink(place, lambda: 0)

    async def received(self) -> Sequence[tuple[str, bytes]]:
        now = self.receiver.acted if self.receiver is not None else []
        bodies = [(body["id"], json.dumps(body, separators=(",", ":")).encode()) for body in now]
        return [*self.before, *bodies]

    async def stop(self) -> None:
        self.before = list(await self.received())
        if self.receiver is not None:
            self.receiver.close()
        self.receiver = None

    async def start(self) -> None:
        if self.receiver is None:
            self.receiver = Receiver(port=self.port)
        self.receiver.behave = lambda _: "take"

    async def hang(self) -> None:
        assert self.receiver is not None
        self.receiver.hang_s, self.receiver.behave = 2 * TIMEOUT_S, lambda _: "hang"


NUMBERS = itertools.count()


class NatsHarness:
    def __init__(self, server: NatsServer) -> None:
        self.server, self.name = server, f"exam{next(NUMBERS)}"
        self.made = False

    def sink(self) -> Sink:
        subject = f"{self.name}.{{stream}}.{{decision}}"
        return NatsSink(Place(self.server.url, timeout_s=TIMEOUT_S, subject=subject), "exam")

    async def received(self) -> Sequence[tuple[str, bytes]]:
        client = await nats.connect(self.server.url)
        context = client.jetstream(timeout=60)
        info = await context.stream_info(self.name)
        found = [await context.get_msg(self.name, number) for number in range(1, info.state.last_seq + 1)]
        await client.close()
        assert {message.subject for message in found} == {f"{self.name}.s.block"}
        return [((message.headers or {})["Nats-Msg-Id"], message.data or b"") for message in found]

    async def stop(self) -> None:
        self.server.stop()

    async def start(self) -> None:
        process = self.server.process
        if process is not None and process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
        else:
            self.server.start()
        if not self.made:
            client = await nats.connect(self.server.url)
            config = StreamConfig(name=self.name, subjects=[f"{self.name}.>"], duplicate_window=120)
            await client.jetstream(timeout=60).add_stream(config)
            await client.close()
            self.made = True

    async def hang(self) -> None:
        assert self.server.process is not None
        os.kill(self.server.process.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.server.process.pid}/task")
        await wait_for(lambda: all(_state(task) == "T" for task in tasks.iterdir()))


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    found = NatsServer(mqtt=False)
    yield found
    found.close()


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["memory", "webhook", "nats"])
def test_the_law(kind: str, check: Check, request: pytest.FixtureRequest) -> None:
    kinds: dict[str, Callable[[], SinkHarness]] = {
        "memory": MemoryHarness,
        "webhook": WebhookHarness,
        "nats": lambda: NatsHarness(request.getfixturevalue("server")),
    }
    check(kinds[kind])


def test_the_exam_finds_a_sink_that_says_too_much() -> None:
    class Lying(MemorySink):
        async def deliver(self, delivery: Delivery) -> Answer:
            await super().deliver(delivery)
            return Taken()

    class Harness(MemoryHarness):
        def sink(self) -> Sink:
            return Lying(self.receiver, TIMEOUT_S)

    with pytest.raises(AssertionError, match="broken law"):
        check_sink(Harness)
