"""Which of the jobs that wait may begin: a pure decision over all of them, made once a pass.

Higher priority first, first in first out within it, one at a time in a lane, and together never more than the machine
gives. The first that does not fit holds up those behind it: else a large job would wait for ever behind small ones.
Where it waits for GPUs alone, others that need none go on beside the cores and the memory that it will need. A job
whose lane is taken holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from skyriver.core.jobs import ENDED, Capacity, asked_by
from skyriver.core.resources import Key, Resource, Snapshot

TOLD = 10
"""So many at the head of the queue are told their place: to tell all of them would write all rows at every step."""
_USING = frozenset({"STARTING", "RUNNING", "CANCELLING"})
_IN_LANE = _USING | {"RECOVERING"}
"""One that is tried again keeps its lane: what comes after it in the lane may build upon it."""


@dataclass(frozen=True, slots=True)
class Admission:
    admitted: frozenset[Key] = frozenset()
    told: Mapping[Key, str] = field(default_factory=dict)
    """Of those that wait on: why, in words."""
    waits: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    """And for which jobs, as kind/name."""
    gpus: Mapping[Key, tuple[int, ...]] = field(default_factory=dict)
    """Of those that are admitted and asked for some: their places among the machine's."""


def admit(snapshot: Snapshot, capacity: Capacity) -> Admission:
    jobs = [job for job in snapshot.rows.every("job") if job.state not in ENDED]
    free = capacity
    lanes: dict[tuple[str, str], Resource] = {}
    running = [job for job in jobs if job.state in _USING]
    gpus = sorted(set(range(capacity.gpus)) - {gpu for job in running for gpu in job.status.get("gpus", ())})
    for job in jobs:
        if job.state in _IN_LANE:
            lanes[_lane(job)] = job
        if job.state in _USING:
            free = free.less(asked_by(job, capacity))
    admitted: set[Key] = set()
    told: dict[Key, str] = {}
    waits: dict[Key, tuple[str, ...]] = {}
    given: dict[Key, tuple[int, ...]] = {}
    first: Resource | None = None
    is_beside = False
    """What needs no GPU goes on: the first waits for GPUs, and its cores and memory are set aside."""
    for place, job in enumerate(sorted((j for j in jobs if j.state == "QUEUED"), key=_order)):
        asked = asked_by(job, capacity)
        before = lanes.setdefault(_lane(job), job)
        if before is not job:
            told[job.key] = f"It waits for {before.name}, which writes to the same place."
            waits[job.key] = (before.ref,)
        elif free.fits(asked) and asked.gpus <= len(gpus) and (first is None or (is_beside and not asked.gpus)):
            admitted.add(job.key)
            if asked.gpus:
                given[job.key], gpus = tuple(gpus[: asked.gpus]), gpus[asked.gpus :]
            free = free.less(asked)
        else:
            told[job.key] = _place(job, first or job, place - len(admitted), asked, free)
            before_it = running if first is None else [first]
            waits[job.key] = tuple(j.ref for j in before_it if j.tenant == job.tenant)
            if first is None:
                first, rest = job, replace(asked, gpus=0)
                if is_beside := free.fits(rest):
                    free = free.less(rest)
    return Admission(frozenset(admitted), told, waits, given)


def held_by_jobs(snapshot: Snapshot, capacity: Capacity) -> Capacity:
    """What those that run were admitted with, where jobs have `capacity`."""
    asked = [asked_by(job, capacity) for job in snapshot.rows.every("job") if job.state in _USING]
    return Capacity(sum(each.cpus for each in asked), sum(each.memory_mb for each in asked))


def _lane(job: Resource) -> tuple[str, str]:
    return (job.tenant, str(job.spec.get("lane", job.name)))


def _order(job: Resource) -> tuple[object, ...]:
    spec = job.spec
    return (-int(spec.get("priority", 0)), job.created_at, job.parent, spec.get("index") or 0, job.name)


def _place(job: Resource, first: Resource, place: int, asked: Capacity, free: Capacity) -> str:
    if job is first:
        return f"It is the next one. It asks for {asked}; free are {free}."
    if place < TOLD:
        head = first.name if first.tenant == job.tenant else "another tenant's"  # whose names are its own
        return f"It is number {place + 1} in the queue, behind {head}."
    return f"More than {TOLD} jobs are before it in the queue."


class Queue:
    """`admit`, once for each snapshot: every waiting job asks for the same decision."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._last: tuple[Snapshot, Admission] | None = None

    def decide(self, snapshot: Snapshot) -> Admission:
        last = self._last
        if last is not None and last[0] is snapshot:
            return last[1]
        found = admit(snapshot, self.capacity)
        self._last = (snapshot, found)
        return found
