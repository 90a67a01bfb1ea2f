"""Canary, shadow and what stands in: who is asked for which event, and what its record says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skyriver.data.log import RecordKind
from skyriver.decide.decision.model_run import ModelRun
from skyriver.decide.decision.scoring import Canary, Lane, in_canary, places_of
from skyriver.decide.log.blocks import decisions_of
from skyriver.decide.log.records import ModelInUse, decode_control
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.release.places import BUCKETS, place_of

House = Any


class Scores:
    """score = amount * factor; raises for the amounts of `fails`."""

    def __init__(self, factor: float, *fails: float) -> None:
        self.factor = factor
        self.fails = fails

    def score(self, features: Any) -> Any:
        if np.isin(features[:, 0], self.fails).any():
            raise RuntimeError("unlucky")
        return features[:, 0] * np.float32(self.factor)


def lane(version: int, factor: float, *fails: float) -> Lane:
    return Lane(ModelInUse("fraud", version, f"artifact-{version}"), ModelRun(Scores(factor, *fails), 0, lambda: 0))


def deciding(house: House, *, fallback_by: tuple[str, ...] = (), **arms: Any) -> Any:
    rules = [("call", "amount > 900"), ("block", "score >= 0.9")]
    compiled = compile_rules(rules, "approve", "review", house.stream, None, without_score="rules" in fallback_by)
    main = arms.pop("main", None) or lane(1, 0.01, 13.0, 950.0)
    return replace(
        house.deciding(), rules=compiled, model=main.model, scorer=main.scorer, fallback_by=fallback_by, **arms
    )


def decisions(house: House) -> list[Any]:
    return [d for record in house.records() for d in decisions_of(record)]


def test_a_share_of_the_keys_is_the_canarys_and_a_larger_one_keeps_them() -> None:
    keys = np.arange(100_000, dtype=np.int64)
    small, large = in_canary(keys, 2, 10), in_canary(keys, 2, 35.5)
    assert abs(small.mean() - 0.10) < 0.005
    assert abs(large.mean() - 0.355) < 0.005
    assert not (small & ~large).any()
    assert not in_canary(keys, 2, 0).any()
    assert in_canary(keys, 2, 100).all()
    other = in_canary(keys, 3, 10)
    assert abs((small & other).mean() - 0.01) < 0.003, "another version takes other keys"
    assert BUCKETS == 10_000
    # What is on disk and in other processes must agree for ever.
    assert np.flatnonzero(in_canary(np.arange(40, dtype=np.int64), 2, 10)).tolist() == PINNED


PINNED = [2, 29, 37]


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_key_stays_with_its_arm_and_the_record_says_which(make_house: Any, rows: int) -> None:
    house = make_house()
    canary = Canary(lane(2, 0.1), 40.0)
    house.start(deciding(house, canary=canary))
    house.engine._block_rows = rows
    house.send(*(house.event(n, customer=n % 20, amount=10.0) for n in range(200)))
    by_customer: dict[int, set[tuple[str, int]]] = {}
    for d in decisions(house):
        by_customer.setdefault(d.id % 20, set()).add((d.arm, d.version))
        assert d.score == pytest.approx(1.0 if d.arm else 0.1)
        assert d.decision == ("block" if d.arm else "approve")
    expected = in_canary(np.arange(20, dtype=np.int64), 2, 40.0)
    assert {c: ("canary", 2) if expected[c] else ("", 1) for c in range(20)} == {
        c: next(iter(arms)) for c, arms in by_customer.items() if len(arms) == 1
    }
    control = decode_control(house.records(RecordKind.CONTROL)[-1].payload)
    assert (control.canary, control.canary_percent) == (canary.lane.model, 40.0)
    released, other = house.engine.arms.to_json()
    assert (released["arm"], released["percent"], other["arm"], other["percent"]) == ("released", 60.0, "canary", 40.0)
    assert released["events"] + other["events"] == 200
    assert other["by_decision"] == {"block": other["events"]}
    assert other["scores"][-1] == other["scored"] == other["events"]


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_shadow_scores_beside_and_decides_nothing(make_house: Any, rows: int) -> None:
    house = make_house()
    house.start(deciding(house, shadow=lane(3, 0.1, 7.0)))
    house.engine._block_rows = rows
    house.send(*(house.event(n, customer=n, amount=float(n), at=-60.0 if n == 9 else 0.0) for n in range(10)))
    found = decisions(house)
    assert {d.version for d in found if d.status == "decided"} == {1}
    assert [d.shadow_score for d in found] == [pytest.approx(n * 0.1) for n in range(7)] + [
        None,
        pytest.approx(0.8),
        None,
    ]
    assert [d.shadow_version for d in found] == [3] * 9 + [0], "it was asked for each that is not late"
    shadow = house.engine.arms.to_json()[-1]
    assert (shadow["arm"], shadow["events"], shadow["scored"], shadow["by_decision"]) == ("shadow", 9, 8, {})


@pytest.mark.parametrize("rows", [1, 10_000])
@pytest.mark.parametrize(
    ("fallback_by", "expected"),
    [
        ((), [("failed", "review", None, 1), ("failed", "review", None, 1)]),
        (("rules",), [("failed", "review", None, 1), ("failed", "call", None, 1)]),
        (("last_version",), [("fallback", "block", 1.3, 0), ("fallback", "call", 95.0, 0)]),
    ],
)
def test_what_stands_in_for_a_model_that_fails(make_house: Any, rows: int, fallback_by: Any, expected: Any) -> None:
    house = make_house()
    house.start(deciding(house, fallback_by=fallback_by, last=lane(0, 0.1)))
    house.engine._block_rows = rows
    amounts = [13.0, 950.0, 20.0, 960.0]
    house.send(*(house.event(n, amount=amount) for n, amount in enumerate(amounts)), house.event(9, at=-60, amount=950))
    found = decisions(house)
    wanted = [(s, d, pytest.approx(x) if x is not None else None, v) for s, d, x, v in expected]
    assert [(d.status, d.decision, d.score, d.version) for d in found[:2]] == wanted
    assert {d.reason for d in found[:2]} == {"MODEL_FAILED"}
    assert [(d.status, d.decision, d.version) for d in found[2:4]] == [
        ("decided", "approve", 1),
        ("decided", "call", 1),
    ]
    assert (found[4].status, found[4].decision) == ("late", "review")


@pytest.mark.parametrize("rows", [1, 10_000])
@pytest.mark.parametrize("saved", [False, True])
def test_what_arms_did_is_known_after_a_restart(make_house: Any, rows: int, saved: bool) -> None:
    house = make_house()

    def decide(percent: float = 40.0) -> Any:
        return deciding(house, canary=Canary(lane(2, 0.1), percent), shadow=lane(3, 0.2))

    def send(first: int, count: int = 50) -> None:
        house.engine._block_rows = rows
        house.send(*(house.event(n, customer=n % 20, amount=10.0) for n in range(first, first + count)))

    def counted() -> list[Any]:
        process = ("run_us", "late_runs", "aside_seconds")
        return [{k: v for k, v in arm.items() if k not in process} for arm in house.engine.arms.to_json()]

    house.start(decide())
    send(0)
    if saved:
        house.save()
    send(50)
    before = counted()
    assert before[0]["events"] + before[1]["events"] == 100 == before[2]["events"]
    house.start(decide())
    assert counted() == before
    send(100)
    assert counted()[2]["events"] == 150
    house.start(decide(percent=60.0))
    assert [arm["events"] for arm in counted()] == [0, 0, 150], "another share counts anew"
    send(150)
    house.start(decide(percent=60.0))
    released, canary, shadow = counted()
    assert (released["events"] + canary["events"], shadow["events"]) == (50, 200)
    assert canary["by_decision"] == {"block": canary["events"]}


def test_the_released_version_stands_in_for_a_canary_that_fails(make_house: Any) -> None:
    house = make_house()
    canary = Canary(lane(2, 0.1, 50.0), 100.0)
    house.start(deciding(house, canary=canary, fallback_by=("last_version",)))
    house.send(house.event(1, amount=50.0), house.event(2, amount=60.0))
    first, second = decisions(house)
    assert (first.status, first.reason, first.version, first.score) == ("fallback", "MODEL_FAILED", 1, 0.5)
    assert (second.status, second.arm, second.version) == ("decided", "canary", 2)


@pytest.mark.parametrize("rows", [1, 10_000])
def test_an_event_counts_at_the_place_of_its_key(make_house: Any, rows: int) -> None:
    house = make_house()
    house.start(deciding(house, canary=Canary(lane(2, 0.1, 10.0), 30.0)))
    house.engine._block_rows = rows
    house.send(*(house.event(n, customer=n % 40, amount=10.0 + n % 2) for n in range(200)))
    released, canary = house.engine.arms.to_json()
    places = [place_of(key, 2) for key in range(40)]
    assert places == places_of(np.arange(40, dtype=np.int64), 2).tolist()
    counted = [events for events, _, _ in canary["places"]]
    assert counted == [5 * sum(own == place for own in places) if place < 30 else 0 for place in range(100)]
    assert sum(events for events, _, _ in released["places"]) == released["events"]
    failed = sum(without for _, without, _ in canary["places"])
    assert failed == canary["by_reason"]["MODEL_FAILED"] > 0
    assert sum(count for _, _, scores in canary["places"] for _, count in scores) == canary["events"] - failed


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_one_key_and_many_have_the_same_place(key: int) -> None:
    for version in (1, 2, 77):
        assert place_of(key, version) == places_of(np.array([key], np.int64), version)[0]
        percent = float(place_of(key, version))
        assert not in_canary(np.array([key], np.int64), version, percent)[0]
        assert in_canary(np.array([key], np.int64), version, percent + 1)[0]
