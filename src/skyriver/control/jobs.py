"""Jobs: work that ends. A job is opaque here: a kind of work, its inputs by digest, its outcome.

It waits for its inputs (PENDING) and for its turn (QUEUED), and runs in a process of its own (STARTING, RUNNING). What
ends an attempt without its outcome may be tried again after a pause (RECOVERING), and then waits for its turn anew.
Each attempt gets its own configuration, so that nothing of one is taken for the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skyriver.control.admission import Queue
from skyriver.control.endings import Ended, as_attempt, how_it_failed, retries_left
from skyriver.core.environments import environment_name, readiness
from skyriver.core.jobs import (
    ENDED,
    PROPOSABLE,
    Capacity,
    Ending,
    Fault,
    asked_by,
    never_fits,
    outputs_by_title,
    pause_before_retry,
    workers_of,
)
from skyriver.core.resources import Action, Kind, Limits, ProcessSpec, ProcessStatus, Put, Resource, Snapshot, Want

KEPT_ATTEMPTS = 20
KEPT_CURVES = 50
"""Of jobs that failed or were cancelled, of each model and task: rows are what every list and every pass carries."""
LONGEST_CURVE = 200_000
"""Characters of what a job told by step, twice what the product writes: its report comes from a process that runs
users' code."""

JOB_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("PENDING", "waits"): "PENDING",
    ("PENDING", "inputs_ready"): "QUEUED",
    ("PENDING", "inputs_failed"): "FAILED",
    ("PENDING", "cancel"): "CANCELLED",
    ("QUEUED", "waits"): "QUEUED",
    ("QUEUED", "admitted"): "STARTING",
    ("QUEUED", "refused"): "FAILED",
    ("QUEUED", "cancel"): "CANCELLED",
    ("STARTING", "seen"): "RUNNING",
    ("STARTING", "succeeded"): "SUCCEEDED",
    ("STARTING", "retry"): "RECOVERING",
    ("STARTING", "failed"): "FAILED",
    ("STARTING", "cancel"): "CANCELLING",
    ("RUNNING", "progress"): "RUNNING",
    ("RUNNING", "succeeded"): "SUCCEEDED",
    ("RUNNING", "retry"): "RECOVERING",
    ("RUNNING", "failed"): "FAILED",
    ("RUNNING", "cancel"): "CANCELLING",
    ("RECOVERING", "again"): "QUEUED",
    ("RECOVERING", "cancel"): "CANCELLED",
    ("CANCELLING", "gone"): "CANCELLED",
}


