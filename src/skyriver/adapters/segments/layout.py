"""The bytes of a segment log, and what a reader may conclude from them.

Theory of operation
===================
A log is a directory. All numbers are little endian.

    lock          held with flock by the writer; never removed
    holder.json   who holds it: pid, start time, boot id, token, name
    mark          the fence and the acknowledged offset (mark.py); a help, not a truth: a copy of a log leaves it out
    manifest      where the log begins and which segments are in the tier (manifest.py); none: at 0, and none are
    BASE-EPOCH.log    segments: 20 digits of the first offset, 10 digits of the epoch; sorted by name they are in order

A segment is a header and frames without gaps. Each open of the log raises the epoch and starts a new segment, so all
records of a segment have its epoch, and no two writers ever share a file.

    segment header, 64 bytes
      0  magic  8   "SKYRLOG\\n"
      8  u16    format version, 1
     10  u16    bytes of this header, 64
     12  u32    durability: 1 process, 2 disk
     16  16     log id: random, the same in all segments of a log
     32  16     boot id of the machine that wrote it
     48  u64    base: the offset of the first record
     56  u32    epoch
     60  u32    CRC-32 of the 60 bytes before

    frame: a header of 48 bytes, then the payload
      0  u32    CRC-32 of all that follows in the frame, started with CRC-32(log id)
      4  u32    payload length
      8  u64    offset
     16  i64    T, microseconds
     24  u64    key id (0: the payload is plain)
     32  u32    epoch
     36  u32    count: offsets that the record covers
     40  u32    back: bytes from this frame back to the first byte of the segment that was not known to be on the disk
                when this frame was made
     44  u32    tag: kind in the lowest byte, 0x9D 0xC7 0xE2 above it (what a search for frames looks for)

A record at the wrong place fails, for its offset is under the checksum and offsets are dense; one of another epoch
fails, for its epoch is; one of another log fails, for the checksum starts with the log's id, which no client knows:
nobody can smuggle a frame into a payload.

The seal is a frame of kind 0 and count 0: "everything before me is on the disk". Its payload is the segment's sparse
index, pairs (u64 offset, u64 position), and ends with (u32 payload length, "SEAL"), so it is found from the file's
end. Every segment but the last has one: a segment is sealed when the next one is started, when the log is closed, or
by the next open. So a torn tail can only be in the last segment, and only if it has no seal.

What a bad frame means. Before the last segment: bit rot. In the last one, for a frame at p with offset o:
  1. o is below the mark's acknowledged offset, and the mark can be trusted: bit rot.
  2. Whole frames lie after it. While the machine stays up, what a killed process leaves is a prefix of what it wrote:
     bit rot. After the machine went down, pages may have reached the disk in any order: bit rot if one of those
     frames says (`back`) that p was on the disk when it was made, else the torn tail of a power cut.
  3. None lie after it: the torn tail. It was not acknowledged.
Bit rot raises Corrupt with the file and the byte position; the torn tail is cut by the next writer, which tells how
much it cut. The mark can be trusted if it was made since this boot, or at durability "disk".
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal
from zlib import crc32

from skyriver.core.errors import Corrupt
from skyriver.data.log import Record, RecordKind

Durability = Literal["process", "disk"]

SEGMENT_HEADER_BYTES = 64
FRAME_HEADER_BYTES = 48
MAX_PAYLOAD = 256 << 20
MAX_SEGMENT = 1 << 30
"""Positions and `back` fit in 32 bits with room to spare."""
INDEX_EVERY = 16 << 10
"""Bytes of a segment per entry of its sparse index: a point read skips some hundred small records at most, and the
index of a 64 MiB segment is 64 KiB."""

MAGIC = b"SKYRLOG\n"
VERSION = 1
DURABILITY_CODE: dict[Durability, int] = {"process": 1, "disk": 2}

_SEGMENT = struct.Struct("<8sHHI16s16sQI")
CRC = struct.Struct("<I")
FRAME_BODY = struct.Struct("<IQqQIIII")
FRAME = struct.Struct("<IIQqQIIII")
_SEAL_END = struct.Struct("<I4s")
_SEAL_MAGIC = b"SEAL"

MARKER = b"\x9d\xc7\xe2"
"""The three upper bytes of a tag as they lie in the file, 45 bytes after the frame's start."""
MARKER_AT = 45
_TAG = int.from_bytes(MARKER, "little") << 8
SEAL_TAG = _TAG
TAG_OF_KIND: dict[int, int] = {kind: _TAG | kind for kind in RecordKind}
KIND_OF_TAG: dict[int, RecordKind] = {_TAG | kind: kind for kind in RecordKind}


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file as its name says."""

    path: Path
    base: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    base: int
    epoch: int
    log_id: bytes
    boot: bytes
    durability: int

    @property
    def seed(self) -> int:
        return crc32(self.log_id)

    def pack(self) -> bytes:
        body = _SEGMENT.pack(
            MAGIC,
            VERSION,
            SEGMENT_HEADER_BYTES,
            self.durability,
            self.log_id,
            self.boot,
            self.base,
            self.epoch,
        )
        return body + CRC.pack(crc32(body))


def segment_name(base: int, epoch: int) -> str:
    return f"{base:020d}-{epoch:010d}.log"


def segment_of(path: Path) -> Segment | None:
    """None for a file that is no segment."""
    base, sep, epoch = path.stem.partition("-")
    if path.suffix != ".log" or not sep or not (base.isdigit() and epoch.isdigit()):
        return None
    return Segment(path, int(base), int(epoch))


def corrupt(path: Path, position: int, what: str) -> Corrupt:
    return Corrupt(
        f"{what} at byte {position} of {path.name}; nothing from there on is served.",
        where=f"{path}:{position}",
        next_action="Restore the log from a backup; check the disk.",
    )


def unpack_segment_header(data: bytes, segment: Segment) -> SegmentHeader:
    """Raises Corrupt if these are not the header bytes of the segment that the file's name promises."""
    if len(data) < SEGMENT_HEADER_BYTES:
        raise corrupt(segment.path, len(data), "The segment's header ends")
    body = data[: _SEGMENT.size]
    if CRC.unpack_from(data, _SEGMENT.size)[0] != crc32(body):
        raise corrupt(segment.path, 0, "The segment's header fails its checksum")
    magic, version, size, durability, log_id, boot, base, epoch = _SEGMENT.unpack(body)
    if magic != MAGIC or version != VERSION or size != SEGMENT_HEADER_BYTES:
        raise corrupt(segment.path, 0, f"The segment has format {magic!r} {version}, this release reads {VERSION}")
    if base != segment.base or epoch != segment.epoch:
        raise corrupt(segment.path, 48, f"The segment says that it is base {base}, epoch {epoch}, its name does not")
    return SegmentHeader(base, epoch, log_id, boot, durability)


