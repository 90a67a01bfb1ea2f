"""What the cloud says of itself to a person: why a thing is as it is, what runs, the last lines of a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skyriver.control.cloud import ViewObjective
from skyriver.control.compute import Compute
from skyriver.core.contract import Objective
from skyriver.core.errors import NotFound
from skyriver.core.resources import Action, Delete, Kind, Put, Resource, Snapshot, Want

LOG_LINES = 12
WAITS_DEPTH = 8
WAITS_LIMIT = 50
"""Of one explanation: so many steps down, and so many rows at all."""
_MISSING = {"state": "", "reason": "NOT_THERE", "message": "It is not there (any more).", "next_action": ""}
_CARRIED = ("job", "replica", "worker", "dispatcher", "activator")
"""Kinds with a process of their own."""
_UNTOLD = frozenset({"token", "curve"})
"""Of reports: a curve is read where it is asked for."""
_ORDER = (
    "app",
    "environment",
    "stream",
    "table",
    "model",
    "service",
    "scaling",
    "version",
    "rollout",
    "watch",
    "replica",
    "worker",
    "dispatcher",
    "activator",
    "task",
    "schedule",
    "operation",
    "job",
    "experiment",
    "run",
    "logged_model",
    "budget",
)


def explain(
    snapshot: Snapshot,
    kinds: Mapping[str, Kind],
    compute: Compute,
    tenant: str,
    name: str,
    objective: ViewObjective | None = None,
) -> list[dict[str, Any]]:
    """Everything called `name` (or `kind/name`), with what belongs to it: state, reason, next action, what it waits for
    down to the cause, what was tried, what the next pass does about it (by the step that the loop itself runs), and
    the last log lines.

    Raises NotFound with names that are near.
    """
    found = _named(snapshot, tenant, name)
    return [
        _story(snapshot, kinds, compute, resource) | _objective(snapshot, resource, objective) for resource in found
    ]


def objectives(snapshot: Snapshot, tenant: str, objective: ViewObjective | None) -> list[Objective]:
    """Of the tenant's services that declare one, in the order of names."""
    services = sorted(snapshot.all(tenant, "service"), key=lambda row: row.name)
    told = (objective(snapshot, service) for service in services) if objective is not None else ()
    return [one for one in told if one is not None]


def _objective(snapshot: Snapshot, resource: Resource, objective: ViewObjective | None) -> dict[str, Any]:
    told = objective(snapshot, resource) if objective is not None and resource.kind == "service" else None
    return {"objective": told} if told is not None else {}


def _named(snapshot: Snapshot, tenant: str, name: str) -> list[Resource]:
    rows = [r for kind in _ORDER for r in snapshot.all(tenant, kind)]
    found = [r for r in rows if name in (r.name, r.ref)]
    if not found:
        near = sorted({r.name for r in rows if name in r.name or r.name in name})[:5]
        versions = [r for r in rows if r.kind == "version" and r.spec["model"] == name.rpartition(":")[0]]
        if versions:
            newest = sorted(versions, key=lambda r: int(r.spec["version"]), reverse=True)[:5]
            action = (
                f"Its versions are {', '.join(r.name for r in newest)}{' and older ones' if len(versions) > 5 else ''}."
            )
        else:
            action = f"Did you mean {', '.join(near)}?" if near else "`skyriver ps` shows what there is."
        raise NotFound(f"Nothing is called {name!r}.", next_action=action)
    return sorted(found, key=lambda r: _ORDER.index(r.kind))


def _story(snapshot: Snapshot, kinds: Mapping[str, Kind], compute: Compute, resource: Resource) -> dict[str, Any]:
    carriers = list(_carriers(snapshot, resource))
    reports = {c.name: _told(snapshot, c) for c in carriers}
    waits = list(_waits(snapshot, kinds, resource))
    told = _state(snapshot, resource)
    return {
        "kind": resource.kind,
        "name": resource.name,
        **told,
        "since": resource.since,
        "spec": dict(resource.spec),
        "status": dict(resource.status),
        "waits_for": waits,
        "tried": list(_tried(resource)),
        "next_pass": _next_pass(snapshot, kinds, resource),
        "helps": list(dict.fromkeys(w["next_action"] for w in (told, *waits) if w["next_action"])),
        "processes": reports,
        "log": [line for c in carriers for line in _tail(compute, c)],
    }


