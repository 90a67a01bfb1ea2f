"""What turned out to be true of the events of a stretch of a log: their labels, as far as they are known at its end.

They come after their events, so what is known of each is kept by its offset in a file, four bytes an event."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from skyriver.core.errors import disk_error
from skyriver.data.columns import Ints
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.log.checkpoint import NEVER
from skyriver.decide.log.history import read_record
from skyriver.decide.log.records import decode_label
from skyriver.decide.partition.windows import Floats

_UNKNOWN = np.float32(np.nan).view(np.uint32)
"""What is unknown is 0 in the file, as a new one is."""


class Truths:
    """One label of the events with offsets in [first, stop). Of several that came the last one counts. Where none came
    it is 0 once the label's delay has passed, else unknown."""

    def __init__(self, path: Path, first: int, stop: int, label: int, delay_us: int) -> None:
        """`label`: its place in the stream's. Raises Unavailable (DISK_FULL)."""
        self._first, self._stop, self._label, self._delay_us = first, stop, label, delay_us
        self._time = NEVER
        count = max(stop - first, 1)
        try:
            with path.open("wb+") as file:
                # Writing through the mapping into a hole of a full disk would kill the process (SIGBUS).
                os.posix_fallocate(file.fileno(), 0, 4 * count)
                self._known = np.memmap(file, np.uint32, "r+", shape=(count,))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise disk_error(error, "The labels cannot be kept", str(path)) from error

    def apply(self, record: Record) -> None:
        """All records from `first` to the log's end, in order."""
        self._time = max(self._time, record.time)
        if record.kind is RecordKind.LABEL:
            label = decode_label(record.payload)
            if label.label_index == self._label:
                self._note(np.array([label.subject_offset]), np.array([label.value]))
        elif record.kind is RecordKind.HISTORY:
            frame = read_record(record.payload)
            mine = (frame["_kind"] == RecordKind.LABEL) & (frame["_label"] == self._label).fill_null(value=False)
            if mine.any():
                own = frame.filter(mine)
                self._note(own["_subject_offset"].to_numpy(), own["_value"].to_numpy())

    def of(self, offsets: Ints, effective: Ints) -> Floats:
        """NaN where it is not known yet."""
        found = (self._known[offsets - self._first] ^ _UNKNOWN).view(np.float32)
        passed = np.isnan(found) & (effective + self._delay_us <= self._time)
        return np.where(passed, np.float32(0), found)

    def _note(self, subjects: Ints, values: np.ndarray) -> None:
        inside = (subjects >= self._first) & (subjects < self._stop)
        # Of several for one event the last one stays.
        self._known[subjects[inside] - self._first] = values[inside].astype(np.float32).view(np.uint32) ^ _UNKNOWN


def read_truths(reader: LogReader, truths: Truths, first: int) -> None:
    for record in reader.read(first):
        truths.apply(record)
