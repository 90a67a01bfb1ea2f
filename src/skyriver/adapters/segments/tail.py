"""The end of a segment without a seal: where its last whole record ends, and what lies behind it (layout.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from skyriver.adapters.segments.layout import (
    FRAME,
    FRAME_HEADER_BYTES,
    MARKER,
    MARKER_AT,
    MAX_PAYLOAD,
    SEGMENT_HEADER_BYTES,
    Place,
    Segment,
    SegmentHeader,
    SparseIndex,
    Stop,
    corrupt,
    parse,
    unpack_seal,
    whole_frame,
)
from skyriver.data.log import Record

_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Tail:
    """`position` and `offset` are those of the next record; `torn` bytes behind it are no record; `time` is the last
    record's T (0: there is none)."""

    position: int
    offset: int
    time: int
    torn: int
    index: SparseIndex


def scan_tail(fd: int, segment: Segment, header: SegmentHeader, *, boot: bytes, acknowledged: int) -> Tail:
    """Checks every record of the segment.

    `boot` is the machine's boot id now, `acknowledged` the offset that a trusted mark gives (0: none). Raises Corrupt
    for bit rot by the three rules of layout.py.
    """
    index, time, at, size = SparseIndex(segment.base), 0, SEGMENT_HEADER_BYTES, os.fstat(fd).st_size
    place = Place(0, segment.base)
    while at < size:
        wanted = max(_READ, place.need)
        buffer = os.pread(fd, wanted, at)
        place.position = 0
        found: list[Record] = []
        stop = parse(buffer, place, start=0, until=1 << 64, header=header, into=found)
        position = at
        for record in found:
            index.note(record.offset, position)
            position += FRAME_HEADER_BYTES + len(record.payload)
        time = found[-1].time if found else time
        at += place.position
        if stop is Stop.BAD or (not place.position and len(buffer) < wanted):
            break
    what = f"The record with offset {place.offset} is not what was written"
    if place.offset < acknowledged:
        raise corrupt(segment.path, at, what)
    for later, on_disk in _frames_after(fd, _after_seal(fd, at, header) or at + 1, size, header):
        if header.boot == boot or on_disk > at:
            raise corrupt(segment.path, at, f"{what}, yet whole records lie behind it (byte {later})")
    return Tail(at, place.offset, time, size - at, index)


def _after_seal(fd: int, at: int, header: SegmentHeader) -> int | None:
    """The end of a whole seal at `at`: it is no record, and no reason to mistrust what is before it."""
    head = os.pread(fd, FRAME_HEADER_BYTES, at)
    if len(head) < FRAME_HEADER_BYTES:
        return None
    length = FRAME_HEADER_BYTES + min(FRAME.unpack(head)[1], MAX_PAYLOAD)
    return at + length if unpack_seal(os.pread(fd, length, at), header) else None


def _frames_after(fd: int, at: int, size: int, header: SegmentHeader) -> Iterator[tuple[int, int]]:
    """Whole frames that begin at or after `at`: (position, up to where the segment was on disk when it was made)."""
    while at < size:
        buffer = os.pread(fd, _READ, at)
        if not buffer:
            return
        found = buffer.find(MARKER, MARKER_AT)
        while found >= 0:
            begin = at + found - MARKER_AT
            frame = _frame_at(fd, begin, size, header)
            if frame is not None:
                back = FRAME.unpack_from(frame)[7]
                yield begin, begin - back
                at = begin + len(frame)
                break
            found = buffer.find(MARKER, found + 1)
        else:
            at += max(1, len(buffer) - FRAME_HEADER_BYTES + 1)


def _frame_at(fd: int, begin: int, size: int, header: SegmentHeader) -> bytes | None:
    head = os.pread(fd, FRAME_HEADER_BYTES, begin)
    if len(head) < FRAME_HEADER_BYTES:
        return None
    length, epoch = FRAME.unpack(head)[1], FRAME.unpack(head)[5]
    if epoch != header.epoch or length > min(MAX_PAYLOAD, size - begin - FRAME_HEADER_BYTES):
        return None
    frame = os.pread(fd, FRAME_HEADER_BYTES + length, begin)
    return frame if whole_frame(frame, header) else None
