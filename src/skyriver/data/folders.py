"""Folders and files that survive the end of the power: a new name is there once the folder that has it is synced."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


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
    temporary = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
