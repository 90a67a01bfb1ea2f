"""Where a stream's past lies in its log, and its features as of then.

Theory of operation
===================
Effective time never falls along a log, so the place of a time is found by halving. The features of an event hang on
what lies in their windows alone (DESIGN 6.2): they are folded from one reach before the first event that needs them,
not from the log's beginning. Where the log has given up a part of that, they are not `whole`.

What was decided with stands in CONTROL records; the one that counts at an offset is the last one before it, which is
looked for backwards, in larger and larger steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from skyriver.data.columns import Bools, Ints, decode_events
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.log.checkpoint import NEVER
from skyriver.decide.log.history import read_record
from skyriver.decide.log.records import ControlRecord, decode_control
from skyriver.decide.partition.folding import Folding
from skyriver.decide.partition.kernel_windows import KernelWindows
from skyriver.decide.partition.windows import Floats

if TYPE_CHECKING:
    import polars as pl

CHUNK = 65_536
_STEP = 4_096


def offset_at(reader: LogReader, time: int) -> int:
    """The offset of the first record that reaches this effective time; the log's end where none does."""
    low, high = reader.begin()[0], reader.next_offset
    while low < high:
        middle = (low + high) // 2
        record = _of_time(reader, middle)
        if record is None or record.time >= time:
            high = middle
        else:
            low = record.offset + record.count
    return low


def _of_time(reader: LogReader, offset: int) -> Record | None:
    """The record there, or the next one that has a time of its own: a refused one has that of before its batch."""
    return next((r for r in reader.read(offset) if r.kind is not RecordKind.DEAD), None)


def effective_of(record: Record) -> Ints:
    """T of each row of a record that has events; for others that of the record."""
    match record.kind:
        case RecordKind.EVENTS:
            return decode_events(record.payload, record.count).effective
        case RecordKind.HISTORY:
            found: Ints = read_record(record.payload)["_effective"].to_numpy()
            return found
        case _:
            return np.array([record.time], np.int64)


def control_before(reader: LogReader, offset: int) -> ControlRecord | None:
    """What counts at this offset. None: nothing before it that is still there tells."""
    begin, end, step = reader.begin()[0], offset, _STEP
    while end > begin:
        start, found = max(begin, end - step), None
        for record in reader.read(start, end=end):
            if record.offset < end:
                found = control_of(record) or found
        if found is not None:
            return found
        end, step = start, 4 * step
    return None


def control_at(reader: LogReader, offset: int) -> ControlRecord | None:
    """The same; where the log has given up what told before, the next one from there on, which may tell it again."""
    return control_before(reader, offset) or next(filter(None, map(control_of, reader.read(offset))), None)


def control_of(record: Record) -> ControlRecord | None:
    """What it says is decided with from it on; None where it says nothing of it."""
    if record.kind is not RecordKind.CONTROL:
        return None
    control = decode_control(record.payload)
    return control if control.load is None else None


class PastFeatures:
    """One set of features, folded up to where its replay is; of events from `since` on it keeps them until they are
    let go."""

    def __init__(self, windows: KernelWindows, whole_from: int, since: int, chunk: int = CHUNK) -> None:
        """`whole_from`: the effective time from which on all that windows look back to has been folded."""
        self.digest = windows.digest
        self.names = windows.names
        self._windows = windows
        self._whole_from = whole_from
        self._since = since
        self._folding = Folding(windows, chunk=chunk, folded=self._folded, loaded=self._loaded)
        self._offsets: list[Ints] = []
        self._rows: list[Floats] = []
        self.block: pl.DataFrame | None = None
        """The last block of history."""

    def apply(self, record: Record) -> None:
        self._folding.apply(record)

    def of(self, offsets: Ints) -> Floats:
        """Of these events, none of them late, all of them applied and not let go."""
        self._folding.flush()
        known = np.concatenate([np.empty(0, np.int64), *self._offsets])
        rows = np.concatenate([np.empty((0, len(self.names)), np.float32), *self._rows])
        self._offsets, self._rows = [known], [rows]
        if len(known) == len(offsets) and bool(np.array_equal(known, offsets)):
            return rows
        return rows[np.searchsorted(known, offsets)]

    def whole(self, effective: Ints) -> Bools:
        found: Bools = effective >= self._whole_from
        return found

    def let_go(self, before: int) -> None:
        """Events before this offset are not asked for any more."""
        self._since = before
        kept = [(o, rows) for o, rows in zip(self._offsets, self._rows, strict=True) if len(o) and o[-1] >= before]
        self._offsets, self._rows = [o for o, _ in kept], [rows for _, rows in kept]

    def forget(self) -> None:
        """Gives back what no window needs any more."""
        self._folding.flush()
        self._windows.forget()

    def close(self) -> None:
        self._windows.close()

    def _folded(self, offsets: list[int], features: Floats) -> None:
        self._note(np.array(offsets, np.int64), features)

    def _loaded(self, first: int, frame: pl.DataFrame, features: Floats) -> None:
        self.block = frame
        self._note(first + np.flatnonzero(frame["_kind"].to_numpy() == RecordKind.EVENT), features)

    def _note(self, offsets: Ints, features: Floats) -> None:
        if len(offsets) and offsets[-1] >= self._since:
            self._offsets.append(offsets)
            self._rows.append(features)


def past_features(
    reader: LogReader,
    windows: KernelWindows,
    *,
    time: int,
    since: int,
    end: int,
    told: Callable[[int], None] = lambda _: None,
) -> PastFeatures:
    """The features up to offset `end`, kept from the event at offset `since` on, whose effective time is `time`."""
    begin, gone = reader.begin()
    whole_from = gone + windows.reach if begin else NEVER
    found = PastFeatures(windows, whole_from, since)
    start = max(begin, offset_at(reader, time - windows.reach)) if windows.reach < time else begin
    passed = 0
    for record in reader.read(start, end=end):
        found.apply(record)
        passed += record.count
        if passed >= CHUNK:
            passed = 0
            found.forget()
            told(record.offset)
    return found
