"""How much is used, and by whom: from looks at a cloud to amounts. Pure.

What is reserved for a process is counted from its start to the last look that saw it alive. Time is that of the
machine's monotonic clock, which nobody sets and which goes on while the control plane is away; the wall clock only says
into which hour it goes. The mark says up to where everything is counted, and is written with what was counted, together
or not at all: what a control plane that was killed had not written is counted by the next one, once. What ended while
nobody looked is counted up to the last look at it: less than it was, never more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from skyriver.core.declared import service_spec
from skyriver.core.jobs import ENDED, asks_for
from skyriver.core.prices import EGRESS, STORAGE, held
from skyriver.core.resources import Limits, ProcessStatus, Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.usage import HOUR, HOURS_OF_DAYS, PREDICTIONS, Subject, Used, added
from skyriver.serve.sizing import memory_of

AWAY_MS: Final = 30_000
"""After so long without a look nobody knows when a job ended that has ended meanwhile."""
LONGEST_MS: Final = HOURS_OF_DAYS * 86_400_000
"""What lived on unseen for longer is counted for so long."""
_SECOND_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Counter:
    """A count of somebody who may begin anew: then it is of another `epoch`, or fell. Without one ("") it is of what
    outlives its process, and only what is above the most it ever was counts: it may be told again from the beginning.
    """

    key: str
    epoch: str
    value: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where all is counted."""

    boot: str
    """Which start of the machine `at_ms` is of."""
    at_ms: int
    wall: int
    revision: int = 0
    """Of the newest row of a job that was looked at."""
    known: Mapping[str, int] = field(default_factory=dict)
    """Processes that were alive -> when each began, wall microseconds."""
    counters: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By key: epoch and value."""

    def to_json(self) -> dict[str, Any]:
        counters = {key: list(told) for key, told in self.counters.items()}
        at = {"boot": self.boot, "at_ms": self.at_ms, "wall": self.wall, "revision": self.revision}
        return {**at, "known": dict(self.known), "counters": counters}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Mark:
        counters = {key: (str(epoch), int(value)) for key, (epoch, value) in told["counters"].items()}
        known = {name: int(began) for name, began in told["known"].items()}
        return cls(told["boot"], int(told["at_ms"]), int(told["wall"]), int(told["revision"]), known, counters)


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen at one moment. `sent`: bytes that the gateway has answered, by (counter, name of the process that
    answered); `stored`: bytes on the disk, by (tenant, whose they are), as they were measured last."""

    snapshot: Snapshot
    boot: str
    at_ms: int
    sent: Sequence[tuple[Counter, str]] = ()
    stored: Mapping[tuple[str, Subject], int] = field(default_factory=dict)


Counted = Mapping[tuple[str, int], Used]
"""By (tenant, beginning of the hour in wall microseconds)."""


def meter(mark: Mark | None, look: Look) -> tuple[Mark, Counted]:
    """What was used since `mark`. Without one nothing was counted before: what runs is counted from now on."""
    metering = _Metering(mark, look)
    metering.processes()
    metering.counters()
    metering.storage()
    return metering.mark(), metering.counted


