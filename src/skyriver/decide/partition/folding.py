"""Folding the records of a log into windows, in log order and large batches, where nothing is decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from skyriver.data.columns import decode_events
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.history import read_record
from skyriver.decide.log.records import LATE, LabelRecord, Value, decode_event, decode_label, decode_reference
from skyriver.decide.partition.windows import Floats, Windows

if TYPE_CHECKING:
    import polars as pl

CHUNK = 4096
"""Events, labels or rows of references folded together."""
_OF_EVENTS = frozenset({RecordKind.EVENT, RecordKind.EVENTS, RecordKind.HISTORY})


class Folding:
    """`flush` brings the windows to the last record applied. `folded` is told the offsets of live events and their
    features, in order; `loaded` the offset of a block of history, its rows, and the features of its events."""

    def __init__(
        self,
        windows: Windows,
        *,
        chunk: int = CHUNK,
        folded: Callable[[list[int], Floats], None] | None = None,
        loaded: Callable[[int, pl.DataFrame, Floats], None] | None = None,
    ) -> None:
        self._windows = windows
        self._chunk = chunk
        self._folded = folded
        self._loaded = loaded
        self._events: list[tuple[int, int, list[Value]]] = []
        self._labels: list[tuple[int, LabelRecord]] = []
        self._references: list[tuple[int, tuple[int, list[Value]]]] = []
        self.events = 0
        """Applied, and rows of loaded history."""

    def apply(self, record: Record) -> None:
        if record.kind in _OF_EVENTS:
            self.events += record.count
        match record.kind:
            case RecordKind.EVENT:
                flags, values = decode_event(record.payload)
                if flags & LATE:
                    return
                if self._labels or self._references or len(self._events) >= self._chunk:
                    self.flush()
                self._events.append((record.offset, record.time, values))
            case RecordKind.EVENTS:
                self.flush()
                block = decode_events(record.payload, record.count)
                offsets = np.arange(record.offset, record.offset + record.count, dtype=np.int64)
                own, effective, columns = block.on_time(offsets)
                self._note(own.tolist(), self._windows.fold_columns(own, effective, columns))
            case RecordKind.LABEL:
                if self._events or self._references or len(self._labels) >= self._chunk:
                    self.flush()
                self._labels.append((record.offset, decode_label(record.payload)))
            case RecordKind.REFERENCE:
                if self._events or self._labels or len(self._references) >= self._chunk:
                    self.flush()
                self._references.append((record.offset, decode_reference(record.payload)))
            case RecordKind.HISTORY:
                self.flush()
                frame = read_record(record.payload)
                features = self._windows.fold_block(record.offset, frame)
                if self._loaded is not None:
                    self._loaded(record.offset, frame, features)
            case RecordKind.DECISION | RecordKind.DECISIONS | RecordKind.CONTROL | RecordKind.DEAD:
                pass

    def flush(self) -> None:
        if self._events:
            offsets = [offset for offset, _, _ in self._events]
            times, rows = [time for _, time, _ in self._events], [values for _, _, values in self._events]
            self._note(offsets, self._windows.fold_events(offsets, times, rows))
        if self._labels:
            self._windows.fold_labels([o for o, _ in self._labels], [label for _, label in self._labels])
        if self._references:
            self._windows.fold_references([o for o, _ in self._references], [row for _, row in self._references])
        self._events, self._labels, self._references = [], [], []

    def _note(self, offsets: list[int], features: Floats) -> None:
        if self._folded is not None:
            self._folded(offsets, features)
