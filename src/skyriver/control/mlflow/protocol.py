"""How requests of MLflow's clients are read, and how they are answered and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from skyriver.control.cloud import Cloud
from skyriver.control.late import LateRoute
from skyriver.control.mutations import Call, Mutations, Planned
from skyriver.control.routes import Routes, caller, guard
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.resources import Change, Snapshot
from skyriver.trust.permissions import Permission
from skyriver.trust.tokens import Identity

API: Final = "/api/2.0/mlflow/"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
LARGEST_BODY: Final = 2_000_000
"""Bytes of JSON, which is twice what MLflow's clients send at once. To parse it holds the process for milliseconds."""
_LITTLE: Final = 16_000
"""Bytes that are parsed sooner than a thread is found."""
DEEPEST: Final = 20
Writes = Literal["nothing", "audited", "recorded"]
"""`recorded`: what a client logs of its run, which stands in the run's own row and has no audit row for each value."""
Pairs = dict[str, str]


def exists(what: str, name: str, action: str) -> Conflict:
    return Conflict(f"There is {what} {name!r} already.", code="EXISTS", where=name, next_action=action)


def bad(message: str, action: str, where: str = "") -> InvalidInput:
    return InvalidInput(message, code="BAD_REQUEST", where=where, next_action=action)


@dataclass(frozen=True, slots=True)
class Asked:
    """The fields of one request, wherever they stood, and who sent it. Unknown fields are passed over, as protobuf
    does."""

    who: Identity
    fields: Mapping[str, Any]

    def text(self, name: str, default: str | None = None, *, most: int = 5_000) -> str:
        """Raises InvalidInput (BAD_REQUEST) where it is missing and has no default, is no text, or has more than `most`
        characters."""
        found = self.fields.get(name)
        if found is None or found == "":
            if default is None:
                raise bad(f"The field {name!r} is missing.", "Use a client of MLflow 3.", name)
            return default
        found = _last(found)
        if isinstance(found, int | float) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str) or len(found) > most:
            raise bad(f"{name} is no text of at most {most:,} characters.", "Shorten it.", name)
        return found

    def whole(self, name: str, default: int, *, least: int = 0, most: int = 1 << 62) -> int:
        found = self.fields.get(name)
        if found is None or found == "":
            return default
        found = _last(found)
        try:
            number = int(found)
        except (TypeError, ValueError, OverflowError):
            number = least - 1
        if isinstance(found, bool) or not least <= number <= most:
            raise bad(f"{name}={found!r:.80} is no whole number from {least} to {most}.", "Give such a number.", name)
        return number

    def number(self, name: str) -> float:
        return number_of(self.fields, name)

    def texts(self, name: str, *, most: int = 1_000) -> list[str]:
        found = self.fields.get(name) or []
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list) or len(found) > most or not all(isinstance(t, str) for t in found):
            raise bad(f"{name} is no list of at most {most:,} texts.", "Send fewer at a time.", name)
        return found

    def objects(self, name: str, *, most: int) -> list[Mapping[str, Any]]:
        found = self.fields.get(name) or []
        if not isinstance(found, list) or len(found) > most or not all(isinstance(o, dict) for o in found):
            raise bad(f"{name} is no list of at most {most:,} objects.", "Send fewer at a time.", name)
        return found

    def pairs(self, name: str, *, most: int = 1_000) -> Pairs:
        """Of [{"key", "value"}, ...]."""
        found = {}
        for pair in self.objects(name, most=most):
            key, value = pair.get("key"), pair.get("value", "")
            if not isinstance(key, str) or not isinstance(value, str):
                raise bad(f"{name}: {pair!r:.120} is no key with a text.", "Give both as texts.", name)
            found[key] = value
        return found


def _last(found: Any) -> Any:
    """What stood in an address several times was said by its last."""
    return found[-1] if isinstance(found, list) and found else found


def number_of(fields: Mapping[str, Any], name: str) -> float:
    """JSON has no NaN: protobuf sends it as a text."""
    found = fields.get(name, 0.0)
    if not isinstance(found, bool):
        try:
            return float(found)
        except (TypeError, ValueError, OverflowError):
            pass
    raise bad(f"{name}={found!r:.80} is no number.", "Log numbers as metrics, and texts as parameters or tags.", name)


def _parsed(body: bytes) -> dict[str, Any]:
    if len(body) > LARGEST_BODY:
        raise bad(f"The body has over {LARGEST_BODY:,} bytes.", "Send less at a time; log what is large as a file.")
    try:
        sent = json.loads(body)
        if b"\\u" in body:
            json.dumps(sent, ensure_ascii=False).encode()  # halves of a character cannot be kept
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise bad("The body is no JSON object.", "Use a client of MLflow 3.")
    level: list[Any] = [sent]
    for _ in range(DEEPEST):
        inside = (value for known in level for value in (known.values() if isinstance(known, dict) else known))
        level = [value for value in inside if isinstance(value, dict | list)]
    if level:
        raise bad(f"The body is nested deeper than {DEEPEST} levels.", "Use a client of MLflow 3.")
    return sent


async def _asked(request: Request) -> Asked:
    fields: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        known = fields.get(key)
        fields[key] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
    if request.method != "GET" and (body := await request.body()):
        fields |= _parsed(body) if len(body) < _LITTLE else await run_in_threadpool(_parsed, body)
    return Asked(caller(request), fields | request.path_params)


ASKED = Depends(_asked)
Handler = Callable[[Asked], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Board:
    """Where the routes hang, and what their handlers work on."""

    routes: Routes
    cloud: Cloud
    mutations: Mutations
    fit: Callable[[Snapshot, str, Sequence[Change]], Sequence[Change]]
    """What a tenant has room for; raises for what is too much."""

    def add(self, method: str, path: str, permission: Permission, writes: Writes, handler: Handler) -> None:
        """`path` is what follows /api/2.0/mlflow/."""

        def answer(asked: Asked = ASKED) -> JSONResponse:
            return JSONResponse(handler(asked))

        add_route(self.routes, method, API + path, permission, writes, answer)

    def snapshot(self) -> Snapshot:
        return self.cloud.loop.snapshot()

    def write(
        self,
        asked: Asked,
        permission: Permission,
        action: str,
        target: str,
        plan: Callable[[Snapshot], Sequence[Change]],
        *,
        audited: bool = True,
    ) -> None:
        """Carries out what `plan` says, with its audit row. Raises what `plan` does, and as Mutations."""

        def planned(snapshot: Snapshot) -> Planned:
            changes = self.fit(snapshot, asked.who.tenant, plan(snapshot))
            return Planned(changes, {}, audited=audited, wakes=audited)

        self.mutations.carry_out(Call(asked.who, permission, action, target), planned)


def add_route(
    routes: Routes, method: str, path: str, permission: Permission, writes: Writes, handler: Callable[..., Any]
) -> None:
    name = path.removeprefix("/api/2.0/").replace("/", "_").replace("{", "").replace("}", "").replace(":path", "")
    route = LateRoute(
        path,
        handler,
        methods=[method],
        operation_id=f"{method.lower()}_{name}",
        response_model=None,
        include_in_schema=False,
        dependencies=[Depends(guard(routes.tokens, routes.clock, permission, tenant=False))],
        openapi_extra={"x-permission": permission.value, "x-writes": writes},
    )
    routes.api.router.routes.append(route)
