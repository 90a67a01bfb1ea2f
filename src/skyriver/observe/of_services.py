"""Signs of services and their replicas, of rollouts, watches and schedules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from skyriver.core.declared import service_spec
from skyriver.core.jobs import ENDED
from skyriver.core.resources import Resource
from skyriver.core.units import SECOND
from skyriver.observe.attainment import short_of
from skyriver.observe.objectives import grows
from skyriver.observe.sight import subject_of
from skyriver.observe.signs import HOLD_S, Seen, Sign, explains, fills, guarded, of_row
from skyriver.observe.tracks import LEAST_ANSWERS, SLOWER, SLOWER_US, Track, added_latency, quantile
from skyriver.serve.scaling_kind import scaling_of
from skyriver.serve.sizing import allowed_mb, is_declared

REFUSED_ALLOWED: Final = 0.0125
"""Refusals for want of room are meant; many are an alarm."""
REJECTED_ALLOWED: Final = 0.05
"""Requests that are wrong are their senders' matter, unless they suddenly all are."""
MEMORY_SHARE: Final = 0.9
LEAK_TIMES: Final = 1.5
LEAK_POINTS: Final = 20
"""Half a minute apart: what a model needs at last, it holds by then, and it grows no more."""
LATELY_MINUTES: Final = 10
LATELY_US: Final = LATELY_MINUTES * 60 * SECOND
DEATHS: Final = 3
SLOW_HOLD_S: Final = 20.0
SILENT_HOLD_S: Final = 10.0
POOL_HOLD_S: Final = 180.0
BLIND_HOLD_S: Final = 60.0
OVERDUE_TIMES: Final = 3.0
OVERDUE_S: Final = 60.0
"""A start that takes so many times as long as its siblings' did, and this at least, is told."""
FIRST_START_S: Final = 300.0
"""The same of one that has no siblings: a large model is read for minutes."""
_DRAINING: Final = frozenset({"DRAINING", "STOPPED"})


def of_services(seen: Seen) -> Iterator[Sign]:
    rows = seen.sight.snapshot.rows
    for kind, of in _OF.items():
        yield from guarded(of, seen, rows.every(kind))


def _of_service(seen: Seen, service: Resource) -> Iterator[Sign]:
    track, subject, spec = seen.track(service), subject_of(service), service_spec(service.spec["serve"])
    if service.state == "DEGRADED":
        none = not any((service.status.get("ready") or {}).values())
        yield of_row(service, "replicas", "critical" if none else "warning", HOLD_S)
    elif service.state == "STARTING" and track.known.get("served"):
        yield of_row(service, "replicas", "critical", HOLD_S)
    elif service.state == "READY":
        track.known["served"] = 1
    versions, latency = _added(seen, service)
    added = sum(versions.values(), Counter[str]())
    failed = seen.sight.machine.failed.get((service.tenant, f"model/{service.name}"), 0)
    answers = added["requests"]
    late = sum(count for low, count in latency.items() if spec.latency_us and low >= spec.latency_us)
    allowed = 1 - spec.share
    track.rate.add(seen.seconds, answers)
    track.of("errors").add(seen.seconds, answers, added["errors"])
    track.of("unserved").add(seen.seconds, answers + failed, failed)
    track.of("late").add(seen.seconds, answers, late)
    track.of("refused").add(seen.seconds, answers + added["overloaded"], added["overloaded"])
    if missed := track.of("errors").missed(seen.seconds, allowed):
        told = f"{missed.share} requests to {service.name} failed within the last {missed.within}."
        action = f"`skyriver request list --of model/{service.name} --status 5xx` shows them."
        yield Sign(subject, "errors", told, action, missed.severity)
    if missed := track.of("unserved").missed(seen.seconds, allowed):
        told = f"{missed.share} requests to {service.name} reached no replica within the last {missed.within}."
        action = f"`skyriver request list --of model/{service.name} --status 5xx` shows them."
        yield Sign(subject, "unserved", told, action, missed.severity)
    if spec.latency_us and (missed := track.of("late").missed(seen.seconds, allowed)):
        told = f"{missed.share} answers of {service.name} took over {spec.latency} within the last {missed.within}."
        if is_over := _nobody_asks(seen, service, track):  # it is known, and nobody waits for it now
            told = f"{told.removesuffix('.')}; nobody asks now."
        yield Sign(subject, "late", told, explains(service.name), "warning" if is_over else missed.severity)
    if missed := track.of("refused").missed(seen.seconds, REFUSED_ALLOWED):
        told = f"{missed.share} requests to {service.name} found no room within the last {missed.within}."
        short = short_of(seen.sight.snapshot, service)
        action = short.next_action if short is not None else "Declare more replicas, or less work:"
        action = f"{action} {explains(service.name)}"
        yield Sign(subject, "refused", told, action, missed.severity)
    yield from _of_pool(seen, service)
    yield from _of_scaling(seen, service)
    yield from _of_versions(seen, service, versions, allowed)
    if latency.total() >= LEAST_ANSWERS:
        track.usually("p99").add(seen.seconds, quantile(latency, 0.99))
    if slower := track.usually("p99").above(SLOWER, SLOWER_US):
        told = f"{service.name} answers slower than usual: its p99 is {_ms(slower[0])}, and {_ms(slower[1])} otherwise."
        yield Sign(subject, "slow", told, explains(service.name), "warning")


