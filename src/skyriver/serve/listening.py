"""Sockets that processes listen on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from skyriver.core.errors import Conflict, InvalidInput

_BACKLOG = 1024
_SOCKET_PATH_LIMIT = 107
"""Bytes, of the address of a Unix socket on Linux."""


def listen_unix(path: Path) -> socket.socket:
    """Bound with file mode 0600. A socket file that nobody listens on is removed first.

    Raises Conflict (ADDRESS_IN_USE) when someone listens or the file is something else, InvalidInput
    (PATH_TOO_LONG).
    """
    if len(str(path).encode()) > _SOCKET_PATH_LIMIT:
        raise InvalidInput(
            f"The socket's path {path} is longer than {_SOCKET_PATH_LIMIT} bytes.",
            code="PATH_TOO_LONG",
            next_action="Choose a shorter directory.",
        )
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the file has its mode from its first moment on
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise Conflict(
            f"Cannot listen on {path}: {error.strerror}.",
            code="ADDRESS_IN_USE",
            next_action="Choose a path in a folder that this user may write.",
        ) from error
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


def listen_tcp(host: str, port: int) -> socket.socket:
    """Raises Conflict (ADDRESS_IN_USE), InvalidInput (CANNOT_LISTEN)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)  # now, for of two who bound it only one may
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"Another process listens on {host}:{port}.",
                code="ADDRESS_IN_USE",
                next_action="End that process, or choose another port.",
            ) from error
        raise InvalidInput(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            code="CANNOT_LISTEN",
            next_action="Name an address of this machine, and a port that this user may take.",
        ) from error
    listening.setblocking(False)
    return listening


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(
            f"{path} exists and is no socket.", code="ADDRESS_IN_USE", next_action="Remove it, or choose another path."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:  # a full backlog, say: someone is there
            raise Conflict(
                f"{path} is in use: {error}.",
                code="ADDRESS_IN_USE",
                next_action="End the process that listens there, or choose another path.",
            ) from error
    raise Conflict(
        f"Another process listens on {path}.",
        code="ADDRESS_IN_USE",
        next_action="End that process, or choose another path.",
    )


@contextlib.contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """`listen_unix`, and the file is removed at the end unless another process has put its own there."""
    listening = listen_unix(path)
    identity = path.lstat().st_ino
    try:
        yield listening
    finally:
        listening.close()
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_ino == identity:
                path.unlink()
