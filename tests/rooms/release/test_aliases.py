"""Names of versions: which are free, and what moves the one that serves."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.core.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from skyriver.core.resources import Resource, Snapshot
from skyriver.release.aliases import MAX_ALIASES, plan_alias, plan_unalias


def snapshot(*more: Resource, aliases: dict[str, int] | None = None, served: bool = True) -> Snapshot:
    """A model of three versions: the first serves, the second may, the third was refused."""
    known = {"champion": 1, "old": 1} if aliases is None else aliases
    status = {"aliases": known, "history": [{"version": 1, "cause": "release"}]}
    states = {1: "APPROVED", 2: "APPROVED", 3: "REJECTED"}
    rows = [
        Resource("t", "model", "price", spec={"model": {}}, status=status, state="DECLARED", revision=7),
        *(Resource("t", "version", f"price:{n}", spec={}, state=state) for n, state in states.items()),
        *([Resource("t", "service", "price", spec={"versions": {"1": {"weight": 100}}})] if served else []),
        *more,
    ]
    return Snapshot({r.key: r for r in rows}, {}, {}, 0)


def alias(found: Snapshot, name: object, version: object) -> dict[str, Resource]:
    return {r.kind: r for r in plan_alias(found, "t", "price", {"alias": name, "version": version}, {})}


def test_a_free_name_is_set_and_moved_at_once_and_nothing_else_changes() -> None:
    for version in (2, 3, 1):
        made = alias(snapshot(), "old", version)
        assert set(made) == {"operation", "model"}
        assert made["model"].status["aliases"] == {"champion": 1, "old": version}
        assert made["model"].status["history"] == [{"version": 1, "cause": "release"}]
        assert made["model"].revision == 7, "a write that came between is seen"


def test_the_name_of_what_serves_moves_by_a_rollout_in_the_way_that_the_model_declares() -> None:
    made = alias(snapshot(), "champion", 2)
    assert set(made) == {"operation", "rollout"}, "the model's row is the rollout's to write"
    assert (made["rollout"].spec["to"], made["rollout"].spec["cause"]) == (2, "release")
    assert made["operation"].spec["follow"] == [made["rollout"].ref]


def test_without_a_service_champion_is_a_name_like_others() -> None:
    found = snapshot(served=False)
    assert alias(found, "champion", 2)["model"].status["aliases"]["champion"] == 2
    left = {r.kind: r for r in plan_unalias(found, "t", "price", {"alias": "champion"}, {})}
    assert left["model"].status["aliases"] == {"old": 1}


@pytest.mark.parametrize(
    ("name", "version", "error", "code"),
    [
        ("champion", 3, Conflict, "NOT_APPROVED"),
        ("champion", 1, Conflict, "ALREADY_SERVES"),
        ("good", 4, NotFound, "NOT_FOUND"),
        ("good", 0, InvalidInput, "BAD_PARAMETER"),
        ("good", True, InvalidInput, "BAD_PARAMETER"),
        ("good", "2", InvalidInput, "BAD_PARAMETER"),
        ("Good", 2, InvalidInput, "BAD_NAME"),
        ("../2", 2, InvalidInput, "BAD_NAME"),
        (None, 2, InvalidInput, "BAD_NAME"),
    ],
)
def test_what_cannot_be_named_is_refused(name: Any, version: Any, error: type[Exception], code: str) -> None:
    with pytest.raises(error) as caught:
        alias(snapshot(), name, version)
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_the_champion_does_not_move_while_a_rollout_goes_on() -> None:
    running = Resource("t", "rollout", "price-1", spec={"model": "price", "to": 2}, state="CANARY")
    with pytest.raises(Conflict) as caught:
        alias(snapshot(running), "champion", 2)
    assert caught.value.code == "ROLLOUT_RUNNING"
    assert alias(snapshot(running), "good", 2)["model"].status["aliases"]["good"] == 2


def test_a_name_is_taken_away_and_that_of_what_serves_is_not() -> None:
    made = {r.kind: r for r in plan_unalias(snapshot(), "t", "price", {"alias": "old"}, {})}
    assert made["model"].status["aliases"] == {"champion": 1}
    with pytest.raises(Conflict) as serves:
        plan_unalias(snapshot(), "t", "price", {"alias": "champion"}, {})
    assert serves.value.code == "SERVES"
    with pytest.raises(NotFound, match="did you mean 'old'") as none:
        plan_unalias(snapshot(), "t", "price", {"alias": "olt"}, {})
    assert none.value.code == "NO_ALIAS"


def test_a_model_has_a_bounded_number_of_names() -> None:
    full = snapshot(aliases={f"a{n}": 1 for n in range(MAX_ALIASES)})
    with pytest.raises(QuotaExceeded):
        alias(full, "one-more", 2)
    assert alias(full, "a0", 2)["model"].status["aliases"]["a0"] == 2
