"""SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from skyriver.core.errors import Corrupt, Internal, InvalidInput, SkyriverError, Unavailable

Fault = tuple[type[SkyriverError], str, str, str]
"""(type, code, message, next action)"""

_BUSY: Fault = (
    Unavailable,
    "STORE_LOCKED",
    "Another process is writing the control state, and went on for too long.",
    "Try again; `fuser` shows who has the file open.",
)
_DENIED: Fault = (
    Unavailable,
    "STORE_UNREADABLE",
    "The control state cannot be opened.",
    "Check the path, its owner and its mode.",
)
_DAMAGED: Fault = (
    Corrupt,
    "STORE_CORRUPT",
    "The control state is damaged",
    "Stop the cloud, keep this file, and restore the last backup.",
)

_BY_CODE: dict[int, Fault] = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_CANTOPEN: _DENIED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_FULL: (
        Unavailable,
        "DISK_FULL",
        "The disk is full: nothing was written.",
        "Free space on this disk and try again.",
    ),
    sqlite3.SQLITE_READONLY: (
        Unavailable,
        "STORE_READ_ONLY",
        "The control state cannot be written: the file or its disk is read-only.",
        "Check the file's owner and mode, and how its disk is mounted.",
    ),
    sqlite3.SQLITE_IOERR: (
        Unavailable,
        "STORE_DISK_ERROR",
        "The disk failed while the control state was read or written.",
        "Look into the system's log for errors of this disk.",
    ),
    sqlite3.SQLITE_TOOBIG: (
        InvalidInput,
        "TOO_LARGE",
        "A row is larger than the control state can keep.",
        "Keep large content as an object and name its digest.",
    ),
}

# What a damaged file makes of statements that are right: the drivers give these no code, or the general one.
_DAMAGE_WORDS = ("could not decode to utf-8", "malformed", "no such table", "no such column")


@contextmanager
def translated(path: Path, driver: ModuleType) -> Iterator[None]:
    """Errors of SQLAlchemy and of `driver`, raised in the block, come out as SkyriverErrors."""
    try:
        yield
    except (SQLAlchemyError, driver.Error) as error:
        raise translate(error, path) from error
    except UnicodeDecodeError as error:  # the driver could not read its own message, which quotes damaged bytes
        raise damaged(path, "its schema is not text") from error
    except UnicodeEncodeError as error:
        raise InvalidInput("This text has half characters.", code="BAD_TEXT", where=ascii(error.object)) from error


def translate(error: BaseException, path: Path) -> SkyriverError:
    """The SkyriverError that says what `error` means for the user of the control state at `path`."""
    if isinstance(error, PoolTimeout):
        return Unavailable("Too many requests use the control state at once.", code="STORE_BUSY", where=str(path))
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if any(words in str(origin).lower() for words in _DAMAGE_WORDS):
        return damaged(path, str(origin))
    found = getattr(origin, "sqlite_errorcode", 0)
    # The lower byte is the primary result code; the rest refines it.
    fault = _BY_CODE.get(found & 0xFF) if isinstance(found, int) else None
    if fault is None:
        return Internal(f"The control state refused a statement: {origin}.", where=str(path))
    kind, code, message, action = fault
    if fault is _DAMAGED:
        return damaged(path, str(origin))
    return kind(message, code=code, where=str(path), next_action=action)


def damaged(path: Path, what: str) -> Corrupt:
    _, code, message, action = _DAMAGED
    return Corrupt(f"{message}: {what}.", code=code, where=str(path), next_action=action)
