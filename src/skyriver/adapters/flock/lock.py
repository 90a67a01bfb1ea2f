"""A folder that one process at a time holds, taken over from a dead, stopped or hung one.

The kernel's lock (flock) is the truth: it goes with the process, however it ends, and a stopped process keeps it. The
run file beside it (pid, start time, boot id, token) only says whom to end when the lock is to be taken over: pid
and start time together name one process, so a pid that was given to another one since is never signalled.
A lock descriptor is close-on-exec; a forked child inherits it, and must not act under it: see `DirectoryLock.held`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import select
import signal
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from skyriver.adapters.processes import identity

_LOCK = "lock"
_HOLDER = "holder.json"
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Holder:
    """One process on one boot of one machine; `start` is its start time in clock ticks since that boot."""

    pid: int
    start: int
    boot: str
    token: str
    name: str


def boot_id() -> bytes:
    """16 bytes that change when the machine starts."""
    return uuid.UUID(identity.boot_id()).bytes


def read_holder(directory: Path) -> Holder | None:
    """The recorded holder; None when there is none, or the record is not whole."""
    try:
        return Holder(**json.loads((directory / _HOLDER).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class LockHeld(Exception):
    """Another one holds the folder; `holder` is its record, if it left one. Callers say it in words of their own."""

    def __init__(self, holder: Holder | None) -> None:
        who = f"process {holder.pid} ({holder.name})" if holder else "a process that left no record"
        super().__init__(who)
        self.holder = holder


class DirectoryLock:
    """Held from `take_lock` until `release` or the end of the process."""

    def __init__(self, directory: Path, fd: int, holder: Holder) -> None:
        self._directory = directory
        self._fd = fd
        self.holder = holder

    def held(self) -> bool:
        """Whether this process holds it, and no careless hand removed the lock's file from under it."""
        if os.getpid() != self.holder.pid:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), (self._directory / _LOCK).stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if os.getpid() == self.holder.pid and read_holder(self._directory) == self.holder:
            (self._directory / _HOLDER).unlink(missing_ok=True)
        os.close(self._fd)


def take_lock(directory: Path, name: str, *, take_over: bool, wait_us: int) -> DirectoryLock:
    """The lock of `directory` for this process, called `name` in its run file.

    `take_over`: a recorded holder that lives is ended (SIGKILL), then the lock is waited for, at most `wait_us`.
    Raises LockHeld when another one holds it, OSError.
    """
    deadline = time.monotonic() + wait_us / 1e6
    recorded = read_holder(directory)
    fd = _try_lock(directory)
    if fd is None and take_over:
        if recorded is not None:
            _end(recorded, deadline)
        while fd is None and time.monotonic() < deadline:
            fd = _try_lock(directory)
            if fd is None:
                time.sleep(_PAUSE_S)
    if fd is None:
        raise LockHeld(read_holder(directory))
    try:
        for leftover in directory.glob(f".{_HOLDER}.*"):  # of one that was killed here
            leftover.unlink(missing_ok=True)
        mine = identity.identify(os.getpid())
        holder = Holder(os.getpid(), mine.start_time if mine else 0, identity.boot_id(), secrets.token_hex(16), name)
        temporary = directory / f".{_HOLDER}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(holder)))
        temporary.replace(directory / _HOLDER)
    except OSError:
        os.close(fd)
        raise
    return DirectoryLock(directory, fd, holder)


def _try_lock(directory: Path) -> int | None:
    path = directory / _LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.stat()):  # not the lock of a file that was replaced meanwhile
            return fd
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.ENOENT):
            os.close(fd)
            raise
    os.close(fd)
    return None


def _end(holder: Holder, deadline: float) -> None:
    """Ends the recorded process if it still is that process, and waits for its end."""
    if holder.pid == os.getpid():
        raise LockHeld(holder)
    try:
        process = os.pidfd_open(holder.pid)  # from here on the pid cannot come to mean another process
    except ProcessLookupError:
        return
    try:
        if not identity.Identity(holder.pid, holder.start, holder.boot).alive():
            return
        signal.pidfd_send_signal(process, signal.SIGKILL)
        wait = select.poll()
        wait.register(process, select.POLLIN)
        wait.poll(max(0.0, deadline - time.monotonic()) * 1000)
    except ProcessLookupError:
        return
    except PermissionError:
        raise LockHeld(holder) from None
    finally:
        os.close(process)
