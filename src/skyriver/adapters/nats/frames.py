"""How records stand in messages of NATS.

A message holds whole records, one after the other, or one part of a record that is too large for a message. Its headers
say what it is, so that a place can be found without its content:

    Skyriver-Log: FORMAT EPOCH OFFSET COUNT PART PARTS CHECKSUM

OFFSET is that of its first record, COUNT how many offsets it covers (a part: its record's), CHECKSUM the CRC-32 of the
content and of what stands before it in the header. A message with COUNT 0 opens an epoch: its content names the holder.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skyriver.core.errors import Corrupt
from skyriver.data.log import Record, RecordKind

HEADER = "Skyriver-Log"
FORMAT = 1
FRAME = struct.Struct("<BqIQI")
"""Kind, time, count, key id, length of the payload that follows."""


@dataclass(frozen=True, slots=True)
class Head:
    epoch: int
    offset: int
    count: int
    part: int = 0
    parts: int = 1

    @property
    def end(self) -> int:
        """The offset after it; a part but the last has none of its own."""
        return self.offset + (self.count if self.part == self.parts - 1 else 0)

    def written(self, content: bytes) -> str:
        words = f"{FORMAT} {self.epoch} {self.offset} {self.count} {self.part} {self.parts}"
        return f"{words} {_checksum(words, content)}"


def _checksum(words: str, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(words.encode()))


def read_head(text: str, content: bytes, where: str) -> Head:
    """Raises Corrupt where header and content are not what was written."""
    words, _, checksum = text.rpartition(" ")
    try:
        version, *numbers = map(int, words.split(" "))
        found = int(checksum)
    except ValueError:
        version, numbers, found = 0, [], -1
    if found != _checksum(words, content) or len(numbers) != 5:
        raise Corrupt("A message of the log is not what was written.", where=where)
    if version != FORMAT:
        raise Corrupt(f"A message of the log has the format {version}, not {FORMAT}.", where=where)
    return Head(*numbers)


def messages_of(records: Sequence[Record], epoch: int, limit: int) -> Iterator[tuple[Head, bytes]]:
    """Placed records as messages of at most `limit` bytes."""
    pieces: list[bytes] = []
    size, first, count = 0, 0, 0
    for record in records:
        frame = FRAME.pack(record.kind, record.time, record.count, record.key_id, len(record.payload)) + record.payload
        if pieces and size + len(frame) > limit:
            yield Head(epoch, first, count), b"".join(pieces)
            pieces, size = [], 0
        if not pieces:
            first, count = record.offset, 0
        if len(frame) > limit:
            parts = -(-len(frame) // limit)
            for part in range(parts):
                yield Head(epoch, record.offset, record.count, part, parts), frame[part * limit : (part + 1) * limit]
            continue
        pieces.append(frame)
        size += len(frame)
        count += record.count
    if pieces:
        yield Head(epoch, first, count), b"".join(pieces)


def records_of(head: Head, content: bytes, where: str) -> Iterator[Record]:
    """Of a whole message, or of a record's parts put together. Raises Corrupt."""
    offset, at = head.offset, 0
    try:
        while at < len(content):
            kind, time, count, key_id, length = FRAME.unpack_from(content, at)
            at += FRAME.size
            if at + length > len(content):
                raise ValueError(length)
            yield Record(RecordKind(kind), time, content[at : at + length], count, key_id, offset, head.epoch)
            at += length
            offset += count
    except (struct.error, ValueError) as error:
        raise Corrupt("A message of the log holds no records.", where=where) from error
    if offset != head.offset + head.count:
        raise Corrupt("A message of the log holds other records than it says.", where=where)
