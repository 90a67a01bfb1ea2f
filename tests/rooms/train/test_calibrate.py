"""Probabilities: what is fitted is monotone, bounded and right where the truth is known, or there is none, with why."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.calibration import MOST_POINTS, Calibration
from skyriver.core.errors import InvalidInput
from skyriver.train.calibrate import LEAST, fit_calibration
from skyriver.train.metrics import BINS, brier, calibration_error, equal_mass


def _data(n: int, share: float = 0.3, seed: int = 0) -> tuple[Any, Any, Any]:
    """Labels, scores that are overconfident, and the true probabilities."""
    luck = np.random.default_rng(seed)
    odds = luck.normal(np.log(share / (1 - share)), 1.5, n)
    truth = 1 / (1 + np.exp(-odds))
    scores = 1 / (1 + np.exp(-(2.5 * odds + 1)))
    return (luck.random(n) < truth).astype(np.float32), scores.astype(np.float32), truth


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_probabilities_come_near_the_truth(method: Any) -> None:
    labels, scores, _ = _data(50_000)
    calibration, why = fit_calibration(method, labels, scores)
    assert calibration is not None
    assert why == ""
    labels, scores, truth = _data(50_000, seed=1)
    found = calibration.of(scores)
    assert np.abs(found - truth).mean() < 0.01
    assert calibration_error(labels, found) < 0.2 * calibration_error(labels, scores)
    assert brier(labels, found) < brier(labels, scores)


def test_the_method_is_chosen_by_the_positives_and_what_it_is_worth() -> None:
    methods = {}
    for count in (LEAST - 1, 199, 800):
        labels, scores, _ = _data(20_000, 0.05)
        scores = np.where(scores < 0.3, scores**2, 0.5 + scores / 2)  # no curve of two numbers
        some = np.random.default_rng(1).choice(np.flatnonzero(labels == 1), count, replace=False)
        rows = np.sort(np.concatenate([some, np.flatnonzero(labels == 0)]))
        found, why = fit_calibration("auto", labels[rows], scores[rows])
        methods[count] = found.method if found is not None else why
    assert list(methods.values())[1:] == ["platt", "isotonic"]
    assert methods[LEAST - 1].startswith("9 of ")


def test_scores_that_are_probabilities_are_left_as_they_are() -> None:
    labels, _, truth = _data(20_000, 0.05)
    scores = truth.astype(np.float32)
    found, why = fit_calibration("auto", labels, scores)
    assert found is not None
    assert (found.method, why) == ("score", "")
    assert found.of(scores).tobytes() == scores.tobytes()
    forced, _ = fit_calibration("platt", labels, scores)
    assert forced is not None
    assert forced.method == "platt"


@pytest.mark.parametrize("method", ["isotonic", "platt", "auto"])
@pytest.mark.parametrize("wrong", ["one class", "no rows", "constant", "turned round"])
def test_what_gives_no_probability_says_why(method: Any, wrong: str) -> None:
    labels, scores, _ = _data(1_000)
    match wrong:
        case "one class":
            labels = np.zeros_like(labels)
        case "no rows":
            labels, scores = labels[:0], scores[:0]
        case "constant":
            scores = np.full_like(scores, 0.25)
        case _:
            labels = (scores < 0.5).astype(np.float32)
    found, why = fit_calibration(method, labels, scores)
    if wrong == "turned round" and method != "platt" and found is not None:
        assert np.ptp(found.of(scores)) < 0.05  # only the two rows that keep it from being certain rise
    else:
        assert found is None
        assert why


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 9),
    st.sampled_from(["isotonic", "platt"]),
    st.sampled_from([1.0, 40.0]),
)
def test_it_is_monotone_bounded_never_certain_and_the_same_alone_and_together(
    rows: list[tuple[float, bool]], times: int, method: Any, scale: float
) -> None:
    scores = np.repeat(np.array([score for score, _ in rows], np.float32), times) * np.float32(scale)
    labels = np.repeat(np.array([label for _, label in rows], np.float32), times)
    found, _ = fit_calibration(method, labels, scores)
    if found is None:
        return
    assert len(found.points) <= MOST_POINTS
    found = Calibration.of_metadata({"skyriver.calibration": found.to_text()})
    assert found is not None
    asked = np.sort(np.concatenate([scores, np.linspace(-1, 2, 200) * scale, [-np.inf, np.inf]]).astype(np.float32))
    said = found.of(asked)
    assert (np.diff(said) >= 0).all()
    assert said[0] > 0
    assert said[-1] < 1
    alone = np.concatenate([found.of(asked[n : n + 1]) for n in range(len(asked))])
    assert alone.tobytes() == said.tobytes()
    assert np.isnan(found.of(np.array([np.nan, 0.5], np.float32))[0])
    assert np.isnan(found.of(np.array([np.nan], np.float32))[0])


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_many_different_scores_give_few_points(method: Any) -> None:
    labels, scores, _ = _data(200_000)
    found, _ = fit_calibration(method, labels, scores)
    assert found is not None
    assert len(found.points) <= MOST_POINTS
    assert len(found.to_text()) < 4_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"method": "platt"}',
        '{"method": "platt", "points": []}',
        '{"method": "platt", "points": [[0, 0.1, 2]]}',
        '{"method": "platt", "points": [[0, 0.1], [0, 0.2]]}',
        '{"method": "platt", "points": [[0, 0.2], [1, 0.1]]}',
        '{"method": "platt", "points": [[0, 0.2], [1, 1.1]]}',
        '{"method": "platt", "points": [[0, 0.2], [NaN, 0.3]]}',
        '{"method": "platt", "points": [["a", 0.2]]}',
        '{"method": "platt", "points": 7}',
        '{"method": "platt", "points": [[' + "], [".join(f"{n}, 0.5" for n in range(65)) + "]]}",
        "[" * 5_000,
        " " * 20_000,
    ],
)
def test_a_calibration_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Calibration.of_metadata({"skyriver.calibration": text})
    assert caught.value.code == "BAD_CALIBRATION"


def test_the_error_is_that_of_its_bins() -> None:
    assert np.isnan(calibration_error(np.empty(0), np.empty(0)))
    said = np.repeat(np.array([0.1, 0.6], np.float32), 500)
    labels = np.zeros(1000)
    labels[:100] = 1  # 0.2 of the first half, none of the second
    assert calibration_error(labels, said) == pytest.approx(0.5 * 0.1 + 0.5 * 0.6)
    luck = np.random.default_rng(0)
    values = luck.random(1_000).astype(np.float32)
    bins = equal_mass(values)
    assert [len(rows) for rows in bins] == [1_000 // BINS] * BINS
    assert all(values[a].max() < values[b].min() for a, b in pairwise(bins))
    assert [len(rows) for rows in equal_mass(np.zeros(7))] == [7]
