"""The port for events in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol
from zlib import crc32

from skyriver.core.errors import InvalidInput


class RecordKind(IntEnum):
    """What a record is. Numbers are on disk: never change one."""

    EVENT = 1
    """One cleaned event, taken live; gets exactly one DECISION."""
    LABEL = 2
    CONTROL = 3
    """A change of model, rules or features by the partition's holder: what comes after it used it."""
    DECISION = 4
    HISTORY = 5
    """A block of many events and labels of a bulk load, in order: enters windows, is not decided."""
    DEAD = 6
    """A refused event with its reason."""
    EVENTS = 7
    """A block of cleaned events, taken live together: each of its offsets is an event, as EVENT is one."""
    DECISIONS = 8
    """The decisions of a block of events, one for each, in their order."""
    REFERENCE = 9
    """One cleaned row of a reference: features of events after it may look it up, from its own time on."""


@dataclass(frozen=True, slots=True)
class Record:
    """`time` is effective time T (microseconds); `count` is how many offsets the record covers (1, or the rows of a
    block: offset .. offset+count-1); `key_id` 0 means that the payload is plain (DESIGN 6.8)."""

    kind: RecordKind
    time: int
    payload: bytes
    count: int = 1
    key_id: int = 0
    offset: int = -1
    epoch: int = 0
    """offset and epoch are set by the log."""


_TIMES, _COUNTS, _KEY_IDS = range(-(2**63), 2**63), range(1, 2**32), range(2**64)


def place(records: Sequence[Record], first: int, epoch: int) -> list[Record]:
    """The records with offsets from `first` on. Raises InvalidInput (BAD_RECORD) for one that has no place in a log."""
    placed, offset = [], first
    for record in records:
        fits = record.time in _TIMES and record.count in _COUNTS and record.key_id in _KEY_IDS
        if not fits or record.kind not in RecordKind._value2member_map_:
            raise InvalidInput(
                f"A record of kind {record.kind!r} has no place in a log.",
                code="BAD_RECORD",
                next_action="Give it a kind of RecordKind, a count above 0, and a time and key id of 64 bits.",
            )
        placed.append(replace(record, offset=offset, epoch=epoch))
        offset += record.count
    return placed


def check_of(record: Record) -> int:
    """A checksum that tells a record from another one that was to have its place, before a power cut or after it."""
    head = (record.offset, record.epoch, record.kind, record.time, record.count)
    return crc32(record.payload, crc32(b"%d %d %d %d %d" % head))


class LogReader(Protocol):
    """Reading, also by other processes than the writer. Raises Corrupt naming file and byte position where a
    record's checksum fails anywhere but in the torn tail, which simply is not there."""

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        """Records from the one that covers offset `start`, in order, up to (excluding) offset `end` or what was
        there when the call was made."""
        ...

    @property
    def next_offset(self) -> int:
        """The offset after the last whole record."""
        ...

    def begin(self) -> tuple[int, int]:
        """(The first offset that is there, T of the last record that was given up before it); (0, 0): all is there."""
        ...


class WholeReader(LogReader, Protocol):
    """What jobs read that make something durable of records."""

    @property
    def first_offset(self) -> int: ...

    def sync(self) -> int:
        """Puts on the disk what was acknowledged when this is called; the offset after it. Who makes something durable
        of records reads no further, or a power cut leaves more of that than of the log."""
        ...


class Log(LogReader, Protocol):
    """The one writer of a partition.

    MUST: offsets are dense from 0, counted by `Record.count`; `append` gives records their place and returns the
    first offset; after `sync` they are durable at the log's level ("process": they survive kill -9 of this
    process; "disk": the end of the power); what was synced is there after any crash, whole, in order; a record
    that was not may be missing, then all after it are missing too. Opening takes the partition from a holder that
    is stopped or hung (SIGKILL of the recorded holder, then the lock), raises the epoch by one, cuts a
    torn tail, and from then on no older holder can write. Raises Unavailable (DISK_FULL) when there is no room;
    the log is then as it was before the append. One thread at a time.
    """

    @property
    def epoch(self) -> int: ...

    def append(self, records: Sequence[Record]) -> int: ...

    def sync(self) -> None: ...

    def sync_to_disk(self) -> None:
        """MUST: what was synced before is on the disk when this returns, whatever the log's level, before anything that
        follows from it is made durable. It may be called from one other thread, while the log goes on. Raises
        Unavailable."""
        ...

    def close(self) -> None: ...
