"""Names for versions, beside their numbers: `champion` is the one that serves, any other is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from skyriver.core.jobs import new_operation, next_number
from skyriver.core.names import check_name, nearest
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.release.operations import check_takes_over
from skyriver.release.rollouts import new_rollout

CHAMPION = "champion"
MAX_ALIASES = 100
"""Of a model: they are in its row, which each pass of the loop reads."""


def plan_alias(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Lets `params["alias"]` name the version `params["version"]`. The alias `champion` of a model that is served moves
    when the version has taken over, in the way that the model declares: a rollout is started.

    Raises NotFound, InvalidInput (BAD_NAME, BAD_PARAMETER), Conflict as a rollback does, QuotaExceeded."""
    model = need(snapshot.find(tenant, "model", target), "model", target)
    alias, number = check_name(params.get("alias"), "an alias"), params.get("version")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InvalidInput(
            f"{number!r} is not the number of a version.",
            code="BAD_PARAMETER",
            where="version",
            next_action="`skyriver version list` shows the versions there are.",
        )
    need(snapshot.find(tenant, "version", f"{target}:{number}"), "version", f"{target}:{number}")
    run = f"{target}-alias-{next_number(snapshot, tenant, 'operation', f'{target}-alias')}"
    if alias == CHAMPION and snapshot.find(tenant, "service", target) is not None:
        check_takes_over(snapshot, model, number)
        rollout = new_rollout(snapshot, tenant, target, number, parent=f"operation/{run}")
        return [new_operation(snapshot, tenant, run, action="alias", target=target, follow=[rollout.ref]), rollout]
    aliases = {**aliases_of(model), alias: number}
    if len(aliases) > MAX_ALIASES:
        raise QuotaExceeded(
            f"{target} has {MAX_ALIASES} aliases already.",
            code="TOO_MANY_ALIASES",
            where=model.ref,
            next_action=f"`skyriver model unalias {target} ALIAS` takes one away.",
        )
    return [new_operation(snapshot, tenant, run, action="alias", target=target), _with(model, aliases)]


def plan_unalias(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Takes the alias `params["alias"]` away; the version stays. Raises NotFound, InvalidInput, Conflict (SERVES)."""
    model = need(snapshot.find(tenant, "model", target), "model", target)
    alias, aliases = check_name(params.get("alias"), "an alias"), aliases_of(model)
    if alias not in aliases:
        raise no_alias(model, alias)
    if alias == CHAMPION and snapshot.find(tenant, "service", target) is not None:
        raise Conflict(
            f"{target}@{alias} names the version that serves: it can move, and not be taken away.",
            code="SERVES",
            where=model.ref,
            next_action=f"`skyriver model alias {target} {alias} VERSION` moves it.",
        )
    run = f"{target}-unalias-{next_number(snapshot, tenant, 'operation', f'{target}-unalias')}"
    left = {name: number for name, number in aliases.items() if name != alias}
    return [new_operation(snapshot, tenant, run, action="unalias", target=target), _with(model, left)]


def aliases_of(model: Resource) -> dict[str, int]:
    return {str(alias): int(number) for alias, number in model.status.get("aliases", {}).items()}


def no_alias(model: Resource, alias: str) -> NotFound:
    return NotFound(
        f"{model.name} has no alias {alias!r}{nearest(alias, aliases_of(model))}.",
        code="NO_ALIAS",
        where=model.ref,
        next_action=f"`skyriver model get {model.name}` shows those it has.",
    )


def _with(model: Resource, aliases: Mapping[str, int]) -> Resource:
    return replace(model, status={**model.status, "aliases": dict(aliases)})
