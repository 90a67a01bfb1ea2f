"""The segments of a log that is open for writing: which there are, where they lie, and what goes of them.

The log's own thread adds a segment and reads; one other thread may give segments up and tier them. What both see, the
list and the sums over it, changes by one segment at a time, under a lock that is held for no wait. Entries of the
manifest are written under another one, which only the end of the log waits for.

In this order, so that a kill between two steps leaves nothing that is named and not there:
  tiering    the object is put and read back; the manifest names it; later the local file goes
  giving up  the manifest says where the log begins now; local files before that go, then their objects
  rewriting  the new file is on the disk without a name that counts; if the part is in the tier, the new object is put
             and read back, and the manifest names it; the file gets its name; the old object goes

Which tier is set is known once it has told its id; until then it is taken for the one of before, and no file goes.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from threading import Lock

from skyriver.adapters.segments.layout import SEGMENT_HEADER_BYTES, Segment
from skyriver.adapters.segments.manifest import UNKNOWN, ManifestWriter, Tiered
from skyriver.adapters.segments.reader import NO_TIER, OTHER_TIER, SegmentFiles, read_header, read_seal
from skyriver.adapters.segments.rewriting import write_changed
from skyriver.core.errors import Conflict, NotFound, SkyriverError, Unavailable, disk_error
from skyriver.core.objects import IdentifiedObjects
from skyriver.data.folders import sync_folder
from skyriver.data.retention import Changed, Part, Sizes

_NEVER_OLD = (1 << 63) - 1
"""T of a segment whose seal cannot be read: it goes when those after it go."""
_DELETIONS = 32
"""Of objects that nothing needs, in one step."""
_base = attrgetter("base")


class Keeping:
    def __init__(
        self,
        directory: Path,
        segments: Sequence[Segment],
        end: int,
        manifest: ManifestWriter,
        *,
        tier: IdentifiedObjects | None,
        check: Callable[[], None],
    ) -> None:
        """`segments` are closed, the last one ends at `end`. `check` raises when the log is no longer ours."""
        self.segments = list(segments)
        """The last one is being written, once there is one. Only ever appended to: a reading keeps the list it has."""
        self._directory, self._writer, self._tier, self._check = directory, manifest, tier, check
        self._begin = manifest.manifest.begin, manifest.manifest.begin_time
        self._lock, self._writing = Lock(), Lock()
        self._set_now = manifest.manifest.tier if tier is not None else None
        self._asked = False
        self._open: Segment | None = None
        self._parts: list[Part] = []
        ends = [*(segment.base for segment in segments[1:]), end]
        self._sort_all([self._part_of(segment, end) for segment, end in zip(segments, ends, strict=False)])

    @property
    def first_offset(self) -> int:
        return self._begin[0]

    def begin(self) -> tuple[int, int]:
        return self._begin

    @property
    def sizes(self) -> Sizes:
        return self._sizes

    def add(self, segment: Segment, time: int, size: int) -> None:
        """Closes the one before, of which these are T of its last record, and its bytes."""
        with self._lock:
            if self._open is not None:
                self._enter(Part(self._open.base, segment.base, time, size))
            self.segments.append(segment)
            self._open = segment

    def close(self) -> None:
        """Waits for an entry of the manifest that is being written; from then on nothing is done any more."""
        with self._writing:
            self._check = _closed

    def parts(self) -> list[Part]:
        with self._lock:
            return list(self._parts)

    def remove_before(self, offset: int) -> int:
        with self._lock:
            count = bisect_left(self._parts, offset + 1, key=attrgetter("end"))
            last = self._parts[count - 1] if count else None
        if last is None:
            return self.first_offset
        with self._entry():
            self._writer.begin_at(last.end, last.time)
            with self._lock:
                gone, self.segments = self.segments[:count], self.segments[count:]
                for part in self._parts[:count]:
                    self._count(part, -1)
                del self._parts[:count]
                self._begin = last.end, last.time
                for waiting in (self._to_tier, self._to_drop, self._to_find, self._elsewhere):
                    while waiting and waiting[0] < last.end:
                        waiting.popleft()
                self._tell_elsewhere()
        with _disk(self._directory):
            for segment in gone:
                segment.path.unlink(missing_ok=True)
        return self.first_offset

    def tier_next(self) -> bool:
        if self._tier is None:
            return False
        set_now = self._ask(self._tier)
        tiered = self._tier_one(self._tier, set_now) or self._find_one(self._tier, set_now)
        return self._delete_some(self._tier, set_now) or tiered

    def drop_local(self, limit: int, open_bytes: int) -> None:
        if self._tier is None or open_bytes + self._sizes.local_bytes <= limit:
            return
        self._ask(self._tier)
        while self._to_drop and open_bytes + self._sizes.local_bytes > limit:
            base = self._to_drop[0]
            with self._entry():
                self._segment(base).path.unlink(missing_ok=True)
            with self._lock:
                self._to_drop.popleft()
                self._change(base, local=False)

    def rewrite(self, base: int, files: SegmentFiles, changed: Changed) -> int:
        with self._lock:
            part = next((part for part in self._parts[self._at(base) :][:1] if part.base == base), None)
        if part is None:
            raise NotFound(
                f"No closed part of the log begins with offset {base}.",
                code="OFFSET_GONE",
                where=str(self._directory),
                next_action="Name the first offset of a part, as `parts` tells them.",
            )
        there = self._writer.manifest.tiered.get(base)
        if there is not None and self._tier is None:
            raise Unavailable(
                f"Offsets {base} to {part.end - 1} of the log are in the tier"
                f" {self._writer.manifest.tier_name(there.tier)} too, and none is set.",
                code="TIER_NOT_SET",
                where=str(self._directory),
                next_action=NO_TIER,
            )
        segment = self._segment(base)
        path = segment.path.with_suffix(".new")
        with _disk(self._directory):
            count = write_changed(path, *files.whole(segment, part.end), changed)
        if count:
            try:
                self._take_rewritten(segment, replace(part, bytes=path.stat().st_size), path, there is not None)
            finally:
                path.unlink(missing_ok=True)
        if there is not None and self._tier is not None:
            self._delete_outdated(self._tier, base)
        return count

    def copies(self) -> list[str]:
        with self._writing:
            manifest = self._writer.manifest
            return [f"{manifest.tier_name(old.tier)}: {old.digest}" for old in manifest.outdated()]

    def _take_rewritten(self, segment: Segment, part: Part, path: Path, tiered: bool) -> None:
        """The tier's object goes before the file: killed in between, the file is found as it was, and rewritten again,
        while an object that was forgotten would never be."""
        if tiered:
            assert self._tier is not None
            set_now = self._ask(self._tier)
            digest = self._tier.put_file(path)
            self._tier.verify(digest)
            with self._entry():
                there = Tiered(part.base, part.end, part.time, part.bytes, segment.epoch, digest, set_now)
                self._writer.add_tiered(there, self._tier.place)
        with self._entry():
            if segment.path.exists():
                path.rename(segment.path)
                sync_folder(self._directory)
        with self._lock:
            was = self._parts[self._at(part.base)]
            if tiered and not was.tiered:
                self._sort_all([replace(p, tiered=p.tiered or p.base == part.base) for p in self._parts])
            self._change(part.base, bytes=part.bytes)

    def _delete_outdated(self, tier: IdentifiedObjects, base: int) -> None:
        set_now = self._ask(tier)
        for old in self._writer.manifest.outdated():
            if old.base == base and old.tier in (set_now, UNKNOWN):
                tier.delete(old.digest)
                with self._entry():
                    self._writer.deleted(old)

    def _ask(self, tier: IdentifiedObjects) -> bytes:
        """The id of the tier that is set. What is in another one is not in it. Raises what the tier raises."""
        if not self._asked:
            set_now = tier.identity()
            if set_now != self._set_now:
                with self._lock:
                    self._set_now = set_now
                    self._sort_all([replace(part, tiered=self._is_tiered(part.base)) for part in self._parts])
            self._asked = True
        assert self._set_now is not None
        return self._set_now

    def _tier_one(self, tier: IdentifiedObjects, set_now: bytes) -> bool:
        """The oldest part that is here and not in the tier goes there."""
        if not self._to_tier:
            return False
        base = self._to_tier[0]
        segment, part = self._segment(base), self._parts[self._at(base)]
        digest = tier.put_file(segment.path)
        tier.verify(digest)
        with self._entry():
            there = Tiered(base, part.end, part.time, part.bytes, segment.epoch, digest, set_now)
            self._writer.add_tiered(there, tier.place)
        with self._lock:
            self._to_tier.popleft()
            self._to_drop.append(base)
            self._change(base, tiered=True)
        return True

    def _find_one(self, tier: IdentifiedObjects, set_now: bytes) -> bool:
        """Whether the oldest part that is neither here nor known to be in the tier is there all the same: it was
        copied, or went there before tiers had an id."""
        if not self._to_find:
            return False
        base = self._to_find[0]
        there = self._writer.manifest.tiered[base]
        found = tier.has(there.digest)
        if found:
            with self._entry():
                self._writer.add_tiered(replace(there, tier=set_now), tier.place)
        with self._lock:
            self._to_find.popleft()
            if found:
                self._change(base, tiered=True)
            else:
                self._elsewhere.append(base)
                self._tell_elsewhere()
        return True

    def _delete_some(self, tier: IdentifiedObjects, set_now: bytes) -> bool:
        """Objects of what was given up; those that the tier does not delete now stay named until it does."""
        deletable = self._writer.manifest.deletable(set_now, _DELETIONS)
        for old in deletable:
            tier.delete(old.digest)
            with self._entry():
                self._writer.deleted(old)
        return len(deletable) == _DELETIONS

    @contextmanager
    def _entry(self) -> Iterator[None]:
        """While the log is ours."""
        with self._writing, _disk(self._directory):
            self._check()
            yield

    # The list, the sums over it, and what waits, by base: all under the lock

    def _sort_all(self, parts: Sequence[Part]) -> None:
        self._parts, self._sizes = [], Sizes()
        self._to_tier: deque[int] = deque()
        """Here, and not in the tier."""
        self._to_drop: deque[int] = deque()
        """Here, and in the tier."""
        self._to_find: deque[int] = deque()
        """Not here, and not known to be in the tier; or known not to be."""
        self._elsewhere: deque[int] = deque()
        for part in parts:
            self._enter(part)
        self._tell_elsewhere()

    def _enter(self, part: Part) -> None:
        self._parts.append(part)
        self._count(part, 1)
        if part.local:
            (self._to_drop if part.tiered else self._to_tier).append(part.base)
        elif not part.tiered:
            (self._to_find if self._tier is not None else self._elsewhere).append(part.base)

    def _change(self, base: int, **changed: int) -> None:
        at = self._at(base)
        self._count(self._parts[at], -1)
        self._parts[at] = replace(self._parts[at], **changed)  # type: ignore[arg-type]  # bool is an int
        self._count(self._parts[at], 1)

    def _count(self, part: Part, sign: int) -> None:
        sizes, change = self._sizes, sign * part.bytes
        self._sizes = replace(
            sizes,
            bytes=sizes.bytes + change,
            local_bytes=sizes.local_bytes + change * part.local,
            lag_bytes=sizes.lag_bytes + change * (part.local and not part.tiered),
        )

    def _tell_elsewhere(self) -> None:
        if not self._elsewhere:
            self._sizes = replace(self._sizes, unreachable=None)
            return
        manifest = self._writer.manifest
        first = self._elsewhere[0]
        what = (
            f"{len(self._elsewhere)} segments of the log, the first from offset {first} on, are only in the tier"
            f" {manifest.tier_name(manifest.tiered[first].tier)}, and cannot be read:"
        )
        if self._tier is None or self._set_now is None:
            where, now, code, remedy = "", "no tier is in use", "TIER_NOT_SET", NO_TIER
        else:
            where, now = self._tier.place, f"the one that is set is {self._tier.place} (id {self._set_now.hex()[:8]})"
            code, remedy = "TIER_CHANGED", OTHER_TIER
        told = Unavailable(f"{what} {now}.", code=code, where=where or str(self._directory), next_action=remedy)
        self._sizes = replace(self._sizes, unreachable=told)

    def _is_tiered(self, base: int) -> bool:
        there = self._writer.manifest.tiered.get(base)
        return there is not None and there.tier == self._set_now

    def _at(self, base: int) -> int:
        return bisect_left(self._parts, base, key=_base)

    def _segment(self, base: int) -> Segment:
        return self.segments[bisect_left(self.segments, base, key=_base)]

    def _part_of(self, segment: Segment, end: int) -> Part:
        there = self._writer.manifest.tiered.get(segment.base)
        time, size = (there.time, there.bytes) if there is not None else _look(segment)
        return Part(segment.base, end, time, size, local=segment.path.exists(), tiered=self._is_tiered(segment.base))


def _look(segment: Segment) -> tuple[int, int]:
    """T of its last record, and its bytes."""
    time, size = _NEVER_OLD, SEGMENT_HEADER_BYTES
    with suppress(SkyriverError, OSError):  # whoever reads it is told
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            seal = read_seal(fd, read_header(fd, segment))
            time = seal.time if seal is not None else _NEVER_OLD
        finally:
            os.close(fd)
    return time, size


def _closed() -> None:
    raise Conflict("This log is closed.", code="LOG_CLOSED", next_action="Open it again.")


@contextmanager
def _disk(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, "The log's old part cannot be changed", str(directory)) from error
