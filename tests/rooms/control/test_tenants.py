"""How much a tenant may get: set by who steers the cloud, given to the gateway with the next pass."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import Stage

from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import RequestLimit
from skyriver.trust.permissions import ROLES

TENANTS = "/api/v1/tenants"


def limit(stage: Stage, who: dict[str, str], name: str = "default", **limits: Any) -> httpx.Response:
    return stage.caller.request("PATCH", f"{TENANTS}/{name}", json=limits, headers=who)


def of_gateway(stage: Stage) -> dict[str, RequestLimit]:
    stage.world.loop.run_pass()
    return dict(stage.world.gateway.table().limits)


def test_a_limit_reaches_the_gateway_with_the_next_pass_and_goes_again(stage: Stage, admin: dict[str, str]) -> None:
    stage.issue(tenant="globex")
    assert of_gateway(stage) == {}
    told = limit(stage, admin, "globex", rate=" 500 / s", concurrency=100)
    assert told.status_code == 200
    assert told.json() == {"name": "globex", "rate": "500/s", "concurrency": 100, "budget": None}
    assert of_gateway(stage) == {"globex": RequestLimit(500, 100)}
    assert limit(stage, admin, "globex", rate="20/s").json()["concurrency"] == 100, "what is not given stays"
    assert of_gateway(stage) == {"globex": RequestLimit(20, 100)}
    assert limit(stage, admin, "globex", concurrency=None).json() == {
        "name": "globex",
        "rate": "20/s",
        "concurrency": None,
        "budget": None,
    }
    assert limit(stage, admin, "globex", rate=None).status_code == 200
    assert of_gateway(stage) == {}


def test_a_limit_stands_in_the_audit(stage: Stage, admin: dict[str, str]) -> None:
    limit(stage, admin, rate="5/s")
    [*_, entry] = stage.store.audit("default")
    told = (entry["actor"], entry["permission"], entry["action"], entry["target"], entry["details"])
    assert told == ("admin-token", "cloud:admin", "limit_tenant", "tenant/default", {"rate": "5/s"})


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"rate": "0/s"}, "BAD_RATE"),
        ({"rate": "-5/s"}, "BAD_RATE"),
        ({"rate": "1e99/s"}, "BAD_RATE"),
        ({"rate": "1000000/s"}, "BAD_RATE"),
        ({"rate": "5"}, "BAD_RATE"),
        ({"rate": ""}, "BAD_RATE"),
        ({"rate": 5}, "BAD_REQUEST"),
        ({"concurrency": 0}, "BAD_REQUEST"),
        ({"concurrency": -1}, "BAD_REQUEST"),
        ({"concurrency": 1e99}, "BAD_REQUEST"),
        ({"concurrency": 1_000_001}, "BAD_REQUEST"),
        ({"concurrency": 1.5}, "BAD_REQUEST"),
        ({"concurrency": True}, "BAD_REQUEST"),
        ({"concurrency": "100"}, "BAD_REQUEST"),
        ({"rates": "5/s"}, "BAD_REQUEST"),
    ],
)
def test_what_is_no_limit_is_refused_whole(
    stage: Stage, admin: dict[str, str], limits: dict[str, Any], code: str
) -> None:
    limit(stage, admin, rate="7/s", concurrency=7)
    refused = limit(stage, admin, **{"rate": "9/s", "concurrency": 9, **limits})
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert refused.json()["next_action"]
    assert of_gateway(stage) == {"default": RequestLimit(7, 7)}


def test_a_tenant_that_has_no_token_is_not_known(stage: Stage, admin: dict[str, str]) -> None:
    refused = limit(stage, admin, "nobody", rate="5/s")
    assert (refused.status_code, refused.json()["code"]) == (404, "NOT_FOUND")
    assert "tenant list" in refused.json()["next_action"]
    assert stage.caller.get(f"{TENANTS}/nobody", headers=admin).status_code == 404


def test_only_who_steers_the_cloud_sets_limits(stage: Stage) -> None:
    for role in ROLES.keys() - {"admin"}:
        assert limit(stage, stage.issue(role), rate="5/s").json()["code"] == "NOT_ALLOWED"
    stranger = stage.issue(tenant="globex")
    for name in ("globex", "default", "nobody"):
        assert limit(stage, stranger, name, rate="5/s").json()["code"] == "NOT_OPERATOR"
    assert of_gateway(stage) == {}


def test_a_tenant_sees_its_own_limits_and_no_other_tenant(stage: Stage, admin: dict[str, str]) -> None:
    viewer = stage.issue("viewer", tenant="globex")
    limit(stage, admin, "globex", rate="5/s")
    own = {"rate": None, "concurrency": None, "budget": None}
    globex = {"name": "globex", **own, "rate": "5/s"}
    assert stage.caller.get(TENANTS, headers=admin).json() == {"items": [{"name": "default", **own}, globex]}
    assert stage.caller.get(TENANTS, headers=viewer).json() == {"items": [globex]}
    assert stage.caller.get(f"{TENANTS}/globex", headers=viewer).json() == globex
    assert stage.caller.get(f"{TENANTS}/default", headers=viewer).status_code == 404


def test_limits_are_in_the_state_that_is_kept(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    stage = Stage(tmp_path / "one", SqliteStore(tmp_path / "state.sqlite"))
    limit(stage, stage.issue(), rate="5/s", concurrency=3)
    stage.store.close()
    (tmp_path / "two").mkdir()
    assert of_gateway(Stage(tmp_path / "two", SqliteStore(tmp_path / "state.sqlite"))) == {
        "default": RequestLimit(5, 3)
    }
