"""What a person decides about a model that is watched, and about an incident."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.errors import Conflict
from skyriver.core.jobs import new_operation, next_number
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.observe.incident_kind import INCIDENT, INCIDENT_TRANSITIONS
from skyriver.observe.watching import WATCH, WATCH_TRANSITIONS


def plan_watch_pause(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """It neither looks nor trains until it is resumed; a training that runs goes on."""
    why = params.get("why")
    message = f"It was paused by hand{f': {why}' if isinstance(why, str) and why else ''}."
    action = f"`skyriver watch resume {target}` lets it go on."
    return _steer(snapshot, tenant, target, "pause", reason="BY_HAND", message=message, next_action=action)


def plan_watch_resume(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """It looks and trains again; what came to nothing before is forgiven."""
    watch = need(snapshot.find(tenant, "watch", target), "watch", target)
    last = next(reversed(watch.status.get("trainings") or ()), None)
    under_way = watch.state == "PAUSED" and last is not None and not last["outcome"]
    event = "follow" if under_way else "resume"
    return _steer(snapshot, tenant, target, event, status={**watch.status, "failures": 0})


def plan_incident_ack(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Somebody looks at it: who, and what he says, is shown with it. It ends when what is wrong does."""
    incident = need(snapshot.find(tenant, "incident", target), "incident", target)
    if (incident.state, "acknowledge") not in INCIDENT_TRANSITIONS:
        raise Conflict(
            f"{target} is {incident.state}: it cannot be acknowledged now.",
            code="REFUSED_TRANSITION",
            where=incident.ref,
            next_action=f"`skyriver incident get {target}` shows how it is.",
        )
    why = params.get("why")
    taken = {"at": snapshot.now, "by": snapshot.asked_by, "why": why if isinstance(why, str) else ""}
    status = {**incident.status, "acknowledged": taken}
    kept = {"reason": incident.reason, "message": incident.message, "next_action": incident.next_action}
    run = f"{target}-ack-{next_number(snapshot, tenant, 'operation', f'{target}-ack')}"
    operation = new_operation(snapshot, tenant, run, action="incident_ack", target=target)
    return [operation, INCIDENT.move(incident, "acknowledge", snapshot.now, status=status, **kept)]


def _steer(snapshot: Snapshot, tenant: str, target: str, event: str, **changes: Any) -> list[Resource]:
    """Raises NotFound, Conflict (REFUSED_TRANSITION)."""
    watch = need(snapshot.find(tenant, "watch", target), "watch", target)
    word = "pause" if event == "pause" else "resume"
    if (watch.state, event) not in WATCH_TRANSITIONS:
        raise Conflict(
            f"The watch of {target} is {watch.state}: it cannot {word} now.",
            code="REFUSED_TRANSITION",
            where=watch.ref,
            next_action=f"`skyriver watch get {target}` shows what it does.",
        )
    run = f"{target}-watch_{word}-{next_number(snapshot, tenant, 'operation', f'{target}-watch_{word}')}"
    operation = new_operation(snapshot, tenant, run, action=f"watch_{word}", target=target)
    return [operation, WATCH.move(watch, event, snapshot.now, **changes)]
