"""What travels about review between the control plane and its callers, as `skyriver.core.contract` has the rest. Times
are wall microseconds of the dispatcher; null: never, or not yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict  # as in skyriver.core.contract

CaseState = Literal[
    "OPEN", "CLAIMED", "SECOND", "SECOND_CLAIMED", "ESCALATED", "ESCALATED_CLAIMED", "DECIDED", "EXPIRED"
]
Lane = Literal["escalated", "overdue", "second", "first"]
Value = int | float | str | bool | None


class ReviewCase(TypedDict):
    """A decision that a person is to make."""

    id: int
    """Offset of its event in the stream's log."""
    event: int | str
    """Id of its event."""
    key: int | str | None
    """The event's value of the stream's key."""
    decision: str
    state: CaseState
    lane: Lane
    overdue: bool
    opened_at: int
    due_at: int
    expires_at: int | None
    probability: float
    """0.5 where no model said anything."""
    miss_cost: float
    expected_cost: float
    """Of leaving it alone; cases are claimed in its order, and that of their age."""
    holder: str
    claim: int
    """The number of the newest claim: to be given back with an answer."""
    lease_until: int | None
    second_opinion: bool
    """Two people must agree."""
    answers: Mapping[str, float]
    """What may be answered, and the value of the label that it stands for."""
    outcome: str
    closed_at: int | None
    closed_why: Literal["", "UNANSWERED", "QUEUE_FULL"]
    """Where it was closed without an answer."""


class ReviewCaseList(TypedDict):
    items: Sequence[ReviewCase]
    """In the order in which they are claimed; closed ones the newest first."""
    total: int
    """How many there are of these."""
    now: int
    next: str | None
    """The cursor of the next page of closed cases; those that wait have no other page, for their places change."""


class ReviewOpinion(TypedDict):
    by: str
    answer: str
    """Empty, as the reason is, while a second opinion is wanted that is to be independent of it."""
    reason: str
    at: int
    took_us: int
    """From the claim."""


class EarlierCase(TypedDict):
    """Another case of the same key."""

    id: int
    event: int | str
    state: CaseState
    opened_at: int
    outcome: str
    reason: str
    truth: float | None


class ReviewCaseInFull(ReviewCase):
    values: Mapping[str, Value]
    """Of the event, by field; empty where the log has given it up."""
    features: Mapping[str, float | None]
    score: float | None
    rule: str
    """That fired."""
    status: str
    """Of the decision: "decided", "fallback", "late" or "failed"."""
    reason: str
    """Why no score decided."""
    model: str
    version: int
    label: str
    """The label that its answer becomes."""
    opinions: Sequence[ReviewOpinion]
    escalated_by: str
    escalated_why: str
    truth: float | None
    """The label's value, where it came from elsewhere."""
    earlier: Sequence[EarlierCase]
    """Before this one, the newest first."""
    now: int


class Share(TypedDict):
    """With its 95% interval."""

    hits: int
    of: int
    share: float | None
    low: float
    high: float


class Difference(TypedDict):
    """Of two shares, with its 95% interval."""

    by: float
    low: float
    high: float


class ReviewLane(TypedDict):
    lane: Lane
    waiting: int
    held: int
    oldest_us: int
    """Age of the oldest."""


class ReviewsClosed(TypedDict):
    decided: int
    unanswered: int
    queue_full: int
    in_time: Share
    """Answered before they were due."""


class Confusion(TypedDict):
    """Opinions against labels that came from elsewhere after them; positive is above 0."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


class RateChange(TypedDict):
    """Of the share of positive answers: the last days against those before. Null where either is of too few."""

    days: int
    recent: Share
    before: Share
    difference: Difference | None
    others: Difference | None
    """Of all other reviewers in the same time: what they share with this one lies in the cases."""


class ReviewerStats(TypedDict):
    by: str
    answered: int
    median_us: int
    """From claim to answer."""
    positives: Share
    agreed: Share
    """With the other one of two opinions."""
    truth: Confusion
    change: RateChange


class ReviewerPair(TypedDict):
    a: str
    b: str
    both: int
    """Cases that both gave one of the first two opinions on."""
    agreed: Share
    kappa: float | None
    """Cohen's; null where they are too few, or could not have disagreed."""
    low: float | None
    high: float | None


class EarlierSums(TypedDict):
    by: str
    """Empty: of cases."""
    counts: Mapping[str, int]


class AnswersSent(TypedDict):
    unsent: int
    """That the stream's log does not have yet."""
    refused: int
    """That the stream did not take as labels."""


class ReviewStats(TypedDict):
    lanes: Sequence[ReviewLane]
    closed: ReviewsClosed
    reviewers: Sequence[ReviewerStats]
    pairs: Sequence[ReviewerPair]
    before: Sequence[EarlierSums]
    """Counts of cases that are kept no longer; nothing else here has them."""
    labels: AnswersSent
    now: int
