"""Whether any number of replicas keeps what a service declares, and answers at all, by what its model takes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.jobs import Capacity
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND, format_span

LONGEST_ROW_US = 60 * SECOND
"""What tells of more is no measure."""


def row_us(snapshot: Snapshot, service: Resource) -> float:
    """That one row takes the model alone, by the fastest of its replicas; 0: not known yet."""
    processes = (snapshot.processes.get(r.process) for r in snapshot.children(service, "replica"))
    told = (process.report.get("row_us") for process in processes if process is not None)
    return min((us for us in told if isinstance(us, int | float) and 0 < us < LONGEST_ROW_US), default=0.0)


def never_answers(snapshot: Snapshot, service: Resource) -> str:
    """Why no request can be answered, where one row was ended in each of its replicas when they started, and nothing
    was answered since; "" where it is not known, or some may be."""
    reports = (_report(snapshot, replica) for replica in snapshot.children(service, "replica"))
    ready = [report for report in reports if report.get("ready")]
    ended = [
        us for report in ready if isinstance(us := report.get("ended_us"), int | float) and 0 < us < LONGEST_ROW_US
    ]
    if not ready or len(ended) < len(ready):
        return ""
    return (
        f"no request can be answered: one row takes the model longer than {format_span(int(min(ended)))}, after which a"
        " run is ended; serve a faster model: more replicas do not help"
    )


def _report(snapshot: Snapshot, replica: Resource) -> Mapping[str, Any]:
    process = snapshot.processes.get(replica.process)
    return process.report if process is not None and process.alive else {}


def told_if_impossible(snapshot: Snapshot, service: Resource, serve: ServiceSpec) -> dict[str, str]:
    """What its row says while it serves; nothing where some number of replicas may do."""
    if why := never_answers(snapshot, service):
        return _told("NEVER_ANSWERS", f"{why[:1].upper()}{why[1:]}")
    if not serve.latency or not (why := serve.cannot_keep(row_us(snapshot, service))):
        return {}
    return _told("CANNOT_KEEP", why)


def told_if_larger(name: str, serve: ServiceSpec, machine: Capacity | None) -> dict[str, str]:
    """What its row says while it serves and one replica of it declares more than the whole machine has; nothing else.
    It serves all the same, for what is declared is what others leave to it, and what is paid."""
    asked = Capacity(serve.cpus, serve.memory_mb)
    if machine is None or machine.fits(asked):
        return {}
    why = (
        f"One replica of {name} declares {asked}, and this machine has {machine}: beside it no service that follows the"
        " load gets another replica, and it is billed for what it declares"
    )
    return _told("LARGER_THAN_MACHINE", f"{why}; declare what a replica uses (cpus=, memory_mb=)")


def _told(reason: str, why: str) -> dict[str, str]:
    why, _, action = why.partition("; ")
    return {"reason": reason, "message": f"{why}.", "next_action": f"{action[:1].upper()}{action[1:]}."}
