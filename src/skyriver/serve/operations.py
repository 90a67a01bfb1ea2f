"""What can be asked of a service by hand: to go to sleep, to wake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.errors import Conflict
from skyriver.core.jobs import new_operation, next_number
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.core.spec import ServiceSpec
from skyriver.serve.kinds import SERVICE
from skyriver.serve.sleeping import ON_REQUEST, asleep, is_asleep, rest_of, told_of, waking


def plan_sleep(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Its replicas end once they have answered what they have; the next request wakes it. Raises Conflict."""
    service = need(snapshot.find(tenant, "service", target), "service", target)
    serve = ServiceSpec.model_validate(service.spec["serve"])
    if not serve.sleeps:
        raise Conflict(
            f"The service {target} is declared with {serve.least} replicas or more at all times.",
            code="NEVER_SLEEPS",
            where=service.ref,
            next_action=f"Declare serve=sr.Service(replicas=(0, {serve.most})) and deploy.",
        )
    if is_asleep(rest_of(service)):
        raise _already(service)
    if service.state not in ("READY", "STARTING", "DEGRADED"):
        raise Conflict(
            f"The service {target} is {service.state}: it cannot go to sleep now.",
            code="REFUSED_TRANSITION",
            where=service.ref,
            next_action=f"Wait until it is READY: `skyriver service get {target}` shows it.",
        )
    return _with_rest(snapshot, service, serve, "sleep", asleep(ON_REQUEST, snapshot.now))


def plan_wake(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """It serves again before somebody asks; it goes to sleep again as declared. Raises Conflict."""
    service = need(snapshot.find(tenant, "service", target), "service", target)
    if not is_asleep(rest_of(service)):
        raise _already(service)
    serve = ServiceSpec.model_validate(service.spec["serve"])
    return _with_rest(snapshot, service, serve, "wake", waking(ON_REQUEST, snapshot.now))


def _already(service: Resource) -> Conflict:
    word = "asleep" if is_asleep(rest_of(service)) else "awake"
    return Conflict(
        f"The service {service.name} is {word} already.",
        code=f"ALREADY_{word.upper()}",
        where=service.ref,
        next_action=f"`skyriver service get {service.name}` shows how it is.",
    )


def _with_rest(
    snapshot: Snapshot, service: Resource, serve: ServiceSpec, action: str, rest: Mapping[str, Any]
) -> list[Resource]:
    prefix = f"{service.name}-{action}"
    name = f"{prefix}-{next_number(snapshot, service.tenant, 'operation', prefix)}"
    operation = new_operation(snapshot, service.tenant, name, action=action, target=service.name)
    event = "asleep" if is_asleep(rest) else "starting"
    status = {**service.status, "rest": rest}
    return [operation, SERVICE.move(service, event, snapshot.now, status=status, **told_of(service.name, rest, serve))]
