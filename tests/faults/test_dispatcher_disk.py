"""A dispatcher whose disk is full: it says so, loses nothing, acts twice on nothing, and goes on when there is room."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.segments.log import SegmentReader
from skyriver.core.errors import SkyriverError
from skyriver.data.log import RecordKind
from skyriver.decide.log.blocks import decisions_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from dispatcher_process import DispatcherProcess
from kills.stream_disturbances import fill
from receiver import Receiver
from worker_process import payment

LEDGER = {"to": "ledger", "on": ["block"], "parallel": 16}


@pytest.fixture
def ledger() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


class Door:
    """What a receiver does with deliveries: nothing before it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, body: dict[str, Any]) -> str:
        self.open.wait(harness.DEADLINE)
        return "take"


def until(held: Callable[[], object]) -> None:
    deadline = time.monotonic() + harness.DEADLINE
    while not held():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def blocked(worker: Any) -> list[int]:
    """Offsets of the events that a sink gets."""
    log = SegmentReader(worker.log_directory).read()
    return sorted(one.event_offset for record in log for one in decisions_of(record) if one.decision == "block")


def decided_up_to(worker: Any) -> float:
    """The end of the log; while decisions are missing there, nothing is enough."""
    reader, waiting = SegmentReader(worker.log_directory), 0
    for record in reader.read():
        waiting += record.count if record.kind in (RecordKind.EVENT, RecordKind.EVENTS) else 0
        waiting -= sum(1 for _ in decisions_of(record))
    return math.inf if waiting else reader.next_offset


def send(worker: Any, first: int, count: int) -> None:
    """The log may be on the full disk too: what is refused then is not sent again."""
    events = [payment(first + n, amount=95.0) for n in range(count)]
    with worker.connection() as connection:
        status, answer = connection.ask("POST", "/streams/payments/events", events)
    assert status == 200 or answer["code"] == "DISK_FULL", answer


@pytest.mark.parametrize("disk", [24], indirect=True)
@pytest.mark.parametrize(("all_of_it", "killed"), [(False, False), (False, True), (True, False)])
def test_on_a_full_disk_it_says_so_and_acts_on_all_once_when_there_is_room(
    tmp_path: Path, kernels: Path, disk: Path, ledger: Receiver, all_of_it: bool, killed: bool
) -> None:
    """`all_of_it`: the log and its report are on the disk too."""
    worker = harness.Worker((disk if all_of_it else tmp_path) / "w", kernels, harness.declare("process"))
    dispatcher = DispatcherProcess(worker, {"sinks": [LEDGER]})
    if not all_of_it:
        dispatcher.state.parent.parent.mkdir(parents=True)
        dispatcher.state.parent.symlink_to(disk, target_is_directory=True)
    door = ledger.behave = Door()
    ledger.write_file(dispatcher.directory, "ledger", timeout_s=120)
    try:
        worker.start()
        dispatcher.start()
        send(worker, 0, 200)
        dispatcher.wait_for(lambda report: report["sinks"] and report["sinks"][0]["under_way"] == 16)
        fill(disk / "filler")
        door.open.set()
        until(lambda: len(ledger.acted) >= 16)
        send(worker, 200, 200)
        if all_of_it:
            until(lambda: refused(dispatcher) == "DISK_FULL")
        else:
            report = dispatcher.wait_for(lambda report: report["reason"] == "DISK_FULL" and report["behind"])
            assert report["next_action"].startswith("Free space")
        assert len(ledger.acted) < 200, "nothing more is sent while what came of it cannot be written"
        if killed:
            dispatcher.kill()
            dispatcher.start(wait=False)
            assert dispatcher.processes[-1].wait(harness.DEADLINE) != 0, "it cannot take its folder"
            assert dispatcher.report()["reason"] == "DISK_FULL"
            assert "Traceback" not in str(dispatcher.report())
        (disk / "filler").unlink()
        if killed:
            dispatcher.start()  # as the control plane does
        dispatcher.wait_for(
            lambda report: (
                report["ready"]
                and not report["reason"]
                and report["offset"] >= decided_up_to(worker)
                and report["sinks"][0]["done"] == len(blocked(worker))
            )
        )
        assert sorted(body["event_offset"] for body in ledger.acted) == blocked(worker)
        again = sum(ledger.seen.values()) - len(ledger.acted)
        assert again <= 2 * 16 if killed else again == 0
    finally:
        door.open.set()
        dispatcher.close()
        worker.close()


def refused(dispatcher: DispatcherProcess) -> str:
    """Why people cannot act now."""
    try:
        dispatcher.ask("POST", "/deliveries/200/drop", reason="a trial")
    except SkyriverError as error:
        return error.code
    return ""
