"""Reading a segment log, from any process, while the writer goes on."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, zip_longest
from operator import attrgetter
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
    segment_name,
    segment_of,
    unpack_seal,
    unpack_segment_header,
)
from skyriver.adapters.segments.manifest import UNKNOWN, Manifest, ManifestFile, Tiered
from skyriver.adapters.segments.mark import read_mark
from skyriver.adapters.segments.tail import scan_tail
from skyriver.core.errors import Corrupt, InvalidInput, NotFound, SkyriverError, Unavailable
from skyriver.core.objects import IdentifiedObjects
from skyriver.data.log import Record

_FIRST_READ = 32 << 10
_MOST_READ = 1 << 20
_LOOKS = 5
NO_TIER = "Set SKYRIVER_TIER to that place, and start the cloud again."
OTHER_TIER = (
    "If that is the same place, is its disk mounted? Else set SKYRIVER_TIER as it was, or copy all that is there to the"
    " place that is set; then start the cloud again."
)
_base = attrgetter("base")
_INDEXES = 64
"""Indexes kept in memory: 64 segments, 4 MiB at most."""
_WRITTEN = (0, 0)
"""In place of a file: the segment that is being written, whose index its writer keeps."""


def list_segments(directory: Path) -> list[Segment]:
    """The segments in order, here or in the tier, from the log's beginning on, without those that were left empty.
    Raises NotFound, or Corrupt when some are missing."""
    return list_with_manifest(directory)[0]


def list_with_manifest(directory: Path, file: ManifestFile | None = None) -> tuple[list[Segment], Manifest]:
    try:
        here = [segment for path in directory.iterdir() if (segment := segment_of(path))]
    except FileNotFoundError:
        raise NotFound(
            f"There is no log in {directory}.",
            code="LOG_NOT_FOUND",
            where=str(directory),
            next_action="Name the folder of a stream's log.",
        ) from None
    # After the files: what it says is there before a file of it goes.
    manifest = (file or ManifestFile(directory)).read()
    found = {segment.path.name: segment for segment in here if segment.base >= manifest.begin}
    for tiered in manifest.tiered.values():
        name = segment_name(tiered.base, tiered.epoch)
        found.setdefault(name, Segment(directory / name, tiered.base, tiered.epoch))
    segments = sorted(found.values(), key=lambda segment: (segment.base, segment.epoch))
    _check_order(segments, manifest)
    whole = [segment for segment, after in zip_longest(segments, segments[1:]) if not _is_empty(segment, after)]
    return whole, manifest


def _check_order(segments: Sequence[Segment], manifest: Manifest) -> None:
    """Raises Corrupt where the names alone say that something is missing."""
    if segments and segments[0].base != manifest.begin:
        first = segments[0]
        raise corrupt(first.path, 0, f"The log begins with offset {first.base}, segments are missing")
    for before, after in pairwise(segments):
        if after.epoch < before.epoch:
            raise corrupt(after.path, 0, f"The epoch falls from {before.epoch} to {after.epoch}")
        tiered = manifest.tiered.get(before.base)
        if tiered is not None and after.base not in (tiered.base, tiered.end):
            raise corrupt(after.path, 0, f"Offsets {tiered.end} to {after.base - 1} are missing before it,")


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
    """Reads records of segments that are known to be whole up to some offset, from the tier where they are not here;
    keeps indexes of some segments."""

    def __init__(self, directory: Path, tier: IdentifiedObjects | None = None) -> None:
        self._directory, self._tier = directory, tier
        self.manifest = ManifestFile(directory)
        self._indexes: OrderedDict[str, tuple[SparseIndex, tuple[int, int] | None]] = OrderedDict()
        """With the inode and the size of the file, once it is sealed: a rewritten segment has its name, and another
        index."""

    def adopt(self, segment: Segment, index: SparseIndex) -> None:
        """Takes the index that the writer keeps of its segment, which grows with it. The one before is closed."""
        for name, (closed, sealed) in self._indexes.items():
            if sealed == _WRITTEN:
                self._indexes[name] = closed, None
        self._keep(segment, index, _WRITTEN)

    def whole(self, segment: Segment, end: int) -> tuple[SegmentHeader, Iterator[Record]]:
        """Its header, and all its records, up to (excluding) offset `end`."""
        fd, opened, _ = self._open(segment)
        try:
            header = read_header(fd, opened)
        finally:
            os.close(fd)
        return header, self.records([segment], segment.base, end)

    def records(self, segments: Sequence[Segment], start: int, limit: int) -> Iterator[Record]:
        """Records from the one that covers `start` up to `limit`, all of which must be there."""
        first = max(0, bisect_right(segments, start, key=_base) - 1)
        last = bisect_left(segments, limit, first, key=_base)
        for segment, after in zip_longest(segments[first:last], segments[first + 1 : last]):
            until = limit if after is None else min(limit, after.base)
            try:
                fd, opened, log_id = self._open(segment)
                try:
                    header = read_header(fd, opened)
                    if log_id and header.log_id != log_id:
                        raise corrupt(opened.path, 16, "This segment is of another log")
                    yield from self._segment_records(fd, opened, header, start, until)
                finally:
                    os.close(fd)
            except OSError as error:
                raise _unreadable(error, segment.path) from error

    def _open(self, segment: Segment) -> tuple[int, Segment, bytes]:
        """Its descriptor, with the path that it has there; and the log's id if it came from the tier. Raises NotFound
        (OFFSET_GONE) for what was given up meanwhile."""
        with suppress(FileNotFoundError):
            return os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC), segment, b""
        manifest = self.manifest.read()
        if segment.base < manifest.begin:
            raise offset_gone(segment.base, manifest.begin, self._directory)
        tiered = manifest.tiered.get(segment.base)
        if tiered is None:  # it may not have been in the tier before, and have been removed since by nobody of us
            raise corrupt(segment.path, 0, f"The segment from offset {segment.base} on is missing")
        for _ in range(_LOOKS):
            path = self._fetch(tiered, manifest)
            with suppress(FileNotFoundError):  # others read as well, and the copies that are kept here are limited
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                return fd, replace(segment, path=path), manifest.log_id
        raise Unavailable(
            "Copies of the tier's objects vanish.",
            code="LOG_FAILED",
            where=str(self._directory),
            next_action="Give the disk of the cloud's folder more room, then try again.",
        )

    def _fetch(self, tiered: Tiered, manifest: Manifest) -> Path:
        what = f"Offsets {tiered.base} to {tiered.end - 1} of the log are in the tier {manifest.tier_name(tiered.tier)}"
        unserved = f"nothing from offset {tiered.base} on is served"
        if self._tier is None:
            raise Unavailable(
                f"{what}, and none is set.",
                code="TIER_NOT_SET",
                where=str(self._directory),
                next_action=NO_TIER,
            )
        try:
            return self._tier.open_path(tiered.digest)
        except NotFound as error:
            raise self._missing(tiered, what, unserved, self._tier) from error
        except Corrupt as error:
            raise Corrupt(
                f"{what}, as the object {tiered.digest}, which is not what was written; {unserved}.",
                code="TIER_CORRUPT",
                where=f"{error.where}:0",
                next_action="Restore the object from a backup of the tier.",
            ) from error
        except SkyriverError as error:
            raise type(error)(
                f"{what}. {error.message}", code=error.code, where=error.where, next_action=error.next_action
            ) from error

    def _missing(self, tiered: Tiered, what: str, unserved: str, tier: IdentifiedObjects) -> SkyriverError:
        """Why an object is not there: the setting, or a loss."""
        where, known = f"{tier.place}: {tiered.digest[:2]}/{tiered.digest}", tiered.tier != UNKNOWN
        if known and (set_now := tier.identity()) != tiered.tier:
            return Unavailable(
                f"{what}, and the one that is set is {tier.place} (id {set_now.hex()[:8]}); {unserved}.",
                code="TIER_CHANGED",
                where=tier.place,
                next_action=OTHER_TIER,
            )
        return Corrupt(
            f"{what}, as the object {tiered.digest}, which is missing; {unserved}.",
            code="TIER_CORRUPT",
            where=where,
            next_action="Restore the object from a backup of the tier."
            + ("" if known else " If SKYRIVER_TIER was changed, set it as it was, and start the cloud again."),
        )

    def _segment_records(
        self, fd: int, segment: Segment, header: SegmentHeader, start: int, until: int
    ) -> Iterator[Record]:
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
        """And whether it has all of the segment's pairs."""
        stat = os.fstat(fd)
        file = stat.st_ino, stat.st_size
        index, sealed = self._indexes.get(segment.path.name, (SparseIndex(segment.base), None))
        if sealed not in (file, _WRITTEN):
            seal = read_seal(fd, header)
            if seal is not None:
                index, sealed = seal.index, file
            elif sealed is not None:
                index, sealed = SparseIndex(segment.base), None
        self._keep(segment, index, sealed)
        return index, sealed is not None

    def _keep(self, segment: Segment, index: SparseIndex, sealed: tuple[int, int] | None) -> None:
        self._indexes[segment.path.name] = (index, sealed)
        self._indexes.move_to_end(segment.path.name)
        if len(self._indexes) > _INDEXES:
            self._indexes.popitem(last=False)


