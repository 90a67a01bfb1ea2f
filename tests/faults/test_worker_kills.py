"""A worker that is killed, stopped or replaced: what was acknowledged is there, and nothing is decided twice."""

from __future__ import annotations

import http.client
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.segments.log import SegmentReader
from skyriver.decide.blocks import decisions_of, events_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

KILLS = 2
SENDERS = 3


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "kernels"


@pytest.fixture
def worker(tmp_path: Path, kernels: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    found = harness.Worker(tmp_path / "w", kernels, harness.declare(getattr(request, "param", "process")))
    yield found
    found.close()


class Sender(threading.Thread):
    """Sends events in small batches, and each batch again until it is answered; keeps the answers."""

    def __init__(self, worker: Any, number: int) -> None:
        super().__init__(daemon=True)
        self.worker = worker
        self.number = number
        self.stopping = threading.Event()
        self.answers: dict[int, dict[str, Any]] = {}
        self.repeated = 0

    def run(self) -> None:
        luck = random.Random(self.number)
        following = self.number * 1_000_000
        while not self.stopping.is_set():
            batch = [
                payment(following + n, customer=luck.randrange(20), amount=float(luck.randrange(200)))
                for n in range(luck.randrange(1, 40))
            ]
            following += len(batch)
            for decision in self.deliver(batch):
                self.answers[decision["id"]] = decision

    def deliver(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + harness.DEADLINE
        while time.monotonic() < deadline:
            try:
                with self.worker.connection() as http_:
                    while True:
                        status, answer = http_.send_events(batch)
                        if status == 200:
                            self.repeated += answer["duplicates"]
                            found: list[dict[str, Any]] = answer["decisions"]
                            return found
                        assert status in (429, 503), answer
                        time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
        raise AssertionError("not delivered")


@pytest.mark.parametrize("worker", ["disk"], indirect=True)
def test_kill_9_in_mid_stream(worker: Any) -> None:
    worker.start()
    senders = [Sender(worker, number) for number in range(1, SENDERS + 1)]
    for sender in senders:
        sender.start()
    luck = random.Random(7)
    for _ in range(KILLS):
        before = worker.report().get("events", 0)
        worker.wait_for(lambda report, before=before: report["events"] >= before + 200)
        time.sleep(luck.random() * 0.05)  # not a wait for anything: the moment is the case
        worker.kill()
        worker.start()
    for sender in senders:
        sender.stopping.set()
    for sender in senders:
        sender.join(harness.DEADLINE)
        assert not sender.is_alive()
    assert worker.stop() == 0
    answers = {key: decision for sender in senders for key, decision in sender.answers.items()}
    check(worker, answers)


def check(worker: Any, answers: dict[int, dict[str, Any]]) -> None:
    """Each answered event is in the log once, decided once, as it was answered; all features equal the backfill."""
    records = list(SegmentReader(worker.log_directory).read())
    events = Counter(values[0] for r in records for _, values in events_of(r))
    assert set(events) == set(answers)
    assert set(events.values()) == {1}
    decisions = [decision for r in records for decision in decisions_of(r)]
    assert Counter(d.id for d in decisions) == events
    for decision in decisions:
        answer = answers[decision.id]
        assert (answer["event_offset"], answer["decision"]) == (decision.event_offset, decision.decision)
        assert answer["score"] == decision.score
    report = worker.verify(SegmentReader(worker.log_directory))
    assert report.first_differences == ()
    assert report.compared == report.equal == len(decisions)


def test_a_stopped_worker_is_taken_over(worker: Any) -> None:
    stopped = worker.start()
    with worker.connection() as connection:
        _, answer = connection.send_events([payment(n) for n in range(10)])
    os.kill(stopped.pid, signal.SIGSTOP)
    worker.start()
    assert stopped.wait(harness.DEADLINE) == -signal.SIGKILL
    assert worker.report()["epoch"] == 2
    with worker.connection() as connection:
        _, again = connection.send_events([payment(n) for n in range(12)])
        assert (again["accepted"], again["duplicates"]) == (2, 10)
        assert again["decisions"][:10] == answer["decisions"]
    assert worker.stop() == 0
    check(worker, {d["id"]: d for d in again["decisions"]})


def test_changed_features_are_not_scored_by_a_model_of_others(worker: Any) -> None:
    """As many inputs as there are features do not make it theirs."""
    worker.start()
    trained_on = worker.report()["features_digest"]
    worker.kill()
    worker.app = harness.declare(more=True)
    worker.release(1, digest=trained_on)
    worker.start()
    assert "Version 1 of fraud is not used: it was trained on other features" in worker.report()["message"]
    with worker.connection() as connection:
        refused = connection.send_events(payment(1, amount=95.0))[1]["decisions"][0]
        worker.release(2, digest=worker.report()["features_digest"])
        worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 2} and not report["message"])
        decided = connection.send_events(payment(2, amount=95.0))[1]["decisions"][0]
    fallback = worker.app.decides[0].fallback
    assert (refused["status"], refused["reason"], refused["decision"]) == ("fallback", "NO_VERSION", fallback)
    assert (decided["status"], decided["decision"]) == ("decided", "block")


def test_changed_features_take_over_with_all_of_history(worker: Any) -> None:
    worker.start()
    with worker.connection() as connection:
        _, before = connection.send_events([payment(n, customer=n % 3, amount=n) for n in range(60)])
    worker.kill()
    worker.app = harness.declare(more=True)
    worker.release(2)
    worker.start()
    with worker.connection() as connection:
        _, after = connection.send_events([payment(100), payment(5)])
    decided, duplicate = after["decisions"]
    assert decided["features"]["count_1h"] == 21.0
    assert decided["version"] == 2
    assert duplicate["features"] is None
    assert duplicate["score"] == before["decisions"][5]["score"]
    assert worker.stop() == 0
    report = worker.verify(SegmentReader(worker.log_directory))
    assert (report.decisions, report.compared, report.equal) == (61, 1, 1)
    assert len(list((worker.directory / "stream" / "side").iterdir())) <= 2