def _state(snapshot: Snapshot, resource: Resource) -> dict[str, str]:
    """Its state with why; of a row that was set aside, that it was."""
    aside = snapshot.aside.get(resource.key)
    if aside is None:
        told = {"reason": resource.reason, "message": resource.message, "next_action": resource.next_action}
        return {"state": resource.state, **told}
    tries = "once" if aside.attempts == 1 else f"{aside.attempts} times"
    return {
        "state": resource.state,
        "reason": "SET_ASIDE",
        "message": f"It is left as it is: it could not be looked after, tried {tries}. {aside.message}",
        "next_action": "This is a fault of Skyriver: report it with control.log. It is tried again by itself.",
    }


def _waits(snapshot: Snapshot, kinds: Mapping[str, Kind], resource: Resource) -> Iterator[dict[str, Any]]:
    """What it waits for, and what that waits for, each once: the last ones are the cause."""
    seen, front = {resource.ref}, [(resource, 1)]
    while front:
        waiting, depth = front.pop(0)
        kind = kinds.get(waiting.kind)
        if kind is None or depth > WAITS_DEPTH:
            continue
        for ref in kind.waits(snapshot, waiting):
            if ref in seen or len(seen) > WAITS_LIMIT:
                continue
            seen.add(ref)
            found = snapshot.find(resource.tenant, *ref.split("/", 1))
            told = _state(snapshot, found) if found is not None else _MISSING
            yield {"ref": ref, "by": waiting.ref, "progress": found.status.get("progress") if found else None, **told}
            if found is not None:
                front.append((found, depth + 1))


def _tried(resource: Resource) -> Iterator[dict[str, Any]]:
    """Earlier attempts as the row keeps them."""
    yield from resource.status.get("attempts", ())
    if resource.attempts and resource.reason and not resource.status.get("attempts"):
        yield {"attempt": resource.attempts, "reason": resource.reason, "message": resource.message}


def _next_pass(snapshot: Snapshot, kinds: Mapping[str, Kind], resource: Resource) -> list[str]:
    """What its step does now, in words; nothing where all is as it should be."""
    kind = kinds.get(resource.kind)
    if kind is None or resource.state in kind.final:
        return []
    try:
        return [text for action in kind.step(snapshot, resource) if (text := _in_words(snapshot, resource, action))]
    except Exception as error:  # the loop sets such a row aside, and so says `_state`
        return [f"fails: {type(error).__name__}: {error}"]


def _in_words(snapshot: Snapshot, resource: Resource, action: Action) -> str:
    match action:
        case Put(resource=after, expected=0):
            return f"makes {after.ref}"
        case Put(resource=after) if after.key != resource.key:
            return f"changes {after.ref}"
        case Put(resource=after) if after.state != resource.state:
            return f"becomes {after.state}"
        case Delete():
            return f"forgets {action.kind}/{action.name}"
        case Want(process=wanted) if wanted.name not in snapshot.processes or (
            not snapshot.processes[wanted.name].alive and not wanted.once
        ):
            return f"starts the process {wanted.name.partition('.')[2]}"
        case _:
            return ""


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
    report = {k: v for k, v in process.report.items() if k not in _UNTOLD | {"pid"}}
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
    for resource in (r for kind in _CARRIED for r in snapshot.all(tenant, kind)):
        process = snapshot.processes.get(resource.process)
        if process is None:
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
                "held_by": process.held_by,
                "report": {k: v for k, v in process.report.items() if k not in _UNTOLD},
            }
        )
    return items
