"""The control plane's REST API (DESIGN section 8): `/api/v1/tenants/{tenant}/...`.

Every route declares the permission it needs; `create_api` refuses to give an application that has one without.
The stages of the river are not known here: what can be deployed and asked for comes in as `Actions`.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from skyriver.control.compute import Compute
from skyriver.control.explain import explain, list_processes, log_of
from skyriver.control.loop import ControlLoop
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import Internal, InvalidInput, NotAllowed, NotFound, SkyriverError, StaleWrite
from skyriver.core.objects import Objects
from skyriver.core.resources import AuditEntry, Change, Put, Resource, Snapshot
from skyriver.core.spec import InnerPath
from skyriver.trust.permissions import Permission, require
from skyriver.trust.tokens import Identity, TokenTable

UPLOAD_LIMIT = 64 * 1024**3
PAGE_LIMIT = 1_000
COMMIT_TRIES = 5
T = TypeVar("T")
PUBLIC = "public"
PREFIX = "/api/v1"

KINDS: Mapping[str, tuple[str, Permission]] = {
    "apps": ("app", Permission.APPS_READ),
    "tables": ("table", Permission.TABLES_READ),
    "streams": ("stream", Permission.STREAMS_READ),
    "workers": ("worker", Permission.STREAMS_READ),
    "models": ("model", Permission.MODELS_READ),
    "versions": ("version", Permission.MODELS_READ),
    "rollouts": ("rollout", Permission.SERVICES_READ),
    "services": ("service", Permission.SERVICES_READ),
    "replicas": ("replica", Permission.SERVICES_READ),
    "jobs": ("job", Permission.JOBS_READ),
    "operations": ("operation", Permission.JOBS_READ),
}
"""Path segment -> (kind, permission to read it)."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DeployRequest(_Body):
    spec: dict[str, Any]
    spec_digest: str
    code: str
    """SHA-256 of the source bundle, uploaded before."""
    main: InnerPath
    """The application file's name in the bundle."""
    files: dict[str, str] = {}
    """Digests of the files in the bundle that models name."""


class ActionRequest(_Body):
    target: str
    params: dict[str, Any] = {}
    inputs: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Deployment:
    lines: Sequence[Mapping[str, Any]]
    changes: Sequence[Change]
    operations: Sequence[str]


class PlanDeploy(Protocol):
    def __call__(
        self, snapshot: Snapshot, tenant: str, name: str, request: DeployRequest, *, prune: bool
    ) -> Deployment: ...


PlanAction = Callable[[Snapshot, str, str, Mapping[str, Any], Mapping[str, Any]], list[Resource]]


@dataclass(frozen=True, slots=True)
class Actions:
    """What the stages of the river offer: how an application is deployed, and what can be asked for by name."""

    deploy: PlanDeploy
    named: Mapping[str, tuple[Permission, PlanAction]]


