"""Deployments over the API: what is planned, shown and confirmed is what is done, and one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyriver.control.cloud import Cloud, Deployment, DeployRequest
from skyriver.control.mutations import Planned
from skyriver.control.spending import spending_after, to_be_counted, uncounted
from skyriver.core.errors import Conflict, PreconditionFailed
from skyriver.core.jobs import ENDED, reserved_by_training
from skyriver.core.names import digest
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot
from skyriver.core.spec import SearchSpec
from skyriver.core.spending import never_spent, parse_budget


def plan(
    cloud: Cloud, snapshot: Snapshot, tenant: str, name: str, body: DeployRequest, *, prune: bool, dry_run: bool
) -> Planned:
    """Raises Conflict: PLAN_CHANGED when another plan than this one was confirmed, DEPLOY_RUNNING."""
    planned = cloud.actions.deploy(snapshot, tenant, name, body, prune=prune)
    found = plan_digest(snapshot, body, planned, prune=prune)
    if not dry_run:
        _refuse_other_plan(body, found, planned)
        if planned.changes:
            _refuse_while_running(snapshot, tenant, name)
    answer = {
        "plan": [*planned.lines, *_of_budget(cloud, body), *_of_searches(cloud, body)],
        "plan_digest": found,
        "applied": not dry_run,
        "operations": list(planned.operations),
    }
    changes = [_with_operations(change, planned.operations) for change in planned.changes]
    changes += spending_after(snapshot, changes, cloud.prices.now())
    return Planned(changes, answer, told(planned.lines), commit=not dry_run)


def _of_budget(cloud: Cloud, body: DeployRequest) -> Sequence[Mapping[str, Any]]:
    """A warning, no part of what is confirmed: prices may be others by then."""
    text = body.spec.get("budget")
    budget, prices = parse_budget(text) if text else None, cloud.prices.now()
    if budget is None or not (why := uncounted(budget, prices)):
        return ()
    detail = f"{budget}: {why} {to_be_counted(budget, prices)}"
    return ({"action": "warn", "kind": "budget", "name": body.spec["name"], "detail": detail},)


def _of_searches(cloud: Cloud, body: DeployRequest) -> Iterator[Mapping[str, Any]]:
    """Warnings, as above: searches that would be refused (NO_PRICE) if they began now."""
    for model in body.spec.get("models", ()):
        search = (model.get("train") or {}).get("search")
        if search is None:
            continue
        why, action = never_spent(SearchSpec.model_validate(search), cloud.prices.now(), reserved_by_training())
        if why:
            detail = f"{why} Its run will end with that (NO_PRICE). {action}"
            yield {"action": "warn", "kind": "model", "name": model["name"], "detail": detail}


def plan_digest(snapshot: Snapshot, body: DeployRequest, planned: Deployment, *, prune: bool) -> str:
    """Of what is done, and of the declared state that it changes. What the loop writes into the status of a row does
    not count: it moves all the time, and no plan rests on it."""
    keys = [c.resource.key if isinstance(c, Put) else (c.tenant, c.kind, c.name) for c in planned.changes]
    rests_on = [[*key, row.generation] for key in keys if (row := snapshot.find(*key)) is not None]
    wanted = [body.spec_digest, body.code, body.main, dict(body.files), body.environment, prune]
    return digest([wanted, [dict(line) for line in planned.lines], sorted(rests_on)])


def check_match(current: Resource | None, name: str, if_match: str, if_none_match: str) -> None:
    """The preconditions of RFC 9110 on the resource that is to be changed. Raises PreconditionFailed."""
    found = etag(current) if current is not None else ""
    if if_match and not matches(if_match, found):
        what = f"it is at revision {current.revision}" if current is not None else "it does not exist"
        raise _precondition(name, current, f"{what}, not at {if_match}")
    if if_none_match and matches(if_none_match, found):
        raise _precondition(name, current, "it exists")


def etag(row: Resource) -> str:
    return f'"{row.revision}"'


def matches(header: str, found: str) -> bool:
    """Whether a list of entity tags, or *, names the tag `found` ("" for what does not exist)."""
    if not found:
        return False
    return header.strip() == "*" or found in [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _precondition(name: str, current: Resource | None, why: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"The app {name!r} is not as it must be for this: {why}.",
        where=f"app/{name}",
        next_action="Read it again, and decide anew.",
        details=({"revision": current.revision if current is not None else 0},),
    )


def _refuse_other_plan(body: DeployRequest, found: str, planned: Deployment) -> None:
    if not body.plan_digest or body.plan_digest == found:
        return
    raise Conflict(
        "The state of things has changed since this plan was made: the plan that was confirmed is not what would be"
        " done now.",
        code="PLAN_CHANGED",
        next_action="Look at the new plan and confirm it: `skyriver deploy FILE` shows it.",
        details=tuple(dict(line) for line in planned.lines if line["action"] in ("create", "update", "remove")),
    )


def _refuse_while_running(snapshot: Snapshot, tenant: str, name: str) -> None:
    app = snapshot.find(tenant, "app", name)
    started: Sequence[str] = app.status.get("operations", ()) if app is not None else ()
    for operation in started:
        row = snapshot.find(tenant, "operation", operation)
        if row is not None and row.state not in ENDED:
            raise Conflict(
                f"The deployment of {name!r} before is not finished: its operation {operation} is {row.state}.",
                code="DEPLOY_RUNNING",
                where=f"operation/{operation}",
                next_action="Wait for it: `skyriver deploy FILE --wait` does.",
                details=({"operation": operation},),
            )


def _with_operations(change: Change, operations: Sequence[str]) -> Change:
    """The application's row keeps what its last deployment started."""
    if isinstance(change, Delete) or change.resource.kind != "app":
        return change
    row = change.resource
    return replace(change, resource=replace(row, status={**row.status, "operations": list(operations)}))


def told(lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """For the audit row: how many lines of each action."""
    actions = [line["action"] for line in lines]
    return {action: actions.count(action) for action in sorted({*actions})}
