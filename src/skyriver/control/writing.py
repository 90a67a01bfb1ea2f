"""The routes that change something."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from skyriver.control import deploying
from skyriver.control.alerts import add_alerts
from skyriver.control.cloud import ActionRequest, Cloud, DeployRequest, PlanAction
from skyriver.control.dispatching import Dispatchers, add_dispatching
from skyriver.control.keys import add_keys
from skyriver.control.mlflow.routes import add_mlflow
from skyriver.control.models import add_models
from skyriver.control.mutations import Key, Mutations, Planned, fingerprint, make_call
from skyriver.control.outcomes import add_outcomes
from skyriver.control.reviews import add_reviews
from skyriver.control.routes import PREFIX, TENANT, Routes, caller
from skyriver.control.rules import add_rules
from skyriver.control.spending import spending_after
from skyriver.control.tenants import add_tenants
from skyriver.control.tokens import add_tokens
from skyriver.control.uploads import take_upload
from skyriver.core import contract
from skyriver.core.errors import NotFound
from skyriver.core.names import digest
from skyriver.core.resources import Put, Snapshot
from skyriver.core.spending import check_spending
from skyriver.trust.permissions import Permission

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REFUSALS = (404, 409)
PAID = frozenset({"predict", "replay", "run", "train", "tune"})
"""Actions whose jobs are not begun where a budget is spent. What brings data in, mends or erases goes on."""

Fingerprint = Annotated[str, Depends(fingerprint)]
IfMatch = Annotated[str, Header(description="ETag of the resource as it must be, or *: that it must exist.")]
IfNoneMatch = Annotated[str, Header(description="*: that it must not exist yet.")]
DryRun = Annotated[bool, Query(description="Only the plan; nothing is done.")]


def add_writing(routes: Routes, cloud: Cloud) -> None:
    mutations = Mutations(cloud)
    _add_upload(routes, cloud, mutations)
    _add_apps(routes, cloud, mutations)
    for action, (permission, plan) in cloud.actions.named.items():
        _add_action(routes, mutations, action, permission, plan)
    dispatchers = Dispatchers(cloud, mutations)
    add_dispatching(routes, dispatchers)
    add_reviews(routes, dispatchers)
    add_keys(routes, cloud, mutations)
    add_alerts(routes, cloud, mutations)
    add_tenants(routes, cloud, mutations)
    add_tokens(routes, cloud, mutations)
    add_rules(routes, cloud, mutations)
    add_outcomes(routes, cloud, mutations)
    add_models(routes, cloud, mutations)
    add_mlflow(routes, cloud, mutations)


def _add_upload(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    async def upload(request: Request, key: Key = "") -> contract.Uploaded:
        """Keeps a body of any size as an object; the same content is the same object."""
        kept, size = await take_upload(cloud, request.stream())
        answer: contract.Uploaded = {"digest": kept, "bytes": size}
        asked = digest([request.method, request.url.path, kept])
        call = make_call(request, Permission.OBJECTS_WRITE, "upload", f"object/{kept}", key, asked)
        done: Any = await run_in_threadpool(
            mutations.carry_out, call, lambda snapshot: Planned([], {**answer}, {"bytes": size})
        )
        return done  # type: ignore[no-any-return]

    path = f"{TENANT}/objects"
    routes.add(
        "POST", path, Permission.OBJECTS_WRITE, upload, "upload_object", status=201, errors=_REFUSALS, body=_BYTES
    )


def _add_apps(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def deploy(
        request: Request,
        name: str,
        body: DeployRequest,
        asked: Fingerprint,
        dry_run: DryRun = False,
        prune: Annotated[bool, Query(description="Remove what the file no longer has (never tables).")] = False,
        key: Key = "",
        if_match: IfMatch = "",
        if_none_match: IfNoneMatch = "",
    ) -> contract.Deployed:
        """The plan for an application and, unless `dry_run`, its doing: whole or not at all."""
        if not cloud.objects.has(body.code):
            raise NotFound(f"The source bundle {body.code!r} is not here.", code="NO_BUNDLE", next_action="Upload it.")
        if body.environment and not cloud.objects.has(body.environment):
            raise NotFound(f"The lock {body.environment!r} is not here.", code="NO_LOCK", next_action="Upload it.")
        tenant = caller(request).tenant

        def plan(snapshot: Snapshot) -> Planned:
            deploying.check_match(snapshot.find(tenant, "app", name), name, if_match, if_none_match)
            return deploying.plan(cloud, snapshot, tenant, name, body, prune=prune, dry_run=dry_run)

        done: Any = mutations.carry_out(
            make_call(request, Permission.APPS_WRITE, "deploy", f"app/{name}", "" if dry_run else key, asked), plan
        )
        return done  # type: ignore[no-any-return]

    def remove(
        request: Request,
        name: str,
        asked: Fingerprint,
        dry_run: DryRun = False,
        key: Key = "",
        if_match: IfMatch = "",
    ) -> contract.Removed:
        """Removes an application with its streams, models and services. Tables, versions and what was recorded stay."""
        tenant = caller(request).tenant

        def plan(snapshot: Snapshot) -> Planned:
            deploying.check_match(snapshot.find(tenant, "app", name), name, if_match, "")
            planned = cloud.actions.remove(snapshot, tenant, name)
            answer = {"plan": list(planned.lines), "applied": not dry_run}
            changes = [*planned.changes, *spending_after(snapshot, planned.changes, cloud.prices.now())]
            return Planned(changes, answer, deploying.told(planned.lines), commit=not dry_run)

        call = make_call(request, Permission.APPS_WRITE, "delete", f"app/{name}", "" if dry_run else key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    errors = (*_REFUSALS, 412)
    routes.add("DELETE", f"{TENANT}/apps/{{name}}", Permission.APPS_WRITE, remove, "delete_app", errors=errors)
    routes.add("PUT", f"{TENANT}/apps/{{name}}", Permission.APPS_WRITE, deploy, "deploy_app", errors=errors)


def _add_action(routes: Routes, mutations: Mutations, action: str, permission: Permission, plan: PlanAction) -> None:
    def act(
        request: Request, response: Response, body: ActionRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.Accepted:
        tenant = caller(request).tenant

        def planned(snapshot: Snapshot) -> Planned:
            rows = plan(snapshot, tenant, body.target, body.params, body.inputs)
            if action in PAID:
                check_spending(snapshot, tenant, rows)
            operation = next(r.name for r in rows if r.kind == "operation")
            answer: contract.Accepted = {"operation": operation, "action": action, "target": body.target}
            return Planned([Put(r, r.revision) for r in rows], {**answer}, {"operation": operation})

        done: Any = mutations.carry_out(make_call(request, permission, action, body.target, key, asked), planned)
        response.headers["Location"] = operation_path(tenant, done["operation"])
        return done  # type: ignore[no-any-return]

    act.__doc__ = f"Asks for a {action}; answers with the operation that goes on, before it has ended."
    path, errors = f"{TENANT}/actions/{action}", (*_REFUSALS, 429) if action in PAID else _REFUSALS
    routes.add("POST", path, permission, act, f"start_{action}", status=202, errors=errors, headers=["Location"])


def operation_path(tenant: str, operation: str) -> str:
    return f"{PREFIX}/tenants/{tenant}/operations/{quote(operation, safe='')}"
