"""The moments at which most could go wrong, seen from outside: a file appears, grows or is renamed, or a thread waits
for the disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MODIFIED, MOVED, CREATED, DELETED = 0x2, 0x80, 0x100, 0x200
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)
SYNCS = {"x86_64": ("74", "75"), "aarch64": ("82", "83")}.get(platform.machine(), ())
"""Numbers of fsync and fdatasync."""


@contextlib.contextmanager
def _watched(folders: Mapping[Path, int]) -> Iterator[int]:
    descriptor = _libc.inotify_init1(_NONBLOCK | _CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    try:
        for folder, mask in folders.items():
            _libc.inotify_add_watch(descriptor, os.fsencode(folder), mask)  # one that is not there is not watched
        yield descriptor
    finally:
        os.close(descriptor)


def file_event(folders: Mapping[Path, int], named: Callable[[str], bool], seconds: float) -> bool:
    """Whether, within `seconds`, what a mask names happens to a file of its folder that is `named` so."""
    deadline = time.monotonic() + seconds
    with _watched(folders) as descriptor:
        while (left := deadline - time.monotonic()) > 0:
            select.select([descriptor], [], [], left)
            with contextlib.suppress(BlockingIOError):
                data, at = os.read(descriptor, 1 << 16), 0
                while at < len(data):
                    *_, length = _HEADER.unpack_from(data, at)
                    at += _HEADER.size
                    if named(data[at : at + length].rstrip(b"\0").decode(errors="replace")):
                        return True
                    at += length
    return False


def waits_for_disk(pid: int, below: Path, seconds: float) -> bool:
    """Whether, within `seconds`, a thread of the process is in a sync of a file in `below`."""
    deadline = time.monotonic() + seconds
    tasks = Path(f"/proc/{pid}/task")
    while time.monotonic() < deadline:
        try:
            threads = list(tasks.iterdir())
        except OSError:
            return False
        for _ in range(200):
            if any(_syncs(pid, thread, below) for thread in threads):
                return True
    return False


def _syncs(pid: int, thread: Path, below: Path) -> bool:
    with contextlib.suppress(OSError):
        words = (thread / "syscall").read_text().split()
        if len(words) > 1 and words[0] in SYNCS:
            return Path(f"/proc/{pid}/fd/{int(words[1], 16)}").readlink().is_relative_to(below)
    return False


@dataclass(frozen=True, slots=True)
class Moment:
    """`wait(pid, seconds)`: whether it came. The kill follows up to `after` seconds later: that is the case."""

    name: str
    wait: Callable[[int, float], bool]
    after: float = 0.0


def _changes(folder: Path, mask: int, ending: str) -> Callable[[int, float], bool]:
    return lambda _, seconds: (
        folder.is_dir() and file_event({folder: mask}, lambda name: name.endswith(ending), seconds)
    )


def _syncs_in(below: Path) -> Callable[[int, float], bool]:
    return lambda pid, seconds: waits_for_disk(pid, below, seconds)


def worker_moments(stream: Path, run: Path) -> list[Moment]:
    """Of the worker whose partition is in `stream`; its run files are in `run`."""
    log, checkpoints = stream / "log", stream / "checkpoint"

    def begins(_: int, seconds: float) -> bool:
        """A checkpoint is due five seconds after the one before it."""
        last = max((path.stat().st_mtime for path in checkpoints.glob("*.checkpoint")), default=0.0)
        left = last + 5.0 - time.time()
        if not 0 < left < seconds:
            return False
        time.sleep(left)
        return True

    return [
        Moment("in an append", _changes(log, MODIFIED, ".log"), 0.0005),
        Moment("behind an append", _changes(log, MODIFIED, ".log"), 0.01),
        Moment("in a sync of the log", _syncs_in(log)),
        Moment("about when a checkpoint begins", begins, 0.6),
        Moment("in a flush of the side log", _syncs_in(stream / "side")),
        Moment("as a checkpoint is made", _changes(checkpoints, CREATED, ".new"), 0.002),
        Moment("in a sync of a checkpoint", _syncs_in(checkpoints)),
        Moment("as a checkpoint is renamed", _changes(checkpoints, MOVED, ".checkpoint"), 0.002),
        Moment("as what decides changes", _changes(run, MOVED, f".worker.{stream.name}-0.live.json"), 0.15),
    ]


def building_moments(stream: Path) -> list[Moment]:
    """Of a worker beside which features are built."""
    building = stream / "building"
    return [
        Moment("as built features are joined", _changes(building, MOVED, ".checkpoint"), 0.3),
        Moment("as built features are ready", _changes(stream, DELETED, building.name), 0.02),
        Moment("as built features take over", _changes(stream, DELETED, building.name), 0.2),
    ]


def builder_moments(stream: Path) -> list[Moment]:
    """Of the process that builds changed features."""
    building = stream / "building"
    return [
        Moment("as a builder makes a checkpoint", _changes(building, CREATED, ".new"), 0.002),
        Moment("in a sync of a builder's checkpoint", _syncs_in(building)),
        Moment("in a flush of a builder's side log", _syncs_in(stream / "side")),
        Moment("as a builder's checkpoint is renamed", _changes(building, MOVED, ".checkpoint"), 0.002),
    ]


def job_moments(tables: Path, stream: str) -> list[Moment]:
    """Of a job that writes the stream's tables."""

    def written(_: int, seconds: float) -> bool:
        return file_event(dict.fromkeys(table_folders(), CREATED), lambda name: ".parquet" in name, seconds)

    def committed(_: int, seconds: float) -> bool:
        folders = dict.fromkeys((f / "_delta_log" for f in table_folders()), CREATED | MOVED)
        return file_event(folders, lambda name: ".json" in name, seconds)

    def table_folders() -> list[Path]:
        return [folder for folder in tables.glob(f"{stream}*") if folder.is_dir()]

    return [
        Moment("as a file of a table is made", written, 0.01),
        Moment("as a table's version is committed", committed, 0.005),
        Moment("at its beginning", lambda *_: True, 1.5),
    ]
