"""The states of a row that stands for one process which is always wanted: it is ready, or it is started (again)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping

from skyriver.core.resources import Kind, ProcessStatus, Put, Resource, Snapshot

PROCESS_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("STARTING", "ready"): "READY",
    ("STARTING", "lost"): "LOST",
    ("READY", "lost"): "LOST",
    ("READY", "starting"): "STARTING",
    ("LOST", "lost"): "LOST",
    ("LOST", "starting"): "STARTING",
    ("LOST", "ready"): "READY",
}


def how_it_ended(exit_code: int | None, *, out_of_memory: bool = False) -> str:
    """A sentence: "It was ended by SIGKILL.", "It exited with status 3."; None: nobody saw how it ended."""
    if out_of_memory:
        return "It was ended because it wanted more memory than it may have, or than the machine has left."
    if exit_code is None:
        return "Its process ended."
    if exit_code >= 0:
        return f"It exited with status {exit_code}."
    try:
        return f"It was ended by {signal.Signals(-exit_code).name}."
    except ValueError:
        return f"It was ended by signal {-exit_code}."


def not_ready(kind: Kind, snapshot: Snapshot, row: Resource, process: ProcessStatus, kept: str) -> Iterator[Put]:
    """After a look at a process that has ended, or lives and is not ready. `kept` is said, after how it ended, of one
    that ended without a word: "What it acknowledged is kept."."""
    if not process.alive:
        told = {
            "reason": str(process.report.get("reason") or "PROCESS_DIED"),
            "message": str(process.report.get("message") or f"{_ended(process)} {kept}"),
            "next_action": str(process.report.get("next_action") or "It is started again and goes on from there."),
        }
        if row.state != "LOST" or (process.report and told["reason"] != row.reason):
            yield Put(kind.move(row, "lost", snapshot.now, attempts=row.attempts + 1, **told), row.revision)
    elif row.state != "STARTING":  # why it is started again is told until it is ready
        why = {"reason": row.reason, "message": row.message, "next_action": row.next_action}
        yield Put(kind.move(row, "starting", snapshot.now, **why), row.revision)


def _ended(process: ProcessStatus) -> str:
    return how_it_ended(process.exit_code, out_of_memory=process.out_of_memory)
