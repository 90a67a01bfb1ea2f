"""Lists come in pages whose cursors hold while rows come and go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from skyriver.control import paging
from skyriver.control.api import KINDS
from skyriver.core.resources import Delete, Put, Resource

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage

SEGMENTS = {kind: segment for segment, (kind, _) in KINDS.items()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """For those that only look."""
    return make_stage(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def admin(stage: Stage) -> dict[str, str]:
    return stage.issue()


def make_stage(folder: Path) -> Stage:
    made = Stage(folder)
    states = ("READY", "FAILED")
    jobs = [
        Put(Resource("default", "job", f"job-{n:03}", state=states[n % 2], parent=f"app/{n % 3}"), 0) for n in range(60)
    ]
    made.store.commit(jobs, audit=(), fence=made.world.fence, actor="test", now=0)
    return made


def walk(stage: Stage, admin: dict[str, str], path: str, between: Any = lambda: None, **params: Any) -> list[Any]:
    """All items, page by page, by the Link header alone."""
    seen: list[Any] = []
    answer = stage.caller.get(path, params=params, headers=admin)
    while True:
        assert answer.status_code == 200, answer.json()
        page = answer.json()
        seen += page["items"]
        assert ("next" in answer.links) == (page["next"] is not None)
        if page["next"] is None:
            return seen
        between()
        answer = stage.caller.get(answer.links["next"]["url"], headers=admin)


def names(items: list[Any]) -> list[str]:
    return [item["name"] for item in items]


@pytest.mark.parametrize("limit", [1, 7, 59, 60, 61])
def test_every_row_once(stage: Stage, admin: dict[str, str], limit: int) -> None:
    assert names(walk(stage, admin, f"{BASE}/jobs", limit=limit)) == [f"job-{n:03}" for n in range(60)]


@pytest.mark.parametrize("looked_at", [3, 20, 5_000])
def test_filters(stage: Stage, admin: dict[str, str], looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.control.api.LOOKED_AT", looked_at)
    for limit in (1, 4, 100):
        failed = walk(stage, admin, f"{BASE}/jobs", limit=limit, state="FAILED")
        assert names(failed) == [f"job-{n:03}" for n in range(1, 60, 2)]
        both = walk(stage, admin, f"{BASE}/jobs", limit=limit, state="FAILED", parent="app/0")
        assert names(both) == [f"job-{n:03}" for n in range(60) if n % 2 == 1 and n % 3 == 0]
    assert walk(stage, admin, f"{BASE}/jobs", state="RUNNING") == []


@pytest.mark.parametrize(
    ("path", "query", "where", "action"),
    [
        ("jobs", {"sate": "FAILED"}, "sate", "There are cursor, limit, state, parent."),
        ("apps", {"stat": "READY", "limit": 3}, "stat", "There are cursor, limit, state, parent."),
        ("audit", {"state": "FAILED"}, "state", "There are order, since, target, cursor, limit."),
        ("jobs", {"state": "DONE"}, "state", "CANCELLED, CANCELLING, FAILED, PENDING"),
        ("jobs", {"state": ""}, "state", "CANCELLED, CANCELLING, FAILED, PENDING"),
    ],
)
def test_a_filter_that_there_is_not_is_refused(
    stage: Stage, admin: dict[str, str], path: str, query: dict[str, Any], where: str, action: str
) -> None:
    answer = stage.caller.get(f"{BASE}/{path}", params=query, headers=admin)
    told = answer.json()
    assert (answer.status_code, told["code"], told["where"]) == (422, "BAD_REQUEST", where)
    assert action in told["next_action"]


def test_every_state_of_a_kind_may_be_asked_for(stage: Stage, admin: dict[str, str]) -> None:
    for kind in stage.cloud.loop.kinds.values():
        for state in {kind.initial, *kind.final, *(s for move in kind.moves for s in move)}:
            assert (
                stage.caller.get(f"{BASE}/{SEGMENTS[kind.name]}", params={"state": state}, headers=admin).status_code
                == 200
            )
    assert names(walk(stage, admin, f"{BASE}/apps", state="whatever")) == []  # it has no table of states


def test_rows_that_come_and_go_between_pages(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    admin, turn = stage.issue(), iter(range(60))

    def between() -> None:
        number = next(turn)
        first = stage.store.rows("default", "job", limit=1)[0]
        changes = [
            Delete("default", "job", first.name, first.revision),
            Put(Resource("default", "job", f"a-{number}"), 0),
            Put(Resource("default", "job", f"z-{number:02}"), 0),
        ]
        stage.store.commit(changes, audit=(), fence=stage.world.fence, actor="test", now=0)

    seen = names(walk(stage, admin, f"{BASE}/jobs", between, limit=10))
    assert len(seen) == len(set(seen))
    assert [n for n in seen if n.startswith("job-")] == [f"job-{n:03}" for n in range(60)]


def test_the_audit_trail_in_pages(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    admin = stage.issue()
    for number in range(7):
        stage.caller.post(f"{BASE}/objects", content=b"%d" % number, headers=admin)
    seen = walk(stage, admin, f"{BASE}/audit", limit=3)
    assert [e["action"] for e in seen] == ["upload"] * 7
    assert [e["seq"] for e in seen] == sorted(e["seq"] for e in seen)


@pytest.mark.parametrize("path", ["jobs", "audit"])
@pytest.mark.parametrize(
    "cursor", ["x", "!", "WzFd", "WyJhIl0", "W10", "ü", paging.encode("a"), paging.encode(-1), "a" * 999]
)
def test_no_cursor(stage: Stage, admin: dict[str, str], path: str, cursor: str) -> None:
    answer = stage.caller.get(f"{BASE}/{path}", params={"cursor": cursor}, headers=admin)
    good = (path, cursor) in {("jobs", paging.encode("a")), ("audit", paging.encode(1))}
    assert answer.status_code == (200 if good else 422)
    if not good:
        assert answer.json()["code"] == "BAD_CURSOR"
