"""The kind `scaling`: how many replicas an elastic service is to have, and why. A row a service, under its name.

`spec` is {"replicas": n}; whoever decides writes it (wiring.scaler). The service's step follows it, within what is
declared: while nobody decides the row stands, and so do the replicas. Of a service that may sleep it has "sleep" as
well: after "idle_us" without a request it does, and from "at" "until" when it is awake before somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from skyriver.core.declared import service_spec
from skyriver.core.resources import Action, Delete, Kind, Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND

SCALING: Final = "scaling"
LEAST_CLEARING_S: Final = 1.0
"""What waits at a waking is worth no more replicas than clear it within this: a start takes as long."""

SCALING_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("ACTIVE", "decided"): "ACTIVE",
    ("ACTIVE", "blind"): "HOLDING",
    ("HOLDING", "blind"): "HOLDING",
    ("HOLDING", "decided"): "ACTIVE",
}


def scaling_of(snapshot: Snapshot, service: Resource) -> Resource | None:
    return snapshot.find(service.tenant, SCALING, service.name)


def decided(snapshot: Snapshot, service: Resource, serve: ServiceSpec, there: int) -> int:
    """Replicas of each version while the service is awake. Those that are `there` stay until somebody has decided: the
    service may only now have become elastic, with all that is asked of it."""
    if not serve.elastic:
        return serve.most
    row = scaling_of(snapshot, service)
    return min(serve.most, max(serve.awake, int(row.spec["replicas"]) if row is not None else there))


def sleep_of(snapshot: Snapshot, service: Resource) -> Mapping[str, Any]:
    """What was decided of its sleep; empty where nothing was."""
    row = scaling_of(snapshot, service)
    decided_of: Mapping[str, Any] = row.spec.get("sleep", {}) if row is not None else {}
    return decided_of


def to_wake(snapshot: Snapshot, service: Resource, serve: ServiceSpec, waiting: int) -> int:
    """Replicas that start at once, for so many requests that wait: one alone where it is not known what they take."""
    row = scaling_of(snapshot, service)
    measured: Mapping[str, Any] = row.status.get("measured", {}) if row is not None else {}
    if not serve.elastic or not measured.get("work_s"):
        return 1
    left_s = (serve.wake_us or serve.latency_us) / SECOND - float(measured.get("start_s", 0.0))
    needed = math.ceil(waiting * float(measured["work_s"]) / max(left_s, LEAST_CLEARING_S))
    return min(serve.most, max(1, needed))


def new_scaling(service: Resource, replicas: int, status: Mapping[str, Any], now: int) -> Resource:
    spec = {"replicas": replicas}
    return Resource(service.tenant, SCALING, service.name, spec, status, state="ACTIVE", parent=service.ref, since=now)


def _step(snapshot: Snapshot, scaling: Resource) -> Iterator[Action]:
    """It goes with its service, or when there is nothing to decide of that any more."""
    service = snapshot.find(scaling.tenant, "service", scaling.name)
    serve = service_spec(service.spec["serve"]) if service is not None else None
    if serve is None or not (serve.elastic or serve.sleeps):
        yield Delete(*scaling.key, scaling.revision)


SCALINGS = Kind(SCALING, "ACTIVE", SCALING_TRANSITIONS, frozenset(), _step)
