"""Worker and dispatcher are killed at random, and receivers are as bad as they come: each decision is delivered, none
is acted on twice by a receiver that honours the id, the order of a key is kept, and what is parked is listed."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.segments.log import SegmentReader
from skyriver.core.errors import SkyriverError
from skyriver.decide.log.blocks import decisions_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from dispatcher_process import DispatcherProcess
from receiver import Receiver, misbehave
from worker_process import payment

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
BATCHES = 30 if os.environ.get("FAULT_ROUNDS") else 14
BANK = {"to": "bank", "on": ["block"], "ordered": "customer"}
SOON = {"skyriver.decide.acting.delivery_table.FIRST_WAIT_US": 50_000}
"""Until the second try. Who waits for the end of some hundred deliveries waits for the least lucky one."""
LEDGER = {"to": "ledger", "on": ["block", "review"], "parallel": 16}


@pytest.fixture
def worker(tmp_path: Path, kernels: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    found = harness.Worker(tmp_path / "w", kernels, harness.declare(getattr(request, "param", "disk")))
    yield found
    found.close()


@pytest.fixture
def dispatcher(worker: Any) -> Iterator[DispatcherProcess]:
    found = DispatcherProcess(worker, {"sinks": [BANK, LEDGER]})
    yield found
    found.close()


@pytest.fixture
def bank() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def ledger() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def until(held: Callable[[], object], seconds: float = harness.DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not held():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def send(worker: Any, events: list[dict[str, Any]]) -> None:
    """Until it is acknowledged, over kills."""
    deadline = time.monotonic() + harness.DEADLINE
    while True:
        try:
            with worker.connection() as connection:
                status, _ = connection.ask("POST", "/streams/payments/events", events)
            if status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


def decided(worker: Any) -> dict[str, list[tuple[int, int]]]:
    """(offset, event id) by decision, as the log says."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in SegmentReader(worker.log_directory).read():
        for decision in decisions_of(record):
            found[decision.decision].append((decision.event_offset, int(decision.id)))
    return found


def sinks_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {sink["sink"]: sink for sink in report.get("sinks", ())}


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_whoever_is_killed_each_decision_is_acted_on_once(
    worker: Any, dispatcher: DispatcherProcess, bank: Receiver, ledger: Receiver, round_: int
) -> None:
    luck = random.Random(round_)
    dispatcher.changed = SOON
    bank.behave = misbehave(random.Random(round_ + 1), lambda body: False)
    ledger.behave = misbehave(random.Random(round_ + 2), lambda body: body["decision"] == "review")
    for receiver, name in ((bank, "bank"), (ledger, "ledger")):
        receiver.retry_after, receiver.hang_s = "0", 1.0
        receiver.write_file(dispatcher.directory, name, timeout_s=0.5)
    worker.start()
    dispatcher.start()
    sent = 0
    for batch in range(BATCHES):
        size = luck.choice([1, 2, 30])
        sent += size
        numbers = range(100 * batch, 100 * batch + size)
        send(
            worker, [payment(n, customer=luck.randrange(12), amount=float(luck.choice([20, 60, 95]))) for n in numbers]
        )
        match luck.randrange(8):
            case 0:
                worker.kill()
                worker.start()
            case 1 | 2:
                dispatcher.kill()
                dispatcher.start(wait=luck.random() < 0.5)
    until(lambda: sum(map(len, decided(worker).values())) == sent)
    end = SegmentReader(worker.log_directory).next_offset
    dispatcher.wait_for(lambda report: report.get("ready") and report["offset"] >= end)
    found = decided(worker)
    assert min(len(found["block"]), len(found["review"])) > BATCHES
    reviews = len(found["review"])
    dispatcher.wait_for(
        lambda report: (
            (now := sinks_of(report))
            and not any(sink["waiting"] or sink["held"] for sink in now.values())
            and now["ledger"]["parked"] == reviews
        ),
        300,
    )
    for receiver in (bank, ledger):
        assert receiver.unsigned == 0
        until(lambda receiver=receiver: not receiver.at_once)
        got = [(body["event_offset"], body["event_id"]) for body in receiver.acted]
        assert sorted(got) == sorted(found["block"]), "each, and once"
        assert sum(receiver.seen.values()) > len(got), "though some came again"
    by_customer: dict[int, list[int]] = defaultdict(list)
    for body in bank.acted:
        by_customer[body["event"]["customer"]].append(body["event_offset"])
    assert all(offsets == sorted(offsets) for offsets in by_customer.values())
    parked = dispatcher.ask("GET", "/deliveries", state="parked", sink="ledger", limit=1_000)["items"]
    assert sorted(item["event"] for item in parked) == sorted(id_ for _, id_ in found["review"])
    assert {item["reason"] for item in parked} == {"RECEIVER_REFUSED"}
    ledger.behave = lambda body: "take"
    asked = dispatcher.ask("POST", "/deliveries/retry", key="once", sink="ledger")
    assert asked == dispatcher.ask("POST", "/deliveries/retry", key="once", sink="ledger")
    assert asked["retried"] == reviews
    until(lambda: len(ledger.acted) == len(found["block"]) + reviews)


