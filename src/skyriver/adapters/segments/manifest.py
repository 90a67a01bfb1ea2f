"""The manifest: where a log begins, and which of its segments are in which tier.

    DIR/manifest    entries of 96 bytes, only ever added at the end; rewritten, atomically, once most are of no use

      0  u32    CRC-32 of the 92 bytes after it, started with the number of the entry
      4  u32    kind: 0 the log's own (the first entry), 1 TIERED, 2 BEGIN, 3 DELETED, 4 PLACE
      8  u64    base     TIERED: first offset of a segment; BEGIN: the log's first offset
     16  u64    end      the offset after its last one
     24  i64    time     T of the segment's last record; BEGIN: of the last record that was given up
     32  u64    bytes    of the segment
     40  u32    epoch    of the segment
     44  u32    format, 1
     48  32     TIERED: SHA-256 of the segment, its name in the tier; of the first entry: the log's id and zeros
     80  16     TIERED: the tier's id; zeros in a manifest that was written before tiers had one

DELETED repeats the TIERED whose object is no longer there. PLACE is how a tier is called: its id at 80, and from 8 on,
without what is at 44, up to 68 bytes of text.

An entry counts once it is on the disk, and only then is done what it says: the segment's local file is removed, or
what lies before the beginning is. (DELETED says what has been done: to delete twice is no harm.) So a log whose writer
was killed has everything twice at worst. A log without a manifest begins at 0 and has no tier. A last entry that is not
whole was never acted upon, unless it rotted: then what it said is missed as a segment that is not there, which is told.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from skyriver.adapters.segments.layout import CRC, corrupt
from skyriver.core.errors import Corrupt
from skyriver.core.objects import IDENTITY_BYTES
from skyriver.data.folders import replace_file

NAME = "manifest"
ENTRY_BYTES = 96
Id = bytes
UNKNOWN: Id = bytes(IDENTITY_BYTES)
"""The tier of a segment that went there before tiers had an id."""
_BODY = struct.Struct("<IQQqQII32s16s")
_PLACE_BODY = struct.Struct("<I36sI32s16s")
_OWN, _TIERED, _BEGIN, _DELETED, _PLACE = 0, 1, 2, 3, 4
_FORMAT = 1
_NONE = bytes(32)
_COMPACT = 64
"""Entries that are of no use any more, beyond as many as are of use, before the file is rewritten."""


@dataclass(frozen=True, slots=True)
class Tiered:
    base: int
    end: int
    time: int
    bytes: int
    epoch: int
    digest: str
    tier: Id = UNKNOWN

    @property
    def object(self) -> tuple[str, Id]:
        """Which, and where."""
        return self.digest, self.tier


@dataclass(slots=True)
class Manifest:
    """`begin` is the log's first offset, `begin_time` T of the record before it; `tiered` the segments by their base,
    each in the tier to which it went last; `places` how tiers are called, by their ids."""

    log_id: bytes = b""
    begin: int = 0
    begin_time: int = 0
    tiered: dict[int, Tiered] = field(default_factory=dict)
    leftover: dict[tuple[str, bytes], Tiered] = field(default_factory=dict)
    """Objects that may be there though nothing needs them: segments before the beginning, and what is in another tier
    by now. The latter stay until their segment is given up: a tier may be copied onto another."""
    places: dict[bytes, str] = field(default_factory=dict)
    tier: bytes = UNKNOWN
    """To which a segment went last."""
    entries: int = 0

    @property
    def live(self) -> int:
        """How many entries are of use."""
        return 2 + len(self.tiered) + len(self.leftover) + len(self.places)

    def tier_name(self, tier: bytes) -> str:
        if tier == UNKNOWN:
            return "that was set when they went there"
        return f"{self.places.get(tier, 'that was set when they went there')} (id {tier.hex()[:8]})"

    def begins(self, offset: int, time: int) -> None:
        self.begin, self.begin_time = offset, time
        while self.tiered and (first := next(iter(self.tiered))) < offset:
            gone = self.tiered.pop(first)
            self.leftover[gone.object] = gone

    def has(self, tiered: Tiered) -> None:
        before = self.tiered.get(tiered.base)
        if before is not None and (before.tier != UNKNOWN or before.digest != tiered.digest):
            self.leftover[before.object] = before
        self.leftover.pop(tiered.object, None)
        self.tiered[tiered.base] = tiered
        self.tier = tiered.tier

    def deletable(self, tier: bytes, most: int) -> list[Tiered]:
        """What can be deleted in that tier. Of what is not known, it is tried."""
        found = (
            old
            for old in self.leftover.values()
            if old.tier in (tier, UNKNOWN) and (old.base < self.begin or self._is_rewritten(old))
        )
        return [old for old, _ in zip(found, range(most), strict=False)]

    def outdated(self) -> list[Tiered]:
        """Objects of segments that were rewritten since."""
        return [old for old in self.leftover.values() if old.base >= self.begin and self._is_rewritten(old)]

    def _is_rewritten(self, old: Tiered) -> bool:
        now = self.tiered.get(old.base)
        return now is not None and now.digest != old.digest


class ManifestFile:
    """Reads the manifest in `directory`, anew only when it has changed. What it gives is not to be changed."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._stamp: tuple[int, int, int] | None = None
        self._manifest = Manifest()

    def read(self) -> Manifest:
        """What it says; where there is none, that the log is whole and here. Raises Corrupt, OSError."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Manifest()
        with os.fdopen(fd, "rb") as file:
            stat = os.fstat(fd)
            # The time too: an entry that was not written whole is cut off, and the next one has its size.
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if stamp != self._stamp:
                self._manifest = _parse(file.read(), self._path)
                self._stamp = stamp
        return self._manifest


def read_manifest(directory: Path) -> Manifest:
    """As `ManifestFile`, once."""
    return ManifestFile(directory).read()


def _parse(data: bytes, path: Path) -> Manifest:
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
    kind, base, end, time, size, epoch, version, digest, tier = _BODY.unpack_from(entry, CRC.size)
    if version != _FORMAT or (kind == _OWN) != (number == 0):
        raise _damaged(path, number)
    if kind == _OWN:
        manifest.log_id = digest[:16]
    elif kind == _TIERED:
        manifest.has(Tiered(base, end, time, size, epoch, digest.hex(), tier))
    elif kind == _BEGIN:
        manifest.begins(base, time)
    elif kind == _DELETED:
        manifest.leftover.pop((digest.hex(), tier), None)
    elif kind == _PLACE:
        _, head, _, rest, _ = _PLACE_BODY.unpack_from(entry, CRC.size)
        manifest.places[tier] = (head + rest).rstrip(b"\0").decode(errors="ignore")
    else:
        raise _damaged(path, number)


def _damaged(path: Path, number: int) -> Corrupt:
    return corrupt(path, number * ENTRY_BYTES, "The manifest of the log is not what was written")


class ManifestWriter:
    """The writer's hand on it. One thread at a time. Raises OSError; nothing has changed then."""

    def __init__(self, directory: Path, log_id: bytes) -> None:
        """Raises Corrupt for a manifest of another log too."""
        self._path = directory / NAME
        self.manifest = read_manifest(directory)
        if self.manifest.entries and self.manifest.log_id != log_id:
            raise corrupt(self._path, 48, "This manifest is of another log")
        self.manifest.log_id = log_id
        size = self._path.stat().st_size if self.manifest.entries else 0
        if self.manifest.entries > self.manifest.live + _COMPACT or size != self.manifest.entries * ENTRY_BYTES:
            self._rewrite()

    def add_tiered(self, tiered: Tiered, place: str) -> None:
        """`place`: how its tier is called."""
        name = _cut(place)
        if self.manifest.places.get(tiered.tier) != name:
            self._append(_pack_place(tiered.tier, name))
            self.manifest.places[tiered.tier] = name
        self._append(_pack_tiered(tiered))
        self.manifest.has(tiered)
        self._compact()

    def begin_at(self, offset: int, time: int) -> None:
        self._append(_pack_begin(offset, time))
        self.manifest.begins(offset, time)
        self._compact()

    def deleted(self, old: Tiered) -> None:
        """Its object is not there any more."""
        self._append(_pack_tiered(old, _DELETED))
        del self.manifest.leftover[old.object]
        self._compact()

    def _append(self, body: bytes) -> None:
        """One at a time: only the last entry may be torn by the end of the power."""
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

    def _compact(self) -> None:
        if self.manifest.entries > 2 * self.manifest.live + _COMPACT:
            with suppress(OSError):  # what was added stands; it is tried again with the next entry
                self._rewrite()

    def _rewrite(self) -> None:
        bodies = [_BODY.pack(_OWN, 0, 0, 0, 0, 0, _FORMAT, self.manifest.log_id.ljust(32, b"\0"), UNKNOWN)]
        bodies += _entries(self.manifest)
        try:
            replace_file(self._path, b"".join(_sealed(body, number) for number, body in enumerate(bodies)))
        except OSError:  # the old one or the new one, which say the same
            with suppress(FileNotFoundError):
                self.manifest.entries = self._path.stat().st_size // ENTRY_BYTES
            raise
        self.manifest.entries = len(bodies)


