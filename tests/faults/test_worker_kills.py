"""A worker that is killed, stopped or replaced: what was acknowledged is there, and nothing is decided twice."""

from __future__ import annotations

import http.client
import io
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

import polars as pl
import pytest

from skyriver.adapters.segments.log import SegmentReader
from skyriver.data.columns import decode_events
from skyriver.data.log import RecordKind
from skyriver.decide.log.blocks import decisions_of, events_of
from skyriver.decide.log.records import decode_control

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

KILLS = 2
SENDERS = 3


@pytest.fixture
def worker(tmp_path: Path, kernels: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    found = harness.Worker(tmp_path / "w", kernels, harness.declare(getattr(request, "param", "process")))
    yield found
    found.close()


class Sender(threading.Thread):
    """Sends events in small batches, and each batch again until it is answered; keeps the answers."""

    def __init__(self, worker: Any, number: int, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.pause = pause
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
            self.stopping.wait(self.pause)

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


def test_it_is_stopped_while_it_cannot_open(worker: Any) -> None:
    """A disk that takes nothing is tried again for ever; whoever stops the stream does not wait for that."""
    worker.start()
    assert worker.stop() == 0
    side = next((worker.directory / "stream" / "side").iterdir())
    elsewhere = side.rename(worker.directory / "elsewhere")
    side.symlink_to(elsewhere)  # else it would be made anew
    for path in (elsewhere / "rows", *(worker.directory / "stream" / "checkpoint").iterdir()):
        path.unlink()
    (elsewhere / "rows").mkdir()
    worker.start(wait=False)
    worker.wait_for(lambda report: "rows cannot be written" in report["message"])
    assert worker.stop() == 0


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


def test_budgets_and_counters_hold_over_kills(worker: Any) -> None:
    """What each event got is what its log says of all that were decided before it."""
    minute = 60_000_000
    by_customer = {"decision": "block", "most": 3, "per_us": 2 * minute, "overflow": "review", "by": "customer"}
    of_all = {"decision": "review", "most": 40, "per_us": minute, "overflow": "hold"}
    blocks = {"name": "blocks", "decision": "block", "over_us": minute, "by": "customer"}
    worker.write_live(
        worker.model(1),
        rules=[["call", "blocks >= 2 and amount < 50"], ["block", "score >= 0.9"], ["review", "score >= 0.5"]],
        budgets=[by_customer, of_all],
        counters=[blocks],
    )
    worker.start()
    senders = [Sender(worker, number, pause=0.02) for number in range(1, SENDERS + 1)]
    for sender in senders:
        sender.start()
    for _ in range(KILLS):
        before = worker.report().get("events", 0)
        worker.wait_for(lambda report, before=before: report["events"] >= before + 200)
        worker.kill()
        worker.start()
    worker.wait_for(
        lambda report: (
            report["by_reason"].get("BUDGET_SPENT", 0) >= 50 and {"call", "hold"} <= set(report["by_decision"])
        )
    )
    for sender in senders:
        sender.stopping.set()
    for sender in senders:
        sender.join(harness.DEADLINE)
        assert not sender.is_alive()
    assert worker.stop() == 0
    waiting: dict[int, tuple[int, Any]] = {}
    past: list[tuple[str, int, int]] = []

    def counted(decision: str, now: int, window: int, customer: int | None = None) -> int:
        return sum(d == decision and at > now - window and customer in (None, who) for d, at, who in past)

    for record in SegmentReader(worker.log_directory).read():
        for place, (_, values) in enumerate(events_of(record)):
            time_ = record.time
            if record.kind is RecordKind.EVENTS:
                time_ = int(decode_events(record.payload, record.count).effective[place])
            waiting[record.offset + place] = time_, values
        for decision in decisions_of(record):
            now, values = waiting.pop(decision.event_offset)
            customer, amount, expected = values[2], values[4], "approve"
            if decision.status != "late":
                if counted("block", now, minute, customer) >= 2 and amount < 50:
                    expected = "call"
                elif decision.score is not None and decision.score >= 0.5:
                    expected = "block" if decision.score >= 0.9 else "review"
            if expected == "block" and counted("block", now, 2 * minute, customer) >= 3:
                expected = "review"
            if expected == "review" and counted("review", now, minute) >= 40:
                expected = "hold"
            assert decision.decision == expected
            past.append((expected, now, customer))
    assert not waiting
    assert {decision for decision, *_ in past} == {"approve", "call", "block", "review", "hold"}


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


def history_block(first: int, rows: int) -> bytes:
    """Past payments, as a bulk load brings them."""
    start = time.time_ns() // 1000 - 40 * 86_400_000_000
    numbers = range(10_000_000 + first, 10_000_000 + first + rows)
    at = [start + (first + n) * 1_000_000 for n in range(rows)]
    schema = {"_kind": pl.UInt8, "_label": pl.UInt8, "_subject": pl.Int64, "_value": pl.Float64}
    frame = pl.DataFrame(
        {
            "_kind": [1] * rows,
            "_time": at,
            "payment": numbers,
            "at": at,
            "customer": [n % 50 for n in numbers],
            "channel": [f"c{n % 3}" for n in numbers],
            "amount": [float(n % 100) for n in numbers],
            "_label": [None] * rows,
            "_subject": [None] * rows,
            "_value": [None] * rows,
        },
        schema_overrides=schema,
    )
    out = io.BytesIO()
    frame.write_ipc_stream(out)
    return out.getvalue()


def load_history(worker: Any, blocks: int = 4, rows: int = 5_000) -> None:
    with worker.connection() as http_:
        for sequence in range(blocks):
            headers = {"x-load": "l", "x-sequence": str(sequence), "x-last": str(int(sequence == blocks - 1))}
            block = history_block(sequence * rows, rows)
            status, answer = http_.ask("POST", "/internal/history", block, headers)
            assert status == 200, answer


def change_features(worker: Any) -> tuple[Any, Any]:
    """Deploys another feature set; what was trained on the one before is still released."""
    before = worker.features
    worker.app = harness.declare(more=True)
    worker.release(1, trained_on=before)
    return before, worker.features


def ready(report: dict[str, Any]) -> bool:
    return bool(report["ready"] and report["features"] and report["features"]["state"] == "ready")


def test_changed_features_are_built_beside_those_that_decide_and_take_over_at_once(worker: Any) -> None:
    worker.start()
    load_history(worker)
    sender = Sender(worker, 1, pause=0.02)
    sender.start()
    worker.wait_for(lambda report: report["events"] >= 200)
    _, after = change_features(worker)
    report = worker.wait_for(ready)
    assert report["features"]["disk_mb"] > 0
    assert (report["model"]["version"], report["message"]) == (1, "")
    worker.release(2, trained_on=after)
    report = worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 2})
    assert (report["features_digest"], report["epoch"]) == (harness.digest_of(worker, after), 1)
    decided = worker.report()["events"]
    worker.wait_for(lambda report: report["events"] >= decided + 200 and report["features"] is None)
    side = worker.directory / "stream" / "side"
    kept = [report["features_digest"][:16]]
    worker.wait_for(lambda _: [p.name for p in side.iterdir()] == kept)  # two checkpoints later
    sender.stopping.set()
    sender.join(harness.DEADLINE)
    assert {d["status"] for d in sender.answers.values()} == {"decided"}
    assert worker.stop() == 0
    check(worker, sender.answers)
    assert len(switches(worker)) == 2


