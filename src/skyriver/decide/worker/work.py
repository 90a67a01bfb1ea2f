"""What a station is given to do, and what one of its turns takes of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from skyriver.core.errors import SkyriverError
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.log.checkpoint import BlockAnswer
from skyriver.decide.log.history import Block
from skyriver.decide.log.records import DecisionRecord, Id, LoadStep, Value
from skyriver.decide.partition.engine import AsOf, Engine
from skyriver.decide.partition.receipt import LabelReceipt, LabelSubmission, Receipt, ReferenceSubmission, Submission
from skyriver.serve.read_format import MOST_ROWS


@dataclass(slots=True)
class EventWork:
    submission: Submission
    answer: Callable[[Receipt | SkyriverError], None]
    taken: int = 0
    """Rows that batches have taken."""
    receipt: Receipt = field(default_factory=Receipt)
    alone: bool = False
    """A batch of its own: what goes wrong with it is its own fault."""
    size: int = 0
    """Bytes that it holds until it is answered."""


@dataclass(slots=True)
class LabelWork:
    submission: LabelSubmission
    answer: Callable[[LabelReceipt | SkyriverError], None]
    taken: int = 0
    receipt: LabelReceipt = field(default_factory=LabelReceipt)
    size: int = 0

    def complete(self, part: LabelReceipt) -> None:
        """Answers once the last part is done."""
        self.receipt.add(part)
        if self.taken == len(self.submission):
            self.answer(self.receipt)


@dataclass(slots=True)
class ReferenceWork:
    """`answer` gets how many of the rows said something new; all of them were taken."""

    submission: ReferenceSubmission
    answer: Callable[[int | SkyriverError], None]
    taken: int = 0
    news: int = 0

    def complete(self, news: int) -> None:
        self.news += news
        if self.taken == len(self.submission):
            self.answer(self.news)


@dataclass(slots=True)
class LoadWork:
    block: Block
    step: LoadStep
    answer: Callable[[BlockAnswer | SkyriverError], None]
    size: int = 0


@dataclass(slots=True)
class FindWork:
    id: Id
    answer: Callable[[DecisionRecord | SkyriverError | None], None]


@dataclass(slots=True)
class ReadWork:
    """The features `digest` of these rows, at most READS_A_TURN, as of the rows of the turn that takes it."""

    digest: str
    rows: Sequence[Sequence[Value]]
    answer: Callable[[AsOf | SkyriverError], None]


@dataclass(slots=True)
class ChangeWork:
    """A change of the engine between two batches: of what is decided with, or of the features that are folded. A
    Conflict that it raises has changed nothing, and is answered; anything else breaks the engine off."""

    change: Callable[[Engine], None]
    answer: Callable[[SkyriverError | None], None]


RowWork = EventWork | LabelWork | ReferenceWork
Work = RowWork | LoadWork | FindWork | ReadWork | ChangeWork
Reply = Callable[[], None]

READS_A_TURN = MOST_ROWS
"""Rows that one turn reads: decisions wait for no more. What asks for more comes behind the rows that wait."""


@dataclass(slots=True)
class Turn:
    """What one batch takes. Of rows, a part (from, to) of each request."""

    rows: int = 0
    works: list[Work] = field(default_factory=list)
    events: list[tuple[EventWork, Submission]] = field(default_factory=list)
    labels: list[tuple[LabelWork, LabelSubmission]] = field(default_factory=list)
    references: list[tuple[ReferenceWork, ReferenceSubmission]] = field(default_factory=list)
    others: list[LoadWork | FindWork | ReadWork | ChangeWork] = field(default_factory=list)
    began_ns: int = field(default_factory=time.perf_counter_ns)
    effort: Effort = Effort.FULL
    threads: int = 1
    """That scoring its events may take."""
    scoring_us: int = 0
    """That it waited for scores."""
    besides_us: int = 0
    """That all but its events took."""
    before_us: int = 0
    """That the thread read and answered since the turn before, or since work came."""

    @property
    def besides(self) -> int:
        """Rows of labels and references, rows that are read, and decisions that are looked for."""
        rows = sum(len(part) for _, part in self.labels) + sum(len(part) for _, part in self.references)
        return rows + sum(_size(work) for work in self.others)


def rows_left(work: Work) -> int:
    return len(work.submission) - work.taken if isinstance(work, RowWork) else 0


def _size(work: Work) -> int:
    """Rows left of what is neither events nor a change nor a load."""
    match work:
        case LabelWork() | ReferenceWork():
            return len(work.submission) - work.taken
        case ReadWork():
            return len(work.rows)
        case FindWork():
            return 1
        case EventWork() | LoadWork() | ChangeWork():
            return 0
        case _:
            assert_never(work)


def next_turn(
    queue: deque[Work], room: int, most: Callable[[EventWork, int], int] | None = None, besides: int | None = None
) -> Turn:
    """Takes up to `room` rows off the queue; a request with more goes on at its end. `most`: how many events of this
    request may be taken with so many that were; it ends the turn with 0. `besides`: how many rows of anything else;
    what is more goes on at the end of the queue too, and reads are not divided."""
    turn, again, reads, taken, spent = Turn(), list[Work](), READS_A_TURN, 0, 0
    while queue and room > 0:
        work = queue[0]
        alone = isinstance(work, LoadWork) or (isinstance(work, EventWork) and work.alone)
        if alone and turn.works:
            break
        left = room
        if most is not None and isinstance(work, EventWork):
            left = min(room, most(work, taken))
            if left <= 0:
                break
        queue.popleft()
        size = 0
        if besides is not None and not isinstance(work, EventWork) and (size := _size(work)):
            left = min(room, besides - spent)
            if left <= 0 or (spent and isinstance(work, ReadWork) and size > left):
                again.append(work)
                continue
        if isinstance(work, ReadWork):
            if len(work.rows) > reads:
                again.append(work)
                continue
            reads -= len(work.rows)
        turn.works.append(work)
        spent += min(left, size)
        match work:
            case EventWork() | LabelWork() | ReferenceWork():
                start, rows = work.taken, len(work.submission)
                work.taken = end = min(rows, start + left)
                room -= end - start
                turn.rows += end - start
                if end < rows:
                    again.append(work)
                match work:
                    case EventWork():
                        taken += end - start
                        turn.events.append((work, work.submission.part(start, end)))
                    case LabelWork():
                        turn.labels.append((work, work.submission.part(start, end)))
                    case ReferenceWork():
                        turn.references.append((work, work.submission.part(start, end)))
            case LoadWork() | FindWork() | ReadWork() | ChangeWork():
                turn.others.append(work)
        if alone:
            break
    queue.extend(again)
    return turn
