"""Leases in a table of PostgreSQL: their time is that of the database's clock, statement by statement.

Nothing hangs on a connection that stays: a lease ends by its time alone. The clock that gives leases away is the
database's, that by which a holder counts is its own, begun before it asked: see the law in `core.leases`. When the
database's clock was set back, the time of a lease is cut to what it could be at most, counted from now, as soon as
somebody asks for it: so that nobody waits for a day.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from skyriver.adapters.postgres.faults import is_away, translated
from skyriver.adapters.postgres.opening import become, open_engine, parse_address, place_of
from skyriver.core.errors import Unavailable
from skyriver.core.leases import Lease, check_lease, lasts_until, lease_held, lease_lost

_CUT = text("UPDATE leases SET until = clock_timestamp() + ttl WHERE name = :name AND until > clock_timestamp() + ttl")
_ACQUIRE = text(
    "INSERT INTO leases AS held (name, holder, token, ttl, until)"
    " VALUES (:name, :holder, 1, :ttl * interval '1 microsecond', clock_timestamp() + :ttl * interval '1 microsecond')"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = held.token + 1, ttl = excluded.ttl,"
    " until = clock_timestamp() + excluded.ttl WHERE held.until <= clock_timestamp() RETURNING token"
)
_RENEW = text(
    "UPDATE leases SET until = clock_timestamp() + ttl WHERE name = :name AND token = :token AND until > '-infinity'"
)
_RELEASE = text("UPDATE leases SET until = '-infinity' WHERE name = :name AND token = :token")
_HELD = text("SELECT holder, token FROM leases WHERE name = :name AND until > clock_timestamp()")
_PATIENCE_US = 2_000_000


def _boot_time_us() -> int:
    """Also counts while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class PostgresLeases:
    """`Leases` in the database at `address`, which `preparing` made."""

    def __init__(self, address: str) -> None:
        url = parse_address(address)
        self._where = place_of(url)
        self._engine = open_engine(url, _PATIENCE_US)
        self._mine: dict[Lease, tuple[int, int]] = {}
        """(time to live, until when by the own clock)"""
        self._closed = False

    def acquire(self, name: str, holder: str, *, ttl_us: int) -> Lease:
        check_lease(name, holder, ttl_us)
        asked = _boot_time_us()
        with self._transaction() as connection:
            connection.execute(_CUT, {"name": name})
            token = connection.scalar(_ACQUIRE, {"name": name, "holder": holder, "ttl": ttl_us})
            held = connection.execute(_HELD, {"name": name}).first() if token is None else None
        if token is None:
            raise lease_held(name, held[0] if held else "")
        lease = Lease(name, holder, token)
        self._mine[lease] = (ttl_us, lasts_until(asked, ttl_us))
        return lease

    def renew(self, lease: Lease) -> None:
        if lease not in self._mine:
            raise lease_lost(lease)
        asked = _boot_time_us()
        with self._transaction() as connection:
            renewed = connection.execute(_RENEW, {"name": lease.name, "token": lease.token}).rowcount
        ttl_us, _ = self._mine.pop(lease, (0, 0))
        if not renewed or not ttl_us:
            raise lease_lost(lease)
        self._mine[lease] = (ttl_us, lasts_until(asked, ttl_us))

    def release(self, lease: Lease) -> None:
        if self._mine.pop(lease, None) is not None:
            with self._transaction() as connection:
                connection.execute(_RELEASE, {"name": lease.name, "token": lease.token})

    def holds(self, lease: Lease) -> bool:
        return _boot_time_us() < self._mine.get(lease, (0, 0))[1]

    def holder(self, name: str) -> Lease | None:
        with self._transaction() as connection:
            found = connection.execute(_HELD, {"name": name}).first()
        return Lease(name, *found) if found else None

    def close(self) -> None:
        self._closed = True
        self._mine.clear()
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._closed:
            raise Unavailable(
                "The leases were closed.",
                code="LEASES_CLOSED",
                where=self._where,
                next_action="Try again when the cloud is up: `skyriver ps` tells.",
            )
        with translated(self._where):
            connection = self._engine.connect()
            try:
                become(connection, "skyriver_leases")
            except DBAPIError as error:
                connection.close()
                if not is_away(error):
                    raise
                connection = self._engine.connect()  # the one that was kept had ended; nothing was done on it
                become(connection, "skyriver_leases")
            with connection:
                yield connection
                connection.commit()
