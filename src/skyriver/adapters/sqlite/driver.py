"""Which SQLite library is used, and how a connection of it is set up."""

from __future__ import annotations

import sqlite3
import time
from types import ModuleType
from typing import Literal, Protocol

try:
    import pysqlite3.dbapi2 as bundled
except ImportError:  # no wheel for this machine: the one that came with Python
    bundled = sqlite3

Journal = Literal["wal", "delete"]

SAFE_WAL = (3, 51, 3)
"""Versions before can corrupt a file in WAL mode when a checkpoint and a reset of the log meet."""

_RETRY_S = 0.01


class Cursor(Protocol):
    def execute(self, statement: str, /) -> object: ...

    def fetchone(self) -> tuple[object, ...] | None: ...


def newest_driver() -> ModuleType:
    """The DB-API module with the newest library. Never use two of them on one file in one process: closing a file in
    one drops the locks of the other."""
    newest: ModuleType = max((bundled, sqlite3), key=lambda module: module.sqlite_version_info)
    return newest


def journal_for(version: tuple[int, ...]) -> Journal:
    return "wal" if version >= SAFE_WAL else "delete"


def settings_of(journal: Journal, patience_us: int) -> tuple[str, ...]:
    """The statements that every connection begins with.

    FULL makes each commit of a WAL durable. With a rollback journal a commit is the removal of that journal, which only
    EXTRA (FULL, and the folder synced) makes durable: after FULL alone the end of the power may bring the journal back
    and undo the commit.
    """
    return (
        f"PRAGMA busy_timeout = {patience_us // 1000}",
        f"PRAGMA synchronous = {'FULL' if journal == 'wal' else 'EXTRA'}",
        "PRAGMA foreign_keys = ON",
        "PRAGMA cell_size_check = ON",
        "PRAGMA trusted_schema = OFF",
        "PRAGMA temp_store = MEMORY",
    )


def set_up(cursor: Cursor, driver: ModuleType, journal: Journal, patience_us: int) -> bool:
    """Sets up a new connection; False when the file cannot be brought into this journal mode."""
    for statement in settings_of(journal, patience_us):
        cursor.execute(statement)
    cursor.execute("PRAGMA journal_mode")
    if cursor.fetchone() == (journal,):
        return True
    # Changing it needs the file for oneself, and SQLite does not wait for that by itself.
    deadline = time.monotonic() + patience_us / 1e6
    while True:
        try:
            cursor.execute(f"PRAGMA journal_mode = {journal}")
            return cursor.fetchone() == (journal,)
        except driver.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