class Tokens:
    """The tokens that count now, read again only when the store has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = (-1, TokenTable())

    def table(self) -> TokenTable:
        revision = self._store.revision()
        if self._known[0] != revision:
            rows = self._store.rows(kind="token")
            table = TokenTable({r.spec["sha256"]: Identity(r.tenant, r.name, r.spec["role"]) for r in rows})
            self._known = (revision, table)
        return self._known[1]


@dataclass(frozen=True, slots=True)
class Cloud:
    """The parts that the API works on."""

    store: Store
    objects: Objects
    compute: Compute
    loop: ControlLoop
    clock: Clock
    fence: int
    actions: Actions
    uploads: Path
    """A directory for uploads on their way into the objects."""

    def commit(
        self, identity: Identity, permission: Permission, action: str, target: str, changes: Sequence[Change]
    ) -> None:
        entry = AuditEntry(identity.tenant, identity.name, permission.value, action, target)
        self.store.commit(changes, audit=[entry], fence=self.fence, actor=identity.name, now=self.clock.wall())
        self.loop.wake()


def create_api(cloud: Cloud) -> FastAPI:
    """The application. Raises Internal when a route declares no permission."""
    api = FastAPI(title="Skyriver", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    routes = _Routes(api, Tokens(cloud.store), cloud.clock)
    _add_reading(routes, cloud)
    _add_writing(routes, cloud)
    api.add_api_route(f"{PREFIX}/livez", _live, methods=["GET"], openapi_extra={"x-permission": PUBLIC})
    api.add_exception_handler(SkyriverError, _problem)
    api.add_exception_handler(RequestValidationError, _invalid_request)
    api.add_exception_handler(Exception, _our_mistake)
    api.add_exception_handler(HTTPException, _unknown_request)
    for route in api.routes:
        declared = route.openapi_extra or {} if isinstance(route, APIRoute) else {}
        if not declared.get("x-permission"):
            path = getattr(route, "path", repr(route))
            raise Internal(f"The route {path} declares no permission.", code="ROUTE_WITHOUT_PERMISSION")
    return api


@dataclass(frozen=True, slots=True)
class _Routes:
    """Adds routes, each with the permission that its guard checks; handlers find the caller with `_caller`."""

    api: FastAPI
    tokens: Tokens
    clock: Clock

    def add(
        self, method: str, path: str, permission: Permission, handler: Callable[..., Any], *, status: int = 200
    ) -> None:
        self.api.add_api_route(
            PREFIX + path,
            handler,
            methods=[method],
            status_code=status,
            dependencies=[Depends(_guard(self.tokens, self.clock, permission))],
            openapi_extra={"x-permission": permission.value},
        )


def _guard(tokens: Tokens, clock: Clock, permission: Permission) -> Callable[[Request], Awaitable[None]]:
    """Authenticates, compares the tenant of the path with the token's, and checks the permission."""

    async def check(request: Request) -> None:
        table = await run_in_threadpool(tokens.table)
        identity = table.authenticate(request.headers.get("authorization"), clock.wall())
        tenant = request.path_params.get("tenant", identity.tenant)
        if tenant != identity.tenant:
            raise NotAllowed(
                f"This token is of the tenant {identity.tenant!r}.",
                code="OTHER_TENANT",
                next_action="Use a token of the tenant that the address names.",
            )
        require(identity, permission)
        request.state.identity = identity

    return check


def _caller(request: Request) -> Identity:
    identity: Identity = request.state.identity
    return identity


async def _live() -> dict[str, bool]:
    return {"live": True}


def _add_reading(routes: _Routes, cloud: Cloud) -> None:
    base = "/tenants/{tenant}"

    async def openapi() -> dict[str, Any]:
        return routes.api.openapi()

    async def whoami(request: Request) -> dict[str, str]:
        who = _caller(request)
        return {"tenant": who.tenant, "name": who.name, "role": who.role}

    def processes(request: Request) -> dict[str, Any]:
        return {"items": list_processes(cloud.loop.snapshot(), _caller(request).tenant)}

    def explained(request: Request, name: str) -> dict[str, Any]:
        return {"items": explain(cloud.loop.snapshot(), cloud.loop.kinds, cloud.compute, _caller(request).tenant, name)}

    def logs(request: Request, name: str, offset: int = -16_384) -> dict[str, Any]:
        return {"items": log_of(cloud.loop.snapshot(), cloud.compute, _caller(request).tenant, name, offset)}

    def audit(request: Request, after: int = 0, limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100) -> Any:
        return {"items": cloud.store.audit(_caller(request).tenant, after=after, limit=limit)}

    def download(digest: str) -> Response:
        return Response(cloud.objects.get(digest), media_type="application/octet-stream")

    routes.add("GET", "/openapi.json", Permission.CLOUD_READ, openapi)
    routes.add("GET", "/whoami", Permission.CLOUD_READ, whoami)
    routes.add("GET", f"{base}/processes", Permission.CLOUD_READ, processes)
    routes.add("GET", f"{base}/explain/{{name:path}}", Permission.CLOUD_READ, explained)
    routes.add("GET", f"{base}/logs/{{name:path}}", Permission.CLOUD_READ, logs)
    routes.add("GET", f"{base}/audit", Permission.AUDIT_READ, audit)
    routes.add("GET", f"{base}/objects/{{digest}}", Permission.OBJECTS_READ, download)
    for segment, (kind, permission) in KINDS.items():
        _add_lists(routes, cloud, f"{base}/{segment}", kind, permission)


def _add_lists(routes: _Routes, cloud: Cloud, path: str, kind: str, permission: Permission) -> None:
    def listed(
        request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 200
    ) -> dict[str, Any]:
        rows = cloud.store.rows(_caller(request).tenant, kind, after=after, limit=limit)
        return {"items": [asdict(r) for r in rows], "next": rows[-1].name if len(rows) == limit else None}

    def one(request: Request, name: str) -> dict[str, Any]:
        return asdict(cloud.store.get(_caller(request).tenant, kind, name))

    routes.add("GET", path, permission, listed)
    routes.add("GET", f"{path}/{{name}}", permission, one)


