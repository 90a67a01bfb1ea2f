"""The routes of signing keys: public halves are told, another key is asked for by an administrator and audited."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Caller, PlainKeys, Stage

from skyriver.adapters.memory.keys import MemoryTrust
from skyriver.control.api import create_api
from skyriver.control.signing import Signer
from skyriver.core.resources import Resource
from skyriver.trust.permissions import ROLES

KEYS = f"{BASE}/keys"


def put_version(stage: Stage, name: str) -> None:
    model, _, number = name.partition(":")
    spec = {"model": model, "version": int(number), "artifact": "a" * 64}
    stage.put(Resource("default", "version", name, spec=spec, state="REJECTED"))


def test_a_cloud_that_does_not_sign_says_so_and_trusts_no_key(stage: Stage, admin: dict[str, str]) -> None:
    signer = Signer(PlainKeys(), MemoryTrust(), stage.world.clock)
    caller = Caller(create_api(replace(stage.cloud, signer=signer)))
    assert caller.get(KEYS, headers=admin).json() == {"items": [], "signs": False, "problem": ""}
    assert caller.post(f"{KEYS}/rotate", json={}, headers=admin).json()["code"] == "NOT_SIGNING"
    assert signer.list("default") == []


def test_a_rotation_keeps_what_the_key_before_signed(stage: Stage, admin: dict[str, str]) -> None:
    put_version(stage, "m:1")
    first = stage.caller.post(f"{KEYS}/rotate", json={"sign_again": True}, headers=admin).json()
    assert first["signed"] == ["m:1"]
    second = stage.caller.post(f"{KEYS}/rotate", json={}, headers=admin).json()
    assert second["signed"] == []
    told = stage.caller.get(KEYS, headers=admin).json()
    assert told["signs"]
    assert [(k["id"], k["state"], k["versions"]) for k in told["items"][1:]] == [
        (first["key"]["id"], "RETIRED", 1),
        (second["key"]["id"], "ACTIVE", 0),
    ]
    assert stage.store.get("default", "version", "m:1").status["signature"]["key"] == first["key"]["id"]


def test_a_rotation_is_audited_and_tells_no_secret(stage: Stage, admin: dict[str, str]) -> None:
    stage.caller.post(f"{KEYS}/rotate", json={"sign_again": True}, headers=admin)
    rows = stage.store.audit("default")
    assert [(r["action"], r["permission"], r["details"]) for r in rows if r["action"] == "rotate_key"] == [
        ("rotate_key", "keys:write", {"sign_again": True})
    ]
    assert "private" not in json.dumps(stage.caller.get(KEYS, headers=admin).json())


@pytest.mark.parametrize("role", ROLES)
def test_only_an_administrator_rotates(stage: Stage, role: str) -> None:
    answer = stage.caller.post(f"{KEYS}/rotate", json={}, headers=stage.issue(role))
    assert answer.status_code == (200 if role == "admin" else 403)
    assert stage.caller.get(KEYS, headers=stage.issue(role, name="again")).status_code == 200


def test_one_key_is_found_by_the_beginning_of_its_id(stage: Stage, admin: dict[str, str]) -> None:
    made = stage.caller.post(f"{KEYS}/rotate", json={}, headers=admin).json()["key"]
    assert stage.caller.get(f"{KEYS}/{made['id'][:8]}", headers=admin).json() == made
    assert stage.caller.get(f"{KEYS}/nobody", headers=admin).status_code == 404


def test_lineage_is_asked_by_name(stage: Stage, admin: dict[str, str]) -> None:
    put_version(stage, "m:1")
    assert stage.caller.get(f"{BASE}/lineage/version/m:1", headers=admin).json() == {"items": []}
    assert stage.caller.get(f"{BASE}/lineage/m:2", headers=admin).json()["code"] == "NOT_FOUND"
