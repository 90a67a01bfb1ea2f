"""Words of jobs that all rooms share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from skyriver.core.resources import GPU, UNDECLARED_MB, Limits, Resource, Snapshot

ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
"""States that a job or an operation does not leave."""


class Progress(Protocol):
    """Tells how far a step of a job is; `total` 0 means that it is not known. Cheap: call it as often as you like."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


class Fault(StrEnum):
    """Whose fault the end of an attempt was, which decides whether there is another one."""

    MACHINE = "machine"
    """Nothing in the job: it is tried again up to MACHINE_RETRIES times, unless its author said it must not be."""
    OWN = "own"
    """Its author's code: it is tried again as often as the author declared."""
    NOBODY = "nobody"
    """Somebody took the cloud down while it ran: it begins again, and that counts for nothing."""
    FINAL = "final"
    """It would end like that again."""


class Ending(StrEnum):
    """Why an attempt of a job ended. Beside these there are the codes of the error tree, as the work raised them: those
    of Unavailable are the machine's fault, all others are final."""

    SIGNALLED = "SIGNALLED"
    """By a signal that we did not send and that it did not bring upon itself: somebody's kill -9."""
    CRASHED = "CRASHED"
    """By a signal that a program brings upon itself, as SIGSEGV."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMED_OUT = "TIMED_OUT"
    EXITED = "EXITED"
    """By itself, before its work was done."""
    CLOUD_DOWN = "CLOUD_DOWN"
    """The cloud was taken down while it ran."""
    LOST = "LOST"
    """Its process is gone without a word: the machine was restarted, or its run file removed."""
    ENDED_UNSEEN = "ENDED_UNSEEN"
    """It ended, and nobody saw how."""
    START_FAILED = "START_FAILED"
    USER_ERROR = "USER_ERROR"
    """The user's function raised, or gave what cannot be taken."""
    INPUT_FAILED = "INPUT_FAILED"
    """What it needs failed or was cancelled: it never began."""
    ENVIRONMENT_FAILED = "ENVIRONMENT_FAILED"
    NEVER_FITS = "NEVER_FITS"
    """It asks for more than the whole machine has."""
    CANCELLED = "CANCELLED"


FAULTS: Mapping[Ending, Fault] = MappingProxyType(
    {
        Ending.SIGNALLED: Fault.MACHINE,
        Ending.CLOUD_DOWN: Fault.NOBODY,
        Ending.CRASHED: Fault.OWN,
        Ending.OUT_OF_MEMORY: Fault.OWN,
        Ending.TIMED_OUT: Fault.OWN,
        Ending.EXITED: Fault.OWN,
        Ending.LOST: Fault.MACHINE,
        Ending.ENDED_UNSEEN: Fault.MACHINE,
        Ending.START_FAILED: Fault.MACHINE,
        Ending.USER_ERROR: Fault.OWN,
        Ending.INPUT_FAILED: Fault.FINAL,
        Ending.ENVIRONMENT_FAILED: Fault.FINAL,
        Ending.NEVER_FITS: Fault.FINAL,
        Ending.CANCELLED: Fault.FINAL,
    }
)

PROPOSABLE = frozenset({"version"})
"""Kinds of rows that a job may propose with its outputs. Its report comes from a process that runs users' code: nobody
must get a token by one."""
MACHINE_RETRIES = 3
FIRST_PAUSE_US = 1_000_000
LONGEST_PAUSE_US = 300_000_000


