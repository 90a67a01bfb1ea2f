"""The kind `incident`: something is wrong with the system, with what it is put down to. Made by `observe.system`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skyriver.core.resources import Action, Kind, Resource, Snapshot
from skyriver.observe.incidents import Incident

INCIDENT_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("OPEN", "changed"): "OPEN",
    ("OPEN", "worse"): "OPEN",
    ("ACKNOWLEDGED", "worse"): "OPEN",
    ("OPEN", "acknowledge"): "ACKNOWLEDGED",
    ("OPEN", "resolve"): "RESOLVED",
    ("ACKNOWLEDGED", "changed"): "ACKNOWLEDGED",
    ("ACKNOWLEDGED", "resolve"): "RESOLVED",
    ("RESOLVED", "changed"): "RESOLVED",
    ("RESOLVED", "reopen"): "OPEN",
}


def _step(snapshot: Snapshot, incident: Resource) -> Iterator[Action]:
    """It moves by what is seen, or when somebody takes it."""
    return iter(())


INCIDENT = Kind("incident", "OPEN", INCIDENT_TRANSITIONS, frozenset(), _step)


def new_incident(
    tenant: str, name: str, incident: Incident, status: Mapping[str, Any], message: str, now: int
) -> Resource:
    first = incident.conditions[0]
    return Resource(
        tenant,
        "incident",
        name,
        spec={"root": incident.root},
        status=status,
        state="OPEN",
        reason=first.kind.upper().replace(" ", "_").replace(":", ""),
        message=message,
        next_action=incident.next_action,
        since=now,
    )
