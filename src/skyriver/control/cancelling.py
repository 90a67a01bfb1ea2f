"""What a user can ask of work that goes on: that it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyriver.control.jobs import JOB, curve_told
from skyriver.core.errors import Conflict, NotFound
from skyriver.core.jobs import ENDED, Ending, new_operation, next_number
from skyriver.core.resources import Resource, Snapshot


def plan_cancel(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Ends a job, or an operation with all its jobs: what waits at once, what runs as soon as its process is gone.

    Raises Conflict (ALREADY_ENDED) when nothing of it goes on any more, NotFound.
    """
    operation, jobs = _found(snapshot, tenant, target)
    left = [job for job in jobs if job.state not in ENDED]
    if not left:
        ended = operation if operation is not None else jobs[0]
        what = ended.state.lower() if ended.state in ENDED else "past its last job"
        raise Conflict(
            f"{target} is {what} already: there is nothing to cancel.",
            code="ALREADY_ENDED",
            next_action=f"`skyriver explain {target}` shows how it ended.",
        )
    cancelled = [_cancelled(snapshot, job) for job in left if job.state != "CANCELLING"]
    if operation is None:
        base = f"{jobs[0].name}-cancel"
        name = f"{base}-{next_number(snapshot, tenant, 'operation', base)}"
        return [new_operation(snapshot, tenant, name, action="cancel", target=target), *cancelled]
    if len(left) == len([job for job in _jobs(snapshot, operation) if job.state not in ENDED]):
        operation = replace(operation, status={**operation.status, "cancelled": True})
    return [operation, *cancelled]


def _found(snapshot: Snapshot, tenant: str, target: str) -> tuple[Resource | None, Sequence[Resource]]:
    """The operation, and those of its jobs that are meant."""
    name = target.rpartition("/")[2]
    operation = snapshot.find(tenant, "operation", name) if not target.startswith("job/") else None
    if operation is not None:
        return operation, _jobs(snapshot, operation)
    job = snapshot.find(tenant, "job", name)
    if job is None:
        raise NotFound(
            f"There is no job or operation {target!r}.", next_action="`skyriver job list` shows what there is."
        )
    kind, _, parent = job.parent.partition("/")
    return snapshot.find(tenant, kind, parent) if kind == "operation" else None, [job]


def _jobs(snapshot: Snapshot, operation: Resource) -> list[Resource]:
    found = (snapshot.find(operation.tenant, "job", name) for name in operation.spec.get("jobs", ()))
    return [job for job in found if job is not None]


def _cancelled(snapshot: Snapshot, job: Resource) -> Resource:
    message, status = "Cancelled on request.", dict(job.status)
    if job.state in ("STARTING", "RUNNING"):
        message = "It was asked to end, and is given 10 s."
        process = snapshot.processes.get(job.process)
        status |= curve_told(job, process.report if process is not None else {})
    return JOB.move(job, "cancel", snapshot.now, reason=Ending.CANCELLED.value, message=message, status=status)
