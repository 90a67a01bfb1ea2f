"""The mark: one small file in which the writer says which epoch may write, and what it has acknowledged.

    0  magic 8 "SKYRMARK" | log id 16 | boot id 16 | u32 epoch | u32 durability | u32 CRC-32 of the 48 bytes before,
       4 bytes nothing | u64 acknowledged | u64 acknowledged

The acknowledged offset (the one after the last record that `sync` answered for) is written after each sync, in one
small write, twice: of two that differ the smaller counts, so it is never too high. It is not synced itself: after
the end of the power it may be older than the log, at durability "process" also newer; see `Mark.trusted`.
A writer reads the epoch before each write: one that finds another than its own has lost the log.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from skyriver.adapters.segments.layout import DURABILITY_CODE

NAME = "mark"
_STATIC = struct.Struct("<8s16s16sII")
_CRC = struct.Struct("<I4x")
_PAIR = struct.Struct("<QQ")
_EPOCH = struct.Struct("<I")
_EPOCH_AT = 40
_PAIR_AT = _STATIC.size + _CRC.size
_BYTES = _PAIR_AT + _PAIR.size
_MAGIC = b"SKYRMARK"


@dataclass(frozen=True, slots=True)
class Mark:
    log_id: bytes
    boot: bytes
    epoch: int
    durability: int
    acknowledged: int

    def trusted(self, log_id: bytes, boot: bytes) -> bool:
        """Whether the log has at least what the mark says was acknowledged, whatever happened since."""
        return self.log_id == log_id and (self.durability == DURABILITY_CODE["disk"] or self.boot == boot)


def read_mark(directory: Path) -> Mark | None:
    """None if there is no mark, or none that is whole."""
    try:
        data = (directory / NAME).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _BYTES or _CRC.unpack_from(data, _STATIC.size)[0] != crc32(data[: _STATIC.size]):
        return None
    magic, log_id, boot, epoch, durability = _STATIC.unpack_from(data)
    if magic != _MAGIC:
        return None
    return Mark(log_id, boot, epoch, durability, min(_PAIR.unpack_from(data, _PAIR_AT)))


class MarkWriter:
    """The writer's hand on the mark."""

    def __init__(self, directory: Path, mark: Mark) -> None:
        """Replaces the mark's content, durably; raises OSError."""
        self._epoch = _EPOCH.pack(mark.epoch)
        self._fd = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            body = _STATIC.pack(_MAGIC, mark.log_id, mark.boot, mark.epoch, mark.durability)
            pair = _PAIR.pack(mark.acknowledged, mark.acknowledged)
            os.pwrite(self._fd, body + _CRC.pack(crc32(body)) + pair, 0)
            os.fdatasync(self._fd)
        except OSError:
            os.close(self._fd)
            raise

    def is_ours(self) -> bool:
        """Whether no newer epoch has been opened."""
        return os.pread(self._fd, _EPOCH.size, _EPOCH_AT) == self._epoch

    def acknowledge(self, offset: int) -> None:
        # The records are safe already. A mark that stays behind makes readers see less, nothing worse.
        with suppress(OSError):
            os.pwrite(self._fd, _PAIR.pack(offset, offset), _PAIR_AT)

    def close(self) -> None:
        os.close(self._fd)
