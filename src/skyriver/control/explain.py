"""What the cloud says of itself to a person: why a thing is as it is, what runs, the last lines of a log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from skyriver.control.compute import Compute
from skyriver.core.errors import NotFound
from skyriver.core.resources import Resource, Snapshot

LOG_LINES = 12
_CARRIED = ("job", "replica", "worker")
"""Kinds with a process of their own."""
_ORDER = ("app", "stream", "table", "model", "service", "version", "rollout", "replica", "worker", "operation", "job")


def explain(snapshot: Snapshot, compute: Compute, tenant: str, name: str) -> list[dict[str, Any]]:
    """Everything called `name` (or `kind/name`), with what belongs to it: state, reason, next action, last log lines.

    Raises NotFound with names that are near.
    """
    found = _named(snapshot, tenant, name)
    return [_story(snapshot, compute, resource) for resource in found]


def _named(snapshot: Snapshot, tenant: str, name: str) -> list[Resource]:
    rows = [r for r in snapshot.resources.values() if r.tenant == tenant and r.kind in _ORDER]
    found = [r for r in rows if name in (r.name, r.ref)]
    if not found:
        near = sorted({r.name for r in rows if name in r.name or r.name in name})[:5]
        raise NotFound(
            f"Nothing is called {name!r}.",
            next_action=f"Did you mean {', '.join(near)}?" if near else "`skyriver ps` shows what there is.",
        )
    return sorted(found, key=lambda r: _ORDER.index(r.kind))


def _story(snapshot: Snapshot, compute: Compute, resource: Resource) -> dict[str, Any]:
    carriers = list(_carriers(snapshot, resource))
    reports = {c.name: _told(snapshot, c) for c in carriers}
    return {
        "kind": resource.kind,
        "name": resource.name,
        "state": resource.state,
        "reason": resource.reason,
        "message": resource.message,
        "since": resource.since,
        "next_action": resource.next_action,
        "spec": dict(resource.spec),
        "status": dict(resource.status),
        "processes": reports,
        "log": [line for c in carriers for line in _tail(compute, c)],
    }


def _carriers(snapshot: Snapshot, resource: Resource) -> Iterator[Resource]:
    """The resources whose processes do the work of this one."""
    if resource.kind in _CARRIED:
        yield resource
        return
    for kind in _CARRIED:
        yield from (c for c in snapshot.children(resource, kind) if kind != "job" or c.state == "FAILED")
    if resource.kind == "operation":
        names = resource.spec.get("jobs", ())
        jobs = (snapshot.find(resource.tenant, "job", n) for n in names)
        yield from (j for j in jobs if j is not None and j.state == "FAILED" and j.parent != resource.ref)


def _told(snapshot: Snapshot, carrier: Resource) -> dict[str, Any]:
    process = snapshot.processes.get(carrier.process)
    if process is None:
        return {"alive": False}
    report = {k: v for k, v in process.report.items() if k not in ("token", "pid")}
    return {"alive": process.alive, "pid": process.pid, "started_at": process.started_at, **report}


def _tail(compute: Compute, carrier: Resource) -> list[str]:
    data, _ = compute.log(carrier.process, offset=-8_192)
    return data.decode(errors="replace").splitlines()[-LOG_LINES:]


def log_of(snapshot: Snapshot, compute: Compute, tenant: str, name: str, offset: int) -> list[dict[str, Any]]:
    """What the processes of `name` printed, from byte `offset` (negative: from the end), and where to go on."""
    carriers: dict[str, Resource] = {}
    for resource in _named(snapshot, tenant, name):
        if resource.kind in _CARRIED:
            carriers[resource.process] = resource
        for kind in _CARRIED:
            carriers |= {c.process: c for c in snapshot.children(resource, kind)}
    items = []
    for process, carrier in carriers.items():
        data, following = compute.log(process, offset=offset)
        items.append({"name": carrier.ref, "text": data.decode(errors="replace"), "next": following})
    return items


def list_processes(snapshot: Snapshot, tenant: str) -> list[dict[str, Any]]:
    """The tenant's processes with the state of what they carry."""
    items = []
    for resource in snapshot.resources.values():
        process = snapshot.processes.get(resource.process) if resource.kind in _CARRIED else None
        if process is None or resource.tenant != tenant:
            continue
        items.append(
            {
                "kind": resource.kind,
                "name": resource.name,
                "parent": resource.parent,
                "state": resource.state,
                "pid": process.pid,
                "alive": process.alive,
                "started_at": process.started_at,
                "rss_mb": process.rss_mb,
                "cpu_seconds": process.cpu_seconds,
                "report": {k: v for k, v in process.report.items() if k != "token"},
            }
        )
    return items
