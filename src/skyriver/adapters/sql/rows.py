"""Rows of the database as the words of `core`, and back; what comes back is checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyriver.adapters.sql.faults import damaged
from skyriver.adapters.sql.schema import checksum
from skyriver.control.commit import Step
from skyriver.control.store import Changes
from skyriver.core.names import canonical_json
from skyriver.core.resources import Key, Resource
from skyriver.trust.audit import EMPTY, AuditHead, AuditRow

Values = dict[str, Any]
"""Column -> text, integer or bytes."""


def resource_values(row: Resource) -> Values:
    """The columns of a row, with their checksum."""
    plain: dict[str, str | int] = {
        "tenant": row.tenant,
        "kind": row.kind,
        "name": row.name,
        "spec": canonical_json(dict(row.spec)).decode(),
        "status": canonical_json(dict(row.status)).decode(),
        "state": row.state,
        "reason": row.reason,
        "message": row.message,
        "next_action": row.next_action,
        "since": row.since,
        "parent": row.parent,
        "attempts": row.attempts,
        "revision": row.revision,
        "generation": row.generation,
        "created_at": row.created_at,
        "created_by": row.created_by,
        "updated_at": row.updated_at,
        "updated_by": row.updated_by,
    }
    return {**plain, "checksum": checksum(*plain.values())}


def resource_of(row: Sequence[Any], where: str) -> Resource:
    """Raises Corrupt when the row is not what was written."""
    *values, found = row
    if checksum(*values) != found:
        key = values[0], values[1], values[2]
        raise damaged(where, "a row fails its checksum, it seems to be {!r}/{!r}/{!r}".format(*key), row=key)
    tenant, kind, name, spec, status, *rest = values
    return Resource(tenant, kind, name, json.loads(spec), json.loads(status), *rest)


def audit_values(row: AuditRow) -> Values:
    return {
        "seq": row.seq,
        "at": row.at,
        "tenant": row.tenant,
        "actor": row.actor,
        "permission": row.permission,
        "action": row.action,
        "target": row.target,
        "details": canonical_json(dict(row.details)).decode(),
        "previous": row.previous,
        "digest": row.digest,
    }


def audit_of(row: Sequence[Any], where: str) -> AuditRow:
    """The row as it stands; whether it is what was written, its chain tells."""
    seq, at, tenant, actor, permission, action, target, details, previous, digest = row
    try:
        return AuditRow(seq, at, tenant, actor, permission, action, target, json.loads(details), previous, digest)
    except (TypeError, ValueError) as error:
        raise damaged(where, f"the details of audit row {seq} are not JSON") from error


def step_values(step: Step) -> Values:
    tenant, kind, name = step.key
    plain: dict[str, str | int] = {
        "revision": step.revision,
        "tenant": tenant,
        "kind": kind,
        "name": name,
        "deleted": int(step.deleted),
    }
    return {**plain, "checksum": checksum(*plain.values())}


def changes_of(found: Sequence[Sequence[Any]], since: int, revision: int, where: str) -> Changes:
    """What the steps after `since`, each with the columns of the row as it is now (None: there is none), tell.

    Raises Corrupt when one of them is missing, or when a row is not the one that its last step wrote.
    """
    last: dict[Key, Step] = {}
    rows: dict[Key, Resource] = {}
    for number, (at, tenant, kind, name, deleted, check, *row) in enumerate(found, since + 1):
        if at != number or checksum(at, tenant, kind, name, deleted) != check:
            raise damaged(where, f"its change {number} is missing or fails its checksum")
        key = (tenant, kind, name)
        last[key] = Step(at, key, bool(deleted))
        if row[0] is not None and key not in rows:
            rows[key] = resource_of(row, where)
    if len(found) != revision - since:
        raise damaged(where, f"its change {since + len(found) + 1} is missing")
    for key, step in last.items():
        if (rows[key].revision if key in rows else None) != (None if step.deleted else step.revision):
            raise damaged(where, f"the row {'/'.join(key)} is not the one that change {step.revision} left")
    return Changes(revision, [rows[key] for key in sorted(rows)], sorted(last.keys() - rows.keys()))


@dataclass(frozen=True, slots=True)
class Totals:
    """The counters: what is known of it as a whole."""

    revision: int = 0
    fence: int = 0
    audit: AuditHead = EMPTY
    count: int = 0
    """Of the resources there are, with the sum of their checksums, modulo 2^128."""
    total: int = 0
    logged: int = 0
    """The revision after which all changes are in the table of steps."""

    def changed(self, removed: Iterable[bytes], added: Iterable[bytes]) -> tuple[int, int]:
        """(count, total) after rows with these checksums went and came."""
        gone, new = list(removed), list(added)
        total = self.total + sum(map(_number, new)) - sum(map(_number, gone))
        return self.count + len(new) - len(gone), total % (1 << 128)


def _number(check: bytes) -> int:
    return int.from_bytes(check, "little")


def totals_values(totals: Totals) -> list[Values]:
    plain: list[tuple[str, int, str]] = [
        ("revision", totals.revision, ""),
        ("fence", totals.fence, ""),
        ("audit", totals.audit.seq, totals.audit.digest),
        ("resources", totals.count, f"{totals.total:032x}"),
        ("logged", totals.logged, ""),
    ]
    return [
        {"name": name, "value": value, "digest": digest, "checksum": checksum(name, value, digest)}
        for name, value, digest in plain
    ]


def totals_of(rows: Iterable[Sequence[Any]], where: str) -> Totals:
    """Raises Corrupt when a counter is missing or not what was written."""
    found: Mapping[str, tuple[int, str]] = {
        name: (value, digest) for name, value, digest, check in rows if checksum(name, value, digest) == check
    }
    try:
        (revision, _), (fence, _) = found["revision"], found["fence"]
        (count, total), (logged, _) = found["resources"], found["logged"]
        return Totals(revision, fence, AuditHead(*found["audit"]), count, int(total, 16), logged)
    except KeyError as error:
        raise damaged(where, f"the counter {error} is missing or fails its checksum") from error
