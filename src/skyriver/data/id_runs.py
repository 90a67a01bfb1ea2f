"""Runs of the id index: entries sorted by key, in memory or in a file, and how several become one.

run file: magic 8 "SKYRIDS\\n" | u32 format 1 | u32 CRC-32 of the arrays | u64 entries | zeros up to 64 bytes,
          then keys int64 [n] ascending, offsets int64 [n], little endian
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt

Ints = NDArray[np.int64]

Gone = Mapping[int, int]
"""Keys whose entries with an offset below this are to go."""

STEP = 1 << 18
"""Entries that are merged at a time: 4 MiB, whatever the size of the runs."""

_HEADER_BYTES = 64
_HEADER = struct.Struct("<8sIIQ")
_MAGIC = b"SKYRIDS\n"
_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Entries sorted by key, each key once; `first` and `last` are the lowest and highest offset."""

    keys: Ints
    offsets: Ints
    first: int
    last: int
    file: str = ""
    crc: int = 0
    low: int = field(init=False)
    high: int = field(init=False)
    view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", int(self.keys[0]))
        object.__setattr__(self, "high", int(self.keys[-1]))
        object.__setattr__(self, "view", self.keys.data)

    def __len__(self) -> int:
        return len(self.keys)

    def find_one(self, key: int) -> int:
        if not self.low <= key <= self.high:
            return -1
        at = bisect_left(self.view, key)
        return int(self.offsets[at]) if self.view[at] == key else -1

    def find(self, keys: Ints) -> Ints:
        """`keys` ascend."""
        at = np.searchsorted(self.keys, keys)
        np.minimum(at, len(self.keys) - 1, out=at)
        return np.where(self.keys[at] == keys, self.offsets[at], -1)

    def described(self) -> list[int | str]:
        return [self.file, len(self), self.crc, self.first, self.last]


def sorted_run(keys: Ints, offsets: Ints) -> Run | None:
    """Of entries in the order in which they were added; None without any."""
    if not len(keys):
        return None
    order = np.argsort(keys, kind="stable")  # timsort: what is sorted in parts is merged in one pass
    keys = keys[order]
    newest = np.append(keys[1:] != keys[:-1], True)
    keys, offsets = keys[newest], offsets[order[newest]]
    return Run(keys, offsets, int(offsets.min()), int(offsets.max()))


def merge_runs(runs: Sequence[Run], floor: int, gone: Gone) -> Run | None:
    """In memory: of a key twice the newer entry, which is in the later run; none with an offset below `floor`, and
    none that is to go."""
    keys, offsets = np.concatenate([r.keys for r in runs]), np.concatenate([r.offsets for r in runs])
    return sorted_run(*_kept(keys, offsets, floor, gone))


def merge_into_file(runs: Sequence[Run], floor: int, path: Path, gone: Gone) -> Run | None:
    """As `merge_runs`, into a file, STEP entries at a time: memory does not grow with them. Raises OSError, leaving
    no file."""
    most = sum(len(run) for run in runs)
    count = first = last = crc = 0
    try:
        with path.open("x+b") as file:
            for keys, offsets in _steps(runs, floor, gone):
                crc = crc32(keys.data, crc)
                _write_at(file.fileno(), keys, _HEADER_BYTES + 8 * count)
                _write_at(file.fileno(), offsets, _HEADER_BYTES + 8 * (most + count))
                first = min(first, int(offsets.min())) if count else int(offsets.min())
                last = max(last, int(offsets.max()))
                count += len(keys)
            for start in range(0, count, STEP):  # up to the keys, which may have become fewer
                there = _HEADER_BYTES + 8 * (most + start)
                part = os.pread(file.fileno(), 8 * min(STEP, count - start), there)
                crc = crc32(part, crc)
                if count < most:
                    os.pwrite(file.fileno(), part, _HEADER_BYTES + 8 * (count + start))
            os.ftruncate(file.fileno(), _HEADER_BYTES + 16 * count)
            os.pwrite(file.fileno(), _header(crc, count), 0)
            os.fdatasync(file.fileno())
        if not count:
            path.unlink()
            return None
        keys, offsets = _map(path, count)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return Run(keys, offsets, first, last, path.name, crc)


def _kept(keys: Ints, offsets: Ints, floor: int, gone: Gone) -> tuple[Ints, Ints]:
    kept = offsets >= floor
    if gone:
        for place in np.flatnonzero(np.isin(keys, np.fromiter(gone, np.int64, len(gone)))).tolist():
            kept[place] &= offsets[place] >= gone[int(keys[place])]
    return (keys, offsets) if kept.all() else (keys[kept], offsets[kept])


def _steps(runs: Sequence[Run], floor: int, gone: Gone) -> Iterator[tuple[Ints, Ints]]:
    """Keys and offsets of all runs, by ascending keys, each key once."""
    share = max(1, STEP // len(runs))
    at = [0] * len(runs)
    while any(place < len(run) for place, run in zip(at, runs, strict=True)):
        # All keys up to the lowest of those that stand a share further on: of no run more than its share.
        ends = [run.keys[place + share - 1] for place, run in zip(at, runs, strict=True) if place + share <= len(run)]
        to = [len(run) if not ends else int(np.searchsorted(run.keys, min(ends), "right")) for run in runs]
        parts = [(run, slice(start, end)) for run, start, end in zip(runs, at, to, strict=True)]
        keys = np.concatenate([run.keys[part] for run, part in parts])
        step = sorted_run(*_kept(keys, np.concatenate([run.offsets[part] for run, part in parts]), floor, gone))
        at = to
        if step is not None:
            yield step.keys, step.offsets


def write_run(run: Run, path: Path) -> Run:
    """The run in a file of its own, on the disk but for its name. Raises OSError, leaving none."""
    keys, offsets = np.ascontiguousarray(run.keys, "<i8"), np.ascontiguousarray(run.offsets, "<i8")
    crc = crc32(offsets.data, crc32(keys.data))
    try:
        with path.open("xb") as file:
            file.write(_header(crc, len(run)))
            file.write(keys.data)
            file.write(offsets.data)
            file.flush()
            os.fdatasync(file.fileno())
        keys, offsets = _map(path, len(run))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return Run(keys, offsets, run.first, run.last, path.name, crc)


def _write_at(fd: int, array: Ints, place: int) -> None:
    data = memoryview(np.ascontiguousarray(array, "<i8").tobytes())
    while len(data):
        done = os.pwrite(fd, data, place)
        data, place = data[done:], place + done


def _header(crc: int, entries: int) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, crc, entries).ljust(_HEADER_BYTES, b"\0")


def _map(path: Path, entries: int) -> tuple[Ints, Ints]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), _HEADER_BYTES + 16 * entries, access=mmap.ACCESS_READ)
    arrays = np.frombuffer(mapped, dtype="<i8", offset=_HEADER_BYTES)
    return arrays[:entries], arrays[entries:]


def open_run(directory: Path, name: str, entries: int, crc: int, first: int, last: int) -> Run:
    path = directory / name
    try:
        if path.stat().st_size != _HEADER_BYTES + 16 * entries:
            raise _corrupt(path, "has another length than was written")
        keys, offsets = _map(path, entries)
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        raise _corrupt(path, "is missing") from None
    if header != _header(crc, entries) or crc32(offsets.data, crc32(keys.data)) != crc:
        raise _corrupt(path, "is not what was written")
    return Run(keys, offsets, first, last, name, crc)


def _corrupt(path: Path, what: str) -> Corrupt:
    return Corrupt(
        f"The id index's file {path.name} {what}.",
        where=str(path),
        next_action="It is made again from the log: open the index without a description.",
    )
