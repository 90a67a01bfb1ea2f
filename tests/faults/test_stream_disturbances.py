"""A stream's worker on a full disk, with a clock that is set, and stopped: nothing is lost or decided twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from kills.stream_disturbances import CLOCK, ClockTrial, full_disk, stopped

STOPPED_SECONDS = 60.0 if os.environ.get("FAULT_ROUNDS") else 2.0
ROUNDS = 3 if os.environ.get("FAULT_ROUNDS") else 1


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[harness.Worker]:
    found = harness.Worker(tmp_path / "w", kernels, harness.declare("process"))
    yield found
    found.close()


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_full_disk_refuses_events_until_there_is_room(disk: Path, kernels: Path, durability: str) -> None:
    worker = harness.Worker(disk / "w", kernels, harness.declare(durability))
    try:
        found = full_disk(worker, disk, rounds=ROUNDS)
    finally:
        worker.close()
    assert found.problems == []
    assert found.checked["refused: 503 DISK_FULL"] > 0


def test_a_clock_that_is_set_changes_no_decision(tmp_path: Path, worker: harness.Worker) -> None:
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK)
    worker.environment["PYTHONPATH"] = os.pathsep.join(p for p in (str(clock), os.environ.get("PYTHONPATH", "")) if p)
    found = ClockTrial(worker, clock).run()
    assert found.problems == []
    assert found.checked["events_live"] > 50


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_worker_that_stands_still_loses_nothing(worker: harness.Worker, taken_over: bool) -> None:
    found = stopped(worker, STOPPED_SECONDS, taken_over=taken_over)
    assert found.problems == []
    assert found.checked["acknowledged"] > 600
