"""Reading a segment log, from any process, while the writer goes on."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise, zip_longest
from pathlib import Path

from skyriver.adapters.flock.lock import boot_id
from skyriver.adapters.segments.layout import (
    SEAL_END_BYTES,
    SEGMENT_HEADER_BYTES,
    Place,
    Seal,
    Segment,
    SegmentHeader,
    SparseIndex,
    Stop,
    corrupt,
    parse,
    seal_length,
    segment_of,
    unpack_seal,
    unpack_segment_header,
)
from skyriver.adapters.segments.mark import read_mark
from skyriver.adapters.segments.tail import scan_tail
from skyriver.core.errors import InvalidInput, NotFound, Unavailable
from skyriver.data.log import Record

_FIRST_READ = 32 << 10
_MOST_READ = 1 << 20
_LOOKS = 5
_INDEXES = 64
"""Indexes kept in memory: 64 segments, 4 MiB at most."""


def list_segments(directory: Path) -> list[Segment]:
    """The segments in order, without those that were left empty. Raises NotFound, or Corrupt when some are missing."""
    try:
        found = [segment for path in directory.iterdir() if (segment := segment_of(path))]
    except FileNotFoundError:
        raise NotFound(f"There is no log in {directory}.", code="LOG_NOT_FOUND", where=str(directory)) from None
    found.sort(key=lambda segment: (segment.base, segment.epoch))
    if found and found[0].base != 0:
        raise corrupt(found[0].path, 0, f"The log begins with offset {found[0].base}, segments are missing")
    for before, after in pairwise(found):
        if after.epoch < before.epoch:
            raise corrupt(after.path, 0, f"The epoch falls from {before.epoch} to {after.epoch}")
    return [segment for segment, after in zip_longest(found, found[1:]) if not _is_empty(segment, after)]


def _is_empty(segment: Segment, after: Segment | None) -> bool:
    """An open that wrote nothing leaves a segment with the next one's base; the next open removes it."""
    if after is None or after.base != segment.base:
        return False
    with suppress(FileNotFoundError):  # just removed
        if segment.path.stat().st_size > SEGMENT_HEADER_BYTES:
            raise corrupt(segment.path, SEGMENT_HEADER_BYTES, f"Records lie here that {after.path.name} has too,")
    return True


def read_header(fd: int, segment: Segment) -> SegmentHeader:
    return unpack_segment_header(os.pread(fd, SEGMENT_HEADER_BYTES, 0), segment)


def read_seal(fd: int, header: SegmentHeader) -> Seal | None:
    """None when the segment is not sealed, or its seal is not whole."""
    size = os.fstat(fd).st_size
    length = seal_length(os.pread(fd, SEAL_END_BYTES, max(0, size - SEAL_END_BYTES)))
    if not length or size - length < SEGMENT_HEADER_BYTES:
        return None
    return unpack_seal(os.pread(fd, length, size - length), header)