def pack_frame(tag: int, record: Record, offset: int, epoch: int, back: int, seed: int) -> bytes:
    """One frame whole; the writer's loop does the same without the copies."""
    payload = record.payload
    body = FRAME_BODY.pack(len(payload), offset, record.time, record.key_id, epoch, record.count, back, tag)
    return CRC.pack(crc32(payload, crc32(body, seed))) + body + payload


class SparseIndex:
    """Some (offset, position) pairs of one segment, in order; the first is the segment's first frame."""

    __slots__ = ("_next_position", "offsets", "positions")

    def __init__(self, base: int) -> None:
        self.offsets = array("Q", [base])
        self.positions = array("Q", [SEGMENT_HEADER_BYTES])
        self._next_position = SEGMENT_HEADER_BYTES + INDEX_EVERY

    def note(self, offset: int, position: int) -> None:
        """Takes the pair if it is far enough from the last one; pairs come in order."""
        if position >= self._next_position:
            self.offsets.append(offset)
            self.positions.append(position)
            self._next_position = position + INDEX_EVERY

    def cut(self, position: int) -> None:
        """Forgets all from `position` on."""
        while len(self.positions) > 1 and self.positions[-1] >= position:
            self.offsets.pop()
            self.positions.pop()
        self._next_position = self.positions[-1] + INDEX_EVERY

    def floor(self, offset: int) -> tuple[int, int]:
        """The last pair at or before `offset`."""
        at = max(0, bisect_right(self.offsets, offset) - 1)
        return self.offsets[at], self.positions[at]

    def pack(self) -> bytes:
        flat = [number for pair in zip(self.offsets, self.positions, strict=True) for number in pair]
        return struct.pack(f"<{len(flat)}Q", *flat)

    @classmethod
    def unpack(cls, data: bytes) -> SparseIndex:
        flat = struct.unpack(f"<{len(data) // 8}Q", data)
        index = cls(flat[0])
        index.offsets, index.positions = array("Q", flat[0::2]), array("Q", flat[1::2])
        index._next_position = flat[-1] + INDEX_EVERY
        return index


