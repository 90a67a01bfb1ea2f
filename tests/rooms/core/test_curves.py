"""Values by step in bounded room."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from skyriver.core.curves import MOST_NAMES, POINTS, POINTS_EACH, Curves, told_number
from skyriver.core.errors import InvalidInput


def told(*steps: int, name: str = "loss", **options: Any) -> Curves:
    curves = Curves()
    for step in steps:
        curves.tell(step, {name: step / 2}, 1_000 + step, **options)
    return curves


def steps(curves: Curves, name: str = "loss") -> list[int]:
    return [point.step for point in curves.curves[name].points()]


@pytest.mark.parametrize("count", [1, 2, POINTS_EACH, POINTS_EACH + 1, 100_000])
def test_a_curve_does_not_grow_with_the_run_and_lies_evenly_over_it(count: int) -> None:
    curves = told(*range(1, count + 1))
    found = steps(curves)
    assert found[0] == 1
    assert found[-1] == count
    assert len(found) <= POINTS_EACH + 1
    assert len(found) > min(count, POINTS_EACH) // 2
    apart = {after - before for before, after in pairwise(found[:-1])}
    assert len(apart) <= 1
    assert not apart or math.log2(apart.pop()).is_integer()
    assert curves.curves["loss"].seen == count


def test_all_curves_together_have_their_room() -> None:
    curves = Curves()
    for step in range(3_000):
        curves.tell(step, {f"m{n}": float(step) for n in range(MOST_NAMES)}, step)
        if step % 100 == 0:
            curves.take({"cores": 1.0, "rss_mb": 2.0})
    assert sum(len(each.kept) for each in curves.curves.values()) <= POINTS
    assert len(json.dumps(curves.record())) < 100_000


def test_what_is_recorded_is_read_back() -> None:
    curves = told(*range(1_000), samples=32, of=1_000)
    curves.tell(1_000, {"loss": math.nan, "auc": 0.5}, 9)
    curves.take({"cores": 1.5})
    again = Curves.of_record(json.loads(json.dumps(curves.record())))
    assert json.dumps(again.document()) == json.dumps(curves.document())
    again.tell(1_001, {"loss": 1.0}, 10)
    curves.tell(1_001, {"loss": 1.0}, 10)
    assert json.dumps(again.record()) == json.dumps(curves.record())


def test_a_step_that_goes_backwards_cuts_its_curve_back() -> None:
    curves = told(*range(1, 1_001))
    curves.tell(400, {"loss": -1.0}, 5)
    found = curves.curves["loss"].points()
    assert found[-1] == (400, -1.0, 5)
    assert all(before.step < after.step for before, after in pairwise(found))
    curves.tell(401, {"loss": -2.0}, 6)
    assert steps(curves)[-1] == 401
    assert curves.curves["loss"].seen <= 402


def test_the_same_step_again_takes_its_place() -> None:
    curves = told(1, 2, 3)
    for _ in range(5_000):
        curves.tell(3, {"loss": 9.0}, 1)
    assert [(p.step, p.value) for p in curves.curves["loss"].points()] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert curves.curves["loss"].seen == 3


def test_epochs_and_batches_may_count_their_own_steps() -> None:
    curves = told(*range(1, 51))
    curves.tell(1, {"valid": 0.5}, 1)
    curves.tell(51, {"loss": 1.0}, 1)
    assert len(steps(curves)) == 51
    assert steps(curves, "valid") == [1]


@pytest.mark.parametrize("back", [0, 1, 37, 100, 101])
def test_who_begins_again_goes_on_from_there(back: int) -> None:
    curves = told(*range(1, 101), samples=10)
    curves.take({"cores": 1.0})
    curves.cut(back)
    assert all(step < back for name in curves.curves for step in steps(curves, name))
    assert curves.samples <= 1_000
    curves.tell(back, {"loss": 0.0}, 1)
    assert steps(curves)[-1] == back


def test_no_number_is_kept_as_such_and_told_as_json_can() -> None:
    curves = Curves()
    for step, value in enumerate([0.5, math.nan, math.inf, -math.inf, 10**400, -(10**400), 1e308, 0.25]):
        curves.tell(step, {"loss": value}, 0)
    document = json.loads(json.dumps(curves.document(), allow_nan=False))["curves"]["loss"]
    wanted = [0.5, "NaN", "Infinity", "-Infinity", "Infinity", "-Infinity", 1e308, 0.25]
    assert [value for _, value, _ in document["points"]] == wanted
    assert (document["not_finite"], document["first_not_finite"]) == (5, 1)
    curves.tell(0, {"loss": 1.0}, 0)
    assert curves.document()["curves"]["loss"]["not_finite"] == 0


def test_a_nan_that_the_thinning_drops_is_still_told() -> None:
    curves = told(*range(10_000))
    curves.tell(10_000, {"loss": math.nan}, 0)
    for step in range(10_001, 20_000):
        curves.tell(step, {"loss": 1.0}, 0)
    found = curves.document()["curves"]["loss"]
    assert (found["not_finite"], found["first_not_finite"]) == (1, 10_000)


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.int64(1), np.array(1.0), Fraction(1, 1)], ids=str)
def test_whatever_is_a_number_is_taken(value: object) -> None:
    curves = Curves()
    curves.tell(0, {"loss": value}, 0)
    assert curves.latest == {"loss": 1.0}


@pytest.mark.parametrize(
    ("step", "values", "options"),
    [
        (-1, {"loss": 1.0}, {}),
        (1.5, {"loss": 1.0}, {}),
        ("3", {"loss": 1.0}, {}),
        (1 << 62, {"loss": 1.0}, {}),
        (1, {"loss": "0.3"}, {}),
        (1, {"loss": None}, {}),
        (1, {"loss": [1.0, 2.0]}, {}),
        (1, {"loss": 1 + 2j}, {}),
        (1, {"loss": np.zeros(3)}, {}),
        (1, {"": 1.0}, {}),
        (1, {"a\nb": 1.0}, {}),
        (1, {"a\x1b[31m": 1.0}, {}),
        (1, {"x" * 65: 1.0}, {}),
        (1, {"loss": 1.0}, {"samples": -1}),
        (1, {"loss": 1.0}, {"of": 0.5}),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_whole(step: Any, values: dict[str, Any], options: dict[str, Any]) -> None:
    curves = told(1)
    before = json.dumps(curves.record())
    with pytest.raises(InvalidInput) as refused:
        curves.tell(step, {"good": 1.0, **values}, 0, **options)
    assert refused.value.code == "BAD_METRIC"
    assert refused.value.next_action
    assert json.dumps(curves.record()) == before


def test_more_than_32_names_are_refused() -> None:
    curves = Curves()
    for n in range(MOST_NAMES):
        curves.tell(1, {f"loss at step {n}": 1.0}, 0)
    with pytest.raises(InvalidInput, match="metric number 33 of this job; 32 are kept") as refused:
        curves.tell(2, {"loss at step 0": 2.0, "one more": 1.0}, 0)
    assert refused.value.code == "TOO_MANY_METRICS"
    assert curves.latest["loss at step 0"] == 1.0


def test_strange_names_that_can_be_seen_are_kept() -> None:
    curves = Curves()
    curves.tell(1, {"Verlust (größte) <b>&\"'</b> [red] 损失": 1.0}, 0)
    assert list(curves.latest) == ["Verlust (größte) <b>&\"'</b> [red] 损失"]


def test_finite_numbers_are_told_as_they_are() -> None:
    assert told_number(0.1) == 0.1
