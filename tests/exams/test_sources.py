"""The exam of the source, on each implementation and on real brokers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import nats
import paho.mqtt.client as paho
import pytest
from broker_servers import Broker, Mosquitto, NatsServer
from paho.mqtt.enums import CallbackAPIVersion

from skyriver.adapters.memory.source import MemoryBroker, MemorySource
from skyriver.adapters.mqtt.source import MqttSource
from skyriver.adapters.nats import source as nats_source
from skyriver.adapters.nats.source import NatsSource
from skyriver.core.spec import MqttSpec, NatsSpec
from skyriver.decide.worker.sources import Access, Source
from skyriver.decide.worker.sources_exam import SOURCE_CHECKS, Make, SourceHarness, check_source


class MemoryHarness:
    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def source(self, in_flight: int = 100) -> Source:
        return MemorySource(self.broker, in_flight)

    async def publish(self, payloads: Sequence[bytes]) -> None:
        self.broker.publish(payloads)

    async def cut(self, _: Source) -> None:
        self.broker.cut()

    async def stop(self) -> None:
        self.broker.stop()

    async def start(self) -> None:
        self.broker.away = False


class NatsHarness:
    def __init__(self, server: NatsServer, number: int) -> None:
        self.server, self.subject = server, f"exam{number}.events"
        self.made = False

    def source(self, in_flight: int = 100) -> Source:
        return Prepared(self, NatsSpec(url=self.server.url, subject=self.subject, durable="exam", in_flight=in_flight))

    async def publish(self, payloads: Sequence[bytes]) -> None:
        client = await nats.connect(self.server.url)
        for payload in payloads:
            await client.jetstream(timeout=60).publish(self.subject, payload)
        await client.close()

    async def make_stream(self) -> None:
        if not self.made:
            client = await nats.connect(self.server.url)
            await client.jetstream(timeout=60).add_stream(name=self.subject.split(".")[0], subjects=[self.subject])
            await client.close()
            self.made = True

    async def cut(self, source: Any) -> None:
        source._connection.client._transport._io_writer.transport.abort()

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)


class Prepared(NatsSource):
    """Makes the stream, which is the operator's, before the first connection."""

    def __init__(self, harness: NatsHarness, spec: NatsSpec) -> None:
        super().__init__(spec, Access)
        self._harness = harness

    async def connect(self) -> None:
        if self._harness.server.process is not None and self._harness.server.process.poll() is None:
            await self._harness.make_stream()
        await super().connect()


class MqttHarness:
    def __init__(self, server: Broker, url: str, number: int, version: Any = "5") -> None:
        self.server, self.url, self.version = server, url, version
        self.topic, self.durable = f"exam{number}/events", f"exam{number}"

    def source(self, in_flight: int = 100) -> Source:
        spec = MqttSpec(url=self.url, topic=self.topic, durable=self.durable, in_flight=in_flight, version=self.version)
        return MqttSource(spec, Access)

    async def publish(self, payloads: Sequence[bytes]) -> None:
        await asyncio.to_thread(self._publish, payloads)

    def _publish(self, payloads: Sequence[bytes]) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        client.connect("127.0.0.1", int(self.url.rpartition(":")[2]))
        client.loop_start()
        for payload in payloads:
            client.publish(self.topic, payload, qos=1).wait_for_publish(30)
        client.disconnect()
        client.loop_stop()

    async def cut(self, source: Any) -> None:
        source._connection.client.socket().shutdown(socket.SHUT_RDWR)

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)


@pytest.fixture(scope="module")
def nats_server() -> Iterator[NatsServer]:
    server = NatsServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    server = Mosquitto()
    server.start()
    yield server
    server.close()


_numbers = iter(range(1_000))


@pytest.fixture(params=["memory", "nats", "mqtt", "mqtt-3.1.1"])
def make(request: pytest.FixtureRequest) -> Make:
    def build() -> SourceHarness:
        match request.param:
            case "memory":
                return MemoryHarness()
            case "nats":
                return NatsHarness(request.getfixturevalue("nats_server"), next(_numbers))
            case name:
                broker = request.getfixturevalue("mosquitto")
                return MqttHarness(broker, broker.url, next(_numbers), name.partition("-")[2] or "5")

    return build


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


def test_what_is_held_for_longer_than_the_servers_patience_comes_once(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_source, "ACK_WAIT_S", 0.5)

    async def check() -> None:
        harness = NatsHarness(nats_server, next(_numbers))
        source = harness.source()
        await source.connect()
        await harness.publish([b"1", b"2", b"3"])
        held: list[Any] = []
        while len(held) < 3:
            held += await source.receive()
        deadline, stream = time.monotonic() + 60, harness.subject.split(".")[0]
        while not (await source._connection.context.consumer_info(stream, "exam")).num_redelivered:  # type: ignore[union-attr]
            assert time.monotonic() < deadline, "the server does not send them again"
            await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await source.receive()
        await source.acknowledge(held)
        await source.close()
        await source.connect()
        await harness.publish([b"4"])
        assert [m.payload for m in await source.receive()] == [b"4"]
        await source.close()

    asyncio.run(check())


def test_the_exam_finds_a_source_that_breaks_a_law() -> None:
    class Forgetful(MemoryHarness):
        async def cut(self, source: Source) -> None:
            await super().cut(source)
            self.broker.kept.clear()

    with pytest.raises(AssertionError, match=r"broken law|TimeoutError"):
        check_source(Forgetful)
