"""What is asked of an elastic service, and what its replicas can do of it: from their reports, every few seconds. Pure.

Work is measured in replica-seconds: a request is worth what it keeps a replica busy, by the longer of its model's runs
and its processor time. Where requests share runs within an objective, a request is worth what it takes in a run that is
as large as it may be (`full_runs`). A number that cannot be true, or that nobody tells, makes the whole look of that
service stale: whoever scales by it holds then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import AppSpec, ServiceSpec
from skyriver.core.units import SECOND
from skyriver.observe.full_runs import LEAST_WORK_S, Batch, Ran, Taken, batch_of, in_full_runs
from skyriver.serve.kinds import serves
from skyriver.serve.objective import row_us
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


@dataclass(frozen=True, slots=True)
class Measured:
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


class Untrue(Exception):
    """A report says what cannot be."""


@dataclass(slots=True)
class _Process:
    """Of one pid."""

    pid: int
    cpu_s: float
    counts: Mapping[str, float]
    latency: Mapping[int, float]
    waiting: float
    batch: Batch | None = None
    rss_mb: float = 0.0


@dataclass(slots=True)
class _Added:
    """Since the last look."""

    answered: float = 0.0
    refused: float = 0.0
    expired: float = 0.0
    slow: float = 0.0
    waiting: float = 0.0
    """How many more wait."""
    busy_s: float = 0.0
    cpu_s: float = 0.0
    runs: float = 0.0
    rows: float = 0.0
    most_cpu_s: float = 0.0
    """Of one replica."""


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
    idle_cpu: float = 0.0
    """Of a core, that a replica takes which nobody asks."""
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=STARTS))
    started: set[tuple[str, int]] = field(default_factory=set)
    processes: dict[str, _Process] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    holds: Mapping[int, float] = field(default_factory=dict)
    looked: bool = False

    @property
    def work_s(self) -> float:
        """Of a request, in runs as they are now."""
        prior = PRIOR if self.row_s else 0.0
        if not self.requests + prior:
            return 0.0
        return max(LEAST_WORK_S, (self.work + prior * self.row_s) / (self.requests + prior))

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

    @property
    def start_s(self) -> float:
        if not self.starts:
            return START_S
        return sorted(self.starts)[min(len(self.starts) - 1, int(START_SHARE * len(self.starts)))]


Services = Callable[[Snapshot, float], Iterator[tuple[Resource, ServiceSpec]]]
"""Of a snapshot: those that are looked at every so many seconds."""


class Meter:
    """`look` is called by one thread, every `look_s`, of which it tells then. What it remembers is bounded by the
    services there are."""

    def __init__(
        self,
        remembered: Mapping[str, Any] | None = None,
        look_s: float = LOOK_S,
        services: Services | None = None,
    ) -> None:
        """`services`: those that are measured; the elastic ones unless given."""
        self._services, self._look_s = services or elastic_services, look_s
        self._of: dict[str, _Memory] = {}
        self._second = 0.0
        self._now = 0
        for key, known in (remembered or {}).items():
            memory = self._of[key] = _Memory()
            memory.work, memory.requests = float(known["work_s"]) * PRIOR, PRIOR if known["work_s"] else 0.0
            ran = {"runs": 1.0, "rows": 1.0, "run_s": known["work_s"], **known}
            memory.runs, memory.rows, memory.run_s = (
                float(ran[what]) * memory.requests for what in ("runs", "rows", "run_s")
            )
            memory.starts.extend(float(start) for start in known["starts"][-STARTS:])

    def remember(self) -> dict[str, Any]:
        """JSON, from which another one goes on."""
        return {key: memory.told() for key, memory in self._of.items()}

    def look(self, snapshot: Snapshot, second: float, *, unseen_s: float = 0.0) -> dict[str, Measured]:
        """Of every elastic service with a version, by tenant/name. `second`: monotonic; `unseen_s`: so long ago the
        control plane looked at processes last."""
        seconds, self._second = second - self._second if self._second else 0.0, second
        last, self._now = self._now, snapshot.now
        found: dict[str, Measured] = {}
        for service, spec in self._services(snapshot, self._look_s):
            key = f"{service.tenant}/{service.name}"
            memory = self._of.setdefault(key, _Memory())
            time = _Time(seconds, self._look_s, last, unseen_s)
            found[key] = _measured(memory, snapshot, service, spec, time)
        self._of = {key: memory for key, memory in self._of.items() if key in found}
        return found


@dataclass(frozen=True, slots=True)
class _Time:
    """Of a look."""

    seconds: float
    """Since the look before."""
    look_s: float
    last: int
    """Wall microseconds of the look before."""
    unseen_s: float


def look_s_of(spec: ServiceSpec) -> float:
    """Between two looks at the service."""
    hold_us = spec.hold_us
    return QUICK_S if hold_us is not None and hold_us < QUICK_HOLD_S * SECOND else LOOK_S


def elastic_services(snapshot: Snapshot, look_s: float = 0.0) -> Iterator[tuple[Resource, ServiceSpec]]:
    """Those whose replicas follow the load, and that have a version; of these those that are looked at every `look_s`,
    where that is given."""
    for service in snapshot.rows.every("service"):
        declared = service.spec["serve"].get("replicas")
        if isinstance(declared, int | None) or not service.spec.get("versions"):
            continue  # most are so, and to look at them is cheaper than to read them
        spec = ServiceSpec.model_validate(service.spec["serve"])
        if spec.elastic and look_s in (0.0, look_s_of(spec)):
            yield service, sized(service, spec)


def fixed_services(snapshot: Snapshot, look_s: float = LOOK_S) -> Iterator[tuple[Resource, ServiceSpec]]:
    """The others that have a version."""
    for service in snapshot.rows.every("service"):
        declared = service.spec["serve"].get("replicas", 1)
        is_elastic = not isinstance(declared, int) and declared[1] > max(declared[0], 1)
        if service.spec.get("versions") and not is_elastic:
            yield service, ServiceSpec.model_validate(service.spec["serve"])


def _measured(
    memory: _Memory,
    snapshot: Snapshot,
    service: Resource,
    spec: ServiceSpec,
    time: _Time,
) -> Measured:
    replicas = snapshot.children(service, "replica")
    _note_starts(memory, replicas)
    main = _main_version(service)
    ready, pending, failed, notes = _capacity(memory, snapshot, replicas, main)
    looked, memory.looked = memory.looked, True
    try:
        added, silent = _added(memory, snapshot, service, spec, replicas, time)
    except Untrue as error:
        memory.looked = False  # what is compared with is not true either
        return Measured(ready, pending, memory.start_s, stale=str(error), notes=notes)
    notes += tuple(f"The replica {name} tells nothing: it is not counted on." for name in silent)
    ready = max(0, ready - len(silent))
    stale = ""
    if not looked:
        stale = "It is looked at for the first time."
    elif (gap_s := max(time.seconds, time.unseen_s)) > GAP_S:
        stale = f"Nobody looked for {gap_s:.0f} s."
    elif silent and not ready:
        stale = f"No replica has told anything for {SILENT_S:.0f} s."
    elif failed and not ready:
        stale = "Its replicas fail, and more of them would fail too."
    if stale:
        return Measured(ready, pending, memory.start_s, work_s=memory.work_s, stale=stale, notes=notes)
    _note_work(memory, added, time.seconds, max(1, ready))
    taken = memory.taken(spec.latency_us)
    waiting = sum(process.waiting for process in memory.processes.values()) + memory.held.get("waiting", 0.0)
    scale = time.look_s / max(time.seconds, 0.1)
    came = max(0.0, added.answered + added.waiting) * scale
    judged = added.answered * scale
    fastest_s = _fastest_s(memory)
    possible = not spec.cannot_keep(fastest_s * SECOND)
    slow = added.slow if possible else 0.0  # more replicas would not make them faster
    late = min(judged, (max(slow, added.expired) + added.refused) * scale)
    return Measured(
        ready=ready,
        pending=pending,
        start_s=memory.start_s,
        requests=came,
        judged=judged,
        late=late,
        work=came * taken.full_s,
        backlog=waiting * taken.full_s,
        work_s=taken.full_s,
        alone_s=taken.alone_s,
        queue_s=taken.queue_s,
        batch=taken.batch,
        fastest_s=fastest_s,
        possible=possible,
        notes=notes,
        cores=added.most_cpu_s / max(time.seconds, 0.1),
        rss_mb=max((process.rss_mb for process in memory.processes.values()), default=0.0),
    )


def _main_version(service: Resource) -> str:
    """The one with the most weight: each version has as many replicas, and this one gets the most requests."""
    versions: Mapping[str, Any] = service.spec["versions"]
    return max(versions, key=lambda v: (int(versions[v]["weight"]), int(v)))


def _note_starts(memory: _Memory, replicas: Sequence[Resource]) -> None:
    """From a row that was made to one that is ready, once each; of those that never died, for their `since` is that."""
    for replica in replicas:
        key = (replica.name, replica.created_at)
        if replica.state != "READY" or key in memory.started:
            continue
        memory.started.add(key)
        took = (replica.since - replica.created_at) / SECOND
        if "dead_pid" not in replica.status and 0 < took < 3600:
            memory.starts.append(took)
    memory.started &= {(replica.name, replica.created_at) for replica in replicas}


def _capacity(
    memory: _Memory, snapshot: Snapshot, replicas: Iterable[Resource], version: str
) -> tuple[int, int, int, tuple[str, ...]]:
    """(ready, pending, failed, what is said of them)."""
    ready = pending = failed = 0
    notes: list[str] = []
    for replica in replicas:
        if str(replica.spec["version"]) != version:
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


def _added(
    memory: _Memory,
    snapshot: Snapshot,
    service: Resource,
    spec: ServiceSpec,
    replicas: Iterable[Resource],
    time: _Time,
) -> tuple[_Added, list[str]]:
    """Of all its replicas and of what is held for it; the replicas that are ready and tell nothing. Raises Untrue."""
    added = _Added()
    silent: list[str] = []
    before, memory.processes = memory.processes, {}
    for replica in replicas:
        process = snapshot.processes.get(replica.process)
        if process is None or not process.alive or not process.report.get("ready"):
            continue
        told_at = process.report.get("told_at")
        if not isinstance(told_at, int) or abs(snapshot.now - told_at) > SILENT_S * SECOND:
            silent += [replica.name] if serves(snapshot, replica) else []
            continue
        known = before.get(replica.process)
        if known is not None and known.pid != process.pid:
            known = None
        now = _told(replica, process, snapshot.sessions.get(replica.process, 0))
        memory.processes[replica.process] = now
        if isinstance(row := process.report.get("row_us"), int | float) and 0 < row < 60 * SECOND:
            memory.row_s = row / SECOND
        memory.batch = now.batch
        if known is None:  # what it did since its start is of this look, if that is
            known = _Process(now.pid, now.cpu_s, {}, {}, 0.0) if time.last and process.started_at >= time.last else now
        _add(added, replica.name, known, now, spec.latency_us)
        _check(memory, replica.name, known, now, time.seconds)
    _add_held(memory, added, snapshot, service, spec)
    return added, silent


_COUNTED: Final = ("requests", "overloaded", "expired", "run_us", "runs", "rows")


def _told(replica: Resource, process: ProcessStatus, sessions: int) -> _Process:
    report, name = process.report, replica.name
    counts = {what: _number(name, report, what) for what in _COUNTED}
    waiting = max(_number(name, report, "waiting"), float(sessions))
    latency = _histogram(name, (report.get("counted") or {}).get("latency_us"))
    return _Process(process.pid, process.cpu_seconds, counts, latency, waiting, batch_of(report), process.rss_mb)


def _number(name: str, report: Mapping[str, Any], what: str) -> float:
    value = report.get(what, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Untrue(f"{name} tells {what}={value!r:.40}, which cannot be.")
    return float(value)


def _histogram(name: str, told: Any) -> dict[int, float]:
    try:
        counts = {int(low): float(count) for low, count in told or ()}
    except (TypeError, ValueError):
        raise Untrue(f"{name} tells latencies that cannot be read.") from None
    if any(not math.isfinite(count) or count < 0 for count in counts.values()):
        raise Untrue(f"{name} tells latencies that cannot be.")
    return counts


def _add(added: _Added, name: str, before: _Process, now: _Process, latency_us: int) -> None:
    grown = {what: count - before.counts.get(what, 0.0) for what, count in now.counts.items()}
    if fell := [what for what, by in grown.items() if by < 0]:
        was, is_now = before.counts[fell[0]], now.counts[fell[0]]
        raise Untrue(f"{name} tells {fell[0]}={is_now:.0f}, and told {was:.0f} before: a count does not fall.")
    added.answered += grown["requests"]
    added.refused += grown["overloaded"]
    added.expired += grown["expired"]
    if any(now.latency.get(low, 0.0) < count for low, count in before.latency.items()):
        raise Untrue(f"{name} tells fewer answers of some latency than before: a count does not fall.")
    if latency_us:
        slow = (count - before.latency.get(low, 0.0) for low, count in now.latency.items() if low >= latency_us)
        added.slow += sum(slow)
    added.waiting += now.waiting - before.waiting
    added.busy_s += grown["run_us"] / SECOND
    cpu_s = max(0.0, now.cpu_s - before.cpu_s)
    added.cpu_s += cpu_s
    added.most_cpu_s = max(added.most_cpu_s, cpu_s)
    added.runs += grown["runs"]
    added.rows += grown["rows"]


def _check(memory: _Memory, name: str, before: _Process, now: _Process, seconds: float) -> None:
    """Raises Untrue for what one process cannot have done since the last look."""
    answered = now.counts["requests"] - before.counts.get("requests", 0.0)
    ran_s = (now.counts["run_us"] - before.counts.get("run_us", 0.0)) / SECOND
    could = (seconds + LOOK_S) / max(memory.work_s, LEAST_WORK_S)
    if answered > ABSURD * could or ran_s > OVERRUN * (seconds + LOOK_S):
        raise Untrue(f"{name} tells {answered:,.0f} requests within {seconds:.0f} s, which cannot be.")


def _add_held(memory: _Memory, added: _Added, snapshot: Snapshot, service: Resource, spec: ServiceSpec) -> None:
    """What the activator holds for it, and what became of the rest."""
    activator = activator_of(snapshot, service.tenant)
    if activator is None or not activator.alive or not spec.sleeps:
        memory.held, memory.holds = {}, {}
        return
    told = (activator.report.get("services") or {}).get(service.name) or {}
    now = {what: _number("activator", told, what) for what in ("expired", "refused")}
    now |= {"waiting": _number("activator", activator.report.get("waiting") or {}, service.name)}
    now |= {"pid": float(activator.pid)}
    holds = _histogram("activator", told.get("hold_us"))
    known = memory.held.get("pid") == now["pid"]
    before = memory.held if known else now
    held = memory.holds if known else holds
    added.waiting += now["waiting"] - (memory.held.get("waiting", 0.0) if known else 0.0)
    given_up = sum(max(0.0, now[what] - before[what]) for what in ("expired", "refused"))
    added.refused += given_up
    added.answered += given_up
    allowed_us = spec.wake_us or spec.latency_us
    if allowed_us:
        late = sum(count - held.get(low, 0.0) for low, count in holds.items() if low >= allowed_us)
        added.slow += max(0.0, late)
    memory.held, memory.holds = now, holds


def _note_work(memory: _Memory, added: _Added, seconds: float, replicas: int) -> None:
    """What a request takes. What replicas take that nobody asks is not put down to the few that somebody does."""
    done = added.answered - added.refused
    if done <= 0:
        if not added.answered and not added.waiting:
            idle = min(0.5, added.cpu_s / max(seconds, 0.1) / replicas)
            memory.idle_cpu = idle if not memory.idle_cpu else 0.8 * memory.idle_cpu + 0.2 * idle
        return
    busy = max(added.busy_s, added.cpu_s - memory.idle_cpu * seconds * replicas, 0.0)
    kept = 0.5 ** (seconds / HALF_S)
    memory.work = kept * memory.work + busy
    memory.requests = kept * memory.requests + done
    memory.runs = kept * memory.runs + added.runs
    memory.rows = kept * memory.rows + added.rows
    memory.run_s = kept * memory.run_s + added.busy_s


def unreachable(snapshot: Snapshot, tenant: str, app: AppSpec) -> Iterator[tuple[str, str]]:
    """(service, why) of an application: objectives that no number of replicas keeps, by what its models took when
    their replicas started."""
    for model in app.models:
        service = snapshot.find(tenant, "service", model.name)
        if service is not None and (why := model.serve.cannot_keep(row_us(snapshot, service))):
            yield model.name, why


def p99_s(snapshot: Snapshot, service: Resource) -> float:
    """In which 99% of its answers came, since its replicas started, to an eighth; 0: nothing was answered."""
    counts: dict[int, float] = {}
    for replica in snapshot.children(service, "replica"):
        process = snapshot.processes.get(replica.process)
        told = process.report.get("counted") or {} if process is not None and process.alive else {}
        try:
            found = _histogram(replica.name, told.get("latency_us"))
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


def _fastest_s(memory: _Memory) -> float:
    lows = [low for process in memory.processes.values() for low, count in process.latency.items() if count]
    return max(memory.row_s, min(lows, default=0) / SECOND)
