"""The control state in one SQLite file.

One file holds everything, so that a commit is one transaction: rows, audit trail and counters change together or
not at all. The file is in WAL mode with synchronous=FULL: what `commit` returned survives the end of the power, and
readers never wait. Writers wait for each other, first in this process, then for other processes, both with a deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import Insert

from skyriver.adapters.sql.store import SqlStore
from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.faults import translated
from skyriver.adapters.sqlite.opening import BEGIN, examine, migrate, migrated, open_engine, prepare_file


class SqliteStore(SqlStore):
    """`Store` and `VerifiableAudit` on the file `path`, which is made and migrated as needed.

    Any number of threads may use one store; other processes may open the same file. `patience_us`: how long a call
    waits for another writer before it raises Unavailable (STORE_LOCKED). Opening raises Conflict for a file of a newer
    version or of something else, Corrupt, and Unavailable.
    """

    def __init__(self, path: Path, *, patience_us: int = 5_000_000, driver: ModuleType | None = None) -> None:
        self._path = path.absolute()
        super().__init__(str(self._path), upsert=Insert, patience_us=patience_us)
        self._driver = driver or newest_driver()
        prepare_file(self._path)
        self._engine = open_engine(self._path, self._driver, patience_us)
        try:
            with self._reading(None) as connection:
                examine(connection, self._path)
                current = migrated(connection, self._path)
            if not current:
                with self._writing() as connection:
                    migrate(connection, self._path)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _transaction(self, tenant: str | None, *, writing: bool) -> Iterator[Connection]:
        with translated(self._path, self._driver), self._engine.connect() as connection:
            if not writing:
                yield connection
                return
            connection = connection.execution_options(**{BEGIN: "BEGIN IMMEDIATE"})
            with connection.begin():
                yield connection

    def _narrow(self, connection: Connection, tenant: str | None) -> None:
        """A file has one owner, and no roles."""

    def _dispose(self) -> None:
        with translated(self._path, self._driver):
            self._engine.dispose()
