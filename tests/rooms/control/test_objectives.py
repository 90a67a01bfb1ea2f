"""Whether services keep their objectives, as callers of the API are told."""

from __future__ import annotations

from typing import Any

from skyriver.adapters.memory.compute import MemoryCompute
from skyriver.control.explain import explain, objectives
from skyriver.core.resources import Resource, Snapshot

ROWS = [Resource(tenant, "service", name, {"serve": {}}) for tenant in ("a", "b") for name in ("sale", "rent", "plain")]
SNAPSHOT = Snapshot({row.key: row for row in ROWS}, {}, {}, 1_795_000_000_000_000)


def view(_: Snapshot, service: Resource) -> Any:
    return {"name": service.name, "of": service.tenant} if service.name != "plain" else None


def test_each_is_told_of_its_own_services_that_declare_one() -> None:
    assert objectives(SNAPSHOT, "a", view) == [{"name": "rent", "of": "a"}, {"name": "sale", "of": "a"}]
    assert objectives(SNAPSHOT, "a", None) == []


def test_an_explanation_has_it_with_the_service() -> None:
    (told,) = explain(SNAPSHOT, {}, MemoryCompute(), "b", "rent", view)
    assert told["objective"] == {"name": "rent", "of": "b"}
    assert "objective" not in explain(SNAPSHOT, {}, MemoryCompute(), "b", "plain", view)[0]
    assert "objective" not in explain(SNAPSHOT, {}, MemoryCompute(), "b", "rent")[0]
