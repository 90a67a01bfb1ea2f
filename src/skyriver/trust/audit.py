"""The audit trail as a chain: each row's digest covers the row before it, so that a changed row breaks all after it.

    digest_n = SHA-256(canonical JSON of [digest_(n-1), seq, at, tenant, actor, permission, action, target, details])

What the chain shows and what it does not. A row that was changed, removed from the middle, moved or inserted breaks
the chain at that row. Rows cut off at the end, or a chain written anew from some row on, leave a chain that is whole
in itself: they are found by a head that somebody noted elsewhere (`seen`), which must still be on the chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from skyriver.core.errors import Corrupt
from skyriver.core.names import digest
from skyriver.core.resources import AuditEntry


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The last row of a chain: to be noted outside of the cloud, and shown again to `verify`."""

    seq: int
    digest: str


EMPTY = AuditHead(0, "0" * 64)
"""The head of a chain without rows."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One entry in its place. `seq` counts from 1 without gaps; `at` is wall time in microseconds."""

    seq: int
    at: int
    tenant: str
    actor: str
    permission: str
    action: str
    target: str
    details: Mapping[str, Any]
    previous: str
    digest: str

    @property
    def head(self) -> AuditHead:
        return AuditHead(self.seq, self.digest)


class VerifiableAudit(Protocol):
    """A store whose audit trail can be examined as a whole."""

    def verify_audit(self, *, seen: AuditHead | None = None) -> AuditHead:
        """The head of the chain, all rows of all tenants examined. Raises Corrupt (AUDIT_TAMPERED) naming the row;
        with `seen`, a head noted earlier, also when that row is not on the chain any more."""
        ...


def row_digest(row: AuditRow) -> str:
    """What `row.digest` must be."""
    return digest(
        [
            row.previous,
            row.seq,
            row.at,
            row.tenant,
            row.actor,
            row.permission,
            row.action,
            row.target,
            dict(row.details),
        ]
    )


def link(head: AuditHead, entry: AuditEntry, at: int) -> AuditRow:
    """`entry` as the row after `head`. Raises TypeError or ValueError when its details are not JSON."""
    fields = (at, entry.tenant, entry.actor, entry.permission, entry.action, entry.target, entry.details)
    unsigned = AuditRow(head.seq + 1, *fields, previous=head.digest, digest="")
    return AuditRow(head.seq + 1, *fields, previous=head.digest, digest=row_digest(unsigned))


def check_row(row: AuditRow) -> AuditRow:
    """`row` itself, if it is what was written. Raises Corrupt (AUDIT_TAMPERED)."""
    if row_digest(row) != row.digest:
        raise _tampered(row.seq, "its content does not fit its digest")
    return row


def verify(rows: Iterable[AuditRow], *, start: AuditHead = EMPTY, seen: AuditHead | None = None) -> AuditHead:
    """The head after `rows`, which follow `start` in order. Raises Corrupt (AUDIT_TAMPERED) naming the first bad row,
    or the row of `seen` when that lies after `start` and is not what was seen."""
    head = start
    for row in rows:
        if row.seq != head.seq + 1:
            raise _tampered(head.seq + 1, "it is missing")
        if row.previous != head.digest:
            raise _tampered(row.seq, "it does not follow the row before it")
        head = check_row(row).head
        if seen is not None and head.seq == seen.seq and head != seen:
            raise _tampered(seen.seq, "it is not the row that was seen there")
    if seen is not None and seen.seq > head.seq:
        raise _tampered(seen.seq, "it was seen and is missing")
    return head


def _tampered(seq: int, why: str) -> Corrupt:
    return Corrupt(
        f"The audit trail was changed: row {seq}: {why}.",
        code="AUDIT_TAMPERED",
        where=f"audit row {seq}",
        next_action="Keep the file as evidence and compare it with a backup made before.",
    )
