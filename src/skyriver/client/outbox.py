"""What a producer's events go through: waiting, under way in a batch, and then one of three ends (see `producing`).

`Outbox` decides all of it and does nothing, `deliver` sends one batch; the drivers are `Producer` and `AsyncProducer`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from skyriver.client.flows import Flow, Pause, Request
from skyriver.core.errors import Conflict, Internal, InvalidInput, QuotaExceeded, SkyriverError, Unavailable

LINES = {"Content-Type": "application/x-ndjson"}
KEPT_REFUSALS = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Producing:
    """How a producer works.

    A batch is sent when it has `batch` events or `batch_bytes`, or its first event has waited for `linger` seconds.
    `buffer` events may wait; then `send` waits for up to `block_seconds`. A batch is tried for `retry_seconds`. With
    `decisions` each event's decision is asked for and told.
    """

    batch: int = 500
    batch_bytes: int = 1 << 20
    linger: float = 0.01
    buffer: int = 10_000
    block_seconds: float = 10.0
    retry_seconds: float = 60.0
    decisions: bool = False


class Told(NamedTuple):
    """What became of one event: taken (`error` is None), with its `decision` if those were asked for."""

    event: Mapping[str, Any]
    error: SkyriverError | None
    decision: Mapping[str, Any] | None


class Undelivered(Unavailable):
    """Some events were given up; `events` are they, and may be sent again. Nothing of them was acknowledged, though the
    stream may have taken some."""

    default_code = "UNDELIVERED"

    def __init__(self, cause: SkyriverError, events: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(
            f"{len(events)} events were not delivered: {cause.message}",
            where=cause.where,
            next_action=cause.next_action or "Send them again: the stream knows an event by its id.",
        )
        self.events = events


@dataclass(slots=True)
class Produced:
    """What a producer has done so far. `rejections` are the last ones."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    undelivered: int = 0
    batches: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Of decisions, where they were asked for."""
    rejections: deque[Told] = field(default_factory=lambda: deque(maxlen=KEPT_REFUSALS))


class Entry(NamedTuple):
    event: Mapping[str, Any]
    line: bytes


class Outbox:
    """What waits, what is under way, and what became of it. No I/O, no clock, no lock: its driver has them."""

    def __init__(self, settings: Producing, told: Callable[[Told], None] | None) -> None:
        self.settings = settings
        self.sent = Produced()
        self.closed = False
        self.lost: list[Mapping[str, Any]] = []
        """Events that were given up, until somebody hears of them."""
        self._cause: SkyriverError | None = None
        self._told = told
        self._waiting: deque[tuple[Entry, float]] = deque()
        self._bytes = 0
        self._flying: list[Entry] = []
        self._put = 0
        self._ended = 0
        """How many events were given, and how many of them have come to an end: in their order."""
        self._raised: BaseException | None = None
        """What `told` raised and nobody may keep back."""
        self._hurry = 0
        """How many of those that wait are not to wait for more."""

    @property
    def full(self) -> bool:
        return len(self._waiting) + len(self._flying) >= self.settings.buffer

    def ended(self, number: int) -> bool:
        """Whether so many events, the first ones, have come to an end."""
        return self._ended >= number

    def check(self) -> None:
        """Raises Undelivered for what nobody has heard of yet, Conflict (PRODUCER_CLOSED)."""
        if self.lost and self._cause is not None:
            lost, self.lost = self.lost, []
            raise Undelivered(self._cause, lost)
        if self.closed:
            raise Conflict(
                "This producer is closed.",
                code="PRODUCER_CLOSED",
                next_action="Make another: `client.producer(STREAM)`.",
            )

    def put(self, entry: Entry, now: float) -> bool:
        """Whether who sends must look: there was nothing before it, or it makes a batch."""
        self._waiting.append((entry, now))
        self._put += 1
        self._bytes += len(entry.line)
        return len(self._waiting) == 1 or self.full or self._is_batch()

    def _is_batch(self) -> bool:
        return len(self._waiting) >= self.settings.batch or self._bytes >= self.settings.batch_bytes

    def hurry(self) -> int:
        """What waits now is sent at once. The number of events that were given so far, for `ended`."""
        self._hurry = len(self._waiting)
        return self._put

    def due_in(self, now: float) -> float | None:
        """Seconds until there is a batch to send; None: nothing waits."""
        if not self._waiting:
            return None
        if self._hurry or self.closed:
            return 0.0
        if self.full or self._is_batch():
            return 0.0
        return max(0.0, self._waiting[0][1] + self.settings.linger - now)

    def take(self) -> list[Entry]:
        """The next batch; it is under way then, until it is settled."""
        batch: list[Entry] = []
        size = 0
        while self._waiting and len(batch) < self.settings.batch:
            line = len(self._waiting[0][0].line)
            if batch and size + line > self.settings.batch_bytes:
                break
            batch.append(self._waiting.popleft()[0])
            size += line
        self._bytes -= size
        self._hurry = max(0, self._hurry - len(batch))
        self._flying = batch
        return batch

    def settle(self, batch: Sequence[Entry], answer: Mapping[str, Any]) -> None:
        """The stream has answered. Raises Internal for an answer that does not speak of each event: nobody was told
        anything then."""
        sent, rows = self.sent, len(batch)
        decisions = answer.get("decisions") or [None] * rows
        if answer["accepted"] + answer["duplicates"] + len(answer["rejected"]) != rows or len(decisions) != rows:
            raise Internal(f"The stream answered for other events than the {rows} that were sent.")
        refused = {row["index"]: _rejection(row) for row in answer["rejected"]}
        told = [Told(e.event, refused.get(i), d) for i, (e, d) in enumerate(zip(batch, decisions, strict=True))]
        sent.statuses.update([decision["status"] for decision in decisions if decision is not None])
        sent.accepted += answer["accepted"]
        sent.duplicates += answer["duplicates"]
        sent.rejected += len(refused)
        sent.rejections.extend(end for end in told if end.error is not None)
        self._land(told)

    def give_up(self, batch: Sequence[Entry], error: SkyriverError) -> None:
        """The batch was not delivered."""
        self.sent.undelivered += len(batch)
        self._cause = error
        if self._told is None:
            self.lost += [entry.event for entry in batch]
        self._land([Told(entry.event, error, None) for entry in batch])

    def fail(self, error: BaseException) -> None:
        """Something went wrong here: what is under way is given up, unless it has come to its end."""
        _log.error("a batch could not be sent", exc_info=error)
        if self._flying:
            self.give_up(self._flying, _cause(error))

    def end(self, error: BaseException) -> None:
        """Who sends ends, being closed: nothing that is under way or waits will be sent."""
        if self._flying:
            self.fail(error)
        while self._waiting:
            self.give_up(self.take(), _cause(error))

    def _land(self, told: Sequence[Told]) -> None:
        """The batch under way has come to its end. Raises what `told` raised that is no Exception, at the first time:
        it ends who sends."""
        self.sent.batches += 1
        raised = self._raised
        for each in told:
            self._tell(each)
        self._flying = []
        self._ended += len(told)
        if self._raised is not None and raised is None:
            raise self._raised

    def _tell(self, told: Told) -> None:
        if self._told is None:
            return
        try:
            self._told(told)
        except Exception:  # the caller's code: what it does wrong must not keep other events from being sent
            _log.exception("what became of an event could not be told")
        except BaseException as error:  # the others are told first
            self._raised = self._raised or error


def encode(event: Mapping[str, Any]) -> Entry:
    """As it is now: what the caller does with it later changes nothing. Raises InvalidInput (NOT_JSON)."""
    try:
        if endless := [name for name, value in event.items() if type(value) is float and math.isinf(value)]:
            raise ValueError(f"{endless[0]} is {event[endless[0]]}")  # it would become null, and count as missing
        return Entry(event, msgspec.json.encode(event))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"The event cannot be written as JSON: {error}.",
            code="NOT_JSON",
            next_action="Events hold numbers, texts, truths, times and None.",
        ) from error


def deliver(outbox: Outbox, stream: str, batch: Sequence[Entry]) -> Flow[None]:
    """Sends until it is answered, or for as long as the settings say."""
    settings = outbox.settings
    body = b"\n".join(entry.line for entry in batch)
    request = Request(
        "POST",
        f"/streams/{quote(stream, safe='')}/events",
        params={"wait": "decision"} if settings.decisions else {},
        headers=LINES,
        content=body,
    )
    deadline, pause = time.monotonic() + settings.retry_seconds, 0.05
    while True:
        try:
            answer = (yield request).json()
        except (Unavailable, QuotaExceeded, Internal) as error:
            if time.monotonic() + pause > deadline:
                outbox.give_up(batch, error)
                return
        except SkyriverError as error:
            if error.code == "ALL_REJECTED":
                outbox.settle(batch, {"accepted": 0, "duplicates": 0, "rejected": error.details})
            else:
                outbox.give_up(batch, error)
            return
        else:
            outbox.settle(batch, answer)
            return
        yield Pause(pause)
        pause = min(pause * 1.7, 2.0)


def _rejection(row: Mapping[str, Any]) -> SkyriverError:
    return InvalidInput(
        row["message"],
        code=row["reason"],
        where=row["field"],
        next_action="Correct this event and send it again: it was not taken.",
    )


def _cause(error: BaseException) -> SkyriverError:
    return error if isinstance(error, SkyriverError) else Internal(f"The producer failed: {error!r}.")


def buffer_full(settings: Producing) -> QuotaExceeded:
    return QuotaExceeded(
        f"{settings.buffer} events wait to be sent, and none could be within {settings.block_seconds:g} s.",
        code="BUFFER_FULL",
        next_action="Send this event again later: it was not taken.",
    )


def not_flushed(timeout: float | None) -> Unavailable:
    return Unavailable(
        f"Events still wait after {timeout or 0:g} s; they go on.",
        code="NOT_FLUSHED",
        next_action="Flush again with a longer timeout; `skyriver ps` shows whether the stream's worker is there.",
    )
