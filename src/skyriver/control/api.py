"""The control plane's REST API (DESIGN section 8): `/api/v1/tenants/{tenant}/...`.

Every route declares the permission it needs; `create_api` refuses to give an application that has one without.
The stages of the river are not known here: what can be deployed and asked for comes in as `Actions`.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from skyriver.control.explain import explain, list_processes, log_of
from skyriver.control.loop import ControlLoop
from skyriver.control.processes import Processes
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import Internal, InvalidInput, NotAllowed, NotFound, SkyriverError
from skyriver.core.objects import Objects
from skyriver.core.resources import AuditEntry, Change, Put, Resource, Snapshot
from skyriver.trust.permissions import Permission, require
from skyriver.trust.tokens import Identity, TokenTable

UPLOAD_LIMIT = 64 * 1024**3
PAGE_LIMIT = 1_000
PUBLIC = "public"

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
    main: str
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


@dataclass(frozen=True, slots=True)
class Cloud:
    """The parts that the API works on."""

    store: Store
    objects: Objects
    processes: Processes
    loop: ControlLoop
    clock: Clock
    fence: int
    actions: Actions
    uploads: Path
    """A directory for uploads on their way into the objects."""

    def tokens(self) -> TokenTable:
        rows = self.store.rows(kind="token")
        return TokenTable({r.spec["sha256"]: Identity(r.tenant, r.name, r.spec["role"]) for r in rows})

    def commit(
        self, identity: Identity, permission: Permission, action: str, target: str, changes: Sequence[Change]
    ) -> None:
        entry = AuditEntry(identity.tenant, identity.name, permission.value, action, target)
        self.store.commit(changes, audit=[entry], fence=self.fence, actor=identity.name, now=self.clock.wall())
        self.loop.wake()


def to_json(resource: Resource) -> dict[str, Any]:
    return asdict(resource)


Guard = Callable[[Request], Awaitable[Identity]]


def create_api(cloud: Cloud) -> FastAPI:
    """The application. Raises Internal when a route declares no permission."""
    api = FastAPI(title="Skyriver", version="1", openapi_url="/api/v1/openapi.json", docs_url=None, redoc_url=None)
    api.include_router(_public())
    api.include_router(_reading(cloud))
    api.include_router(_writing(cloud))
    api.add_exception_handler(SkyriverError, _problem)
    api.add_exception_handler(RequestValidationError, _invalid_request)
    for route in api.routes:
        if isinstance(route, APIRoute) and not (route.openapi_extra or {}).get("x-permission"):
            raise Internal(f"The route {route.path} declares no permission.", code="ROUTE_WITHOUT_PERMISSION")
    return api


def _guard(cloud: Cloud, permission: Permission) -> Guard:
    """Authenticates, compares the tenant of the path with the token's, and checks the permission."""

    async def check(request: Request) -> Identity:
        table = await run_in_threadpool(cloud.tokens)
        identity = table.authenticate(request.headers.get("authorization"), cloud.clock.wall())
        tenant = request.path_params.get("tenant", identity.tenant)
        if tenant != identity.tenant:
            raise NotAllowed(
                f"This token is of the tenant {identity.tenant!r}.",
                code="OTHER_TENANT",
                next_action="Use a token of the tenant that the address names.",
            )
        require(identity, permission)
        return identity

    return check


def _needs(permission: Permission | str) -> dict[str, Any]:
    return {"x-permission": str(permission)}


def _public() -> APIRouter:
    router = APIRouter()

    @router.get("/livez", openapi_extra=_needs(PUBLIC))
    @router.get("/api/v1/livez", openapi_extra=_needs(PUBLIC))
    async def live() -> dict[str, bool]:
        return {"live": True}

    return router


