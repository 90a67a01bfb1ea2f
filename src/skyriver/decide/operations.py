"""What a user can ask of streams: proving that what was recorded equals what a backfill computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import new_job, new_operation, next_number
from skyriver.core.resources import Resource, Snapshot, need


def plan_verify(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Recompute all recorded feature values of a stream from its log, and compare them bit for bit."""
    stream = need(snapshot.find(tenant, "stream", target), "stream", target)
    app = need(snapshot.find(tenant, *stream.parent.split("/", 1)), "app", stream.parent)
    if not stream.spec.get("features"):
        raise InvalidInput(
            f"{target} computes no features, so there is nothing to compare.",
            code="NO_FEATURES",
            next_action="Declare decisions with app.decide: the model's features are then computed on the stream.",
        )
    name = f"{target}-verify-{next_number(snapshot, tenant, 'job', f'{target}-verify')}"
    job = new_job(
        snapshot, app, kind="verify", target=target, name=name, lane=f"job/{name}", parent=f"operation/{name}"
    )
    return [new_operation(snapshot, tenant, name, action="verify", target=target, jobs=[name]), job]