def _entries(manifest: Manifest) -> Iterator[bytes]:
    """What it takes to say it all again."""
    for tier, place in manifest.places.items():
        yield _pack_place(tier, place)
    gone = [old for old in manifest.leftover.values() if old.base < manifest.begin]
    yield from map(_pack_tiered, sorted(gone, key=lambda old: old.base))
    if manifest.begin:
        yield _pack_begin(manifest.begin, manifest.begin_time)
    elsewhere = [old for old in manifest.leftover.values() if old.base >= manifest.begin]
    # A segment's last entry is the one that counts; by their base, as `begins` needs them.
    yield from map(_pack_tiered, sorted([*elsewhere, *manifest.tiered.values()], key=lambda tiered: tiered.base))


def _pack_tiered(tiered: Tiered, kind: int = _TIERED) -> bytes:
    digest = bytes.fromhex(tiered.digest)
    return _BODY.pack(
        kind, tiered.base, tiered.end, tiered.time, tiered.bytes, tiered.epoch, _FORMAT, digest, tiered.tier
    )  # fmt: skip


def _pack_begin(offset: int, time: int) -> bytes:
    return _BODY.pack(_BEGIN, offset, offset, time, 0, 0, _FORMAT, _NONE, UNKNOWN)


def _pack_place(tier: bytes, name: str) -> bytes:
    text = name.encode()
    return _PLACE_BODY.pack(_PLACE, text[:36], _FORMAT, text[36:], tier)


def _cut(place: str) -> str:
    """As it has room in an entry."""
    text = place.encode()
    return place if len(text) <= 68 else text[:65].decode(errors="ignore") + "…"


def _sealed(body: bytes, number: int) -> bytes:
    return CRC.pack(crc32(body, number)) + body
