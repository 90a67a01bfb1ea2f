"""The API's own duties: who may come in, what is refused, what is written with its audit row."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from skyriver.adapters.memory.asking import MemoryAsker
from skyriver.adapters.memory.compute import MemoryCompute
from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.adapters.memory.store import MemoryStore
from skyriver.control import bodies
from skyriver.control.api import Actions, Cloud, Deployment, DeployRequest, create_api
from skyriver.control.loop import ControlLoop
from skyriver.core.errors import Internal
from skyriver.core.resources import Put, Resource, RouteTable, Snapshot
from skyriver.decide.streams.now import stream_now
from skyriver.release.manifest import VersionManifest, scoring_signature
from skyriver.trust.permissions import Permission
from skyriver.trust.tokens import new_token
from skyriver.wiring.control import ACTIONS

BASE = "/api/v1/tenants/default"


class Clock:
    def wall(self) -> int:
        return 1_000_000

    def monotonic(self) -> int:
        return 0


class NoGateway:
    def start(self) -> None: ...
    def apply(self, table: RouteTable) -> None: ...
    def stop(self) -> None: ...
    def table(self) -> RouteTable:
        return RouteTable()

    def sessions(self) -> dict[str, int]:
        return {}


def plan_nothing(snapshot: Snapshot, tenant: str, target: str, params: Any, inputs: Any) -> list[Resource]:
    return [Resource(tenant, "operation", f"{target}-1", state="ACCEPTED")]


def plan_deploy(snapshot: Snapshot, tenant: str, name: str, request: DeployRequest, *, prune: bool) -> Deployment:
    line = {"action": "create", "kind": "app", "name": name, "detail": ""}
    return Deployment([line], [Put(Resource(tenant, "app", name, state="DEPLOYED"), 0)], [])


def plan_removal(snapshot: Snapshot, tenant: str, name: str) -> Deployment:
    return Deployment([], [], [])


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    store = MemoryStore()
    fence = store.acquire("test")
    processes, clock = MemoryCompute(), Clock()
    loop = ControlLoop(store=store, compute=processes, gateway=NoGateway(), kinds={}, clock=clock, fence=fence)
    named = {"train": (Permission.JOBS_RUN, plan_nothing)}
    actions = Actions(
        plan_deploy,
        plan_removal,
        named,
        stream_now,
        ACTIONS.card,
        ACTIONS.rules,
        ACTIONS.register,
        ACTIONS.delete_model,
    )
    return Cloud(store, MemoryObjects(), processes, loop, clock, fence, actions, tmp_path, MemoryAsker())


def issue(cloud: Cloud, role: str, tenant: str = "default") -> dict[str, str]:
    text, digest = new_token()
    row = Resource(tenant, "token", f"{role}-token", spec={"sha256": digest, "role": role}, state="ACTIVE")
    cloud.store.commit([Put(row, 0)], audit=(), fence=cloud.fence, actor="test", now=0)
    return {"Authorization": f"Bearer {text}"}


class Caller:
    """Requests to the application in this process."""

    def __init__(self, api: FastAPI) -> None:
        self._transport = httpx.ASGITransport(api)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)


@pytest.fixture
def client(cloud: Cloud) -> Caller:
    return Caller(create_api(cloud))


def test_every_route_declares_a_permission(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None: ...

    def forgetful(routes: Any, cloud: Cloud) -> None:
        routes.api.add_api_route("/api/v1/open", nothing, methods=["GET"])

    monkeypatch.setattr("skyriver.control.api.add_writing", forgetful)
    with pytest.raises(Internal, match="/api/v1/open declares no permission"):
        create_api(cloud)


def test_nothing_is_told_without_a_token(client: Caller) -> None:
    for path in ("/api/v1/whoami", f"{BASE}/jobs", f"{BASE}/explain/x", f"{BASE}/audit"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/api/v1/livez").status_code == 200


def test_a_token_opens_its_own_tenant_only(client: Caller, cloud: Cloud) -> None:
    theirs = issue(cloud, "admin", tenant="other")
    answer = client.get(f"{BASE}/jobs", headers=theirs)
    assert (answer.status_code, answer.json()["code"]) == (403, "OTHER_TENANT")
    assert client.get("/api/v1/tenants/other/jobs", headers=theirs).json() == {"items": [], "next": None}


def test_a_role_does_what_it_may_and_no_more(client: Caller, cloud: Cloud) -> None:
    viewer, operator = issue(cloud, "viewer"), issue(cloud, "operator")
    body = {"target": "x"}
    refused = client.post(f"{BASE}/actions/train", json=body, headers=viewer)
    assert refused.status_code == 403
    assert "jobs:run" in refused.json()["detail"]
    done = client.post(f"{BASE}/actions/train", json=body, headers=operator)
    assert (done.status_code, done.json()) == (202, {"operation": "x-1", "action": "train", "target": "x"})
    entry = client.get(f"{BASE}/audit", headers=operator).json()["items"][-1]
    assert (entry["actor"], entry["permission"], entry["action"]) == ("operator-token", "jobs:run", "train")


def test_lists_come_in_pages(client: Caller, cloud: Cloud) -> None:
    admin = issue(cloud, "admin")
    rows = [Put(Resource("default", "job", f"job-{n:03}", state="PENDING"), 0) for n in range(25)]
    cloud.store.commit(rows, audit=(), fence=cloud.fence, actor="test", now=0)
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"{BASE}/jobs", params={"cursor": cursor, "limit": 10}, headers=admin).json()
        seen += [item["name"] for item in page["items"]]
        cursor = page["next"]
    assert seen == [f"job-{n:03}" for n in range(25)]
    assert client.get(f"{BASE}/jobs/job-007", headers=admin).json()["state"] == "PENDING"
    missing = client.get(f"{BASE}/jobs/none", headers=admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")


def test_an_upload_is_known_by_its_content(client: Caller, cloud: Cloud) -> None:
    admin = issue(cloud, "admin")
    answer = client.post(f"{BASE}/objects", content=b"model", headers=admin)
    assert answer.status_code == 201
    digest = answer.json()["digest"]
    assert cloud.objects.get(digest) == b"model"
    assert client.get(f"{BASE}/objects/{digest}", headers=admin).content == b"model"


def test_a_deployment_needs_its_bundle_and_may_be_tried_dry(client: Caller, cloud: Cloud) -> None:
    admin = issue(cloud, "admin")
    body = {"spec": {}, "spec_digest": "", "code": "0" * 64, "main": "app.py"}
    missing = client.put(f"{BASE}/apps/risk", json=body, headers=admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "NO_BUNDLE")
    body["code"] = cloud.objects.put(b"bundle")
    dry = client.put(f"{BASE}/apps/risk", params={"dry_run": True}, json=body, headers=admin).json()
    assert not dry["applied"]
    assert client.get(f"{BASE}/apps/risk", headers=admin).status_code == 404
    assert client.put(f"{BASE}/apps/risk", json=body, headers=admin).json()["applied"]
    assert client.get(f"{BASE}/apps/risk", headers=admin).json()["state"] == "DEPLOYED"


@pytest.mark.parametrize("body", [{}, {"target": "x", "unknown": 1}, {"target": 3}, [], "text"])
def test_a_request_that_is_not_understood_names_the_field(client: Caller, cloud: Cloud, body: Any) -> None:
    answer = client.post(f"{BASE}/actions/train", json=body, headers=issue(cloud, "admin"))
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_REQUEST")
    assert answer.json()["errors"]
    assert answer.json()["next_action"] == "GET /api/v1/openapi.json describes what this request takes."


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_is_not_said_to_be_json_tells_the_header(client: Caller, cloud: Cloud, media: str) -> None:
    headers = issue(cloud, "admin") | ({"content-type": media} if media else {})
    answer = client.post(f"{BASE}/actions/train", content=b'{"target": "x"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_REQUEST")
    assert "Content-Type: application/json" in answer.json()["next_action"]


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"[" * 100_000], ids=["no text", "too deep"])
def test_a_body_that_cannot_be_read_is_told_as_such(client: Caller, cloud: Cloud, body: bytes) -> None:
    headers = {**issue(cloud, "admin"), "content-type": "application/json"}
    answer = client.put(f"{BASE}/apps/shop", headers=headers, content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_REQUEST")
    assert "cannot be read" in answer.json()["detail"]
    assert answer.json()["next_action"]


def test_a_body_is_read_up_to_its_limit_and_an_upload_has_another(
    client: Caller, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_LIMIT", 1_000)
    admin = issue(cloud, "admin")
    answer = client.put(f"{BASE}/apps/shop", headers=admin, json={"spec": {"text": "x" * 1_000}})
    assert (answer.status_code, answer.json()["code"]) == (422, "TOO_LARGE")
    assert "1,000 bytes" in answer.json()["detail"]
    assert client.post(f"{BASE}/objects", headers=admin, content=b"x" * 2_000).status_code == 201


def test_the_card_of_a_version_is_for_who_may_read_models(cloud: Cloud, client: Caller) -> None:
    manifest = VersionManifest(
        model="churn", version=1, artifact="a" * 64, bytes=2_000, features=None, source=None, code="c" * 64,
        spec_digest="d" * 64, split=None, metrics={}, champion_metrics=None, signature=scoring_signature(2),
        trained_at=0, job="churn-import-1", about={"description": "Who will leave."},
    )  # fmt: skip
    row = Resource("default", "version", "churn:1", spec=manifest.to_json(), state="APPROVED")
    cloud.store.commit([Put(row, 0)], audit=(), fence=cloud.fence, actor="test", now=0)
    viewer = issue(cloud, "viewer")
    card = client.get(f"{BASE}/versions/churn:1/card", headers=viewer).json()
    assert (card["version"], card["state"]) == ("churn:1", "APPROVED")
    assert card["sections"][1] == {"title": "Intended use", "text": ["Who will leave."], "columns": [], "rows": []}
    assert card["markdown"].startswith("# Model card: churn:1\n")
    assert client.get(f"{BASE}/versions/churn:2/card", headers=viewer).status_code == 404
    assert client.get(f"{BASE}/versions/churn:1/card").status_code == 401
