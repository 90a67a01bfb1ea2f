"""What comes to an engine and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from skyriver.data.columns import Columns
from skyriver.decide.log.records import DecisionRecord, Id, Value

RAW_SHOWN = 200
"""Characters of a refused value in an answer; all of it is in the dead letters."""


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A row that was not taken, by its place in the request. `value` is what was given for `field`."""

    index: int
    field: str
    value: object
    reason: str
    message: str


def shown(value: object) -> object:
    """A value as an answer shows it: not longer than it helps."""
    if isinstance(value, str) and len(value) > RAW_SHOWN:
        return value[:RAW_SHOWN] + "…"
    if isinstance(value, bytes):  # of MessagePack
        return value[:RAW_SHOWN]
    if isinstance(value, list | dict | int):
        if isinstance(value, int) and value.bit_length() <= 64:
            return value
        text = str(value)
        return text if len(text) <= RAW_SHOWN else text[:RAW_SHOWN] + "…"
    return value


@dataclass(slots=True)
class Submission:
    """The events of one request or of a part of it, cleaned: a row is a list of values, or why it was refused. Where
    all rows of a request with many are good, they are `columns` instead, and `rows` is empty.

    `raw` is always the whole request; row i of `rows` is row `start` + i of it.
    """

    raw: Sequence[object]
    rows: list[list[Value] | Refused]
    arrived: int
    """Monotonic microseconds."""
    wants_decisions: bool = False
    start: int = 0
    columns: Columns | None = None

    def __len__(self) -> int:
        return len(self.columns) if self.columns is not None else len(self.rows)

    def part(self, start: int, end: int) -> Submission:
        if start == 0 and end == len(self):
            return self
        columns = self.columns.part(start, end) if self.columns is not None else None
        return Submission(self.raw, self.rows[start:end], self.arrived, self.wants_decisions, start, columns)

    def by_rows(self) -> Submission:
        """The same without columns."""
        if self.columns is None:
            return self
        rows: list[list[Value] | Refused] = [*self.columns.rows()]
        return Submission(self.raw, rows, self.arrived, self.wants_decisions, self.start)


@dataclass(slots=True)
class Receipt:
    """The answer to a Submission. `decisions` (only if wanted) has an entry a row: None for a refused one, and for a
    duplicate of an event of history, which was never decided. `sought`: places in `decisions` of those that are not in
    memory any more, with the offset of the event; None: there are none."""

    accepted: int = 0
    duplicates: int = 0
    first_offset: int = -1
    """Of the first accepted event; -1: none was."""
    rejected: list[Refused] = field(default_factory=list)
    decisions: list[DecisionRecord | None] = field(default_factory=list)
    sought: list[tuple[int, int]] | None = None

    def seek(self, place: int, event_offset: int) -> None:
        if self.sought is None:
            self.sought = []
        self.sought.append((place, event_offset))

    def add(self, part: Receipt) -> None:
        """Takes in the receipt of the next part of the same request."""
        self.accepted += part.accepted
        self.duplicates += part.duplicates
        self.first_offset = self.first_offset if self.first_offset >= 0 else part.first_offset
        self.rejected += part.rejected
        if part.sought:
            before = len(self.decisions)
            self.sought = [*(self.sought or ()), *((before + place, offset) for place, offset in part.sought)]
        self.decisions += part.decisions


@dataclass(slots=True)
class ReferenceSubmission:
    """Cleaned rows of the stream's reference `index`, of one request or of a part of it: all of them are good, but for
    those that are set aside as `dead`, with what came. `removes`: a row is an id, which is to be taken off a list."""

    index: int
    rows: list[list[Value]]
    dead: Sequence[tuple[Refused, object]] = ()
    removes: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, end: int) -> ReferenceSubmission:
        dead = self.dead if end == len(self.rows) else ()
        return ReferenceSubmission(self.index, self.rows[start:end], dead, self.removes)


class LabelRow(NamedTuple):
    """One label, cleaned: `label` is its place in the stream's labels."""

    subject: Id
    label: int
    value: float
    known_at: int


@dataclass(slots=True)
class LabelSubmission:
    """The labels of one request or of a part of it: a row is its labels (several, perhaps), or why it was refused."""

    raw: Sequence[object]
    rows: list[list[LabelRow] | Refused]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, end: int) -> LabelSubmission:
        return LabelSubmission(self.raw, self.rows[start:end])


@dataclass(slots=True)
class LabelReceipt:
    """`unknown_subjects` counts accepted labels whose event this stream has not seen before them."""

    accepted: int = 0
    unknown_subjects: int = 0
    rejected: list[Refused] = field(default_factory=list)

    def add(self, part: LabelReceipt) -> None:
        self.accepted += part.accepted
        self.unknown_subjects += part.unknown_subjects
        self.rejected += part.rejected
