"""Events in their order, in memory: the twin of the segment log, for tests and simulations."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, NotFound, SkyriverError, Unavailable
from skyriver.core.objects import IdentifiedObjects
from skyriver.data.log import Record, place
from skyriver.data.retention import Changed, Part, Sizes


class MemoryLogStore:
    """What outlives a writer: the synced records and the newest epoch. `room` is how many payload bytes still fit
    (None: any number); offsets in `rotten` are of records whose bytes went bad. A part of the log is closed when it has
    `part_records` records and more come, or its writer ends it; `tier` is where parts can go; `tiered` has the digest
    and the tier of each that is in one, by its base."""

    def __init__(self, *, part_records: int = 1000, tier: IdentifiedObjects | None = None) -> None:
        self.lock = threading.Lock()
        self.part_records = part_records
        self.tier = tier
        self.tiered: dict[int, tuple[str, IdentifiedObjects]] = {}
        self.placed: list[tuple[int, str, IdentifiedObjects]] = []
        """Each object that was put: of which part, its digest, where."""
        self.away: set[int] = set()
        self.first_offset = 0
        self.gone_time = 0
        """T of the last record that was given up."""
        self.records: list[Record] = []
        self.offsets: list[int] = []
        self.bases: list[int] = []
        """First offset of each part."""
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

    def groups(self) -> list[list[Record]]:
        """The records of each part; the last one is not closed, and may be empty."""
        starts = [bisect_left(self.offsets, base) for base in self.bases]
        return [self.records[at:end] for at, end in zip(starts, [*starts[1:], None], strict=False)]

    def add(self, records: Sequence[Record]) -> None:
        held = len(self.offsets) - bisect_left(self.offsets, self.bases[-1]) if self.bases else 0
        for record in records:
            if not self.bases or held >= self.part_records:
                self.bases.append(record.offset)
                held = 0
            held += 1
            self.records.append(record)
            self.offsets.append(record.offset)

    def fetch(self, offset: int) -> None:
        """Of a record that is only in the tier: raises what the tier does."""
        if self.away and offset < self.next_offset:
            base = self.bases[bisect_right(self.bases, offset) - 1]
            if base in self.away:
                digest, tier = self.tiered[base]
                if tier is not self.tier:
                    raise Unavailable(
                        f"Offset {offset} is in another tier than the one that is set.",
                        code="TIER_CHANGED",
                        where="memory",
                        next_action="Set the tier that it is in.",
                    )
                tier.verify(digest)

    def place(self, base: int, digest: str, tier: IdentifiedObjects) -> None:
        self.tiered[base] = digest, tier
        self.placed.append((base, digest, tier))

    def outdated(self) -> list[tuple[int, str, IdentifiedObjects]]:
        """Objects of parts that were rewritten since."""
        return [old for old in self.placed if old[0] in self.tiered and self.tiered[old[0]][0] != old[1]]

    def delete_outdated(self) -> None:
        """Those in the tier that is set."""
        for old in self.outdated():
            if old[2] is self.tier:
                old[2].delete(old[1])
                self.placed.remove(old)

    def is_tiered(self, base: int) -> bool:
        """Into the tier that is set."""
        return base in self.tiered and self.tiered[base][1] is self.tier


def _read(store: MemoryLogStore, unsynced: Sequence[Record], start: int, end: int | None) -> Iterator[Record]:
    if start < 0:
        raise InvalidInput(f"Offset {start} is below 0.", code="BAD_OFFSET", next_action="Read from offset 0 on.")
    if start < store.first_offset:
        raise NotFound(
            f"Offset {start} of the log is gone; the first that is there is {store.first_offset}.",
            code="OFFSET_GONE",
            where="memory",
            next_action=f"Read from offset {store.first_offset} on.",
        )
    with store.lock:
        first = max(0, bisect_right(store.offsets, start) - 1)
        records = [*store.records[first:], *unsynced]
        rotten = frozenset(store.rotten)
    return _serve(store, records, rotten, start, end)


def _serve(
    store: MemoryLogStore,
    records: Sequence[Record],
    rotten: frozenset[int],
    start: int,
    end: int | None,
) -> Iterator[Record]:
    for record in records:
        if end is not None and record.offset >= end:
            return
        if record.offset + record.count <= start:
            continue
        store.fetch(record.offset)
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

    @property
    def first_offset(self) -> int:
        return self._store.first_offset

    def begin(self) -> tuple[int, int]:
        return self._store.first_offset, self._store.gone_time


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

    def begin(self) -> tuple[int, int]:
        return self._store.first_offset, self._store.gone_time

    def append(self, records: Sequence[Record]) -> int:
        self._ready()
        first = self._next
        self._unsynced += place(records, first, self._epoch)
        self._next += sum(record.count for record in records)
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
                    raise Unavailable(
                        "There is no room for the records.",
                        code="DISK_FULL",
                        where="memory",
                        next_action="Make room and append them again.",
                    )
                store.room -= size
            store.add(self._unsynced)
            store.next_offset = self._next
        self._unsynced = []

    def sync_to_disk(self) -> None:
        """There is none."""

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        """All that was appended, synced or not."""
        return _read(self._store, self._unsynced, start, end)

    # What TieredLog adds

    @property
    def first_offset(self) -> int:
        return self._store.first_offset

    @property
    def open_bytes(self) -> int:
        groups = self._store.groups()
        return sum(len(record.payload) for record in groups[-1]) if groups else 0

    def parts(self) -> list[Part]:
        store, found = self._store, []
        for records in store.groups()[:-1]:
            base, last = records[0].offset, records[-1]
            size = sum(len(record.payload) for record in records)
            there = {"local": base not in store.away, "tiered": store.is_tiered(base)}
            found.append(Part(base, last.offset + last.count, last.time, size, **there))
        return found

    def sizes(self) -> Sizes:
        parts = self.parts()
        lost = [part for part in parts if not part.local and not part.tiered]
        return Sizes(
            sum(part.bytes for part in parts),
            sum(part.bytes for part in parts if part.local),
            sum(part.bytes for part in parts if part.local and not part.tiered),
            Unavailable(
                f"{len(lost)} parts are in another tier.",
                code="TIER_CHANGED",
                next_action="Set the tier that they are in.",
            )
            if lost
            else None,
        )

    def remove_before(self, offset: int) -> int:
        self._ready_and_ours()
        store = self._store
        for part in self.parts():
            if part.end > offset:
                break
            with store.lock:
                count = bisect_left(store.offsets, part.end)
                del store.records[:count], store.offsets[:count], store.bases[0]
                store.first_offset, store.gone_time = part.end, part.time
                there = store.tiered.pop(part.base, None)
                store.away.discard(part.base)
            if there is not None:
                there[1].delete(there[0])
        return store.first_offset

    def tier_next(self) -> bool:
        self._ready_and_ours()
        store = self._store
        store.delete_outdated()
        part = next((part for part in self.parts() if part.local and not part.tiered), None)
        if store.tier is None or part is None:
            return False
        held = [record for record in store.records if part.base <= record.offset < part.end]
        digest = store.tier.put(repr((part.base, held)).encode())
        store.tier.verify(digest)
        store.place(part.base, digest, store.tier)
        return True

    def drop_local(self, limit: int) -> None:
        local = self.open_bytes + sum(part.bytes for part in self.parts() if part.local)
        for part in self.parts():
            if local > limit and part.local and part.tiered:
                self._store.away.add(part.base)
                local -= part.bytes

    # What RewritableLog adds

    def end_part(self) -> None:
        self.sync()
        with self._store.lock:
            if self._store.bases and self._store.bases[-1] != self._next:
                self._store.bases.append(self._next)

    def rewrite(self, base: int, changed: Changed) -> int:
        self._ready_and_ours()
        store = self._store
        part = next((part for part in self.parts() if part.base == base), None)
        if part is None:
            raise NotFound(
                f"No closed part begins with offset {base}.",
                code="OFFSET_GONE",
                where="memory",
                next_action="Name the first offset of a part, as `parts` tells them.",
            )
        store.fetch(base)
        first, last = bisect_left(store.offsets, part.base), bisect_left(store.offsets, part.end)
        held = store.records[first:last]
        rewritten = [_with(record, changed(record)) for record in held]
        count = sum(a is not b for a, b in zip(held, rewritten, strict=True))
        there = store.tiered.get(base)
        if there is not None and store.tier is None:
            raise Unavailable(
                "This part is in a tier too, and none is set.",
                code="TIER_NOT_SET",
                where="memory",
                next_action="Set the tier that it is in.",
            )
        if count and there is not None and store.tier is not None:
            digest = store.tier.put(repr((part.base, rewritten)).encode())
            store.tier.verify(digest)
            store.place(base, digest, store.tier)
        if count:
            with store.lock:
                store.records[first:last] = rewritten
        store.delete_outdated()
        return count

    def copies(self) -> list[str]:
        return [digest for _, digest, _ in self._store.outdated()]

    def close(self) -> None:
        if not self._closed:
            try:
                self.sync()
            finally:
                self._closed = True

    def abandon(self) -> None:
        """The end of this writer without a word, as the end of its process would be."""
        self._closed = True

    def _ready_and_ours(self) -> None:
        self._ready()
        if self._store.epoch != self._epoch:
            raise _lost(self._epoch)

    def _ready(self) -> None:
        if self._closed:
            raise Conflict("This log is closed.", code="LOG_CLOSED", where="memory", next_action="Open it again.")


def _with(record: Record, payload: bytes | None) -> Record:
    return record if payload is None or payload == record.payload else replace(record, payload=payload)


def _lost(epoch: int) -> SkyriverError:
    return Conflict(
        f"Epoch {epoch} of this log is over: another writer has taken it.",
        code="LOG_LOST",
        where="memory",
        next_action="Open the log again to write to it.",
    )
