"""Why something is as it is: what it waits for down to the cause, what was tried, what happens next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from skyriver.adapters.memory.compute import MemoryCompute
from skyriver.control.explain import explain
from skyriver.core.errors import NotFound
from skyriver.core.resources import Action, Aside, Delete, Kind, ProcessSpec, Put, Resource, Snapshot, Want


def step(snapshot: Snapshot, row: Resource) -> Iterator[Action]:
    """Plays a stage: what to do is written in the row."""
    match row.spec.get("do"):
        case "raise":
            raise ValueError("poison")
        case "make":
            yield Put(Resource("t", "job", "new", state="PENDING"), 0)
            yield Put(replace(row, state="READY"), row.revision)
            yield Delete("t", "job", "old", 1)
        case "run":
            yield Want(ProcessSpec(row.process, "replica", "t", {}))


def waits(snapshot: Snapshot, row: Resource) -> Iterator[str]:
    yield from row.spec.get("waits", ())


KINDS = {
    name: Kind(name, "PENDING", {("PENDING", "go"): "READY"}, frozenset({"FAILED"}), step, waits)
    for name in ("service", "rollout", "job", "replica")
}


def row(ref: str, state: str = "PENDING", **fields: object) -> Resource:
    kind, name = ref.split("/")
    return Resource("t", kind, name, state=state, revision=1, **fields)  # type: ignore[arg-type]


def told(*rows: Resource, name: str, **fields: object) -> dict[str, object]:
    snapshot = Snapshot({r.key: r for r in rows}, {}, {}, now=100, **fields)  # type: ignore[arg-type]
    found = explain(snapshot, KINDS, MemoryCompute(), "t", name)
    assert len(found) == 1
    return found[0]


def test_waiting_is_followed_down_to_the_cause() -> None:
    cause = {"reason": "OUT_OF_MEMORY", "message": "It wanted 3 GB.", "next_action": "Give it more."}
    found = told(
        row("rollout/r", spec={"waits": ["service/s"]}),
        row("service/s", spec={"waits": ["job/j", "job/gone"]}, next_action="Wait."),
        row("job/j", "FAILED", spec={"waits": ["rollout/r"]}, **cause),  # a ring ends
        name="r",
    )
    assert [(w["ref"], w["by"], w["state"]) for w in found["waits_for"]] == [  # type: ignore[attr-defined]
        ("service/s", "rollout/r", "PENDING"),
        ("job/j", "service/s", "FAILED"),
        ("job/gone", "service/s", ""),
    ]
    assert found["helps"] == ["Wait.", "Give it more."]


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("make", ["makes job/new", "becomes READY", "forgets job/old"]),
        ("run", ["starts the process replica.x"]),
        ("raise", ["fails: ValueError: poison"]),
        ("", []),
    ],
)
def test_the_next_pass_is_told_by_the_step_itself(do: str, words: list[str]) -> None:
    assert told(row("replica/x", spec={"do": do}), name="x")["next_pass"] == words


def test_a_row_that_was_set_aside_says_so() -> None:
    bad = row("service/x", "READY", spec={"do": "raise"})
    found = told(bad, name="x", aside={bad.key: Aside("ValueError: poison", 3, 10, 200)})
    assert (found["state"], found["reason"]) == ("READY", "SET_ASIDE")
    assert "tried 3 times. ValueError: poison" in str(found["message"])


def test_attempts_are_told() -> None:
    attempts = [{"attempt": 1, "reason": "SIGNALLED", "message": "Ended by signal 9."}]
    assert told(row("job/x", status={"attempts": attempts}), name="x")["tried"] == attempts
    lost = row("replica/x", "PENDING", attempts=2, reason="PROCESS_DIED", message="gone")
    assert told(lost, name="x")["tried"] == [{"attempt": 2, "reason": "PROCESS_DIED", "message": "gone"}]


def test_names_that_are_near_are_offered() -> None:
    snapshot = Snapshot({r.key: r for r in (row("service/fraud"),)}, {}, {}, now=0)
    with pytest.raises(NotFound) as caught:
        explain(snapshot, KINDS, MemoryCompute(), "t", "frau")
    assert caught.value.next_action == "Did you mean fraud?"


def test_versions_that_there_are_are_offered_for_one_that_is_not() -> None:
    rows = [row("service/price"), row("model/price")]
    rows += [row(f"version/price:{number}", spec={"model": "price", "version": number}) for number in range(1, 12)]
    snapshot = Snapshot({r.key: r for r in rows}, {}, {}, now=0)
    with pytest.raises(NotFound) as caught:
        explain(snapshot, KINDS, MemoryCompute(), "t", "price:77")
    assert caught.value.next_action == "Its versions are price:11, price:10, price:9, price:8, price:7 and older ones."
