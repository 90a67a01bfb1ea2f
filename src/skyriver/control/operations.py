"""The kind `operation`: what a caller waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skyriver.core.jobs import ENDED, Ending, outputs_by_title, title_of
from skyriver.core.resources import Action, Kind, Put, Resource, Snapshot

OPERATION_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("ACCEPTED", "started"): "RUNNING",
    ("RUNNING", "progress"): "RUNNING",
    ("RUNNING", "succeeded"): "SUCCEEDED",
    ("RUNNING", "failed"): "FAILED",
    ("RUNNING", "cancelled"): "CANCELLED",
}


def _step_operation(snapshot: Snapshot, operation: Resource) -> Iterator[Action]:
    """An operation is done when its jobs are, and all that they made has settled. When one job fails, those that do not
    need it go on, and it ends with the last of them."""
    if operation.state == "ACCEPTED":
        yield _put(operation, "started", snapshot.now)
        return
    jobs = [snapshot.find(operation.tenant, "job", name) for name in operation.spec.get("jobs", ())]
    there = [job for job in jobs if job is not None]
    followed = [*operation.spec.get("follow", ())]
    for job in there:
        followed += job.status.get("created", ())
    made = [snapshot.find(operation.tenant, *ref.split("/", 1)) for ref in followed]
    status = {**operation.status, "steps": _steps(there, [r for r in made if r is not None])}
    bad = _bad(there) if all(job.state in ENDED for job in there) else None
    if bad is None:
        bad = next((r for r in made if r is not None and r.status.get("settled") == "bad"), None)
    if bad is not None:
        cancelled = bad.state == "CANCELLED" or (operation.status.get("cancelled") and bad.kind == "job")
        told = {"reason": bad.reason, "message": bad.message, "next_action": bad.next_action}
        status |= {"failed": bad.ref}
        yield _put(operation, "cancelled" if cancelled else "failed", snapshot.now, status=status, **told)
    elif len(there) < len(jobs):
        told = {"reason": Ending.LOST.value, "message": "A job of it is no longer there.", "next_action": "Ask again."}
        yield _put(operation, "failed", snapshot.now, status=status, **told)
    elif all(j.state == "SUCCEEDED" for j in there) and all(
        r is not None and r.status.get("settled") == "good" for r in made
    ):
        status |= {"result": outputs_by_title(there), "created": followed}
        yield _put(operation, "succeeded", snapshot.now, status=status)
    elif status != operation.status:
        yield _put(operation, "progress", snapshot.now, status=status)


def _bad(jobs: Sequence[Resource]) -> Resource | None:
    """The job that tells best why the operation did not succeed: one that failed by itself before those it took with
    it, and one that was cancelled before those that needed it."""
    for state, by_itself in (("FAILED", True), ("CANCELLED", False), ("FAILED", False)):
        for job in jobs:
            if job.state == state and not (by_itself and job.reason == Ending.INPUT_FAILED):
                return job
    return None


def _steps(jobs: Sequence[Resource], made: Sequence[Resource]) -> list[dict[str, Any]]:
    """One a job, and one an array."""
    arrays: dict[str, list[Resource]] = {}
    for job in jobs:
        if job.spec.get("index") is not None:
            arrays.setdefault(title_of(job), []).append(job)
    steps = []
    for job in jobs:
        if job.spec.get("index") is None:
            steps.append(_step(job, title_of(job)))
        elif array := arrays.pop(title_of(job), None):
            steps.append(_array_step(array))
    return steps + [_step(r, r.kind) for r in made]


def _step(resource: Resource, title: str) -> dict[str, Any]:
    return {
        "ref": resource.ref,
        "title": title,
        "state": resource.state,
        "progress": resource.status.get("progress"),
        "message": resource.message,
    }


def _array_step(array: Sequence[Resource]) -> dict[str, Any]:
    """The array as one: as far as its jobs have ended, and with what the first that failed says."""
    ended = [job for job in array if job.state in ENDED]
    bad = _bad(array)
    if len(ended) == len(array):
        state = bad.state if bad is not None else "SUCCEEDED"
    else:
        state = "RUNNING" if ended or any(j.state not in ("PENDING", "QUEUED") for j in array) else "QUEUED"
    return {
        "ref": (bad or array[0]).ref,
        "title": title_of(array[0]),
        "state": state,
        "progress": {"stage": f"{len(ended)} of {len(array)}", "done": len(ended), "total": len(array)},
        "message": bad.message if bad is not None else "",
    }


def _operation_waits(snapshot: Snapshot, operation: Resource) -> Iterator[str]:
    for name in operation.spec.get("jobs", ()):
        job = snapshot.find(operation.tenant, "job", name)
        if job is None or job.state not in ENDED:
            yield f"job/{name}"
    for ref in _made(snapshot, operation):
        found = snapshot.find(operation.tenant, *ref.split("/", 1))
        if found is None or found.status.get("settled") != "good":
            yield ref


def _made(snapshot: Snapshot, operation: Resource) -> Iterator[str]:
    yield from operation.spec.get("follow", ())
    for name in operation.spec.get("jobs", ()):
        job = snapshot.find(operation.tenant, "job", name)
        yield from job.status.get("created", ()) if job is not None else ()


def _put(operation: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(OPERATION.move(operation, event, now, **changes), operation.revision)


OPERATION = Kind("operation", "ACCEPTED", OPERATION_TRANSITIONS, ENDED, _step_operation, _operation_waits)
