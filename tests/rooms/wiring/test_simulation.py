"""The loop when something is wrong: a poisonous row, a store that is away, a clock that was set, a successor."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from skyriver.control.aside import FIRST_PAUSE_US, LONGEST_PAUSE_US
from skyriver.core.errors import Internal, InvalidInput, StaleWrite, Unavailable
from skyriver.core.resources import (
    Action,
    Delete,
    Kind,
    Pool,
    ProcessSpec,
    Put,
    Resource,
    Route,
    Server,
    Snapshot,
    Want,
    WantPool,
    WantRoute,
)
from skyriver.wiring.simulation import Simulation

TABLE = {("NEW", "start"): "ON", ("ON", "seen"): "ON"}


def step(snapshot: Snapshot, row: Resource) -> Iterator[Action]:
    """Wants a process and a route; counts what it sees."""
    if row.spec.get("poison"):
        raise ValueError(str(row.spec["poison"]))
    if row.state == "NEW":
        yield Put(replace(row, state="ON", since=snapshot.now), row.revision)
    yield Want(ProcessSpec(row.process, "replica", row.tenant, {}))
    yield WantRoute(Route(row.tenant, "model", row.name, ((f"{row.name}:1", 100),)))
    yield WantPool(Pool(row.tenant, f"{row.name}:1", (Server(row.process, row.process),)))


THING = Kind("thing", "NEW", TABLE, frozenset(), step)


@pytest.fixture
def cloud() -> Simulation:
    found = Simulation({"thing": THING})
    found.commit([Put(Resource("t", "thing", name, state="NEW"), 0) for name in ("good", "bad")])
    return found


def poison(cloud: Simulation, text: str = "broken") -> None:
    row = cloud.store.get("t", "thing", "bad")
    cloud.commit([Put(replace(row, spec={"poison": text}), row.revision)])


def test_a_poisonous_row_is_told_and_tried_again_with_growing_pauses(cloud: Simulation) -> None:
    poison(cloud)
    aside = cloud.loop.snapshot().aside["t", "thing", "bad"]
    assert (aside.message, aside.attempts) == ("ValueError: broken", 1)
    assert aside.again - aside.since == FIRST_PAUSE_US
    tried = []
    for _ in range(2_000):
        cloud.run(0.1)
        attempts = cloud.loop.snapshot().aside["t", "thing", "bad"].attempts
        if not tried or attempts != tried[-1][1]:
            tried.append((cloud.clock.wall(), attempts))
    pauses = [after[0] - before[0] for before, after in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert LONGEST_PAUSE_US <= pauses[-1] <= LONGEST_PAUSE_US + 200_000
    assert [n for _, n in tried] == list(range(1, len(tried) + 1))


def test_a_row_that_was_mended_is_taken_up_at_once(cloud: Simulation) -> None:
    poison(cloud)
    row = cloud.store.get("t", "thing", "bad")
    cloud.commit([Put(replace(row, spec={}), row.revision)])
    assert not cloud.loop.snapshot().aside


def test_a_clock_that_was_set_back_does_not_make_a_row_rest_for_longer(cloud: Simulation) -> None:
    poison(cloud)
    cloud.run(200)
    cloud.clock.set(-86_400_000_000)
    before = cloud.loop.snapshot().aside["t", "thing", "bad"].attempts
    cloud.run(1)
    assert cloud.loop.snapshot().aside["t", "thing", "bad"].attempts == before + 1


def test_a_poisonous_row_keeps_process_and_routes_when_another_control_plane_begins(cloud: Simulation) -> None:
    poison(cloud)
    before = cloud.gateway.applied
    assert {r.owner for r in before.routes} == {"thing/good", "thing/bad"}
    cloud.start_control()
    cloud.settle()
    cloud.run(5)
    assert cloud.gateway.applied == before
    assert cloud.compute.running["t.thing.bad"].alive


def test_routes_of_a_removed_row_go_while_another_is_set_aside(cloud: Simulation) -> None:
    poison(cloud)
    cloud.start_control()
    good = cloud.store.get("t", "thing", "good")
    cloud.commit([Delete(*good.key, good.revision)])
    assert [r.name for r in cloud.gateway.applied.routes] == ["bad"]


def test_while_the_store_is_away_what_was_wanted_is_started_again(
    cloud: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("The disk is full.", code="DISK_FULL")

    monkeypatch.setattr(cloud.store, "since", away)
    cloud.compute.kill("t.thing.good")
    with pytest.raises(Unavailable):
        cloud.loop.run_pass()
    assert cloud.compute.running["t.thing.good"].alive
    assert len(cloud.gateway.applied.routes) == 2


def test_a_control_plane_that_cannot_read_at_first_ends_nothing(
    cloud: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("The disk is full.", code="DISK_FULL")

    cloud.start_control()
    monkeypatch.setattr(cloud.store, "rows", away)
    with pytest.raises(Unavailable):
        cloud.loop.run_pass()
    assert cloud.compute.running["t.thing.good"].alive
    assert len(cloud.gateway.applied.routes) == 2


def test_trouble_is_told_once_and_its_end_too(
    cloud: Simulation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the loop's own thread's function, whose waiting is taken over."""
    passes = 0

    def wait(_: float) -> bool:
        nonlocal passes
        passes += 1
        if passes == 5:
            monkeypatch.undo()
            monkeypatch.setattr(cloud.loop._wake, "wait", wait)
        if passes == 8:
            cloud.loop.stop()
        return True

    def away(_: int) -> int:
        raise Unavailable("The disk is full.", code="DISK_FULL")

    monkeypatch.setattr(cloud.store, "since", away)
    monkeypatch.setattr(cloud.loop._wake, "wait", wait)
    cloud.loop.run()
    told = [r.message for r in caplog.records if r.message.startswith("pass: ")]
    assert told == ["pass: DISK_FULL: The disk is full.", "pass: it works again"]
    assert cloud.loop.health().problems == {}


