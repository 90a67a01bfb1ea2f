"""The activator as a kind: one process a tenant that answers for its services that sleep, while there are any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from skyriver.core.declared import service_spec
from skyriver.core.processes import PROCESS_TRANSITIONS, how_it_ended
from skyriver.core.resources import Action, Delete, Kind, ProcessSpec, Put, Resource, Snapshot, Want
from skyriver.core.spec import ServiceSpec
from skyriver.serve.sleeping import ACTIVATOR as NAME
from skyriver.serve.sleeping import rests, waiting

ENDING = ("DRAINING", "STOPPED")
"""States of replicas that take no more requests."""


def new_activator(snapshot: Snapshot, service: Resource, serve: ServiceSpec) -> Iterator[Action]:
    """With the first service that may sleep."""
    if serve.sleeps and snapshot.find(service.tenant, NAME, NAME) is None:
        yield Put(Resource(service.tenant, NAME, NAME, state="STARTING", since=snapshot.now), 0)


def _step(snapshot: Snapshot, activator: Resource) -> Iterator[Action]:
    services = [s for s in snapshot.all(activator.tenant, "service") if _looked_after(snapshot, s)]
    if not services:
        yield Delete(*activator.key, activator.revision)
        return
    live = {"services": {service.name: _place(snapshot, service) for service in services}}
    yield Want(ProcessSpec(activator.process, "activator", activator.tenant, {}, live=live))
    process = snapshot.processes.get(activator.process)
    if process is None:
        return
    if not process.alive:
        if activator.state != "LOST":
            ended = how_it_ended(process.exit_code, out_of_memory=process.out_of_memory)
            told = {
                "reason": str(process.report.get("reason") or "PROCESS_DIED"),
                "message": str(process.report.get("message") or f"{ended} The requests that it held ended with it."),
                "next_action": "It is started again.",
            }
            attempts = activator.attempts + 1
            yield Put(ACTIVATOR.move(activator, "lost", snapshot.now, attempts=attempts, **told), activator.revision)
    elif process.report.get("ready"):
        if activator.state != "READY":
            yield Put(ACTIVATOR.move(activator, "ready", snapshot.now, attempts=0), activator.revision)
    elif activator.state == "READY":
        yield Put(ACTIVATOR.move(activator, "starting", snapshot.now), activator.revision)


def _looked_after(snapshot: Snapshot, service: Resource) -> bool:
    serve = service_spec(service.spec["serve"])
    return rests(service, serve) or waiting(snapshot, service) > 0


def _place(snapshot: Snapshot, service: Resource) -> dict[str, Any]:
    """Where what is held for the service goes: to the sockets of each version, which may not be listened on yet."""
    versions: dict[str, dict[str, Any]] = {
        version: {"weight": int(told["weight"]), "sockets": []}
        for version, told in service.spec.get("versions", {}).items()
    }
    troubles = []
    for replica in snapshot.children(service, "replica"):
        place = versions.get(str(replica.spec["version"]))
        process = snapshot.processes.get(replica.process)
        if place is None or replica.state in ENDING:
            continue
        if process is not None and process.alive:
            place["sockets"].append(process.socket)
        if replica.attempts or replica.state in ("LOST", "FAILED"):
            message = replica.message or f"It ended before it was ready; tried again, {replica.attempts} so far."
            troubles.append({"failed": replica.state == "FAILED", "reason": replica.reason, "message": message})
    return {"versions": versions, "trouble": max(troubles, key=lambda t: bool(t["failed"]), default=None)}


ACTIVATOR = Kind(NAME, "STARTING", PROCESS_TRANSITIONS, frozenset(), _step)
