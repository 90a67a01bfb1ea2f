"""uv's cache in the home: shared by all builds, and given up when the power went while it was written.

uv does not sync what it keeps. A file beside the cache holds the boot in which it is being used; found with another
boot's, what is in the cache may be torn.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from skyriver.adapters.processes.identity import boot_id
from skyriver.data.folders import make_folder, sync_folder


@contextlib.contextmanager
def cache_in_use(cache: Path, *, settle: bool) -> Iterator[None]:
    """While it is held, uv may use the cache; several processes at a time. With `settle` all that was written, here and
    elsewhere, is on the disk on return: that takes a second and more on a busy machine. Raises OSError."""
    make_folder(cache)
    descriptor = os.open(cache.with_name(f"{cache.name}.using"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if alone(descriptor):
            if os.pread(descriptor, 100, 0).decode() not in ("", boot_id()):
                shutil.rmtree(cache, ignore_errors=True)
            os.pwrite(descriptor, boot_id().encode(), 0)
            os.fsync(descriptor)
            sync_folder(cache.parent)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if settle:
                os.sync()
                if alone(descriptor):
                    os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def alone(descriptor: int) -> bool:
    """Takes the lock of a file, unless another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
