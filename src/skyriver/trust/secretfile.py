"""Files that hold a secret (a token, a key): readable by their owner alone, written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from skyriver.core.errors import NotAllowed, NotFound, Unavailable

MAX_BYTES = 1 << 20
"""More is no secret but a mistake in the path."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_secret(path: Path, data: bytes) -> None:
    """Replaces `path` by a file 0600 with `data`; on disk when it returns. A missing folder is made, 0700.

    Raises Unavailable (DISK_FULL, or SECRET_UNWRITABLE); the old file is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        for folder in (path.parent, *(made.parent for made in missing)):
            _sync_folder(folder)
    except OSError as error:
        full = error.errno in _FULL
        raise Unavailable(
            f"The secret cannot be written: {error.strerror}.",
            code="DISK_FULL" if full else "SECRET_UNWRITABLE",
            where=str(path),
            next_action="Free space on this disk." if full else "Check the folder and its owner.",
        ) from error


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> bytes:
    """The bytes of a secret file.

    Raises NotFound, or NotAllowed (SECRET_EXPOSED) when group or others may read or write it: it may be known to
    others then, so it is not used silently.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang us
    except FileNotFoundError as error:
        raise NotFound(
            "There is no such secret file.",
            where=str(path),
            next_action="Restore it from a copy of the cloud's folder.",
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or "") from error
    try:
        # The mode of what was opened, not of what the path means a moment later.
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _unreadable(path, "it is not a plain file")
        if mode & 0o077:
            raise NotAllowed(
                f"The secret file is open to others (mode {stat.S_IMODE(mode):04o}).",
                code="SECRET_EXPOSED",
                where=str(path),
                next_action=f"Run `chmod 600 {shlex.quote(str(path))}`; replace the secret if others use this machine.",
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or "") from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"it is larger than {MAX_BYTES} bytes")
    return data


def _unreadable(path: Path, why: str) -> Unavailable:
    return Unavailable(
        f"The secret cannot be read: {why}.",
        code="SECRET_UNREADABLE",
        where=str(path),
        next_action="Check the path, its owner and its mode.",
    )
