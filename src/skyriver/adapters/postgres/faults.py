"""PostgreSQL's errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from skyriver.adapters.sql.faults import DAMAGED, DISK_ERROR, FULL, TOO_LARGE, Fault, busy, damaged, error_of
from skyriver.core.errors import (
    Conflict,
    Internal,
    InvalidInput,
    NotAllowed,
    SkyriverError,
    Unavailable,
    half_characters,
)

AWAY: Fault = (
    Unavailable,
    "STORE_AWAY",
    "The PostgreSQL server cannot be reached.",
    "Check that it runs, and the address in SKYRIVER_STORE; it is tried again by itself.",
)
UNSURE: Fault = (
    Unavailable,
    "STORE_UNSURE",
    "The PostgreSQL server went away while it was told to commit: the change was kept whole, or not at all.",
    "Read what is there now, and repeat the change if it is not.",
)
UNPREPARED: Fault = (
    Conflict,
    "STORE_UNPREPARED",
    "The database is not prepared for this Skyriver.",
    "Run `python -m skyriver.wiring.database` with the address of a role that may make roles and tables.",
)
UNSAFE_ROLE: Fault = (
    NotAllowed,
    "STORE_UNSAFE_ROLE",
    "The role in the database's address could go around what keeps tenants apart.",
    "Use a role that is no superuser, has no BYPASSRLS and owns no table: the one that was made with the database.",
)
_LOCKED: Fault = (
    Unavailable,
    "STORE_LOCKED",
    "Another process is writing the control state, and went on for too long.",
    "Try again; pg_stat_activity shows who holds it.",
)
_DENIED: Fault = (
    Unavailable,
    "STORE_DENIED",
    "The PostgreSQL server does not let this role in.",
    "Check user and password in SKYRIVER_STORE, and the server's pg_hba.conf.",
)
_MISSING: Fault = (
    Unavailable,
    "STORE_MISSING",
    "The PostgreSQL server has no such database.",
    "Check the name of the database in SKYRIVER_STORE.",
)
_READ_ONLY: Fault = (
    Unavailable,
    "STORE_READ_ONLY",
    "The PostgreSQL server takes no writes: it is a standby, or was set read-only.",
    "Name the primary server in SKYRIVER_STORE.",
)
_FULL_UP: Fault = (
    Unavailable,
    "STORE_BUSY",
    "The PostgreSQL server has no room for this request now.",
    "Try again; raise max_connections or its memory when it happens often.",
)

_BY_STATE: dict[str, Fault] = {
    "08": AWAY,
    "57P": AWAY,  # shut down by an administrator, crashed, or starting up
    "25P03": AWAY,  # this process was stopped for so long that the server gave up its transaction
    "57P05": AWAY,
    "57014": _LOCKED,
    "55P03": _LOCKED,
    "40": _LOCKED,
    "28": _DENIED,
    "3D": _MISSING,
    "3F": UNPREPARED,
    "42501": UNPREPARED,
    "42P01": UNPREPARED,
    "22023": UNPREPARED,  # no such role
    "25006": _READ_ONLY,
    "53100": FULL,
    "53": _FULL_UP,
    "54": TOO_LARGE,
    "58": DISK_ERROR,
    "XX001": DAMAGED,
    "XX002": DAMAGED,
}
"""By SQLSTATE; the longest beginning counts."""


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of SQLAlchemy and psycopg, raised in the block, come out as SkyriverErrors."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error) as error:
        raise translate(error, where) from error
    except UnicodeEncodeError as error:
        raise half_characters(error) from error


def translate(error: BaseException, where: str) -> SkyriverError:
    """The SkyriverError that says what `error` means for the user of the database `where`."""
    if isinstance(error, PoolTimeout):
        return busy(where)
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    state = getattr(origin, "sqlstate", None) or ""
    fault = next((_BY_STATE[state[:n]] for n in (5, 3, 2) if state[:n] in _BY_STATE), None)
    if fault is DAMAGED:
        return damaged(where, str(origin).splitlines()[0])
    if fault is not None:
        return error_of(fault, where)
    if isinstance(origin, psycopg.DataError):
        return InvalidInput(
            "This text holds what PostgreSQL cannot keep.",
            code="BAD_TEXT",
            where=where,
            next_action="Leave the character with the code 0 out.",
        )
    if not state and isinstance(origin, psycopg.OperationalError | psycopg.InterfaceError):
        return _unconnected(str(origin), where)
    return Internal(f"The control state refused a statement: {origin}.", where=where)


_SAID = (("password authentication", _DENIED), ("pg_hba", _DENIED), ("role", _DENIED), ("database", _MISSING))


def _unconnected(text: str, where: str) -> SkyriverError:
    """Why there is no connection: libpq hands on what the server said, without its state."""
    said = text.rpartition("FATAL: ")[2].strip()
    for word, fault in _SAID if "FATAL: " in text else ():
        if word in said and "starting up" not in said and "shutting down" not in said:
            return error_of(fault, where)
    return error_of(AWAY, where)


def is_away(error: BaseException) -> bool:
    """Whether the connection ended, rather than the statement failed."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
