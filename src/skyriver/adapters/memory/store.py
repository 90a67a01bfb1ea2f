"""The control state in memory: the twin of the SQLite store, for tests and simulations."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any

from skyriver.control.commit import KEPT_CHANGES, Step, check_fence, check_page, decide, is_known, key_of, missing
from skyriver.control.store import Changes
from skyriver.core.resources import AuditEntry, Change, Key, Resource
from skyriver.trust.audit import EMPTY, AuditHead, AuditRow, verify


class MemoryStore:
    """`Store` and `VerifiableAudit` in this process; durable for as long as it lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[Key, Resource] = {}
        self._audit: list[AuditRow] = []
        self._steps: deque[Step] = deque(maxlen=KEPT_CHANGES)
        self._revision = 0
        self._fence = 0

    def acquire(self, holder: str) -> int:
        with self._lock:
            self._fence += 1
            return self._fence

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        with self._lock:
            check_fence(fence, self._fence)
            current = {key: self._rows[key] for change in changes if (key := key_of(change)) in self._rows}
            head = self._audit[-1].head if self._audit else EMPTY
            outcome = decide(changes, audit, current, revision=self._revision, head=head, actor=actor, now=now)
            for key, row in outcome.final.items():
                if row is None:
                    self._rows.pop(key, None)
                else:
                    self._rows[key] = row
            self._audit.extend(outcome.audit)
            self._steps.extend(outcome.steps)
            self._revision = outcome.revision
            return [_copy(row) for row in outcome.puts]

    def get(self, tenant: str, kind: str, name: str) -> Resource:
        with self._lock:
            row = self._rows.get((tenant, kind, name))
            if row is None:
                raise missing(tenant, kind, name)
            return _copy(row)

    def rows(
        self, tenant: str | None = None, kind: str | None = None, *, after: str = "", limit: int | None = None
    ) -> list[Resource]:
        check_page(tenant, kind, after, limit)
        with self._lock:
            found = [
                row
                for (of, what, name), row in sorted(self._rows.items())
                if tenant in (None, of) and kind in (None, what) and (not after or name > after)
            ]
            return [_copy(row) for row in found[:limit]]

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
        with self._lock:
            rows = self._audit[: after - 1 if after else None][::-1] if newest else self._audit[max(after, 0) :]
            found = [
                row
                for row in rows
                if row.tenant == tenant and row.at >= since and (not target or f"/{row.target}".endswith(f"/{target}"))
            ]
            return [
                {
                    "seq": row.seq,
                    "at": row.at,
                    "tenant": row.tenant,
                    "actor": row.actor,
                    "permission": row.permission,
                    "action": row.action,
                    "target": row.target,
                    "details": deepcopy(dict(row.details)),
                }
                for row in found[:limit]
            ]

    def verify_audit(self, *, seen: AuditHead | None = None) -> AuditHead:
        with self._lock:
            return verify(self._audit, seen=seen)

    def revision(self) -> int:
        with self._lock:
            return self._revision

    def since(self, revision: int) -> Changes | None:
        with self._lock:
            if not is_known(revision, self._revision, self._revision - len(self._steps)):
                return None
            new = self._revision - revision
            keys = sorted({step.key for step in islice(reversed(self._steps), new)})
            rows = [_copy(self._rows[key]) for key in keys if key in self._rows]
            return Changes(self._revision, rows, [key for key in keys if key not in self._rows])

    def close(self) -> None:
        """Nothing is held open."""


def _copy(row: Resource) -> Resource:
    return replace(row, spec=_document(row.spec), status=_document(row.status))


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _document(value: Any) -> Any:
    """A copy of a document. `deepcopy` would do too, and takes twice as long for what JSON has."""
    if type(value) is dict:
        return {name: _document(part) for name, part in value.items()}
    if type(value) is list:
        return [_document(part) for part in value]
    return value if type(value) in _PLAIN else deepcopy(value)
