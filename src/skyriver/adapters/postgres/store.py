"""The control state in PostgreSQL, for several control planes of which one is active.

Commits come one after the other over the rows of the counters, which each holds until its end; readers see one moment
(REPEATABLE READ) and wait for nobody. A transaction that needs the rows of one tenant alone is closed to all others
by the database itself (row-level security): see `opening`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, bindparam, select, true
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.exc import DBAPIError

from skyriver.adapters.postgres.faults import UNSURE, is_away, translated
from skyriver.adapters.postgres.opening import become, check_prepared, open_engine, parse_address, place_of
from skyriver.adapters.sql.faults import error_of
from skyriver.adapters.sql.schema import resources, steps
from skyriver.adapters.sql.store import SqlStore

_KEY = ("tenant", "kind", "name")


class PostgresStore(SqlStore):
    """`Store` and `VerifiableAudit` in the database at `address`, which `preparing` made and migrates.

    A server that is away is Unavailable (STORE_AWAY), and used again when it is back. When it goes away in the very
    moment of a commit, nobody can know what became of that: Unavailable (STORE_UNSURE). Opening raises Conflict for
    a database that is not prepared or of a newer version, NotAllowed for a role that may see too much.
    """

    # The row of each step on its own, by its key: before PostgreSQL has gathered statistics, it would join by reading
    # both tables from end to end. The range has two ends for the same reason: one with one end is taken to be long.
    _row = select(resources).where(*(resources.c[part] == steps.c[part] for part in _KEY)).limit(1).lateral("now")
    _steps_after = (
        select(steps, _row)
        .outerjoin(_row, true())
        .where(steps.c.revision > bindparam("since"), steps.c.revision <= bindparam("until"))
        .order_by(steps.c.revision)
    )

    def __init__(self, address: str, *, patience_us: int = 5_000_000) -> None:
        url = parse_address(address)
        super().__init__(place_of(url), upsert=Insert, patience_us=patience_us)
        self._engine = open_engine(url, patience_us)
        self._readers = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        try:
            with self._reading(None) as connection:
                check_prepared(connection, self._where)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _transaction(self, tenant: str | None, *, writing: bool) -> Iterator[Connection]:
        with translated(self._where), self._begun(tenant, writing) as connection:
            try:
                yield connection
            except BaseException:
                if not connection.invalidated:
                    connection.rollback()
                raise
            try:
                connection.commit()
            except DBAPIError as error:
                if writing and is_away(error):
                    raise error_of(UNSURE, self._where) from error
                raise

    @contextmanager
    def _begun(self, tenant: str | None, writing: bool) -> Iterator[Connection]:
        """A connection whose transaction has begun. One that was kept may have ended with its server meanwhile: nothing
        was done on it, so a new one is taken."""
        engine = self._engine if writing else self._readers
        connection = engine.connect()
        try:
            self._narrow(connection, tenant)
        except DBAPIError as error:
            connection.close()
            if not is_away(error):
                raise
            connection = engine.connect()
            self._narrow(connection, tenant)
        with connection:
            yield connection

    def _narrow(self, connection: Connection, tenant: str | None) -> None:
        if tenant is None:
            become(connection, "skyriver_control")
        else:
            become(connection, "skyriver_tenant", tenant)

    def _dispose(self) -> None:
        self._engine.dispose()
