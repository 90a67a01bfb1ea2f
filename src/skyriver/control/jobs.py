"""Jobs and operations: work that ends. A job is opaque here: a kind of work, its inputs by digest, its outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skyriver.core.jobs import ENDED
from skyriver.core.resources import Action, Kind, ProcessSpec, Put, Resource, Snapshot, Want

RUNNING_LIMIT = 2
"""Jobs that run at a time in one cloud; the others wait in the order in which they were asked for."""

_ACTIVE_JOB = frozenset({"STARTING", "RUNNING", "RECOVERING", "CANCELLING"})

JOB_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("PENDING", "inputs_ready"): "QUEUED",
    ("PENDING", "inputs_failed"): "FAILED",
    ("PENDING", "cancel"): "CANCELLED",
    ("QUEUED", "admitted"): "STARTING",
    ("QUEUED", "cancel"): "CANCELLED",
    ("STARTING", "seen"): "RUNNING",
    ("STARTING", "succeeded"): "SUCCEEDED",
    ("STARTING", "failed"): "FAILED",
    ("STARTING", "cancel"): "CANCELLING",
    ("RUNNING", "progress"): "RUNNING",
    ("RUNNING", "succeeded"): "SUCCEEDED",
    ("RUNNING", "failed"): "FAILED",
    ("RUNNING", "cancel"): "CANCELLING",
    ("CANCELLING", "gone"): "CANCELLED",
}


def _step_job(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
    match job.state:
        case "PENDING":
            yield from _wait_for_inputs(snapshot, job)
        case "QUEUED":
            if _admitted(snapshot, job):
                status = {**job.status, "config": _config(snapshot, job)}
                admitted = JOB.move(job, "admitted", snapshot.now, status=status)
                yield Put(admitted, job.revision)
                yield Want(_process(admitted))
        case "STARTING" | "RUNNING":
            yield from _follow_process(snapshot, job)
        case "CANCELLING":
            process = snapshot.processes.get(job.process)
            if process is None or not process.alive:  # not wanted any more, so it is being ended
                yield _put(JOB, job, "gone", snapshot.now, reason="CANCELLED", message="Cancelled on request.")


def _wait_for_inputs(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
    needed = [snapshot.find(job.tenant, "job", name) for name in job.spec.get("needs", ())]
    failed = [n.name for n in needed if n is not None and n.state in ("FAILED", "CANCELLED")]
    if failed or any(n is None for n in needed):
        which = ", ".join(failed) or "a job that is no longer there"
        yield _put(
            JOB,
            job,
            "inputs_failed",
            snapshot.now,
            reason="INPUT_FAILED",
            message=f"It needs the outputs of {which}.",
            next_action=f"`skyriver explain {failed[0]}` tells why." if failed else "",
        )
    elif all(n is not None and n.state == "SUCCEEDED" for n in needed):
        yield _put(JOB, job, "inputs_ready", snapshot.now)


def _admitted(snapshot: Snapshot, job: Resource) -> bool:
    """First in, first out; one job at a time in a lane (the thing it writes to)."""
    others = [r for (_, kind, _), r in snapshot.resources.items() if kind == "job" and r.key != job.key]
    active = [r for r in others if r.state in _ACTIVE_JOB]
    ahead = [r for r in others if r.state == "QUEUED" and (r.created_at, r.name) < (job.created_at, job.name)]
    lane = (job.tenant, job.spec.get("lane", job.name))
    if any((r.tenant, r.spec.get("lane", r.name)) == lane for r in (*active, *ahead)):
        return False
    return len(active) + len(ahead) < RUNNING_LIMIT


def _config(snapshot: Snapshot, job: Resource) -> dict[str, Any]:
    """What the process gets: settled once, when the job is admitted, so that it cannot change while it runs."""
    inputs = dict(job.spec.get("inputs", {}))
    for name in job.spec.get("needs", ()):
        needed = snapshot.find(job.tenant, "job", name)
        if needed is not None:
            inputs[str(needed.spec["kind"])] = needed.status.get("outputs", {})
    tables = {
        r.name: dict(r.status)
        for r in snapshot.all(job.tenant, "table")
        if r.name.partition(".")[0] in job.spec.get("tables", ())
    }
    told = {k: job.spec.get(k) for k in ("kind", "app", "code", "target", "params")}
    return {"job": job.name, **told, "inputs": inputs, "tables": tables}


def _process(job: Resource) -> ProcessSpec:
    return ProcessSpec(name=job.process, module="job", tenant=job.tenant, config=job.status["config"], once=True)


def _follow_process(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
    process = snapshot.processes.get(job.process)
    if process is None:
        if job.state == "RUNNING":
            yield _put(
                JOB,
                job,
                "failed",
                snapshot.now,
                reason="LOST",
                message="Its process is gone without a word: the machine was restarted, or its run file removed.",
                next_action="Run it again.",
            )
        else:
            yield Want(_process(job))
        return
    report = process.report
    match report.get("outcome"):
        case "succeeded":
            yield from _succeed(snapshot, job, report)
        case "failed":
            told = {k: str(report.get(k, "")) for k in ("reason", "message", "next_action")}
            yield _put(JOB, job, "failed", snapshot.now, status=_status(job, report), **told)
        case _ if not process.alive:
            reason, message = _ending(process.exit_code)
            yield _put(
                JOB,
                job,
                "failed",
                snapshot.now,
                reason=reason,
                message=message,
                next_action=f"`skyriver logs {job.name}` shows its last lines.",
                status=_status(job, report),
            )
        case _:
            yield Want(_process(job))
            status = _status(job, report)
            if job.state == "STARTING":
                yield _put(JOB, job, "seen", snapshot.now, status=status)
            elif status != job.status:
                yield _put(JOB, job, "progress", snapshot.now, status=status)


def _ending(exit_code: int | None) -> tuple[str, str]:
    match exit_code:
        case None:
            return "ENDED_UNSEEN", "Its process ended without an outcome while the control plane was away."
        case code if code < 0:
            return "KILLED", f"Its process was ended by signal {-code}" + (
                " (SIGKILL: often the machine was out of memory)." if code == -9 else "."
            )
        case code:
            return "EXITED", f"Its process ended with exit status {code} before its work was done."


def _status(job: Resource, report: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: report[k] for k in ("progress", "stages") if k in report}
    return {**job.status, **kept}


def _succeed(snapshot: Snapshot, job: Resource, report: Mapping[str, Any]) -> Iterator[Action]:
    """Records the outcome together with what the job made: table versions, and resources it proposes."""
    outputs = dict(report.get("outputs", {}))
    created = []
    for proposal in outputs.pop("resources", ()):
        resource = _numbered(snapshot, job, proposal)
        created.append(resource.ref)
        yield Put(resource, 0)
    for name, seen in outputs.get("tables", {}).items():
        table = snapshot.find(job.tenant, "table", name)
        if table is not None:
            yield Put(
                replace(
                    table, status={**table.status, **seen}, state="READY", reason="", message="", since=snapshot.now
                ),
                table.revision,
            )
    status = {**_status(job, report), "outputs": outputs, "created": created}
    yield _put(JOB, job, "succeeded", snapshot.now, status=status)


def _numbered(snapshot: Snapshot, job: Resource, proposal: Mapping[str, Any]) -> Resource:
    """A proposed resource with its number: `fraud` becomes `fraud:4` after `fraud:3`."""
    base = str(proposal["name"])
    taken = [r.name for r in snapshot.all(job.tenant, proposal["kind"])]
    numbers = [int(n.rpartition(":")[2]) for n in taken if n.rpartition(":")[0] == base]
    number = max(numbers, default=0) + 1
    spec = {**proposal["spec"], "version": number, "job": job.name}
    return Resource(
        tenant=job.tenant,
        kind=proposal["kind"],
        name=f"{base}:{number}",
        spec=spec,
        state=str(proposal["state"]),
        parent=str(proposal.get("parent", "")),
        since=snapshot.now,
    )


OPERATION_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("ACCEPTED", "started"): "RUNNING",
    ("RUNNING", "progress"): "RUNNING",
    ("RUNNING", "succeeded"): "SUCCEEDED",
    ("RUNNING", "failed"): "FAILED",
    ("ACCEPTED", "failed"): "FAILED",
    ("RUNNING", "cancelled"): "CANCELLED",
}


def _step_operation(snapshot: Snapshot, operation: Resource) -> Iterator[Action]:
    """An operation is done when its jobs are, and all that they made has settled."""
    if operation.state in ENDED:
        return
    if operation.state == "ACCEPTED":
        yield _put(OPERATION, operation, "started", snapshot.now)
        return
    jobs = [snapshot.find(operation.tenant, "job", name) for name in operation.spec.get("jobs", ())]
    followed = [*operation.spec.get("follow", ())]
    for job in jobs:
        followed += job.status.get("created", ()) if job is not None else ()
    made = [snapshot.find(operation.tenant, *ref.split("/", 1)) for ref in followed]
    steps = [_as_step(r) for r in (*jobs, *made) if r is not None]
    status = {**operation.status, "steps": steps}
    bad = next((r for r in jobs if r is not None and r.state in ("FAILED", "CANCELLED")), None)
    if bad is None:
        bad = next((r for r in made if r is not None and r.status.get("settled") == "bad"), None)
    if bad is not None:
        told = {"reason": bad.reason, "message": bad.message, "next_action": bad.next_action}
        status |= {"failed": bad.ref}
        event = "cancelled" if bad.state == "CANCELLED" else "failed"
        yield _put(OPERATION, operation, event, snapshot.now, status=status, **told)
    elif all(j is not None and j.state == "SUCCEEDED" for j in jobs) and all(
        r is not None and r.status.get("settled") == "good" for r in made
    ):
        result = {j.spec["kind"]: j.status.get("outputs", {}) for j in jobs if j is not None}
        status |= {"result": result, "created": followed}
        yield _put(OPERATION, operation, "succeeded", snapshot.now, status=status)
    elif status != operation.status:
        yield _put(OPERATION, operation, "progress", snapshot.now, status=status)


def _as_step(resource: Resource) -> dict[str, Any]:
    title = resource.spec.get("kind", resource.kind) if resource.kind == "job" else resource.kind
    return {
        "ref": resource.ref,
        "title": title,
        "state": resource.state,
        "progress": resource.status.get("progress"),
        "message": resource.message,
    }


def _put(kind: Kind, resource: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(kind.move(resource, event, now, **changes), resource.revision)


JOB = Kind("job", "PENDING", JOB_TRANSITIONS, ENDED, _step_job)
OPERATION = Kind("operation", "ACCEPTED", OPERATION_TRANSITIONS, ENDED, _step_operation)
