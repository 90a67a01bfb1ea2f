"""What each thing depends on: along this the cause of what is wrong is looked for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skyriver.core.resources import Resource, Snapshot
from skyriver.observe.incidents import Graph
from skyriver.observe.sight import CLOCK, CONTROL, DISK, DISK_SPACE, GATEWAY, MACHINE, MEMORY, subject_of


def dependencies(snapshot: Snapshot) -> Graph:
    """What answers does not depend on the disk; what writes a log does. Nothing depends on a disk that will be full.
    Replicas of a service stand for each other: several that are ill are one incident."""
    rows = snapshot.rows
    graph: dict[str, tuple[str, ...]] = {DISK_SPACE: (DISK,), CONTROL: (DISK, MEMORY), GATEWAY: (MEMORY,)}
    for service in rows.every("service"):
        graph[subject_of(service)] = tuple(_of_service(snapshot, service))
        rollouts = [r for r in snapshot.all(service.tenant, "rollout") if r.spec["model"] == service.name]
        for version in _versions(snapshot, service):
            of_version = f"{service.tenant}:version/{service.name}:{version}"
            graph[of_version] = tuple(subject_of(rollout) for rollout in rollouts if rollout.spec["to"] == version)
        siblings = tuple(subject_of(replica) for replica in snapshot.children(service, "replica"))
        graph |= dict.fromkeys(siblings, (*siblings, MEMORY, MACHINE))
    graph |= {subject_of(row): (MEMORY,) for row in rows.every("activator")}
    graph |= {subject_of(row): (DISK, MEMORY, CLOCK, MACHINE) for row in rows.every("worker")}
    for dispatcher in rows.every("dispatcher"):
        report = _report(snapshot, dispatcher)
        sinks = (f"{subject_of(dispatcher)}/sink/{sink['sink']}" for sink in report.get("sinks", ()))
        graph[subject_of(dispatcher)] = (DISK, MEMORY, *sinks)
    for stream in rows.every("stream"):
        graph[subject_of(stream)] = tuple(_of_stream(snapshot, stream))
        app = f"{stream.tenant}:app/{stream.parent.partition('/')[2]}"
        workers = (subject_of(worker) for worker in snapshot.children(stream, "worker"))
        graph[f"{subject_of(stream)}/events"] = (*workers, app, CLOCK, GATEWAY)
    for watch in rows.every("watch"):
        graph[subject_of(watch)] = (f"{watch.tenant}:service/{watch.name}",)
    return graph


def _of_service(snapshot: Snapshot, service: Resource) -> Iterator[str]:
    yield from (subject_of(replica) for replica in snapshot.children(service, "replica"))
    for version in _versions(snapshot, service):
        yield f"{service.tenant}:version/{service.name}:{version}"
    for rollout in snapshot.all(service.tenant, "rollout"):
        if rollout.spec["model"] == service.name:
            yield subject_of(rollout)
    features = (service.spec.get("serve") or {}).get("features") or {}
    if stream := features.get("stream"):
        yield f"{service.tenant}:stream/{stream}"
    yield from (f"{service.tenant}:app/{service.parent.partition('/')[2]}", GATEWAY)


def _versions(snapshot: Snapshot, service: Resource) -> list[int]:
    """That serve, or did a moment ago."""
    found = {int(replica.spec["version"]) for replica in snapshot.children(service, "replica")}
    for rollout in snapshot.all(service.tenant, "rollout"):
        if rollout.spec["model"] == service.name:
            found |= {int(rollout.spec["to"]), int(rollout.status.get("from") or rollout.spec["to"])}
    return sorted(found)


def _of_stream(snapshot: Snapshot, stream: Resource) -> Iterator[str]:
    yield from (subject_of(worker) for worker in snapshot.children(stream, "worker"))
    if model := (stream.spec.get("decide") or {}).get("model"):
        yield f"{stream.tenant}:service/{model}"
    yield from (f"{stream.tenant}:app/{stream.parent.partition('/')[2]}", GATEWAY)


def _report(snapshot: Snapshot, row: Resource) -> Mapping[str, Any]:
    process = snapshot.processes.get(row.process)
    return process.report if process is not None else {}