def switches(worker: Any) -> list[tuple[str, int]]:
    """The digests of the features that decided, one after the other, with the version that decided first by them; no
    decision has others than the CONTROL record before it says."""
    found: list[tuple[str, int]] = []
    digest = ""
    for record in SegmentReader(worker.log_directory).read():
        if record.kind is RecordKind.CONTROL and (control := decode_control(record.payload)).load is None:
            digest = control.features_digest
        for decision in decisions_of(record):
            assert decision.features_digest == digest
            if not found or found[-1][0] != digest:
                found.append((digest, decision.version))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_any_moment_of_a_change_of_features(worker: Any, seed: int) -> None:
    worker.start()
    load_history(worker)
    sender = Sender(worker, 1, pause=0.02)
    sender.start()
    worker.wait_for(lambda report: report["events"] >= 200)
    luck = random.Random(seed)
    _, after = change_features(worker)
    moments = [
        lambda report: report["features"] is not None,
        lambda report: report["features"] and report["features"]["state"] not in ("compiling", "building"),
        ready,
        lambda report: report["model"] == {"name": "fraud", "version": 2},
    ]
    for moment in moments:
        worker.wait_for(lambda report, held=moment: report["ready"] and held(report))
        if moment is ready:
            worker.release(2, trained_on=after)
        time.sleep(luck.random() * 0.2)  # not a wait for anything: the moment is the case
        worker.kill()
        worker.start()
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 2})
    sender.stopping.set()
    sender.join(harness.DEADLINE)
    assert {d["status"] for d in sender.answers.values()} == {"decided"}
    assert worker.stop() == 0
    check(worker, sender.answers)
    assert [version for _, version in switches(worker)] == [1, 2]


def test_a_version_of_unknown_features_is_not_used(worker: Any) -> None:
    """As many inputs as there are features do not make it theirs."""
    worker.start()
    worker.release(2, digest="0" * 64)
    report = worker.wait_for(lambda report: report["message"])
    assert "Version 2 of fraud is not used: it was trained on other features" in report["message"]
    with worker.connection() as connection:
        assert connection.send_events(payment(1, amount=95.0))[1]["decisions"][0]["version"] == 1


def test_features_may_go_back_to_those_of_before(worker: Any) -> None:
    worker.start()
    with worker.connection() as connection:
        connection.send_events([payment(n, customer=n % 3, amount=n) for n in range(60)])
        before, after = change_features(worker)
        worker.wait_for(ready)
        worker.release(2, trained_on=after)
        worker.wait_for(lambda report: report["model"]["version"] == 2)
        decided = connection.send_events(payment(100, customer=1))[1]["decisions"][0]
        assert decided["features"]["count_1h"] == 21.0
        worker.release(1, trained_on=before)
        worker.wait_for(lambda report: report["model"]["version"] == 1)
        _, after_it = connection.send_events([payment(101, customer=1), payment(100)])
        assert set(after_it["decisions"][0]["features"]) == set(before.names)
        assert after_it["decisions"][1]["score"] == decided["score"]
    assert worker.stop() == 0
    report = worker.verify(SegmentReader(worker.log_directory))
    assert (report.compared, report.equal, report.unknown, report.feature_sets) == (62, 62, 0, 2)
