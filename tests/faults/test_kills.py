"""A whole cloud at work, whose processes are killed at random moments (`make faults` kills a thousand times)."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from cloud_process import Cloud
from kills.campaign import Campaign
from kills.changes import Change
from kills.examination import Examination
from kills.journal import SETTLE_SECONDS, Failure, Journal, Kill, What
from kills.killer import Manner

KILLS = int(os.environ.get("FAULT_ROUNDS", "30"))
CHEAP = {"supervisor": 0.12, "control": 0.12, "gateway": 0.26, "replica": 0.28, "worker": 0.14, "job": 0.08}
"""Without trainings and rollouts: those take their time on two cores."""


def test_kills_at_random_moments_lose_nothing_and_do_nothing_twice(tmp_path: Path, kernels: Path) -> None:
    cloud = Cloud(tmp_path, kernels=kernels)
    manner = Manner(weights=CHEAP, pause=0.4, aimed=0.1, stops=0.0)
    try:
        outcome = Campaign(cloud, seed=7, manner=manner, trains=False).run(KILLS)
    finally:
        cloud.close()
    assert outcome.problems == []
    assert outcome.failed("control") == []
    assert outcome.failed("nothing") == []
    assert outcome.checked["events"] > 0
    assert outcome.journal.asked["prediction"] > 0


# That the examination is not blind: what is planted is found.


def killed(kind: str, at: float, back_at: float | None) -> Kill:
    return Kill(1, kind, kind, 1, stopped=False, moment="at random", at=at, dead_at=at, back_at=back_at)


@pytest.mark.parametrize(
    ("what", "dead", "blamed"),
    [
        ("prediction", ["replica"], "replica"),
        ("prediction", ["replica", "gateway", "control"], "gateway+replica"),
        ("prediction", ["worker"], "nothing"),
        ("prediction", ["worker", "control"], "control"),
        ("prediction", ["supervisor"], "control"),
        ("event", ["replica"], "nothing"),
        ("event", ["worker", "replica"], "worker"),
        ("prediction", [], "nothing"),
    ],
)
def test_a_failure_is_excused_only_by_what_was_dead_on_its_way(what: What, dead: list[str], blamed: str) -> None:
    journal = Journal(kills=[killed(kind, 10.0, 12.0) for kind in dead])
    assert journal.blame(Failure(what, 11.0, 11.1, "")) == blamed
    assert journal.blame(Failure(what, 9.0, 9.9, "")) == "nothing"
    assert journal.blame(Failure(what, 12.1 + SETTLE_SECONDS, 14.0, "")) == "nothing"


def examination(journal: Journal, changes: list[Change]) -> Examination:
    answers = {n: {"event_offset": 10 + n, "decision": "ship", "score": 0.1} for n in (1, 2)}
    sender: Any = SimpleNamespace(answers=answers, labels={})
    operator: Any = SimpleNamespace(changes=changes, refused=0)
    cloud: Any = None
    return Examination(cloud, journal, [sender], operator)


def decision(number: int, **other: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"event_offset": 10 + number, "decision": "ship", "score": 0.1, **other})


@pytest.mark.parametrize(
    ("events", "decisions", "lost", "twice"),
    [
        ({1: 1, 2: 1}, {1: [decision(1)], 2: [decision(2)]}, 0, 0),
        ({1: 1}, {1: [decision(1)]}, 1, 0),
        ({1: 1, 2: 1}, {1: [decision(1)]}, 1, 0),
        ({1: 2, 2: 1}, {1: [decision(1)], 2: [decision(2)]}, 0, 1),
        ({1: 1, 2: 1}, {1: [decision(1), decision(1)], 2: [decision(2)]}, 0, 1),
        ({1: 1, 2: 1}, {1: [decision(1)], 2: [decision(2, score=0.2)]}, 0, 1),
        ({1: 1, 2: 1}, {1: [decision(1)], 2: [decision(7)]}, 0, 1),
    ],
)
def test_a_lost_or_second_decision_is_found(
    events: dict[int, int], decisions: dict[int, Any], lost: int, twice: int
) -> None:
    journal = Journal()
    examination(journal, []).compare(Counter(events), decisions)
    assert (len(journal.lost), len(journal.decided_twice)) == (lost, twice)


RUN = "comes_back-run-2"


def operation(name: str, action: str) -> dict[str, Any]:
    return {"name": name, "state": "SUCCEEDED", "spec": {"action": action}}


@pytest.mark.parametrize(
    ("changes", "there", "lost", "twice"),
    [
        ([Change("train", RUN, True)], [RUN], 0, 0),
        ([Change("train", RUN, True)], [], 2, 0),  # it is not there, and one is missing
        ([Change("train", RUN, True)], [RUN, "comes_back-run-3"], 0, 1),
        ([Change("train", RUN, True), Change("train", "", False)], [RUN, "comes_back-run-3"], 0, 0),
        ([Change("train", RUN, True), Change("train", RUN, True)], [RUN, "comes_back-run-3"], 0, 1),
    ],
)
def test_a_lost_or_second_operation_is_found(changes: list[Change], there: list[str], lost: int, twice: int) -> None:
    journal = Journal()
    first = {"comes_back-run-1": operation("comes_back-run-1", "train"), "load": operation("load", "load")}
    examination(journal, changes).operations_are_there(first | {name: operation(name, "train") for name in there})
    assert (len(journal.lost), len(journal.twice)) == (lost, twice)


def test_a_second_version_or_rollout_is_found() -> None:
    versions = [{"spec": {"job": "run-1"}}, {"spec": {"job": "run-2"}}]
    rollout = {"name": "comes_back-1", "parent": "version/comes_back:1", "state": "DONE"}
    rollout |= {"spec": {"to": 1, "cause": "release"}}
    history = [{"version": 1, "cause": "release"}]

    def found(versions: list[Any], rollouts: list[Any], history: list[Any]) -> int:
        journal = Journal()
        examination(journal, []).made_once(versions, rollouts, history)
        return len(journal.twice)

    assert found(versions, [rollout], history) == 0
    assert found([*versions, versions[0]], [rollout], history) == 1
    assert found(versions, [rollout, {**rollout, "name": "comes_back-2", "state": "ABORTED"}], history) == 1
    assert found(versions, [rollout], history * 2) == 1
