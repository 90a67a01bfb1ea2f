"""The port for immutable bytes: artifacts, bundles, uploads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from skyriver.core.errors import Corrupt, InvalidInput

_DIGEST = re.compile(r"[0-9a-f]{64}")


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


class VerifiableObjects(Objects, Protocol):
    """A store that can say whether it holds an object whole, without giving it.

    MUST: `verify` reads all bytes from where the store keeps them, not a copy that is nearer, and returns only if they
    have the digest. Raises Corrupt, NotFound, Unavailable, InvalidInput as `get` does.
    """

    def verify(self, digest: str) -> None: ...


class IdentifiedObjects(VerifiableObjects, Protocol):
    """A store that is told from every other one, whatever either is called.

    MUST: `identity` gives the same bytes each time that the same place is opened, and others for any other place, a new
    one under an old name too; it is made when it is asked for first, by one of those who ask, and goes with the objects
    when all of a place is copied. Raises Unavailable, NotAllowed, Conflict, Corrupt.
    """

    @property
    def place(self) -> str:
        """Its name for people."""
        ...

    def identity(self) -> bytes:
        """16 bytes."""
        ...


IDENTITY_BYTES = 16


def identity_of(text: bytes, where: str) -> bytes:
    """From what is kept in a place. Raises Corrupt."""
    try:
        identity = bytes.fromhex(text.decode())
    except ValueError:
        identity = b""
    if len(identity) != IDENTITY_BYTES:
        raise Corrupt(
            "The id of this place of objects is not what was written.",
            code="OBJECT_CORRUPT",
            where=where,
            next_action="Restore it from a backup.",
        )
    return identity


def check_digest(digest: str) -> str:
    """The digest itself. Raises InvalidInput (BAD_DIGEST) for what is none."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(
            f"{digest[:80]!r} is not a digest.",
            code="BAD_DIGEST",
            next_action="A digest is the SHA-256 of the content, as 64 digits of 0-9 and a-f.",
        )
    return digest
