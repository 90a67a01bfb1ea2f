"""The control state in one SQLite file.

One file holds everything, so that a commit is one transaction: rows, audit trail and counters change together or
not at all. The file is in WAL mode with synchronous=FULL: what `commit` returned survives the end of the power, and
readers never wait. Writers wait for each other, first in this process, then for other processes, both with a deadline.
Every row is checked against its checksum when it is read, and all rows together against the counters.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.faults import damaged, translated
from skyriver.adapters.sqlite.opening import BEGIN, examine, migrate, migrated, open_engine, prepare_file
from skyriver.adapters.sqlite.rows import (
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
from skyriver.adapters.sqlite.schema import audit as audit_table
from skyriver.adapters.sqlite.schema import counters, fences, resources, steps, tenants
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
from skyriver.core.errors import Corrupt, Unavailable
from skyriver.core.resources import AuditEntry, Change, Key, Resource
from skyriver.trust.audit import AuditHead, check_row, verify

_KEY = (resources.c.tenant, resources.c.kind, resources.c.name)
_SET_RESOURCE = upsert(resources)
_SET_RESOURCE = _SET_RESOURCE.on_conflict_do_update(
    index_elements=_KEY,
    set_={column.name: _SET_RESOURCE.excluded[column.name] for column in resources.c if not column.primary_key},
)
_SET_COUNTER = upsert(counters)
_SET_COUNTER = _SET_COUNTER.on_conflict_do_update(
    index_elements=[counters.c.name],
    set_={name: _SET_COUNTER.excluded[name] for name in ("value", "digest", "checksum")},
)
_STEPS_AFTER = (
    select(steps, resources)
    .outerjoin(resources, and_(*(steps.c[column.name] == column for column in _KEY)))
    .where(steps.c.revision > bindparam("since"))
    .order_by(steps.c.revision)
)
_KEPT_FENCES = 100
_AUDIT_PAGE = 1000
"""Rows of the trail that are in memory at once while it is verified."""


class SqliteStore:
    """`Store` and `VerifiableAudit` on the file `path`, which is made and migrated as needed.

    Any number of threads may use one store; other processes may open the same file. `patience_us`: how long a call
    waits for another writer before it raises Unavailable (STORE_LOCKED). Opening raises Conflict for a file of a newer
    version or of something else, Corrupt, and Unavailable.
    """

    def __init__(self, path: Path, *, patience_us: int = 5_000_000, driver: ModuleType | None = None) -> None:
        self._path = path.absolute()
        self._driver = driver or newest_driver()
        self._patience = patience_us / 1e6
        self._writer = threading.Lock()
        self._closed = False
        prepare_file(self._path)
        self._engine = open_engine(self._path, self._driver, patience_us)
        try:
            with self._reading() as connection:
                examine(connection, self._path)
                current = migrated(connection, self._path)
            if not current:
                with self._writing() as connection:
                    migrate(connection, self._path)
        except BaseException:
            self.close()
            raise

    def acquire(self, holder: str) -> int:
        with self._writing() as connection:
            totals = self._totals(connection)
            fence = totals.fence + 1
            connection.execute(insert(fences), {"fence": fence, "holder": holder, "at": time.time_ns() // 1000})
            connection.execute(delete(fences).where(fences.c.fence <= fence - _KEPT_FENCES))
            connection.execute(_SET_COUNTER, totals_values(replace(totals, fence=fence)))
        return fence

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        with self._writing() as connection:
            totals = self._totals(connection)
            check_fence(fence, totals.fence)
            if not changes and not audit:
                return []
            current: dict[Key, Resource] = {}
            checks: dict[Key, bytes] = {}
            for key in dict.fromkeys(map(key_of, changes)):
                row = connection.execute(_one(key)).first()
                if row is not None:
                    current[key] = resource_of(row, self._path)
                    checks[key] = row[-1]
            outcome = decide(changes, audit, current, revision=totals.revision, head=totals.audit, actor=actor, now=now)
            _write(connection, outcome, checks, totals, actor, now)
        return list(outcome.puts)

    def get(self, tenant: str, kind: str, name: str) -> Resource:
        with self._reading() as connection:
            row = connection.execute(_one((tenant, kind, name))).first()
        if row is None:
            raise missing(tenant, kind, name)
        return resource_of(row, self._path)

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
        with self._reading() as connection:
            found = connection.execute(query).all()
            totals = self._totals(connection) if whole else None
        rows = [resource_of(row, self._path) for row in found]
        if totals is not None:
            self._check_whole(found, totals)
        return rows

    def audit(self, tenant: str, *, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        check_page(tenant, None, "", limit)
        query = select(audit_table).where(audit_table.c.tenant == tenant, audit_table.c.seq > after)
        with self._reading() as connection:
            found = connection.execute(query.order_by(audit_table.c.seq).limit(limit)).all()
        rows = [check_row(audit_of(row, self._path)) for row in found]
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
        with self._reading() as connection:
            recorded = self._totals(connection).audit
            head = verify((audit_of(row, self._path) for row in connection.execute(query)), seen=seen)
        if head != recorded:
            raise Corrupt(
                f"The audit trail was changed: it ends at row {head.seq}, and {recorded.seq} rows were written.",
                code="AUDIT_TAMPERED",
                where=str(self._path),
                next_action="Keep the file as evidence and compare it with a backup made before.",
            )
        return head

    def revision(self) -> int:
        with self._reading() as connection:
            return self._totals(connection).revision

    def since(self, revision: int) -> Changes | None:
        with self._reading() as connection:
            totals = self._totals(connection)
            if not is_known(revision, totals.revision, totals.logged):
                return None
            if revision == totals.revision:
                return Changes(revision, [], [])
            found = connection.execute(_STEPS_AFTER, {"since": revision}).all()
        return changes_of(found, revision, totals.revision, self._path)

    def close(self) -> None:
        """Ends the use of the file; calls after it raise Unavailable (STORE_CLOSED)."""
        self._closed = True
        with self._translated():
            self._engine.dispose()

    def _totals(self, connection: Connection) -> Totals:
        return totals_of(connection.execute(select(counters)), self._path)

    def _check_whole(self, found: Sequence[Sequence[Any]], totals: Totals) -> None:
        """A row that a damaged page or index hides has no checksum to fail: it is missed in the sum of all."""
        count, total = Totals().changed([], [row[-1] for row in found])
        if (count, total) != (totals.count, totals.total):
            raise damaged(self._path, f"its {count} rows are not the {totals.count} that were written")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with translated(self._path, self._driver):
            yield

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._closed:
            raise Unavailable("The control state was closed.", code="STORE_CLOSED", where=str(self._path))
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One writing transaction: all of it happened when the block ends, nothing when it raises."""
        if not self._writer.acquire(timeout=self._patience):
            raise Unavailable(
                "Another thread is writing the control state, and went on for too long.",
                code="STORE_LOCKED",
                where=str(self._path),
                next_action="Try again.",
            )
        try:
            with self._reading() as connection:
                connection = connection.execution_options(**{BEGIN: "BEGIN IMMEDIATE"})
                with connection.begin():
                    yield connection
        finally:
            self._writer.release()


