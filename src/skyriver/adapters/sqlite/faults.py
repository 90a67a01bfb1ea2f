"""SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from skyriver.adapters.sql.faults import DAMAGED, DISK_ERROR, FULL, TOO_LARGE, Fault, busy, damaged, error_of
from skyriver.core.errors import Internal, SkyriverError, Unavailable, half_characters

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
_BY_CODE: dict[int, Fault] = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_CANTOPEN: _DENIED,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: (
        Unavailable,
        "STORE_READ_ONLY",
        "The control state cannot be written: the file or its disk is read-only.",
        "Check the file's owner and mode, and how its disk is mounted.",
    ),
    sqlite3.SQLITE_IOERR: DISK_ERROR,
    sqlite3.SQLITE_TOOBIG: TOO_LARGE,
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
        raise damaged(str(path), "its schema is not text") from error
    except UnicodeEncodeError as error:
        raise half_characters(error) from error


def translate(error: BaseException, path: Path) -> SkyriverError:
    """The SkyriverError that says what `error` means for the user of the control state at `path`."""
    if isinstance(error, PoolTimeout):
        return busy(str(path))
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if any(words in str(origin).lower() for words in _DAMAGE_WORDS):
        return damaged(str(path), str(origin))
    found = getattr(origin, "sqlite_errorcode", 0)
    # The lower byte is the primary result code; the rest refines it.
    fault = _BY_CODE.get(found & 0xFF) if isinstance(found, int) else None
    if fault is None:
        return Internal(f"The control state refused a statement: {origin}.", where=str(path))
    return damaged(str(path), str(origin)) if fault is DAMAGED else error_of(fault, str(path))
