"""From a path to an engine over a whole, current file."""

from __future__ import annotations

import logging
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    create_engine,
    event,
    insert,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from skyriver.adapters.sql.faults import damaged, newer
from skyriver.adapters.sql.rows import Totals, totals_values
from skyriver.adapters.sql.schema import counters, metadata
from skyriver.adapters.sqlite.driver import SAFE_WAL, journal_for, set_up
from skyriver.adapters.sqlite.migrations import REVISIONS
from skyriver.core.errors import Conflict, NotAllowed, Unavailable
from skyriver.data.folders import make_folder, sync_folder

_log = logging.getLogger("skyriver.store")

SCRIPTS = Path(__file__).parent / "migrations"

_KEPT, _EXTRA = 4, 12
"""Connections kept open, and more at need. A reader has one for the time of one statement; one costs up to 2 MB."""

_EXAMINED_BYTES = 64 << 20
"""Files up to here are examined as a whole when they are opened: 5 ms a MB."""

_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own, as it makes it."""

BEGIN = "skyriver_begin"
"""Execution option of a connection: the statement that begins its transactions."""


def prepare_file(path: Path) -> None:
    """Makes the file, 0600, in a folder 0700, unless they are there. Raises NotAllowed (OPEN_FOLDER) for a folder that
    others may write: they could put another file in the place of this one."""
    try:
        make_folder(path.parent)
        if path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotAllowed(
                "The folder of the control state may be written by others.",
                code="OPEN_FOLDER",
                where=str(path.parent),
                next_action=f"Run `chmod 700 {shlex.quote(str(path.parent))}`.",
            )
        if path.exists():
            # By path, never by an open file: closing one would drop the locks that this process has on it.
            for suffix in ("", "-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).chmod(0o600)
        else:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)  # also when it was there: who made it may have been killed before this
    except OSError as error:
        raise Unavailable(
            f"The control state cannot be opened: {error.strerror}.",
            code="STORE_UNREADABLE",
            where=str(path),
            next_action="Check the path, its owner and its mode.",
        ) from error


def open_engine(path: Path, driver: ModuleType, patience_us: int) -> Engine:
    """An engine whose transactions begin with the statement of the option `BEGIN`, or a plain BEGIN."""
    journal = journal_for(driver.sqlite_version_info)
    if journal == "delete":
        _log.warning(
            "SQLite %s is older than %s: the control state is kept without a write-ahead log, commits are slower.",
            driver.sqlite_version,
            ".".join(map(str, SAFE_WAL)),
        )
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        module=driver,
        # No transactions of the driver's own: it begins none before a CREATE TABLE.
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": patience_us / 1e6},
        pool_size=_KEPT,
        max_overflow=_EXTRA,
        pool_timeout=patience_us / 1e6,
    )

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            if not set_up(cursor, driver, journal, patience_us):
                raise Unavailable(
                    f"The control state cannot be kept with a journal of the kind {journal!r} on this disk.",
                    code="STORE_JOURNAL",
                    where=str(path),
                    next_action="Keep it on a local disk: network disks cannot hold a write-ahead log.",
                )
        except BaseException:
            connection.close()
            raise

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(BEGIN, "BEGIN"))

    return engine


def migrated(connection: Connection, path: Path) -> bool:
    """Whether the file is at the newest revision.

    Raises Conflict for a file of a newer version (NEWER_STORE) and for one of something else (FOREIGN_STORE).
    """
    tables = set(connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")))
    if not tables:
        return False
    if "alembic_version" not in tables or "resources" not in tables:
        raise Conflict(
            "This SQLite file is not the control state of a Skyriver cloud.",
            code="FOREIGN_STORE",
            where=str(path),
            next_action="Choose another path for the home of the cloud.",
        )
    found = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
    if len(found) != 1:
        raise damaged(str(path), f"it names {len(found)} versions of itself")
    if found[0] not in REVISIONS:
        raise newer(str(path), found[0], REVISIONS[-1])
    return bool(found[0] == REVISIONS[-1])


def examine(connection: Connection, path: Path) -> None:
    """Raises Corrupt when pages, indexes and rows do not fit together: a damaged index would hide rows."""
    if path.stat().st_size > _EXAMINED_BYTES:
        return
    found = connection.scalars(text("PRAGMA integrity_check(1)")).first()
    if found != "ok":
        raise damaged(str(path), str(found))


def migrate(connection: Connection, path: Path) -> None:
    """Brings the file to the newest revision, inside the writing transaction that `connection` is in."""
    if migrated(connection, path):
        return  # another process did, while this one waited
    if not connection.scalar(text("SELECT count(*) FROM sqlite_master")):
        _make(connection)
        return
    from skyriver.adapters.sql.migrating import upgrade  # weight: Alembic is 200 ms and 11 MB, and seldom needed

    upgrade(SCRIPTS, connection)


def _make(connection: Connection) -> None:
    """What all migrations would leave of an empty file, in one go and without Alembic: a test compares the two."""
    metadata.create_all(connection, checkfirst=False)
    _version.create(connection)
    connection.execute(insert(_version), {"version_num": REVISIONS[-1]})
    connection.execute(insert(counters), totals_values(Totals()))
