"""Cases of review: what a person is to decide, from its opening to the final word. Pure.

A case opens with the decision of an event, and is known by that event's offset. Who takes it holds it for a lease; an
answer counts from its holder alone. A claim has a number that grows with each one of the case: an answer that names
an older one comes from somebody whose lease is lost, though nobody else may have noticed.

    rank = probability * cost of a miss + typical cost of a miss * age / within

The first part is what the case is expected to cost if nobody looks at it. The second grows with its age: after
`within` it weighs as much as a miss that is certain. So a case waits no longer than until its age outweighs the
dearest new one, and none waits for ever. Overdue ones come first, escalated ones after them; ties go by age.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput, NotAllowed
from skyriver.core.units import format_span
from skyriver.decide.log.records import DecisionRecord, Id, Value

MOST_REASON = 2_000
"""Characters of what a reviewer gives as reason."""


class CaseState(StrEnum):
    OPEN = "OPEN"
    CLAIMED = "CLAIMED"
    SECOND = "SECOND"
    """One person has answered; another one must, who does not see the answer."""
    SECOND_CLAIMED = "SECOND_CLAIMED"
    ESCALATED = "ESCALATED"
    """Two disagree, or its holder handed it up: for who may decide such."""
    ESCALATED_CLAIMED = "ESCALATED_CLAIMED"
    DECIDED = "DECIDED"
    EXPIRED = "EXPIRED"
    """Closed without an answer: `closed_why` tells."""


CASE_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("OPEN", "claim"): "CLAIMED",
    ("CLAIMED", "release"): "OPEN",
    ("CLAIMED", "ask_second"): "SECOND",
    ("CLAIMED", "escalate"): "ESCALATED",
    ("CLAIMED", "decide"): "DECIDED",
    ("SECOND", "claim"): "SECOND_CLAIMED",
    ("SECOND_CLAIMED", "release"): "SECOND",
    ("SECOND_CLAIMED", "dispute"): "ESCALATED",
    ("SECOND_CLAIMED", "escalate"): "ESCALATED",
    ("SECOND_CLAIMED", "decide"): "DECIDED",
    ("ESCALATED", "claim"): "ESCALATED_CLAIMED",
    ("ESCALATED_CLAIMED", "release"): "ESCALATED",
    ("ESCALATED_CLAIMED", "decide"): "DECIDED",
    ("OPEN", "expire"): "EXPIRED",
    ("SECOND", "expire"): "EXPIRED",
    ("ESCALATED", "expire"): "EXPIRED",
}
"""A held case does not expire: its lease ends no later than it would."""

WAITING = frozenset({CaseState.OPEN, CaseState.SECOND, CaseState.ESCALATED})
HELD = frozenset({CaseState.CLAIMED, CaseState.SECOND_CLAIMED, CaseState.ESCALATED_CLAIMED})
CLOSED = frozenset({CaseState.DECIDED, CaseState.EXPIRED})


class ClosedWhy(StrEnum):
    """Why a case was closed without an answer."""

    NONE = ""
    UNANSWERED = "UNANSWERED"
    """Nobody had answered when it expired."""
    QUEUE_FULL = "QUEUE_FULL"
    """More cases waited than may, and this one had the lowest rank."""


@dataclass(frozen=True, slots=True)
class Reviewer:
    """`senior`: may decide what was escalated."""

    name: str
    senior: bool = False


@dataclass(frozen=True, slots=True)
class Opinion:
    by: str
    answer: str
    reason: str
    at: int
    took_us: int
    """From the claim to the answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """Times are wall microseconds. What was declared when it opened stays with it: a changed application changes the
    cases that open later."""

    id: int
    """Offset of its event."""
    event: Id
    key: Id | None
    """Of the event: what earlier cases are found by."""
    decision: str
    label: str
    answers: Mapping[str, float]
    """What may be answered, and the label's value that it stands for."""
    opened_at: int
    within_us: int
    lease_us: int
    expires_us: int
    """After opening; 0: it waits for its answer for ever."""
    unanswered: str
    """The outcome when nobody answers; "": the decision stays as it is."""
    second: bool
    """Two must agree."""
    probability: float
    miss_cost: float
    record: DecisionRecord
    offset: int
    """Of the decision."""
    values: Mapping[str, Value]
    """Of the event, by field; none where the log has given it up."""
    names: tuple[str, ...]
    """Of the features that the record has."""
    state: CaseState = CaseState.OPEN
    overdue: bool = False
    holder: str = ""
    claim: int = 0
    """The number of the newest claim."""
    claimed_at: int = 0
    lease_until: int = 0
    held_before: tuple[str, ...] = ()
    opinions: tuple[Opinion, ...] = ()
    escalated_by: str = ""
    escalated_why: str = ""
    outcome: str = ""
    closed_at: int = 0
    closed_why: ClosedWhy = ClosedWhy.NONE
    truth: float | None = None
    """The value of a label of its event that came from elsewhere."""
    truth_at: int = 0
    """When it was seen in the log: opinions before it are one's own."""

    @property
    def due_at(self) -> int:
        return self.opened_at + self.within_us

    @property
    def expires_at(self) -> int:
        """0: never."""
        return self.opened_at + self.expires_us if self.expires_us else 0

    @property
    def lane(self) -> str:
        if self.state in (CaseState.ESCALATED, CaseState.ESCALATED_CLAIMED):
            return "escalated"
        if self.overdue:
            return "overdue"
        return "second" if self.state in (CaseState.SECOND, CaseState.SECOND_CLAIMED) else "first"

    @property
    def next_at(self) -> int:
        """When time changes it next; 0: never."""
        if self.state in CLOSED:
            return 0
        moments = [] if self.overdue else [self.due_at]
        if self.state in HELD:
            moments.append(self.lease_until)
        elif self.expires_at:
            moments.append(self.expires_at)
        return min(moments, default=0)

    def of(self, who: str) -> Opinion | None:
        """What he said of it."""
        return next((opinion for opinion in self.opinions if opinion.by == who), None)


