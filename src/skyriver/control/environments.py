"""Environments as a kind: built once by a job, shared by all who have the same lock, removed some time after the last.

The folder of an environment lies beside the others in the home and is named by the lock's digest; only a whole one has
that name. What builds and removes it is a job like any other: it waits in a lane, has a log and a reason when it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skyriver.core.environments import KIND, environment_name, users
from skyriver.core.jobs import new_job, next_number
from skyriver.core.resources import Action, Delete, Kind, Limits, Put, Resource, Snapshot
from skyriver.core.spec import AppSpec

UNUSED_US = 24 * 3_600_000_000
"""How long an environment that nobody names is kept: a deployment that was taken back finds it again."""
BUILD_SECONDS = 3_600.0
"""A build that takes longer hangs: what a package does while it is built is its author's own."""
BUILD_TRIES = 5
"""In a row, of a build that failed for a reason that may go by itself."""
FIRST_PAUSE_US = 5_000_000
"""Before the second try; doubled before each further one."""
PASSING = frozenset({"INDEX_AWAY", "DISK_FULL", "SIGNALLED", "LOST", "ENDED_UNSEEN", "START_FAILED"})
"""Reasons that may go by themselves."""

TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("PENDING", "build"): "BUILDING",
    ("BUILDING", "built"): "READY",
    ("BUILDING", "failed"): "FAILED",
    ("BUILDING", "again"): "PENDING",
    ("READY", "seen"): "READY",
    ("READY", "lost"): "PENDING",
    ("READY", "remove"): "REMOVING",
    ("FAILED", "seen"): "FAILED",
    ("FAILED", "again"): "PENDING",
    ("REMOVING", "again"): "PENDING",
}


def new_environment(snapshot: Snapshot, tenant: str, lock: str) -> Resource:
    return Resource(tenant, KIND, environment_name(lock), spec={"lock": lock}, state="PENDING", since=snapshot.now)


def again(snapshot: Snapshot, environment: Resource, event: str = "again") -> Put:
    """Asks for it to be built (again)."""
    after = ENVIRONMENT.move(environment, event, snapshot.now, attempts=0)
    return Put(replace(after, status=_without_mark(after)), environment.revision)


def _step(snapshot: Snapshot, environment: Resource) -> Iterator[Action]:
    match environment.state:
        case "PENDING":
            pause = FIRST_PAUSE_US * 2 ** (environment.attempts - 1) if environment.attempts else 0
            if snapshot.elapsed(environment.since) >= pause:
                yield from _start(snapshot, environment, "build", "build")
        case "BUILDING":
            yield from _follow_build(snapshot, environment)
        case "READY":
            yield from _look_for_users(snapshot, environment)
        case "FAILED":
            yield from _look_for_users(snapshot, environment)
        case "REMOVING":
            yield from _follow_removal(snapshot, environment)


def _start(snapshot: Snapshot, environment: Resource, event: str, work: str) -> Iterator[Action]:
    base = f"{environment.name}-{work}"
    name = f"{base}-{next_number(snapshot, environment.tenant, 'job', base)}"
    nobody = Resource(
        environment.tenant, "app", KIND, spec={"spec": AppSpec(name=KIND).to_json(), "code": {"bundle": "", "main": ""}}
    )
    job = new_job(
        snapshot,
        nobody,
        kind=KIND,
        target=environment.name,
        name=name,
        lane=environment.ref,
        inputs={"lock": environment.spec["lock"], "work": work},
        parent=environment.ref,
        limits=Limits(seconds=BUILD_SECONDS),
    )
    status = {**environment.status, "job": name}
    yield Put(ENVIRONMENT.move(environment, event, snapshot.now, status=status), environment.revision)
    yield Put(job, 0)


def _job(snapshot: Snapshot, environment: Resource) -> Resource | None:
    return snapshot.find(environment.tenant, "job", str(environment.status.get("job", "")))


def _follow_build(snapshot: Snapshot, environment: Resource) -> Iterator[Action]:
    job = _job(snapshot, environment)
    if job is None:
        yield _put(environment, "again", snapshot.now)
    elif job.state == "SUCCEEDED":
        status = {**environment.status, **job.status.get("outputs", {})}
        yield _put(environment, "built", snapshot.now, status=status, attempts=0)
    elif job.state in ("FAILED", "CANCELLED"):
        attempts = environment.attempts + 1
        passing = job.reason in PASSING and attempts < BUILD_TRIES
        told = {"reason": job.reason, "message": job.message, "next_action": job.next_action}
        if passing:
            told["next_action"] = f"It is tried again by itself. {job.next_action}".strip()
        yield _put(environment, "again" if passing else "failed", snapshot.now, attempts=attempts, **told)


def _look_for_users(snapshot: Snapshot, environment: Resource) -> Iterator[Action]:
    """Marks since when nobody names it; removes it when that is long ago."""
    since = environment.status.get("unused_since")
    told = {k: getattr(environment, k) for k in ("reason", "message", "next_action")}
    if _used(snapshot, environment):
        if since is not None:
            yield _put(environment, "seen", snapshot.now, status=_without_mark(environment), **told)
    elif since is None:
        status = {**environment.status, "unused_since": snapshot.now}
        yield _put(environment, "seen", snapshot.now, status=status, **told)
    elif snapshot.elapsed(int(since)) >= UNUSED_US:
        if environment.state == "FAILED" or _shared(snapshot, environment):
            yield Delete(*environment.key, environment.revision)
        else:
            yield from _start(snapshot, environment, "remove", "remove")


def _follow_removal(snapshot: Snapshot, environment: Resource) -> Iterator[Action]:
    """Whatever became of the removal: it is built again for who wants it, else forgotten."""
    job = _job(snapshot, environment)
    if job is None or job.state in ("SUCCEEDED", "FAILED", "CANCELLED"):
        if _used(snapshot, environment):
            yield again(snapshot, environment)
        else:
            yield Delete(*environment.key, environment.revision)


def _used(snapshot: Snapshot, environment: Resource) -> bool:
    return next(users(snapshot, environment), None) is not None


def _shared(snapshot: Snapshot, environment: Resource) -> bool:
    """Whether another tenant has the same lock, and with it the same folder."""
    return any(
        r.spec["lock"] == environment.spec["lock"] and r.tenant != environment.tenant and r.state != "FAILED"
        for r in snapshot.rows.every(KIND)
    )


def _without_mark(environment: Resource) -> dict[str, Any]:
    return {k: v for k, v in environment.status.items() if k != "unused_since"}


def _put(environment: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(ENVIRONMENT.move(environment, event, now, **changes), environment.revision)


def _waits(snapshot: Snapshot, environment: Resource) -> Iterator[str]:
    if environment.state in ("BUILDING", "REMOVING"):
        yield f"job/{environment.status['job']}"


ENVIRONMENT = Kind(KIND, "PENDING", TRANSITIONS, frozenset(), _step, _waits)
