"""A stream whose log is in NATS: the worker, the server, or both die while events are sent over HTTP. What was answered
is decided exactly once, and a start after it replays to the same bits."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_servers import NatsServer
from worker_process import DEADLINE, Worker, declare, payment

import skyriver as sr
from skyriver.adapters.nats.log import nats_reader
from skyriver.data.log import RecordKind
from skyriver.decide.log.blocks import decisions_of
from skyriver.decide.worker.sources import Access
from skyriver.trust.secretfile import write_secret

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))
NAME = "risk-payments"


@pytest.fixture
def server() -> Iterator[NatsServer]:
    server = NatsServer(mqtt=False)
    server.start()
    yield server
    server.close()


@pytest.fixture
def worker(tmp_path: Path, kernels: Path, server: NatsServer) -> Iterator[Worker]:
    app = declare("disk", log=sr.NatsLog(server.url, name=NAME, credentials="bus"))
    made = Worker(tmp_path / "w", kernels, app)
    text = f'hosts = ["127.0.0.1:{server.port}"]\nmonitor = "http://127.0.0.1:{server.monitor}"\n'
    write_secret(made.directory / "brokers" / "t" / "bus.toml", text.encode())
    yield made
    made.close()


class Producer:
    """Sends requests of some events one after the other, each until it is answered."""

    def __init__(self, worker: Worker) -> None:
        self.answered: list[int] = []
        self._worker = worker
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.answered) + more, time.monotonic() + DEADLINE
        while len(self.answered) < wanted:
            assert time.monotonic() < deadline, f"{len(self.answered)} of {wanted}: {self._worker.report()}"
            time.sleep(0.005)

    def _run(self) -> None:
        chance, number = random.Random(3), 0
        while not self._end.is_set():
            size = chance.choice((1, 1, 5, 50))
            events = [payment(n, customer=n % 7, amount=n % 90) for n in range(number, number + size)]
            while not self._end.is_set() and not self._send(events):
                time.sleep(0.02)
            if not self._end.is_set():
                self.answered += range(number, number + size)
            number += size

    def _send(self, events: list[dict[str, Any]]) -> bool:
        try:
            with self._worker.connection() as connection:
                status, answer = connection.send_events(events)
        except (OSError, http.client.HTTPException):
            return False
        assert status in (200, 429, 503), answer
        return status == 200


def ready(worker: Worker) -> None:
    token = f"token-{len(worker.processes) - 1}"
    worker.wait_for(lambda report: report.get("token") == token and report.get("ready"))


def examine(worker: Worker, server: NatsServer, answered: list[int]) -> None:
    reader = nats_reader(server.url, NAME, Access)
    try:
        decided: Counter[int] = Counter()
        events = 0
        for record in reader.read():
            decided.update(int(decision.id) for decision in decisions_of(record))
            events += record.count if record.kind in (RecordKind.EVENT, RecordKind.EVENTS) else 0
        assert {number: count for number, count in decided.items() if count > 1} == {}, "decided twice"
        assert sorted(set(answered) - set(decided)) == [], "answered and lost"
        assert events == len(decided), "taken twice, or not decided"
        report = worker.verify(reader)
        assert (report.compared, report.different) == (events, 0), report
    finally:
        reader.close()


def test_kills_of_the_worker_and_of_the_server(worker: Worker, server: NatsServer) -> None:
    chance = random.Random(7)
    producer = Producer(worker)
    worker.start()
    producer.start()
    for number in range(max(3, ROUNDS)):
        producer.wait_for(chance.randrange(100, 400))
        what = ("worker", "server", "both")[number % 3]
        if what != "worker":
            server.kill()
        if what != "server":
            worker.kill()
        if what != "worker":
            server.start()
        if what != "server":
            worker.start(wait=False)
        producer.wait_for(1)
        ready(worker)
    producer.wait_for(200)
    producer.stop()
    assert worker.stop() == 0
    examine(worker, server, producer.answered)


def test_a_log_that_is_gone_is_told_and_not_made_anew(worker: Worker, server: NatsServer) -> None:
    worker.start()
    with worker.connection() as connection:
        assert connection.send_events([payment(1)])[0] == 200
    assert worker.stop() == 0
    server.stop()
    for path in (server.folder / "store").rglob("*.blk"):
        path.unlink()
    for path in (server.folder / "store").rglob("meta.*"):
        path.unlink()
    server.start()
    worker.start(wait=False)
    assert worker.processes[-1].wait(DEADLINE) != 0
    assert worker.report()["reason"] == "LOG_GONE"


def test_a_server_that_does_not_show_that_it_syncs_is_refused(worker: Worker, server: NatsServer) -> None:
    def refused() -> dict[str, Any]:
        worker.start(wait=False)
        assert worker.processes[-1].wait(DEADLINE) != 0
        return worker.report()

    path = worker.directory / "brokers" / "t" / "bus.toml"
    good = path.read_text()
    write_secret(path, good.replace("monitor", "#").encode())
    assert refused()["reason"] == "NO_PROOF"
    write_secret(path, good.encode())
    server.stop()
    config = server.folder / "server.conf"
    config.write_text(config.read_text().replace("sync_interval: always", 'sync_interval: "2m"'))
    server.start()
    report = refused()
    assert report["reason"] == "DOES_NOT_SYNC"
    assert "sync_interval: always" in report["next_action"]
