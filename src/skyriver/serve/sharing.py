"""Of the live settings of a replica: which keys are another version's, while that has a share of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skyriver.core.declared import service_spec
from skyriver.core.names import BY_ENTITY
from skyriver.core.resources import Resource, Snapshot


def shared(service: Resource) -> str:
    """The version that has a share of the keys; "": none."""
    versions: Mapping[str, Any] = service.spec.get("versions", {})
    return next((version for version, told in versions.items() if told.get("key")), "")


def sharing_of_replica(
    snapshot: Snapshot, service: Resource | None, replica: Resource, sockets: Sequence[str]
) -> dict[str, Any]:
    """`sockets`: of the replicas that serve the version which has a share. They go to those of the champion; both count
    by places."""
    version = shared(service) if service is not None else ""
    own = str(replica.spec["version"])
    versions = service.spec["versions"] if service is not None else {}
    champion = next((v for v in versions if v != version), "")
    if service is None or not version or not champion or own not in (version, champion):
        return {}
    told, of_stream = versions[version], _key_of_stream(snapshot, service, versions[version]["key"])
    latency_us = service_spec(service.spec["serve"]).latency_us
    return {
        "sharing": {
            "champion": int(champion),
            "version": int(version),
            "percent": int(told["weight"]),
            "key": told["key"],
            "at": int(told["at"]),
            **of_stream,
            "sockets": list(sockets) if own != version else [],
            **({"latency_us": latency_us} if latency_us else {}),
        }
    }


def _key_of_stream(snapshot: Snapshot, service: Resource, key: str) -> dict[str, Any]:
    """What the stream's key is called that requests by entity name, and whether keys are whole numbers, as they are
    where a stream with such a key decides with the model or gives its features."""
    declared = (service.spec["serve"].get("features") or {}).get("stream")
    streams = snapshot.all(service.tenant, "stream")
    deciding = [s for s in streams if (s.spec.get("decide") or {}).get("model") == service.name]
    named = [s for s in streams if s.name == declared]
    for stream in named if key == BY_ENTITY else [*deciding, *named]:
        spec = stream.spec["stream"]
        field = next((field for field in spec["fields"] if field["name"] == spec["key"]), None)
        return {"field": spec["key"], "number": field is not None and field["type"] == "int"}
    return {"field": "", "number": False}
