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
        graph |= _of_service(snapshot, service)
    graph |= {subject_of(row): (MEMORY,) for row in rows.every("activator")}
    graph |= {subject_of(row): (DISK, MEMORY, CLOCK, MACHINE) for row in rows.every("worker")}
    for dispatcher in rows.every("dispatcher"):
        report = _report(snapshot, dispatcher)
        sinks = (f"{subject_of(dispatcher)}/sink/{sink['sink']}" for sink in report.get("sinks", ()))
        graph[subject_of(dispatcher)] = (DISK, MEMORY, *sinks)
    for stream in rows.every("stream"):
        graph[subject_of(stream)] = tuple(_of_stream(snapshot, stream))
        workers = (subject_of(worker) for worker in snapshot.children(stream, "worker"))
        graph[f"{subject_of(stream)}/events"] = (*workers, _app_of(stream), CLOCK, GATEWAY)
    for watch in rows.every("watch"):
        graph[subject_of(watch)] = (f"{watch.tenant}:service/{watch.name}",)
    return graph


def _of_service(snapshot: Snapshot, service: Resource) -> dict[str, tuple[str, ...]]:
    """With its versions, those that serve or did a moment ago, and its replicas."""
    replicas = snapshot.children(service, "replica")
    rollouts = [r for r in snapshot.all(service.tenant, "rollout") if r.spec["model"] == service.name]
    numbers = {int(replica.spec["version"]) for replica in replicas}
    for rollout in rollouts:
        numbers |= {int(rollout.spec["to"]), int(rollout.status.get("from") or rollout.spec["to"])}
    versions = {number: f"{service.tenant}:version/{service.name}:{number}" for number in sorted(numbers)}
    siblings = tuple(map(subject_of, replicas))
    stream = ((service.spec.get("serve") or {}).get("features") or {}).get("stream")
    features = (f"{service.tenant}:stream/{stream}",) if stream else ()
    needs = (*siblings, *versions.values(), *map(subject_of, rollouts), *features, _app_of(service), GATEWAY)
    return {
        subject_of(service): needs,
        **dict.fromkeys(siblings, (*siblings, MEMORY, MACHINE)),
        **{
            subject: tuple(subject_of(rollout) for rollout in rollouts if rollout.spec["to"] == number)
            for number, subject in versions.items()
        },
    }


def _app_of(row: Resource) -> str:
    return f"{row.tenant}:{row.parent}"


def _of_stream(snapshot: Snapshot, stream: Resource) -> Iterator[str]:
    yield from (subject_of(worker) for worker in snapshot.children(stream, "worker"))
    if model := (stream.spec.get("decide") or {}).get("model"):
        yield f"{stream.tenant}:service/{model}"
    yield from (_app_of(stream), GATEWAY)


def _report(snapshot: Snapshot, row: Resource) -> Mapping[str, Any]:
    process = snapshot.processes.get(row.process)
    return process.report if process is not None else {}
