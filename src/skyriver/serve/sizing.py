"""What is measured of a service's replicas and kept for those that come: memory, threads, and what a run takes. Pure.

It stands in the service's status under "sizing", by version: {"memory_mb": what a replica is to have, "start_mb": what
one held when it began, "parallel": the threads that were best, "curve": what a run takes by its rows (`serve.curve`),
both with what they were measured for, "machine_cores": that a replica could use}. What a replica is told of it is in
its live settings: {"latency_us", "cores", "parallel", "curve"}, each only where there is something to tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from skyriver.core.declared import service_spec
from skyriver.core.resources import UNDECLARED_MB, Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import parse_duration
from skyriver.serve.curve import is_better

MARGIN: Final = 1.25
LEAST_MARGIN_MB: Final = 32.0
STEP_MB: Final = 16
"""What is kept is a multiple of it: it is not written anew for each MB."""
_MOST_SIZED: Final = 16_384
_sized: dict[tuple[int, int], tuple[Mapping[str, Any], ServiceSpec]] = {}
"""By the identity of what is declared, which is kept with it: several looks a second ask for it, of every service."""
ROOM: Final = 2.0
"""Times what it held when it began, that a replica may hold whose memory nobody declared; UNDECLARED_MB at least."""


def live_sizing(service: Resource | None, version: str) -> dict[str, Any]:
    """Of the live settings of a replica."""
    if service is None:
        return {}
    found: dict[str, Any] = {}
    serve: Mapping[str, Any] = service.spec["serve"]
    if serve.get("latency"):
        found["latency_us"] = parse_duration(serve["latency"])
    if (cores := int(serve.get("cpus", 1.0))) > 1:
        found["cores"] = cores
        if parallel := sizing_of(service, version).get("parallel"):
            found["parallel"] = parallel
    if curve := sizing_of(service, version).get("curve"):
        found["curve"] = curve
    return found


def sizing_of(service: Resource, version: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = service.status.get("sizing", {}).get(version, {})
    return found


def sizing_after(snapshot: Snapshot, service: Resource, replicas: Iterable[Resource]) -> dict[str, Any]:
    """With what the replicas tell now. Of a version that is gone nothing is kept."""
    kept: Mapping[str, Any] = service.status.get("sizing", {})
    found = {v: dict(kept.get(v, {})) for v in service.spec.get("versions", {})}
    for replica in replicas:
        process, told = snapshot.processes.get(replica.process), found.get(str(replica.spec["version"]))
        if told is None or process is None or not process.alive or not process.report.get("ready"):
            continue
        report = process.report
        if (peak := _number(report, "peak_mb")) and (needs := with_margin(peak)) > told.get("memory_mb", 0):
            told["memory_mb"] = needs
        if (start := _rounded(_number(report, "start_mb"))) > told.get("start_mb", 0):
            told["start_mb"] = start
        if cores := int(_number(report, "machine_cores")):
            told["machine_cores"] = cores
        parallel = report.get("parallel")
        if parallel and parallel != told.get("parallel") and _is_better_known(service, told.get("parallel"), parallel):
            told["parallel"] = parallel
        if (curve := report.get("curve")) and _is_better_curve(told, curve):
            told["curve"] = curve
    return {version: told for version, told in found.items() if told}


def starts_at_once(service: Resource) -> int:
    """Replicas that may start together while somebody waits for the first one: as many as the machine has cores, less
    one for who holds, decides and passes on. All of them where no replica has told yet."""
    sizing: Mapping[str, Any] = service.status.get("sizing", {})
    cores = [told["machine_cores"] for told in sizing.values() if told.get("machine_cores")]
    return max(1, min(cores) - 1) if cores else service_spec(service.spec["serve"]).most


def with_margin(peak_mb: float) -> int:
    """What a replica is to have that held so much at the most."""
    return _rounded(max(MARGIN * peak_mb, peak_mb + LEAST_MARGIN_MB))


def _rounded(megabytes: float) -> int:
    return math.ceil(megabytes / STEP_MB) * STEP_MB


def _number(report: Mapping[str, Any], what: str) -> float:
    value = report.get(what, 0)
    return max(0.0, float(value)) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _is_better_known(service: Resource, known: Mapping[str, Any] | None, told: Mapping[str, Any]) -> bool:
    """Whether it was measured for what is declared now, and what is known was not, or for fewer cores: two replicas
    that were measured at once would else take turns."""
    declared = live_sizing(service, "")
    cores, latency_us = declared.get("cores", 1), declared.get("latency_us", 0)

    def fits(parallel: Mapping[str, Any]) -> bool:  # a machine may have fewer cores than are declared
        return bool(parallel.get("latency_us") == latency_us) and 1 <= _number(parallel, "cores") <= cores

    if not fits(told):
        return False
    return known is None or not fits(known) or _moved(known, told) or _number(told, "cores") > _number(known, "cores")


def _is_better_curve(sizing: Mapping[str, Any], curve: Mapping[str, Any]) -> bool:
    """Whether it is worth to be kept, of the threads that are."""
    parallel = sizing.get("parallel")
    return is_better(sizing.get("curve"), curve) and (not parallel or parallel.get("threads") == curve["threads"])


def _moved(known: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    return bool(known.get("machine") != told.get("machine"))


def is_declared(serve: Mapping[str, Any]) -> bool:
    """Whether somebody said how much memory a replica needs. A row does not tell who declared what nobody declares."""
    return bool(serve.get("memory_mb", UNDECLARED_MB) != UNDECLARED_MB)


def memory_of(service: Resource) -> int:
    """MB that are set aside for a replica: what is declared, else what was measured, the most of its versions."""
    serve: Mapping[str, Any] = service.spec["serve"]
    if is_declared(serve):
        return int(serve["memory_mb"])
    sizing: Mapping[str, Any] = service.status.get("sizing", {})
    measured: int = max((told.get("memory_mb", 0) for told in sizing.values()), default=0)
    return measured or UNDECLARED_MB


def sized(service: Resource, serve: ServiceSpec) -> ServiceSpec:
    """What is declared (`serve`, of the service's row), with the memory that is set aside. Any thread."""
    memory, declared = memory_of(service), service.spec["serve"]
    if memory == serve.memory_mb:
        return serve
    known = _sized.get((id(declared), memory))
    if known is not None and known[0] is declared:
        return known[1]
    found = serve.model_copy(update={"memory_mb": memory})
    if len(_sized) >= _MOST_SIZED:
        _sized.clear()
    _sized[id(declared), memory] = declared, found
    return found


def allowed_mb(service: Resource, version: str) -> int:
    """That a replica may hold before it is said: what is declared, else UNDECLARED_MB, and twice what it began with."""
    serve: Mapping[str, Any] = service.spec["serve"]
    if is_declared(serve):
        return int(serve["memory_mb"])
    return max(UNDECLARED_MB, int(ROOM * sizing_of(service, version).get("start_mb", 0)))