def pause_before_retry(attempts: int) -> int:
    """Microseconds from the end of attempt number `attempts` to the next one: 1 s, doubled each time, at most 5 min."""
    return min(FIRST_PAUSE_US << min(attempts - 1, 30), LONGEST_PAUSE_US)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine gives to jobs, or a job asks of it."""

    cpus: float
    memory_mb: int
    gpus: int = 0

    def fits(self, asked: Capacity) -> bool:
        return asked.cpus <= self.cpus and asked.memory_mb <= self.memory_mb and asked.gpus <= self.gpus

    def less(self, taken: Capacity) -> Capacity:
        return Capacity(self.cpus - taken.cpus, self.memory_mb - taken.memory_mb, self.gpus - taken.gpus)

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else ""
        return f"{self.cpus:g} cores{gpus} and {self.memory_mb:,} MB"


def never_fits(asked: Capacity, most: Capacity) -> tuple[str, str]:
    """What to say of it where jobs have `most`, and what to do."""
    if asked.gpus > most.gpus:
        has = f"has {most.gpus}" if most.gpus else "has none that it may use"
        return (
            f"asks for {asked.gpus} GPU{'' if asked.gpus == 1 else 's'}, and this machine {has}.",
            "Ask for fewer with gpus=, or leave it out to run on the CPU; or run it on a machine with GPUs.",
        )
    told = f"asks for {asked}; this machine gives jobs {most} in all."
    return told, "Ask for less with cpus= and memory=, or run it on a larger machine."


def asks_for(limits: Mapping[str, Any], workers: int = 0) -> Capacity:
    """What a job counts as: its limits; one that declares none counts as a core and 512 MB, and may use more. Each of
    the `workers` among which it is spread counts with a core, with as much memory as the job, and with the GPUs."""
    cpus, memory_mb = float(limits.get("cpus") or 1.0), int(limits.get("memory_mb") or UNDECLARED_MB)
    return Capacity(max(cpus, float(workers)), memory_mb * (1 + workers), _gpus(limits) * max(1, workers))


def reserved_by_training() -> Limits:
    """And by a job that searches for one: what it costs."""
    asked = asks_for({})
    return Limits(asked.cpus, asked.memory_mb)


def _gpus(limits: Mapping[str, Any]) -> int:
    return int((limits.get("accelerators") or {}).get(GPU, 0))


def asked_by(job: Resource, most: Capacity) -> Capacity:
    """What it counts as where jobs have `most`: one whose work is spread has as many workers as there is room for."""
    return asks_for(job.spec.get("limits", {}), workers_of(job, most))


def workers_of(job: Resource, most: Capacity) -> int:
    """Among how many processes its work is spread, where jobs have `most`; 0: it is not spread."""
    limits = job.spec.get("limits", {})
    room = min(int(most.cpus), most.memory_mb // asks_for(limits).memory_mb - 1)
    if gpus := _gpus(limits):
        room = min(room, most.gpus // gpus)
    return min(int(job.spec.get("workers", 0)), max(1, room))


def new_job(
    snapshot: Snapshot,
    app: Resource,
    *,
    kind: str,
    target: str,
    name: str,
    lane: str,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    needs: Sequence[str] = (),
    tables: Sequence[str] = (),
    parent: str = "",
    title: str = "",
    index: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
    retries: int = 0,
    repeatable: bool = True,
    priority: int = 0,
    slot: str = "",
    runs_code: bool = False,
    workers: int = 0,
) -> Resource:
    """A job of `app` that does `kind` of work on `target`.

    `lane` names what it writes to: jobs of one lane run one after the other. `needs` are jobs whose outputs are
    its inputs, each under its `title` (its kind, unless given; of an array a list in the order of `index`); `tables`
    are those whose recorded versions it must know. What it does MUST be safe to do again unless it is not
    `repeatable`. `slot` is the time of a schedule that it runs for. One that `runs_code` of the user does so in the
    application's environment. `workers`: processes among which its work is spread, at most.
    """
    return Resource(
        tenant=app.tenant,
        kind="job",
        name=name,
        spec={
            "kind": kind,
            "app": app.spec["spec"],
            "code": app.spec["code"],
            "target": target,
            "params": dict(params or {}),
            "inputs": dict(inputs or {}),
            "needs": list(needs),
            "tables": list(tables),
            "lane": lane,
            "title": title or kind,
            "index": index,
            "limits": asdict(limits),
            "retries": retries,
            "repeatable": repeatable,
            "priority": priority,
            "slot": slot,
            "environment": app.spec.get("environment", "") if runs_code else "",
            **({"workers": workers} if workers else {}),
        },
        state="PENDING",
        parent=parent,
        since=snapshot.now,
    )


def title_of(job: Resource) -> str:
    return str(job.spec.get("title") or job.spec["kind"])


def outputs_by_title(jobs: Sequence[Resource]) -> dict[str, Any]:
    """What jobs gave, under the title of each; of an array the list, in the order of its index."""
    found: dict[str, Any] = {}
    for job in jobs:
        outputs = job.status.get("outputs", {})
        if job.spec.get("index") is None:
            found[title_of(job)] = outputs
        else:
            found.setdefault(title_of(job), []).append(outputs)
    return found


def new_operation(
    snapshot: Snapshot,
    tenant: str,
    name: str,
    *,
    action: str,
    target: str,
    jobs: Sequence[str] = (),
    follow: Sequence[str] = (),
    parent: str = "",
) -> Resource:
    """What a caller waits for: done when `jobs` and all that they made, and the resources in `follow`, are."""
    return Resource(
        tenant=tenant,
        kind="operation",
        name=name,
        spec={"action": action, "target": target, "jobs": list(jobs), "follow": list(follow)},
        state="ACCEPTED",
        parent=parent,
        since=snapshot.now,
    )


def next_number(snapshot: Snapshot, tenant: str, kind: str, prefix: str) -> int:
    """One more than the highest N among the names PREFIX-N of a kind."""
    taken = (r.name for r in snapshot.all(tenant, kind))
    numbers = (n.rpartition("-") for n in taken)
    return max((int(n) for head, _, n in numbers if head == prefix and n.isdigit()), default=0) + 1