def _nobody_asks(seen: Seen, service: Resource, track: Track) -> bool:
    """Nothing was answered or refused in the last minute, nothing waits, and each replica tells so."""
    if not (track.of("unserved").is_quiet(seen.seconds) and track.of("refused").is_quiet(seen.seconds)):
        return False
    processes = [replica.process for replica in seen.sight.snapshot.children(service, "replica")]
    told = [seen.sight.snapshot.processes.get(name) for name in processes]
    waits = any(process is not None and process.report.get("waiting") for process in told)
    return not waits and not any(name in seen.sight.machine.unanswered for name in processes)


def _of_pool(seen: Seen, service: Resource) -> Iterator[Sign]:
    """It is granted less than its objective needs."""
    short = short_of(seen.sight.snapshot, service)
    if short is not None and short.kind == "pool":
        action = f"{short.next_action} {explains(service.name)}"
        yield Sign(subject_of(service), "pool", short.told, action, "warning", POOL_HOLD_S)


def _of_scaling(seen: Seen, service: Resource) -> Iterator[Sign]:
    """It serves, and the number of its replicas follows nothing any more."""
    scaling = scaling_of(seen.sight.snapshot, service)
    if scaling is not None and scaling.state == "HOLDING" and service.state == "READY":
        told = f"{service.name} is not scaled. {scaling.message}"
        yield Sign(subject_of(service), "blind", told, explains(service.name), "warning", BLIND_HOLD_S)


def _of_versions(seen: Seen, service: Resource, counts: Mapping[int, Counter[str]], allowed: float) -> Iterator[Sign]:
    """Of what each version's replicas answer themselves: what the one before did is not put down to it."""
    for version, added in counts.items():
        subject = f"{service.tenant}:version/{service.name}:{version}"
        track, action = seen.tracks.get(subject), explains(service.name)
        if version > 1:
            action = f"`skyriver rollback {service.name}` lets the one before serve again."
        track.of("errors").add(seen.seconds, added["requests"], added["errors"])
        track.of("rejected").add(seen.seconds, added["requests"], added["refused"])
        if missed := track.of("errors").missed(seen.seconds, allowed):
            told = f"Version {version} of {service.name} failed on {missed.share} requests within the last"
            yield Sign(subject, "fails", f"{told} {missed.within}.", action, missed.severity)
        if missed := track.of("rejected").missed(seen.seconds, REJECTED_ALLOWED):
            told = f"Version {version} of {service.name} called {missed.share} requests wrong within the last"
            yield Sign(subject, "rejects", f"{told} {missed.within}.", action, "warning")


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:,.0f} ms"