def _is(key: Key) -> list[ColumnElement[bool]]:
    return [column == part for column, part in zip(_KEY, key, strict=True)]


def _one(key: Key) -> Select[Any]:
    return select(resources).where(*_is(key))


def _write(
    connection: Connection, outcome: Outcome, checks: Mapping[Key, bytes], totals: Totals, actor: str, now: int
) -> None:
    """Carries out what was decided. `checks`: the checksums of the rows as they were."""
    written = {key: resource_values(row) for key, row in outcome.final.items() if row is not None}
    for key in outcome.final.keys() & checks.keys() - written.keys():
        connection.execute(delete(resources).where(*_is(key)))
    if written:
        by = {"created_at": now, "created_by": actor, "updated_at": now, "updated_by": actor}
        new = [{"name": tenant, **by} for tenant in dict.fromkeys(tenant for tenant, _, _ in written)]
        connection.execute(upsert(tenants).on_conflict_do_nothing(), new)
        connection.execute(_SET_RESOURCE, list(written.values()))
    if outcome.audit:
        connection.execute(insert(audit_table), [audit_values(row) for row in outcome.audit])
    logged = logged_after(totals.logged, outcome.revision)
    if outcome.steps:
        connection.execute(insert(steps), [step_values(step) for step in outcome.steps])
        connection.execute(delete(steps).where(steps.c.revision <= logged))
    count, total = totals.changed(
        [checks[key] for key in outcome.final if key in checks],
        [values["checksum"] for values in written.values()],
    )
    after = replace(totals, revision=outcome.revision, audit=outcome.head, count=count, total=total, logged=logged)
    connection.execute(_SET_COUNTER, totals_values(after))
