"""Server-sent events of operations: nothing final is missed, nobody is held up, and there is an end."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skyriver.control import events
from skyriver.core.resources import Delete, Key, Resource

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage

EVENTS = f"{BASE}/operations/op-1/events"
KEY = ("default", "operation", "op-1")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.put(Resource(*KEY, state="ACCEPTED"))
    return made


def step(stage: Stage, state: str, done: int = 0) -> int:
    row = stage.store.get(*KEY)
    return stage.put(replace(row, state=state, status={"done": done})).revision


class Listener:
    """One stream over the application in this process, as raw ASGI: httpx gives no answer before its end."""

    def __init__(self, stage: Stage, headers: dict[str, str], path: str = EVENTS) -> None:
        self.sent: list[bytes] = []
        self.status = 0
        self.came = asyncio.Event()
        self.gone = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        }
        self.asked = False
        self.task = asyncio.create_task(stage.api(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.free.wait()
        self.status = message.get("status", self.status)
        self.sent.append(message.get("body", b""))
        self.came.set()

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for block in b"".join(self.sent).decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in lines:
                data = json.loads(lines["data"])
                assert int(lines["id"]) == data["revision"]
                found.append((lines["event"], data))
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.came.clear()
                await self.came.wait()


def run(act: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await act()

    asyncio.run(bounded())


def test_states_and_progress_up_to_the_end(stage: Stage) -> None:
    admin = stage.issue()

    async def act() -> None:
        listener = Listener(stage, admin)
        await listener.until(lambda: len(listener.events) == 1)
        step(stage, "RUNNING")
        await listener.until(lambda: len(listener.events) == 2)
        step(stage, "RUNNING", 1)
        await listener.until(lambda: len(listener.events) == 3)
        step(stage, "SUCCEEDED")
        await listener.task
        assert [(e, d["state"]) for e, d in listener.events] == [
            ("state", "ACCEPTED"),
            ("state", "RUNNING"),
            ("progress", "RUNNING"),
            ("state", "SUCCEEDED"),
        ]
        assert stage.api.state.watch.count == 0

    run(act)


def test_it_goes_on_after_the_last_event_that_was_seen(stage: Stage) -> None:
    admin = stage.issue()
    seen = step(stage, "RUNNING")

    async def act() -> None:
        listener = Listener(stage, {**admin, "Last-Event-ID": str(seen)})
        await listener.until(lambda: b"listening" in b"".join(listener.sent))
        await wait_until(lambda: stage.api.state.watch.count == 1)
        last = step(stage, "FAILED")
        await listener.task
        assert [d["state"] for _, d in listener.events] == ["FAILED"]
        after = Listener(stage, {**admin, "Last-Event-ID": str(last)})
        await after.task
        assert (after.status, after.events) == (204, [])
        late = Listener(stage, admin)
        await late.task
        assert [d["state"] for _, d in late.events] == ["FAILED"]

    run(act)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_silence_is_filled_and_who_leaves_is_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
    admin = stage.issue()

    async def act() -> None:
        listener = Listener(stage, admin)
        await listener.until(lambda: b"".join(listener.sent).count(b": still here") >= 2)
        listener.gone.set()
        await listener.task
        await wait_until(lambda: stage.api.state.watch.count == 0)

    run(act)


def test_a_slow_reader_holds_nobody_up_and_gets_the_end(stage: Stage) -> None:
    admin = stage.issue()

    async def act() -> None:
        slow, quick = Listener(stage, admin), Listener(stage, admin)
        await slow.until(lambda: len(slow.events) == 1)
        slow.free.clear()
        for number in range(20):
            step(stage, "RUNNING", number)
            await quick.until(
                lambda number=number: bool(quick.events) and quick.events[-1][1]["status"] == {"done": number}
            )  # type: ignore[misc]
        step(stage, "SUCCEEDED")
        await quick.task
        assert not slow.task.done()
        slow.free.set()
        await slow.task
        assert slow.events[-1][1]["state"] == "SUCCEEDED"
        assert len(slow.events) < 5, "it missed what was between"

    run(act)


def test_there_is_a_limit_of_listeners(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LISTENERS", 2)
    admin = stage.issue()

    async def act() -> None:
        first = [Listener(stage, admin), Listener(stage, admin)]
        for listener in first:
            await listener.until(lambda listener=listener: len(listener.events) == 1)  # type: ignore[misc]
        third = Listener(stage, admin)
        await third.task
        assert third.status == 429
        assert json.loads(third.sent[-1] or third.sent[-2])["code"] == "TOO_MANY_LISTENERS"
        step(stage, "SUCCEEDED")
        for listener in first:
            await listener.task

    run(act)


def test_an_operation_that_is_deleted_and_a_cloud_that_ends(stage: Stage) -> None:
    admin = stage.issue()
    stage.put(Resource("default", "operation", "op-2", state="RUNNING"))

    async def act() -> None:
        listener, other = Listener(stage, admin), Listener(stage, admin, EVENTS.replace("op-1", "op-2"))
        for each in (listener, other):
            await each.until(lambda each=each: len(each.events) == 1)  # type: ignore[misc]
        row = stage.store.get(*KEY)
        stage.store.commit([Delete(*KEY, row.revision)], audit=(), fence=stage.world.fence, actor="test", now=0)
        await listener.task
        assert not other.task.done()
        stage.api.state.watch.close()
        await other.task

    run(act)


def test_an_end_that_comes_between_the_look_and_the_new_listener_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener comes while one look is under way, and reads its row right before the last change of it."""
    admin = stage.issue()
    stage.put(Resource("default", "operation", "op-2", state="RUNNING"))
    revision, find = stage.store.revision, stage.api.state.watch._find
    armed, looking, ended = threading.Event(), threading.Event(), threading.Event()

    def slow_revision() -> int:
        if armed.is_set() and threading.current_thread() is not threading.main_thread():
            armed.clear()
            looking.set()
            assert ended.wait(30)
        return revision()

    def find_then_end(key: Key) -> Resource | None:
        row: Resource | None = find(key)
        if key == KEY and not ended.is_set():
            step(stage, "SUCCEEDED")
            ended.set()
        return row

    async def act() -> None:
        other = Listener(stage, admin, EVENTS.replace("op-1", "op-2"))
        await other.until(lambda: len(other.events) == 1)
        monkeypatch.setattr(stage.api.state.watch, "_find", find_then_end)
        watch = stage.api.state.watch
        monkeypatch.setattr(watch._store, "revision", slow_revision)
        armed.set()
        await wait_until(looking.is_set)
        following = watch.follow(KEY, 0)
        found = [row.state async for row in following if row is not None]
        assert found == ["ACCEPTED", "SUCCEEDED"]
        other.gone.set()
        await other.task

    run(act)


def test_more_changed_than_the_store_remembers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.store, "since", lambda revision: None)
    admin = stage.issue()

    async def act() -> None:
        listener = Listener(stage, admin)
        await listener.until(lambda: len(listener.events) == 1)
        step(stage, "SUCCEEDED")
        await listener.task
        assert listener.events[-1][1]["state"] == "SUCCEEDED"

    run(act)


def test_what_is_not_there_and_what_is_no_event(stage: Stage) -> None:
    admin = stage.issue()
    assert stage.caller.get(EVENTS.replace("op-1", "none"), headers=admin).status_code == 404
    assert stage.caller.get(EVENTS, headers={**admin, "Last-Event-ID": "first"}).status_code == 422
    assert stage.caller.get(EVENTS).status_code == 401
