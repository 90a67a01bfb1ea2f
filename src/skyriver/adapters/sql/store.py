"""The control state in tables of a database, the same in each: what is read is checked, what is written is whole.

Every row is checked against its checksum when it is read, and all rows together against the counters. A commit begins
with the counters, which it holds until its end: so commits come one after the other, whoever makes them. Each database
gives the transactions: see `_transaction`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, func, insert, or_, select, tuple_

from skyriver.adapters.sql.faults import closed, damaged, locked_by_a_thread
from skyriver.adapters.sql.rows import (
    Totals,
    audit_of,
    audit_values,
    changes_of,
    resource_of,
    resource_values,
    step_values,
    totals_of,
    totals_values,
)
from skyriver.adapters.sql.schema import audit as audit_table
from skyriver.adapters.sql.schema import counters, fences, resources, steps, tenants
from skyriver.control.commit import (
    Outcome,
    check_fence,
    check_page,
    decide,
    is_known,
    key_of,
    logged_after,
    missing,
)
from skyriver.control.store import Changes
from skyriver.core.errors import Corrupt
from skyriver.core.resources import AuditEntry, Change, Key, Put, Resource
from skyriver.trust.audit import AuditHead, check_row, verify

if TYPE_CHECKING:  # each is weight for who uses the other
    from sqlalchemy.dialects import postgresql, sqlite

    Upsert = type[sqlite.Insert] | type[postgresql.Insert]

_KEY = (resources.c.tenant, resources.c.kind, resources.c.name)
_ONE = select(resources).where(*(column == bindparam(f"of_{column.name}") for column in _KEY))
_DELETE_ONE = delete(resources).where(*(column == bindparam(f"of_{column.name}") for column in _KEY))
_COUNTERS_HELD = select(counters).order_by(counters.c.name).with_for_update()
"""SQLite has no such clause and needs none: there one transaction writes at a time."""
_KEPT_FENCES = 100
_AUDIT_PAGE = 1000
"""Rows of the trail that are in memory at once while it is verified."""
_KEYS_AT_ONCE = 500


class SqlStore(ABC):
    """`Store` and `VerifiableAudit`. `where`: the database as messages name it; `patience_us`: how long a call waits
    for another writer before it raises Unavailable (STORE_LOCKED). Any number of threads may use one store."""

    _steps_after: Select[Any] = (
        select(steps, resources)
        .outerjoin(resources, and_(*(steps.c[column.name] == column for column in _KEY)))
        .where(steps.c.revision > bindparam("since"), steps.c.revision <= bindparam("until"))
        .order_by(steps.c.revision)
    )
    """The steps after a revision, each with the row as it is now."""

    def __init__(self, where: str, *, upsert: Upsert, patience_us: int) -> None:
        self._where = where
        self._patience = patience_us / 1e6
        self._writer = threading.Lock()
        self._closed = False
        new = upsert(resources)
        self._set_resource = new.on_conflict_do_update(
            index_elements=_KEY,
            set_={column.name: new.excluded[column.name] for column in resources.c if not column.primary_key},
        )
        value = upsert(counters)
        self._set_counter = value.on_conflict_do_update(
            index_elements=[counters.c.name],
            set_={name: value.excluded[name] for name in ("value", "digest", "checksum")},
        )
        self._add_tenant = upsert(tenants).on_conflict_do_nothing()

    @abstractmethod
    def _transaction(self, tenant: str | None, *, writing: bool) -> AbstractContextManager[Connection]:
        """One transaction: what was written in the block happened when it ends, and nothing when it raises. A reading
        one sees one moment. With a `tenant`, no other's rows need be seen. The database's errors come out as ours."""

    @abstractmethod
    def _dispose(self) -> None:
        """Closes the connections that are kept."""

    @abstractmethod
    def _narrow(self, connection: Connection, tenant: str | None) -> None:
        """From here on the transaction needs the rows of `tenant` alone; None: of all."""

    def acquire(self, holder: str) -> int:
        with self._writing() as connection:
            totals = self._held_totals(connection)
            fence = totals.fence + 1
            connection.execute(insert(fences), {"fence": fence, "holder": holder, "at": time.time_ns() // 1000})
            connection.execute(delete(fences).where(fences.c.fence <= fence - _KEPT_FENCES))
            connection.execute(self._set_counter, totals_values(replace(totals, fence=fence)))
        return fence

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        touched = {change.resource.tenant if isinstance(change, Put) else change.tenant for change in changes}
        touched |= {entry.tenant for entry in audit}
        with self._writing() as connection:
            totals = self._held_totals(connection)
            check_fence(fence, totals.fence)
            if not touched:
                return []
            self._narrow(connection, touched.pop() if len(touched) == 1 else None)
            current: dict[Key, Resource] = {}
            checks: dict[Key, bytes] = {}
            for row in _rows_of(connection, dict.fromkeys(map(key_of, changes))):
                found = resource_of(row, self._where)
                current[found.key], checks[found.key] = found, row[-1]
            outcome = decide(changes, audit, current, revision=totals.revision, head=totals.audit, actor=actor, now=now)
            self._write(connection, outcome, checks, totals, actor, now)
        return list(outcome.puts)

    def get(self, tenant: str, kind: str, name: str) -> Resource:
        with self._reading(tenant) as connection:
            row = connection.execute(_ONE, _bound((tenant, kind, name))).first()
        if row is None:
            raise missing(tenant, kind, name)
        return resource_of(row, self._where)

    def rows(
        self, tenant: str | None = None, kind: str | None = None, *, after: str = "", limit: int | None = None
    ) -> list[Resource]:
        check_page(tenant, kind, after, limit)
        query = select(resources).order_by(*_KEY)
        if tenant is not None:
            query = query.where(resources.c.tenant == tenant)
        if kind is not None:
            query = query.where(resources.c.kind == kind)
        if after:
            query = query.where(resources.c.name > after)
        if limit is not None:
            query = query.limit(limit)
        whole = tenant is None and kind is None and limit is None
        with self._reading(tenant) as connection:
            found = connection.execute(query).all()
            totals = self._totals(connection) if whole else None
        rows = [resource_of(row, self._where) for row in found]
        if totals is not None:
            self._check_whole(found, totals)
        return rows

    def audit(
        self,
        tenant: str,
        *,
        after: int = 0,
        limit: int = 100,
        newest: bool = False,
        since: int = 0,
        target: str = "",
    ) -> list[dict[str, Any]]:
        check_page(tenant, None, "", limit)
        column = audit_table.c
        query = select(audit_table).where(column.tenant == tenant)
        if after or not newest:
            query = query.where(column.seq < after if newest else column.seq > after)
        if since:
            query = query.where(column.at >= since)
        if target:  # LIKE would take letters of either case for the same
            begins = func.length(column.target) - len(target)
            query = query.where(or_(column.target == target, func.substr(column.target, begins) == f"/{target}"))
        with self._reading(tenant) as connection:
            found = connection.execute(query.order_by(column.seq.desc() if newest else column.seq).limit(limit)).all()
        rows = [check_row(audit_of(row, self._where)) for row in found]
        return [
            {
                "seq": row.seq,
                "at": row.at,
                "tenant": row.tenant,
                "actor": row.actor,
                "permission": row.permission,
                "action": row.action,
                "target": row.target,
                "details": row.details,
            }
            for row in rows
        ]

    def verify_audit(self, *, seen: AuditHead | None = None) -> AuditHead:
        query = select(audit_table).order_by(audit_table.c.seq).execution_options(yield_per=_AUDIT_PAGE)
        with self._reading(None) as connection:
            recorded = self._totals(connection).audit
            with connection.execute(query) as found:
                head = verify((audit_of(row, self._where) for row in found), seen=seen)
        if head != recorded:
            raise Corrupt(
                f"The audit trail was changed: it ends at row {head.seq}, and {recorded.seq} rows were written.",
                code="AUDIT_TAMPERED",
                where=self._where,
                next_action="Keep it as evidence and compare it with a backup made before.",
            )
        return head

    def revision(self) -> int:
        with self._reading(None) as connection:
            return self._totals(connection).revision

    def since(self, revision: int) -> Changes | None:
        with self._reading(None) as connection:
            totals = self._totals(connection)
            if not is_known(revision, totals.revision, totals.logged):
                return None
            if revision == totals.revision:
                return Changes(revision, [], [])
            found = connection.execute(self._steps_after, {"since": revision, "until": totals.revision}).all()
        return changes_of(found, revision, totals.revision, self._where)

    def close(self) -> None:
        """Ends the use of the database; calls after it raise Unavailable (STORE_CLOSED)."""
        self._closed = True
        self._dispose()

    def _totals(self, connection: Connection) -> Totals:
        return totals_of(connection.execute(select(counters)), self._where)

    def _held_totals(self, connection: Connection) -> Totals:
        """The counters, which nobody else writes until this transaction ends."""
        return totals_of(connection.execute(_COUNTERS_HELD), self._where)

    def _check_whole(self, found: Sequence[Sequence[Any]], totals: Totals) -> None:
        """A row that a damaged page or index hides has no checksum to fail: it is missed in the sum of all."""
        count, total = Totals().changed([], [row[-1] for row in found])
        if (count, total) != (totals.count, totals.total):
            raise damaged(self._where, f"its {count} rows are not the {totals.count} that were written")

    @contextmanager
    def _reading(self, tenant: str | None) -> Iterator[Connection]:
        if self._closed:
            raise closed(self._where)
        with self._transaction(tenant, writing=False) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One writing transaction. Threads of this process wait here rather than each with a connection."""
        if self._closed:
            raise closed(self._where)
        if not self._writer.acquire(timeout=self._patience):
            raise locked_by_a_thread(self._where)
        try:
            with self._transaction(None, writing=True) as connection:
                yield connection
        finally:
            self._writer.release()

    def _write(
        self,
        connection: Connection,
        outcome: Outcome,
        checks: Mapping[Key, bytes],
        totals: Totals,
        actor: str,
        now: int,
    ) -> None:
        """Carries out what was decided. `checks`: the checksums of the rows as they were."""
        written = {key: resource_values(row) for key, row in outcome.final.items() if row is not None}
        if gone := [_bound(key) for key in outcome.final if key in checks and key not in written]:
            connection.execute(_DELETE_ONE, gone)
        if written:
            by = {"created_at": now, "created_by": actor, "updated_at": now, "updated_by": actor}
            new = [{"name": tenant, **by} for tenant in dict.fromkeys(tenant for tenant, _, _ in written)]
            connection.execute(self._add_tenant, new)
            connection.execute(self._set_resource, list(written.values()))
        if outcome.audit:
            connection.execute(insert(audit_table), [audit_values(row) for row in outcome.audit])
        if outcome.steps:
            connection.execute(insert(steps), [step_values(step) for step in outcome.steps])
        self._narrow(connection, None)
        logged = logged_after(totals.logged, outcome.revision)
        if logged > totals.logged:
            connection.execute(delete(steps).where(steps.c.revision <= logged))
        count, total = totals.changed(
            [checks[key] for key in outcome.final if key in checks],
            [values["checksum"] for values in written.values()],
        )
        after = replace(totals, revision=outcome.revision, audit=outcome.head, count=count, total=total, logged=logged)
        connection.execute(self._set_counter, totals_values(after))


def _bound(key: Key) -> dict[str, str]:
    return {f"of_{column.name}": part for column, part in zip(_KEY, key, strict=True)}


def _rows_of(connection: Connection, keys: Iterable[Key]) -> Iterator[Sequence[Any]]:
    """The rows there are of these keys."""
    left = iter(keys)
    while some := list(islice(left, _KEYS_AT_ONCE)):
        query: Select[Any] = select(resources).where(tuple_(*_KEY).in_(some))
        if len(some) == 1:
            yield from connection.execute(_ONE, _bound(some[0]))
        else:
            yield from connection.execute(query)