LANES = ("escalated", "overdue", "second", "first")


def pass_time(case: Case, now: int) -> Case:
    """As it is at `now`, if nobody does anything: leases end, it becomes overdue, and it expires."""
    if case.state in HELD and now >= case.lease_until:
        case = _freed(case)
    if case.state not in CLOSED and not case.overdue and now >= case.due_at:
        case = replace(case, overdue=True)
    if case.state in WAITING and case.expires_at and now >= case.expires_at:
        case = give_up(case, ClosedWhy.UNANSWERED, now)
    return case


def give_up(case: Case, why: ClosedWhy, now: int) -> Case:
    """Closes a case that waits without an answer."""
    return _moved(case, "expire", outcome=case.unanswered or case.decision, closed_at=now, closed_why=why)


def claim(case: Case, who: Reviewer, now: int) -> Case:
    """Held by `who` for a lease. Raises Conflict (CASE_CLOSED, CASE_HELD), NotAllowed (ANOTHER_PERSON, NOT_SENIOR)."""
    _check_not_closed(case)
    if case.state in HELD:
        whose = "You hold" if case.holder == who.name else f"{case.holder} holds"
        raise Conflict(
            f"{whose} case {case.id} for another {format_span(case.lease_until - now)}.",
            code="CASE_HELD",
            where=str(case.id),
            next_action="Answer, renew or release it."
            if case.holder == who.name
            else "Claim another case, or this one when its lease has ended.",
        )
    if (opinion := case.of(who.name)) is not None:
        raise NotAllowed(
            f"You answered {opinion.answer!r} to case {case.id} already, and another person must answer now.",
            code="ANOTHER_PERSON",
            where=str(case.id),
            next_action="Claim another case.",
        )
    if case.state is CaseState.ESCALATED and not who.senior:
        raise NotAllowed(
            f"Case {case.id} was escalated, and {who.name!r} may not decide such cases.",
            code="NOT_SENIOR",
            where="reviews:escalate",
            next_action="Use a token with the role operator, developer or admin; or claim another case.",
        )
    return _moved(
        case, "claim", holder=who.name, claim=case.claim + 1, claimed_at=now, lease_until=_lease_end(case, now)
    )


def renew(case: Case, who: Reviewer, number: int, now: int) -> Case:
    """Its lease begins anew. Raises what `check_held` does."""
    check_held(case, who, number)
    return replace(case, lease_until=_lease_end(case, now))


def release(case: Case, who: Reviewer, number: int) -> Case:
    """Given back without an answer. Raises what `check_held` does."""
    check_held(case, who, number)
    return _freed(case)


def escalate(case: Case, who: Reviewer, number: int, why: str) -> Case:
    """Handed up. Raises what `check_held` does, and InvalidInput (BAD_REASON)."""
    check_reason(why)
    check_held(case, who, number)
    if case.state is CaseState.ESCALATED_CLAIMED:
        raise Conflict(
            f"Case {case.id} was escalated already: nobody is above you.",
            code="CASE_ESCALATED",
            where=str(case.id),
            next_action="Answer it, or release it for another one.",
        )
    return replace(_let_go(case, "escalate"), escalated_by=who.name, escalated_why=why)


