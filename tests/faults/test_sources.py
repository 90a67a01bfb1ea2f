"""A stream's broker, its worker, or both die while a sender sends: what the broker acknowledged is decided once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import paho.mqtt.client as paho
import pytest
from broker_servers import Broker, Mosquitto, NatsServer
from nats.errors import Error as NatsError
from paho.mqtt.enums import CallbackAPIVersion
from worker_process import DEADLINE, Worker, declare, payment

import skyriver as sr
from skyriver.adapters.segments.log import SegmentReader
from skyriver.data.log import RecordKind
from skyriver.decide.log.blocks import decisions_of

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))


class Sending:
    """Sends one event after the other until it is stopped, and again what was not acknowledged, as a sender must.
    `acknowledged` are the ids that the broker has said it has."""

    def __init__(self, port: int) -> None:
        self.acknowledged: list[int] = []
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._number = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.acknowledged) + more, time.monotonic() + DEADLINE
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, f"only {len(self.acknowledged)} of {wanted} are acknowledged"
            time.sleep(0.005)

    def _run(self) -> None:
        raise NotImplementedError


class NatsSending(Sending):
    def _run(self) -> None:
        asyncio.run(self._send())

    async def _send(self) -> None:
        async def ignore(_: Exception) -> None: ...

        client: Any = None
        while not self._end.is_set():
            body = json.dumps(payment(self._number)).encode()
            try:
                if client is None or not client.is_connected:
                    client = await nats.connect(
                        f"nats://127.0.0.1:{self._port}", allow_reconnect=False, max_reconnect_attempts=1,
                        reconnect_time_wait=0, connect_timeout=1, error_cb=ignore,
                    )  # fmt: skip
                await client.jetstream().publish("payments.new", body, timeout=1)
            except (NatsError, OSError, TimeoutError):
                await asyncio.sleep(0.02)
                continue
            self.acknowledged.append(self._number)
            self._number += 1
        if client is not None:
            await client.close()


class MqttSending(Sending):
    def _run(self) -> None:
        while not self._end.is_set():
            client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311, reconnect_on_failure=False)
            try:
                client.connect("127.0.0.1", self._port)
            except OSError:
                time.sleep(0.02)
                continue
            client.loop_start()
            try:
                self._send(client)
            except (RuntimeError, ValueError):
                pass
            finally:
                client.disconnect()
                client.loop_stop()

    def _send(self, client: paho.Client) -> None:
        while not self._end.is_set():
            told = client.publish("payments/new", json.dumps(payment(self._number)), qos=1)
            told.wait_for_publish(1)
            if not told.is_published():
                return
            self.acknowledged.append(self._number)
            self._number += 1


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    server = NatsServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    server = Mosquitto()
    server.start()
    yield server
    server.close()


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[Any]:
    made: list[Worker] = []

    def make(source: sr.Mqtt | sr.Nats, durability: str = "process") -> Worker:
        made.append(Worker(tmp_path / "w", kernels, declare(durability, source=source)))
        return made[0]

    yield make
    for one in made:
        one.close()


async def make_nats_stream(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    await client.jetstream(timeout=60).add_stream(name="payments", subjects=["payments.>"])
    await client.close()


def connected(worker: Worker, connections: int = 0) -> None:
    """Returns once the worker that was started last takes messages, on more than so many connections so far."""

    def held(report: dict[str, Any]) -> bool:
        source = report.get("source") or {}
        own = report.get("token") == f"token-{len(worker.processes) - 1}"
        return own and source.get("state") == "READY" and source["connections"] > connections

    worker.wait_for(held)


def decisions(worker: Worker) -> Counter[int]:
    """How many there are, by the event's id."""
    records = SegmentReader(worker.log_directory).read()
    return Counter(int(decision.id) for record in records for decision in decisions_of(record))


def examine(worker: Worker, acknowledged: list[int]) -> None:
    """All that was acknowledged to the sender is in the log, once, and has one decision."""
    deadline = time.monotonic() + DEADLINE
    while missing := set(acknowledged) - set(decisions(worker)):
        assert time.monotonic() < deadline, f"acknowledged and lost: {sorted(missing)}; {worker.report()}"
        time.sleep(0.1)
    assert worker.stop() == 0
    decided = decisions(worker)
    assert {number: count for number, count in decided.items() if count > 1} == {}, "decided twice"
    records = SegmentReader(worker.log_directory).read()
    events = sum(r.count for r in records if r.kind in (RecordKind.EVENT, RecordKind.EVENTS))
    assert events == len(decided), "events without a decision, or taken twice"


def disturb(worker: Worker, broker: Broker, what: str, chance: random.Random) -> None:
    source = worker.report()["source"]
    before = source["connections"] if what == "broker" else 0
    if what in ("broker", "both"):
        broker.kill()
    if what in ("worker", "both"):
        worker.kill()
    starts = [broker.start] * (what != "worker") + [lambda: worker.start(wait=False)] * (what != "broker")
    chance.shuffle(starts)
    for start in starts:
        start()
    connected(worker, before)


def run_rounds(worker: Worker, broker: Broker, sender: Sending, kinds: list[str]) -> None:
    chance = random.Random(5)
    worker.start(wait=False)
    connected(worker)
    sender.start()
    for number in range(max(ROUNDS, len(kinds))):
        sender.wait_for(chance.randrange(50, 200))
        disturb(worker, broker, kinds[number % len(kinds)], chance)
    sender.wait_for(100)
    sender.stop()


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_kills_of_nats_and_worker(worker: Any, nats_server: NatsServer, durability: str) -> None:
    asyncio.run(make_nats_stream(nats_server))
    made = worker(sr.Nats(nats_server.url, subject="payments.>", durable="risk"), durability)
    sender = NatsSending(nats_server.port)
    run_rounds(made, nats_server, sender, ["worker", "broker", "both"])
    made.wait_for(lambda report: report["source"]["lag"] == 0)
    examine(made, sender.acknowledged)


def test_kills_of_an_mqtt_broker_and_worker(worker: Any, nats_server: NatsServer) -> None:
    """NATS also speaks MQTT 3.1.1, and is a broker that writes to disk before it acknowledges. (It is not in the exam:
    what it delivered to a dead connection comes again when its ack_wait is over, behind newer messages.)"""
    made = worker(sr.Mqtt(nats_server.mqtt_url, topic="payments/+", durable="risk", version="3.1.1"))
    sender = MqttSending(nats_server.mqtt_port)
    run_rounds(made, nats_server, sender, ["worker", "broker", "both"])
    examine(made, sender.acknowledged)


def test_ends_of_mosquitto_and_kills_of_the_worker(worker: Any, mosquitto: Mosquitto) -> None:
    """Mosquitto acknowledges before it writes to disk: killed, it forgets what nobody has yet. So it ends in order."""
    made = worker(sr.Mqtt(mosquitto.url, topic="payments/+", durable="risk"))
    sender = MqttSending(mosquitto.port)
    mosquitto.kill = mosquitto.stop  # type: ignore[method-assign]
    run_rounds(made, mosquitto, sender, ["worker", "broker", "both"])
    examine(made, sender.acknowledged)