def _reading(cloud: Cloud) -> APIRouter:
    router = APIRouter(prefix="/api/v1")
    base = "/tenants/{tenant}"

    @router.get("/whoami", openapi_extra=_needs(Permission.CLOUD_READ))
    async def whoami(identity: Annotated[Identity, Depends(_guard(cloud, Permission.CLOUD_READ))]) -> dict[str, str]:
        return {"tenant": identity.tenant, "name": identity.name, "role": identity.role}

    for segment, (kind, permission) in KINDS.items():
        _add_lists(router, cloud, f"{base}/{segment}", kind, permission)

    @router.get(f"{base}/processes", openapi_extra=_needs(Permission.CLOUD_READ))
    def processes(
        identity: Annotated[Identity, Depends(_guard(cloud, Permission.CLOUD_READ))],
    ) -> dict[str, Any]:
        return {"items": list_processes(cloud.loop.snapshot(), identity.tenant)}

    @router.get(f"{base}/explain/{{name}}", openapi_extra=_needs(Permission.CLOUD_READ))
    def explained(
        name: str, identity: Annotated[Identity, Depends(_guard(cloud, Permission.CLOUD_READ))]
    ) -> dict[str, Any]:
        return {"items": explain(cloud.loop.snapshot(), cloud.processes, identity.tenant, name)}

    @router.get(f"{base}/logs/{{name}}", openapi_extra=_needs(Permission.CLOUD_READ))
    def logs(
        name: str,
        identity: Annotated[Identity, Depends(_guard(cloud, Permission.CLOUD_READ))],
        offset: int = -16_384,
    ) -> dict[str, Any]:
        return {"items": log_of(cloud.loop.snapshot(), cloud.processes, identity.tenant, name, offset)}

    @router.get(f"{base}/audit", openapi_extra=_needs(Permission.AUDIT_READ))
    def audit(
        identity: Annotated[Identity, Depends(_guard(cloud, Permission.AUDIT_READ))],
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
    ) -> dict[str, Any]:
        return {"items": cloud.store.audit(identity.tenant, after=after, limit=limit)}

    @router.get(f"{base}/objects/{{digest}}", openapi_extra=_needs(Permission.OBJECTS_READ))
    def download(
        digest: str, identity: Annotated[Identity, Depends(_guard(cloud, Permission.OBJECTS_READ))]
    ) -> Response:
        return Response(cloud.objects.get(digest), media_type="application/octet-stream")

    return router


def _add_lists(router: APIRouter, cloud: Cloud, path: str, kind: str, permission: Permission) -> None:
    guard = Annotated[Identity, Depends(_guard(cloud, permission))]

    def listed(
        identity: guard,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 200,
    ) -> dict[str, Any]:
        rows = cloud.store.rows(identity.tenant, kind, after=after, limit=limit)
        following = rows[-1].name if len(rows) == limit else None
        return {"items": [to_json(r) for r in rows], "next": following}

    def one(name: str, identity: guard) -> dict[str, Any]:
        return to_json(cloud.store.get(identity.tenant, kind, name))

    listed.__annotations__["identity"] = one.__annotations__["identity"] = guard
    extra = _needs(permission)
    router.add_api_route(path, listed, methods=["GET"], name=f"list_{kind}", openapi_extra=extra)
    router.add_api_route(f"{path}/{{name}}", one, methods=["GET"], name=f"get_{kind}", openapi_extra=extra)


def _writing(cloud: Cloud) -> APIRouter:
    router = APIRouter(prefix="/api/v1/tenants/{tenant}")

    @router.post("/objects", status_code=201, openapi_extra=_needs(Permission.OBJECTS_WRITE))
    async def upload(
        request: Request, identity: Annotated[Identity, Depends(_guard(cloud, Permission.OBJECTS_WRITE))]
    ) -> dict[str, Any]:
        return await _take_upload(cloud, request.stream())

    @router.put("/apps/{name}", openapi_extra=_needs(Permission.APPS_WRITE))
    def deploy(
        name: str,
        body: DeployRequest,
        identity: Annotated[Identity, Depends(_guard(cloud, Permission.APPS_WRITE))],
        dry_run: bool = False,
        prune: bool = False,
    ) -> dict[str, Any]:
        if not cloud.objects.has(body.code):
            raise NotFound(f"The source bundle {body.code!r} is not here.", code="NO_BUNDLE", next_action="Upload it.")
        plan = cloud.actions.deploy(cloud.loop.snapshot(), identity.tenant, name, body, prune=prune)
        if plan.changes and not dry_run:
            cloud.commit(identity, Permission.APPS_WRITE, "deploy", f"app/{name}", plan.changes)
        return {"plan": list(plan.lines), "applied": not dry_run, "operations": list(plan.operations)}

    for action, (permission, plan) in cloud.actions.named.items():
        _add_action(router, cloud, action, permission, plan)
    return router


def _add_action(router: APIRouter, cloud: Cloud, action: str, permission: Permission, plan: PlanAction) -> None:
    guard = Annotated[Identity, Depends(_guard(cloud, permission))]

    def act(body: ActionRequest, identity: guard) -> dict[str, Any]:
        who: Identity = identity
        resources = plan(cloud.loop.snapshot(), who.tenant, body.target, body.params, body.inputs)
        cloud.commit(who, permission, action, body.target, [Put(r, 0) for r in resources])
        operation = next(r for r in resources if r.kind == "operation")
        return {"operation": operation.name}

    act.__annotations__["identity"] = guard
    router.add_api_route(
        f"/actions/{action}", act, methods=["POST"], status_code=202, name=action, openapi_extra=_needs(permission)
    )


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


def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = tuple({"field": ".".join(str(p) for p in e["loc"]), "message": e["msg"]} for e in error.errors())
    what = "; ".join(f"{f['field']}: {f['message']}" for f in found)
    return _problem(request, InvalidInput(f"The request is not understood: {what}", code="BAD_REQUEST", details=found))
