"""From an address to an engine over a prepared database.

Roles. The role of the address may log in and can do nothing by itself (NOINHERIT). Each transaction takes one of three
roles, which own nothing and cannot log in: `skyriver_tenant` sees the rows of the tenant in the setting
`skyriver.tenant`, none without; `skyriver_control` sees all tenants, for the loop; `skyriver_leases` has the table of
the leases. The tables belong to `skyriver_owner`, which no running process becomes.
"""

from __future__ import annotations

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from skyriver.adapters.postgres.faults import UNPREPARED, UNSAFE_ROLE
from skyriver.adapters.postgres.migrations import REVISIONS
from skyriver.adapters.sql.faults import error_of, newer
from skyriver.core.errors import InvalidInput

_KEPT, _EXTRA = 4, 12
"""Connections kept open, and more at need; each is a process of the server."""
_CONNECT_S = 3
_LOST_MS = 3000
"""A connection whose other end is silent for so long is given up, and so is, by the server, a transaction whose
process was stopped in the middle: else it would hold the counters for ever, and nobody could take over."""
_STATEMENT_MS = 60_000


def parse_address(address: str) -> URL:
    """`postgresql://user@host:port/database?...`. Raises InvalidInput (BAD_STORE)."""
    try:
        url = make_url(address)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in ("postgresql", "postgres") or not url.username or not url.database:
        raise InvalidInput(
            "The address of the control state is not understood.",
            code="BAD_STORE",
            next_action="Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        )
    return url.set(drivername="postgresql+psycopg")


def place_of(url: URL) -> str:
    """The database as messages name it: without user and password."""
    host = url.host or url.query.get("host") or "localhost"
    return f"postgresql://{host}{f':{url.port}' if url.port else ''}/{url.database}"


def open_engine(url: URL, patience_us: int) -> Engine:
    patience_ms = max(patience_us // 1000, 1)
    engine = create_engine(
        url,
        connect_args={
            "connect_timeout": _CONNECT_S,
            "application_name": "skyriver",
            "keepalives_idle": 1,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": _LOST_MS,
        },
        pool_size=_KEPT,
        max_overflow=_EXTRA,
        pool_timeout=patience_us / 1e6,
    )

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for name, value in (
            ("search_path", "skyriver"),
            ("lock_timeout", str(patience_ms)),
            ("statement_timeout", str(max(_STATEMENT_MS, 2 * patience_ms))),
            ("idle_in_transaction_session_timeout", str(_LOST_MS)),
            ("synchronous_commit", "on"),
        ):
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        cursor.close()
        connection.commit()

    return engine


def become(connection: Connection, role: str, tenant: str = "") -> None:
    """The role of this transaction, from here on."""
    connection.execute(_BECOME, {"role": role, "tenant": tenant})


_BECOME = text("SELECT set_config('role', :role, true), set_config('skyriver.tenant', :tenant, true)")


def check_prepared(connection: Connection, where: str) -> None:
    """Raises Conflict (STORE_UNPREPARED, NEWER_STORE) and NotAllowed (STORE_UNSAFE_ROLE)."""
    unsafe = connection.scalar(
        text(
            "SELECT rolsuper OR rolbypassrls OR pg_has_role(session_user, 'skyriver_owner', 'MEMBER')"
            " FROM pg_roles WHERE rolname = session_user"
        )
    )
    if unsafe:
        raise error_of(UNSAFE_ROLE, where)
    found = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
    if len(found) != 1 or found[0] != REVISIONS[-1]:
        if len(found) == 1 and found[0] not in REVISIONS:
            raise newer(where, found[0], REVISIONS[-1])
        raise error_of(UNPREPARED, where)
