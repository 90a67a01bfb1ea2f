"""Files that are whole or not there, also after the end of the power."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from skyriver.core.errors import Unavailable
from skyriver.data.folders import lock_within, replace_file


def replace_all(directory: Path, files: Mapping[str, str]) -> None:
    """Replaces each file that differs, in the order given."""
    for name, text in files.items():
        data, path = text.encode(), directory / name
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                continue
        replace_file(path, data)


@contextlib.contextmanager
def only_one(path: Path, seconds: float) -> Iterator[None]:
    """Holds the file lock `path`: one process, and one thread of it, at a time. Raises Unavailable (GATEWAY_BUSY)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not lock_within(descriptor, seconds):
            raise Unavailable(
                f"Another process has been changing the gateway for {seconds:.0f} s.",
                code="GATEWAY_BUSY",
                next_action="Try again; `skyriver ps` shows what runs.",
            )
        yield
    finally:
        os.close(descriptor)
