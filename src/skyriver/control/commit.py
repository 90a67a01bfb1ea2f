"""What a commit makes of the rows it touches: pure, and the same for every implementation of `Store`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from skyriver.core.errors import InvalidInput, NotFound, StaleWrite
from skyriver.core.names import canonical_json
from skyriver.core.resources import AuditEntry, Change, Delete, Key, Put, Resource
from skyriver.trust.audit import AuditHead, AuditRow, link

KEPT_CHANGES = 10_000
"""How many of the newest changes a store knows one by one. A reader further behind reads all rows, which for a store of
ten thousand rows costs no more than reading that many changes."""

_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Step:
    """One change that was made: the change number `revision` of the store wrote this row, or deleted it."""

    revision: int
    key: Key
    deleted: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """`puts`: the rows in the order of the Puts; `final`: what each touched key holds afterwards, None for nothing;
    `steps`: all changes, one for each revision up to `revision`, the newest one; `audit`: the rows to add, `head` the
    last of the chain."""

    puts: tuple[Resource, ...]
    final: Mapping[Key, Resource | None]
    steps: tuple[Step, ...]
    revision: int
    audit: tuple[AuditRow, ...]
    head: AuditHead


def key_of(change: Change) -> Key:
    match change:
        case Put(resource=resource):
            return resource.key
        case Delete():
            return (change.tenant, change.kind, change.name)
        case _:
            assert_never(change)


def decide(
    changes: Sequence[Change],
    audit: Sequence[AuditEntry],
    current: Mapping[Key, Resource],
    *,
    revision: int,
    head: AuditHead,
    actor: str,
    now: int,
) -> Outcome:
    """What `changes`, one after the other, make of the rows in `current` (those there are, of the keys in `changes`).

    Every change takes the next revision. Raises StaleWrite when a row is not at the expected revision, InvalidInput
    when something cannot be kept as it is. Nothing in the outcome is shared with what was given.
    """
    rows: dict[Key, Resource | None] = {key_of(change): None for change in changes}
    rows.update(current)
    touched: dict[Key, Resource | None] = {}
    puts, steps = [], []
    for change in changes:
        key = key_of(change)
        before = rows[key]
        found = before.revision if before is not None else 0
        if found != change.expected or (isinstance(change, Delete) and before is None):
            raise _stale(key, change.expected, found)
        revision += 1
        after = None
        if isinstance(change, Put):
            after = _written(change.resource, before, revision, actor, now)
            puts.append(after)
        rows[key] = touched[key] = after
        steps.append(Step(revision, key, deleted=after is None))
    linked = []
    for entry in audit:
        row = _linked(head, entry, now)
        linked.append(row)
        head = row.head
    return Outcome(tuple(puts), touched, tuple(steps), revision, tuple(linked), head)


def check_page(tenant: str | None, kind: str | None, after: str, limit: int | None) -> None:
    """Raises InvalidInput (BAD_PAGE) for a page that has no meaning."""
    if after and (tenant is None or kind is None):
        raise InvalidInput(
            f"after={after!r} names a place within one kind of one tenant.",
            code="BAD_PAGE",
            next_action="Give the tenant and the kind.",
        )
    if limit is not None and limit < 0:
        raise InvalidInput(f"limit={limit} is below 0.", code="BAD_PAGE", next_action="Ask for 0 rows or more.")


def is_known(since: int, revision: int, logged: int) -> bool:
    """Whether all changes after `since` are known, when those after `logged` are and `revision` is the newest one."""
    return logged <= since <= revision


def logged_after(logged: int, revision: int) -> int:
    """The revision after which all changes are kept, once `revision` is the newest one."""
    return max(logged, revision - KEPT_CHANGES)


def missing(tenant: str, kind: str, name: str) -> NotFound:
    return NotFound(
        f"There is no {kind} {name!r}.",
        where=f"{tenant}/{kind}/{name}",
        next_action=f"`skyriver {kind} list` shows what there is.",
    )


def check_fence(fence: int, newest: int) -> None:
    """Raises StaleWrite (FENCED) unless `fence` is the newest one that was given."""
    if fence != newest:
        raise StaleWrite(
            f"This control plane holds fence {fence}, and fence {newest} was given since: another one has taken over.",
            code="FENCED",
            next_action="End this control plane; the other one works.",
        )


def as_document(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of `value` as JSON gives it back. Raises InvalidInput (BAD_DOCUMENT) for what JSON cannot hold."""
    try:
        copied: dict[str, Any] = json.loads(canonical_json(dict(value)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"This cannot be kept as JSON: {error}.",
            code="BAD_DOCUMENT",
            where=where,
            next_action="Use text, finite numbers, booleans, null, lists and objects.",
        ) from error
    return copied


def _written(resource: Resource, before: Resource | None, revision: int, actor: str, now: int) -> Resource:
    where = f"{resource.tenant}/{resource.ref}"
    spec = as_document(resource.spec, where)
    after = replace(
        resource,
        spec=spec,
        status=as_document(resource.status, where),
        revision=revision,
        generation=1,
        created_at=now,
        created_by=actor,
        updated_at=now,
        updated_by=actor,
    )
    if before is not None:
        changed = canonical_json(spec) != canonical_json(dict(before.spec))
        after = replace(
            after,
            generation=before.generation + changed,
            created_at=before.created_at,
            created_by=before.created_by,
        )
    _check(after, where)
    return after


def _check(resource: Resource, where: str) -> None:
    """Every database can keep the row exactly: text of whole characters, integers of 64 bits, a name that is one."""
    texts = (
        *resource.key,
        resource.state,
        resource.reason,
        resource.message,
        resource.next_action,
        resource.parent,
        resource.created_by,
    )
    numbers = (resource.since, resource.attempts, resource.created_at, resource.updated_at)
    if not resource.kind or not resource.name:
        raise InvalidInput("A row needs a kind and a name.", code="BAD_ROW", where=where, next_action="Give both.")
    if not all(_is_text(text) for text in texts):
        raise InvalidInput(
            "A row holds text with half characters.",
            code="BAD_ROW",
            where=ascii(where),
            next_action="Write it without lone surrogates.",
        )
    if any(
        "\0" in text for text in texts
    ):  # PostgreSQL cannot keep it; in documents JSON writes it in other characters
        raise InvalidInput(
            "A row holds text with the character 0.",
            code="BAD_ROW",
            where=ascii(where),
            next_action="Take the character out.",
        )
    if not all(-_INT64 <= number < _INT64 for number in numbers):
        raise InvalidInput(
            "A row holds a number of more than 64 bits.",
            code="BAD_ROW",
            where=where,
            next_action="Give a number from -2^63 to 2^63 - 1.",
        )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _linked(head: AuditHead, entry: AuditEntry, now: int) -> AuditRow:
    where = f"audit entry {entry.action!a}"
    plain = replace(entry, details=as_document(entry.details, where))
    if "\0" in "".join((entry.tenant, entry.actor, entry.permission, entry.action, entry.target)):
        raise InvalidInput(
            "An audit entry holds the character 0.",
            code="BAD_AUDIT_ENTRY",
            where=where,
            next_action="Take the character out.",
        )
    try:
        return link(head, plain, now)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"The audit entry cannot be kept: {error}.",
            code="BAD_AUDIT_ENTRY",
            where=where,
            next_action="Give texts in UTF-8, and details that JSON can hold.",
        ) from error


def _stale(key: Key, expected: int, found: int) -> StaleWrite:
    tenant, kind, name = key
    if not found:
        what = "it does not exist (any more)"
    elif not expected:
        what = "it exists already"
    else:
        what = f"it is at revision {found}, not {expected}"
    return StaleWrite(
        f"The {kind} {name!r} was changed by another writer: {what}.",
        where=f"{tenant}/{kind}/{name}",
        next_action="Read it again and repeat the change.",
    )
