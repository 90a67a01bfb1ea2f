"""The side log: what windows need of each event, and the journal of labels (DESIGN 6.5).

Rows and journal are append-only and checksummed word for word; the kernel checks a row each time a cursor reads it.
The labels that the kernel reads are a scratch array beside them, built anew from the journal when the log is cut to
a checkpoint. Who folds events writes the rows; who takes checkpoints calls, in this order, `flush`, then makes the
checkpoint durable, then `release` of what that checkpoint does not need.

On disk: DIR/side.json (what it is), DIR/rows, DIR/journal (int64, native little endian), DIR/labels (scratch).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict, Corrupt, Unavailable
from skyriver.data.folders import replace_file
from skyriver.features.buffers import Buffer, FileBuffer, MemoryBuffer, Words
from skyriver.features.layout import JOURNAL_LABELS, JOURNAL_WIDTH, MISSING, check_multipliers
from skyriver.features.plan import ROW_OFFSET, FeaturePlan

FORMAT = 1
TAIL_ROWS = 1 << 16
"""So many of a checkpoint's last rows are checked when it is opened; the others as they are read."""
_FEW = 64
_STEP = 1 << 18
"""Journal entries read at a time."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the side log: its length in rows and journal entries, and the first of each still needed there."""

    rows: int
    entries: int
    first_row: int
    first_entry: int
    row_check: int
    """Checksum of the last row, and of the last entry: they tie a checkpoint to its own history."""
    entry_check: int


