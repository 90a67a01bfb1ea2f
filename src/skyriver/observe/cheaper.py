"""A version that would do with less of a machine that does not do for all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skyriver.core.resources import Resource, Snapshot

CHEAPER: Final = 0.75
"""Of the time that a row alone takes."""


def rolls_out_cheaper(snapshot: Snapshot, service: Resource) -> str:
    """The sentence with its command; "" where there is none."""
    version = cheaper_version(snapshot, service)
    return f"`skyriver model alias {service.name} champion {version}` rolls a cheaper version out." if version else ""


def cheaper_version(snapshot: Snapshot, service: Resource) -> str:
    """The version whose row takes least alone, if that is less by a quarter than what serves. Only one that is newer,
    and that its gate has found no worse than what serves: what serves came after the older ones for a reason."""
    serving = service.spec.get("versions") or {}
    model = snapshot.find(service.tenant, "model", service.name)
    if model is None or not serving or not _compares(model):
        return ""
    newest, now, took = max(map(int, serving)), 0.0, dict[str, float]()
    for row in snapshot.all(service.tenant, "version"):
        name, _, version = row.name.partition(":")
        if name != service.name or not (speed := row.spec.get("speed")):
            continue
        if version in serving:
            now = min(now or speed["row"], speed["row"])
        elif int(version) > newest and _is_no_worse(row, serving):
            took[version] = speed["row"]
    cheapest = min(took, key=lambda version: took[version], default="")
    return cheapest if cheapest and took[cheapest] <= CHEAPER * now else ""


def _compares(model: Resource) -> bool:
    return bool(((model.spec.get("model") or {}).get("gate") or {}).get("against") == "champion")


def _is_no_worse(row: Resource, serving: Mapping[str, Any]) -> bool:
    """Than a version that serves; one that was rolled back has passed its gate too."""
    gate = row.status.get("gate") or {}
    compared = str(row.spec.get("champion", 0)) in serving and bool(row.spec.get("champion_metrics"))
    passed = row.state == "APPROVED" and bool(gate.get("passed"))
    return passed and compared and row.status.get("settled") != "bad"
