"""Tokens are issued once, for a role, by an admin, and revoked; the cloud keeps none of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage

from skyriver.trust.permissions import ROLES
from skyriver.trust.tokens import digest_of

TOKENS = f"{BASE}/tokens"


def issue(stage: Stage, admin: dict[str, str], name: str = "ana", role: str = "reviewer") -> httpx.Response:
    return stage.caller.post(TOKENS, json={"name": name, "role": role}, headers=admin)


def bearer(answer: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def test_a_token_counts_from_its_issue_to_its_end(stage: Stage, admin: dict[str, str]) -> None:
    issued = issue(stage, admin)
    assert issued.status_code == 201
    who = stage.caller.get("/api/v1/whoami", headers=bearer(issued)).json()
    assert who == {"tenant": "default", "name": "ana", "role": "reviewer"}
    assert stage.caller.request("DELETE", f"{TOKENS}/ana", headers=admin).status_code == 200
    assert stage.caller.get("/api/v1/whoami", headers=bearer(issued)).status_code == 401


def test_a_token_is_told_once_and_kept_nowhere(stage: Stage, admin: dict[str, str]) -> None:
    keyed = {**admin, "Idempotency-Key": "one"}
    issued = issue(stage, keyed)
    text = issued.json()["token"]
    kept = [*stage.store.rows(), *stage.store.audit("default", limit=100)]
    assert text not in repr(kept)
    listed = stage.caller.get(TOKENS, headers=admin).json()["items"]
    assert [(t["name"], t["role"], t["created_by"]) for t in listed] == [
        ("admin-token", "admin", "test"),
        ("ana", "reviewer", "admin-token"),
    ]
    assert text not in repr(listed)
    assert issue(stage, keyed).json()["code"] == "TOKEN_EXISTS", "nor does a key bring it back"


def test_the_gateway_learns_who_may_only_look_at_streams(stage: Stage, admin: dict[str, str]) -> None:
    digests = {role: digest_of(issue(stage, admin, role, role).json()["token"]) for role in ROLES}
    stage.issue("of-another-release")  # a role that is not known gives no rights
    stage.world.loop.run_pass()
    applied = stage.world.gateway.table()
    unknown = {row.spec["sha256"] for row in stage.store.rows("default", "token")} - set(digests.values())
    unknown.discard(digest_of(admin["Authorization"].removeprefix("Bearer ")))
    assert len(unknown) == 1
    assert set(applied.read_only) == {digests["viewer"], digests["reviewer"], *unknown}
    assert {tenant for _, tenant in applied.tokens} == {"default"}
    assert set(applied.read_only) <= {digest for digest, _ in applied.tokens}


@pytest.mark.parametrize("role", ["viewer", "reviewer", "operator", "developer"])
def test_only_an_admin_issues_lists_and_revokes(stage: Stage, admin: dict[str, str], role: str) -> None:
    other = bearer(issue(stage, admin, "eve", role))
    asked: list[Any] = [
        issue(stage, other, "mallory", "admin"),
        stage.caller.get(TOKENS, headers=other),
        stage.caller.request("DELETE", f"{TOKENS}/admin-token", headers=other),
    ]
    assert [answer.status_code for answer in asked] == [403, 403, 403]


def test_what_is_refused(stage: Stage, admin: dict[str, str]) -> None:
    assert issue(stage, admin, role="king").json()["code"] == "BAD_ROLE"
    assert issue(stage, admin, name="Ana Maria").json()["code"] == "BAD_NAME"
    gone = stage.caller.request("DELETE", f"{TOKENS}/nobody", headers=admin)
    assert gone.status_code == 404
    last = stage.caller.request("DELETE", f"{TOKENS}/admin-token", headers=admin)
    assert (last.status_code, last.json()["code"]) == (409, "LAST_ADMIN")
    issue(stage, admin, "root", "admin")
    assert stage.caller.request("DELETE", f"{TOKENS}/admin-token", headers=admin).status_code == 200
