"""Requests that change something: planned and committed one at a time, each at most once for its key, each with its
audit row in the same transaction.

What was answered to a key is a row (kind `request`) written with the change itself. So a control plane that is killed
between its commit and its answer does nothing twice: the request that is repeated finds the row. A request that was
refused did nothing; it leaves no row, and is judged anew when it is repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import Header, Request

from skyriver.control.cloud import Cloud
from skyriver.control.routes import caller
from skyriver.core.errors import InvalidInput, StaleWrite, Unavailable
from skyriver.core.names import digest
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot
from skyriver.trust.permissions import Permission
from skyriver.trust.tokens import Identity

KEPT = 500
"""Answers kept of a tenant; the oldest go first."""
KEPT_US = 24 * 3_600 * 1_000_000
PRUNED = 8
"""Old answers that one request removes at most."""
TRIES = 5
PATIENCE_SECONDS = 10.0
"""For how long a request waits for those before it."""

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        pattern=r"^[\x21-\x7e]*$",
        description="Chosen by the caller, new for each thing to be done: a request that is repeated with its key gets"
        " the first answer, and nothing is done twice. Kept for 24 hours, and the newest 500.",
    ),
]


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks for what. `fingerprint` is of the whole request, "" for one that has no key."""

    identity: Identity
    permission: Permission
    action: str
    target: str
    key: str = ""
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """Of the row that remembers it: a key is its caller's own."""
        return digest([self.identity.name, self.key])[:32]


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be written and answered. Without `commit` nothing is, and nothing is remembered (a dry run)."""

    changes: Sequence[Change]
    answer: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)
    """For the audit row."""
    each: Sequence[Mapping[str, Any]] = ()
    """More audit rows, where one request does a thing to several."""
    commit: bool = True
    audited: bool = True
    """False: an audit row that is there already tells of it, or the row itself does."""
    wakes: bool = True
    """False: no step of a kind looks at these rows, so no pass of the loop is due for them."""


async def fingerprint(request: Request) -> str:
    """Of what is asked for: the same key with anything else is a mistake. FastAPI has the body already."""
    query = sorted(request.query_params.multi_items())
    return digest([request.method, request.url.path, query, digest(await request.body())])


class Mutations:
    """Carries them out. Any number of threads may call it; they wait for each other."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._turn = threading.Lock()

    def carry_out(self, call: Call, plan: Callable[[Snapshot], Planned]) -> Mapping[str, Any]:
        """The answer: of `plan` once it is committed, or the first one to the call's key. The plan is made anew when
        the loop moved a row between plan and commit. Raises what `plan` raises, InvalidInput
        (IDEMPOTENCY_KEY_REUSED), and Unavailable (BUSY, CONTROL_AWAY)."""
        with self._in_turn():
            for left in reversed(range(TRIES)):
                try:
                    return self._attempt(call, plan)
                except StaleWrite as error:
                    if error.code == "FENCED":
                        raise _followed() from error
                    if not left:
                        raise
        raise AssertionError("unreachable")

    def _attempt(self, call: Call, plan: Callable[[Snapshot], Planned]) -> Mapping[str, Any]:
        snapshot = self._cloud.loop.snapshot()
        known = snapshot.find(call.identity.tenant, "request", call.name) if call.key else None
        if known is not None and known.created_at > snapshot.now - KEPT_US:
            return _first_answer(known, call)
        planned = plan(replace(snapshot, asked_by=call.identity.name))
        if planned.commit:
            kept = [*_remember(snapshot, call, planned, known)] if call.key else []
            changes = [*planned.changes, *kept]
            details = (planned.details, *planned.each) if planned.audited else ()
            self._cloud.commit(
                call.identity, call.permission, call.action, call.target, changes, details, wakes=planned.wakes
            )
        return planned.answer

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=PATIENCE_SECONDS):
            raise Unavailable(
                "Other requests are being carried out, and it takes too long.",
                code="BUSY",
                next_action="Send the request again.",
            )
        try:
            yield
        finally:
            self._turn.release()


def _followed() -> Unavailable:
    """Nothing was done, and the next control plane will do it: for the caller this one is away."""
    return Unavailable(
        "Another control plane has taken over from this one.",
        code="CONTROL_AWAY",
        next_action="Send the request again: the other one answers.",
    )


def make_call(request: Request, permission: Permission, action: str, target: str, key: str, asked: str) -> Call:
    return Call(caller(request), permission, action, target, key, asked if key else "")


def _first_answer(known: Resource, call: Call) -> Mapping[str, Any]:
    if known.spec["fingerprint"] != call.fingerprint:
        raise InvalidInput(
            "This Idempotency-Key came with another request before.",
            code="IDEMPOTENCY_KEY_REUSED",
            where="Idempotency-Key",
            next_action="Use a new key for each thing to be done, and the same one only to repeat a request.",
        )
    answer: Mapping[str, Any] = known.spec["answer"]
    return answer


def _remember(snapshot: Snapshot, call: Call, planned: Planned, expired: Resource | None) -> Iterator[Change]:
    """The row of this answer, and the end of a few that are too old or too many."""
    tenant = call.identity.tenant
    if expired is not None:
        yield Delete(*expired.key, expired.revision)
    spec = {"fingerprint": call.fingerprint, "action": call.action, "target": call.target, "answer": planned.answer}
    yield Put(Resource(tenant, "request", call.name, spec=spec, state="ANSWERED", since=snapshot.now), 0)
    others = sorted((r for r in snapshot.all(tenant, "request") if r is not expired), key=lambda r: r.created_at)
    too_many = max(0, len(others) + 1 - KEPT)
    for place, row in enumerate(others[:PRUNED]):
        if place < too_many or row.created_at <= snapshot.now - KEPT_US:
            yield Delete(*row.key, row.revision)
