"""Where each id was last seen: keys of ids to log offsets, for de-duplication and to find a label's subject.

Theory of operation
===================
New entries lie in a dict (at most `RECENT`). A full dict, and each large addition, becomes a run: two arrays sorted by
key. A run is never changed; when the newest runs are together no longer small against the one before them, a thread
of its own merges them into one, so there are few: their number grows with the logarithm of what was added. Merged
runs of `ON_DISK` entries and more are written to a file and memory-mapped: the page cache holds what is used of them.
16 bytes an entry, no Python object for any but the recent ones. A key that is added again has its new offset: offsets
ascend, so the highest one is the newest.

A checkpoint writes what is in no file yet and returns a description: the files with their checksums. Files are named
once and never changed, so a description stays valid while its files are there; `release` removes the files that no
description which is still wanted names. A crash between leaves files that the next `release` removes.

    run file: magic 8 "SKYRIDS\\n" | u32 format 1 | u32 CRC-32 of the arrays | u64 entries | zeros up to 64 bytes,
              then keys int64 [n] ascending, offsets int64 [n], little endian
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt, Unavailable, disk_error

Ints = NDArray[np.int64]

RECENT = 1 << 14
"""Entries of the dict: it becomes a run in 2 ms, which is what one event in 16,384 waits."""
LARGE = 1 << 11
"""An addition of so many keys becomes a run of its own."""
SINGLY = 16
"""Up to so many keys are looked up one by one."""
ON_DISK = 1 << 20
RATIO = 4
"""A run is merged with the newer ones when it has less than this many times their entries."""
MOST_RUNS = 24
"""With more, an addition waits for the merging thread."""

_HEADER_BYTES = 64
_HEADER = struct.Struct("<8sIIQ")
_MAGIC = b"SKYRIDS\n"
_FORMAT = 1
_FILE = re.compile(r"run-\d{10}")


@dataclass(frozen=True, slots=True)
class _Run:
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


def _sorted_run(keys: Ints, offsets: Ints) -> _Run | None:
    """Of entries in the order in which they were added; None without any."""
    if not len(keys):
        return None
    order = np.argsort(keys, kind="stable")  # timsort: what is sorted in parts is merged in one pass
    keys = keys[order]
    newest = np.append(keys[1:] != keys[:-1], True)
    keys, offsets = keys[newest], offsets[order[newest]]
    return _Run(keys, offsets, int(offsets.min()), int(offsets.max()))


def _merge(runs: Sequence[_Run], floor: int) -> _Run | None:
    keys = np.concatenate([run.keys for run in runs])
    offsets = np.concatenate([run.offsets for run in runs])
    kept = offsets >= floor
    return _sorted_run(keys, offsets) if kept.all() else _sorted_run(keys[kept], offsets[kept])


@dataclass(frozen=True, slots=True)
class _Merging:
    runs: tuple[_Run, ...]
    file: str
    """Where the result may be written."""
    result: Future[_Run | None]


class IdIndex:
    """An index in `directory`; made by `IdIndex.open`. One thread at a time, one process at a time."""

    def __init__(self, directory: Path, runs: Sequence[_Run], floor: int, next_file: int) -> None:
        self._directory = directory
        self._runs: list[_Run] = list(runs)  # oldest first
        self._recent: dict[int, int] = {}
        self._floor = floor
        self._numbers = count(next_file)
        self._thread = ThreadPoolExecutor(1, "ids")
        self._merging: _Merging | None = None

    @classmethod
    def open(cls, directory: Path, description: bytes | None = None) -> IdIndex:
        """The index as it was when `checkpoint` gave `description`; None: an empty one.

        Raises Corrupt when the description or a file of it is not what was written: go on with an older one, or
        with none, and add everything again from the log.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = [path.name for path in directory.iterdir() if _FILE.fullmatch(path.name)]
            next_file = max((int(name[4:]) for name in files), default=0) + 1
            floor, described = _read_description(description)
            runs = [_open_run(directory, *run) for run in described]
        except OSError as error:
            raise _unavailable(error, directory) from error
        return cls(directory, runs, floor, next_file)

    def find(self, keys: Ints) -> Ints:
        """The newest offset added for each key, -1 where there is none (or it was forgotten); shape [len(keys)]."""
        if len(keys) <= SINGLY:
            return np.array([self._find_one(key) for key in keys.tolist()], dtype=np.int64)
        found = np.full(len(keys), -1, dtype=np.int64)
        if self._recent:
            get = self._recent.get
            found[:] = [get(key, -1) for key in keys.tolist()]
        missing = np.flatnonzero(found < 0)
        missing = missing[np.argsort(keys[missing])]  # neighbours in a run are neighbours in memory
        for run in reversed(self._runs):
            if not len(missing):
                break
            if run.high < keys[missing[0]] or run.low > keys[missing[-1]]:
                continue
            part = run.find(keys[missing])
            found[missing] = part
            missing = missing[part < 0]
        found[found < self._floor] = -1
        return found

    def add(self, keys: Ints, offsets: Ints) -> None:
        """Offsets ascend, within a call and from call to call; of a key twice the last counts."""
        if self._merging is not None:
            self._adopt_merged()
        if len(keys) >= LARGE:
            self._freeze_recent()
            self._take(_sorted_run(keys, offsets))
            return
        self._recent.update(zip(keys.tolist(), offsets.tolist(), strict=True))
        if len(self._recent) >= RECENT:
            self._freeze_recent()

    def forget(self, before_offset: int) -> None:
        """Entries with an offset below are not found any more; they leave the disk with the checkpoints to come."""
        if before_offset > self._floor:
            self._floor = before_offset
            self._runs = [run for run in self._runs if run.last >= before_offset]

    def checkpoint(self) -> bytes:
        """Makes all that was added durable; returns what `open` needs to have it again.

        Raises Unavailable (DISK_FULL); the index is then as it was.
        """
        self._freeze_recent()
        self._adopt_merged()
        try:
            for place, run in enumerate(self._runs):
                if not run.file:
                    self._runs[place] = self._write(run, self._next_file())
            _sync_directory(self._directory)
        except OSError as error:
            raise _unavailable(error, self._directory) from error
        body = {"format": _FORMAT, "floor": self._floor, "runs": [run.described() for run in self._runs]}
        return json.dumps(body, separators=(",", ":")).encode()

    def release(self, kept: Sequence[bytes]) -> None:
        """Removes the files that neither this index nor a description among `kept` needs: give it the descriptions of
        all checkpoints that may still be opened."""
        needed = {run.file for run in self._runs}
        if self._merging is not None:
            needed.add(self._merging.file)
        for description in kept:
            needed.update(file for file, *_ in _read_description(description)[1])
        for path in list(self._directory.iterdir()):
            if _FILE.fullmatch(path.name) and path.name not in needed:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the merging thread. What no checkpoint has is gone."""
        self._thread.shutdown()

    def _find_one(self, key: int) -> int:
        offset = self._recent.get(key, -1)
        if offset < 0:
            for run in reversed(self._runs):
                offset = run.find_one(key)
                if offset >= 0:
                    break
        return offset if offset >= self._floor else -1

    def _freeze_recent(self) -> None:
        if self._recent:
            size = len(self._recent)
            keys = np.fromiter(self._recent.keys(), dtype=np.int64, count=size)
            offsets = np.fromiter(self._recent.values(), dtype=np.int64, count=size)
            self._take(_sorted_run(keys, offsets))
            self._recent = {}

    def _take(self, run: _Run | None) -> None:
        if run is not None:
            self._runs.append(run)
            self._adopt_merged()
            if len(self._runs) > MOST_RUNS and self._merging is not None:
                self._merging.result.result()
                self._adopt_merged()

    def _adopt_merged(self) -> None:
        """Puts a finished merge in the place of its parts, and starts the next one."""
        if self._merging is not None:
            if not self._merging.result.done():
                return
            merged, parts = self._merging.result.result(), self._merging.runs
            self._merging = None
            # By offsets, not by identity: a checkpoint may have put the same entries into files meanwhile.
            before = [run for run in self._runs if run.last < parts[0].first]
            after = [run for run in self._runs if run.last > parts[-1].last]
            here = [merged] if merged is not None and merged.last >= self._floor else []
            self._runs = [*before, *here, *after]
        parts = self._to_merge()
        if len(parts) > 1:
            file = self._next_file()
            self._merging = _Merging(parts, file, self._thread.submit(self._merge, parts, self._floor, file))

    def _next_file(self) -> str:
        return f"run-{next(self._numbers):010d}"

    def _to_merge(self) -> tuple[_Run, ...]:
        size, first = 0, len(self._runs)
        while first and (not size or len(self._runs[first - 1]) < RATIO * size):
            first -= 1
            size += len(self._runs[first])
        return tuple(self._runs[first:])

    def _merge(self, runs: Sequence[_Run], floor: int, file: str) -> _Run | None:
        merged = _merge(runs, floor)
        if merged is not None and len(merged) >= ON_DISK:
            with suppress(OSError):  # it stays in memory; the next checkpoint tells
                merged = self._write(merged, file)
        return merged

    def _write(self, run: _Run, name: str) -> _Run:
        """The run in a file of its own, on the disk but for its name. Raises OSError, leaving none."""
        path = self._directory / name
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
        return _Run(keys, offsets, run.first, run.last, name, crc)


def _header(crc: int, entries: int) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, crc, entries).ljust(_HEADER_BYTES, b"\0")


def _map(path: Path, entries: int) -> tuple[Ints, Ints]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), _HEADER_BYTES + 16 * entries, access=mmap.ACCESS_READ)
    arrays = np.frombuffer(mapped, dtype="<i8", offset=_HEADER_BYTES)
    return arrays[:entries], arrays[entries:]


def _open_run(directory: Path, name: str, entries: int, crc: int, first: int, last: int) -> _Run:
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
    return _Run(keys, offsets, first, last, name, crc)


def _read_description(description: bytes | None) -> tuple[int, list[tuple[str, int, int, int, int]]]:
    """(floor, runs as their file, entries, checksum, first and last offset)."""
    if description is None:
        return 0, []
    try:
        body = json.loads(description)
        floor, runs = body["floor"], [tuple(run) for run in body["runs"]]
        sound = body["format"] == _FORMAT and isinstance(floor, int)
        sound = sound and all(_FILE.fullmatch(run[0]) and all(type(n) is int for n in run[1:]) for run in runs)
        sound = sound and all(len(run) == 5 and run[1] > 0 for run in runs)
    except (ValueError, KeyError, TypeError, IndexError):
        sound = False
    if not sound:
        raise Corrupt("The description of the id index is not what was written.", where="ids")
    return floor, runs


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _corrupt(path: Path, what: str) -> Corrupt:
    return Corrupt(
        f"The id index's file {path.name} {what}.",
        where=str(path),
        next_action="It is made again from the log: open the index without a description.",
    )


def _unavailable(error: OSError, directory: Path) -> Unavailable:
    return disk_error(error, "The id index cannot be written", str(directory))
