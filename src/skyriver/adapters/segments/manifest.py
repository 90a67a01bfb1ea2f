"""The manifest: where a log begins, and which of its segments are in the tier.

    DIR/manifest    entries of 96 bytes, only ever added at the end; rewritten, atomically, when a writer opens the log

      0  u32    CRC-32 of the 92 bytes after it, started with the number of the entry
      4  u32    kind: 0 the log's own (the first entry), 1 TIERED, 2 BEGIN
      8  u64    base     TIERED: first offset of a segment; BEGIN: the log's first offset
     16  u64    end      the offset after its last one
     24  i64    time     T of the segment's last record; BEGIN: of the last record that was given up
     32  u64    bytes    of the segment
     40  u32    epoch    of the segment
     44  u32    format, 1
     48  32     TIERED: SHA-256 of the segment, its name in the tier; of the first entry: the log's id and zeros
     80  16     nothing

An entry counts once it is on the disk, and only then is done what it says: the segment's local file is removed, or
what lies before the beginning is. So a log whose writer was killed has everything twice at worst. A log without a
manifest begins at 0 and has no tier. A last entry that is not whole was never acted upon, unless it rotted: then
what it said is missed as a segment that is not there, which is told.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from skyriver.adapters.folders import replace_file, sync_folder
from skyriver.adapters.segments.layout import CRC, corrupt
from skyriver.core.errors import Corrupt

NAME = "manifest"
ENTRY_BYTES = 96
_BODY = struct.Struct("<IQQqQII32s16x")
_OWN, _TIERED, _BEGIN = 0, 1, 2
_FORMAT = 1
_NONE = bytes(32)
_COMPACT = 64
"""Entries that are of no use any more, before the file is rewritten."""


@dataclass(frozen=True, slots=True)
class Tiered:
    base: int
    end: int
    time: int
    bytes: int
    epoch: int
    digest: str


@dataclass(slots=True)
class Manifest:
    """`begin` is the log's first offset, `begin_time` T of the record before it; `tiered` the segments by their base;
    `doomed` are those before the beginning, whose objects may still be there."""

    log_id: bytes = b""
    begin: int = 0
    begin_time: int = 0
    tiered: dict[int, Tiered] = field(default_factory=dict)
    doomed: list[Tiered] = field(default_factory=list)
    entries: int = 0

    def begins(self, offset: int, time: int) -> None:
        self.begin, self.begin_time = offset, time
        while self.tiered and (first := next(iter(self.tiered))) < offset:
            self.doomed.append(self.tiered.pop(first))


def read_manifest(directory: Path) -> Manifest:
    """What the manifest says; where there is none, that the log is whole and here. Raises Corrupt, OSError."""
    path = directory / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Manifest()
    manifest = Manifest()
    for number in range(len(data) // ENTRY_BYTES):
        entry = data[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES]
        if CRC.unpack_from(entry)[0] != crc32(entry[CRC.size :], number):
            if number and (number + 1) * ENTRY_BYTES >= len(data) - len(data) % ENTRY_BYTES:
                return manifest  # the last one: it was being written
            raise _damaged(path, number)
        _take(manifest, entry, path, number)
        manifest.entries = number + 1
    if not manifest.entries:
        raise _damaged(path, 0)
    return manifest


def _take(manifest: Manifest, entry: bytes, path: Path, number: int) -> None:
    kind, base, end, time, size, epoch, version, digest = _BODY.unpack_from(entry, CRC.size)
    if version != _FORMAT or (kind == _OWN) != (number == 0):
        raise _damaged(path, number)
    if kind == _OWN:
        manifest.log_id = digest[:16]
    elif kind == _TIERED:
        manifest.tiered[base] = Tiered(base, end, time, size, epoch, digest.hex())
    elif kind == _BEGIN:
        manifest.begins(base, time)
    else:
        raise _damaged(path, number)


def _damaged(path: Path, number: int) -> Corrupt:
    return corrupt(path, number * ENTRY_BYTES, "The manifest of the log is not what was written")


class ManifestWriter:
    """The writer's hand on it. One thread at a time. Raises OSError; nothing has changed then."""

    def __init__(self, directory: Path, log_id: bytes) -> None:
        """Raises Corrupt for a manifest of another log too."""
        self._directory, self._path = directory, directory / NAME
        self.manifest = read_manifest(directory)
        if self.manifest.entries and self.manifest.log_id != log_id:
            raise corrupt(self._path, 48, "This manifest is of another log")
        self.manifest.log_id = log_id
        live = 1 + len(self.manifest.tiered) + len(self.manifest.doomed)
        size = self._path.stat().st_size if self.manifest.entries else 0
        if self.manifest.entries > live + _COMPACT or size != self.manifest.entries * ENTRY_BYTES:
            self._rewrite()

    def add_tiered(self, tiered: Tiered) -> None:
        self._append(_pack_tiered(tiered))
        self.manifest.tiered[tiered.base] = tiered

    def begin_at(self, offset: int, time: int) -> None:
        self._append(_BODY.pack(_BEGIN, offset, offset, time, 0, 0, _FORMAT, _NONE))
        self.manifest.begins(offset, time)

    def _append(self, body: bytes) -> None:
        if not self.manifest.entries:
            self._rewrite()
        at = self.manifest.entries * ENTRY_BYTES
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                if os.pwrite(fd, _sealed(body, self.manifest.entries), at) != ENTRY_BYTES:
                    raise OSError("the manifest's entry was not written whole")
                os.fdatasync(fd)
            except OSError:
                os.ftruncate(fd, at)
                raise
        finally:
            os.close(fd)
        self.manifest.entries += 1

    def _rewrite(self) -> None:
        manifest = self.manifest
        bodies = [_BODY.pack(_OWN, 0, 0, 0, 0, 0, _FORMAT, manifest.log_id.ljust(32, b"\0"))]
        bodies += [_pack_tiered(tiered) for tiered in manifest.doomed]
        if manifest.begin:
            bodies.append(_BODY.pack(_BEGIN, manifest.begin, manifest.begin, manifest.begin_time, 0, 0, _FORMAT, _NONE))
        bodies += [_pack_tiered(tiered) for tiered in manifest.tiered.values()]
        replace_file(self._path, b"".join(_sealed(body, number) for number, body in enumerate(bodies)))
        sync_folder(self._directory)
        manifest.entries = len(bodies)


def _pack_tiered(tiered: Tiered) -> bytes:
    digest = bytes.fromhex(tiered.digest)
    return _BODY.pack(
        _TIERED, tiered.base, tiered.end, tiered.time, tiered.bytes, tiered.epoch, _FORMAT, digest
    )  # fmt: skip


def _sealed(body: bytes, number: int) -> bytes:
    return CRC.pack(crc32(body, number)) + body
