"""Immutable bytes in memory: the twin of the directory of objects, for tests and simulations."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from skyriver.core.errors import Corrupt, InvalidInput, NotFound
from skyriver.core.objects import IDENTITY_BYTES, check_digest


class MemoryObjects:
    """`Objects` in this process. `open_path` writes a copy into a private folder that goes with the store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}
        self._folder: Path | None = None
        self._identity = os.urandom(IDENTITY_BYTES)

    @property
    def place(self) -> str:
        return "memory"

    def identity(self) -> bytes:
        return self._identity

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._objects[digest] = bytes(data)
        return digest

    def put_file(self, path: Path) -> str:
        try:
            return self.put(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                "There is no such file.", where=str(path), next_action="Name a file that is there."
            ) from error
        except OSError as error:
            raise InvalidInput(
                f"The file cannot be read: {error.strerror}.",
                code="UNREADABLE_FILE",
                where=str(path),
                next_action="Check the file's owner and mode, and the disk that it is on.",
            ) from error

    def put_stream(self, chunks: Iterator[bytes], limit: int) -> str:
        data = bytearray()
        for chunk in chunks:
            data += chunk
            if len(data) > limit:
                raise InvalidInput(
                    f"More than the {limit} bytes that are allowed were sent.",
                    code="TOO_LARGE",
                    next_action=f"Send at most {limit} bytes.",
                )
        return self.put(bytes(data))

    def get(self, digest: str) -> bytes:
        check_digest(digest)
        with self._lock:
            data = self._objects.get(digest)
        if data is None:
            raise NotFound(f"There is no object {digest}.", where=digest, next_action="Put it.")
        if hashlib.sha256(data).hexdigest() != digest:
            raise Corrupt(
                f"The object {digest} is damaged: its bytes are not what was put.",
                code="OBJECT_CORRUPT",
                where=digest,
                next_action="Put the same bytes again.",
            )
        return data

    def open_path(self, digest: str) -> Path:
        data = self.get(digest)
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="skyriver-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            path = self._folder / digest
            if not path.exists() or path.read_bytes() != data:
                path.unlink(missing_ok=True)
                path.write_bytes(data)
                path.chmod(0o400)
        return path

    def verify(self, digest: str) -> None:
        self.get(digest)

    def has(self, digest: str) -> bool:
        check_digest(digest)
        with self._lock:
            return digest in self._objects

    def delete(self, digest: str) -> None:
        check_digest(digest)
        with self._lock:
            self._objects.pop(digest, None)
            if self._folder is not None:
                (self._folder / digest).unlink(missing_ok=True)
