"""The pure plan: a poisonous row is set aside, a step's writes go together, refused events change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from skyriver.core.errors import Conflict
from skyriver.core.resources import Action, Kind, ProcessSpec, Put, Resource, Snapshot, Want, reconcile


def resource(kind: str, name: str, **fields: object) -> Resource:
    return Resource("t", kind, name, state="A", revision=1, **fields)  # type: ignore[arg-type]


def snapshot(*resources: Resource) -> Snapshot:
    return Snapshot({r.key: r for r in resources}, {}, {}, now=100)


def test_a_row_whose_step_raises_is_set_aside_and_the_rest_goes_on() -> None:
    def step(seen: Snapshot, row: Resource) -> Iterator[Action]:
        if row.name == "bad":
            raise ValueError("poison")
        yield Want(ProcessSpec(row.name, "job", row.tenant, {}))

    kind = Kind("thing", "A", {}, frozenset(), step)
    plan = reconcile(snapshot(resource("thing", "bad"), resource("thing", "good")), {"thing": kind})
    assert list(plan.wants) == [("t", "thing", "good")]
    assert plan.poisoned == {("t", "thing", "bad"): "ValueError: poison"}


def test_writes_of_one_step_are_taken_whole_or_left_for_the_next_pass() -> None:
    first, second, shared = resource("a", "x"), resource("b", "x"), resource("c", "x")

    def writes_shared(seen: Snapshot, row: Resource) -> Iterator[Action]:
        yield Put(replace(row, state="B"), 1)
        yield Put(replace(shared, state=row.kind), 1)

    kinds = {k: Kind(k, "A", {("A", "go"): "B"}, frozenset(), writes_shared) for k in ("a", "b")}
    plan = reconcile(snapshot(first, second, shared), kinds)
    written = {c.resource.ref: c.resource.state for c in plan.changes if isinstance(c, Put)}
    assert written == {"a/x": "B", "c/x": "a"}


@pytest.mark.parametrize(
    ("state", "expected", "what"),
    [("C", 1, "was A and cannot become C"), ("B", 0, "was not there and cannot become B")],
)
def test_a_step_that_leaves_the_table_has_failed(state: str, expected: int, what: str) -> None:
    def step(seen: Snapshot, row: Resource) -> Iterator[Action]:
        yield Put(replace(row, name=row.name if expected else "new", state=state), expected)

    kind = Kind("thing", "A", {("A", "go"): "B", ("B", "on"): "C"}, frozenset(), step)
    plan = reconcile(snapshot(resource("thing", "x")), {"thing": kind})
    assert not plan.changes
    assert what in plan.poisoned["t", "thing", "x"]


def test_a_row_in_a_final_state_is_not_stepped() -> None:
    kind = Kind("thing", "A", {}, frozenset({"A"}), lambda seen, row: 1 / 0)  # type: ignore[arg-type,return-value]
    assert not reconcile(snapshot(resource("thing", "x")), {"thing": kind}).poisoned


def test_rows_that_are_skipped_are_not_stepped_and_the_others_are() -> None:
    kind = Kind("thing", "A", {}, frozenset(), lambda seen, row: (Want(ProcessSpec(row.name, "job", "t", {})),))
    plan = reconcile(
        snapshot(resource("thing", "x"), resource("thing", "y")), {"thing": kind}, skip={("t", "thing", "x")}
    )
    assert list(plan.wants) == [("t", "thing", "y")]


@pytest.mark.parametrize(
    ("now", "started", "since", "elapsed"),
    [
        (100, 0, 40, 60),
        (100, 90, 40, 10),  # nobody looked before 90
        (100, 90, 5_000, 10),  # since was written before the clock was set back
        (100, 100, 40, 0),
    ],
)
def test_time_counts_only_while_somebody_looks(now: int, started: int, since: int, elapsed: int) -> None:
    assert Snapshot({}, {}, {}, now=now, started=started).elapsed(since) == elapsed


def test_an_event_that_the_table_does_not_have_is_refused() -> None:
    kind = Kind("job", "A", {("A", "go"): "B"}, frozenset({"B"}), lambda seen, row: ())
    row = resource("job", "x", message="old", reason="OLD")
    moved = kind.move(row, "go", 100)
    assert (moved.state, moved.since, moved.message, moved.reason) == ("B", 100, "", "")
    with pytest.raises(Conflict) as caught:
        kind.move(moved, "go", 101)
    assert caught.value.code == "REFUSED_TRANSITION"
