"""Growing arrays of whole numbers, in memory or in a mapped file, that can give back the space of their beginning.

Rows keep their numbers for ever; a released row reads as zeros. Growing maps anew and replaces `array`; a slice
taken before still shows the same rows.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import disk_error

FIRST_BYTES = 1 << 16
RESERVE_BYTES = 4 << 20
"""A file's blocks are allocated this far ahead: writing through a mapping into a hole of a full disk would kill the
process (SIGBUS), where an allocation that fails is an error that can be told."""

Words = NDArray[np.int64]


class Buffer(Protocol):
    """`array` int64 [capacity, width]. One thread at a time."""

    array: Words

    def reserve(self, rows: int) -> None:
        """Makes `array` at least `rows` long, the new rows zero. Raises Unavailable (DISK_FULL), changing nothing."""
        ...

    def sync(self) -> None:
        """What stands in the rows survives the end of the power (files only)."""
        ...

    def release(self, rows: int) -> None:
        """Rows before `rows` are not needed any more: their space is given back where the system can."""
        ...

    def relax(self) -> None:
        """Pages are taken from this process' resident memory, and come back when they are touched."""
        ...

    def clear(self) -> None:
        """All rows are zero again."""
        ...

    def resume(self, rows: int) -> None:
        """After opening or clearing: the first `rows` are there or not needed, room is wanted behind them only."""
        ...

    def close(self) -> None:
        """May be called again."""
        ...


def _capacity(rows: int, width: int) -> int:
    """The next power of two, in rows, at or above `rows`."""
    return 1 << (max(rows, FIRST_BYTES // (8 * width)) - 1).bit_length()


def _view(mapped: mmap.mmap, capacity: int, width: int) -> Words:
    return np.frombuffer(mapped, dtype=np.int64, count=capacity * width).reshape(-1, width)


def _page_bytes(capacity: int, width: int) -> int:
    return -(-capacity * 8 * width // mmap.PAGESIZE) * mmap.PAGESIZE


def _whole_pages(start: int, end: int) -> tuple[int, int]:
    """Of the bytes start..end: offset and length of the pages that lie wholly inside."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    return first, max(0, end // mmap.PAGESIZE * mmap.PAGESIZE - first)


class MemoryBuffer:
    def __init__(self, width: int) -> None:
        self._width = width
        self._released = 0
        self._map(_capacity(0, width))

    def _map(self, capacity: int) -> None:
        size = _page_bytes(capacity, self._width)
        self._mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # folding is a tenth faster; a system without large pages goes on
            self._mapped.madvise(mmap.MADV_HUGEPAGE)
        self.array = _view(self._mapped, capacity, self._width)

    def reserve(self, rows: int) -> None:
        if rows > len(self.array):
            old = self.array
            self._map(_capacity(rows, self._width))
            self.array[self._released : len(old)] = old[self._released :]

    def sync(self) -> None:
        pass

    def release(self, rows: int) -> None:
        start, length = _whole_pages(self._released * 8 * self._width, rows * 8 * self._width)
        if length:
            self._mapped.madvise(mmap.MADV_DONTNEED, start, length)
            self._released = (start + length) // (8 * self._width)

    def relax(self) -> None:
        pass

    def clear(self) -> None:
        self._released = 0
        self._map(len(self.array))

    def resume(self, rows: int) -> None:
        pass

    def close(self) -> None:
        pass


class FileBuffer:
    """`path` is created if it is not there; what it holds is kept. A file's length is its capacity, not how much of
    it was written: who owns the buffer remembers that."""

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._allocated = 0
        self._released = 0
        with _told(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Also when the rest fails, or nobody closes it: a full disk is tried again every second.
            self._close = weakref.finalize(self, os.close, self._file)
            self._map(_capacity(os.fstat(self._file).st_size // (8 * width), width))

    def _map(self, capacity: int) -> None:
        size = _page_bytes(capacity, self._width)
        if os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)
        self._mapped = mmap.mmap(self._file, size)
        self.array = _view(self._mapped, capacity, self._width)

    def reserve(self, rows: int) -> None:
        size = 8 * self._width * rows
        if size > self._allocated:
            with _told(self._path):
                os.posix_fallocate(self._file, self._allocated, size + RESERVE_BYTES - self._allocated)
            self._allocated = size + RESERVE_BYTES
        if rows > len(self.array):
            with _told(self._path):
                self._map(_capacity(rows, self._width))

    def sync(self) -> None:
        with _told(self._path):
            os.fdatasync(self._file)  # on Linux this takes in pages that were written through a mapping

    def release(self, rows: int) -> None:
        start, length = _whole_pages(self._released, rows * 8 * self._width)
        if length and _punch_hole(self._file, start, length):
            self._released = start + length

    def relax(self) -> None:
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def clear(self) -> None:
        with _told(self._path):
            os.ftruncate(self._file, 0)
            self._allocated = self._released = 0
            self._map(len(self.array))

    def resume(self, rows: int) -> None:
        self._allocated = rows * 8 * self._width

    def close(self) -> None:
        self._file = -1  # by now the number may be that of another file, of another thread even
        self._close()  # once only


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Translates what the file system says."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, f"{path.name} cannot be written", str(path)) from error


_libc = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def _punch_hole(file: int, start: int, length: int) -> bool:
    """False where the file system cannot: the space is kept then."""
    call = _libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return bool(call(file, _KEEP_SIZE | _PUNCH_HOLE, start, length) == 0)