def answer(case: Case, who: Reviewer, number: int, word: str, reason: str, now: int) -> Case:
    """With this person's opinion, and closed by it unless another one is needed. The same answer once more changes
    nothing. Raises what `check_held` does, InvalidInput (UNKNOWN_ANSWER, BAD_REASON), Conflict (ANSWERED_OTHERWISE)."""
    if word not in case.answers:
        raise InvalidInput(
            f"{word!r} is no answer to case {case.id}.",
            code="UNKNOWN_ANSWER",
            where="answer",
            next_action=f"Answer {' or '.join(case.answers)}.",
        )
    check_reason(reason)
    said = case.of(who.name)
    if said is not None:
        if (said.answer, said.reason) == (word, reason):
            return case
        raise Conflict(
            f"You answered {said.answer!r} to case {case.id} already, because: {said.reason:.200}",
            code="ANSWERED_OTHERWISE",
            where=str(case.id),
            next_action="An answer cannot be changed. What turns out to be true is sent as a label of its event.",
        )
    check_held(case, who, number)
    given = Opinion(who.name, word, reason, now, max(0, now - case.claimed_at))
    event = _event_of_answer(case, word)
    after = replace(_let_go(case, event), opinions=(*case.opinions, given))
    return replace(after, outcome=word, closed_at=now) if after.state is CaseState.DECIDED else after


def _event_of_answer(case: Case, word: str) -> str:
    if case.state is CaseState.CLAIMED:
        return "ask_second" if case.second else "decide"
    if case.state is CaseState.SECOND_CLAIMED and any(before.answer != word for before in case.opinions):
        return "dispute"
    return "decide"


def check_held(case: Case, who: Reviewer, number: int) -> None:
    """`number` is that of the claim by which `who` holds it; 0: whichever he holds it by.

    Raises Conflict (CASE_CLOSED, NOT_YOURS, LEASE_LOST)."""
    mine = case.state in HELD and case.holder == who.name
    if mine and number in (0, case.claim):
        return
    _check_not_closed(case)
    had = mine or who.name in case.held_before or case.of(who.name) is not None
    now_with = f"{case.holder} holds it now" if case.state in HELD else "it waits for somebody to claim it"
    if mine:
        now_with = f"you hold it by claim {case.claim} now, not by {number}"
    raise Conflict(
        f"Your lease of case {case.id} has ended: {now_with}."
        if had
        else f"You do not hold case {case.id}: {now_with}.",
        code="LEASE_LOST" if had else "NOT_YOURS",
        where=str(case.id),
        next_action="Claim it, look at it again, and answer."
        if case.state in WAITING
        else "Claim another case."
        if not mine
        else f"Look at it again, and answer by claim {case.claim}.",
    )


def check_reason(reason: str) -> str:
    """`reason` itself. Raises InvalidInput (BAD_REASON)."""
    if not reason.strip() or len(reason) > MOST_REASON:
        wrong = f"has {len(reason):,} characters" if reason.strip() else "is empty"
        raise InvalidInput(
            f"The reason {wrong}: it has 1 to {MOST_REASON:,}.",
            code="BAD_REASON",
            where="reason",
            next_action="Say in a sentence what was seen.",
        )
    return reason


def _check_not_closed(case: Case) -> None:
    if case.state in CLOSED:
        by = " and ".join(opinion.by for opinion in case.opinions if opinion.answer == case.outcome)
        how = f"decided {case.outcome!r} by {by}" if case.state is CaseState.DECIDED else f"closed ({case.closed_why})"
        raise Conflict(
            f"Case {case.id} was {how}.",
            code="CASE_CLOSED",
            where=str(case.id),
            next_action="Claim another case. What turns out to be true is sent as a label of its event.",
        )


def _lease_end(case: Case, now: int) -> int:
    return min(now + case.lease_us, case.expires_at) if case.expires_at else now + case.lease_us


def _freed(case: Case) -> Case:
    return _let_go(case, "release")


def _let_go(case: Case, event: str) -> Case:
    held = dict.fromkeys((*case.held_before, case.holder))
    return _moved(case, event, holder="", lease_until=0, claimed_at=0, held_before=tuple(held))


def _moved(case: Case, event: str, **changes: Any) -> Case:
    """Raises Conflict (CASE_STATE) where the table has no arrow; nothing is changed then."""
    after = CASE_TRANSITIONS.get((case.state, event))
    if after is None:
        raise Conflict(
            f"Case {case.id} is {case.state}: {event} is not possible.",
            code="CASE_STATE",
            next_action=f"`skyriver review get STREAM {case.id}` shows what became of it.",
        )
    return replace(case, state=CaseState(after), **changes)