def pack_seal(index: SparseIndex, time: int, offset: int, epoch: int, seed: int) -> bytes:
    """The seal's frame; its T is that of the segment's last record, its `back` 0."""
    payload = index.pack()
    payload += _SEAL_END.pack(len(payload) + _SEAL_END.size, _SEAL_MAGIC)
    return pack_frame(SEAL_TAG, Record(RecordKind.CONTROL, time, payload, count=0), offset, epoch, 0, seed)


def seal_length(end: bytes) -> int:
    """Bytes of the seal's whole frame, from the last 8 bytes of its file; 0 if there is none."""
    if len(end) != _SEAL_END.size:
        return 0
    length, magic = _SEAL_END.unpack(end)
    return FRAME_HEADER_BYTES + int(length) if magic == _SEAL_MAGIC and length <= MAX_PAYLOAD else 0


SEAL_END_BYTES = _SEAL_END.size


@dataclass(frozen=True, slots=True)
class Seal:
    end_offset: int
    index: SparseIndex
    time: int
    """T of the segment's last record."""


def unpack_seal(frame: bytes, header: SegmentHeader) -> Seal | None:
    """None if these bytes are not a whole seal of that segment."""
    if len(frame) < FRAME_HEADER_BYTES + SEAL_END_BYTES + 16:
        return None
    crc, length, offset, time, _, epoch, count, _, tag = FRAME.unpack_from(frame)
    whole = tag == SEAL_TAG and epoch == header.epoch and count == 0 and len(frame) == FRAME_HEADER_BYTES + length
    if not whole or crc32(memoryview(frame)[4:], header.seed) != crc:
        return None
    return Seal(offset, SparseIndex.unpack(frame[FRAME_HEADER_BYTES:-SEAL_END_BYTES]), time)


class Stop(Enum):
    """Why parsing ended."""

    DONE = "all that was asked for"
    SHORT = "the bytes end within a frame"
    BAD = "no whole record lies here"


@dataclass(slots=True)
class Place:
    """Where parsing stands: `position` in the buffer of the frame that has `offset`. `need` bytes from there hold
    that frame, as far as its header is to be believed."""

    position: int
    offset: int
    need: int = FRAME_HEADER_BYTES


@dataclass(slots=True)
class _Draft:
    """The slots of a Record, not frozen yet: filling these and changing the class takes 0.2 us, a frozen dataclass'
    own __init__ 0.75 us, more than all other work on a small record."""

    kind: RecordKind
    time: int
    payload: bytes
    count: int
    key_id: int
    offset: int
    epoch: int


def parse(
    buffer: bytes, place: Place, *, start: int, until: int, header: SegmentHeader, into: list[Record] | None
) -> Stop:
    """Parses frames from `place`, moving it, up to the record that has offset `until`, or the buffer's end.

    Records that end before `start` are skipped by their headers alone; the others are checked whole, and appended
    to `into`.
    """
    unpack, check, kinds, draft = FRAME.unpack_from, crc32, KIND_OF_TAG, _Draft
    seed, segment_epoch = header.seed, header.epoch
    view, size = memoryview(buffer), len(buffer)
    position, offset = place.position, place.offset
    stop, need = Stop.DONE, FRAME_HEADER_BYTES
    while offset < until:
        body = position + FRAME_HEADER_BYTES
        if body > size:
            stop = Stop.SHORT
            break
        crc, length, found, time, key_id, epoch, count, _, tag = unpack(buffer, position)
        kind = kinds.get(tag)
        if kind is None or found != offset or epoch != segment_epoch or not count or length > MAX_PAYLOAD:
            stop = Stop.BAD
            break
        end = body + length
        if end > size:
            stop, need = Stop.SHORT, end - position
            break
        if offset + count > start:
            if check(view[position + 4 : end], seed) != crc:
                stop = Stop.BAD
                break
            if into is not None:
                record = draft(kind, time, buffer[body:end], count, key_id, offset, epoch)
                record.__class__ = Record  # type: ignore[assignment]
                into.append(record)  # type: ignore[arg-type]
        offset += count
        position = end
    place.position, place.offset, place.need = position, offset, need
    return stop


def whole_frame(frame: bytes, header: SegmentHeader) -> bool:
    """Whether these bytes are one frame of that segment, a seal too, wherever it lies."""
    crc, length, _, _, _, epoch, _, _, tag = FRAME.unpack_from(frame)
    known = tag == SEAL_TAG or tag in KIND_OF_TAG
    whole = known and epoch == header.epoch and len(frame) == FRAME_HEADER_BYTES + length
    return bool(whole and crc32(memoryview(frame)[4:], header.seed) == crc)
