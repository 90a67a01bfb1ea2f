"""What both clients can do with streams: events, labels and references, decisions, rules, deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from skyriver.client.flows import Flow, Item, Items, Request, call, each
from skyriver.client.tenant_calls import TenantCalls, json_request, part, rows_request
from skyriver.client.waiting import answered, changed
from skyriver.core.contract import (
    DeadLetter,
    Delivery,
    DeliveryPage,
    JudgedDeliveries,
    RetriedDeliveries,
    RulesVersion,
    RulesVersions,
    StreamNow,
    StreamNowList,
)

RETRY_SECONDS = 30.0
"""For how long sending events goes on trying while a part is away."""


class StreamCalls(TenantCalls):
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
        request = rows_request(f"/streams/{part(stream)}/events", events)
        request = replace(request, params={"wait": "decision"} if wait else {})
        return (yield from answered(request, retry_seconds, retry_seconds))  # type: ignore[no-any-return]

    @call
    def send_labels(
        self, stream: str, labels: Sequence[Mapping[str, Any]], *, retry_seconds: float = RETRY_SECONDS
    ) -> Flow[dict[str, Any]]:
        """Sends what turned out to be true: [{"payment": 17, "fraud": 1}]; repeated as `send` is."""
        request = rows_request(f"/streams/{part(stream)}/labels", labels)
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
        path = f"/streams/{part(stream)}/references/{part(reference)}{f'?{how}' if how else ''}"
        request = rows_request(path, rows)
        return (yield from answered(request, retry_seconds, retry_seconds))  # type: ignore[no-any-return]

    @call
    def list_page(self, stream: str, name: str, start: int = 0) -> Flow[dict[str, Any]]:
        """Who is on a list of a stream now, some thousand from the `start`th on; `next` says where to go on."""
        path = f"/streams/{part(stream)}/references/{part(name)}?from={start}"
        return (yield from answered(Request("GET", path)))  # type: ignore[no-any-return]

    @call
    def list_row(self, stream: str, name: str, own: int | str) -> Flow[dict[str, Any]]:
        """Whether somebody is on a list of a stream, and the rows that put him there or took him off."""
        path = f"/streams/{part(stream)}/references/{part(name)}?id={part(str(own))}"
        return (yield from answered(Request("GET", path)))  # type: ignore[no-any-return]

    @call
    def stream_status(self, stream: str) -> Flow[dict[str, Any]]:
        """Counts, offset and model of a stream."""
        return (yield Request("GET", f"/streams/{part(stream)}")).json()  # type: ignore[no-any-return]

    @call
    def stream_now(self, stream: str) -> Flow[StreamNow]:
        """What a stream is and does now: throughput, latency, lag, dead letters, sizes."""
        answer: StreamNow = yield from answered(Request("GET", f"{self._base}/now/streams/{part(stream)}"))
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
        answer: RulesVersion = yield from changed(json_request("POST", self._rules(stream), body))
        return answer

    @call
    def move_rules(
        self, stream: str, version: int, to: str, *, why: str = "", anyway: str = "", percent: float | None = None
    ) -> Flow[RulesVersion]:
        """`to`: shadow, canary (for `percent` of the keys), promote or drop. Conflict (GATE_REFUSED) unless it may, or
        `anyway` says why all the same; (TRIAL_RUNNING) while another one is tried."""
        share = {"percent": percent} if percent is not None else {}
        body = {"why": why, "anyway": anyway, **share}
        answer: RulesVersion = yield from changed(json_request("POST", f"{self._rules(stream, version)}/{to}", body))
        return answer

    def _rules(self, stream: str, version: int = 0) -> str:
        return f"{self._base}/streams/{part(stream)}/rules" + (f"/{version}" if version else "")

    @call
    def dead_letters(self, stream: str) -> Flow[Sequence[DeadLetter]]:
        """The last events and labels that a stream refused, the newest first; all of them are in its table
        STREAM.dead."""
        answer = yield from answered(Request("GET", f"/streams/{part(stream)}/dead"))
        items: Sequence[DeadLetter] = answer["items"]
        return items

    @call
    def decision(self, stream: str, event: int | str) -> Flow[dict[str, Any]]:
        """The decision on one event, by its id."""
        path = f"/streams/{part(stream)}/decisions/{part(str(event))}"
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
        answer: Delivery = yield from changed(json_request("POST", path, {"reason": reason}))
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
        request = json_request("POST", f"{self._deliveries(stream)}/{verb}", {**which, "reason": reason})
        answer: JudgedDeliveries = yield from changed(request)
        return answer

    @call
    def retry_deliveries(self, stream: str, sink: str) -> Flow[RetriedDeliveries]:
        """Has all parked deliveries of a sink tried again; how many there were, and how many others."""
        request = json_request("POST", f"{self._deliveries(stream)}/retry", {"sink": sink})
        answer: RetriedDeliveries = yield from changed(request)
        return answer

    @call
    def dispatcher_metrics(self, stream: str) -> Flow[str]:
        """What the dispatcher of a stream counts, as text for Prometheus."""
        answer = yield from answered(Request("GET", f"{self._base}/streams/{part(stream)}/dispatcher/metrics"))
        return str(answer["text"])

    def _deliveries(self, stream: str) -> str:
        return f"{self._base}/streams/{part(stream)}/deliveries"
