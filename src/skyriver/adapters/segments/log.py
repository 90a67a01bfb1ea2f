"""The writer of a segment log.

Appends go into a buffer; `sync` writes it with one system call (durability "process": the bytes are the kernel's and
survive kill -9 of this process), and waits for the disk (fdatasync) at durability "disk". Nothing else waits: at
"process" the kernel is told to start writing back early, so that sealing a full segment, which always goes to the
disk, finds little left to do.

After an error. No room (ENOSPC, EDQUOT, EFBIG): Unavailable (DISK_FULL), the file is cut back, and the log goes on as
it was: an `append` that fails takes back itself, a `sync` that fails takes back everything since the last good one.
Any other error, or a failed fdatasync, after which nobody knows what the disk has (the kernel reports it once and
marks the pages clean): Unavailable (LOG_FAILED), and this log refuses to write until it is opened again; opening at
"disk" first drops the pages from the cache, so it sees what the disk has.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from skyriver.adapters.flock.lock import DirectoryLock, LockHeld, boot_id, take_lock
from skyriver.adapters.segments.keeping import Keeping
from skyriver.adapters.segments.layout import (
    CRC,
    DURABILITY_CODE,
    FRAME_BODY,
    MAX_PAYLOAD,
    MAX_SEGMENT,
    SEGMENT_HEADER_BYTES,
    TAG_OF_KIND,
    Durability,
    Segment,
    SegmentHeader,
    SparseIndex,
    pack_seal,
    segment_name,
)
from skyriver.adapters.segments.manifest import ManifestWriter
from skyriver.adapters.segments.mark import Mark, MarkWriter
from skyriver.adapters.segments.reader import SegmentFiles, SegmentReader, offset_gone
from skyriver.adapters.segments.recovery import Recovered, TornTail, recover
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError, Unavailable
from skyriver.core.objects import IdentifiedObjects
from skyriver.data.folders import make_folder, sync_folder
from skyriver.data.log import Record
from skyriver.data.retention import Changed, Part, Sizes

__all__ = ["SegmentLog", "SegmentReader", "TornTail", "open_log"]

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FLUSH_BYTES = 4 << 20
"""An append that finds more in the buffer writes it out first."""
_WRITE_BACK_BYTES = 1 << 20
_SYNC_FILE_RANGE_WRITE = 2


def open_log(
    directory: Path,
    *,
    durability: Durability,
    segment_bytes: int = 64 << 20,
    holder: str,
    take_over: bool = False,
    wait_us: int = 10_000_000,
    tier: IdentifiedObjects | None = None,
) -> SegmentLog:
    """Opens the log in `directory` (made if need be) for writing, with a new epoch.

    `holder` names this process in the run file. `take_over`: a process that holds the log, stopped, hung or well, is
    ended with SIGKILL and its lock awaited, at most `wait_us`. `tier`: where closed segments go (`tier_next`).
    Raises Conflict (LOG_HELD) naming the pid when another process holds it, Corrupt for bit rot in the last
    segment, Unavailable (DISK_FULL) without room for a new segment, InvalidInput for segment_bytes out of range.
    """
    if not SEGMENT_HEADER_BYTES < segment_bytes <= MAX_SEGMENT // 2:
        raise InvalidInput(
            f"Segments of {segment_bytes} bytes: at most {MAX_SEGMENT // 2}.",
            code="BAD_SEGMENT_BYTES",
            next_action=f"Give between {SEGMENT_HEADER_BYTES + 1} and {MAX_SEGMENT // 2} bytes.",
        )
    lock: DirectoryLock | None = None
    try:
        make_folder(directory)
        lock = _take_lock(directory, holder, take_over, wait_us)
        boot = boot_id()
        found = recover(directory, boot=boot, read_disk=durability == "disk")
        log = SegmentLog(
            directory, lock, found, boot=boot, durability=durability, segment_bytes=segment_bytes, tier=tier
        )
        log._begin(found.empty)
        return log
    except OSError as error:
        _release(lock)
        raise _unavailable(error, directory) from error
    except SkyriverError:
        _release(lock)
        raise


def _take_lock(directory: Path, holder: str, take_over: bool, wait_us: int) -> DirectoryLock:
    try:
        return take_lock(directory, holder, take_over=take_over, wait_us=wait_us)
    except LockHeld as error:
        raise Conflict(
            f"The log is held by {error}.",
            code="LOG_HELD",
            where=str(directory),
            next_action="Stop that process, or take the log over.",
        ) from error


def _release(lock: DirectoryLock | None) -> None:
    if lock is not None:
        lock.release()


class SegmentLog:
    """The Log port on files, and RewritableLog; made by `open_log`. One thread at a time, in the process that opened
    it, and one more for what TieredLog and RewritableLog add."""

    def __init__(
        self,
        directory: Path,
        lock: DirectoryLock,
        found: Recovered,
        *,
        boot: bytes,
        durability: Durability,
        segment_bytes: int,
        tier: IdentifiedObjects | None = None,
    ) -> None:
        self.torn: TornTail | None = found.torn
        """What this open cut off; None when the log ended with a whole record."""
        self._directory, self._lock, self.segment_bytes = directory, lock, segment_bytes
        self._to_disk = durability == "disk"
        self._durability, self._boot, self._pid = DURABILITY_CODE[durability], boot, os.getpid()
        self._refused: SkyriverError | None = None
        self._tier, self._files = tier, SegmentFiles(directory, tier)
        self._log_id, self._epoch, self._seed = found.log_id, found.epoch, crc32(found.log_id)
        manifest = ManifestWriter(directory, found.log_id)
        self._keeping = Keeping(
            directory, found.segments, found.next_offset, manifest, tier=tier, check=self._check_ours
        )
        self._mark: MarkWriter | None = None

        # The segment that is written, from _begin on; positions are bytes from its start.
        self._fd = -1
        self._index = SparseIndex(found.next_offset)
        self._buffer = bytearray()  # frames that are not in the file yet
        self._position = self._synced_position = SEGMENT_HEADER_BYTES  # the file's end; and at the last sync
        self._on_disk = self._written_back = SEGMENT_HEADER_BYTES
        self._next = self._synced_offset = found.next_offset
        self._time = self._synced_time = 0  # T of the last record

    def _begin(self, empty: Sequence[Segment]) -> None:
        """Starts the epoch, once: its first segment, then the mark that fences older ones off. Raises OSError."""
        self._start_segment(lambda: None)
        try:
            if empty:  # the highest of their epochs must not go before the new one is on the disk
                sync_folder(self._directory)
            for segment in empty:
                segment.path.unlink()
            mark = Mark(self._log_id, self._boot, self._epoch, self._durability, self._next)
            self._mark = MarkWriter(self._directory, mark)
            sync_folder(self._directory)
        except OSError:
            os.close(self._fd)
            raise

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def next_offset(self) -> int:
        return self._next

    def append(self, records: Sequence[Record]) -> int:
        """Gives the records their offsets; returns the first. They are in memory until `sync`.

        Raises InvalidInput (BAD_RECORD) for a record that has no place in the format, (TOO_MUCH_UNSYNCED) for more
        than 1 GiB between two syncs; Unavailable, Conflict as `sync`. Nothing was appended then.
        """
        self._ready()
        if self._position >= self.segment_bytes and self._next == self._synced_offset:
            self._change_segment()
        if len(self._buffer) > _FLUSH_BYTES:
            self._flush()
        first, length_before, time_before = self._next, len(self._buffer), self._time
        try:
            self._next = self._encode(records, first)
            if self._position + len(self._buffer) > MAX_SEGMENT:
                raise InvalidInput(
                    "More than 1 GiB is appended and not synced.",
                    code="TOO_MUCH_UNSYNCED",
                    next_action="Sync what was appended before you append more.",
                )
        except BaseException:  # whatever ends it, an interrupt too: this append did not happen
            del self._buffer[length_before:]
            self._next, self._time = first, time_before
            self._index.cut(self._position + length_before)
            raise
        return first

    def sync(self) -> None:
        """Makes everything appended durable, else takes back everything since the last good sync.

        Raises Unavailable: DISK_FULL (the log goes on), LOG_FAILED (open it again), LOG_GONE (its file was removed);
        Conflict (LOG_LOST) when the log was taken over.
        """
        self._ready()
        if self._next == self._synced_offset:
            return
        try:
            self._flush()
        except Unavailable:
            self._take_back()
            raise
        if self._to_disk:
            self._sync_file()
        self._check_there()
        self._synced_position, self._synced_offset = self._position, self._next
        self._synced_time = self._time
        if self._mark is not None:
            self._mark.acknowledge(self._next)
        if self._position - self._written_back > _WRITE_BACK_BYTES:
            self._start_write_back()

    def sync_to_disk(self) -> None:
        """By a descriptor of its own: the log may change to another segment meanwhile, which seals this one, on the
        disk. Raises Unavailable (LOG_FAILED); when it was the disk that failed, the log refuses from then on."""
        if self._to_disk:
            return
        path = self._keeping.segments[-1].path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unavailable(error, path, code="LOG_FAILED") from error
        try:
            os.fdatasync(fd)
        except OSError as error:  # the next one would be told nothing of it
            self._refused = _unavailable(error, path, code="LOG_FAILED")
            raise self._refused from error
        finally:
            os.close(fd)

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        """All that was appended, synced or not. Of a log that refuses to write: what was synced."""
        if start < 0:
            raise InvalidInput(f"Offset {start} is below 0.", code="BAD_OFFSET", next_action="Read from offset 0 on.")
        if self._fd < 0:
            raise _closed(self._directory)
        if self._refused is None and self._buffer:
            self._flush()
        limit = self._next if self._refused is None else self._synced_offset
        if start < self.first_offset:
            raise offset_gone(start, self.first_offset, self._directory)
        return self._files.records(self._keeping.segments, start, limit if end is None else min(end, limit))

    def begin(self) -> tuple[int, int]:
        return self._keeping.begin()

    # What TieredLog adds

    @property
    def first_offset(self) -> int:
        return self._keeping.first_offset

    @property
    def open_bytes(self) -> int:
        return self._position

    def parts(self) -> Sequence[Part]:
        return self._keeping.parts()

    def sizes(self) -> Sizes:
        return self._keeping.sizes

    def remove_before(self, offset: int) -> int:
        return self._keeping.remove_before(offset)

    def tier_next(self) -> bool:
        return self._keeping.tier_next()

    def drop_local(self, limit: int) -> None:
        self._keeping.drop_local(limit, self._position)

    # What RewritableLog adds

    def end_part(self) -> None:
        self._ready()
        self.sync()
        if self._position > SEGMENT_HEADER_BYTES:
            self._change_segment()

    def rewrite(self, base: int, changed: Changed) -> int:
        return self._keeping.rewrite(base, SegmentFiles(self._directory, self._tier), changed)

    def copies(self) -> Sequence[str]:
        return self._keeping.copies()

    def close(self) -> None:
        """Syncs, seals and gives the log up; a second call does nothing. Raises as `sync`, given up all the same."""
        if self._fd < 0:
            return
        try:
            if self._refused is None:
                self.sync()
                self._check_ours()
                if self._position > SEGMENT_HEADER_BYTES:
                    with suppress(Unavailable):  # no room: the next open seals it
                        self._seal()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Lets go of the files and the lock as they are, as the end of the process would."""
        if self._fd < 0:
            return
        self._keeping.close()
        os.close(self._fd)
        self._fd = -1
        self._buffer.clear()
        if self._mark is not None:
            self._mark.close()
        self._lock.release()

    def _ready(self) -> None:
        if self._fd < 0:
            raise _closed(self._directory)
        if self._refused is not None:
            raise self._refused

    def _encode(self, records: Sequence[Record], offset: int) -> int:
        """Frames of the records into the buffer; returns the offset after the last."""
        buffer, index, seed, epoch = self._buffer, self._index, self._seed, self._epoch
        pack, pack_crc, tags, base, on_disk = FRAME_BODY.pack, CRC.pack, TAG_OF_KIND, self._position, self._on_disk
        time = self._time
        for record in records:
            payload, time, count = record.payload, record.time, record.count
            position = base + len(buffer)
            try:
                body = pack(
                    len(payload),
                    offset,
                    time,
                    record.key_id,
                    epoch,
                    count,
                    position - on_disk,
                    tags[record.kind],
                )
            except (struct.error, KeyError) as error:
                raise _bad_record(record, str(error)) from None
            if count < 1 or len(payload) > MAX_PAYLOAD:
                raise _bad_record(record, f"count {count}, {len(payload)} bytes")
            index.note(offset, position)
            buffer += pack_crc(crc32(payload, crc32(body, seed)))
            buffer += body
            buffer += payload
            offset += count
        self._time = time
        return offset

    def _check_ours(self) -> None:
        if os.getpid() == self._pid and self._mark is not None and self._mark.is_ours():
            return
        self._refused = Conflict(
            f"Epoch {self._epoch} of this log is over: another process has taken it.",
            code="LOG_LOST",
            where=str(self._directory),
            next_action="Read what that process wrote; this one can only end.",
        )
        raise self._refused

    def _flush(self) -> None:
        """Writes the buffer. On an error the file and the buffer are as before."""
        self._check_ours()
        length = len(self._buffer)
        try:
            written = os.pwrite(self._fd, self._buffer, self._position)
            while written < length:
                written += os.pwrite(self._fd, bytes(self._buffer[written:]), self._position + written)
        except OSError as error:
            raise self._refuse_or_cut(error, self._position) from error
        empty = bytearray()
        self._position += length  # no call from here on: an interrupt comes before both or after both
        self._buffer = empty

    def _refuse_or_cut(self, error: OSError, position: int) -> Unavailable:
        """What to raise after a failed write: the file is cut back to `position`, or the log refuses from now on."""
        failed = _unavailable(error, self._keeping.segments[-1].path)
        if failed.code == "DISK_FULL":
            try:
                os.ftruncate(self._fd, position)
            except OSError as second:
                failed = _unavailable(second, self._keeping.segments[-1].path, code="LOG_FAILED")
        if failed.code != "DISK_FULL":
            self._refused = failed
        return failed

    def _take_back(self) -> None:
        """After a failed write: everything since the last sync is gone, from the buffer and from the file."""
        self._buffer.clear()
        self._next, self._time = self._synced_offset, self._synced_time
        self._index.cut(self._synced_position)
        if self._refused is None and self._position > self._synced_position:
            try:
                os.ftruncate(self._fd, self._synced_position)
            except OSError as error:
                self._refused = _unavailable(error, self._keeping.segments[-1].path, code="LOG_FAILED")
        self._position = self._synced_position

    def _sync_file(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._refused = _unavailable(error, self._keeping.segments[-1].path, code="LOG_FAILED")
            self._take_back()
            raise self._refused from error
        self._on_disk = self._position

    def _check_there(self) -> None:
        """A file that was removed takes writes as before, and loses them: nothing in it may be acknowledged."""
        if os.fstat(self._fd).st_nlink:
            return
        self._refused = log_gone(self._directory, "was removed while it was written")
        self._take_back()
        raise self._refused

    def _start_write_back(self) -> None:
        """Tells the kernel to begin writing to the disk what it has of this segment, and does not wait."""
        if _sync_file_range is not None and not self._to_disk:
            _sync_file_range(self._fd, self._written_back, self._position - self._written_back, _SYNC_FILE_RANGE_WRITE)
        self._written_back = self._position

    def _seal(self) -> None:
        """Puts the segment on the disk and the seal behind it. On an error the file is as before."""
        self._sync_file()
        seal = pack_seal(self._index, self._time, self._next, self._epoch, self._seed)
        try:
            if os.pwrite(self._fd, seal, self._position) != len(seal):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._refuse_or_cut(error, self._position) from error
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._refused = _unavailable(error, self._keeping.segments[-1].path, code="LOG_FAILED")
            raise self._refused from error

    def _change_segment(self) -> None:
        """Between two syncs. On DISK_FULL the log goes on in the old segment, as it was."""
        self._check_ours()
        old = self._fd
        try:
            self._start_segment(self._seal)
        except OSError as error:
            raise self._refuse_or_cut(error, self._position) from error
        os.close(old)
        try:
            sync_folder(self._directory)
        except OSError as error:
            self._refused = _unavailable(error, self._directory, code="LOG_FAILED")
            raise self._refused from error

    def _start_segment(self, before_it_counts: Callable[[], None]) -> None:
        """A segment gets its name only when its header is on the disk and the one before it is sealed: there never
        is a segment without a header, nor one behind an unsealed one. Raises OSError; nothing has changed then."""
        path = self._directory / segment_name(self._next, self._epoch)
        temporary = path.with_suffix(".new")
        header = SegmentHeader(self._next, self._epoch, self._log_id, self._boot, self._durability)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, header.pack()) != SEGMENT_HEADER_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(fd)
            before_it_counts()
            temporary.rename(path)
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        segment = Segment(path, self._next, self._epoch)
        size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        self._fd = fd
        self._keeping.add(segment, self._time, size)
        self._index = SparseIndex(self._next)
        self._files.adopt(segment, self._index)
        self._position = self._synced_position = self._on_disk = self._written_back = SEGMENT_HEADER_BYTES


