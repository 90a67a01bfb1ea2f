"""Events in their order, in memory: the twin of the segment log, for tests and simulations."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, SkyriverError, Unavailable
from skyriver.data.log import Record, RecordKind

_TIMES = range(-(2**63), 2**63)
_COUNTS = range(1, 2**32)
_KEY_IDS = range(2**64)


class MemoryLogStore:
    """What outlives a writer: the synced records and the newest epoch. `room` is how many payload bytes still fit
    (None: any number); offsets in `rotten` are of records whose bytes went bad."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: list[Record] = []
        self.offsets: list[int] = []
        self.next_offset = 0
        self.epoch = 0
        self.room: int | None = None
        self.rotten: set[int] = set()

    def open(self) -> MemoryLog:
        """A writer with a new epoch; older ones can no longer write. What they had not synced is gone."""
        with self.lock:
            self.epoch += 1
            return MemoryLog(self, self.epoch)

    def reader(self) -> MemoryLogReader:
        return MemoryLogReader(self)


def _read(store: MemoryLogStore, unsynced: Sequence[Record], start: int, end: int | None) -> Iterator[Record]:
    if start < 0:
        raise InvalidInput(f"Offset {start} is below 0.", code="BAD_OFFSET")
    with store.lock:
        first = max(0, bisect_right(store.offsets, start) - 1)
        records = [*store.records[first:], *unsynced]
        rotten = frozenset(store.rotten)
    return _serve(records, rotten, start, end)


def _serve(records: Sequence[Record], rotten: frozenset[int], start: int, end: int | None) -> Iterator[Record]:
    for record in records:
        if end is not None and record.offset >= end:
            return
        if record.offset + record.count <= start:
            continue
        if record.offset in rotten:
            raise Corrupt(f"The record with offset {record.offset} is not what was written.", where="memory")
        yield record


class MemoryLogReader:
    """`LogReader` on a store: sees what was synced."""

    def __init__(self, store: MemoryLogStore) -> None:
        self._store = store

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        return _read(self._store, (), start, end)

    @property
    def next_offset(self) -> int:
        return self._store.next_offset


class MemoryLog:
    """`Log` on a store; made by `MemoryLogStore.open`."""

    def __init__(self, store: MemoryLogStore, epoch: int) -> None:
        self._store, self._epoch = store, epoch
        self._unsynced: list[Record] = []
        self._next = store.next_offset
        self._closed = False

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def next_offset(self) -> int:
        return self._next

    def append(self, records: Sequence[Record]) -> int:
        self._ready()
        first = offset = self._next
        placed = []
        for record in records:
            _check(record)
            placed.append(replace(record, offset=offset, epoch=self._epoch))
            offset += record.count
        self._unsynced += placed
        self._next = offset
        return first

    def sync(self) -> None:
        """Raises as the segment log's: Unavailable (DISK_FULL) takes back everything since the last good sync."""
        self._ready()
        store, size = self._store, sum(len(record.payload) for record in self._unsynced)
        with store.lock:
            if store.epoch != self._epoch:
                raise _lost(self._epoch)
            if store.room is not None and self._unsynced:
                if size > store.room:
                    self._unsynced, self._next = [], store.next_offset
                    raise Unavailable("There is no room for the records.", code="DISK_FULL", where="memory")
                store.room -= size
            store.records += self._unsynced
            store.offsets += [record.offset for record in self._unsynced]
            store.next_offset = self._next
        self._unsynced = []

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        """All that was appended, synced or not."""
        return _read(self._store, self._unsynced, start, end)

    def close(self) -> None:
        if not self._closed:
            try:
                self.sync()
            finally:
                self._closed = True

    def abandon(self) -> None:
        """The end of this writer without a word, as the end of its process would be."""
        self._closed = True

    def _ready(self) -> None:
        if self._closed:
            raise Conflict("This log is closed.", code="LOG_CLOSED", where="memory")


def _check(record: Record) -> None:
    fits = record.time in _TIMES and record.count in _COUNTS and record.key_id in _KEY_IDS
    if not fits or record.kind not in RecordKind._value2member_map_:
        raise InvalidInput(f"A record of kind {record.kind!r} has no place in a log.", code="BAD_RECORD")


def _lost(epoch: int) -> SkyriverError:
    return Conflict(f"Epoch {epoch} of this log is over: another writer has taken it.", code="LOG_LOST", where="memory")
