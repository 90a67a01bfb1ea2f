"""Producers and a worker that cannot keep up, or dies: whatever was acknowledged is there, once."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyriver.client.api import Client
from skyriver.client.producing import Producing
from skyriver.decide.log.blocks import decisions_of, events_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

PRODUCERS, EACH = 6, 1_500


class Watched(httpx.HTTPTransport):
    """To the worker's socket; counts what was answered."""

    def __init__(self, socket: Path) -> None:
        super().__init__(uds=str(socket))
        self.statuses: Counter[int] = Counter()
        self.retry_after: set[str] = set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.statuses[response.status_code] += 1
        if response.status_code in (429, 503):
            self.retry_after.add(response.headers.get("retry-after", ""))
        return response


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[Any]:
    found = harness.Worker(tmp_path, kernels, harness.declare(), queue=250)
    found.start()
    yield found
    found.close()


def produce(worker: Any, number: int, transport: Watched, told: list[Any]) -> None:
    settings = Producing(batch=100, linger=0.001, retry_seconds=harness.DEADLINE)
    with (
        Client("http://worker", "x", transport=transport) as client,
        client.producer("payments", settings, told=told.append) as producer,
    ):
        for place in range(EACH):
            producer.send(payment(number * EACH + place, customer=place % 50))


# httpcore leaves a Unix socket to the garbage collector when nobody listens on it.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_queue_is_told_and_all_is_delivered_once_over_a_kill(worker: Any) -> None:
    transports = [Watched(worker.directory / "s") for _ in range(PRODUCERS)]
    told: list[list[Any]] = [[] for _ in range(PRODUCERS)]
    threads = [
        threading.Thread(target=produce, args=(worker, number, transports[number], told[number]))
        for number in range(PRODUCERS)
    ]
    for thread in threads:
        thread.start()
    worker.wait_for(lambda report: report.get("events", 0) > EACH)
    worker.kill()
    worker.start()
    for thread in threads:
        thread.join(2 * harness.DEADLINE)
        assert not thread.is_alive()
    assert worker.stop() == 0

    assert [t.event["payment"] for part in told for t in part] == list(range(PRODUCERS * EACH))
    assert all(t.error is None for part in told for t in part)
    statuses = sum((t.statuses for t in transports), Counter())
    assert statuses[429] > 0
    assert set().union(*(t.retry_after for t in transports)) == {"1"}
    records = list(harness.reader(worker).read())
    events = Counter(values[0] for record in records for _, values in events_of(record))
    assert events == Counter(range(PRODUCERS * EACH))
    assert Counter(d.id for record in records for d in decisions_of(record)) == events
    report = worker.verify(harness.reader(worker))
    assert (report.undecided, report.decided_twice, report.different) == (0, 0, 0)
