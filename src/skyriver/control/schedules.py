"""The kind `schedule`: jobs that begin by the clock.

A schedule keeps the last time that it has dealt with (`cursor`) and the next one. A clock may jump. Forward: what it
jumped over was missed, and goes by the schedule's policy, never more than MISSED_LIMIT runs. Back: a time that was
dealt with is not dealt with again. But when the clock is set back by more than JUMP_US it was wrong before, and the
schedule goes on from the new time instead of resting until the old one; a time that it has a run of is not run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skyriver.control.running import plan_run
from skyriver.core.cron import last_slots, next_slot
from skyriver.core.errors import Conflict, SkyriverError
from skyriver.core.jobs import ENDED, new_operation, next_number
from skyriver.core.resources import Action, Delete, Kind, Put, Resource, Snapshot, need
from skyriver.core.spending import check_spending
from skyriver.core.units import iso_seconds

MISSED_LIMIT = 100
LATE_US = 60_000_000
"""A time that passed so long ago was missed."""
JUMP_US = 2 * 86_400_000_000
KEPT_RUNS = 50
KEPT_JOBS = 2_000
"""Runs of a schedule that are kept when they have ended, and how many jobs they may have in all."""

SCHEDULE_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("ACTIVE", "ran"): "ACTIVE",
    ("ACTIVE", "waits"): "ACTIVE",
    ("ACTIVE", "pause"): "PAUSED",
    ("PAUSED", "resume"): "ACTIVE",
}


def _step_schedule(snapshot: Snapshot, schedule: Resource) -> Iterator[Action]:
    if schedule.state != "ACTIVE":
        return
    status, cron = schedule.status, schedule.spec["cron"]
    cursor = int(status.get("cursor_time", -1))
    if status.get("of") != cron or cursor > snapshot.now + JUMP_US:
        yield _put(schedule, "waits", snapshot.now, status=_from_now(schedule, snapshot.now))
        return
    following = status.get("next_time")
    if following is None or following > snapshot.now or cursor > snapshot.now:
        return
    running = [r for r in snapshot.children(schedule, "operation") if r.state not in ENDED]
    if running and not cron["overlap"]:
        message = f"{running[0].name} still runs; the next run begins when it has ended."
        if schedule.message != message:
            yield _put(schedule, "waits", snapshot.now, reason="OVERLAP", message=message)
        return
    yield from _begin(snapshot, schedule, cursor)


def _begin(snapshot: Snapshot, schedule: Resource, cursor: int) -> Iterator[Action]:
    """The run that is due, if the policy has one, and the schedule as it is then."""
    slot, cursor, following = *_choose(schedule, cursor, snapshot.now), int(schedule.status["next_time"])
    status = {**schedule.status, "cursor_time": cursor, "next_time": _next(schedule, cursor)}
    if slot is None:
        told = {"reason": "MISSED", "message": f"{iso_seconds(following)} was missed, and is not caught up with."}
        yield _put(schedule, "waits", snapshot.now, status=status, **told)
        return
    try:
        made = plan_run(snapshot, schedule.tenant, schedule.name, {}, {}, parent=schedule.ref, slot=iso_seconds(slot))
        check_spending(snapshot, schedule.tenant, made)
    except SkyriverError as error:
        told = {"reason": error.code, "message": error.message, "next_action": error.next_action}
        yield _put(schedule, "waits", snapshot.now, status=status, **told)
        return
    for row in made:
        yield Put(row, 0)
    runs = [*schedule.status.get("runs", ()), {"slot": slot, "run": made[0].name}][-KEPT_RUNS:]
    yield _put(schedule, "ran", snapshot.now, status={**status, "runs": runs, "last_time": slot})
    yield from _forget(snapshot, schedule)


def _choose(schedule: Resource, cursor: int, now: int) -> tuple[int | None, int]:
    """Which of the times that are due is run now, and up to which all have been dealt with then."""
    cron = schedule.spec["cron"]
    limit = MISSED_LIMIT if cron["missed"] == "all" else 1
    due = last_slots(cron["expression"], cron["zone"], cursor, now, limit)
    ran = {run["slot"] for run in schedule.status.get("runs", ())}
    due = [slot for slot in due if slot not in ran]
    if not due or (cron["missed"] == "skip" and now - due[-1] > LATE_US):
        return None, now
    return due[0], due[0]


def _from_now(schedule: Resource, now: int) -> dict[str, Any]:
    """Its status when it begins, begins anew, or was changed: what was before is not caught up with."""
    status = {**schedule.status, "of": dict(schedule.spec["cron"]), "cursor_time": now}
    return {**status, "next_time": _next(schedule, now)}


def _next(schedule: Resource, after: int) -> int | None:
    cron = schedule.spec["cron"]
    return next_slot(cron["expression"], cron["zone"], after)


def _forget(snapshot: Snapshot, schedule: Resource) -> Iterator[Action]:
    ended = [r for r in snapshot.children(schedule, "operation") if r.state in ENDED]
    ended.sort(key=lambda r: int(r.name.rpartition("-")[2]), reverse=True)
    kept_jobs = 0
    for place, run in enumerate(ended):
        kept_jobs += len(run.spec.get("jobs", ()))
        if place >= KEPT_RUNS or (kept_jobs > KEPT_JOBS and place > 0):
            yield Delete(*run.key, run.revision)
            yield from (Delete(*job.key, job.revision) for job in snapshot.children(run, "job"))


def plan_pause(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """A schedule begins nothing until it is resumed; what runs goes on."""
    return _switch(snapshot, tenant, target, "pause")


def plan_resume(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """A schedule goes on with its next time; those in the pause were not missed."""
    return _switch(snapshot, tenant, target, "resume")


def _switch(snapshot: Snapshot, tenant: str, target: str, event: str) -> list[Resource]:
    schedule = need(snapshot.find(tenant, "schedule", target), "schedule", target)
    if (schedule.state, event) not in SCHEDULE_TRANSITIONS:
        raise Conflict(
            f"The schedule {target} is {schedule.state} already.",
            code=f"ALREADY_{schedule.state}",
            next_action=f"`skyriver schedule get {target}` shows when it runs next.",
        )
    told = {}
    if event == "pause":
        told = {"reason": "ON_REQUEST", "message": "Paused.", "next_action": f"`skyriver schedule resume {target}`."}
    changed = replace(schedule, status={**schedule.status, "of": None} if event == "resume" else schedule.status)
    name = f"{target}-{event}-{next_number(snapshot, tenant, 'operation', f'{target}-{event}')}"
    operation = new_operation(snapshot, tenant, name, action=event, target=target)
    return [operation, SCHEDULE.move(changed, event, snapshot.now, **told)]


def _put(schedule: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(SCHEDULE.move(schedule, event, now, **changes), schedule.revision)


def _schedule_waits(snapshot: Snapshot, schedule: Resource) -> Iterator[str]:
    yield from (r.ref for r in snapshot.children(schedule, "operation") if r.state not in ENDED)


SCHEDULE = Kind("schedule", "ACTIVE", SCHEDULE_TRANSITIONS, frozenset(), _step_schedule, _schedule_waits)
