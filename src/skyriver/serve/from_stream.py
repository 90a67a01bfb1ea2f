"""What a replica is told of the stream that its model's features are read from: its live settings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import FeatureSetSpec, FromStreamSpec


def declared_of(service: Resource) -> FromStreamSpec | None:
    """Services of releases that knew none have none."""
    told = service.spec["serve"].get("features")
    return FromStreamSpec.model_validate(told) if told else None


def stream_waited_for(snapshot: Snapshot, service: Resource) -> Iterator[str]:
    """The stream that its features are read from, while that is not as it should be."""
    declared = declared_of(service)
    stream = snapshot.find(service.tenant, "stream", declared.stream) if declared is not None else None
    if stream is not None and stream.state != "READY":
        yield stream.ref


def live_of_replica(snapshot: Snapshot, replica: Resource) -> dict[str, Any]:
    """{} where its version is not asked by key. Only a worker of the replica's own tenant is ever named."""
    service = snapshot.find(replica.tenant, *replica.parent.split("/", 1))
    declared = declared_of(service) if service is not None else None
    if service is None or declared is None:
        return {}
    version = snapshot.find(replica.tenant, "version", f"{service.name}:{replica.spec['version']}")
    stream = snapshot.find(replica.tenant, "stream", declared.stream)
    trained_on = version.spec.get("features") if version is not None else None
    if stream is None or not trained_on or not trained_on.get("spec"):
        return {}
    keys, reads = _asked_by(_TrainedOn(trained_on["digest"], trained_on["spec"]))
    return {
        "from_stream": {
            "stream": stream.name,
            "socket": _socket(snapshot, stream),
            "features": trained_on["digest"],
            "keys": list(keys),
            "reads": list(reads),
            "fields": stream.spec["stream"]["fields"],
            "on_unknown": declared.on_unknown,
            "on_old": declared.on_old,
            "max_age_us": declared.max_age_us,
            "fallback": declared.fallback,
        }
    }


@dataclass(frozen=True, slots=True)
class _TrainedOn:
    digest: str
    spec: Mapping[str, Any] = field(compare=False)


@lru_cache(maxsize=1_024)  # each pass of the loop asks it for each replica
def _asked_by(features: _TrainedOn) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields that they look by, and those of the event that they read; the digest stands for both."""
    spec = FeatureSetSpec.model_validate(features.spec)
    return spec.keys, spec.columns()


def _socket(snapshot: Snapshot, stream: Resource) -> str:
    workers = (snapshot.processes.get(worker.process) for worker in snapshot.children(stream, "worker"))
    return next((process.socket for process in workers if process is not None), "")
