"""Leases of processes of one machine: a locked folder each, and the last token in a file beside the lock.

The lock goes with the process, so a lease has no time of its own: it lasts until it is released, or its process ends
or is ended (`take_over`). The token is written and synced under the lock before anybody acts upon it.

    ROOT/NAME/lock          locked by the holder
              holder.json   who that is: pid, start time, boot id, a word that nobody else has
              token.json    the last token that was given, and the word of the holder who got it
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skyriver.adapters.flock.lock import DirectoryLock, LockHeld, read_holder, take_lock
from skyriver.adapters.processes.identity import Identity
from skyriver.core.errors import Corrupt, Unavailable
from skyriver.core.leases import Lease, check_lease, lease_held, lease_lost
from skyriver.data.folders import make_folder, sync_folder

_TOKEN = "token.json"
_WAIT_US = 10_000_000
"""How long a process that was sent SIGKILL may take to end: the kernel may be writing its memory to the disk."""


class FileLeases:
    """`Leases` and `TakeOver` in the folder `root`, which is made at need."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[str, tuple[Lease, DirectoryLock]] = {}
        self._mutex = threading.Lock()

    def acquire(self, name: str, holder: str, *, ttl_us: int) -> Lease:
        return self._take(name, holder, ttl_us, take_over=False)

    def take_over(self, name: str, holder: str, *, ttl_us: int) -> Lease:
        return self._take(name, holder, ttl_us, take_over=True)

    def renew(self, lease: Lease) -> None:
        with self._mutex, self._translated():
            found = self._held.get(lease.name)
            if found is None or found[0] != lease:
                raise lease_lost(lease)
            if not found[1].held() or _last(self._root / lease.name)[0] != lease.token:
                del self._held[lease.name]
                found[1].release()
                raise lease_lost(lease)

    def release(self, lease: Lease) -> None:
        with self._mutex, self._translated():
            found = self._held.get(lease.name)
            if found is not None and found[0] == lease:
                del self._held[lease.name]
                found[1].release()

    def holds(self, lease: Lease) -> bool:
        found = self._held.get(lease.name)
        return found is not None and found[0] == lease and found[1].holder.pid == os.getpid()

    def holder(self, name: str) -> Lease | None:
        with self._translated():
            record = read_holder(self._root / name)
            if record is None or not Identity(record.pid, record.start, record.boot).alive():
                return None
            token, word = _last(self._root / name)
            return Lease(name, record.name, token) if word == record.token else None

    def close(self) -> None:
        with self._mutex, self._translated():
            while self._held:
                self._held.popitem()[1][1].release()

    def _take(self, name: str, holder: str, ttl_us: int, *, take_over: bool) -> Lease:
        check_lease(name, holder, ttl_us)
        folder = self._root / name
        with self._mutex, self._translated():
            make_folder(folder)
            try:
                lock = take_lock(folder, holder, take_over=take_over, wait_us=_WAIT_US)
            except LockHeld as error:
                raise lease_held(name, str(error)) from error
            try:
                lease = Lease(name, holder, _last(folder)[0] + 1)
                _write(folder, lease.token, lock.holder.token)
            except BaseException:
                lock.release()
                raise
            if (old := self._held.pop(name, None)) is not None:
                old[1].release()  # its lock's file was removed from under it
            self._held[name] = (lease, lock)
            return lease

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"The leases of this machine cannot be kept: {error.strerror}.",
                code="LEASES_AWAY",
                where=str(error.filename or self._root),
                next_action="Check the folder's owner and mode, and the room on its disk.",
            ) from error


def _last(folder: Path) -> tuple[int, str]:
    """The last token that was given, and to whom. Raises Corrupt."""
    path = folder / _TOKEN
    try:
        found = json.loads(path.read_bytes())
        token, word = int(found["token"]), str(found["holder"])
        if found["crc"] != _crc(token, word):
            raise ValueError
    except FileNotFoundError:
        return 0, ""
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            "The token of a lease is not what was written.",
            code="LEASE_CORRUPT",
            where=str(path),
            next_action="Restore the file: with a token that was given before, an old holder could act again.",
        ) from error
    return token, word


def _write(folder: Path, token: int, word: str) -> None:
    temporary = folder / f"{_TOKEN}.new"
    with temporary.open("wb") as file:
        file.write(json.dumps({"token": token, "holder": word, "crc": _crc(token, word)}).encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _TOKEN)
    sync_folder(folder)


def _crc(token: int, word: str) -> int:
    return zlib.crc32(f"{token} {word}".encode())
