"""`skyriver.decide.acting.database.Database` in one SQLite file of one process; in memory, without a path, its twin."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skyriver.adapters.sqlite.driver import journal_for, newest_driver, set_up
from skyriver.core.errors import Conflict, Corrupt, Internal, SkyriverError, Unavailable, disk_error
from skyriver.data.folders import make_folder, sync_folder

PATIENCE_US = 5_000_000
_EXAMINED_BYTES = 64 << 20
"""A file up to here is examined as a whole when it is opened; a larger one without its indexes."""
_FORMAT = 1
"""`PRAGMA user_version`; 0 is a new file."""
_APPLICATION = 0x736B7964
"""`PRAGMA application_id`: of our files alone."""


class SqliteFile:
    """Opens or makes the file. Raises Corrupt (DISPATCH_DAMAGED), Conflict (FOREIGN_FILE, NEWER_FILE), Unavailable."""

    def __init__(self, path: Path | None) -> None:
        self._where = str(path) if path is not None else ""
        self._driver = newest_driver()
        self._inside = False
        try:
            if path is not None:
                make_folder(path.parent)
                if not path.exists():
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                sync_folder(path.parent)
        except OSError as error:
            raise disk_error(error, "What was decided cannot be acted on", self._where) from error
        with self._translated():
            self._connection = self._driver.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=256
            )
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, path: Path | None) -> None:
        journal = journal_for(self._driver.sqlite_version_info)
        with self._translated():
            cursor = self._connection.cursor()
            if path is not None and not set_up(cursor, self._driver, journal, PATIENCE_US):
                raise Unavailable(
                    f"The state of the dispatcher cannot be kept with a journal of the kind {journal!r} on this disk.",
                    code="DISPATCH_DISK",
                    where=self._where,
                    next_action="Keep the cloud's home on a local disk.",
                )
            whole = path is None or path.stat().st_size <= _EXAMINED_BYTES
            [found] = cursor.execute(f"PRAGMA {'integrity' if whole else 'quick'}_check(1)").fetchone()
            if found != "ok":
                raise damaged(self._where, str(found))
            [application] = cursor.execute("PRAGMA application_id").fetchone()
            [version] = cursor.execute("PRAGMA user_version").fetchone()
            [tables] = cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and application != _APPLICATION:
                raise Conflict(
                    "This SQLite file is not of a dispatcher.",
                    code="FOREIGN_FILE",
                    where=self._where,
                    next_action="Move it away, and put the dispatcher's own file back if there was one.",
                )
            if version > _FORMAT:
                raise Conflict(
                    "The state of the dispatcher was written by a newer Skyriver.",
                    code="NEWER_FILE",
                    where=self._where,
                    next_action="Install the newer Skyriver again.",
                )
            cursor.execute(f"PRAGMA application_id = {_APPLICATION}")
            cursor.execute(f"PRAGMA user_version = {_FORMAT}")

    @contextmanager
    def transaction(self) -> Iterator[_Transaction]:
        if self._inside:
            raise Internal("A transaction was begun within another one.")
        with self._translated():
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            self._inside = True
            try:
                yield _Transaction(cursor)
                cursor.execute("COMMIT")
            except BaseException:
                with suppress(self._driver.Error):  # a full disk may have ended it already
                    cursor.execute("ROLLBACK")
                raise
            finally:
                self._inside = False
                cursor.close()

    def forget(self) -> None:
        """Writes the file anew: free pages keep what was in them, and the journal what was before."""
        with self._translated():
            cursor = self._connection.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            cursor.close()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise _told(error, self._where) from error


class _Transaction:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._cursor.execute(statement, values).fetchall()
        return found

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self._cursor.executemany(statement, rows)

    @property
    def changed(self) -> int:
        return int(self._cursor.rowcount)


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DISK = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def _told(error: Exception, where: str) -> SkyriverError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGE:
        return damaged(where, str(error))
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(
            "The disk is full: what was decided waits in the log.",
            code="DISK_FULL",
            where=where,
            next_action="Free space on this disk; it goes on by itself.",
        )
    if code in _DISK:
        return Unavailable(
            f"The state of the dispatcher cannot be read or written: {error}.",
            code="DISPATCH_DISK",
            where=where,
            next_action="Check the file's owner and mode, and look into the system's log for errors of this disk.",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(
            "Another process uses the state of the dispatcher.",
            code="DISPATCH_LOCKED",
            where=where,
            next_action="`fuser` shows who has the file open.",
        )
    return Internal(f"The state of the dispatcher refused a statement: {error}.", where=where)


def damaged(where: str, what: str) -> Corrupt:
    return Corrupt(
        f"The state of the dispatcher is damaged: {what}.",
        code="DISPATCH_DAMAGED",
        where=where,
        next_action="Keep a copy of it, and restore it from a backup. Without one, move it away and write the offset"
        " from which the log's decisions are to be acted on again into a file `begin` beside it: 0 for all that the log"
        " has; receivers know what they have by its id.",
    )
