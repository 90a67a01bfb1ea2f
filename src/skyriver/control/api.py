"""The control plane's REST API (DESIGN section 8): `/api/v1/tenants/{tenant}/...`, described in docs/openapi.json.

Every route declares the permission it needs; `create_api` refuses to give an application that has one without.
The stages of the river are not known here: what can be deployed and asked for comes in as `Actions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.responses import FileResponse, Response

from skyriver.control.auditing import add_audit
from skyriver.control.bodies import BodyLimit
from skyriver.control.cloud import Actions, Cloud, Deployment, DeployRequest
from skyriver.control.costs import add_costs
from skyriver.control.damaged import find_rows
from skyriver.control.deploying import etag, matches
from skyriver.control.events import Watch, add_events
from skyriver.control.explain import explain, list_processes, log_of, objectives
from skyriver.control.late import LateRoute
from skyriver.control.lineage import lineage
from skyriver.control.mlflow.protocol import ARTIFACTS
from skyriver.control.paging import (
    LOOKED_AT,
    Cursor,
    Limit,
    check_query,
    check_state,
    decode,
    document,
    link,
    page_of,
)
from skyriver.control.prices import add_prices
from skyriver.control.problems import add_problems
from skyriver.control.published import publish
from skyriver.control.requests import add_requests
from skyriver.control.routes import PREFIX, PUBLIC, TENANT, Routes, Tokens, caller
from skyriver.control.tracking import tracked
from skyriver.control.writing import add_writing
from skyriver.core import contract
from skyriver.core.contract_cards import ModelCard
from skyriver.core.contract_curves import Tracked
from skyriver.core.contract_lineage import LineageList
from skyriver.core.errors import Internal
from skyriver.core.resources import need
from skyriver.trust.permissions import Permission

__all__ = ["Actions", "Cloud", "DeployRequest", "Deployment", "create_api"]

KINDS: Mapping[str, tuple[str, Permission]] = {
    "apps": ("app", Permission.APPS_READ),
    "environments": ("environment", Permission.APPS_READ),
    "tables": ("table", Permission.TABLES_READ),
    "streams": ("stream", Permission.STREAMS_READ),
    "workers": ("worker", Permission.STREAMS_READ),
    "dispatchers": ("dispatcher", Permission.STREAMS_READ),
    "rulesets": ("ruleset", Permission.STREAMS_READ),
    "models": ("model", Permission.MODELS_READ),
    "versions": ("version", Permission.MODELS_READ),
    "rollouts": ("rollout", Permission.SERVICES_READ),
    "watches": ("watch", Permission.SERVICES_READ),
    "incidents": ("incident", Permission.SERVICES_READ),
    "services": ("service", Permission.SERVICES_READ),
    "scalings": ("scaling", Permission.SERVICES_READ),
    "replicas": ("replica", Permission.SERVICES_READ),
    "activators": ("activator", Permission.SERVICES_READ),
    "tasks": ("task", Permission.JOBS_READ),
    "schedules": ("schedule", Permission.JOBS_READ),
    "jobs": ("job", Permission.JOBS_READ),
    "operations": ("operation", Permission.JOBS_READ),
    "budgets": ("budget", Permission.CLOUD_READ),
}
"""Path segment -> (kind, permission to read it)."""

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


_OBJECTS = re.compile(rf"{re.escape(PREFIX)}/tenants/[^/]+/objects")


def create_api(cloud: Cloud) -> FastAPI:
    """The application; `state.watch` is to be closed before its server. Raises Internal when a route declares no
    permission."""
    api = _routed(cloud)
    publish(api, lambda: _routed(cloud))
    return api


def _routed(cloud: Cloud) -> FastAPI:
    api = FastAPI(title="Skyriver", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    routes = Routes(api, Tokens(cloud.store), cloud.clock)
    _add_reading(routes, cloud)
    add_writing(routes, cloud)
    api.state.watch = Watch(cloud.store)
    add_events(routes, cloud.store, api.state.watch)
    live = LateRoute(
        f"{PREFIX}/livez",
        _live,
        methods=["GET"],
        operation_id="check_live",
        summary="Check live",
        openapi_extra={"x-permission": PUBLIC, "security": []},
    )
    api.router.routes.append(live)
    add_problems(api, f"{PREFIX}/openapi.json")
    api.add_middleware(BodyLimit, but=_is_streamed)
    for route in api.routes:
        if not isinstance(route, LateRoute) or not route.openapi_extra.get("x-permission"):
            path = getattr(route, "path", repr(route))
            raise Internal(f"The route {path} declares no permission.", code="ROUTE_WITHOUT_PERMISSION")
    return api


def _is_streamed(method: str, path: str) -> bool:
    return (method == "POST" and _OBJECTS.fullmatch(path) is not None) or (
        method == "PUT" and path.startswith(f"{ARTIFACTS}/")
    )


async def _live() -> contract.Live:
    """That the control plane answers."""
    return {"live": True}


def _add_reading(routes: Routes, cloud: Cloud) -> None:
    async def openapi() -> dict[str, Any]:
        """This document."""
        return routes.api.openapi()

    async def whoami(request: Request) -> contract.WhoAmI:
        """Whose token this is."""
        who = caller(request)
        return {"tenant": who.tenant, "name": who.name, "role": who.role}

    def download(digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> Response:
        """An object by the SHA-256 of its content."""
        path = cloud.objects.open_path(digest)  # piece by piece: it may be larger than the memory
        return FileResponse(path, media_type="application/octet-stream")

    routes.add("GET", "/openapi.json", Permission.CLOUD_READ, openapi, "get_openapi")
    routes.add("GET", "/whoami", Permission.CLOUD_READ, whoami, "get_whoami")
    path = f"{TENANT}/objects/{{digest}}"
    routes.add("GET", path, Permission.OBJECTS_READ, download, "get_object", errors=[404], content=_BYTES)
    _add_views(routes, cloud)
    _add_streams(routes, cloud)
    add_audit(routes, cloud)
    add_requests(routes, cloud)
    add_prices(routes, cloud)
    add_costs(routes, cloud)
    for segment, (kind, permission) in KINDS.items():
        _add_lists(routes, cloud, segment, kind, permission)


def _add_views(routes: Routes, cloud: Cloud) -> None:
    def processes(request: Request) -> contract.ProcessList:
        """What runs of this tenant."""
        items: Any = list_processes(cloud.loop.snapshot(), caller(request).tenant)
        return {"items": items}

    def explained(request: Request, name: str) -> contract.ExplainedList:
        """Why everything of this name (or kind/name) is as it is."""
        snapshot, tenant = cloud.loop.snapshot(), caller(request).tenant
        items: Any = explain(snapshot, cloud.loop.kinds, cloud.compute, tenant, name, cloud.objective)
        return {"items": items}

    def objectives_now(request: Request) -> contract.ObjectiveList:
        """Whether services keep their objectives now, and why not; of those that declare one."""
        return {"items": objectives(cloud.loop.snapshot(), caller(request).tenant, cloud.objective)}

    def logs(
        request: Request,
        name: str,
        offset: Annotated[int, Query(ge=-(1 << 62), le=1 << 62, description="Negative: from the end.")] = -16_384,
    ) -> contract.LogParts:
        """What the processes of this name printed, from a byte on."""
        items: Any = log_of(cloud.loop.snapshot(), cloud.compute, caller(request).tenant, name, offset)
        return {"items": items}

    def add(path: str, handler: Any, operation: str, *errors: int) -> None:
        routes.add("GET", f"{TENANT}/{path}", Permission.CLOUD_READ, handler, operation, errors=errors)

    def card(request: Request, name: str) -> ModelCard:
        """What is known of a version, for people: what it is for, its data, how good it is and where, its limits."""
        snapshot = cloud.loop.snapshot()
        return cloud.actions.card(need(snapshot.find(caller(request).tenant, "version", name), "version", name))

    def traced(request: Request, name: str) -> LineageList:
        """From what data and code something (a name, or kind/name) comes, and what serves and decides by it."""
        return {"items": lineage(cloud.loop.snapshot(), caller(request).tenant, name)}

    def curves(request: Request, name: str) -> Tracked:
        """What a run (its name, one of its jobs, or MODEL:VERSION) told step by step, now or when it ended."""
        return tracked(cloud.loop.snapshot(), caller(request).tenant, name, cloud.objects.get)

    add("curves/{name:path}", curves, "read_curves", 404)
    add("lineage/{name:path}", traced, "trace_name", 404)
    add("processes", processes, "list_processes")
    add("objectives", objectives_now, "tell_objectives")
    add("explain/{name:path}", explained, "explain_name", 404)
    add("logs/{name:path}", logs, "read_logs", 404)
    routes.add("GET", f"{TENANT}/versions/{{name}}/card", Permission.MODELS_READ, card, "get_card", errors=[404])


def _add_streams(routes: Routes, cloud: Cloud) -> None:
    def all_now(request: Request) -> contract.StreamNowList:
        """What each stream does now, in the order of names."""
        snapshot = cloud.loop.snapshot()
        streams = snapshot.all(caller(request).tenant, "stream")
        return {"items": [cloud.actions.stream_now(snapshot, stream) for stream in streams]}

    def now(request: Request, name: str) -> contract.StreamNow:
        """What one stream does now: throughput, latency, lag, dead letters, sizes; a second old at most."""
        snapshot = cloud.loop.snapshot()
        return cloud.actions.stream_now(
            snapshot, need(snapshot.find(caller(request).tenant, "stream", name), "stream", name)
        )

    path, permission = f"{TENANT}/now/streams", Permission.STREAMS_READ
    routes.add("GET", path, permission, all_now, "watch_streams")
    routes.add("GET", f"{path}/{{name}}", permission, now, "watch_stream", errors=[404])


def _add_lists(routes: Routes, cloud: Cloud, segment: str, kind: str, permission: Permission) -> None:
    def listed(
        request: Request,
        response: Response,
        cursor: Cursor = "",
        limit: Limit = 200,
        state: Annotated[str | None, Query(description="Only those in this state.")] = None,
        parent: Annotated[str | None, Query(description="Only those of this kind/name.")] = None,
    ) -> contract.ResourcePage:
        """A page of all there are, in the order of names; with a filter it may hold fewer than `limit` though more
        follow: `next` tells."""
        check_query(request, ("cursor", "limit", "state", "parent"))
        if state is not None and kind in cloud.loop.kinds:
            check_state(state, cloud.loop.kinds[kind])
        wanted = {k: v for k, v in (("state", state), ("parent", parent)) if v is not None}
        asked = LOOKED_AT if wanted else limit
        page = page_of(find_rows(cloud.store, caller(request).tenant, kind, decode(cursor, str), asked), limit, wanted)
        link(request, response, page["next"])
        return page

    def one(
        request: Request,
        response: Response,
        name: str,
        if_none_match: Annotated[str, Header(description="ETag of what is known already: 304 when it is so.")] = "",
    ) -> contract.Resource:
        """One, with all that is known of it."""
        row = cloud.store.get(caller(request).tenant, kind, name)
        if if_none_match and matches(if_none_match, etag(row)):
            return Response(status_code=304, headers={"ETag": etag(row)})  # type: ignore[return-value]
        response.headers["ETag"] = etag(row)
        return document(row)

    path = f"{TENANT}/{segment}"
    routes.add("GET", path, permission, listed, f"list_{segment}", headers=["Link"])
    routes.add("GET", f"{path}/{{name}}", permission, one, f"get_{kind}", errors=[304, 404], headers=["ETag"])
