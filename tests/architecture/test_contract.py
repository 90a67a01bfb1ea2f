"""The API's contract is a file: a change of it is seen, and what would break callers is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from skyriver.core import contract
from skyriver.core.resources import Resource
from skyriver.wiring.contract import written

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def breaking(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What callers made for `before` may trip over in `after`."""
    now = dict(operations(after))
    found = []
    for name, was in operations(before):
        if name not in now:
            found.append(f"{name} is gone")
            continue
        then = now[name]
        if was["operationId"] != then["operationId"]:
            found.append(f"{name} was renamed from {was['operationId']}")
        found += [f"{name} no longer answers {s}" for s in was["responses"] if s < "400" and s not in then["responses"]]
        known = {(p["name"], p["in"]) for p in was.get("parameters", ())}
        found += [
            f"{name} needs {p['name']}"
            for p in then.get("parameters", ())
            if p.get("required") and (p["name"], p["in"]) not in known
        ]
    taken = {ref for _, o in operations(before) for ref in _refs(o.get("requestBody", {}))}
    for name, schema in before["components"]["schemas"].items():
        then = after["components"]["schemas"].get(name)
        if then is None:
            found.append(f"the schema {name} is gone")
        else:
            found += _breaking_schema(name, schema, then, taken=name in taken)
    return found


def _breaking_schema(name: str, was: dict[str, Any], now: dict[str, Any], *, taken: bool) -> Iterator[str]:
    for field, before in was.get("properties", {}).items():
        after = now.get("properties", {}).get(field)
        if after is None:
            yield f"{name}.{field} is gone"
            continue
        if gone := set(before.get("enum", ())) - set(after.get("enum", before.get("enum", ()))):
            yield f"{name}.{field} no longer knows {', '.join(sorted(gone))}"
        if before.get("type") != after.get("type"):
            yield f"{name}.{field} is {after.get('type')}, not {before.get('type')}"
    required, needed = set(was.get("required", ())), set(now.get("required", ()))
    changed = needed - required if taken else required - needed
    yield from (f"{name}.{f} {'is needed' if taken else 'may be missing'}" for f in sorted(changed))


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield str(value["$ref"]).rpartition("/")[2]
        for inner in value.values():
            yield from _refs(inner)


def test_the_file_is_what_the_code_gives(published: dict[str, Any]) -> None:
    now = written()
    if now != FILE.read_text():
        broken = breaking(published, json.loads(now))
        what = "; ".join(broken) or "nothing: only additions and texts"
        pytest.fail(f"The API's contract has changed. Breaks callers: {what}. `make docs` writes it anew.")


def test_it_is_valid_openapi(published: dict[str, Any]) -> None:
    assert published["openapi"].startswith("3.1")
    assert [str(e) for e in OpenAPIV31SpecValidator(published).iter_errors()] == []


def test_every_operation_has_a_name_a_permission_and_typed_answers(published: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(published)]
    assert len(names) == len(set(names))
    for name, operation in operations(published):
        verb, _, noun = operation["operationId"].partition("_")
        assert verb
        assert noun, name
        assert operation["description"], name
        assert operation["x-permission"], name
        assert (operation["x-permission"] == "public") == (operation["security"] == []), name
        done = [a for s, a in operation["responses"].items() if s.startswith("2")]
        answer = done[0].get("content", {}).get("application/json")
        if answer is not None and operation["operationId"] != "get_openapi":
            assert "$ref" in answer["schema"], f"{name} answers with anything"


def test_the_contract_has_every_field_of_a_row() -> None:
    assert set(contract.Resource.__annotations__) == {f.name for f in fields(Resource)}


CHANGES: list[tuple[str, str]] = [
    ("paths /api/v1/whoami", "GET /api/v1/whoami is gone"),
    ("components schemas Resource properties state", "Resource.state is gone"),
    ("components schemas Wait", "the schema Wait is gone"),
]


@pytest.mark.parametrize(("where", "told"), CHANGES)
def test_what_is_removed_breaks(published: dict[str, Any], where: str, told: str) -> None:
    changed = deepcopy(published)
    *way, last = where.split()
    inner = changed
    for key in way:
        inner = inner[key]
    del inner[last]
    assert told in breaking(published, changed)
    assert told not in breaking(changed, published)


def test_what_is_newly_needed_breaks_and_what_may_be_given_does_not(published: dict[str, Any]) -> None:
    changed = deepcopy(published)
    request = changed["components"]["schemas"]["ActionRequest"]
    request["properties"]["note"] = {"type": "string"}
    assert breaking(published, changed) == []
    request["required"].append("note")
    assert breaking(published, changed) == ["ActionRequest.note is needed"]
    lines = changed["components"]["schemas"]["PlanLine"]["properties"]["action"]["enum"]
    lines.append("move")
    assert breaking(published, changed) == ["ActionRequest.note is needed"]
    lines.remove("keep")
    assert "PlanLine.action no longer knows keep" in breaking(published, changed)
