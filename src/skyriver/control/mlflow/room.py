"""How much a tenant may have of what MLflow's clients log: characters in rows, bytes of files. Pure.

Rows are in the memory of the control plane. Each counts in whole pieces, and says how many in its status: so a sum over
all of them is due only when one grows by a piece.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from skyriver.control.mlflow.records import LOGGED, MOST, RUN, is_gone, put
from skyriver.core.errors import QuotaExceeded
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot

PIECE: Final = 4_000
"""Characters."""
MOST_CHARACTERS = 100_000_000
"""Of all experiments, runs and logged models of a tenant."""
_USE: Final = ("artifact_use", "mlflow")
"""Kind and name of the row that counts a tenant's bytes: files in rows come and go, and their objects stay."""


def fit(snapshot: Snapshot, tenant: str, changes: Sequence[Change]) -> Sequence[Change]:
    """The changes with the size of each row in it. What was deleted goes where its room is needed, the oldest first.
    Raises QuotaExceeded (TOO_MUCH)."""
    sized = [_sized(change) if isinstance(change, Put) else change for change in changes]
    more = sum(_growth(snapshot, change) for change in sized if isinstance(change, Put))
    if more <= 0:
        return sized
    rows = [row for kind in MOST for row in snapshot.all(tenant, kind)]
    over = sum(map(pieces, rows)) + more - MOST_CHARACTERS // PIECE
    return [*sized, *_making_room(snapshot, rows, sized, over)] if over > 0 else sized


def pieces(row: Resource) -> int:
    return int(row.status.get("pieces", 1))


def characters(row: Resource) -> int:
    """About so many."""
    return pieces(row) * PIECE


def _sized(change: Put) -> Put:
    row = change.resource
    if row.kind not in MOST:
        return change
    status = {name: value for name, value in row.status.items() if name != "pieces"}
    count = 1 + len(json.dumps([row.spec, status], ensure_ascii=False, default=dict)) // PIECE
    return replace(change, resource=replace(row, status={**status, "pieces": count} if count > 1 else status))


def _growth(snapshot: Snapshot, change: Put) -> int:
    if change.resource.kind not in MOST:
        return 0
    known = snapshot.find(*change.resource.key)
    return pieces(change.resource) - (pieces(known) if known is not None else 0)


def _making_room(
    snapshot: Snapshot, rows: Sequence[Resource], changes: Sequence[Change], over: int
) -> Iterator[Delete]:
    taken = {change.resource.key if isinstance(change, Put) else _key(change) for change in changes}
    gone = [row for row in rows if row.kind in (RUN, LOGGED) and row.key not in taken and is_gone(snapshot, row)]
    for row in sorted(gone, key=lambda row: row.since):
        yield Delete(*row.key, row.revision)
        over -= pieces(row)
        if over <= 0:
            return
    raise QuotaExceeded(
        f"What this tenant logged would have over {MOST_CHARACTERS:,} characters.",
        code="TOO_MUCH",
        where="runs",
        next_action="Delete runs and logged models that nobody needs: what is deleted makes room.",
    )


def _key(change: Delete) -> tuple[str, str, str]:
    return change.tenant, change.kind, change.name


# Files


def uploaded(snapshot: Snapshot, tenant: str) -> int:
    """Bytes of all files that were ever uploaded by MLflow's clients."""
    known = snapshot.find(tenant, *_USE)
    return int(known.status["bytes"]) if known is not None else 0


def with_upload(snapshot: Snapshot, tenant: str, size: int, most: int) -> Put:
    """Raises QuotaExceeded (TOO_MANY_BYTES)."""
    total = uploaded(snapshot, tenant) + size
    if total > most:
        raise too_many_bytes(most)
    kind, name = _USE
    row = snapshot.find(tenant, kind, name) or Resource(tenant, kind, name, state="COUNTED", since=snapshot.now)
    return put(replace(row, status={"bytes": total}))


def too_many_bytes(most: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"This tenant's MLflow clients have uploaded {most / 1e9:,.3g} GB of files, or would with this one, and that is"
        " what they may; files that are deleted count, for objects stay.",
        code="TOO_MANY_BYTES",
        where="artifacts",
        next_action="Keep the file elsewhere, or ask who runs the cloud for more (artifact_bytes in its cloud.json).",
    )