@dataclass(slots=True)
class Side:
    """Side rows [n, plan.row_width], label scratch [n, labels], journal [m, 4], with their lengths.

    One thread at a time, one process at a time (the stream's lease sees to that). Raises Unavailable (DISK_FULL,
    DISK_FAILED) where a disk does not take what is written.
    """

    plan: FeaturePlan
    rows: Buffer
    labels: Buffer
    journal: Buffer
    place: str
    """Where it is, for messages."""
    row_count: int = 0
    journal_count: int = 0

    def reserve(self, rows: int, entries: int) -> None:
        """Room for so many more of each."""
        self.rows.reserve(self.row_count + rows)
        if self.plan.labels:
            self.labels.reserve(self.row_count + rows)
            self.journal.reserve(self.journal_count + entries)

    def flush(self) -> None:
        """Every row and journal entry up to now survives the end of the power (on disk); resident memory shrinks.
        May run in another thread while events are folded."""
        self.rows.sync()
        if self.plan.labels:
            self.journal.sync()
        for buffer in (self.rows, self.labels, self.journal):
            buffer.relax()

    def mark(self, first_row: int) -> Mark:
        """This point, with rows from `first_row` on still needed."""
        rows, journal = self.rows.array, self.journal.array
        row_check = int(rows[self.row_count - 1, -1]) if self.row_count else 0
        if not self.journal_count:
            return Mark(self.row_count, 0, first_row, 0, row_check, 0)
        # A journal entry older than the event of that row belongs to an even older event.
        there = first_row < self.row_count
        oldest = int(rows[first_row, ROW_OFFSET]) if there else np.iinfo(np.int64).max
        first_entry = _first_at(journal, self.journal_count, 0, oldest)
        entry_check = int(journal[self.journal_count - 1, -1])
        return Mark(self.row_count, self.journal_count, first_row, first_entry, row_check, entry_check)

    def cut(self, mark: Mark) -> None:
        """Goes back to a checkpoint. Raises Corrupt when not all that it needs is there as it was written."""
        if mark.rows > len(self.rows.array) or mark.entries > len(self.journal.array):
            file, there = ("rows", self.rows) if mark.rows > len(self.rows.array) else ("journal", self.journal)
            raise self._damage(file, len(there.array), "it ends before the checkpoint")
        start = min(max(mark.first_row, mark.rows - TAIL_ROWS), mark.rows)
        unsound = _unsound(self.rows.array[start : mark.rows])
        if unsound >= 0:
            raise self._damage("rows", start + unsound, "the checksum is wrong")
        self._check_end("rows", self.rows, mark.rows, mark.first_row, mark.row_check)
        self._check_end("journal", self.journal, mark.entries, mark.first_entry, mark.entry_check)
        self.row_count, self.journal_count = mark.rows, mark.entries
        self.rows.resume(mark.rows)
        self.journal.resume(mark.entries)
        if self.plan.labels:
            self._read_journal(mark)

    def release(self, mark: Mark) -> None:
        """Gives back the space of what `mark`, the oldest checkpoint that is kept, does not need."""
        self.rows.release(mark.first_row)
        if self.plan.labels:
            self.labels.release(mark.first_row)
            self.journal.release(mark.first_entry)

    def rows_of(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the events with these log offsets; -1 where there is none (late, a label, or released)."""
        if len(offsets) <= _FEW:  # 3 us each, where searching for all at once costs 200 us
            return np.array([self._row_of(int(offset)) for offset in offsets], np.int64)
        low = np.zeros(len(offsets), np.int64)
        high = np.full(len(offsets), self.row_count, np.int64)
        column = self.rows.array[:, ROW_OFFSET]
        for _ in range(self.row_count.bit_length()):
            middle = (low + high) >> 1
            less = column[np.minimum(middle, max(self.row_count - 1, 0))] < offsets
            less &= middle < high
            low = np.where(less, middle + 1, low)
            high = np.where(less, high, middle)
        there = low < self.row_count
        there[there] = column[low[there]] == offsets[there]
        return np.where(there, low, -1)

    def _row_of(self, offset: int) -> int:
        rows = self.rows.array
        found = _first_at(rows, self.row_count, ROW_OFFSET, offset)
        return found if found < self.row_count and rows[found, ROW_OFFSET] == offset else -1

    def damage_at(self, row: int) -> Corrupt:
        """What to raise when the kernel finds this row damaged."""
        return self._damage("rows", row, "the checksum is wrong")

    def close(self) -> None:
        for buffer in (self.rows, self.labels, self.journal):
            buffer.close()

    def _read_journal(self, mark: Mark) -> None:
        self.labels.clear()
        self.labels.resume(mark.first_row)
        self.labels.reserve(mark.rows)
        scratch = self.labels.array
        for start in range(mark.first_entry, mark.entries, _STEP):
            entries = self.journal.array[start : min(start + _STEP, mark.entries)]
            rows, places = entries[:, 1] // JOURNAL_LABELS, entries[:, 1] % JOURNAL_LABELS
            unsound = _unsound(entries)
            if unsound >= 0 or bool(np.any(rows >= mark.rows)):
                raise self._damage("journal", start + max(unsound, 0), "the checksum is wrong")
            needed = rows >= mark.first_row
            # Of several entries for one label of one row the last one stays.
            scratch[rows[needed], places[needed]] = entries[needed, 2] ^ MISSING

    def _check_end(self, file: str, buffer: Buffer, end: int, first: int, check: int) -> None:
        if end > first and int(buffer.array[end - 1, -1]) != check:
            raise self._damage(file, end - 1, "the checkpoint is of another history")

    def _damage(self, file: str, number: int, why: str) -> Corrupt:
        width = self.plan.row_width if file == "rows" else JOURNAL_WIDTH
        return Corrupt(
            f"The side log is not what was written: at entry {number} of its {file}, byte {number * width * 8}, {why}.",
            code="SIDE_CORRUPT",
            where=f"{self.place}/{file}",
            next_action="Build the features' state anew from the stream's history.",
        )


def memory_side(plan: FeaturePlan) -> Side:
    """A side log that ends with the process."""
    rows, labels, journal = (MemoryBuffer(width) for width in _widths(plan))
    return Side(plan, rows, labels, journal, "memory")


def disk_side(plan: FeaturePlan, directory: Path) -> Side:
    """The side log in `directory` (created if need be), empty until it is cut to a checkpoint.

    Raises Conflict (SIDE_OF_OTHER_FEATURES) when the directory belongs to another plan.
    """
    if sys.byteorder != "little":
        raise Unavailable(
            "The side log is kept on little-endian machines only.",
            code="BYTE_ORDER",
            next_action="Run the stream on such a machine, x86-64 or ARM64 say.",
        )
    about = directory / "side.json"
    content = {"format": FORMAT, "features": plan.digest, "row_width": plan.row_width, "labels": len(plan.labels)}
    try:
        found = json.loads(about.read_bytes())
    except (FileNotFoundError, ValueError):
        found = None  # damaged: it says nothing that the plan does not say, and rows and journal have their checksums
    if found is not None and found != content:
        raise Conflict(
            "This side log belongs to another set of features.",
            code="SIDE_OF_OTHER_FEATURES",
            where=str(directory),
            next_action="Give each version of the features a directory of its own.",
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = ("rows", "labels", "journal")
    rows, labels, journal = (FileBuffer(directory / n, w) for n, w in zip(names, _widths(plan), strict=True))
    labels.clear()
    if found is None:
        replace_file(about, json.dumps(content).encode())
    return Side(plan, rows, labels, journal, str(directory))


def _widths(plan: FeaturePlan) -> tuple[int, int, int]:
    return plan.row_width, max(1, len(plan.labels)), JOURNAL_WIDTH


def _unsound(words: Words) -> int:
    """The first row whose last word is not the checksum of the others; -1 if all are sound."""
    multipliers = check_multipliers(words.shape[1] - 1)
    expected = np.full(len(words), multipliers[0], np.int64)
    for place, multiplier in enumerate(multipliers[1:]):
        expected += words[:, place] * np.int64(multiplier)
    wrong = np.flatnonzero(expected != words[:, -1])
    return int(wrong[0]) if len(wrong) else -1


def _first_at(words: Words, count: int, column: int, bound: int) -> int:
    """The first row whose `column`, ascending, is at least `bound`; released rows count as 0."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if words[middle, column] < bound else (low, middle)
    return low
