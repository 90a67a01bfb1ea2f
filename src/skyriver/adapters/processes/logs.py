"""What processes print: a file each, set aside once as NAME.log.1 when it has grown too long."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LOG_LIMIT = 16 * 1024 * 1024
"""A file may grow by what is printed within a second over this; what is set aside is no longer than this."""


def set_aside(path: Path) -> int:
    """Before a start, when nobody prints into it; how long the file is that stays."""
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
        if size <= LOG_LIMIT:
            return size
        path.replace(path.with_suffix(".log.1"))
    return 0


def trim(path: Path) -> None:
    """While its process prints on: the end of the file is copied, and the file emptied, for the process has it open for
    appending and knows no other. What is printed in between is lost. On a full disk it is emptied all the same."""
    try:
        if path.stat().st_size <= LOG_LIMIT:
            return
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(-LOG_LIMIT, os.SEEK_END)
            path.with_suffix(".log.1").write_bytes(file.read(LOG_LIMIT))
        os.truncate(path, 0)
    except OSError:  # removed, or of a disk that takes no change
        return