def _load_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's own; None where the C library has it not: it only is a hint."""
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    function.restype = ctypes.c_int
    call: Callable[[int, int, int, int], int] = function
    return call


_sync_file_range = _load_sync_file_range()


def _unavailable(error: OSError, path: Path, *, code: str = "") -> Unavailable:
    if not code:
        code = "DISK_FULL" if error.errno in _NO_ROOM else "LOG_FAILED"
    return Unavailable(
        f"The log cannot be written: {error.strerror}.",
        code=code,
        where=str(path),
        next_action="Make room on the disk, then try again."
        if code == "DISK_FULL"
        else "Check the disk; open it again.",
    )


def log_gone(directory: Path, what: str) -> Unavailable:
    return Unavailable(
        f"The stream's log {what}: what it acknowledged is not here.",
        code="LOG_GONE",
        where=str(directory),
        next_action="Put the directory back, from a backup if need be: it goes on by itself then. To begin with"
        " nothing, deploy a stream of another name.",
    )


def _bad_record(record: Record, why: str) -> InvalidInput:
    return InvalidInput(
        f"A record of kind {record.kind!r} has no place in a log: {why}.",
        code="BAD_RECORD",
        next_action="Append it with values that a record can hold.",
    )


def _closed(directory: Path) -> Conflict:
    return Conflict("This log is closed.", code="LOG_CLOSED", where=str(directory), next_action="Open it again.")