def job_kind(capacity: Capacity) -> Kind:
    """Jobs of a machine that gives them so much."""
    queue = Queue(capacity)

    def step(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
        match job.state:
            case "PENDING":
                yield from _wait_for_inputs(snapshot, job)
            case "QUEUED":
                yield from _wait_for_turn(snapshot, job, queue)
            case "STARTING" | "RUNNING":
                yield from _follow_process(snapshot, job)
            case "RECOVERING":
                pause = int(job.status.get("pause", 0))
                if snapshot.elapsed(job.since) >= pause and job.process not in snapshot.processes:
                    yield _put(job, "again", snapshot.now)
            case "CANCELLING":
                process = snapshot.processes.get(job.process)
                if process is None or not process.alive:  # not wanted any more, so it is being ended
                    told = {"reason": Ending.CANCELLED.value, "message": "Cancelled on request."}
                    yield _put(job, "gone", snapshot.now, status=_without(job.status, "config"), **told)
                    yield from _forget_curves(snapshot, job)

    def waits(snapshot: Snapshot, job: Resource) -> Iterator[str]:
        match job.state:
            case "PENDING":
                needed = ((name, snapshot.find(job.tenant, "job", name)) for name in job.spec.get("needs", ()))
                yield from (f"job/{name}" for name, row in needed if row is None or row.state != "SUCCEEDED")
                if environment := job.spec.get("environment"):
                    yield f"environment/{environment_name(environment)}"
            case "QUEUED":
                yield from queue.decide(snapshot).waits.get(job.key, ())

    return Kind("job", "PENDING", JOB_TRANSITIONS, ENDED, step, waits)


def _wait_for_inputs(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
    needed = [snapshot.find(job.tenant, "job", name) for name in job.spec.get("needs", ())]
    failed = [n.name for n in needed if n is not None and n.state in ("FAILED", "CANCELLED")]
    if failed or any(n is None for n in needed):
        which = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        told = {
            "reason": Ending.INPUT_FAILED.value,
            "message": f"It needs the outputs of {which or 'a job that is no longer there'}.",
            "next_action": f"`skyriver explain {failed[0]}` tells why." if failed else "",
        }
        yield _put(job, "inputs_failed", snapshot.now, **told)
    elif all(n is not None and n.state == "SUCCEEDED" for n in needed):
        yield from _wait_for_environment(snapshot, job)


def _wait_for_environment(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
    found = readiness(snapshot, job)
    match found.verdict:
        case "go":
            yield _put(job, "inputs_ready", snapshot.now)
        case "wait":
            yield from _told(snapshot, job, reason=found.reason, message=found.message)
        case "refuse":
            told = {"reason": found.reason, "message": found.message, "next_action": found.next_action}
            yield _put(job, "inputs_failed", snapshot.now, **told)


def _wait_for_turn(snapshot: Snapshot, job: Resource, queue: Queue) -> Iterator[Action]:
    asked = asked_by(job, queue.capacity)
    if not queue.capacity.fits(asked):
        message, action = never_fits(asked, queue.capacity)
        told = {"reason": Ending.NEVER_FITS.value, "message": f"It {message}", "next_action": action}
        yield _put(job, "refused", snapshot.now, **told)
        return
    decision = queue.decide(snapshot)
    if job.key not in decision.admitted:
        yield from _told(snapshot, job, reason="WAITS_FOR_ITS_TURN", message=decision.told.get(job.key, ""))
        return
    begun = replace(job, attempts=job.attempts + 1)
    given = {"workers": workers_of(job, queue.capacity), "gpus": list(decision.gpus.get(job.key, ()))}
    given = {k: v for k, v in given.items() if v}
    config = {**_config(snapshot, begun), **given}
    status = {**_without(job.status, "curve"), "config": config, "start_time": snapshot.now, **given}
    admitted = JOB.move(begun, "admitted", snapshot.now, status=status)
    yield Put(admitted, job.revision)
    yield Want(_process(admitted))


def _told(snapshot: Snapshot, job: Resource, *, reason: str, message: str) -> Iterator[Action]:
    if (job.reason, job.message) != (reason, message):
        yield _put(job, "waits", snapshot.now, reason=reason, message=message)


def _config(snapshot: Snapshot, job: Resource) -> dict[str, Any]:
    """What the process gets: settled once, when the job is admitted, so that it cannot change while it runs."""
    needed = [snapshot.find(job.tenant, "job", name) for name in job.spec.get("needs", ())]
    inputs = {**job.spec.get("inputs", {}), **outputs_by_title([n for n in needed if n is not None])}
    tables = {
        r.name: dict(r.status)
        for r in snapshot.all(job.tenant, "table")
        if r.name.partition(".")[0] in job.spec.get("tables", ())
    }
    told = {k: job.spec.get(k) for k in ("kind", "app", "code", "target", "params", "index", "slot")}
    curve = {"curve": job.status["curve"]} if job.status.get("curve") else {}  # it may go on from a checkpoint
    return {"job": job.name, "attempt": job.attempts, **told, "inputs": inputs, "tables": tables, **curve}


def _process(job: Resource) -> ProcessSpec:
    return ProcessSpec(
        name=job.process,
        module="job",
        tenant=job.tenant,
        config=job.status["config"],
        once=True,
        limits=Limits(**job.spec.get("limits", {})),
        environment=str(job.spec.get("environment", "")),
    )


def _follow_process(snapshot: Snapshot, job: Resource) -> Iterator[Action]:
    process = snapshot.processes.get(job.process)
    if process is None and job.state == "STARTING":
        yield Want(_process(job))
        return
    if process is not None and process.report.get("outcome") == "succeeded":
        yield from _succeed(snapshot, job, process)
        return
    ended = how_it_failed(job, process)
    report = process.report if process is not None else {}
    if ended is not None:
        put = _end_attempt(snapshot, replace(job, status=_status(job, report) | curve_told(job, report)), ended)
        yield put
        if put.resource.state in ENDED:
            yield from _forget_curves(snapshot, job)
        return
    yield Want(_process(job))
    status = _status(job, report)
    if job.state == "STARTING":
        yield _put(job, "seen", snapshot.now, status=status)
    elif status != job.status:
        yield _put(job, "progress", snapshot.now, status=status)


def _end_attempt(snapshot: Snapshot, job: Resource, ended: Ended) -> Put:
    """The job is tried again after a pause, where that may help and it has not been tried too often; else it failed."""
    attempts = [*job.status.get("attempts", ()), as_attempt(job, ended, snapshot.now)][-KEPT_ATTEMPTS:]
    failures = dict(job.status.get("failures", {}))
    left = retries_left(job, ended.fault)
    failures[ended.fault.value] = failures.get(ended.fault.value, 0) + 1
    status = {**_without(job.status, "config"), "attempts": attempts, "failures": failures}
    told = {"reason": ended.reason, "message": ended.message, "next_action": ended.next_action}
    if left == 0:
        if job.attempts > 1:
            told["message"] = f"{ended.message} This was attempt {job.attempts}, the last one."
        return _put(job, "failed", snapshot.now, status=status, **told)
    pause = 0 if ended.fault is Fault.NOBODY else pause_before_retry(job.attempts)
    if pause:
        when = time.strftime("%H:%M:%S", time.gmtime((snapshot.now + pause) / 1e6))
        which = f"Attempt {job.attempts} of at most {job.attempts + left}"
        told["message"] = f"{which}: {ended.message} The next one begins at {when} UTC."
    told["next_action"] = ended.next_action or f"`skyriver logs {job.name}` shows what it printed."
    return _put(job, "retry", snapshot.now, status={**_without(status, "progress"), "pause": pause}, **told)


def _status(job: Resource, report: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: report[k] for k in ("progress", "stages") if k in report}
    return {**job.status, **kept}


def curve_told(job: Resource, report: Mapping[str, Any]) -> dict[str, Any]:
    """What an attempt that ends without its outcome told by step: else it would be gone with its process."""
    curve = report.get("curve") or (job.status.get("config") or {}).get("curve")
    return {"curve": curve} if curve and len(json.dumps(curve)) <= LONGEST_CURVE else {}


def _forget_curves(snapshot: Snapshot, ended: Resource) -> Iterator[Put]:
    """Of those that ended before it and are more than are kept. Of a job that succeeded an object has it."""
    same = [
        job
        for job in snapshot.all(ended.tenant, "job")
        if job.name != ended.name
        and job.state in ENDED
        and "curve" in job.status
        and (job.spec.get("kind"), job.spec.get("target")) == (ended.spec.get("kind"), ended.spec.get("target"))
    ]
    same.sort(key=lambda job: job.since, reverse=True)
    for job in same[KEPT_CURVES - 1 :]:
        yield Put(replace(job, status=_without(job.status, "curve")), job.revision)


def _without(status: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in status.items() if k != key}


def _succeed(snapshot: Snapshot, job: Resource, process: ProcessStatus) -> Iterator[Action]:
    """Records the outcome together with what the job made: table versions, and resources it proposes."""
    outputs = dict(process.report.get("outputs", {}))
    if foreign := [p["kind"] for p in outputs.get("resources", ()) if p["kind"] not in PROPOSABLE]:
        told = {"reason": Ending.USER_ERROR.value, "message": f"It proposed what no job may make: a {foreign[0]}."}
        yield _put(job, "failed", snapshot.now, status=_without(job.status, "config"), **told)
        return
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
    status = _without(_status(job, process.report), "config")
    yield _put(job, "succeeded", snapshot.now, status={**status, "outputs": outputs, "created": created})


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


def _put(job: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(JOB.move(job, event, now, **changes), job.revision)


SMALL_MACHINE = Capacity(2.0, 4_000)
JOB = job_kind(SMALL_MACHINE)
"""The kind, as it is on a small machine; the words and moves are the same on all."""
