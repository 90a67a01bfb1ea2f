"""Review as a part of a stream's dispatcher: decisions that ask for a person become cases, people's acts come in as
requests, and answers go out as labels of the stream.

Its time is the machine's when the process started and the monotonic clock from then on, and never behind what was
written before: no jump of the machine's clock ends a lease or makes a case overdue while the process lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from skyriver.core.clock import Clock
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import DecideSpec, FeatureSetSpec, StreamSpec
from skyriver.decide.acting import cases
from skyriver.decide.acting.case_book import FIRST, CaseBook, DueLabel
from skyriver.decide.acting.case_opener import CaseOpener
from skyriver.decide.acting.case_stats import compact, stats
from skyriver.decide.acting.case_view import in_full, in_short
from skyriver.decide.acting.cases import CLOSED, HELD, LANES, WAITING, Case, CaseState, Reviewer
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.dispatching import Ask, Routes
from skyriver.decide.acting.stored_id import asked_event
from skyriver.decide.log.following import Decided
from skyriver.decide.log.records import DecisionRecord, LabelRecord

MOST_LISTED = 1_000


class SteadyClock:
    """Microseconds since 1970, which never go back; see above."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._origin = clock.wall() - clock.monotonic()

    def raise_to(self, least: int) -> None:
        """What was written before is not in the future."""
        self._origin = max(self._origin, least - self._clock.monotonic())

    def now(self) -> int:
        return self._origin + self._clock.monotonic()


class HandOn(Protocol):
    """What becomes of a decision that people made, as of any other."""

    def __call__(self, do: Transaction, decided: Decided, now: int, *, by: str = "", after: str = "") -> None:
        """`by` whom; `after`: what tells it from the event's first decision."""
        ...


