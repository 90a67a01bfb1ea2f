"""Opening a log after whatever ended its last writer."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skyriver.adapters.segments.layout import (
    SEGMENT_HEADER_BYTES,
    Segment,
    SegmentHeader,
    corrupt,
    pack_seal,
    segment_of,
)
from skyriver.adapters.segments.manifest import NAME as MANIFEST
from skyriver.adapters.segments.manifest import read_manifest
from skyriver.adapters.segments.mark import read_mark
from skyriver.adapters.segments.reader import list_segments, read_header, read_seal
from skyriver.adapters.segments.tail import Tail, scan_tail

_LOG_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class TornTail:
    """Bytes that were cut off the end of a log, for they held no whole record; never acknowledged ones."""

    path: Path
    position: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """`segments` hold the log up to `next_offset`, all sealed; `empty` ones are to be removed once the new segment,
    of `epoch`, is there."""

    segments: tuple[Segment, ...]
    empty: tuple[Segment, ...]
    next_offset: int
    epoch: int
    log_id: bytes
    torn: TornTail | None


def recover(directory: Path, *, boot: bytes, read_disk: bool) -> Recovered:
    """Under the lock: checks the last segment, cuts its torn tail, seals it.

    `read_disk`: what the disk has counts, not what the cache has. Raises Corrupt for bit rot, OSError.
    """
    for leftover in directory.glob("*.new"):
        leftover.unlink(missing_ok=True)
    files = sorted(filter(None, map(segment_of, directory.iterdir())), key=lambda segment: segment.path.name)
    segments = list_segments(directory)
    if not segments and not read_manifest(directory).entries:
        return Recovered((), (), 0, 1, os.urandom(_LOG_ID_BYTES), None)
    if not segments or segments[-1] not in files:  # the last one never leaves this disk
        raise corrupt(directory / MANIFEST, 0, "The log's last segment, which follows those named here, is missing")
    last = segments[-1]
    fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        header = read_header(fd, last)
        torn, next_offset = _close_segment(fd, last, header, directory, boot, read_disk)
        is_empty = next_offset == last.base
    finally:
        os.close(fd)
    kept = tuple(segments[:-1]) if is_empty else tuple(segments)
    # Also what was given up by a writer that did not live to remove it.
    empty = tuple(segment for segment in files if segment not in kept)
    return Recovered(kept, empty, next_offset, files[-1].epoch + 1, header.log_id, torn)


def _close_segment(
    fd: int, segment: Segment, header: SegmentHeader, directory: Path, boot: bytes, read_disk: bool
) -> tuple[TornTail | None, int]:
    """Leaves the segment sealed (or without a record); returns what was cut and the log's next offset."""
    if read_disk:
        os.fdatasync(fd)
        with suppress(OSError):  # not every file system can drop its pages
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    mark = read_mark(directory)
    acknowledged = mark.acknowledged if mark is not None and mark.trusted(header.log_id, boot) else 0
    seal = read_seal(fd, header)
    if seal is not None:
        if seal.end_offset < acknowledged:
            raise corrupt(
                segment.path, os.fstat(fd).st_size, f"Offsets {seal.end_offset} to {acknowledged - 1} are gone"
            )
        return None, seal.end_offset
    tail = scan_tail(fd, segment, header, boot=boot, acknowledged=acknowledged)
    if tail.torn:
        os.ftruncate(fd, tail.position)
    os.fdatasync(fd)
    if tail.position > SEGMENT_HEADER_BYTES:
        _seal(fd, tail, header)
    return (TornTail(segment.path, tail.position, tail.torn) if tail.torn else None), tail.offset


def _seal(fd: int, tail: Tail, header: SegmentHeader) -> None:
    seal = pack_seal(tail.index, tail.time, tail.offset, header.epoch, header.seed)
    try:
        if os.pwrite(fd, seal, tail.position) != len(seal):
            raise OSError("the seal was not written whole")
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, tail.position)
        raise
