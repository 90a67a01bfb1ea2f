"""Sorting a batch: which rows are refused, which are duplicates, which are late, and what time it is at each.

Pure: it changes nothing but the submissions, whose rows ahead of the clock become refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec
import numpy as np

from skyriver.core.spec import StreamSpec
from skyriver.core.units import format_span
from skyriver.data.columns import Bools, Ints
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import LATE, RAW_LIMIT, DeadRecord, Value, encode, encode_event
from skyriver.decide.partition.partition import Ahead
from skyriver.decide.partition.receipt import Refused, Submission


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


@dataclass(slots=True)
class Order:
    """What becomes of some rows that were not refused, and of the new ones among them their effective times and whether
    they are late."""

    time: int
    """Effective time after them."""
    fates: list[tuple[Fate, int]] = field(default_factory=list)
    """Of one that is refused, the number is its time."""
    effective: list[int] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)


def order_rows(
    own: Sequence[int],
    ids: Sequence[Hashable],
    known: Sequence[int],
    *,
    time: int,
    limit: int,
    disorder: int,
    horizon: Ahead,
) -> Order:
    """Of each row: its time, its id and the offset where that was seen last (-1: nowhere); `horizon` says
    which is too long ago to count. `time`: effective time before them; `limit`: the latest time that an event may
    have."""
    order = Order(time)
    fates, effective, late = order.fates, order.effective, order.late
    seen: dict[Hashable, int] = {}
    for at, name, first in zip(own, ids, known, strict=True):
        now = max(at, time)
        before = seen.get(name)
        if before is not None:
            if horizon.saw_own(before, now):
                fates.append((REPEATED, before))
                continue
        elif first >= 0 and horizon.saw(first, now):
            fates.append((KNOWN, first))
            continue
        if at > limit:
            fates.append((REFUSED, at))
            continue
        late.append(at < time - disorder)
        place = seen[name] = len(effective)
        if at > time:
            time = at
            horizon.note(place, at)
        fates.append((NEW, place))
        effective.append(time)
    order.time = time
    return order


@dataclass(frozen=True, slots=True)
class BlockOrder:
    """As Order, for a block: `new` are the places of the new rows (None: all of them are), `late` is None where none
    is, `fates` are of the rows that are not new, by their places."""

    new: Ints | None
    effective: Ints
    late: Bools | None
    fates: Mapping[int, tuple[Fate, int]]


NOTHING_NEW = BlockOrder(None, np.empty(0, np.int64), None, {})


def order_block(
    own: Ints,
    keys: Ints,
    ids: Sequence[Hashable] | Ints,
    known: Ints,
    *,
    time: int,
    limit: int,
    disorder: int,
    horizon: Ahead,
) -> BlockOrder:
    """What `order_rows` says: at once where no id comes twice and no time is ahead, else row by row. `keys` are those
    of the ids."""
    plain = int(own.max()) <= limit and int(known.max()) < 0
    if plain and (np.all(keys[1:] > keys[:-1]) or len(set(keys.tolist())) == len(keys)):
        reached = np.maximum.accumulate(np.maximum(own, time))
        before = np.concatenate((np.array([time], np.int64), reached[:-1]))
        late = own < before - disorder
        return BlockOrder(None, reached, late if late.any() else None, {})
    order = order_rows(
        own.tolist(),
        ids.tolist() if isinstance(ids, np.ndarray) else ids,
        known.tolist(),
        time=time,
        limit=limit,
        disorder=disorder,
        horizon=horizon,
    )
    new = np.array([place for place, (fate, _) in enumerate(order.fates) if fate is NEW], np.int64)
    others = {place: fate for place, fate in enumerate(order.fates) if fate[0] is not NEW}
    late = np.array(order.late, np.bool_)
    effective = np.array(order.effective, np.int64)
    return BlockOrder(new if others else None, effective, late if late.any() else None, others)


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
    """`keys` and `known` are of the rows that were not refused; the others as in `order_rows`."""
    at_time, at_id = place_of(stream, stream.time), place_of(stream, stream.id)
    own: list[int] = [row[at_time] for s in submissions for row in s.rows if type(row) is list]  # type: ignore[misc]  # never missing
    ids = [row[at_id] for s in submissions for row in s.rows if type(row) is list]
    order = order_rows(own, ids, known, time=time, limit=limit, disorder=stream.disorder_us, horizon=horizon)
    batch = Batch(order.time, effective=order.effective, late=order.late)
    at = 0
    for submission in submissions:
        fates: list[tuple[Fate, int]] = []
        batch.fates.append(fates)
        rows = submission.rows
        for index, row in enumerate(rows):
            if type(row) is not list:
                fates.append((REFUSED, 0))
                continue
            fate = order.fates[at]
            fates.append(fate)
            if fate[0] is REFUSED:
                rows[index] = ahead(submission.start + index, fate[1], limit, stream)
            elif fate[0] is NEW:
                late, effective = order.late[fate[1]], order.effective[fate[1]]
                batch.rows.append(row)
                batch.keys.append(keys[at])
                batch.arrived.append(submission.arrived)
                batch.events.append(Record(_EVENT, effective, encode_event(LATE if late else 0, row)))
            at += 1
    batch.dead = [
        dead_record(row, submission.raw[row.index], batch.time)
        for submission in submissions
        for row in submission.rows
        if isinstance(row, Refused)
    ]
    return batch


def place_of(stream: StreamSpec, name: str) -> int:
    """Of a field among the stream's."""
    return next(place for place, f in enumerate(stream.fields) if f.name == name)


def dead_record(refused: Refused, raw: object, time: int) -> Record:
    given = msgspec.json.encode(raw, enc_hook=str)[:RAW_LIMIT]
    return Record(_DEAD, time, encode(DeadRecord(refused.reason, refused.field, refused.message, given)))


def ahead(index: int, own: int, limit: int, stream: StreamSpec) -> Refused:
    """Why the row with this index, which gives `own` as its time, is refused."""
    message = f"{stream.time} is {format_span(own - limit + stream.ahead_us)} ahead of the clock here."
    return Refused(index, stream.time, own, "AHEAD_OF_CLOCK", message)