class _Metering:
    """One look."""

    def __init__(self, mark: Mark | None, look: Look) -> None:
        self._before, self._look, self._snapshot = mark, look, look.snapshot
        same_boot = mark is not None and mark.boot == look.boot
        # After the machine was started anew nothing can have lived for longer than it runs.
        since = mark.at_ms if mark is not None and same_boot else 0 if mark is not None else look.at_ms
        self._passed = min(max(0, look.at_ms - since), LONGEST_MS)
        self._known = mark.known if mark is not None and same_boot else {}
        self._alive: dict[str, int] = {}
        self._owners: dict[str, tuple[str, Subject]] = {}
        self._counters = mark.counters if mark is not None else {}
        self._told: dict[str, tuple[str, int]] = {}
        self._revision = mark.revision if mark is not None else 0
        self.counted: dict[tuple[str, int], dict[Subject, dict[str, int]]] = {}

    def mark(self) -> Mark:
        look = self._look
        return Mark(look.boot, look.at_ms, self._snapshot.now, self._revision, self._alive, self._told)

    def processes(self) -> None:
        for row, subject, limits in reserved(self._snapshot, since=self._revision):
            process = self._snapshot.processes.get(row.process)
            self._owners[row.process] = row.tenant, subject
            lived = self._lived(process) if process is not None and process.alive else 0
            if process is not None and process.alive:
                self._alive[row.process] = process.started_at
            elif row.kind == "job":
                lived = self._ended(row)
            if row.kind == "job":
                self._scored(row)
            self._over_time(row.tenant, subject, held(limits, 1), lived)
        newest = max((row.revision for row in self._snapshot.rows.every("job")), default=0)
        self._revision = max(self._revision, newest)

    def _lived(self, process: ProcessStatus) -> int:
        """Milliseconds since the mark. One that the mark does not know began after it."""
        if self._known.get(process.name) == process.started_at:
            return self._passed
        return min(max(0, self._snapshot.now - process.started_at) // 1_000, self._passed)

    def _ended(self, job: Resource) -> int:
        """Of an attempt whose end its row has told since the mark; its process is not there to be asked."""
        over = job.state in ENDED or job.state == "RECOVERING"
        if not over or self._before is None or job.revision <= self._before.revision or self._passed > AWAY_MS:
            return 0
        began = int(job.status.get("start_time", 0))
        since = max(began, self._before.wall) if job.process in self._known else began
        return min(max(0, job.since - since) // 1_000, self._passed) if began else 0

    def _scored(self, job: Resource) -> None:
        """Rows of a prediction of many, once its row tells that it has succeeded."""
        if self._before is None or job.state != "SUCCEEDED" or job.revision <= self._before.revision:
            return
        counts = (job.status.get("outputs") or {}).get("counts") or {}
        if (rows := counts.get("rows_scored")) and isinstance(rows, int):
            self._add(job.tenant, self._snapshot.now // HOUR * HOUR, of_job(job), {PREDICTIONS: rows})

    def counters(self) -> None:
        names = {row.process for kind in ("replica", "worker") for row in self._snapshot.rows.every(kind)}
        gateway = () if self._look.sent else self._counters
        # Who has not told its count just now will tell it again.
        self._told = {key: told for key, told in self._counters.items() if key in names or key in gateway}
        for row in self._snapshot.rows.every("replica"):
            process = self._snapshot.processes.get(row.process)
            if process is not None and "rows" in process.report:
                counter = Counter(row.process, str(process.started_at), int(process.report["rows"]))
                self._count(row.tenant, of_replica(self._snapshot, row), PREDICTIONS, counter)
        for row in self._snapshot.rows.every("worker"):
            process = self._snapshot.processes.get(row.process)
            if process is not None and process.report.get("ready"):  # it counts over the ends of its process
                counter = Counter(row.process, "", int(process.report.get("decided", 0)))
                self._count(row.tenant, of_worker(self._snapshot, row), PREDICTIONS, counter)
        for counter, process_name in self._look.sent:
            tenant = process_name.partition(".")[0]
            owner = self._owners.get(process_name, (tenant, Subject("", "other", "gateway")))
            self._count(*owner, EGRESS, counter)

    def _count(self, tenant: str, subject: Subject, name: str, counter: Counter) -> None:
        epoch, most = self._counters.get(counter.key, ("", counter.value))
        if not counter.epoch:
            grown, most = counter.value - most, max(counter.value, most)
        elif epoch == counter.epoch and counter.value >= most:
            grown, most = counter.value - most, counter.value
        else:  # another one than was counted, or it began anew; where nothing was counted yet, from now on
            grown, most = counter.value if self._before is not None else 0, counter.value
        self._told[counter.key] = counter.epoch, most
        if grown > 0:
            self._add(tenant, self._snapshot.now // HOUR * HOUR, subject, {name: grown})

    def storage(self) -> None:
        for (tenant, subject), size in self._look.stored.items():
            self._over_time(tenant, subject, {STORAGE: size}, self._passed)

    def _over_time(self, tenant: str, subject: Subject, each: Mapping[str, int], milliseconds: int) -> None:
        """The amounts of a millisecond `each`, into the hours that they were used in."""
        for hour, part in _hours(self._snapshot.now, milliseconds) if each else ():
            self._add(tenant, hour, subject, {name: amount * part for name, amount in each.items() if amount})

    def _add(self, tenant: str, hour: int, subject: Subject, amounts: Mapping[str, int]) -> None:
        if not amounts:
            return
        own = self.counted.setdefault((tenant, hour), {}).setdefault(subject, {})
        for name, amount in amounts.items():
            own[name] = own.get(name, 0) + amount


def _hours(now: int, milliseconds: int) -> Iterator[tuple[int, int]]:
    """(beginning of an hour, milliseconds in it) of the last `milliseconds`; together as many."""
    end = now
    while milliseconds > 0:
        hour = (end - 1) // HOUR * HOUR
        part = min(milliseconds, max(1, (end - hour) // 1_000))
        yield hour, part
        milliseconds -= part
        end = hour


# Whose a process is, and what is reserved for it.


def reserved(snapshot: Snapshot, *, since: int = 0) -> Iterator[tuple[Resource, Subject, Limits]]:
    """Replicas, workers, and jobs that are not over, or whose row is past the revision `since`. Of a replica that
    declares no memory what was measured counts. A stream's worker and a job that declare nothing count as a core and
    512 MB, as they do when jobs are given their turn. Of what serves
    all services or streams of a tenant (activator, dispatchers) none is counted."""
    for row in snapshot.rows.every("replica"):
        service = snapshot.find(row.tenant, *row.parent.split("/", 1))
        serve = service_spec(service.spec["serve"]) if service is not None else ServiceSpec()
        memory_mb = memory_of(service) if service is not None else serve.memory_mb
        yield row, of_replica(snapshot, row), Limits(cpus=serve.cpus, memory_mb=memory_mb)
    for row in snapshot.rows.every("worker"):
        yield row, of_worker(snapshot, row), _limits({})
    for row in snapshot.rows.every("job"):
        if row.state in ENDED and row.revision <= since and row.process not in snapshot.processes:
            continue
        yield row, of_job(row), _limits(row.spec.get("limits", {}), row.status.get("workers", 0))


def _limits(declared: Mapping[str, Any], workers: int = 0) -> Limits:
    asked = asks_for(declared, workers)
    accelerators = {kind: count * max(1, workers) for kind, count in declared.get("accelerators", {}).items()}
    return Limits(asked.cpus, asked.memory_mb, accelerators)


def of_replica(snapshot: Snapshot, replica: Resource) -> Subject:
    return _of_parent(snapshot, replica, "service")


def of_worker(snapshot: Snapshot, worker: Resource) -> Subject:
    return _of_parent(snapshot, worker, "stream")


def _of_parent(snapshot: Snapshot, row: Resource, kind: str) -> Subject:
    name = row.parent.partition("/")[2]
    return Subject(app_of(snapshot.find(row.tenant, kind, name)), kind, name)


def of_job(job: Resource) -> Subject:
    """All runs of one thing are one: the job that is declared, or what is done (train, load, ...) with what."""
    spec = job.spec
    name = str(spec["target"]) if spec["kind"] == "call" else f"{spec['kind']}-{spec['target']}"
    return Subject(str((spec.get("app") or {}).get("name", "")), "job", name)


def app_of(row: Resource | None) -> str:
    """ "" of what is of no application."""
    kind, _, name = row.parent.partition("/") if row is not None else ("", "", "")
    return name if kind == "app" else ""


def total(counted: Counted, tenants: Iterable[str] = ()) -> dict[Subject, dict[str, int]]:
    """Over all hours (and the tenants named, or all): for tests and for what is printed."""
    wanted, found = set(tenants), dict[Subject, dict[str, int]]()
    for (tenant, _), used in counted.items():
        if not wanted or tenant in wanted:
            found = added(found, used)
    return found
