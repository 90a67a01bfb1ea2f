"""Folders and files that survive the end of the power: a new name is there once the folder that has it is synced. And
locks on files, which go with the process however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_PAUSE_S: Final = 0.005
"""Between two tries to get a lock."""


def make_folder(path: Path) -> None:
    """Makes a folder and those above it that are missing, each synced into the one that names it. Raises OSError."""
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            # Who made it may have been killed before its name was on the disk; those above it were synced before.
            with suppress(PermissionError):  # not ours to read, so not made by us
                sync_folder(folder.parent)
            break
        missing.append(folder)
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Puts the names in a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replaces `path` by a file 0600 with `data`: after the end of the power it is the old one or the new one, whole,
    and the new one once this has returned. One writer at a time. Raises OSError."""
    temporary = _unfinished(path)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def forget_unfinished(path: Path) -> None:
    """What a writer left that was killed while it replaced the file. Raises OSError."""
    _unfinished(path).unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def lock_within(
    file: int,
    seconds: float,
    *,
    take: Callable[[int, int], object] = fcntl.flock,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether the kernel's lock on the open `file` is ours, within so many seconds; `take` is flock or lockf. Raises
    OSError."""
    ends = time.monotonic() + seconds
    while True:
        try:
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):  # lockf says both of a lock that somebody has
            if time.monotonic() > ends:
                return False
            sleep(_PAUSE_S)
