"""What `watch get` tells of a model that is trained again by itself."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client import watches


@pytest.fixture
def watch() -> dict[str, Any]:
    retrain = {"drift": True, "quality": True, "every": "30d", "follow_up": ["7d", "14d", "35d"], "at_most": "1d"}
    at = 1_750_000_000_000_000
    quality = {"version": 2, "asked": at, "message": "The auc is 0.700 ± 0.010 on 9 rows: it is worse."}
    follow = {"run": "price-run-1", "cause": "quality", "at": at, "due": [at + 1, at + 2], "of": 3}
    return {
        "name": "price",
        "state": "WATCHING",
        "since": at,
        "created_at": at,
        "reason": "",
        "message": "",
        "next_action": "",
        "spec": {"retrain": retrain},
        "status": {"quality": quality, "follow": follow},
    }


def test_causes_follow_ups_and_quality_are_told(watch: dict[str, Any]) -> None:
    _, *told = watches._lines(watch)
    assert told == [
        "  trains for drift, worse quality and an age of 30d, at most once in 1d",
        "  again 7d, 14d and 35d after a training for drift or worse quality",
        "  judged at 15:06:40 UTC, version 2: The auc is 0.700 ± 0.010 on 9 rows: it is worse.",
        "  follows up price-run-1: the next training is at 2025-06-15 15:06:40 UTC, 2 of 3",
    ]


def test_one_cause_and_no_follow_ups(watch: dict[str, Any]) -> None:
    watch |= {"spec": {"retrain": {"drift": False, "quality": True, "at_most": "1d", "budget": 4}}, "status": {}}
    assert list(watches._lines(watch))[1:] == ["  trains for worse quality, at most once in 1d, 4 within 30 days"]


def test_what_a_follow_up_follows() -> None:
    assert watches._cause({"cause": "follow_up", "after": "price-run-1"}) == "follow up of price-run-1"
    assert watches._cause({"cause": "drift"}) == "drift"


@pytest.mark.parametrize(
    ("severity", "told", "now"),
    [
        ("none", "amount: index 0.02", "much the same"),
        ("some", "amount: index 0.12, median 10, now 12", "has drifted: median 10, now 12"),
        ("great", "a: b: index 0.42, missing 1%, now 9%", "has drifted far: missing 1%, now 9%"),
    ],
)
def test_what_became_of_a_column_in_words(severity: str, told: str, now: str) -> None:
    assert watches._now({"severity": severity, "told": told}) == now
    assert watches._now({"severity": "none", "of_few": True, "told": told}).startswith("differs for a few keys alone")