def _added(seen: Seen, service: Resource) -> tuple[dict[int, Counter[str]], Counter[int]]:
    """What its replicas counted since the last look: by version, and how long answers took."""
    latency: Counter[int] = Counter()
    versions: dict[int, Counter[str]] = {}
    for replica in seen.sight.snapshot.children(service, "replica"):
        process = seen.sight.snapshot.processes.get(replica.process)
        if process is None:
            continue
        track = seen.track(replica)
        own = versions.setdefault(int(replica.spec["version"]), Counter())
        for name in ("requests", "errors", "refused", "overloaded"):
            own[name] += track.step(name, float(process.report.get(name, 0)), restarts=True)
        latency.update(added_latency(track, (process.report.get("counted") or {}).get("latency_us")))
    return versions, latency


def _of_replica(seen: Seen, replica: Resource) -> Iterator[Sign]:
    if replica.state in _DRAINING:
        return
    track, subject = seen.track(replica), subject_of(replica)
    if replica.state == "FAILED":
        yield of_row(replica, "failed", "warning", 0.0)
    elif dies := _deaths(seen, replica, track):
        last = replica.status.get("last_end", "")
        told = f"The replica {replica.name} ended {dies} times within ten minutes."
        told += f" The last time: {last}" if last else ""
        yield Sign(subject, "failed", told, f"`skyriver logs {replica.name}` has its last words.", "warning")
    elif replica.state == "STARTING":
        yield from _of_start(seen, replica)
    yield from of_process(seen, replica)
    weight = seen.sight.machine.weights.get(replica.process)
    if weight is not None:  # 0 as well: it is only tried now and then
        told = f"The replica {replica.name} answers much slower than its siblings, or fails: it gets {weight}% of them."
        yield Sign(subject, "slow", told, explains(replica.name), "warning", SLOW_HOLD_S)
    process = seen.sight.snapshot.processes.get(replica.process)
    service = seen.sight.snapshot.find(replica.tenant, *replica.parent.split("/", 1))
    if process is not None and process.alive and process.rss_mb and service is not None:
        allowed = allowed_mb(service, str(replica.spec["version"]))
        action = f"Declare a larger memory_mb of {service.name} if that is what it needs; a new replica begins small."
        track.left(seen.seconds, process.rss_mb, allowed)
        if process.rss_mb >= MEMORY_SHARE * allowed:
            leaks = process.rss_mb >= LEAK_TIMES * track.points[0][1] and grows(tuple(track.points)[-LEAK_POINTS:])
            declared = is_declared(service.spec["serve"])
            which = "declared" if declared else "that are expected at most where none is declared"
            told = f"The replica {replica.name} holds {process.rss_mb:,.0f} MB of {allowed:,} {which}."
            yield Sign(subject, "leaks" if leaks else "memory", told, action, "warning", HOLD_S)
        else:
            yield from fills(
                seen, subject, f"The memory of the replica {replica.name}", process.rss_mb, allowed, action
            )


def _of_start(seen: Seen, replica: Resource) -> Iterator[Sign]:
    """One that lives and does not become ready: nothing ends it, and the service has one replica fewer for it."""
    snapshot = seen.sight.snapshot
    service = snapshot.find(replica.tenant, *replica.parent.split("/", 1))
    there = snapshot.children(service, "replica") if service is not None else ()
    took = [(r.since - r.created_at) / SECOND for r in there if r.state == "READY" and "dead_pid" not in r.status]
    usual_s, waited_s = max(took, default=0.0), snapshot.elapsed(replica.since) / SECOND
    if waited_s <= (max(OVERDUE_S, OVERDUE_TIMES * usual_s) if took else FIRST_START_S):
        return
    process = snapshot.processes.get(replica.process)
    told = f"The replica {replica.name} is starting for {waited_s / 60:.0f} min"
    told += f", and its siblings took {usual_s:.1f} s" if took else ""
    cause = "" if process is not None and process.alive else ": it has no process"
    action = f"`skyriver logs {replica.name}` shows where it is; ending its process starts it again."
    yield Sign(subject_of(replica), "start", f"{told}{cause}. It is not counted on.", action, "warning")