class Reviewing:
    """`skyriver.decide.acting.dispatching.Part` and `Learner`."""

    def __init__(self, stream: StreamSpec, clock: Clock, hand_on: HandOn) -> None:
        self._stream = stream
        self._hand_on = hand_on
        self._times = frozenset(f.name for f in stream.fields if f.type == "time")
        self._labels = tuple(label.name for label in stream.labels)
        self._clock = SteadyClock(clock)
        self._opener: CaseOpener | None = None
        self.unsent = True
        """Whether some answer may have to be sent."""

    def prepare(self, do: Transaction) -> None:
        book = CaseBook(do)
        book.prepare()
        self._clock.raise_to(book.newest())

    def declare(self, live: Mapping[str, Any]) -> None:
        opener = None
        if live.get("reviews"):
            features = live.get("features")
            opener = CaseOpener(
                self._stream,
                DecideSpec.model_validate(live["decide"]),
                FeatureSetSpec.model_validate(features) if features else None,
            )
        self._opener = opener  # at once: who reads the log meanwhile, in another thread, asks what is wanted

    # What comes from the log

    def wants(self, record: DecisionRecord) -> bool:
        opener = self._opener
        return opener is not None and record.decision in opener.reviews

    def take(self, do: Transaction, decided: Sequence[Decided], now: int) -> None:
        if self._opener is None:
            return
        opened = [self._opener.open(one) for one in decided if self.wants(one.record)]
        if new := [case for case in opened if case is not None]:
            CaseBook(do).add(new)
            self._trim(do)

    def learn(self, do: Transaction, labels: Sequence[LabelRecord], now: int) -> None:
        book = CaseBook(do)
        for label in labels:
            if label.subject_offset >= 0 and label.label_index < len(self._labels):
                name = self._labels[label.label_index]
                book.note_label(label.subject_offset, name, label.value, label.known_at_us, self._clock.now())

    def erase(self, do: Transaction, now: int) -> int:
        return CaseBook(do).erase()

    def tick(self, do: Transaction, now: int) -> None:
        self._pass_time(do)
        for review in self._opener.reviews.values() if self._opener is not None else ():
            compact(do, review.decision, self._clock.now() - review.keep_us)

    def _pass_time(self, do: Transaction) -> None:
        """All that time changes, first: nobody is given a case that has expired."""
        book, more = CaseBook(do), True
        while more:
            passed = book.pass_time(self._clock.now(), MOST_LISTED)
            self._closed(do, passed)
            more = len(passed) == MOST_LISTED

    def _trim(self, do: Transaction) -> None:
        for review in self._opener.reviews.values() if self._opener is not None else ():
            self._closed(do, CaseBook(do).trim(review.decision, review.most_waiting, self._clock.now()))

    def _closed(self, do: Transaction, cases: Sequence[Case]) -> None:
        """The final word goes where decisions of its kind go, unless it is the one that has gone there."""
        for case in cases:
            if case.state in CLOSED and case.outcome != case.decision:
                record = msgspec.structs.replace(case.record, decision=case.outcome)
                by = case.opinions[-1].by if case.opinions else ""
                decided = Decided(record, case.values, case.offset)
                self._hand_on(do, decided, self._clock.now(), by=by, after="review")

    # What is told

    def full(self) -> str:
        return ""  # what is beyond a queue's limit is closed, and told

    def report(self, do: Transaction) -> Mapping[str, Any]:
        book = CaseBook(do)
        (open_, overdue), (unsent, refused) = book.count_open(), book.labels_waiting()
        self.unsent = unsent > 0
        if self._opener is None and not open_ + unsent + refused:
            return {}
        told = {"reviews": {"open": open_, "overdue": overdue, "unsent": unsent, "refused": refused}}
        return {**told, **_trouble(self._stream.name, overdue, refused)}

    # What people ask and do

    def routes(self) -> Routes:
        return {
            ("GET", "/reviews"): self._list,
            ("GET", "/reviews/stats"): self._stats,
            ("GET", "/reviews/{case}"): self._get,
            ("POST", "/reviews/claim"): self._claim,
            ("POST", "/reviews/{case}/renew"): self._renew,
            ("POST", "/reviews/{case}/release"): self._release,
            ("POST", "/reviews/{case}/escalate"): self._escalate,
            ("POST", "/reviews/{case}/decide"): self._decide,
        }

    def _list(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        self._pass_time(do)
        book, now = CaseBook(do), self._clock.now()
        events = asked_event(self._stream, ask.query.get("event", ""))
        states = _states(ask.query.get("state", ""), any_=bool(events))
        lane = _one_of(ask.query.get("lane", ""), ("", *LANES), "lane")
        most = max(1, min(_number(ask.query, "limit", 100), MOST_LISTED))
        closed = CLOSED.issuperset(states)
        after = _after(ask.query.get("after", ""), closed=closed)
        found, total = book.listed(now, states, lane, most, after, events)
        last = found[-1] if closed and len(found) == most else None
        following = f"{last.closed_at}.{last.id}" if last is not None else None
        return {"items": [in_short(case) for case in found], "total": total, "now": now, "next": following}

    def _get(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        self._pass_time(do)
        return self._told(do, CaseBook(do).get(ask.number("case")))

    def _stats(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        self._pass_time(do)
        unsent, refused = CaseBook(do).labels_waiting()
        now = self._clock.now()
        return {**stats(do, now), "labels": {"unsent": unsent, "refused": refused}, "now": now}

    def _claim(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        self._pass_time(do)
        number = ask.body.get("case")
        wanted = number if isinstance(number, int) else None
        decision = ask.text("decision", default="")
        return self._told(do, CaseBook(do).claim(_reviewer(ask), self._clock.now(), wanted, decision))

    def _renew(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        now = self._clock.now()
        return self._act(do, ask, lambda case, who, claim: cases.renew(case, who, claim, now))

    def _release(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        return self._act(do, ask, cases.release)

    def _escalate(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        why = ask.text("reason", most=1 << 20)
        return self._act(do, ask, lambda case, who, claim: cases.escalate(case, who, claim, why))

    def _decide(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        word, reason, now = ask.text("answer"), ask.text("reason", most=1 << 20), self._clock.now()
        return self._act(do, ask, lambda case, who, claim: cases.answer(case, who, claim, word, reason, now))

    def _act(self, do: Transaction, ask: Ask, act: Callable[[Case, Reviewer, int], Case]) -> Mapping[str, Any]:
        who, claim = _reviewer(ask), _number(ask.body, "claim", 0)
        book, number = CaseBook(do), ask.number("case")
        before = book.get(number)
        after = book.change(number, self._clock.now(), lambda case: act(case, who, claim))
        if before.state not in CLOSED:
            self._closed(do, [after])
            self.unsent = True
        return self._told(do, after)

    def _told(self, do: Transaction, case: Case) -> Mapping[str, Any]:
        return in_full(case, CaseBook(do).earlier(case), self._clock.now(), self._times)

    # What is sent to the stream

    def due_labels(self, do: Transaction) -> list[DueLabel]:
        return CaseBook(do).due_labels(self._clock.now())

    def note_sending(self, do: Transaction, label: DueLabel, for_us: int) -> bool:
        """It is about to be sent; that it was is seen in the log within that time. False: it must not be any more."""
        return CaseBook(do).note_sending(label.case, self._clock.now() + for_us)

    def put_off(self, do: Transaction, label: DueLabel, by_us: int) -> None:
        CaseBook(do).put_off_label(label.case, self._clock.now() + by_us)

    def refused(self, do: Transaction, label: DueLabel, why: str) -> None:
        CaseBook(do).refuse_label(label.case, why)


def _reviewer(ask: Ask) -> Reviewer:
    return Reviewer(ask.actor, senior=ask.body.get("senior") is True)


def _states(word: str, *, any_: bool) -> list[str]:
    """Unless a state is asked for: `any_`, or those of what is to be done."""
    if not word:
        return [str(state) for state in CaseState if any_ or state in WAITING | HELD]
    if word == "CLOSED":
        return [str(state) for state in CaseState if state in CLOSED]
    return [_one_of(word, [*(str(state) for state in CaseState), "CLOSED"], "state")]


def _after(place: str, *, closed: bool) -> tuple[int, int]:
    at, _, case = place.partition(".")
    if closed and at.isdecimal() and case.isdecimal() and len(place) < 40:
        return int(at), int(case)
    if place:
        raise InvalidInput(
            "This is no cursor of this list.",
            code="BAD_CURSOR",
            where="cursor",
            next_action="Give `next` of the page before, which closed cases have; those that wait change their places.",
        )
    return FIRST


def _one_of(word: str, known: Sequence[str], what: str) -> str:
    if word not in known:
        raise InvalidInput(
            f"{word!r:.80} is no {what} of a case.",
            code="BAD_QUERY",
            where=what,
            next_action=f"There are {', '.join(filter(None, known))}.",
        )
    return word


def _number(given: Mapping[str, Any], name: str, default: int) -> int:
    try:
        return int(given.get(name) or default)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{name} is to be a whole number.",
            code="BAD_REQUEST",
            where=name,
            next_action=f"Send {name} as a whole number.",
        ) from error


def _trouble(stream: str, overdue: int, refused: int) -> dict[str, str]:
    if refused:
        return {
            "reason": "LABELS_REFUSED",
            "message": f"{refused} answers of reviewers were refused as labels.",
            "next_action": f"`skyriver stream dead {stream}` shows why.",
        }
    if overdue:
        return {
            "reason": "REVIEWS_OVERDUE",
            "message": f"{overdue} cases of review are overdue.",
            "next_action": f"`skyriver review list {stream} --lane overdue` shows them.",
        }
    return {}
