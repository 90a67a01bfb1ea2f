"""Whether any number of replicas keeps what a service declares, by what its model takes alone."""

from __future__ import annotations

from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND

LONGEST_ROW_US = 60 * SECOND
"""What tells of more is no measure."""


def row_us(snapshot: Snapshot, service: Resource) -> float:
    """That one row takes the model alone, by the fastest of its replicas; 0: not known yet."""
    processes = (snapshot.processes.get(r.process) for r in snapshot.children(service, "replica"))
    told = (process.report.get("row_us") for process in processes if process is not None)
    return min((us for us in told if isinstance(us, int | float) and 0 < us < LONGEST_ROW_US), default=0.0)


def told_if_impossible(snapshot: Snapshot, service: Resource, serve: ServiceSpec) -> dict[str, str]:
    """What its row says while it serves; nothing where some number of replicas may do."""
    if not serve.latency or not (why := serve.cannot_keep(row_us(snapshot, service))):
        return {}
    why, _, action = why.partition("; ")
    return {"reason": "CANNOT_KEEP", "message": f"{why}.", "next_action": f"{action[:1].upper()}{action[1:]}."}
