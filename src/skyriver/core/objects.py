"""The port for immutable bytes: artifacts, bundles, uploads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Objects(Protocol):
    """Content-addressed bytes. A digest is the SHA-256 (64 hex digits) of the content.

    MUST: after `put`/`put_file` return, the bytes survive the end of the process and of the power; what `get`
    and `open_path` give has the digest asked for, else Corrupt; putting the same bytes twice is one object; a put that
    fails or is killed leaves nothing that can be read. Any number of processes may use one store at a time.
    Raises NotFound for an unknown digest, InvalidInput for something that is no digest, Unavailable when
    the disk is full.
    """

    def put(self, data: bytes) -> str: ...

    def put_file(self, path: Path) -> str:
        """Takes a copy of a file of any size; returns its digest."""
        ...

    def put_stream(self, chunks: Iterator[bytes], limit: int) -> str:
        """InvalidInput (TOO_LARGE), and nothing kept, once more than `limit` bytes have come."""
        ...

    def get(self, digest: str) -> bytes: ...

    def open_path(self, digest: str) -> Path:
        """A local, read-only file with the object's bytes, verified."""
        ...

    def has(self, digest: str) -> bool: ...

    def delete(self, digest: str) -> None:
        """Silent when there is nothing to delete."""
        ...
