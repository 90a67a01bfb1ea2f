"""The part of the contract (`skyriver.core.contract`) that tells what is done with decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict  # typing's own is not introspected by pydantic before Python 3.12


class SinkNow(TypedDict):
    """What a sink of a stream has to do, and what it did."""

    sink: str
    on: Sequence[str]
    """The decisions that it is for."""
    declared: bool
    """False: the application names it no more, and something of it is left."""
    waiting: int
    """Deliveries that are due, or will be tried again."""
    held: int
    """Behind an earlier one of the same key."""
    awaiting_approval: int
    parked: int
    """Given up until somebody has them tried again, or drops them."""
    done: int
    """Ever, as the following."""
    refused: int
    """By who was to approve them."""
    expired: int
    """Judged by nobody in time."""
    dropped: int
    erased: NotRequired[int]
    """Deliveries that were deleted with their events, whatever had become of them; those that were done are in `done`
    all the same. Missing while a dispatcher of an earlier release runs."""
    oldest: int | None
    """When the first of those that wait was decided."""
    failures: int
    """Since the receiver took something."""
    last_error: str
    under_way: int


class ReviewsNow(TypedDict):
    """Decisions that people are to make."""

    open: int
    """Cases that wait or are held."""
    overdue: int
    unsent: int
    """Answers that are no labels of the stream yet."""
    refused: int
    """Answers that the stream did not take as labels."""


class DispatcherNow(TypedDict):
    """The process that acts on a stream's decisions, by its own word: up to a second old."""

    state: str
    reason: str
    message: str
    next_action: str
    pid: int
    rss_mb: float
    cpu_seconds: float
    offset: int
    """Decisions before it in the log were taken up."""
    behind: int
    """Offsets of the log that it has not read."""
    missed: int
    """Offsets that the log gave up before they were read, ever."""
    sinks: Sequence[SinkNow]
    reviews: ReviewsNow | None
    """Null where none are declared, and no case is left."""


class Delivery(TypedDict):
    """A decision on its way to a sink."""

    number: int
    """By which it is asked for; in the order of the decisions."""
    sink: str
    id: str
    """By which the receiver knows it."""
    event: int | str
    """The event's id."""
    decision: str
    lane: str | None
    """The value, as JSON, whose deliveries go one after the other; null without an order."""
    state: str
    """AWAITING_APPROVAL, HELD, WAITING, PARKED; or at its end DONE, REFUSED, EXPIRED, DROPPED."""
    tries: int
    due: int
    """When it is tried next, or expires, or ended."""
    made: int
    since: int
    reason: str
    """Why it is parked, or tried again."""
    message: str
    asked_by: str
    """Who decided, where it was a person."""
    judged_by: str
    """Who approved, refused or dropped it."""
    note: str
    """What that one said."""
    body: NotRequired[Mapping[str, Any] | None]
    """What the receiver is sent; null once it has it. Only of a single delivery."""


class DeliveryPage(TypedDict):
    items: Sequence[Delivery]
    """In the order of their numbers."""
    next: str | None


class RetriedDeliveries(TypedDict):
    """Only what is parked is tried again; the others are told beside it."""

    sink: str
    retried: int
    awaiting_approval: int
    held: int
    waiting: int


class UnjudgedDelivery(TypedDict):
    number: int
    code: str
    """Why it was left as it is."""
    message: str
    next_action: str


class JudgedDeliveries(TypedDict):
    judged: Sequence[int]
    """Numbers of those that were approved, or refused."""
    left: Sequence[UnjudgedDelivery]
    more: int
    """So many others fit what was asked for, beyond what one request judges: ask again."""


class DispatcherMetrics(TypedDict):
    text: str
    """For Prometheus."""
