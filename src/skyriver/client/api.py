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

import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

import httpx

from skyriver.client.events import rows_as_json
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
from skyriver.client.review_calls import ReviewCalls
from skyriver.client.waiting import Waiting, answered, changed, repeated
from skyriver.core.contract import (
    AuditPage,
    AuditRow,
    DeadLetter,
    Delivery,
    DeliveryPage,
    Deployed,
    Explained,
    ExplainedList,
    JudgedDeliveries,
    LogPart,
    LogParts,
    Process,
    ProcessList,
    Removed,
    Resource,
    ResourcePage,
    RetriedDeliveries,
    RulesVersion,
    RulesVersions,
    StreamNow,
    StreamNowList,
    WhoAmI,
)
from skyriver.core.contract_requests import RequestLine, RequestList
from skyriver.core.contract_tenants import Tenant, TenantList
from skyriver.core.contract_tokens import IssuedToken, Token, TokenList
from skyriver.core.errors import InvalidInput

RETRY_SECONDS = 30.0
"""For how long sending events goes on trying while a part is away."""

_JSON = {"Content-Type": "application/json"}


class Calls(ReviewCalls, PredictingCalls):
    """What both clients can do; each method is written once, as a flow."""

    tenant: str

    @property
    def _base(self) -> str:
        return f"/api/v1/tenants/{_part(self.tenant)}"

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
        request = _json_request("PUT", f"{self._base}/apps/{_part(app)}", {**body, **confirmed})
        request = replace(request, params={"dry_run": dry_run, "prune": prune})
        answer: Deployed = yield from changed(request)
        return answer

    @call
    def remove(self, app: str, *, dry_run: bool = False) -> Flow[Removed]:
        """Removes an application with its streams, models and services; tables stay. Conflict (APP_BUSY) while a job of
        it goes on."""
        request = Request("DELETE", f"{self._base}/apps/{_part(app)}", params={"dry_run": dry_run})
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
        answer = yield from changed(_json_request("POST", f"{self._base}/actions/{_part(action)}", body))
        return str(answer["operation"])

    @call
    def wait(
        self, operation: str, *, timeout: float = 3_600.0, told: Callable[[Resource], None] | None = None
    ) -> Flow[Resource]:
        """The operation once it succeeded; `told` gets it whenever it changed. Goes on over ends and starts of the
        control plane. Raises JobFailed when it did not succeed, and Unavailable (NOT_FINISHED) past `timeout` seconds;
        it goes on then."""
        return (yield from Waiting(f"{self._base}/operations/{_part(operation)}", timeout, told).flow(operation))

    @call
    def get(self, kinds: str, name: str) -> Flow[Resource]:
        """One of a kind (plural, as in "jobs")."""
        answer: Resource = yield from answered(Request("GET", f"{self._base}/{_part(kinds)}/{_part(name)}"))
        return answer

    @each
    def list(self, kinds: str, *, state: str | None = None, parent: str | None = None) -> Items[Resource]:
        """All of a kind, page by page; only those in a `state`, or that belong to `parent` (kind/name)."""
        wanted = {k: v for k, v in (("state", state), ("parent", parent)) if v is not None}
        following: str | None = ""
        while following is not None:
            request = Request("GET", f"{self._base}/{_part(kinds)}", params={**wanted, "cursor": following})
            page: ResourcePage = yield from answered(request)
            for item in page["items"]:
                yield Item(item)
            following = page["next"]

    @each
    def audit(self) -> Items[AuditRow]:
        """Who did what, oldest first."""
        following: str | None = ""
        while following is not None:
            request = Request("GET", f"{self._base}/audit", params={"cursor": following})
            page: AuditPage = yield from answered(request)
            for item in page["items"]:
                yield Item(item)
            following = page["next"]

    @call
    def explain(self, name: str) -> Flow[Sequence[Explained]]:
        """Why everything of this name (or kind/name) is as it is."""
        answer: ExplainedList = yield from answered(Request("GET", f"{self._base}/explain/{_part(name, '/')}"))
        return answer["items"]

    @call
    def processes(self) -> Flow[Sequence[Process]]:
        """What runs."""
        answer: ProcessList = yield from answered(Request("GET", f"{self._base}/processes"))
        return answer["items"]

    @call
    def logs(self, name: str, offset: int = -16_384) -> Flow[Sequence[LogPart]]:
        """What the processes of this name printed, from byte `offset` (negative: from the end)."""
        request = Request("GET", f"{self._base}/logs/{_part(name, '/')}", params={"offset": offset})
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
        return (yield _json_request("POST", f"{self._base}/tokens", {"name": name, "role": role})).json()  # type: ignore[no-any-return]

    @call
    def tokens(self) -> Flow[Sequence[Token]]:
        """Whose tokens count."""
        answer: TokenList = yield from answered(Request("GET", f"{self._base}/tokens"))
        return answer["items"]

    @call
    def revoke_token(self, name: str) -> Flow[Token]:
        """The token of this name counts no more."""
        return (yield Request("DELETE", f"{self._base}/tokens/{_part(name)}")).json()  # type: ignore[no-any-return]

    @call
    def tenants(self) -> Flow[Sequence[Tenant]]:
        """Who has tokens here, with the limits of each."""
        answer: TenantList = yield from answered(Request("GET", "/api/v1/tenants"))
        return answer["items"]

    @call
    def tenant_limits(self, name: str) -> Flow[Tenant]:
        """How much a tenant may get."""
        answer: Tenant = yield from answered(Request("GET", f"/api/v1/tenants/{_part(name)}"))
        return answer

    @call
    def limit_tenant(self, name: str, limits: Mapping[str, str | int | None]) -> Flow[Tenant]:
        """What all requests of a tenant to models and streams may not exceed: `{"rate": "500/s", "concurrency": 100}`.
        What is not given stays as it is; None takes a limit away."""
        answer: Tenant = yield from changed(_json_request("PATCH", f"/api/v1/tenants/{_part(name)}", limits))
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
        answer: RequestList = yield from answered(Request("GET", f"{self._base}/requests/{_part(id, '/')}"))
        return answer["items"]

    @call
    def object(self, digest: str) -> Flow[bytes]:
        """An object by the SHA-256 of its content."""
        answer: httpx.Response = yield from repeated(Request("GET", f"{self._base}/objects/{_part(digest)}"))
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

    # Predictions, events and labels

    @call
    def predict(self, model: str, row: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        """One prediction from named fields, or by key from {"entity": {...}, "event": {...}} where the model's service
        declares `sr.FromStream`; many from {"rows": [...]}."""
        return (yield _json_request("POST", f"/predict/{_part(model)}", row)).json()  # type: ignore[no-any-return]

    @call
    def infer(self, model: str, request: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        """One request of the Open Inference Protocol v2."""
        path = f"/v2/models/{_part(model)}/infer"
        return (yield _json_request("POST", path, request)).json()  # type: ignore[no-any-return]

    @call
    def send(
        self,
        stream: str,
        events: Sequence[Mapping[str, Any]],
        *,
        wait: bool = False,
        retry_seconds: float = RETRY_SECONDS,
    ) -> Flow[dict[str, Any]]:
        """Sends a list of events; returns once they are durable and, with `wait`, decided. While the worker is away or
        its queue is full it tries again with growing pauses, for at most `retry_seconds`. NaN is a missing value.
        InvalidInput (NOT_JSON, NOT_A_LIST) for what is no row, before anything is sent."""
        request = _rows_request(f"/streams/{_part(stream)}/events", events)
        request = replace(request, params={"wait": "decision"} if wait else {})
        return (yield from answered(request, retry_seconds, retry_seconds))  # type: ignore[no-any-return]

    @call
    def send_labels(
        self, stream: str, labels: Sequence[Mapping[str, Any]], *, retry_seconds: float = RETRY_SECONDS
    ) -> Flow[dict[str, Any]]:
        """Sends what turned out to be true: [{"payment": 17, "fraud": 1}]; repeated as `send` is."""
        request = _rows_request(f"/streams/{_part(stream)}/labels", labels)
        return (yield from answered(request, retry_seconds, retry_seconds))  # type: ignore[no-any-return]

    @call
    def send_references(
        self,
        stream: str,
        reference: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        how: str = "",
        retry_seconds: float = RETRY_SECONDS,
    ) -> Flow[dict[str, Any]]:
        """Sends rows that events look up: [{"shop": 7, "at": "2024-03-01T08:00:00", "risk": 0.2}]; all are taken or
        none; repeated as `send` is. Rows of a list need no time: they count from now on. Of a list `how` may be
        "check" (nothing is taken, bad rows are told), "aside" (bad rows become dead letters) or "off": the rows are ids
        alone, which are taken off."""
        path = f"/streams/{_part(stream)}/references/{_part(reference)}{f'?{how}' if how else ''}"
        request = _rows_request(path, rows)
        return (yield from answered(request, retry_seconds, retry_seconds))  # type: ignore[no-any-return]

    @call
    def list_page(self, stream: str, name: str, start: int = 0) -> Flow[dict[str, Any]]:
        """Who is on a list of a stream now, some thousand from the `start`th on; `next` says where to go on."""
        path = f"/streams/{_part(stream)}/references/{_part(name)}?from={start}"
        return (yield from answered(Request("GET", path)))  # type: ignore[no-any-return]

    @call
    def list_row(self, stream: str, name: str, own: int | str) -> Flow[dict[str, Any]]:
        """Whether somebody is on a list of a stream, and the rows that put him there or took him off."""
        path = f"/streams/{_part(stream)}/references/{_part(name)}?id={_part(str(own))}"
        return (yield from answered(Request("GET", path)))  # type: ignore[no-any-return]

    @call
    def stream_status(self, stream: str) -> Flow[dict[str, Any]]:
        """Counts, offset and model of a stream."""
        return (yield Request("GET", f"/streams/{_part(stream)}")).json()  # type: ignore[no-any-return]

    @call
    def stream_now(self, stream: str) -> Flow[StreamNow]:
        """What a stream is and does now: throughput, latency, lag, dead letters, sizes."""
        answer: StreamNow = yield from answered(Request("GET", f"{self._base}/now/streams/{_part(stream)}"))
        return answer

    @call
    def streams_now(self) -> Flow[Sequence[StreamNow]]:
        """The same of every stream."""
        answer: StreamNowList = yield from answered(Request("GET", f"{self._base}/now/streams"))
        return answer["items"]

    @call
    def rules(self, stream: str) -> Flow[Sequence[RulesVersion]]:
        """The versions of a stream's rules."""
        answer: RulesVersions = yield from answered(Request("GET", self._rules(stream)))
        return answer["items"]

    @call
    def rules_version(self, stream: str, version: int) -> Flow[RulesVersion]:
        """One of them, and how it compares with the rules that decide."""
        answer: RulesVersion = yield from answered(Request("GET", self._rules(stream, version)))
        return answer

    @call
    def add_rules(
        self,
        stream: str,
        rules: Sequence[Mapping[str, str]],
        *,
        why: str = "",
        gain: Mapping[str, Any] | None = None,
    ) -> Flow[RulesVersion]:
        """A candidate: rules that are checked as a deployment checks its own, and decide nothing yet. `gain`: what was
        measured of them, {"value", "low", "high", "unit", "per", "job"}, above 0 is good. InvalidInput (BAD_RULE,
        EXAMPLE_FAILED and others), Conflict (SAME_RULES)."""
        body = {"rules": [dict(rule) for rule in rules], "why": why, "gain": dict(gain) if gain is not None else None}
        answer: RulesVersion = yield from changed(_json_request("POST", self._rules(stream), body))
        return answer

    @call
    def move_rules(
        self, stream: str, version: int, to: str, *, why: str = "", anyway: str = "", percent: float | None = None
    ) -> Flow[RulesVersion]:
        """`to`: shadow, canary (for `percent` of the keys), promote or drop. Conflict (GATE_REFUSED) unless it may, or
        `anyway` says why all the same; (TRIAL_RUNNING) while another one is tried."""
        share = {"percent": percent} if percent is not None else {}
        body = {"why": why, "anyway": anyway, **share}
        answer: RulesVersion = yield from changed(_json_request("POST", f"{self._rules(stream, version)}/{to}", body))
        return answer

    def _rules(self, stream: str, version: int = 0) -> str:
        return f"{self._base}/streams/{_part(stream)}/rules" + (f"/{version}" if version else "")

    @call
    def dead_letters(self, stream: str) -> Flow[Sequence[DeadLetter]]:
        """The last events and labels that a stream refused, the newest first; all of them are in its table
        STREAM.dead."""
        answer = yield from answered(Request("GET", f"/streams/{_part(stream)}/dead"))
        items: Sequence[DeadLetter] = answer["items"]
        return items

    @call
    def decision(self, stream: str, event: int | str) -> Flow[dict[str, Any]]:
        """The decision on one event, by its id."""
        path = f"/streams/{_part(stream)}/decisions/{_part(str(event))}"
        return (yield Request("GET", path)).json()  # type: ignore[no-any-return]

    # Deliveries of decisions to sinks

    @each
    def deliveries(self, stream: str, *, state: str = "", sink: str = "", event: int | str = "") -> Items[Delivery]:
        """Decisions on their way to sinks, and the last that have ended; only those in a `state`, to one `sink`, or of
        one `event`, by its id."""
        following: str | None = ""
        while following is not None:
            wanted = {"state": state, "sink": sink, "event": str(event), "cursor": following, "limit": 1_000}
            page: DeliveryPage = yield from answered(Request("GET", self._deliveries(stream), params=wanted))
            for item in page["items"]:
                yield Item(item)
            following = page["next"]

    @call
    def delivery(self, stream: str, number: int) -> Flow[Delivery]:
        """One, with what the receiver is sent."""
        answer: Delivery = yield from answered(Request("GET", f"{self._deliveries(stream)}/{number}"))
        return answer

    @call
    def judge_delivery(
        self, stream: str, number: int, verb: Literal["retry", "drop", "approve", "refuse"], *, reason: str = ""
    ) -> Flow[Delivery]:
        """The delivery after it. Conflict (REFUSED_TRANSITION) where its state does not allow it."""
        path = f"{self._deliveries(stream)}/{number}/{verb}"
        answer: Delivery = yield from changed(_json_request("POST", path, {"reason": reason}))
        return answer

    @call
    def judge_deliveries(
        self,
        stream: str,
        verb: Literal["approve", "refuse"],
        numbers: Sequence[int] = (),
        *,
        sink: str = "",
        decision: str = "",
        before: str = "",
        reason: str = "",
    ) -> Flow[JudgedDeliveries]:
        """Several that await approval: by their numbers, or all to a `sink` (of one `decision`, made `before` a time),
        1,000 of them at most. Which were judged; the others are told with why."""
        which = {"numbers": list(numbers), "sink": sink, "decision": decision, "before": before}
        request = _json_request("POST", f"{self._deliveries(stream)}/{verb}", {**which, "reason": reason})
        answer: JudgedDeliveries = yield from changed(request)
        return answer

    @call
    def retry_deliveries(self, stream: str, sink: str) -> Flow[RetriedDeliveries]:
        """Has all parked deliveries of a sink tried again; how many there were, and how many others."""
        request = _json_request("POST", f"{self._deliveries(stream)}/retry", {"sink": sink})
        answer: RetriedDeliveries = yield from changed(request)
        return answer

    @call
    def dispatcher_metrics(self, stream: str) -> Flow[str]:
        """What the dispatcher of a stream counts, as text for Prometheus."""
        answer = yield from answered(Request("GET", f"{self._base}/streams/{_part(stream)}/dispatcher/metrics"))
        return str(answer["text"])

    def _deliveries(self, stream: str) -> str:
        return f"{self._base}/streams/{_part(stream)}/deliveries"


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


def _part(text: str, safe: str = "") -> str:
    if not text:
        raise InvalidInput("A name is empty.", code="EMPTY_NAME", next_action="Give the name of what is meant.")
    return quote(text, safe=f":{safe}")


def _rows_request(path: str, rows: Sequence[Mapping[str, Any]]) -> Request:
    return Request("POST", path, headers=_JSON, content=rows_as_json(rows))


def _json_request(method: str, path: str, body: Any) -> Request:
    return Request(method, path, headers=_JSON, content=json.dumps(body).encode())