def _add_writing(routes: _Routes, cloud: Cloud) -> None:
    base = "/tenants/{tenant}"

    async def upload(request: Request) -> dict[str, Any]:
        return await _take_upload(cloud, request.stream())

    def deploy(
        request: Request, name: str, body: DeployRequest, dry_run: bool = False, prune: bool = False
    ) -> dict[str, Any]:
        if not cloud.objects.has(body.code):
            raise NotFound(f"The source bundle {body.code!r} is not here.", code="NO_BUNDLE", next_action="Upload it.")
        who = _caller(request)

        def plan_and_commit() -> Deployment:
            plan = cloud.actions.deploy(cloud.loop.snapshot(), who.tenant, name, body, prune=prune)
            if plan.changes and not dry_run:
                cloud.commit(who, Permission.APPS_WRITE, "deploy", f"app/{name}", plan.changes)
            return plan

        plan = _repeated(plan_and_commit)
        return {"plan": list(plan.lines), "applied": not dry_run, "operations": list(plan.operations)}

    routes.add("POST", f"{base}/objects", Permission.OBJECTS_WRITE, upload, status=201)
    routes.add("PUT", f"{base}/apps/{{name}}", Permission.APPS_WRITE, deploy)
    for action, (permission, plan) in cloud.actions.named.items():
        _add_action(routes, cloud, f"{base}/actions/{action}", action, permission, plan)


def _add_action(
    routes: _Routes, cloud: Cloud, path: str, action: str, permission: Permission, plan: PlanAction
) -> None:
    def act(request: Request, body: ActionRequest) -> dict[str, Any]:
        who = _caller(request)

        def plan_and_commit() -> str:
            resources = plan(cloud.loop.snapshot(), who.tenant, body.target, body.params, body.inputs)
            cloud.commit(who, permission, action, body.target, [Put(r, 0) for r in resources])
            return next(r.name for r in resources if r.kind == "operation")

        return {"operation": _repeated(plan_and_commit)}

    routes.add("POST", path, permission, act, status=202)


def _repeated(attempt: Callable[[], T]) -> T:
    """Plans again when a row moved between plan and commit, as the loop moves rows all the time."""
    for _ in range(COMMIT_TRIES - 1):
        try:
            return attempt()
        except StaleWrite as error:
            if error.code == "FENCED":
                raise
    return attempt()


async def _take_upload(cloud: Cloud, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
    """Streams a body of any size to disk, then into the objects."""
    with tempfile.NamedTemporaryFile(dir=cloud.uploads) as file:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > UPLOAD_LIMIT:
                raise InvalidInput(f"The upload has over {UPLOAD_LIMIT} bytes.", code="TOO_LARGE")
            await run_in_threadpool(file.write, chunk)
        file.flush()
        digest = await run_in_threadpool(cloud.objects.put_file, Path(file.name))
    return {"digest": digest, "bytes": size}


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, SkyriverError)
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {}
    return JSONResponse(error.to_problem(), error.http_status, headers=headers, media_type="application/problem+json")


def _our_mistake(request: Request, error: Exception) -> Response:
    """Says nothing of our insides; the control plane's log has it all."""
    return _problem(request, Internal("The control plane failed on this request.", next_action="Its log has details."))


def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = tuple({"field": ".".join(str(p) for p in e["loc"]), "message": e["msg"]} for e in error.errors())
    what = "; ".join(f"{f['field']}: {f['message']}" for f in found)
    return _problem(request, InvalidInput(f"The request is not understood: {what}", code="BAD_REQUEST", details=found))


def _unknown_request(request: Request, error: Exception) -> Response:
    """No route has this path, or none this method."""
    assert isinstance(error, HTTPException)
    problem = NotFound(
        f"There is no {request.method} {request.url.path}.",
        code="UNKNOWN_ROUTE",
        next_action=f"GET {PREFIX}/openapi.json describes what there is.",
    ).to_problem() | {"status": error.status_code}
    return JSONResponse(problem, error.status_code, headers=error.headers, media_type="application/problem+json")
