"""Immutable bytes as files of a directory, named by their SHA-256.

    ROOT/ab/abcdef...   the objects, 0400, in 256 folders by the first two digits
    ROOT/tmp/...        what is being written
    ROOT/identity       32 hex digits, made when they are asked for first

An object is written to `tmp`, synced, renamed into its place, and the folders are synced: its name appears only
when all of its bytes are on disk. A writer holds a lock on its file in `tmp` for as long as it lives; whoever opens
the store removes what nobody holds. A rename over an object that is there already changes nothing, unless that one is
damaged: then it heals it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from skyriver.core.errors import Corrupt, InvalidInput, NotFound, Unavailable
from skyriver.core.objects import IDENTITY_BYTES, check_digest, identity_of
from skyriver.data.folders import make_folder, sync_folder

_CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TRIES = 8

Stamp = tuple[int, int, int]
"""(inode, mtime in ns, size): the same stamp is taken to mean the same bytes, within one process."""


class DirectoryObjects:
    """`Objects` in the folder `root`, which is made as needed. Any number of threads and processes may use it."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._tmp = self._root / "tmp"
        self._verified: dict[str, Stamp] = {}
        self._lock = threading.Lock()
        with self._translated("The objects cannot be opened"):
            make_folder(self._root)
            self._tmp.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._root)
            self._remove_stale()

    def put(self, data: bytes) -> str:
        return self._write(iter((data,)), None)

    def put_file(self, path: Path) -> str:
        try:
            with path.open("rb") as source:
                return self._write(iter(lambda: source.read(_CHUNK), b""), None)
        except FileNotFoundError as error:
            raise NotFound(
                "There is no such file.", where=str(path), next_action="Name a file that is there."
            ) from error
        except OSError as error:  # of the source: those of the store were translated
            raise InvalidInput(
                f"The file cannot be read: {error.strerror}.",
                code="UNREADABLE_FILE",
                where=str(path),
                next_action="Check the file's owner and mode, and the disk that it is on.",
            ) from error

    def put_stream(self, chunks: Iterator[bytes], limit: int) -> str:
        return self._write(chunks, limit)

    def get(self, digest: str) -> bytes:
        path = self._place(digest)
        with self._translated("The object cannot be read", digest):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(digest, path)
        return data

    def open_path(self, digest: str) -> Path:
        path = self._place(digest)
        with self._translated("The object cannot be read", digest), path.open("rb") as file:
            stamp = _stamp(file)
            with self._lock:
                known = self._verified.get(digest) == stamp
            if not known:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise _damaged(digest, path)
                with self._lock:
                    self._verified[digest] = stamp
        return path

    def verify(self, digest: str) -> None:
        path = self._place(digest)
        with self._translated("The object cannot be read", digest), path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise _damaged(digest, path)

    def has(self, digest: str) -> bool:
        return self._place(digest).exists()

    def delete(self, digest: str) -> None:
        path = self._place(digest)
        with self._lock:
            self._verified.pop(digest, None)
        with self._translated("The object cannot be deleted"):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            sync_folder(path.parent)

    @property
    def place(self) -> str:
        return str(self._root)

    def identity(self) -> bytes:
        path = self._root / "identity"
        with self._translated("The id of the objects' place cannot be read"):
            if not path.exists():
                self._make_identity(path)
            return identity_of(path.read_bytes(), str(path))

    def _make_identity(self, path: Path) -> None:
        """Whole, and only if there is none yet."""
        with self._temporary() as (descriptor, temporary):
            _write_all(descriptor, secrets.token_hex(IDENTITY_BYTES).encode())
            os.fchmod(descriptor, 0o400)
            os.fsync(descriptor)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
            except OSError:  # this file system has no links
                temporary.rename(path)
            sync_folder(self._root)

    def _place(self, digest: str) -> Path:
        check_digest(digest)
        return self._root / digest[:2] / digest

    def _write(self, chunks: Iterator[bytes], limit: int | None) -> str:
        """The digest of what came, now an object. What `chunks` raises goes on to the caller, nothing is kept."""
        with self._temporary() as (descriptor, path):
            sha, size = hashlib.sha256(), 0
            for chunk in chunks:
                size += len(chunk)
                if limit is not None and size > limit:
                    raise InvalidInput(
                        f"More than the {limit} bytes that are allowed were sent.",
                        code="TOO_LARGE",
                        next_action=f"Send at most {limit} bytes.",
                    )
                sha.update(chunk)
                with self._translated("The object cannot be written"):
                    _write_all(descriptor, chunk)
            digest = sha.hexdigest()
            place = self._place(digest)
            with self._translated("The object cannot be written"):
                os.fchmod(descriptor, 0o400)
                os.fsync(descriptor)
                place.parent.mkdir(mode=0o700, exist_ok=True)
                path.rename(place)
                sync_folder(place.parent)
                # Also when the folder was there: another process may have made it and not synced it yet.
                sync_folder(self._root)
        return digest

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """A new file in `tmp`, open and locked by this process; it is gone when the block ends, unless renamed."""
        with self._translated("The object cannot be written"):
            descriptor, path = self._create()
        try:
            yield descriptor, path
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)

    def _create(self) -> tuple[int, Path]:
        for _ in range(_TRIES):
            path = self._tmp / secrets.token_hex(16)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor, path
            os.close(descriptor)  # somebody who opened the store took it, before it was locked, for a dead one's
        raise Unavailable(
            "Files vanish from the folder of temporary files.",
            where=str(self._tmp),
            next_action="Let nothing else remove files from this folder, then try again.",
        )

    def _remove_stale(self) -> None:
        for path in self._tmp.iterdir():
            # Held by its writer, gone meanwhile, or of somebody else: none of that is in our way.
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    @contextmanager
    def _translated(self, what: str, digest: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not digest:
                raise self._unavailable(what, error) from error
            raise NotFound(
                f"There is no object {digest}.",
                where=digest,
                next_action="Put it, or restore it from a copy of the cloud's folder.",
            ) from error
        except OSError as error:
            raise self._unavailable(what, error) from error

    def _unavailable(self, what: str, error: OSError) -> Unavailable:
        full = error.errno in _FULL
        return Unavailable(
            f"{what}: {error.strerror}.",
            code="DISK_FULL" if full else "OBJECTS_UNAVAILABLE",
            where=str(self._root),
            next_action="Free space on this disk and try again." if full else "Check the folder and its owner.",
        )


def _damaged(digest: str, path: Path) -> Corrupt:
    return Corrupt(
        f"The object {digest} is damaged: its bytes are not what was written.",
        code="OBJECT_CORRUPT",
        where=str(path),
        next_action="Put the same bytes again, or restore it from a backup.",
    )


def _stamp(file: BinaryIO) -> Stamp:
    stat = os.fstat(file.fileno())
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _write_all(descriptor: int, data: bytes) -> None:
    """All of `data`: one write may take less of it, as it does when the disk has room for a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
