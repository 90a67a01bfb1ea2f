"""Makes the roles and tables of a database, or brings them to the newest revision. Run by an administrator."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import Connection, create_engine, insert, text

from skyriver.adapters.postgres.faults import translated
from skyriver.adapters.postgres.migrations import REVISIONS
from skyriver.adapters.postgres.opening import parse_address, place_of
from skyriver.adapters.sql.faults import newer
from skyriver.adapters.sql.migrating import upgrade
from skyriver.adapters.sql.rows import Totals, totals_values
from skyriver.adapters.sql.schema import counters

SCRIPTS = Path(__file__).parent / "migrations"
GROUPS = ("skyriver_tenant", "skyriver_control", "skyriver_leases")
"""The roles that transactions take: see `opening`."""
_MUTEX = 0x736B7972
"""Of the advisory lock that two who prepare the same database hold in turn."""


def prepare(administrator: str, address: str) -> str:
    """Prepares the database at `address` for the role that is named there, over the address of an administrator.
    Returns the revision that it is at. Repeating it changes nothing. Raises Conflict (NEWER_STORE)."""
    admin, url = parse_address(administrator), parse_address(address)
    where = place_of(admin)
    engine = create_engine(admin)
    try:
        with translated(where), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:mutex)"), {"mutex": _MUTEX})
            _make_roles(connection, str(url.username), url.password or "")
            _migrate(connection, where)
    finally:
        engine.dispose()
    return REVISIONS[-1]


def _make_roles(connection: Connection, login: str, password: str) -> None:
    known = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
    for role in ("skyriver_owner", *GROUPS):
        if role not in known:
            _run(connection, sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    if login not in known:
        _run(connection, sql.SQL("CREATE ROLE {} LOGIN NOINHERIT").format(sql.Identifier(login)))
    if password:
        # What is sent and logged is its SCRAM digest.
        origin = connection.connection.driver_connection
        assert isinstance(origin, psycopg.Connection)
        secret = origin.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
        _run(connection, sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(secret)))
    for role in GROUPS:
        _run(connection, sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login)))
    _run(connection, sql.SQL("GRANT skyriver_owner TO CURRENT_USER"))
    # Roles are those of the whole server: without this the login of one cloud would get into the database of another.
    database = sql.Identifier(str(connection.scalar(text("SELECT current_database()"))))
    _run(connection, sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
    _run(connection, sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(login)))


def _migrate(connection: Connection, where: str) -> None:
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS skyriver AUTHORIZATION skyriver_owner"))
    connection.execute(text("SET LOCAL ROLE skyriver_owner"))
    connection.execute(text("SET LOCAL search_path = skyriver"))
    fresh = connection.scalar(text("SELECT to_regclass('skyriver.alembic_version')")) is None
    if not fresh:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if found not in REVISIONS:
            raise newer(where, str(found), REVISIONS[-1])
    upgrade(SCRIPTS, connection)
    if fresh:
        connection.execute(insert(counters), totals_values(Totals()))


def _run(connection: Connection, statement: sql.Composed | sql.SQL) -> None:
    connection.exec_driver_sql(statement.as_string(None))