def of_process(seen: Seen, row: Resource) -> Iterator[Sign]:
    """Of one that lives and does nothing."""
    if row.process in seen.sight.machine.unanswered:
        told = f"The {row.kind} {row.name} lives and does not answer."
        action = f"It is ended and started again by itself; else `skyriver logs {row.name}` has its last words."
        yield Sign(subject_of(row), "silent", told, action, "critical", SILENT_HOLD_S)


def _deaths(seen: Seen, row: Resource, track: Track) -> int:
    """How often it ended lately, from DEATHS on: it may have been started again before anybody looked."""
    process = seen.sight.snapshot.processes.get(row.process)
    pid = process.pid if process is not None else 0
    before = track.known.get("pid", 0)
    track.known["pid"] = pid or before
    if before and pid and pid != before:
        track.of("deaths").add(seen.seconds, 1, 1)
    deaths = track.outcomes["deaths"].minutes.over(seen.seconds, LATELY_MINUTES)[1] if "deaths" in track.outcomes else 0
    return deaths if deaths >= DEATHS else 0


def _of_rollout(seen: Seen, rollout: Resource) -> Iterator[Sign]:
    """One that was taken back, for ten minutes; one that waits for a person. It is told by itself: what the version did
    is over, and what is wrong with the service besides is not put down to it."""
    subject = f"{subject_of(rollout)}/end"
    if rollout.state == "ROLLED_BACK" and 0 <= seen.sight.snapshot.now - rollout.since < LATELY_US:
        yield replace(of_row(rollout, "rolled back", "warning", 0.0), subject=subject)
    elif rollout.state == "PAUSED" and rollout.reason != "BY_HAND":
        yield replace(of_row(rollout, "waits", "warning", HOLD_S), subject=subject)


def _of_watch(seen: Seen, watch: Resource) -> Iterator[Sign]:
    if watch.state == "BROKEN":
        yield of_row(watch, "retraining", "warning", 0.0)
    elif watch.reason == "CANNOT_LOOK":
        yield of_row(watch, "blind", "warning", HOLD_S, what="blind")


def _of_environment(seen: Seen, environment: Resource) -> Iterator[Sign]:
    if environment.state == "FAILED":
        yield of_row(environment, "failed", "warning", 0.0)


def _of_schedule(seen: Seen, schedule: Resource) -> Iterator[Sign]:
    """Nobody waits for what begins by the clock, so nobody sees that it failed."""
    operations = [o for o in seen.sight.snapshot.children(schedule, "operation") if o.state in ENDED]
    last = max(operations, key=lambda o: (o.created_at, o.name), default=None)
    if schedule.state == "ACTIVE" and last is not None and last.state == "FAILED":
        told = f"{last.name}, by the schedule {schedule.name}, failed: {last.reason}. {last.message}".strip()
        yield Sign(subject_of(schedule), "failed", told, explains(last.name), "warning")


def _of_tables(seen: Seen, stream: Resource) -> Iterator[Sign]:
    jobs = [j for j in seen.sight.snapshot.children(stream, "job") if j.spec["kind"] == "materialise"]
    jobs = sorted((j for j in jobs if j.state in ENDED), key=lambda j: (j.created_at, j.name))
    if len(jobs) >= 2 and all(j.state == "FAILED" for j in jobs[-2:]):
        told = f"The tables of the stream {stream.name} are not brought up to date: {jobs[-1].name} failed."
        yield Sign(
            f"{subject_of(stream)}/tables", "tables", f"{told} {jobs[-1].message}", explains(jobs[-1].name), "warning"
        )


_OF: Final = {
    "service": _of_service,
    "replica": _of_replica,
    "rollout": _of_rollout,
    "watch": _of_watch,
    "environment": _of_environment,
    "schedule": _of_schedule,
    "stream": _of_tables,
}
