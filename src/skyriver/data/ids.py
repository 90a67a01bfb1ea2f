"""Where each id was last seen: keys of ids to log offsets, for de-duplication and to find a label's subject.

Theory of operation
===================
New entries lie in a dict (at most `RECENT`). A full dict, and each large addition, becomes a run: two arrays sorted by
key. A run is never changed; when the newest runs are together no longer small against the one before them, a thread
of its own merges them into one, so there are few: their number grows with the logarithm of what was added. Merges of
`ON_DISK` entries and more go to a file, a piece at a time, which is then memory-mapped: the page cache holds what is
used of it, and the process's own memory does not grow. 16 bytes an entry, no Python object for any but the recent
ones. A key that is added again has its new offset: offsets ascend, so the highest one is the newest.

A checkpoint writes what is in no file yet and returns a description: the files with their checksums. Files are named
once and never changed, so a description stays valid while its files are there; `release` removes the files that no
description which is still wanted names. A crash between leaves files that the next `release` removes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from skyriver.core.errors import Corrupt, Unavailable, disk_error
from skyriver.data.folders import sync_folder
from skyriver.data.id_runs import Gone, Ints, Run, merge_into_file, merge_runs, open_run, sorted_run, write_run

RECENT = 1 << 14
"""Entries of the dict: it becomes a run in 2 ms, which is what one event in 16,384 waits."""
LARGE = 1 << 11
"""An addition of so many keys becomes a run of its own."""
SINGLY = 16
"""Up to so many keys are looked up one by one."""
ON_DISK = 1 << 20
RATIO = 4
"""A run is merged with the newer ones when it has less than this many times their entries."""
MERGES = 2
"""At a time: while large runs are merged for seconds, small ones go on becoming few."""
MOST_RUNS = 24
WAIT_SECONDS = 1.0
"""With more runs, an addition waits for a merge, at most so long."""

_FORMAT = 1
_FILE = re.compile(r"run-\d{10}")


@dataclass(frozen=True, slots=True, eq=False)
class _Merging:
    runs: tuple[Run, ...]
    file: str
    """Where the result may be written."""
    result: Future[tuple[Run, ...]]


class IdIndex:
    """An index in `directory`; made by `IdIndex.open`. One thread at a time, one process at a time."""

    def __init__(self, directory: Path, runs: Sequence[Run], floor: int, next_file: int) -> None:
        self._directory = directory
        self._runs: list[Run] = list(runs)  # oldest first
        self._recent: dict[int, int] = {}
        self._floor = floor
        self._numbers = count(next_file)
        self._threads = ThreadPoolExecutor(MERGES, "ids")
        self._merging: list[_Merging] = []  # oldest runs first
        self._gone: dict[int, int] = {}
        """Keys whose entries with an offset below this are to go, until they have left all runs."""
        self._no_room = False
        """A merge found no room on the disk: large ones wait until a checkpoint has found some."""

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
            runs = [open_run(directory, *run) for run in described]
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
        if self._gone:
            ends = [self._gone.get(key, 0) for key in keys.tolist()]
            found[found < np.array(ends, np.int64)] = -1
        return found

    def add(self, keys: Ints, offsets: Ints) -> None:
        """Offsets ascend, within a call and from call to call; of a key twice the last counts."""
        if self._merging:
            self._adopt_merged()
        if len(keys) >= LARGE:
            self._freeze_recent()
            self._take(sorted_run(keys, offsets))
            return
        self._recent.update(zip(keys.tolist(), offsets.tolist(), strict=True))
        if len(self._recent) >= RECENT:
            self._freeze_recent()

    def forget(self, before_offset: int) -> None:
        """Entries with an offset below are not found any more; they leave the disk with the checkpoints to come."""
        if before_offset > self._floor:
            self._floor = before_offset
            self._runs = [run for run in self._runs if run.last >= before_offset]

    def drop(self, keys: Ints, before_offset: int) -> None:
        """Entries of these keys with an offset below are not found any more; a thread takes them out of the runs. They
        leave the disk with the checkpoints that are made once `drops` is false."""
        self._freeze_recent()
        self._gone |= dict.fromkeys(keys.tolist(), before_offset)
        self._adopt_merged()

    @property
    def drops(self) -> bool:
        """Whether there still are entries that `drop` named."""
        self._adopt_merged()
        return bool(self._gone)

    def checkpoint(self) -> bytes:
        """Makes all that was added durable; returns what `open` needs to have it again.

        Raises Unavailable (DISK_FULL); the index is then as it was.
        """
        self._freeze_recent()
        self._adopt_merged()
        try:
            for place, run in enumerate(self._runs):
                if not run.file:
                    self._runs[place] = write_run(run, self._directory / self._next_file())
            sync_folder(self._directory)
        except OSError as error:
            raise _unavailable(error, self._directory) from error
        self._no_room = False
        body = {"format": _FORMAT, "floor": self._floor, "runs": [run.described() for run in self._runs]}
        return json.dumps(body, separators=(",", ":")).encode()

    def release(self, kept: Sequence[bytes]) -> None:
        """Removes the files that neither this index nor a description among `kept` needs: give it the descriptions of
        all checkpoints that may still be opened."""
        needed = {run.file for run in self._runs} | {merging.file for merging in self._merging}
        for description in kept:
            needed.update(file for file, *_ in _read_description(description)[1])
        for path in list(self._directory.iterdir()):
            if _FILE.fullmatch(path.name) and path.name not in needed:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the merging threads. What no checkpoint has is gone."""
        self._threads.shutdown()

    def _find_one(self, key: int) -> int:
        offset = self._recent.get(key, -1)
        if offset < 0:
            for run in reversed(self._runs):
                offset = run.find_one(key)
                if offset >= 0:
                    break
        return offset if offset >= max(self._floor, self._gone.get(key, 0)) else -1

    def _freeze_recent(self) -> None:
        if self._recent:
            size = len(self._recent)
            keys = np.fromiter(self._recent.keys(), dtype=np.int64, count=size)
            offsets = np.fromiter(self._recent.values(), dtype=np.int64, count=size)
            self._take(sorted_run(keys, offsets))
            self._recent = {}

    def _take(self, run: Run | None) -> None:
        if run is not None:
            self._runs.append(run)
            self._adopt_merged()
            if len(self._runs) > MOST_RUNS and self._merging:
                with suppress(TimeoutError):  # a disk that stands: there are more runs until it goes on
                    self._merging[-1].result.result(WAIT_SECONDS)
                self._adopt_merged()

    def _adopt_merged(self) -> None:
        """Puts finished merges in the places of their parts, and starts the next one."""
        done = [merging for merging in self._merging if merging.result.done()]
        for merging in done:
            self._merging.remove(merging)
            merged, parts = merging.result.result(), merging.runs
            self._no_room = self._no_room or merged is parts
            # By offsets, not by identity: a checkpoint may have put the same entries into files meanwhile.
            if merged is not parts:
                before = [run for run in self._runs if run.last < parts[0].first]
                after = [run for run in self._runs if run.last > parts[-1].last]
                self._runs = [*before, *(run for run in merged if run.last >= self._floor), *after]
        if self._gone and (done or not self._merging):
            self._take_out()
        if len(self._merging) < MERGES and len(parts := self._to_merge()) > 1:
            self._merging.append(self._begin_merge(parts))

    def _take_out(self) -> None:
        """Runs that hold what is to go are written again, each for itself, until there is none."""
        keys = np.array(sorted(self._gone), np.int64)
        ends = np.array([self._gone[key] for key in keys.tolist()], np.int64)
        holding = []
        for run in self._runs:
            found = run.find(keys)
            if bool(((found >= 0) & (found < ends)).any()):
                holding.append(run)
        if not holding and not self._merging:
            self._gone = {}
        for run in holding:
            busy = any(run.first >= m.runs[0].first and run.last <= m.runs[-1].last for m in self._merging)
            if not busy and len(self._merging) < MERGES and not (self._no_room and len(run) >= ON_DISK):
                self._merging.append(self._begin_merge((run,)))
                self._merging.sort(key=lambda merging: merging.runs[0].first)

    def _begin_merge(self, parts: tuple[Run, ...]) -> _Merging:
        file = self._next_file()
        work = self._threads.submit(self._merge, parts, self._floor, dict(self._gone), file)
        return _Merging(parts, file, work)

    def _next_file(self) -> str:
        return f"run-{next(self._numbers):010d}"

    def _to_merge(self) -> tuple[Run, ...]:
        """Of the runs that are newer than those in a merge: only small ones while there is one."""
        small = self._no_room or bool(self._merging)
        busy = self._merging[-1].runs[-1].last if self._merging else -1
        free = [run for run in self._runs if run.last > busy]
        size, first = 0, len(free)
        while first and (not size or len(free[first - 1]) < RATIO * size):
            if small and size + len(free[first - 1]) >= ON_DISK:
                break
            first -= 1
            size += len(free[first])
        return tuple(free[first:])

    def _merge(self, runs: tuple[Run, ...], floor: int, gone: Gone, file: str) -> tuple[Run, ...]:
        if sum(len(run) for run in runs) < ON_DISK:
            merged = merge_runs(runs, floor, gone)
        else:
            try:
                merged = merge_into_file(runs, floor, self._directory / file, gone)
            except OSError:
                return runs
        return (merged,) if merged is not None else ()


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


def _unavailable(error: OSError, directory: Path) -> Unavailable:
    return disk_error(error, "The id index cannot be written", str(directory))
