"""Words of jobs that all rooms share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from skyriver.core.resources import Resource, Snapshot

ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
"""States that a job or an operation does not leave."""


class Progress(Protocol):
    """Tells how far a step of a job is; `total` 0 means that it is not known. Cheap: call it as often as you like."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


def new_job(
    snapshot: Snapshot,
    app: Resource,
    *,
    kind: str,
    target: str,
    name: str,
    lane: str,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    needs: Sequence[str] = (),
    tables: Sequence[str] = (),
    parent: str = "",
) -> Resource:
    """A job of `app` that does `kind` of work on `target`.

    `lane` names what it writes to: jobs of one lane run one after the other. `needs` are jobs whose outputs are
    its inputs; `tables` are those whose recorded versions it must know.
    """
    return Resource(
        tenant=app.tenant,
        kind="job",
        name=name,
        spec={
            "kind": kind,
            "app": app.spec["spec"],
            "code": app.spec["code"],
            "target": target,
            "params": dict(params or {}),
            "inputs": dict(inputs or {}),
            "needs": list(needs),
            "tables": list(tables),
            "lane": lane,
        },
        state="PENDING",
        parent=parent,
        since=snapshot.now,
    )


def new_operation(
    snapshot: Snapshot,
    tenant: str,
    name: str,
    *,
    action: str,
    target: str,
    jobs: Sequence[str] = (),
    follow: Sequence[str] = (),
) -> Resource:
    """What a caller waits for: done when `jobs` and all that they made, and the resources in `follow`, are."""
    return Resource(
        tenant=tenant,
        kind="operation",
        name=name,
        spec={"action": action, "target": target, "jobs": list(jobs), "follow": list(follow)},
        state="ACCEPTED",
        since=snapshot.now,
    )


def next_number(snapshot: Snapshot, tenant: str, kind: str, prefix: str) -> int:
    """One more than the highest N among the names PREFIX-N of a kind."""
    taken = (r.name for r in snapshot.all(tenant, kind))
    numbers = (n.rpartition("-") for n in taken)
    return max((int(n) for head, _, n in numbers if head == prefix and n.isdigit()), default=0) + 1
