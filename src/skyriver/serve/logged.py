"""Of the live settings of a replica: by which bins it counts what it is asked. Pure."""

from __future__ import annotations

from typing import Any

from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import RetrainSpec


def log_of_replica(snapshot: Snapshot, version: Resource) -> dict[str, Any]:
    """{} where nobody compares it with the rows that `version` was trained on."""
    watch = snapshot.find(version.tenant, "watch", version.name.rpartition(":")[0])
    profile = version.spec.get("profile")
    if watch is None or not profile or not RetrainSpec.model_validate(watch.spec["retrain"]).drift:
        return {}
    return {"log": {"profile": profile}}
