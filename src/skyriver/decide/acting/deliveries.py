"""The part of a dispatcher that hands decisions to sinks: what becomes a delivery, and what people ask of deliveries.
`sending.py` takes what is due over the network, and brings back what the receivers said."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from skyriver.core.names import nearest
from skyriver.core.spec import SinkSpec, StreamSpec
from skyriver.data.border_values import parse_time
from skyriver.data.decisions import Status
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.delivery_body import BodyWriter, delivery_id
from skyriver.decide.acting.delivery_table import ENDED, ERASED_STATE, STATES, DeliveryTable, New
from skyriver.decide.acting.dispatching import Ask, Routes
from skyriver.decide.acting.sinks import Answer, Delivery
from skyriver.decide.acting.stored_id import asked_event
from skyriver.decide.log.following import Decided
from skyriver.decide.log.records import DecisionRecord

MOST_JUDGED = 1_000
"""Deliveries that one request approves or refuses."""
MOST_OPEN = 1_000_000
"""Deliveries that wait, at most: some GB of disk. Beyond it the log is not read on, which keeps what comes."""

Judge = Callable[[Transaction, Ask, int], None]
"""Of one delivery, by its number; raises why it cannot be."""


class Deliveries:
    """A `Part` of the dispatcher."""

    def __init__(self, stream: StreamSpec, tenant: str, luck: random.Random | None = None) -> None:
        self._stream = stream
        self._tenant = tenant
        self._writer = BodyWriter(stream, tenant)
        self._table = DeliveryTable(luck or random.Random())
        self._open = 0
        self.withdrawn = 0
        """How often deliveries that may have been due were ended, deleted or held back. On any thread."""
        self._passing: set[str] = set()
        """Sinks that may have been declared to hold lanes before, and let them pass now."""

    @property
    def sinks(self) -> Mapping[str, SinkSpec]:
        return self._table.sinks

    def prepare(self, do: Transaction) -> None:
        self._table.prepare(do)
        self._count(do)

    def declare(self, live: Mapping[str, Any]) -> None:
        found = [SinkSpec.model_validate(sink) for sink in live.get("sinks", ())]
        self._table.sinks = {sink.to: sink for sink in found}
        self._passing = {sink.to for sink in found if sink.parked == "pass"}

    def full(self) -> str:
        if self._open < MOST_OPEN:
            return ""
        return f"{MOST_OPEN:,} deliveries wait, and no more may: the log is read on once there are fewer."

    def wants(self, record: DecisionRecord) -> bool:
        return record.status not in (Status.DUPLICATE, Status.ERASED) and any(
            record.decision in sink.on for sink in self.sinks.values()
        )

    def take(self, do: Transaction, decided: Sequence[Decided], now: int) -> None:
        for one in decided:
            if self.wants(one.record):
                self.add(do, one, now)
        self._count(do)

    def add(self, do: Transaction, decided: Decided, now: int, *, by: str = "", after: str = "") -> None:
        """A delivery to each sink for the decision. `by` whom it was decided, where it was a person: that one cannot
        approve it. `after`: what tells its id from that of the event's first decision."""
        record, body = decided.record, b""
        for sink in self.sinks.values():
            if record.decision in sink.on:
                body = body or self._writer.write(decided, after)
                id_ = delivery_id(self._tenant, self._stream.name, record.event_offset, after)
                key = decided.values.get(sink.ordered)
                self._table.add(do, sink, New(id_, record.id, record.decision, key, body, by), now)

    def due(self, do: Transaction, sink: str, now: int, limit: int) -> list[tuple[int, Delivery]]:
        """The first that are due, with their numbers."""
        return self._table.due(do, sink, self._stream.name, now, limit)

    def settle(self, do: Transaction, answers: Sequence[tuple[int, Answer]], now: int) -> None:
        """What receivers said of deliveries, by their numbers."""
        for number, answer in answers:
            self._table.settle(do, number, answer, now)
        self._count(do)

    def erase(self, do: Transaction, now: int) -> int:
        found = self._table.erase(do, now)
        self.withdrawn += 1
        self._count(do)
        return found

    def tick(self, do: Transaction, now: int) -> None:
        for sink in self.sinks.values():
            if sink.approve:
                self._table.expire(do, sink, now)
        for name in self._passing:
            self._table.let_pass(do, name, now)
        self._passing = set()
        self._table.forget(do, now)
        self._count(do)

    def report(self, do: Transaction) -> Mapping[str, Any]:
        return {"sinks": self.told(do)}

    def told(self, do: Transaction) -> list[dict[str, Any]]:
        """Of each sink that is declared, or has something open: what it has to do, and what it did, ever."""
        counts = self._table.counts(do)
        names = {sink for (sink, state), (now, _) in counts.items() if now and state not in ENDED}
        return [
            {
                "sink": name,
                "on": list(self.sinks[name].on) if name in self.sinks else [],
                "declared": name in self.sinks,
                **{state.lower(): counts.get((name, state), (0, 0))[state in ENDED] for state in STATES},
                "erased": counts.get((name, ERASED_STATE), (0, 0))[1],
                "oldest": self._table.oldest(do, name),
            }
            for name in sorted({*self.sinks, *names})
        ]

    def _count(self, do: Transaction) -> None:
        self._open = sum(now for (_, state), (now, _) in self._table.counts(do).items() if state not in ENDED)

    # What is asked

    def routes(self) -> Routes:
        return {
            ("GET", "/metrics"): lambda do, ask: {"text": sink_metrics(self._stream.name, self.told(do))},
            ("GET", "/sinks"): lambda do, ask: {"items": self.told(do)},
            ("GET", "/deliveries"): self._list,
            ("GET", "/deliveries/awaiting"): self._awaiting,
            ("GET", "/deliveries/{number}"): self._get,
            ("POST", "/deliveries/retry"): self._retry_all,
            ("POST", "/deliveries/approve"): lambda do, ask: self._judge(do, ask, self._approve_one),
            ("POST", "/deliveries/refuse"): lambda do, ask: self._judge(do, ask, self._refuse_one),
            ("POST", "/deliveries/{number}/retry"): self._retry,
            ("POST", "/deliveries/{number}/drop"): self._drop,
            ("POST", "/deliveries/{number}/approve"): lambda do, ask: self._one(do, ask, self._approve_one),
            ("POST", "/deliveries/{number}/refuse"): lambda do, ask: self._one(do, ask, self._refuse_one),
        }

    def _list(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        state, sink = ask.query.get("state", "").upper(), ask.query.get("sink", "")
        if state and state not in STATES:
            raise InvalidInput(
                f"{state!r} is no state of a delivery.", code="BAD_STATE", next_action=f"They are {', '.join(STATES)}."
            )
        known = self._known(do, sink)
        limit = max(1, min(1_000, int(ask.query.get("limit") or 100)))
        events = asked_event(self._stream, ask.query.get("event", ""))
        after = int(ask.query.get("after") or 0)
        items = self._table.page(do, [sink] if sink else known, state, after, limit, events)
        return {"items": items, "next": items[-1]["number"] if len(items) == limit else None}

    def _known(self, do: Transaction, sink: str) -> list[str]:
        """All sinks there are. Raises NotFound where this one, if given, is none of them."""
        known = sorted({name for name, _ in self._table.counts(do)} | self.sinks.keys())
        if sink and sink not in known:
            raise _no_sink(sink, self._stream.name, known)
        return known

    def _awaiting(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        sink, decision, before = (ask.query.get(name, "") for name in ("sink", "decision", "before"))
        self._known(do, sink)
        at = parse_time(before) if before else ask.now + 1
        if at is None:
            raise InvalidInput(
                f"{before[:80]!r} is no time.",
                code="BAD_TIME",
                where="before",
                next_action="Write 2026-01-31 or 2026-01-31T12:30:00, in UTC unless it says otherwise.",
            )
        self._check_awaiting(do, sink, decision, ask.now)
        numbers, total = self._table.awaiting(do, sink, decision, at, MOST_JUDGED)
        return {"numbers": numbers, "total": total}

    def _check_awaiting(self, do: Transaction, sink: str, decision: str, now: int) -> None:
        """Raises InvalidInput (NO_APPROVAL) and NotFound (UNKNOWN_DECISION) where nothing can await approval. What
        does was perhaps declared otherwise when it came."""
        declared = self.sinks.get(sink)
        if self._table.awaiting(do, sink, decision, now + 1, 1)[1]:
            return
        if not self._table.awaiting(do, sink, "", now + 1, 1)[1] and (declared is None or not declared.approve):
            why = (
                "needs no approval"
                if declared is not None
                else "is not declared any more, and nothing to it awaits approval"
            )
            raise InvalidInput(
                f"The sink {sink} of {self._stream.name} {why}.",
                code="NO_APPROVAL",
                where="sink",
                next_action=f"`skyriver sink list {self._stream.name}` shows where something awaits approval.",
            )
        if decision and (declared is None or decision not in declared.on):
            known = declared.on if declared is not None else ()
            raise NotFound(
                f"The sink {sink} of {self._stream.name} gets no decision {decision[:80]!r}{nearest(decision, known)}.",
                code="UNKNOWN_DECISION",
                where="decision",
                next_action="Give --decision as the application names it, or leave it out.",
            )

    def _get(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        return self._found(do, ask.number("number"))

    def _found(self, do: Transaction, number: int) -> Mapping[str, Any]:
        found = self._table.get(do, number)
        if found is None:
            raise NotFound(
                f"There is no delivery {number}, or it was done so long ago that it is forgotten.",
                next_action=f"`skyriver sink deliveries {self._stream.name}` lists them.",
            )
        return found

    def _retry(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        found = self._get(do, ask)
        if found["state"] not in ("PARKED", "WAITING"):
            raise _wrong(self._stream.name, found, "tried again")
        self._table.retry(do, ask.now, number=found["number"], note=ask.text("reason", default=""))
        self.withdrawn += 1
        return self._get(do, ask)

    def _retry_all(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        sink = ask.text("sink")
        if not sink:
            raise _no_sink(sink, self._stream.name, self._known(do, ""))
        self._known(do, sink)
        counts = self._table.counts(do)
        others = {
            state.lower(): counts.get((sink, state), (0, 0))[0] for state in ("AWAITING_APPROVAL", "HELD", "WAITING")
        }
        retried = self._table.retry(do, ask.now, sink=sink)
        self.withdrawn += 1
        return {"sink": sink, "retried": retried, **others}

    def _drop(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        found = self._get(do, ask)
        if found["state"] in ENDED:
            raise _wrong(self._stream.name, found, "dropped")
        self._table.end(do, found["number"], "DROPPED", ask.now, by=ask.actor, note=_reason(ask))
        self.withdrawn += 1
        return self._get(do, ask)

    def _one(self, do: Transaction, ask: Ask, judge: Judge) -> Mapping[str, Any]:
        judge(do, ask, ask.number("number"))
        return self._get(do, ask)

    def _judge(self, do: Transaction, ask: Ask, judge: Judge) -> Mapping[str, Any]:
        """Each of the `numbers` that can be judged by who asks; which could not be, and why."""
        numbers = ask.body.get("numbers")
        fits = isinstance(numbers, list) and len(numbers) <= MOST_JUDGED
        if not fits or not all(isinstance(number, int) and 0 < number < 1 << 53 for number in numbers or ()):
            raise InvalidInput(
                "numbers is to be a list of numbers of deliveries.",
                code="BAD_REQUEST",
                where="numbers",
                next_action=f"Give at most {MOST_JUDGED:,} of them at once.",
            )
        if judge == self._refuse_one:
            _reason(ask)
        judged, left = [], []
        for number in dict.fromkeys(numbers or ()):
            try:
                judge(do, ask, number)
                judged.append(number)
            except (Conflict, NotAllowed, NotFound) as error:
                left.append(
                    {"number": number, "code": error.code, "message": error.message, "next_action": error.next_action}
                )
        return {"judged": judged, "left": left}

    def _approve_one(self, do: Transaction, ask: Ask, number: int) -> None:
        found = self._found(do, number)
        if found["state"] != "AWAITING_APPROVAL":
            raise _wrong(self._stream.name, found, "approved")
        if found["asked_by"] and found["asked_by"] == ask.actor:
            raise NotAllowed(
                f"{ask.actor} decided the delivery {number}: somebody else has to approve it.",
                code="SAME_PERSON",
                next_action="Let another person approve or refuse it, with a token of its own.",
            )
        self._table.release(do, number, ask.now, by=ask.actor, note=ask.text("reason", default=""))

    def _refuse_one(self, do: Transaction, ask: Ask, number: int) -> None:
        found = self._found(do, number)
        if found["state"] != "AWAITING_APPROVAL":
            raise _wrong(self._stream.name, found, "refused")
        self._table.end(do, number, "REFUSED", ask.now, by=ask.actor, note=_reason(ask))


def sink_metrics(stream: str, sinks: Sequence[Mapping[str, Any]]) -> str:
    """For Prometheus."""
    lines = []
    families = (("skyriver_deliveries", "gauge", STATES[:4]), ("skyriver_deliveries_total", "counter", STATES[4:]))
    for name, kind, states in families:
        what = "by state" if kind == "gauge" else "that ended, by how"
        lines += [f"# HELP {name} Decisions on their way to sinks, {what}.", f"# TYPE {name} {kind}"]
        for sink in sinks:
            for state in map(str.lower, states):
                lines.append(f'{name}{{stream="{stream}",sink="{sink["sink"]}",state="{state}"}} {sink[state]}')
    return "\n".join(lines) + "\n"


def _reason(ask: Ask) -> str:
    text = ask.text("reason").strip()
    if not text:
        raise InvalidInput(
            "A reason is missing.", code="NO_REASON", where="reason", next_action="Say why with --reason."
        )
    return text


def _no_sink(sink: str, stream: str, known: Sequence[str]) -> NotFound:
    return NotFound(
        f"{stream} has no sink {sink[:80]!r}.",
        next_action=f"It has {', '.join(known)}." if known else "app.decide(...).sink(...) declares one.",
    )


_NEXT = {
    "AWAITING_APPROVAL": "`skyriver sink approve {stream} {number}` lets it go, `skyriver sink refuse` ends it.",
    "HELD": "It goes by itself after the one before it, which `skyriver sink deliveries {stream} --sink {sink}` shows.",
    "WAITING": "It goes by itself; `skyriver sink drop {stream} {number} --reason WHY` ends it.",
    "PARKED": "`skyriver sink retry {stream} {number}` has it tried again, `skyriver sink drop` ends it.",
    "DONE": "The receiver has it: there is nothing to do.",
}


def _wrong(stream: str, found: Mapping[str, Any], what: str) -> Conflict:
    ended = "It has ended, and goes to nobody any more: `skyriver sink get {stream} {number}` shows who ended it."
    helps = _NEXT.get(found["state"], ended)
    return Conflict(
        f"The delivery {found['number']} is {found['state']}: it cannot be {what}.",
        code="REFUSED_TRANSITION",
        next_action=helps.format(stream=stream, number=found["number"], sink=found["sink"]),
    )
