"""How a route is added: with the permission that its guard checks, its name in the contract, and its errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from skyriver.control.late import LateRoute
from skyriver.control.problems import MEDIA
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import NotAllowed
from skyriver.trust.permissions import Permission, require
from skyriver.trust.tokens import Identity, TokenTable

PREFIX = "/api/v1"
TENANT = "/tenants/{tenant}"
PUBLIC = "public"
SCHEME = "token"
_ALWAYS = (401, 403, 422, 500, 503)
"""A guarded route may be refused so whatever it does; 503 is the gateway's or the store's."""
_MEANING = {
    204: "Nothing more will come.",
    304: "It is as it was: its ETag is the one that was given.",
    401: "No token, or one that nobody issued.",
    403: "The token does not allow this.",
    404: "There is none of that name.",
    409: "The state of things forbids it now.",
    412: "It is not at the revision that was given.",
    413: "The body is too large.",
    422: "The request is wrong; nothing was done.",
    429: "A limit is reached.",
    500: "A fault of Skyriver.",
    503: "A part is away or busy: try again.",
}


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
class Routes:
    """Adds routes; their handlers find who asks with `caller`."""

    api: FastAPI
    tokens: Tokens
    clock: Clock

    def add(
        self,
        method: str,
        path: str,
        permission: Permission,
        handler: Callable[..., Any],
        operation: str,
        *,
        status: int = 200,
        errors: Sequence[int] = (),
        headers: Sequence[str] = (),
        content: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """`operation` is the route's name in the contract, verb_noun. `errors`: what it may answer beside what every
        route may. `content`: media types of an answer that is no JSON; `body`: of a request that is none."""
        done: dict[str, Any] = {"headers": {name: _HEADERS[name] for name in headers}} if headers else {}
        if content is not None:
            done["content"] = dict(content)
        extra: dict[str, Any] = {"x-permission": permission.value, "security": [{SCHEME: []}]}
        if body is not None:
            extra["requestBody"] = {"required": True, "content": dict(body)}
        route = LateRoute(
            PREFIX + path,
            handler,
            methods=[method],
            status_code=status,
            operation_id=operation,
            response_class=JSONResponse if content is None else Response,
            summary=operation.replace("_", " ").capitalize(),
            responses={status: done, **{code: described(code) for code in sorted({*_ALWAYS, *errors})}},
            dependencies=[Depends(guard(self.tokens, self.clock, permission, tenant=path.startswith(TENANT)))],
            openapi_extra=extra,
        )
        self.api.router.routes.append(route)


def described(code: int) -> dict[str, Any]:
    if code < 400:
        return {"description": _MEANING[code]}
    return {"description": _MEANING[code], "content": {MEDIA: {}}}


_HEADERS = {
    "ETag": {"description": "The revision, quoted.", "schema": {"type": "string"}},
    "Link": {"description": 'The next page as <...>; rel="next" (RFC 8288).', "schema": {"type": "string"}},
    "Location": {"description": "Where to look for it.", "schema": {"type": "string"}},
}


def guard(tokens: Tokens, clock: Clock, permission: Permission, *, tenant: bool) -> Callable[..., Awaitable[None]]:
    """Authenticates, compares the tenant of the path with the token's, and checks the permission."""

    async def check(request: Request) -> None:
        table = await run_in_threadpool(tokens.table)
        identity = table.authenticate(request.headers.get("authorization"), clock.wall())
        require(identity, permission)
        request.state.identity = identity

    async def check_tenant(request: Request, tenant: Annotated[str, Path(description="The token's own.")]) -> None:
        table = await run_in_threadpool(tokens.table)
        identity = table.authenticate(request.headers.get("authorization"), clock.wall())
        if tenant != identity.tenant:
            raise NotAllowed(
                f"This token is of the tenant {identity.tenant!r}.",
                code="OTHER_TENANT",
                next_action="Use a token of the tenant that the address names.",
            )
        require(identity, permission)
        request.state.identity = identity

    return check_tenant if tenant else check


def caller(request: Request) -> Identity:
    identity: Identity = request.state.identity
    return identity
