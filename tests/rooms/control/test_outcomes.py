"""What an application tells of a model's answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyriver.control.outcomes import MOST_METRICS, MOST_VERSIONS
from skyriver.core.resources import Resource

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage

PATH = f"{BASE}/models/price/outcomes"


@pytest.fixture
def priced(stage: Stage) -> Stage:
    stage.put(Resource("default", "model", "price", state="DECLARED", status={"aliases": {"champion": 1}}))
    for number in range(1, 15):
        stage.put(Resource("default", "version", f"price:{number}", state="APPROVED"))
    return stage


def told(stage: Stage, admin: dict[str, str], *outcomes: tuple[int, str, Any, Any], key: str = "") -> httpx.Response:
    listed = [dict(zip(("version", "metric", "yes", "of"), outcome, strict=True)) for outcome in outcomes]
    headers = {**admin, "Idempotency-Key": key} if key else admin
    return stage.caller.post(PATH, json={"outcomes": listed}, headers=headers)


def test_what_is_told_is_added_up_by_version_and_metric(priced: Stage, admin: dict[str, str]) -> None:
    told(priced, admin, (1, "accepted", 10, 20), (2, "accepted", 3, 4))
    answer = told(priced, admin, (2, "accepted", 1, 6), (2, "returned", 0, 1), (2, "returned", 1, 1))
    assert answer.json() == {
        "model": "price",
        "outcomes": {
            "1": {"accepted": {"yes": 10, "of": 20}},
            "2": {"accepted": {"yes": 4, "of": 10}, "returned": {"yes": 1, "of": 2}},
        },
        "let_go": [],
    }
    assert priced.store.get("default", "outcome", "price").status["outcomes"] == answer.json()["outcomes"]


def test_reports_touch_neither_the_models_row_nor_the_audit_trail_but_once_an_hour(
    priced: Stage, admin: dict[str, str]
) -> None:
    before = priced.store.get("default", "model", "price").revision

    def audited() -> list[dict[str, Any]]:
        return [row for row in priced.store.audit("default", limit=1_000) if row["action"] == "report_outcomes"]

    for _ in range(50):
        assert told(priced, admin, (1, "accepted", 1, 2)).status_code == 200
    assert [row["details"] for row in audited()] == [{"count": 1, "reports": 1}]
    told(priced, priced.issue("admin", name="ben"), (1, "accepted", 1, 2))
    assert [row["actor"] for row in audited()] == [audited()[0]["actor"], "ben"], "each who reports"
    priced.world.clock.advance(3_600_000_000)
    priced.world.loop.run_pass()
    told(priced, admin, (1, "accepted", 1, 2))
    assert audited()[-1]["details"] == {"count": 1, "reports": 52}
    assert priced.store.get("default", "model", "price").revision == before
    assert priced.store.get("default", "outcome", "price").status["outcomes"]["1"]["accepted"] == {"yes": 52, "of": 104}


def test_what_an_earlier_release_kept_goes_along(priced: Stage, admin: dict[str, str]) -> None:
    model = priced.store.get("default", "model", "price")
    status = {**model.status, "outcomes": {"1": {"accepted": {"yes": 5, "of": 9}}}}
    priced.put(replace(model, status=status))
    answer = told(priced, admin, (1, "accepted", 1, 1))
    assert answer.json()["outcomes"] == {"1": {"accepted": {"yes": 6, "of": 10}}}


def test_counts_of_an_old_champion_are_kept_and_others_are_said_to_be_let_go(
    priced: Stage, admin: dict[str, str]
) -> None:
    for version in range(3, 15):
        told(priced, admin, (version, "accepted", 1, 2))
    answer = told(priced, admin, (1, "accepted", 3, 4), (2, "accepted", 5, 6), (2, "returned", 1, 7)).json()
    assert [*answer["outcomes"]] == ["1", *(str(n) for n in range(5, 15))]
    (gone,) = answer["let_go"]
    assert (gone["version"], gone["answers"]) == (2, 7)
    assert "of the last 10 versions, of the one that serves" in gone["why"]
    rollout = Resource("default", "rollout", "price-9", spec={"model": "price", "to": 2}, state="PAUSED")
    priced.put(rollout)
    assert "2" in told(priced, admin, (2, "accepted", 5, 6)).json()["outcomes"]


def test_a_report_that_comes_twice_counts_once(priced: Stage, admin: dict[str, str]) -> None:
    for _ in range(2):
        answer = told(priced, admin, (1, "accepted", 1, 2), key="one")
    assert answer.json()["outcomes"] == {"1": {"accepted": {"yes": 1, "of": 2}}}


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        ((1, "accepted", 3, 2), 422, "BAD_OUTCOME"),
        ((99, "accepted", 1, 2), 404, "NOT_FOUND"),
        ((1, "Accepted!", 1, 2), 422, "BAD_REQUEST"),
        ((1, "accepted", -1, 2), 422, "BAD_REQUEST"),
        ((1, "accepted", 0.5, 2), 422, "BAD_REQUEST"),
        ((1, "accepted", True, 2), 422, "BAD_REQUEST"),
        ((0, "accepted", 1, 2), 422, "BAD_REQUEST"),
    ],
    ids=range(7),
)
def test_a_report_with_something_wrong_is_refused_whole(
    priced: Stage, admin: dict[str, str], outcome: tuple[int, str, Any, Any], status: int, code: str
) -> None:
    answer = told(priced, admin, (1, "accepted", 1, 2), outcome)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert priced.store.rows("default", "outcome") == []


def test_of_a_model_that_is_not_there(stage: Stage, admin: dict[str, str]) -> None:
    assert told(stage, admin, (1, "accepted", 1, 2)).status_code == 404


def test_metrics_are_few_and_versions_the_last_ones(priced: Stage, admin: dict[str, str]) -> None:
    for number in range(MOST_METRICS):
        assert told(priced, admin, (1, f"metric_{number}", 1, 2)).status_code == 200
    answer = told(priced, admin, (1, "one_more", 1, 2))
    assert (answer.status_code, answer.json()["code"]) == (422, "TOO_MANY_METRICS")
    for version in range(1, 15):
        answer = told(priced, admin, (version, "metric_0", 1, 2))
    assert [*answer.json()["outcomes"]] == ["1", *(str(n) for n in range(15 - MOST_VERSIONS, 15))]


def test_who_may_only_look_tells_nothing(priced: Stage, admin: dict[str, str]) -> None:
    assert told(priced, priced.issue("viewer", name="ben"), (1, "accepted", 1, 2)).status_code == 403
