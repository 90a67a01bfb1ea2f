"""One damaged row: lists show the others and name it, and the loop leaves it as it is and goes on with the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.client.api import Client
from skyriver.client.shell import all_of
from skyriver.core.errors import Corrupt
from skyriver.core.resources import Kind, Put, Resource
from skyriver.wiring.simulation import Simulation

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage


def damage(path: Path, name: str) -> None:
    connection = newest_driver().connect(str(path), isolation_level=None)
    try:
        connection.execute("UPDATE resources SET message = 'somebody else' WHERE name = ?", (name,))
    finally:
        connection.close()


class Through(httpx.BaseTransport):
    """The blocking client to an API in this process."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._stage.caller.request(request.method, request.url.raw_path.decode(), headers=request.headers)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path, store=SqliteStore(tmp_path / "home" / "state.db"))
    for number in range(6):
        made.put(Resource("default", "version", f"m:{number}", spec={"model": "m"}, state="APPROVED", parent="model/m"))
    return made


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
@pytest.mark.parametrize("broken", [["m:0"], ["m:5"], ["m:1", "m:2", "m:3"], [f"m:{number}" for number in range(6)]])
@pytest.mark.parametrize("wanted", [{}, {"parent": "model/m"}])
def test_a_list_shows_what_is_whole_and_names_what_is_not(
    stage: Stage, limit: int, broken: list[str], wanted: dict[str, str]
) -> None:
    admin = stage.issue()
    for name in broken:
        damage(stage.folder / "home" / "state.db", name)
    shown: list[str] = []
    named: list[dict[str, Any]] = []
    cursor = ""
    while cursor is not None:
        answer = stage.caller.get(
            f"{BASE}/versions", params={"limit": limit, "cursor": cursor, **wanted}, headers=admin
        )
        assert answer.status_code == 200, answer.json()
        page = answer.json()
        assert len(page["items"]) <= limit
        shown += [item["name"] for item in page["items"]]
        named += page.get("damaged", [])
        cursor = page["next"]
    assert shown == [f"m:{number}" for number in range(6) if f"m:{number}" not in broken]
    assert [row["name"] for row in named] == broken
    assert all(row["code"] == "STORE_CORRUPT" and "restore the last backup" in row["next_action"] for row in named)


def test_one_by_its_name_is_refused_and_the_list_of_keys_is_not(stage: Stage) -> None:
    admin = stage.issue()
    damage(stage.folder / "home" / "state.db", "m:2")
    assert stage.caller.get(f"{BASE}/versions/m:1", headers=admin).status_code == 200
    refused = stage.caller.get(f"{BASE}/versions/m:2", headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (500, "STORE_CORRUPT")
    assert stage.caller.get(f"{BASE}/keys", headers=admin).status_code == 200


def test_the_client_gives_the_others_first_and_raises_then(stage: Stage) -> None:
    token = stage.issue()["Authorization"].removeprefix("Bearer ")
    for name in ("m:2", "m:4"):
        damage(stage.folder / "home" / "state.db", name)
    with Client("http://stage", token, transport=Through(stage)) as client:
        items, problem = all_of(client.list("versions"))
        assert [item["name"] for item in items] == ["m:0", "m:1", "m:3", "m:5"]
        assert problem is not None
        assert problem.code == "STORE_CORRUPT"
        assert problem.message.startswith(
            "Of the versions m:2, m:4 cannot be shown: The control state is damaged: a row"
        )
        assert problem.message.endswith("All others are there.")
        assert [detail["name"] for detail in problem.details] == ["m:2", "m:4"]
        assert all_of(client.list("jobs")) == ([], None)


def test_a_row_that_cannot_be_written_for_it_is_damaged_holds_up_no_other(tmp_path: Path) -> None:
    goal = [1]

    def counts(snapshot: Any, row: Resource) -> Any:
        if (n := row.status.get("n", 0)) < goal[0]:
            yield Put(counter.move(row, "count", snapshot.now, status={"n": n + 1}), row.revision)

    counter = Kind("counter", "ON", {("ON", "count"): "ON"}, frozenset(), counts)
    world = Simulation({"counter": counter}, store=SqliteStore(tmp_path / "home" / "state.db"))
    rows = [Resource("t", "counter", name, state="ON") for name in ("a", "b", "c")]
    world.store.commit([Put(row, 0) for row in rows], audit=(), fence=world.fence, actor="test", now=0)
    world.settle()
    damage(tmp_path / "home" / "state.db", "b")
    goal[0] = 3
    world.settle()
    assert [world.store.get("t", "counter", name).status["n"] for name in ("a", "c")] == [3, 3]
    with pytest.raises(Corrupt):
        world.store.get("t", "counter", "b")
    aside = world.loop.seen().aside
    assert list(aside) == [("t", "counter", "b")]
    assert "fails its checksum" in aside["t", "counter", "b"].message
    assert world.loop.health().problems["rows"].code == "SET_ASIDE"
