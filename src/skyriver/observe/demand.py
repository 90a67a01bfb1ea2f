"""What is asked of an elastic service, and what its replicas can do of it: from their reports, every few seconds. Pure.

Work is measured in replica-seconds: a request is worth what it keeps a replica busy, by the longer of its model's runs
and its processor time. Where requests share runs within an objective, a request is worth what it takes in a run that is
as large as it may be (`full_runs`). A number that cannot be true, or that nobody tells, makes the whole look of that
service stale: whoever scales by it holds then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from skyriver.core.declared import service_spec
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.rows import are_same
from skyriver.core.spec import AppSpec, ServiceSpec
from skyriver.core.units import SECOND
from skyriver.observe.full_runs import LEAST_WORK_S, Batch, Ran, Taken, in_full_runs
from skyriver.observe.told import Grown, Teller, Untrue, histogram, number, slow_and_fastest
from skyriver.serve.kinds import serves
from skyriver.serve.objective import never_answers, row_us
from skyriver.serve.sizing import sized
from skyriver.serve.sleeping import activator_of

LOOK_S: Final = 5.0
"""Between two looks."""
QUICK_S: Final = 1.0
QUICK_HOLD_S: Final = 60.0
"""Services that hold for less are looked at every QUICK_S: of a hold of seconds there must be several looks."""
SILENT_S: Final = 8.0
"""A replica whose report is older is not counted on: it tells every 5 s that it lives."""
GAP_S: Final = 15.0
"""After a look so long ago nothing is known."""
START_S: Final = 3.0
"""A start, before one was seen."""
STARTS: Final = 20
START_SHARE: Final = 0.9
"""Of the last STARTS, that took no longer than what is told."""
OVERDUE_TIMES: Final = 3.0
OVERDUE_S: Final = 10.0
"""A start that takes so many times as long as usual, and this at least, is not counted on."""
HALF_S: Final = 30.0
"""Of time with requests, after which what one took counts half."""
PRIOR: Final = 10.0
"""Requests that what was measured of the model alone, before anybody asked, is worth."""
SLOWEST: Final = 0.01
"""Of the answers, that may take longer than what is told of all."""
ABSURD: Final = 1000.0
"""More than so many times what one replica could do is no measure."""
OVERRUN: Final = 10.0
"""The same of the time that its runs took: they follow one another."""

Measurable = Mapping[str, tuple[Resource, ServiceSpec]]
"""Services by tenant/name."""


class Measured(NamedTuple):
    """Of one service, in the time between two looks. Without `stale` everything counts; with it only `ready`, `pending`
    and `start_s` do."""

    ready: int = 0
    pending: int = 0
    start_s: float = START_S
    requests: float = 0.0
    """How many came."""
    judged: float = 0.0
    """Answered, or given up."""
    late: float = 0.0
    """Of these: too late, refused for want of room, given up."""
    answered: float = 0.0
    """Answered, or given up, in whole requests: `judged` is of as much time as is between two looks, however long ago
    the last one was."""
    missed: float = 0.0
    """Of `answered`: too late, also by an objective that no number of replicas keeps, refused for want of room, given
    up."""
    waiting: float = 0.0
    """That wait or are under way now."""
    work: float = 0.0
    """Replica-seconds that came."""
    backlog: float = 0.0
    """Replica-seconds that wait or are under way."""
    work_s: float = 0.0
    """Replica-seconds of a request; 0: not known yet."""
    alone_s: float = 0.0
    """The same of one that has a run for itself."""
    queue_s: float = 0.0
    """What one that waits is kept by each that is before it, where part of the latency goes for full runs."""
    batch: int = 0
    """Rows that may share a run; 0: no objective and curve to go by."""
    fastest_s: float = 0.0
    """The shortest that an answer took, or one row takes the model alone; 0: not known yet."""
    possible: bool = True
    """Some number of replicas may keep the objective; else slow answers do not count as late."""
    stale: str = ""
    """Why the numbers are not to be used."""
    notes: tuple[str, ...] = ()
    cores: float = 0.0
    """That the replica took which took most of a processor; and `rss_mb` the one with the most memory."""
    rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class _Members:
    """Of one service: its replicas, for as long as none of their rows changes."""

    rows: Sequence[Resource]
    versions: Mapping[str, Any]
    each: tuple[tuple[Resource, str], ...]
    """(row, name of its process)."""
    main: str
    """The version with the most weight: each has as many replicas, and this one gets the most requests."""
    ready: int
    """Of the main version, where every row is READY; else -1, and how they are is to be looked at."""

    @classmethod
    def of(cls, rows: Sequence[Resource], versions: Mapping[str, Any]) -> _Members:
        main = max(versions, key=lambda v: (int(versions[v]["weight"]), int(v)))
        ready = sum(str(row.spec["version"]) == main for row in rows)
        all_are = all(row.state == "READY" for row in rows)
        return cls(rows, versions, tuple((row, row.process) for row in rows), main, ready if all_are else -1)


@dataclass(slots=True)
class _Memory:
    """Of one service."""

    work: float = 0.0
    requests: float = 0.0
    """Decayed sums, whose ratio is what a request takes."""
    runs: float = 0.0
    rows: float = 0.0
    run_s: float = 0.0
    """The same of what these requests ran in."""
    batch: Batch | None = None
    row_s: float = 0.0
    work_s: float = 0.0
    """Of a request; 0: nothing is known."""
    idle_cpu: float = 0.0
    """Of a core, that a replica takes which nobody asks."""
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=STARTS))
    start_s: float = START_S
    """That most of them took no longer than."""
    started: set[tuple[str, int]] = field(default_factory=set)
    members: _Members = field(default_factory=lambda: _Members((), {}, (), "", 0))
    tellers: dict[str, Teller] = field(default_factory=dict)
    """By process; of those that told something at the last look."""
    held: Mapping[str, float] = field(default_factory=dict)
    """What the activator said of it."""
    looked: bool = False

    def reckon(self) -> None:
        """`work_s`, after what it is made of changed."""
        prior = PRIOR if self.row_s else 0.0
        known = self.requests + prior
        self.work_s = max(LEAST_WORK_S, (self.work + prior * self.row_s) / known) if known else 0.0

    def told(self) -> dict[str, Any]:
        of = self.requests or 1.0
        ran = {"runs": self.runs / of, "rows": self.rows / of, "run_s": self.run_s / of}
        return {"work_s": self.work_s, "starts": list(self.starts), **ran}

    def taken(self, latency_us: int) -> Taken:
        """By a request; in full runs where there is an objective."""
        if self.batch is None or not latency_us or not (self.runs or self.row_s):
            return Taken(self.work_s, self.work_s, self.work_s, 0)
        prior = PRIOR if self.row_s else 0.0
        run_s, runs, rows = (
            (of + prior * one) / (self.requests + prior)
            for of, one in ((self.run_s, self.row_s), (self.runs, 1.0), (self.rows, 1.0))
        )
        return in_full_runs(Ran(self.work_s, run_s, runs, rows), self.batch, latency_us / SECOND)

    def note_starts(self, starts: Iterable[float]) -> None:
        self.starts.extend(starts)
        if self.starts:
            self.start_s = sorted(self.starts)[min(len(self.starts) - 1, int(START_SHARE * len(self.starts)))]


Services = Callable[[Snapshot, float], Iterator[tuple[Resource, ServiceSpec]]]
"""Of a snapshot: those that are looked at every so many seconds."""


class DemandMeter:
    """`look` is called by one thread, every `look_s`, of which it tells then. What it remembers is bounded by the
    services there are."""

    def __init__(
        self,
        remembered: Mapping[str, Any] | None = None,
        look_s: float = LOOK_S,
        services: Services | None = None,
    ) -> None:
        """`services`: those that are measured; the elastic ones unless given."""
        self._among, self._look_s = services or elastic_services, look_s
        self.services: Measurable = {}
        """That were looked at last: the same mapping, for as long as no row of a service changes."""
        self._of: dict[str, _Memory] = {}
        self._rows: Sequence[Resource] | None = None
        self._replicas: Sequence[Resource] = ()
        """Of the last look."""
        self._second = 0.0
        self._now = 0
        for key, known in (remembered or {}).items():
            memory = self._of[key] = _Memory()
            memory.work, memory.requests = float(known["work_s"]) * PRIOR, PRIOR if known["work_s"] else 0.0
            ran = {"runs": 1.0, "rows": 1.0, "run_s": known["work_s"], **known}
            memory.runs, memory.rows, memory.run_s = (
                float(ran[what]) * memory.requests for what in ("runs", "rows", "run_s")
            )
            memory.reckon()
            memory.note_starts(float(start) for start in known["starts"][-STARTS:])

    def remember(self) -> dict[str, Any]:
        """JSON, from which another one goes on."""
        return {key: memory.told() for key, memory in self._of.items()}

    def look(self, snapshot: Snapshot, second: float, *, unseen_s: float = 0.0) -> dict[str, Measured]:
        """Of each of these services, by tenant/name. `second`: monotonic; `unseen_s`: so long ago the control plane
        looked at processes last."""
        seconds, self._second = second - self._second if self._second else 0.0, second
        last, self._now = self._now, snapshot.now
        rows, replicas = snapshot.rows.every("service"), snapshot.rows.every("replica")
        if is_new := self._rows is None or not are_same(rows, self._rows):
            among = self._among(snapshot, self._look_s)
            self.services = {f"{service.tenant}/{service.name}": (service, spec) for service, spec in among}
            self._of = {key: self._of.get(key) or _Memory() for key in self.services}
        if is_new or not are_same(replicas, self._replicas):
            for key, memory in self._of.items():
                _follow(memory, snapshot, self.services[key][0])
        self._rows, self._replicas = rows, replicas
        time = _Time(seconds, self._look_s, last, unseen_s, seconds + LOOK_S, self._look_s / max(seconds, 0.1))
        return {key: _measured(memory, snapshot, *self.services[key], time) for key, memory in self._of.items()}


@dataclass(frozen=True, slots=True)
class _Time:
    """Of a look."""

    seconds: float
    """Since the look before."""
    look_s: float
    last: int
    """Wall microseconds of the look before."""
    unseen_s: float
    could_s: float
    """In which a replica did what it tells now, at most."""
    scale: float
    """Of what grew to what is told of."""


def look_s_of(spec: ServiceSpec) -> float:
    """Between two looks at the service."""
    hold_us = spec.hold_us
    return QUICK_S if hold_us is not None and hold_us < QUICK_HOLD_S * SECOND else LOOK_S


def elastic_services(snapshot: Snapshot, look_s: float = 0.0) -> Iterator[tuple[Resource, ServiceSpec]]:
    """Those whose replicas follow the load, and that have a version; of these those that are looked at every `look_s`,
    where that is given."""
    for service in snapshot.rows.every("service"):
        serve = service.spec["serve"]
        declared = serve.get("replicas")
        if declared is None or isinstance(declared, int) or not service.spec.get("versions"):
            continue  # most are so, and to look at them is cheaper than to read them
        spec = service_spec(serve)
        if spec.elastic and (not look_s or look_s == look_s_of(spec)):
            yield service, sized(service, spec)


def fixed_services(snapshot: Snapshot, look_s: float = LOOK_S) -> Iterator[tuple[Resource, ServiceSpec]]:
    """The others that have a version."""
    for service in snapshot.rows.every("service"):
        declared = service.spec["serve"].get("replicas", 1)
        is_elastic = not isinstance(declared, int) and declared[1] > max(declared[0], 1)
        if service.spec.get("versions") and not is_elastic:
            yield service, service_spec(service.spec["serve"])


def _measured(memory: _Memory, snapshot: Snapshot, service: Resource, spec: ServiceSpec, time: _Time) -> Measured:
    members = memory.members
    notes: tuple[str, ...] = ()
    ready, pending, failed = members.ready, 0, 0
    if ready < 0:
        ready, pending, failed, notes = _capacity(memory, snapshot, members)
    looked, memory.looked = memory.looked, True
    try:
        grown, silent = _grown(memory, snapshot, service, spec, members, time)
    except Untrue as error:
        memory.looked, memory.tellers = False, {}  # what is compared with is not true either
        return Measured(ready, pending, memory.start_s, stale=str(error), notes=notes)
    if silent:
        notes += tuple(f"The replica {name} tells nothing: it is not counted on." for name in silent)
        ready = max(0, ready - len(silent))
    if stale := _stale(looked, time, ready, silent, failed):
        return Measured(ready, pending, memory.start_s, work_s=memory.work_s, stale=stale, notes=notes)
    _note_work(memory, grown, time.seconds, ready or 1)
    taken, scale = memory.taken(spec.latency_us), time.scale
    waiting, fastest_us, rss_mb = memory.held.get("waiting", 0.0), 0.0, 0.0
    for teller in memory.tellers.values():
        waiting += teller.waiting
        if teller.fastest_us and not 0 < fastest_us <= teller.fastest_us:
            fastest_us = teller.fastest_us
        if teller.rss_mb > rss_mb:
            rss_mb = teller.rss_mb
    fastest_s = fastest_us / SECOND if fastest_us > memory.row_s * SECOND else memory.row_s
    possible = not spec.cannot_keep(fastest_s * SECOND)
    came = grown.answered + grown.waiting
    came = came * scale if came > 0 else 0.0
    judged = grown.answered * scale
    missed = grown.refused + (grown.slow if grown.slow > grown.expired else grown.expired)
    late = grown.refused + (grown.slow if possible and grown.slow > grown.expired else grown.expired)
    late *= scale  # of what is slow, more replicas would not make it faster where it is not possible
    return Measured(
        ready=ready,
        pending=pending,
        start_s=memory.start_s,
        requests=came,
        judged=judged,
        late=late if late < judged else judged,
        answered=grown.answered,
        missed=missed if missed < grown.answered else grown.answered,
        waiting=waiting,
        work=came * taken.full_s,
        backlog=waiting * taken.full_s,
        work_s=taken.full_s,
        alone_s=taken.alone_s,
        queue_s=taken.queue_s,
        batch=taken.batch,
        fastest_s=fastest_s,
        possible=possible,
        notes=notes,
        cores=grown.most_cpu_s / max(time.seconds, 0.1),
        rss_mb=rss_mb,
    )


def _stale(looked: bool, time: _Time, ready: int, silent: Sequence[str], failed: int) -> str:
    """Why nothing that was measured counts; "": it does."""
    if not looked:
        return "It is looked at for the first time."
    if (gap_s := max(time.seconds, time.unseen_s)) > GAP_S:
        return f"Nobody looked for {gap_s:.0f} s."
    if silent and not ready:
        return f"No replica has told anything for {SILENT_S:.0f} s."
    if failed and not ready:
        return "Its replicas fail, and more of them would fail too."
    return ""


def _follow(memory: _Memory, snapshot: Snapshot, service: Resource) -> None:
    """The rows of its replicas, if they are others than before."""
    rows, versions = snapshot.children(service, "replica"), service.spec["versions"]
    if rows is memory.members.rows and versions is memory.members.versions:
        return
    _note_starts(memory, rows)
    memory.members = _Members.of(rows, versions)
    there = {name for _, name in memory.members.each}
    memory.tellers = {name: teller for name, teller in memory.tellers.items() if name in there}


def _note_starts(memory: _Memory, replicas: Sequence[Resource]) -> None:
    """From a row that was made to one that is ready, once each; of those that never died, for their `since` is that."""
    ready = {(replica.name, replica.created_at): replica for replica in replicas if replica.state == "READY"}
    new = [replica for key, replica in ready.items() if key not in memory.started]
    took = [(replica.since - replica.created_at) / SECOND for replica in new if "dead_pid" not in replica.status]
    memory.note_starts(seconds for seconds in took if 0 < seconds < 3600)
    memory.started = (memory.started | ready.keys()) & {(replica.name, replica.created_at) for replica in replicas}


def _capacity(memory: _Memory, snapshot: Snapshot, members: _Members) -> tuple[int, int, int, tuple[str, ...]]:
    """(ready, pending, failed, what is said of them)."""
    ready = pending = failed = 0
    notes: list[str] = []
    for replica in members.rows:
        if str(replica.spec["version"]) != members.main:
            continue
        if serves(snapshot, replica):
            ready += 1
        elif replica.state == "FAILED":
            failed += 1
            notes.append(f"The replica {replica.name} failed: it is not counted on.")
        elif replica.state in ("STARTING", "LOST"):
            waited = snapshot.elapsed(replica.since) / SECOND
            if waited <= max(OVERDUE_S, OVERDUE_TIMES * memory.start_s) and replica.attempts < 2:
                pending += 1
            else:
                told = f"{waited:.0f} s" if replica.attempts < 2 else f"the attempt {replica.attempts}"
                notes.append(
                    f"The replica {replica.name} is starting for {told}, and a start takes {memory.start_s:.1f} s:"
                    " it is not counted on."
                )
    return ready, pending, failed, tuple(notes)


def _grown(
    memory: _Memory, snapshot: Snapshot, service: Resource, spec: ServiceSpec, members: _Members, time: _Time
) -> tuple[Grown, list[str]]:
    """Of all its replicas and of what is held for it; the replicas that are ready and tell nothing. Raises Untrue."""
    grown, silent = Grown(), []
    processes, sessions, tellers = snapshot.processes, snapshot.sessions, memory.tellers
    oldest, newest = snapshot.now - SILENT_S * SECOND, snapshot.now + SILENT_S * SECOND
    latency_us = spec.latency_us
    for replica, name in members.each:
        process = processes.get(name)
        if process is None or not process.alive or not process.report.get("ready"):
            tellers.pop(name, None)
            continue
        told_at = process.report.get("told_at")
        if told_at.__class__ is not int or not oldest <= told_at <= newest:
            silent += [replica.name] if serves(snapshot, replica) else []
            tellers.pop(name, None)
            continue
        teller = tellers.get(name)
        if teller is None:
            teller = tellers[name] = Teller()
        came, ran_us = teller.follow(replica.name, process, sessions.get(name, 0), latency_us, time.last, grown)
        if teller.row_s and teller.row_s != memory.row_s:
            memory.row_s = teller.row_s
            memory.reckon()
        memory.batch = teller.batch
        if came > ABSURD * time.could_s / (memory.work_s or LEAST_WORK_S) or ran_us > OVERRUN * time.could_s * SECOND:
            told = f"{came:,.0f} requests within {time.seconds:.0f} s"
            raise Untrue(f"{replica.name} tells {told}, which cannot be.")
    if spec.sleeps:
        _add_held(memory, grown, snapshot, service, spec)
    else:
        memory.held = {}
    return grown, silent


def _add_held(memory: _Memory, grown: Grown, snapshot: Snapshot, service: Resource, spec: ServiceSpec) -> None:
    """What the activator holds for it, and what became of the rest. Raises Untrue."""
    activator = activator_of(snapshot, service.tenant)
    if activator is None or not activator.alive:
        memory.held = {}
        return
    told = (activator.report.get("services") or {}).get(service.name) or {}
    allowed_us = spec.wake_us or spec.latency_us
    slow, _ = slow_and_fastest("activator", told.get("hold_us"), allowed_us)
    now = {what: number("activator", told, what) for what in ("expired", "refused")}
    now |= {"waiting": number("activator", activator.report.get("waiting") or {}, service.name)}
    now |= {"pid": float(activator.pid), "slow": slow, "allowed_us": allowed_us}
    known = memory.held.get("pid") == now["pid"]
    before = memory.held if known else now
    grown.waiting += now["waiting"] - (memory.held.get("waiting", 0.0) if known else 0.0)
    given_up = sum(max(0.0, now[what] - before[what]) for what in ("expired", "refused"))
    grown.refused += given_up
    grown.answered += given_up
    if before["allowed_us"] == allowed_us:
        grown.slow += max(0.0, now["slow"] - before["slow"])
    memory.held = now


def _note_work(memory: _Memory, grown: Grown, seconds: float, replicas: int) -> None:
    """What a request takes. What replicas take that nobody asks is not put down to the few that somebody does."""
    done = grown.answered - grown.refused
    if done <= 0:
        if not grown.answered and not grown.waiting:
            idle = min(0.5, grown.cpu_s / max(seconds, 0.1) / replicas)
            memory.idle_cpu = idle if not memory.idle_cpu else 0.8 * memory.idle_cpu + 0.2 * idle
        return
    cpu_s = grown.cpu_s - memory.idle_cpu * seconds * replicas
    busy = cpu_s if cpu_s > grown.busy_s else grown.busy_s
    kept = 0.5 ** (seconds / HALF_S)
    memory.work = kept * memory.work + busy
    memory.requests = kept * memory.requests + done
    memory.runs = kept * memory.runs + grown.runs
    memory.rows = kept * memory.rows + grown.rows
    memory.run_s = kept * memory.run_s + grown.busy_s
    memory.reckon()


def unreachable(snapshot: Snapshot, tenant: str, app: AppSpec) -> Iterator[tuple[str, str]]:
    """(service, why) of an application: models that answer nothing, and objectives that no number of replicas keeps, by
    what the models took when their replicas started."""
    for model in app.models:
        service = snapshot.find(tenant, "service", model.name)
        if service is None:
            continue
        if why := never_answers(snapshot, service) or model.serve.cannot_keep(row_us(snapshot, service)):
            yield model.name, why


def p99_s(snapshot: Snapshot, service: Resource) -> float:
    """In which 99% of its answers came, since its replicas started, to an eighth; 0: nothing was answered."""
    counts: dict[int, float] = {}
    for replica in snapshot.children(service, "replica"):
        process = snapshot.processes.get(replica.process)
        told = process.report.get("counted") or {} if process is not None and process.alive else {}
        try:
            found = histogram(replica.name, told.get("latency_us"))
        except Untrue:
            continue
        for low, count in found.items():
            counts[low] = counts.get(low, 0.0) + count
    left = SLOWEST * sum(counts.values())
    for low in sorted(counts, reverse=True):
        left -= counts[low]
        if left < 0:
            return low * 1.125 / SECOND  # the end of its bucket
    return 0.0
