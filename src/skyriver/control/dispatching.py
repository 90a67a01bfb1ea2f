"""What is asked of a stream's dispatcher, which has its own state: the API hands it on to the process, over its socket.

A request that changes something is written into the audit trail first, and refused where that cannot be done; then it
is handed on with its key, by which the dispatcher does it once (DESIGN 9).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Key, Mutations, Planned, fingerprint, make_call
from skyriver.control.paging import Cursor, Limit, check_query, decode, encode
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract
from skyriver.core.errors import InvalidInput, NotFound, Unavailable
from skyriver.core.resources import Snapshot, need
from skyriver.trust.permissions import Permission

Fingerprint = Annotated[str, Depends(fingerprint)]
OfEvent = Annotated[str, Query(description="Only those of this event, by its id.", max_length=10_000)]


class Dispatchers:
    """The dispatchers of the caller's tenant."""

    def __init__(self, cloud: Cloud, mutations: Mutations) -> None:
        self._cloud = cloud
        self._mutations = mutations

    def look(self, request: Request, stream: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The answer to a GET. Raises NotFound (also NO_DISPATCHER), Unavailable (DISPATCHER_AWAY, PROCESS_AWAY), and
        what the dispatcher answers."""
        socket = self._socket(self._cloud.loop.snapshot(), caller(request).tenant, stream)
        return self._cloud.asker.ask(socket, "GET", path, query=query)

    def change(
        self,
        request: Request,
        permission: Permission,
        action: str,
        stream: str,
        path: str,
        body: Mapping[str, Any],
        key: str,
        asked: str,
        *,
        untold: Collection[str] = (),
    ) -> Any:
        """The answer to a POST; `action`, the path and the body stand in the audit trail, but for what is `untold` of
        it: what is there can never be erased. Raises as `look`."""

        def plan(snapshot: Snapshot) -> Planned:
            self._socket(snapshot, caller(request).tenant, stream)
            told = {name: value for name, value in body.items() if name not in untold}
            return Planned([], {}, {"path": path, **told})

        self._mutations.carry_out(make_call(request, permission, action, f"stream/{stream}", key, asked), plan)
        return self._hand_on(request, stream, path, body, key)

    def judge(
        self, request: Request, verb: str, stream: str, body: JudgeRequest, key: str, asked: str
    ) -> contract.JudgedDeliveries:
        """Several deliveries, each with the audit row that it has where it is judged alone. A request that is repeated
        with its key is about the same ones."""
        numbers, more = body.numbers, 0
        if not numbers:
            query = {"sink": body.sink, "decision": body.decision, "before": body.before}
            found = self.look(request, stream, "/deliveries/awaiting", query)
            numbers, more = found["numbers"], found["total"] - len(found["numbers"])

        def plan(snapshot: Snapshot) -> Planned:
            self._socket(snapshot, caller(request).tenant, stream)
            details: list[dict[str, Any]] = [{"path": f"/deliveries/{number}/{verb}"} for number in numbers]
            first, *rest = details or [{"path": f"/deliveries/{verb}", "numbers": []}]
            return Planned([], {"numbers": numbers, "more": more}, first, rest)

        call = make_call(request, Permission.DECISIONS_APPROVE, f"{verb}_delivery", f"stream/{stream}", key, asked)
        planned = self._mutations.carry_out(call, plan)
        given = {"numbers": planned["numbers"], "reason": body.reason}
        done = self._hand_on(request, stream, f"/deliveries/{verb}", given, key)
        return {"judged": done["judged"], "left": done["left"], "more": planned["more"]}

    def _hand_on(self, request: Request, stream: str, path: str, body: Mapping[str, Any], key: str) -> Any:
        socket = self._socket(self._cloud.loop.snapshot(), caller(request).tenant, stream)
        headers = {"x-actor": caller(request).name, "idempotency-key": key}
        return self._cloud.asker.ask(socket, "POST", path, headers=headers, body=body)

    def _socket(self, snapshot: Snapshot, tenant: str, name: str) -> str:
        stream = need(snapshot.find(tenant, "stream", name), "stream", name)
        dispatcher = snapshot.find(tenant, "dispatcher", name)
        if dispatcher is None:
            raise NotFound(
                f"Nothing acts on decisions of {stream.name}: it declares no sinks and no reviews.",
                code="NO_DISPATCHER",
                next_action="Declare some: app.decide(...).sink(...) or .review(...), and deploy.",
            )
        process = snapshot.processes.get(dispatcher.process)
        if process is None or not process.alive or not process.socket:
            raise Unavailable(
                f"The dispatcher of {name} is away. {dispatcher.message}".strip(),
                code="DISPATCHER_AWAY",
                where=dispatcher.ref,
                next_action=dispatcher.next_action or "Try again in some seconds: it is started again by itself.",
            )
        return process.socket


def add_dispatching(routes: Routes, dispatchers: Dispatchers) -> None:
    """What all dispatchers answer."""
    _add_looking(routes, dispatchers)
    _add_retry_all(routes, dispatchers)
    for verb in ("approve", "refuse"):
        _add_judging(routes, dispatchers, verb)
    for verb, permission in _VERBS.items():
        _add_verb(routes, dispatchers, verb, permission)


class DeliveryRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    reason: str = Field(default="", max_length=1_000)
    """Kept with the delivery, as its note, and nowhere else; must be given to drop or refuse one."""


class RetryRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    sink: str = Field(max_length=63)
    """Whose parked deliveries are tried again, all of them."""


class JudgeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    numbers: list[Annotated[int, Field(ge=1, lt=1 << 53)]] = Field(default_factory=list, max_length=1_000)
    """Of the deliveries; or"""
    sink: str = Field(default="", max_length=63)
    """all to this sink that await approval, the first 1,000 of them,"""
    decision: str = Field(default="", max_length=63)
    """of one decision,"""
    before: str = Field(default="", max_length=40)
    """and made before this time (ISO 8601, in UTC unless it says otherwise)."""
    reason: str = Field(default="", max_length=1_000)
    """Kept with each delivery, as its note, and nowhere else; must be given to refuse them."""

    @model_validator(mode="after")
    def _either(self) -> Self:
        if bool(self.numbers) == bool(self.sink) or (self.numbers and (self.decision or self.before)):
            raise InvalidInput(
                "Either numbers or a sink say which deliveries are meant.",
                code="BAD_REQUEST",
                next_action="Give numbers; or a sink, and with it decision or before if you like.",
            )
        return self


_DELIVERIES = f"{TENANT}/streams/{{name}}/deliveries"
_VERBS = {
    "retry": Permission.STREAMS_WRITE,
    "drop": Permission.STREAMS_WRITE,
    "approve": Permission.DECISIONS_APPROVE,
    "refuse": Permission.DECISIONS_APPROVE,
}
Number = Annotated[int, Path(ge=1, lt=1 << 53)]


def _add_looking(routes: Routes, dispatchers: Dispatchers) -> None:
    def listed(
        request: Request,
        name: str,
        cursor: Cursor = "",
        limit: Limit = 100,
        state: Annotated[str, Query(description="Only those in this state.", max_length=40)] = "",
        sink: Annotated[str, Query(description="Only those to this sink.", max_length=63)] = "",
        event: OfEvent = "",
    ) -> contract.DeliveryPage:
        """Decisions of a stream on their way to its sinks, and the last that have ended."""
        check_query(request, ("cursor", "limit", "state", "sink", "event"))
        query = {"after": str(decode(cursor, int)), "limit": str(limit), "state": state, "sink": sink, "event": event}
        page = dispatchers.look(request, name, "/deliveries", query)
        following = page["next"]
        return {"items": page["items"], "next": encode(following) if following is not None else None}

    def one(request: Request, name: str, number: Number) -> contract.Delivery:
        """One, with what the receiver is sent."""
        found: contract.Delivery = dispatchers.look(request, name, f"/deliveries/{number}")
        return found

    def metrics(request: Request, name: str) -> contract.DispatcherMetrics:
        """What the dispatcher of a stream counts, as text for Prometheus."""
        found: contract.DispatcherMetrics = dispatchers.look(request, name, "/metrics")
        return found

    read = Permission.STREAMS_READ
    routes.add("GET", _DELIVERIES, read, listed, "list_deliveries", errors=[404])
    routes.add("GET", f"{_DELIVERIES}/{{number}}", read, one, "get_delivery", errors=[404])
    path = f"{TENANT}/streams/{{name}}/dispatcher/metrics"
    routes.add("GET", path, read, metrics, "read_dispatcher_metrics", errors=[404])


def _add_retry_all(routes: Routes, dispatchers: Dispatchers) -> None:
    def retry(
        request: Request, name: str, body: RetryRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.RetriedDeliveries:
        """Has all parked deliveries of a sink tried again, at once."""
        done: contract.RetriedDeliveries = dispatchers.change(
            request,
            Permission.STREAMS_WRITE,
            "retry_deliveries",
            name,
            "/deliveries/retry",
            body.model_dump(),
            key,
            asked,
        )
        return done

    path = f"{_DELIVERIES}/retry"
    routes.add("POST", path, Permission.STREAMS_WRITE, retry, "retry_deliveries", errors=[404, 409])


def _add_judging(routes: Routes, dispatchers: Dispatchers, verb: str) -> None:
    def act(
        request: Request, name: str, body: JudgeRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.JudgedDeliveries:
        return dispatchers.judge(request, verb, name, body, key, asked)

    what = "Lets several deliveries go" if verb == "approve" else "Ends several deliveries"
    act.__doc__ = f"{what} that await approval; each has its audit row. Those that cannot be judged are told, and left."
    path = f"{_DELIVERIES}/{verb}"
    routes.add("POST", path, Permission.DECISIONS_APPROVE, act, f"{verb}_deliveries", errors=[404])


def _add_verb(routes: Routes, dispatchers: Dispatchers, verb: str, permission: Permission) -> None:
    def act(
        request: Request, name: str, number: Number, body: DeliveryRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.Delivery:
        path = f"/deliveries/{number}/{verb}"
        done: contract.Delivery = dispatchers.change(
            request, permission, f"{verb}_delivery", name, path, body.model_dump(), key, asked, untold=("reason",)
        )
        return done

    act.__doc__ = _MEANING[verb]
    path = f"{_DELIVERIES}/{{number}}/{verb}"
    routes.add("POST", path, permission, act, f"{verb}_delivery", errors=[404, 409])


_MEANING = {
    "retry": "Has a delivery that is parked, or waits, tried again at once.",
    "drop": "Ends a delivery that is to go to nobody any more.",
    "approve": "Lets a delivery go that awaits approval; not by who decided it.",
    "refuse": "Ends a delivery that awaits approval.",
}