class SegmentFiles:
    """Reads records of segments that are known to be whole up to some offset; keeps indexes of some segments."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[str, tuple[SparseIndex, bool]] = OrderedDict()

    def adopt(self, segment: Segment, index: SparseIndex) -> None:
        """Takes the index that the writer keeps of its segment."""
        self._keep(segment, index, complete=True)

    def records(self, segments: Sequence[Segment], start: int, limit: int) -> Iterator[Record]:
        """Records from the one that covers `start` up to `limit`, all of which must be there."""
        first = max(0, bisect_right(segments, start, key=lambda segment: segment.base) - 1)
        for segment, after in zip_longest(segments[first:], segments[first + 1 :]):
            if segment.base >= limit:
                return
            until = limit if after is None else min(limit, after.base)
            try:
                fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    yield from self._segment_records(fd, segment, start, until)
                finally:
                    os.close(fd)
            except OSError as error:
                raise _unreadable(error, segment.path) from error

    def _segment_records(self, fd: int, segment: Segment, start: int, until: int) -> Iterator[Record]:
        header = read_header(fd, segment)
        index, complete = self._index(fd, segment, header)
        offset, at = index.floor(start)
        place, size = Place(0, offset), _FIRST_READ
        while place.offset < until:
            wanted = max(size, place.need)
            buffer = os.pread(fd, wanted, at)
            place.position = 0
            found: list[Record] = []
            stop = parse(buffer, place, start=start, until=until, header=header, into=found)
            yield from found
            at += place.position
            if stop is Stop.BAD:
                raise corrupt(segment.path, at, f"The record with offset {place.offset} is not what was written")
            if stop is Stop.SHORT and len(buffer) < wanted and not place.position:
                raise corrupt(segment.path, at, f"The record with offset {place.offset} is missing, the file ends")
            if not complete:
                index.note(place.offset, at)
            size = min(size * 4, _MOST_READ)

    def _index(self, fd: int, segment: Segment, header: SegmentHeader) -> tuple[SparseIndex, bool]:
        index, complete = self._indexes.get(segment.path.name, (SparseIndex(segment.base), False))
        if not complete:
            seal = read_seal(fd, header)
            index, complete = (seal.index, True) if seal else (index, False)
        self._keep(segment, index, complete)
        return index, complete

    def _keep(self, segment: Segment, index: SparseIndex, complete: bool) -> None:
        self._indexes[segment.path.name] = (index, complete)
        self._indexes.move_to_end(segment.path.name)
        if len(self._indexes) > _INDEXES:
            self._indexes.popitem(last=False)


class SegmentReader:
    """A LogReader on the log in `directory`, beside its writer. Sees what was acknowledged (`sync`), nothing else.

    Raises NotFound when the directory is not there. One thread at a time.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._boot = boot_id()
        self._files = SegmentFiles()
        self._segments: list[Segment] = []
        self._listed_for = -1

    @property
    def next_offset(self) -> int:
        for _ in range(_LOOKS):
            if not self._segments:
                self._segments = list_segments(self._directory)
            if not self._segments:
                return 0
            try:
                mark = read_mark(self._directory)
                if mark is not None and mark.trusted(_header_of(self._segments[0]).log_id, self._boot):
                    return mark.acknowledged
                return self._scan()
            except FileNotFoundError:  # an empty segment, removed by the next open
                self._segments = []
            except OSError as error:
                raise _unreadable(error, self._directory) from error
        raise self._restless()

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        if start < 0:
            raise InvalidInput(f"Offset {start} is below 0.", code="BAD_OFFSET")
        limit = self.next_offset
        if limit > self._listed_for:  # segments only come: the list holds all up to that offset
            self._segments = list_segments(self._directory)
            self._listed_for = limit
        return self._files.records(self._segments, start, limit if end is None else min(end, limit))

    def sync(self) -> int:
        """Puts on the disk what was acknowledged when this is called, whatever the log's durability; returns the
        offset after it. Whoever makes something durable of records reads no further, or a power cut leaves more of
        that than of the log.

        Only the last segment can be in memory: those before it were sealed, on the disk, when it got its name.
        """
        end = self.next_offset
        for _ in range(_LOOKS):
            segments = list_segments(self._directory)
            if not segments:
                return end
            try:
                fd = os.open(segments[-1].path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # an empty segment, removed by the next open
                continue
            except OSError as error:
                raise _unreadable(error, segments[-1].path) from error
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise _unreadable(error, segments[-1].path) from error
            finally:
                os.close(fd)
            return end
        raise self._restless()

    def _restless(self) -> Unavailable:
        return Unavailable("The log's segments change all the time.", code="LOG_FAILED", where=str(self._directory))

    def _scan(self) -> int:
        """The end of the last segment, from its records: no mark can be trusted (a copy, or the machine was down)."""
        segments = list_segments(self._directory)
        if not segments:
            return 0
        segment = segments[-1]
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = read_header(fd, segment)
            seal = read_seal(fd, header)
            if seal is not None:
                return seal.end_offset
            return scan_tail(fd, segment, header, boot=self._boot, acknowledged=0).offset
        finally:
            os.close(fd)


def _header_of(segment: Segment) -> SegmentHeader:
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_header(fd, segment)
    finally:
        os.close(fd)


def _unreadable(error: OSError, path: Path) -> Unavailable:
    return Unavailable(f"The log cannot be read: {error.strerror}.", code="LOG_FAILED", where=str(path))
