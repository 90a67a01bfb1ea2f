"""Requests are looked up by who may see them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import Caller, Stage

from skyriver.adapters.haproxy.access_log import AccessLog
from skyriver.control.api import create_api

TIMES = ("receive_ms", "queue_ms", "connect_ms", "answer_ms", "total_ms")


def line(stage: Stage, name: str, tenant: str, status: int, age: float = 0.0, key: str = "model/fraud") -> bytes:
    told = {
        "time": str(int(stage.world.clock.wall() - age * 1e6)),
        "accepted": 1.0,
        "id": name,
        "tenant": tenant,
        "of": f"{tenant}/{key}",
        "asks": "-",
        "method": "POST",
        "status": status,
        "code": "-",
        "bytes_in": 1,
        "bytes_out": 2,
        **dict.fromkeys(TIMES, 1),
        "server": "fraud-1:00",
        "end": "--",
    }
    return json.dumps(told).encode() + b"\n"


class Asked:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.world.clock.advance(7_200_000_000)
        log = AccessLog(stage.folder)
        log.write(line(stage, "old", "default", 200, age=3_700) + line(stage, "mine", "default", 200))
        log.write(line(stage, "theirs", "globex", 503, key="stream/pay") + line(stage, "nobody/1", "-", 401, key=""))
        log.close()
        self.caller = Caller(create_api(replace(stage.cloud, requests=log)))

    def ids(self, who: dict[str, str], tenant: str = "default", **params: Any) -> list[str]:
        answer = self.caller.request("GET", f"/api/v1/tenants/{tenant}/requests", params=params, headers=who)
        assert answer.status_code == 200, answer.json()
        return [item["id"] for item in answer.json()["items"]]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(Stage(tmp_path))


def test_requests_are_listed_newest_first_by_what_is_asked_for(asked: Asked) -> None:
    viewer = asked.stage.issue("viewer")
    assert asked.ids(viewer) == ["nobody/1", "theirs", "mine", "old"]
    assert asked.ids(viewer, limit=2) == ["nobody/1", "theirs"]
    assert asked.ids(viewer, status="5xx") == ["theirs"]
    assert asked.ids(viewer, status="401") == ["nobody/1"]
    assert asked.ids(viewer, of="pay") == ["theirs"]
    assert asked.ids(viewer, since="1h") == ["nobody/1", "theirs", "mine"]


def test_a_tenant_sees_its_own_alone(asked: Asked) -> None:
    viewer = asked.stage.issue("viewer", tenant="globex")
    assert asked.ids(viewer, "globex") == ["theirs"]
    for name, status in (("theirs", 200), ("mine", 404), ("nobody/1", 404)):
        answer = asked.caller.request("GET", f"/api/v1/tenants/globex/requests/{name}", headers=viewer)
        assert answer.status_code == status, name
    other = asked.caller.request("GET", "/api/v1/tenants/default/requests", headers=viewer)
    assert other.json()["code"] == "OTHER_TENANT"


def test_one_is_found_by_its_id_whatever_signs_it_has(asked: Asked) -> None:
    path, admin = "/api/v1/tenants/default/requests", asked.stage.issue()
    [item] = asked.caller.request("GET", f"{path}/nobody/1", headers=admin).json()["items"]
    assert (item["status"], item["tenant"], item["of"], item["server"]) == (401, "", "", "fraud-1")
    missing = asked.caller.request("GET", f"{path}/never", headers=admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert "request list" in missing.json()["next_action"]


@pytest.mark.parametrize("params", [{"status": "9xx"}, {"status": "50"}, {"limit": 0}, {"since": "soon"}, {"id": "x"}])
def test_what_is_not_understood_is_refused(asked: Asked, params: dict[str, Any]) -> None:
    answer = asked.caller.request("GET", "/api/v1/tenants/default/requests", params=params, headers=asked.stage.issue())
    assert answer.status_code == 422, answer.json()
