"""Folders that survive the end of the power: a new one is there once the folder that names it is on the disk."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """Makes a folder and those above it that are missing, each synced into the one that names it. Raises OSError."""
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
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
