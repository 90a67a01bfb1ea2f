"""How a process ended, in words."""

from __future__ import annotations

import pytest

from skyriver.core.processes import PROCESS_TRANSITIONS, how_it_ended, not_ready
from skyriver.core.resources import Kind, ProcessStatus, Resource, Snapshot

WORKER = Kind("worker", "STARTING", PROCESS_TRANSITIONS, frozenset(), lambda snapshot, row: ())


@pytest.mark.parametrize(
    ("exit_code", "told"),
    [
        (-9, "It was ended by SIGKILL."),
        (-11, "It was ended by SIGSEGV."),
        (-50, "It was ended by signal 50."),
        (3, "It exited with status 3."),
        (0, "It exited with status 0."),
        (None, "Its process ended."),
    ],
)
def test_by_its_exit_code(exit_code: int | None, told: str) -> None:
    assert how_it_ended(exit_code) == told
    assert "more memory" in how_it_ended(exit_code, out_of_memory=True)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({}, "It was ended by SIGKILL. What it acknowledged is kept."),
        ({"reason": "DISK_FULL", "message": "There is no room."}, "There is no room."),
    ],
)
def test_a_row_says_how_its_process_ended_unless_that_told_itself(report: dict[str, str], told: str) -> None:
    row = Resource("t", "worker", "orders-0", state="READY")
    process = ProcessStatus(row.process, False, pid=7, exit_code=-9, report=report)
    snapshot = Snapshot({row.key: row}, {process.name: process}, {}, 0)
    [put] = not_ready(WORKER, snapshot, row, process, "What it acknowledged is kept.")
    assert (put.resource.state, put.resource.message) == ("LOST", told)