def test_a_control_plane_that_was_followed_by_another_ends(cloud: Simulation) -> None:
    first, fence = cloud.loop, cloud.fence
    cloud.start_control()
    before = cloud.store.rows()
    row = cloud.store.get("t", "thing", "good")
    with pytest.raises(StaleWrite):
        cloud.store.commit([Put(row, row.revision)], audit=(), fence=fence, actor="old", now=0)
    # It notices with its next write, and that is none of what was to be done.
    cloud.store.commit(
        [Put(Resource("t", "thing", "new", state="NEW"), 0)], audit=(), fence=cloud.fence, actor="x", now=0
    )
    first.run()
    assert [e.code for e in cloud.lost] == ["FENCED"]
    assert "t.thing.new" not in cloud.compute.running
    assert [r for r in cloud.store.rows() if r.name != "new"] == before


def test_time_that_nobody_saw_is_not_counted_when_the_clock_is_set(cloud: Simulation) -> None:
    seen = []

    def watch(snapshot: Snapshot, row: Resource) -> Iterator[Action]:
        seen.append(snapshot.elapsed(row.since))
        yield from ()

    cloud.kinds["thing"] = replace(THING, step=watch)
    cloud.start_control()
    cloud.run(10)
    assert seen[-1] == pytest.approx(10_000_000, abs=200_000)
    for step_us in (365 * 86_400_000_000, -86_400_000_000):
        cloud.clock.set(step_us)
        cloud.run(0.1)
        assert seen[-1] == 0
        assert cloud.loop.health().clock_step_us == step_us
        cloud.run(5)
        assert seen[-1] == pytest.approx(5_000_000, abs=200_000)


def test_a_row_that_the_api_wrote_meanwhile_is_not_set_aside(
    cloud: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the loop's look and its commit a request writes a row, and another request reads all rows."""
    put, key = cloud.store.commit, ("t", "thing", "new")

    def write(row: Resource) -> None:
        put([Put(row, row.revision)], audit=(), fence=cloud.fence, actor="api", now=cloud.clock.wall())

    def after_a_request(changes: Any, **named: Any) -> list[Resource]:
        monkeypatch.undo()
        write(replace(cloud.store.get(*key), message="written meanwhile"))
        cloud.loop.snapshot()
        return put(changes, **named)

    write(Resource(*key, state="NEW"))
    monkeypatch.setattr(cloud.store, "commit", after_a_request)
    assert cloud.loop.run_pass()
    assert not cloud.loop.snapshot().aside
    assert cloud.loop.health().problems == {}
    cloud.settle()
    assert cloud.store.get(*key).state == "ON"


def test_a_successor_that_comes_between_two_writes_ends_the_pass(
    cloud: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan as a whole was refused for another reason; then each step is written alone, under a stale fence."""
    put, calls = cloud.store.commit, 0

    def refused(changes: Any, **named: Any) -> list[Resource]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise InvalidInput("It holds what cannot be kept.")
        cloud.store.acquire("successor")
        return put(changes, **named)

    put([Put(Resource("t", "thing", "new", state="NEW"), 0)], audit=(), fence=cloud.fence, actor="t", now=1)
    monkeypatch.setattr(cloud.store, "commit", refused)
    started = list(cloud.compute.starts)
    with pytest.raises(StaleWrite) as caught:
        cloud.loop.run_pass()
    assert caught.value.code == "FENCED"
    assert cloud.compute.starts == started


def test_a_disk_that_refuses_is_told_with_what_to_do(cloud: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        cloud.loop.stop()
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cloud.compute, "ensure", refuse)
    cloud.loop.run()
    told = cloud.loop.health().problems["pass"]
    assert (told.code, bool(told.next_action)) == ("DISK_READ_ONLY", True)


def test_while_the_gateway_takes_no_table_nobody_ends_whom_it_sends_to(cloud: Simulation) -> None:
    name = next(iter(cloud.gateway.servers("bad:1")))
    cloud.gateway.trouble = Internal("refused", code="GATEWAY_REFUSED")
    row = cloud.store.get("t", "thing", "bad")
    cloud.commit([Delete(*row.key, row.revision)])
    cloud.run(1)
    assert cloud.compute.running[name].alive, "requests still come to it"
    cloud.start_control()  # which knows what the gateway was told last
    cloud.run(1)
    assert cloud.compute.running[name].alive
    # It has left the table, and answers what it got until then.
    cloud.gateway.busy = {name: 1}
    cloud.gateway.trouble = None
    cloud.run(1)
    assert cloud.gateway.servers("bad:1") == []
    assert cloud.compute.running[name].alive
    cloud.gateway.busy = {name: 0}
    cloud.run(1)
    assert name not in cloud.compute.running
    assert cloud.compute.running.keys() == {cloud.gateway.servers("good:1")[0]}


def test_what_the_gateway_has_no_room_for_is_told_and_all_else_goes_on(cloud: Simulation) -> None:
    cloud.gateway.left = [Pool("t", f"m{n}:1", ()) for n in range(7)]
    row = cloud.store.get("t", "thing", "bad")
    cloud.commit([Delete(*row.key, row.revision)])
    told = cloud.loop.health().problems["gateway"]
    assert (told.code, "t/m0:1" in str(told), "2 more" in str(told)) == ("TOO_MANY_POOLS", True, True)
    assert " t " in told.next_action
    assert len(cloud.compute.running) == 1, "its table is in force: who left it may end"
    cloud.gateway.left = []
    cloud.run(0.1)
    assert "gateway" not in cloud.loop.health().problems
