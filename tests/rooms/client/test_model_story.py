"""What is told of a model's last change."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client.model_story import story, version_told_of

MODEL: dict[str, Any] = {
    "name": "price",
    "status": {
        "aliases": {"champion": 2},
        "history": [{"version": 2, "at": 1_750_000_000_000_000, "cause": "release"}],
    },
}
SPEC: dict[str, Any] = {
    "version": 2,
    "job": "price-run-2-compress",
    "source": {"name": "orders", "table_version": 4},
    "split": {"train": [0, 9, 1_200, 30], "test": [0, 9, 300, 7]},
}
VERSION: dict[str, Any] = {
    "name": "price:2",
    "spec": SPEC,
    "status": {"gate": {"passed": True, "checks": [{}, {}]}},
}
ROLLOUT = {"name": "price-2", "spec": {"cause": "release", "strategy": "canary"}, "status": {"from": 1}}


def watch(run: str) -> dict[str, Any]:
    trainings = [{"run": run, "cause": "drift", "why": "2 of 9 columns have drifted."}]
    return {"state": "WATCHING", "message": "", "next_action": "", "status": {"trainings": trainings}}


def test_from_why_it_was_trained_to_what_comes_next() -> None:
    assert version_told_of(MODEL) == "price:2"
    assert list(story(MODEL, VERSION, ROLLOUT, watch("price-run-2"))) == [
        "price:2 was trained on 1,200 rows of orders (version 4 of its table) by price-run-2, by itself for"
        " drift: 2 of 9 columns have drifted.",
        "The gate let it pass, by 2 checks.",
        "It took over by steps in place of version 1; the rollout price-2 tells how.",
        "It serves since 2025-06-15 15:06:40 UTC.",
        "Its watch is WATCHING: nothing was seen that calls for a training.",
    ]


def test_what_a_follow_up_was_for_and_which_ones_are_left() -> None:
    watched = watch("price-run-2")
    watched["status"]["trainings"][0] |= {"cause": "follow_up", "why": "price-run-1 trained it for worse quality."}
    due = [1_750_000_000_000_000, 1_750_100_000_000_000]
    watched["status"]["follow"] = {"run": "price-run-1", "cause": "quality", "at": 0, "due": due, "of": 4}
    first, *_, last = story(MODEL, VERSION, None, watched)
    assert first.endswith("by itself to follow a change up: price-run-1 trained it for worse quality.")
    assert last == (
        "It is trained again 2 times more for the change that price-run-1 was for:"
        " 2025-06-15 15:06:40 UTC, 2025-06-16 18:53:20 UTC."
    )
    watched["status"]["trainings"][0]["cause"] = "quality"
    assert "by itself because it had become worse: " in next(story(MODEL, VERSION, None, watched))


@pytest.mark.parametrize("watched", [None, watch("price-run-1")], ids=["unwatched", "another run"])
def test_what_its_watch_did_not_begin_somebody_asked_for(watched: dict[str, Any] | None) -> None:
    assert next(story(MODEL, VERSION, None, watched)).endswith("by price-run-2, because somebody asked for it.")


def test_a_ready_file_and_a_model_without_a_version() -> None:
    ready = {**VERSION, "spec": {"version": 2, "job": "price-import-1", "source": None, "split": None}, "status": {}}
    assert next(story(MODEL, ready, None, None)) == "price:2 came as a ready file."
    assert version_told_of({"name": "price", "status": {}}) == ""


def test_a_gate_that_checks_nothing_says_that() -> None:
    version = {**VERSION, "status": {"gate": {"passed": True, "checks": []}}}
    assert "The gate let it pass, for it checks nothing." in list(story(MODEL, version, None, None))