class SegmentReader:
    """A LogReader on the log in `directory`, beside its writer. Sees what was acknowledged (`sync`), nothing else.

    `tier`: where segments are that are not here. Raises NotFound when the directory is not there. One thread at a
    time.
    """

    def __init__(self, directory: Path, tier: IdentifiedObjects | None = None) -> None:
        self._directory = directory
        self._boot = boot_id()
        self._files = SegmentFiles(directory, tier)
        self._segments: list[Segment] = []
        self._begin = 0
        self._listed_for = -1

    @property
    def first_offset(self) -> int:
        """The offset from which on all is there."""
        return self.begin()[0]

    def begin(self) -> tuple[int, int]:
        """The first offset, and T of the last record that was given up before it (0: none was)."""
        try:
            manifest = self._files.manifest.read()
        except OSError as error:
            raise _unreadable(error, self._directory) from error
        return manifest.begin, manifest.begin_time

    @property
    def next_offset(self) -> int:
        for _ in range(_LOOKS):
            if not self._segments:
                self._segments = list_segments(self._directory)
            if not self._segments:
                return 0
            try:
                mark = read_mark(self._directory)
                if mark is not None and mark.trusted(_header_of(self._segments[-1]).log_id, self._boot):
                    return mark.acknowledged
                return self._scan()
            except FileNotFoundError:  # an empty segment, removed by the next open; or it is in the tier since
                self._segments, self._listed_for = [], -1
            except OSError as error:
                raise _unreadable(error, self._directory) from error
        raise self._restless()

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        if start < 0:
            raise InvalidInput(f"Offset {start} is below 0.", code="BAD_OFFSET", next_action="Read from offset 0 on.")
        limit = self.next_offset
        if limit > self._listed_for:  # segments come at the end: the list holds all up to that offset
            self._segments, manifest = list_with_manifest(self._directory, self._files.manifest)
            self._begin, self._listed_for = manifest.begin, limit
        if start < self._begin:
            raise offset_gone(start, self._begin, self._directory)
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
        return Unavailable(
            "The log's segments change all the time.",
            code="LOG_FAILED",
            where=str(self._directory),
            next_action="Try again.",
        )

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


def offset_gone(offset: int, first: int, directory: Path) -> NotFound:
    return NotFound(
        f"Offset {offset} of the log is gone: it was given up after the stream's retention. The first that is there is"
        f" {first}.",
        code="OFFSET_GONE",
        where=str(directory),
        next_action=f"Read from offset {first} on; what was before it is in the stream's tables.",
    )


def _header_of(segment: Segment) -> SegmentHeader:
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_header(fd, segment)
    finally:
        os.close(fd)


def _unreadable(error: OSError, path: Path) -> Unavailable:
    return Unavailable(
        f"The log cannot be read: {error.strerror}.",
        code="LOG_FAILED",
        where=str(path),
        next_action="Check the owner and mode of its folder, and the disk that it is on.",
    )
