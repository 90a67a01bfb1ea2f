"""The segments of a log that is open for writing: which there are, where they lie, and what goes of them.

The log's own thread adds a segment and reads; one other thread may give segments up and tier them. They share the list,
which is replaced as a whole, under a lock that is held for no wait but that of the manifest's entry.

In this order, so that a kill between two steps leaves nothing that is named and not there:
  tiering    the object is put and read back; the manifest names it; later the local file goes
  giving up  the manifest says where the log begins now; local files before that go, then their objects
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from threading import Lock

from skyriver.adapters.segments.layout import SEGMENT_HEADER_BYTES, Segment
from skyriver.adapters.segments.manifest import ManifestWriter, Tiered
from skyriver.adapters.segments.reader import read_header, read_seal
from skyriver.core.errors import Conflict, SkyriverError, disk_error
from skyriver.core.objects import VerifiableObjects
from skyriver.data.retention import Part

_NEVER_OLD = (1 << 63) - 1
"""T of a segment whose seal cannot be read: it goes when those after it go."""


class Keeping:
    def __init__(
        self,
        directory: Path,
        segments: tuple[Segment, ...],
        manifest: ManifestWriter,
        *,
        tier: VerifiableObjects | None,
        check: Callable[[], None],
    ) -> None:
        """`check` raises when the log is no longer ours."""
        self.segments = segments
        self._directory, self._writer, self._tier, self._check = directory, manifest, tier, check
        self._lock = Lock()
        self._away = {segment.base for segment in segments if not segment.path.exists()}
        """Bases of the segments that are not on this disk."""
        self._known: dict[int, tuple[int, int]] = {}
        """T of the last record, and bytes, of closed segments by their base."""
        self._parts: list[tuple[Segment, Part]] | None = None

    @property
    def first_offset(self) -> int:
        return self._writer.manifest.begin

    def begin(self) -> tuple[int, int]:
        with self._lock:
            return self._writer.manifest.begin, self._writer.manifest.begin_time

    def add(self, segment: Segment) -> None:
        with self._lock:
            self.segments = (*self.segments, segment)
            self._parts = None

    def close(self) -> None:
        """Waits for an entry of the manifest that is being written; from then on nothing is done any more."""
        with self._lock:
            self._check = _closed

    def parts(self) -> list[Part]:
        return [part for _, part in self._closed_segments()]

    def remove_before(self, offset: int) -> int:
        goes = [part for part in self.parts() if part.end <= offset]
        if goes:
            last = goes[-1]
            with self._lock, _disk(self._directory):
                self._check()
                self._writer.begin_at(last.end, last.time)
                gone = [segment for segment in self.segments if segment.base < last.end]
                self.segments = self.segments[len(gone) :]
                self._parts = None
            with _disk(self._directory):
                for segment in gone:
                    segment.path.unlink(missing_ok=True)
                    self._known.pop(segment.base, None)
                    self._away.discard(segment.base)
        self._delete_doomed()
        return self.first_offset

    def tier_next(self) -> bool:
        if self._tier is None:
            return False
        self._delete_doomed()
        found = next(((segment, part) for segment, part in self._closed_segments() if not part.tiered), None)
        if found is None:
            return False
        segment, part = found
        digest = self._tier.put_file(segment.path)
        self._tier.verify(digest)
        with self._lock, _disk(self._directory):
            self._check()
            self._writer.add_tiered(Tiered(part.base, part.end, part.time, part.bytes, segment.epoch, digest))
            self._parts = None
        return True

    def drop_local(self, limit: int, open_bytes: int) -> None:
        closed = self._closed_segments()
        local = open_bytes + sum(part.bytes for _, part in closed if part.local)
        for segment, part in closed:
            if local <= limit:
                return
            if part.local and part.tiered:
                with self._lock, _disk(self._directory):
                    self._check()
                    segment.path.unlink(missing_ok=True)
                    self._away.add(segment.base)
                    self._parts = None
                local -= part.bytes

    def _closed_segments(self) -> list[tuple[Segment, Part]]:
        with self._lock:
            if self._parts is None:
                self._parts = [(segment, self._part(segment, after)) for segment, after in pairwise(self.segments)]
            return self._parts

    def _part(self, segment: Segment, after: Segment) -> Part:
        there = self._writer.manifest.tiered.get(segment.base)
        time, size = (there.time, there.bytes) if there is not None else self._look(segment)
        local = segment.base not in self._away
        return Part(segment.base, after.base, time, size, local=local, tiered=there is not None)

    def _delete_doomed(self) -> None:
        """Objects of what was given up; those that the tier does not delete now stay named until it does."""
        doomed = self._writer.manifest.doomed
        while doomed and self._tier is not None:
            self._tier.delete(doomed[0].digest)
            del doomed[0]

    def _look(self, segment: Segment) -> tuple[int, int]:
        known = self._known.get(segment.base)
        if known is None:
            time, size = _NEVER_OLD, 0
            with suppress(SkyriverError, OSError):  # whoever reads it is told
                fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    size = os.fstat(fd).st_size
                    seal = read_seal(fd, read_header(fd, segment))
                    time = seal.time if seal is not None else _NEVER_OLD
                finally:
                    os.close(fd)
            known = self._known[segment.base] = (time, max(size, SEGMENT_HEADER_BYTES))
        return known


def _closed() -> None:
    raise Conflict("This log is closed.", code="LOG_CLOSED")


@contextmanager
def _disk(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, "The log's old part cannot be given up", str(directory)) from error