@pytest.mark.parametrize("worker", ["process", "disk"], indirect=True)
def test_a_decision_arrives_soon_and_goes_on_without_its_worker(
    worker: Any, dispatcher: DispatcherProcess, bank: Receiver, ledger: Receiver
) -> None:
    dispatcher.start()
    worker.start()
    ledger.write_file(dispatcher.directory, "ledger")
    send(worker, [payment(n, amount=95.0) for n in range(50)])
    until(lambda: len(ledger.acted) == 50)
    # The other one is told, and burns no tries; all are of one customer.
    dispatcher.wait_for(
        lambda report: (
            report["reason"] == "NO_SINK_FILE"
            and (sinks_of(report)["bank"]["waiting"], sinks_of(report)["bank"]["held"]) == (1, 49)
        )
    )
    worker.stop()
    bank.write_file(dispatcher.directory, "bank")
    until(lambda: len(bank.acted) == 50)
    dispatcher.wait_for(lambda report: report["reason"] == "")
    assert [body["event_offset"] for body in bank.acted] == sorted(body["event_offset"] for body in bank.acted)
    assert dispatcher.stop() == 0


def test_what_is_wrong_with_a_sinks_file_is_told_and_put_right_while_it_runs(
    worker: Any, dispatcher: DispatcherProcess, bank: Receiver
) -> None:
    dispatcher.live = {"sinks": [{**BANK, "ordered": ""}]}
    worker.start()
    send(worker, [payment(1, amount=95.0)])
    path = dispatcher.directory / "sinks" / "t" / "bank.toml"
    bank.write_file(dispatcher.directory, "bank")
    good = path.read_text()
    path.chmod(0o644)
    dispatcher.start()
    dispatcher.wait_for(lambda report: report["reason"] == "SECRET_EXPOSED")
    path.chmod(0o600)
    until(lambda: len(bank.acted) == 1)
    for text, code in (
        ("url = ", "BAD_SINK_FILE"),
        (good.replace("127.0.0.1", "core.bank"), "INSECURE_SINK"),
        (good.replace("whsec_", "whsec_!"), "BAD_SINK_FILE"),
    ):
        path.write_text(text)
        send(worker, [payment(sum(bank.seen.values()) + 10 + len(text) + len(code), amount=95.0)])
        report = dispatcher.wait_for(lambda report, code=code: report["reason"] == code)
        assert "0123456789" not in str(report), "no secret is shown"
        assert "MDEyMzQ1" not in str(report) + dispatcher.printed()
    path.write_text(good)
    until(lambda: len(bank.acted) == 4)


def test_a_lost_state_is_not_passed_over_in_silence(
    worker: Any, dispatcher: DispatcherProcess, ledger: Receiver
) -> None:
    worker.start()
    ledger.write_file(dispatcher.directory, "ledger")
    dispatcher.live = {"sinks": [LEDGER]}
    dispatcher.start()
    send(worker, [payment(n, amount=95.0) for n in range(20)])
    until(lambda: len(ledger.acted) == 20)
    dispatcher.stop()
    for path in dispatcher.state.parent.glob("state.sqlite*"):
        path.unlink()
    dispatcher.live["began"] = True
    dispatcher.start(wait=False)
    assert dispatcher.processes[-1].wait(harness.DEADLINE) != 0
    assert dispatcher.report()["reason"] == "DISPATCH_GONE"
    (dispatcher.state.parent / "begin").write_text("0\n")
    dispatcher.start()
    until(lambda: sum(ledger.seen.values()) == 40)
    assert len(ledger.acted) == 20, "it was sent again, and known by its id"
    assert not (dispatcher.state.parent / "begin").exists()


def test_a_second_dispatcher_takes_over_from_one_that_is_stopped(
    worker: Any, dispatcher: DispatcherProcess, ledger: Receiver
) -> None:
    worker.start()
    ledger.write_file(dispatcher.directory, "ledger")
    dispatcher.live = {"sinks": [LEDGER]}
    dispatcher.start()
    os.kill(dispatcher.processes[-1].pid, 19)
    dispatcher.start()
    assert dispatcher.processes[0].wait(harness.DEADLINE) == -9
    send(worker, [payment(n, amount=95.0) for n in range(5)])
    until(lambda: len(ledger.acted) == 5)


def test_changed_sinks_count_at_once(worker: Any, dispatcher: DispatcherProcess, ledger: Receiver) -> None:
    worker.start()
    ledger.write_file(dispatcher.directory, "ledger")
    dispatcher.live = {"sinks": [{**LEDGER, "on": ["review"]}]}
    dispatcher.start()
    send(worker, [payment(1, amount=95.0)])
    until(lambda: decided(worker))
    end = SegmentReader(worker.log_directory).next_offset
    dispatcher.wait_for(lambda report: report["offset"] >= end)
    dispatcher.write_live(sinks=[{**LEDGER, "approve": True}])
    until(lambda: dispatcher.ask("GET", "/sinks")["items"][0]["on"] == ["block", "review"])
    send(worker, [payment(2, amount=95.0)])
    until(lambda: dispatcher.ask("GET", "/sinks")["items"][0]["awaiting_approval"] == 1)
    [waiting] = dispatcher.ask("GET", "/deliveries", state="awaiting_approval")["items"]
    assert ledger.acted == []
    with pytest.raises(SkyriverError):
        dispatcher.ask("POST", f"/deliveries/{waiting['number']}/refuse", reason="")
    dispatcher.ask("POST", f"/deliveries/{waiting['number']}/approve", actor="bob")
    until(lambda: [body["event_id"] for body in ledger.acted] == [2])
