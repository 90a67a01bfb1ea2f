"""Sorting a batch: which rows are refused, which are duplicates, which are late, and what time it is at each.

Pure: it changes nothing but the submissions, whose rows ahead of the clock become refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from skyriver.core.spec import StreamSpec
from skyriver.core.units import format_span
from skyriver.data.log import Record, RecordKind
from skyriver.decide.partition import Ahead
from skyriver.decide.receipt import Refused, Submission
from skyriver.decide.records import LATE, RAW_LIMIT, DeadRecord, Value, encode, encode_event


class Fate(IntEnum):
    """What becomes of a row; the number beside it says more."""

    NEW = 0
    """Its place among the new events."""
    REPEATED = 1
    """An id of this batch: the place of the first."""
    KNOWN = 2
    """An id of before: the offset of the first."""
    REFUSED = 3


NEW, REPEATED, KNOWN, REFUSED = Fate
_EVENT, _DEAD = RecordKind.EVENT, RecordKind.DEAD
# Names of the module: looking up a member of an enum takes longer than making a record of it.


@dataclass(slots=True)
class Batch:
    """The new events of some submissions in order (the lists belong together), and the records to append."""

    time: int
    """Effective time after them."""
    rows: list[list[Value]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    effective: list[int] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    dead: list[Record] = field(default_factory=list)
    fates: list[list[tuple[Fate, int]]] = field(default_factory=list)
    """Of each row of each submission."""


def sort_rows(
    submissions: Sequence[Submission],
    keys: Sequence[int],
    known: Sequence[int],
    stream: StreamSpec,
    *,
    time: int,
    limit: int,
    horizon: Ahead,
) -> Batch:
    """`keys` and `known`: of each row that was not refused, its id as a key and the offset where that was seen last
    (-1: nowhere); `horizon` says which is too long ago to count. `time`: effective time before the batch;
    `limit`: the latest time that an event may have."""
    at_time = next(place for place, f in enumerate(stream.fields) if f.name == stream.time)
    disorder = stream.disorder_us
    batch = Batch(time)
    seen: dict[int, int] = {}
    at = 0
    for submission in submissions:
        fates: list[tuple[Fate, int]] = []
        batch.fates.append(fates)
        rows = submission.rows
        for index, row in enumerate(rows):
            if type(row) is not list:
                fates.append((REFUSED, 0))
                continue
            key, first = keys[at], known[at]
            at += 1
            own: int = row[at_time]  # type: ignore[assignment]  # the time of a stream is never missing
            now = max(own, batch.time)
            before = seen.get(key)
            if before is not None:
                if horizon.saw_own(before, now):
                    fates.append((REPEATED, before))
                    continue
            elif first >= 0 and horizon.saw(first, now):
                fates.append((KNOWN, first))
                continue
            if own > limit:
                rows[index] = _ahead(submission.start + index, own, own - limit + stream.ahead_us, stream.time)
                fates.append((REFUSED, 0))
                continue
            late = own < batch.time - disorder
            place = seen[key] = len(batch.rows)
            if own > batch.time:
                batch.time = own
                horizon.note(place, own)
            fates.append((NEW, place))
            batch.rows.append(row)
            batch.keys.append(key)
            batch.effective.append(batch.time)
            batch.late.append(late)
            batch.arrived.append(submission.arrived)
            batch.events.append(Record(_EVENT, batch.time, encode_event(LATE if late else 0, row)))
    batch.dead = [
        dead_record(row, submission.raw[row.index], batch.time)
        for submission in submissions
        for row in submission.rows
        if isinstance(row, Refused)
    ]
    return batch


def dead_record(refused: Refused, raw: object, time: int) -> Record:
    given = msgspec.json.encode(raw)[:RAW_LIMIT]
    return Record(_DEAD, time, encode(DeadRecord(refused.reason, refused.field, refused.message, given)))


def _ahead(index: int, own: int, by: int, field: str) -> Refused:
    message = f"{field} is {format_span(by)} ahead of the clock here."
    return Refused(index, field, own, "AHEAD_OF_CLOCK", message)
