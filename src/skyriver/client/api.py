"""The Python client: everything a user does, over HTTP, blocking or on asyncio.

    with Client("http://127.0.0.1:7470", token) as cloud:
        cloud.predict("fraud", {"amount": 12.5, ...})
        cloud.send("payments", [{"payment": 1, ...}], wait=True)

    async with AsyncClient("http://127.0.0.1:7470", token) as cloud:
        await cloud.predict("fraud", {"amount": 12.5, ...})

Answers are the documents that the cloud sent, typed by `skyriver.core.contract`. What fails raises a type of
`skyriver.core.errors`: every call may raise NotAllowed (no token that may do this), NotFound, InvalidInput, Conflict
and Unavailable (TIMED_OUT, CLOUD_AWAY, CONTROL_AWAY), and says below what else.

What is safe to repeat is repeated for a while when a part is away: reading, what carries a key of its own
(`Idempotency-Key`: it is done once however often it comes), and events, which are known by their ids. A prediction is
not: whether to ask again is the caller's to decide.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from skyriver.client.cost_calls import CostCalls
from skyriver.client.flows import (
    TIMEOUT,
    Awaiting,
    Blocking,
    FileBody,
    Flow,
    Item,
    Items,
    Request,
    call,
    each,
)
from skyriver.client.predicting_calls import PredictingCalls
from skyriver.client.producing import AsyncProducer, Producer, Producing, Told
from skyriver.client.registry_calls import RegistryCalls
from skyriver.client.review_calls import ReviewCalls
from skyriver.client.stream_calls import StreamCalls
from skyriver.client.tenant_calls import json_request, part
from skyriver.client.waiting import Waiting, answered, changed, repeated
from skyriver.core.contract import (
    AuditPage,
    AuditRow,
    DamagedRow,
    Deployed,
    Explained,
    ExplainedList,
    LogPart,
    LogParts,
    Objective,
    ObjectiveList,
    Process,
    ProcessList,
    Removed,
    Resource,
    ResourcePage,
    WhoAmI,
)
from skyriver.core.contract_alerts import Alert, AlertList, AlertTested
from skyriver.core.contract_keys import KeyList, RotatedKey, SigningKey
from skyriver.core.contract_requests import RequestLine, RequestList
from skyriver.core.contract_tenants import Tenant, TenantList
from skyriver.core.contract_tokens import IssuedToken, Token, TokenList
from skyriver.core.errors import Corrupt, InvalidInput


class Calls(StreamCalls, ReviewCalls, PredictingCalls, RegistryCalls, CostCalls):
    """What both clients can do; each method is written once, as a flow."""

    # Applications and operations

    @call
    def upload(self, path: Path, progress: Callable[[int, int], None] | None = None) -> Flow[str]:
        """Sends a file of any size; returns its SHA-256. `progress` gets the bytes sent and those in all."""
        request = Request("POST", f"{self._base}/objects", content=FileBody(path, progress))
        answer = yield from changed(request)
        return str(answer["digest"])

    @call
    def upload_bytes(self, data: bytes) -> Flow[str]:
        """Sends bytes; returns their SHA-256."""
        answer = yield from changed(Request("POST", f"{self._base}/objects", content=data))
        return str(answer["digest"])

    @call
    def deploy(
        self,
        app: str,
        body: Mapping[str, Any],
        *,
        dry_run: bool = False,
        prune: bool = False,
        plan_digest: str = "",
    ) -> Flow[Deployed]:
        """The plan for an application and, unless `dry_run`, its doing; idempotent. `plan_digest` is that of the plan
        that was looked at: Conflict (PLAN_CHANGED) when another would be carried out now. Conflict (DEPLOY_RUNNING)
        while work of the deployment before goes on."""
        confirmed = {"plan_digest": plan_digest} if plan_digest else {}
        request = json_request("PUT", f"{self._base}/apps/{part(app)}", {**body, **confirmed})
        request = replace(request, params={"dry_run": dry_run, "prune": prune})
        answer: Deployed = yield from changed(request)
        return answer

    @call
    def remove(self, app: str, *, dry_run: bool = False) -> Flow[Removed]:
        """Removes an application with its streams, models and services; tables stay. Conflict (APP_BUSY) while a job of
        it goes on."""
        request = Request("DELETE", f"{self._base}/apps/{part(app)}", params={"dry_run": dry_run})
        answer: Removed = yield from changed(request)
        return answer

    @call
    def act(
        self,
        action: str,
        target: str,
        *,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Flow[str]:
        """Asks for an action (load, train, predict, rollback, verify, replay); returns the operation to wait for."""
        body = {"target": target, "params": dict(params or {}), "inputs": dict(inputs or {})}
        answer = yield from changed(json_request("POST", f"{self._base}/actions/{part(action)}", body))
        return str(answer["operation"])

    @call
    def wait(
        self, operation: str, *, timeout: float = 3_600.0, told: Callable[[Resource], None] | None = None
    ) -> Flow[Resource]:
        """The operation once it succeeded; `told` gets it whenever it changed. Goes on over ends and starts of the
        control plane. Raises JobFailed when it did not succeed, and Unavailable (NOT_FINISHED) past `timeout` seconds;
        it goes on then."""
        return (yield from Waiting(f"{self._base}/operations/{part(operation)}", timeout, told).flow(operation))

    @call
    def get(self, kinds: str, name: str) -> Flow[Resource]:
        """One of a kind (plural, as in "jobs")."""
        answer: Resource = yield from answered(Request("GET", f"{self._base}/{part(kinds)}/{part(name)}"))
        return answer

    @each
    def list(self, kinds: str, *, state: str | None = None, parent: str | None = None) -> Items[Resource]:
        """All of a kind, page by page; only those in a `state`, or that belong to `parent` (kind/name). Raises Corrupt
        (STORE_CORRUPT) behind the last one, naming those that are damaged and cannot be shown."""
        damaged: list[DamagedRow] = []
        wanted = {k: v for k, v in (("state", state), ("parent", parent)) if v is not None}
        following: str | None = ""
        while following is not None:
            request = Request("GET", f"{self._base}/{part(kinds)}", params={**wanted, "cursor": following})
            page: ResourcePage = yield from answered(request)
            for item in page["items"]:
                yield Item(item)
            damaged += page.get("damaged", ())
            following = page["next"]
        if damaged:
            raise _damaged(kinds, damaged)

    @call
    def audit_page(
        self, *, newest: bool = False, since: str = "", target: str = "", limit: int = 100, cursor: str = ""
    ) -> Flow[AuditPage]:
        """Who did what: a page of it. `since`: for how long back, as "1h"; `target`: only what was done to this name,
        or kind/name; `cursor`: `next` of the page before."""
        order = "newest" if newest else "oldest"
        asked = {"order": order, "since": since, "target": target, "limit": limit, "cursor": cursor}
        page: AuditPage = yield from answered(Request("GET", f"{self._base}/audit", params=asked))
        return page

    @call
    def audit_row(self, number: int) -> Flow[AuditRow]:
        """One thing that was done, by its number (`seq`)."""
        row: AuditRow = yield from answered(Request("GET", f"{self._base}/audit/{number}"))
        return row

    @each
    def audit(self, *, newest: bool = False, since: str = "", target: str = "") -> Items[AuditRow]:
        """Who did what, page by page, oldest first unless `newest`; the others as of `audit_page`."""
        following: str | None = ""
        asked = {"order": "newest" if newest else "oldest", "since": since, "target": target}
        while following is not None:
            request = Request("GET", f"{self._base}/audit", params={**asked, "cursor": following})
            page: AuditPage = yield from answered(request)
            for item in page["items"]:
                yield Item(item)
            following = page["next"]

    @call
    def explain(self, name: str) -> Flow[Sequence[Explained]]:
        """Why everything of this name (or kind/name) is as it is."""
        answer: ExplainedList = yield from answered(Request("GET", f"{self._base}/explain/{part(name, '/')}"))
        return answer["items"]

    @call
    def processes(self) -> Flow[Sequence[Process]]:
        """What runs."""
        answer: ProcessList = yield from answered(Request("GET", f"{self._base}/processes"))
        return answer["items"]

    @call
    def objectives(self) -> Flow[Sequence[Objective]]:
        """Whether services keep their objectives now, and why not; of those that declare one."""
        answer: ObjectiveList = yield from answered(Request("GET", f"{self._base}/objectives"))
        return answer["items"]

    @call
    def logs(self, name: str, offset: int = -16_384) -> Flow[Sequence[LogPart]]:
        """What the processes of this name printed, from byte `offset` (negative: from the end)."""
        request = Request("GET", f"{self._base}/logs/{part(name, '/')}", params={"offset": offset})
        answer: LogParts = yield from answered(request)
        return answer["items"]

    @call
    def whoami(self) -> Flow[WhoAmI]:
        """Whose token this is."""
        answer: WhoAmI = yield from answered(Request("GET", "/api/v1/whoami"))
        return answer

    @call
    def issue_token(self, name: str, role: str) -> Flow[IssuedToken]:
        """A token for somebody, told here and never again. Not repeated where the answer is lost: revoke it then."""
        return (yield json_request("POST", f"{self._base}/tokens", {"name": name, "role": role})).json()  # type: ignore[no-any-return]

    @call
    def keys(self) -> Flow[KeyList]:
        """The keys that versions are signed with, the one that signs now last."""
        answer: KeyList = yield from answered(Request("GET", f"{self._base}/keys"))
        return answer

    @call
    def key(self, id: str) -> Flow[SigningKey]:
        """One, by its id or the beginning of it."""
        answer: SigningKey = yield from answered(Request("GET", f"{self._base}/keys/{part(id)}"))
        return answer

    @call
    def alerts(self) -> Flow[Sequence[Alert]]:
        """The receivers of messages about incidents."""
        answer: AlertList = yield from answered(Request("GET", f"{self._base}/alerts"))
        return answer["items"]

    @call
    def alert(self, name: str) -> Flow[Alert]:
        """One receiver, and whether it took the last message. Raises NotFound."""
        answer: Alert = yield from answered(Request("GET", f"{self._base}/alerts/{part(name)}"))
        return answer

    @call
    def test_alert(self, name: str) -> Flow[AlertTested]:
        """Sends it a message now, and tells whether it was taken. Not repeated by itself. Raises NotFound."""
        return (yield json_request("POST", f"{self._base}/alerts/{part(name)}/test", {})).json()  # type: ignore[no-any-return]

    @call
    def rotate_key(self, *, sign_again: bool = False) -> Flow[RotatedKey]:
        """A new key signs from now on. `sign_again`: all versions too, as they are now. Not repeated by itself."""
        return (yield json_request("POST", f"{self._base}/keys/rotate", {"sign_again": sign_again})).json()  # type: ignore[no-any-return]

    @call
    def tokens(self) -> Flow[Sequence[Token]]:
        """Whose tokens count."""
        answer: TokenList = yield from answered(Request("GET", f"{self._base}/tokens"))
        return answer["items"]

    @call
    def revoke_token(self, name: str) -> Flow[Token]:
        """The token of this name counts no more."""
        return (yield Request("DELETE", f"{self._base}/tokens/{part(name)}")).json()  # type: ignore[no-any-return]

    @call
    def tenants(self) -> Flow[Sequence[Tenant]]:
        """Who has tokens here, with the limits of each."""
        answer: TenantList = yield from answered(Request("GET", "/api/v1/tenants"))
        return answer["items"]

    @call
    def tenant_limits(self, name: str) -> Flow[Tenant]:
        """How much a tenant may get."""
        answer: Tenant = yield from answered(Request("GET", f"/api/v1/tenants/{part(name)}"))
        return answer

    @call
    def limit_tenant(self, name: str, limits: Mapping[str, str | int | None]) -> Flow[Tenant]:
        """What all requests of a tenant to models and streams may not exceed: `{"rate": "500/s", "concurrency": 100}`.
        What is not given stays as it is; None takes a limit away."""
        answer: Tenant = yield from changed(json_request("PATCH", f"/api/v1/tenants/{part(name)}", limits))
        return answer

    @call
    def requests(
        self, *, status: str = "", of: str = "", since: str = "", limit: int = 100
    ) -> Flow[Sequence[RequestLine]]:
        """What became of the newest requests at the gateway, newest first: with a `status` ("5xx", "503"), `of` a model
        or stream, of the last "1h"."""
        given = {"status": status, "of": of, "since": since}
        params = {name: value for name, value in given.items() if value} | {"limit": limit}
        answer: RequestList = yield from answered(Request("GET", f"{self._base}/requests", params=params))
        return answer["items"]

    @call
    def request(self, id: str) -> Flow[Sequence[RequestLine]]:
        """What became of the requests with this X-Request-Id."""
        answer: RequestList = yield from answered(Request("GET", f"{self._base}/requests/{part(id, '/')}"))
        return answer["items"]

    @call
    def object(self, digest: str) -> Flow[bytes]:
        """An object by the SHA-256 of its content."""
        answer: httpx.Response = yield from repeated(Request("GET", f"{self._base}/objects/{part(digest)}"))
        return answer.content

    @call
    def live(self) -> Flow[bool]:
        """Whether the control plane answers; raises Unavailable otherwise."""
        answer = yield Request("GET", "/api/v1/livez")
        return bool(answer.json()["live"])

    @call
    def openapi(self) -> Flow[dict[str, Any]]:
        """The contract of this cloud."""
        answer: dict[str, Any] = yield from answered(Request("GET", "/api/v1/openapi.json"))
        return answer

    # Predictions

    @call
    def predict(
        self, model: str, row: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Flow[dict[str, Any]]:
        """One prediction from named fields, or by key from {"entity": {...}, "event": {...}} where the model's service
        declares `sr.FromStream`; many from {"rows": [...]}. `headers`: more of them, as the one by which a request
        stays with its version."""
        path = f"/predict/{part(model)}"
        return (yield json_request("POST", path, row, headers)).json()  # type: ignore[no-any-return]

    @call
    def infer(self, model: str, request: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        """One request of the Open Inference Protocol v2."""
        path = f"/v2/models/{part(model)}/infer"
        return (yield json_request("POST", path, request)).json()  # type: ignore[no-any-return]


_NAMED = 5
"""Damaged rows that a message names; its details have all."""


def _damaged(kinds: str, damaged: Sequence[DamagedRow]) -> Corrupt:
    names = ", ".join(row["name"] for row in damaged[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return Corrupt(
        f"Of the {kinds} {names}{more} cannot be shown: {damaged[0]['message'].rstrip('.')}. All others are there.",
        code=damaged[0]["code"],
        where=kinds,
        next_action=damaged[0]["next_action"],
        details=tuple({"name": row["name"], "message": row["message"]} for row in damaged),
    )


class Client(Calls, Blocking):
    """One pool of connections to one cloud; use it from one thread, or one client a thread."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tenant: str = "default",
        timeout: httpx.Timeout = TIMEOUT,
        ca: str | Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        url, token = _checked(url, token)
        super().__init__(url, {**_options(url, token, timeout, ca), "transport": transport})
        self.tenant = tenant

    def producer(
        self, stream: str, settings: Producing | None = None, *, told: Callable[[Told], None] | None = None
    ) -> Producer:
        """Sends single events in batches, in a thread of its own; `told` hears what became of each. Close it (or use
        it in `with`): what it still holds is sent then."""
        return Producer(self, stream, settings or Producing(), told)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Calls, Awaiting):
    """The same on asyncio; any number of tasks of one loop may use it."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tenant: str = "default",
        timeout: httpx.Timeout = TIMEOUT,
        ca: str | Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        url, token = _checked(url, token)
        super().__init__(url, {**_options(url, token, timeout, ca), "transport": transport})
        self.tenant = tenant

    def producer(
        self, stream: str, settings: Producing | None = None, *, told: Callable[[Told], None] | None = None
    ) -> AsyncProducer:
        """As `Client.producer`, in a task of the running loop."""
        return AsyncProducer(self, stream, settings or Producing(), told)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _checked(url: str, token: str) -> tuple[str, str]:
    """Without the line's end that a file may have. Raises InvalidInput (BAD_URL, BAD_TOKEN), which tells nothing of the
    token."""
    url, token = url.strip(), token.strip()
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidInput(
            f"{url!r} is no address of a cloud.",
            code="BAD_URL",
            next_action="Write it with http:// or https:// before it, as in http://127.0.0.1:7470.",
        )
    if not token or not all("!" <= sign <= "~" for sign in token):
        raise InvalidInput(
            "The token has characters that no token has." if token else "The token is empty.",
            code="BAD_TOKEN",
            next_action="Give the token that `skyriver up` has shown; it is in the file `token` of the cloud's home.",
        )
    return url, token


def _options(url: str, token: str, timeout: httpx.Timeout, ca: str | Path | None) -> dict[str, Any]:
    """`ca`: whom to trust for HTTPS, in PEM; None: the system's authorities. Raises InvalidInput (BAD_CA)."""
    # A proxy of the environment knows no way to this machine's loopback, and plain HTTP needs no certificates,
    # whose loading takes 30 ms.
    local = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return {
        "headers": {"Authorization": f"Bearer {token}"},
        "timeout": timeout,
        "trust_env": not local,
        "verify": _trusting(ca) if ca is not None else not url.startswith("http://"),
    }


def _trusting(ca: str | Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidInput(
            f"{ca} holds no certificate to trust: {getattr(error, 'strerror', None) or error}.",
            code="BAD_CA",
            next_action="Give the certificate's file in PEM; a cloud's own one is HOME/tls/certificate.pem.",
        ) from error
