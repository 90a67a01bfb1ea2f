"""How columns were distributed, and how far others are from it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import ks_2samp

from skyriver.data.profile import BINS, Counted, Profile, count, distance, farthest, profile_of

numbers = arrays.arrays(
    np.float32, st.integers(0, 60), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
)


def column(values: object) -> np.ndarray:
    return np.array(values, np.float32)


@given(numbers)
def test_every_row_is_counted_once(x: np.ndarray) -> None:
    profile = profile_of(["x"], [x])
    (own,) = profile.columns
    assert own.rows == len(x) == profile.rows
    assert len(own.counts) == len(own.edges) + 1 <= BINS
    assert own.missing == int(np.isnan(x).sum())
    assert count(own, x).counts == own.counts
    assert list(own.edges) == sorted(set(own.edges))


@given(numbers, numbers)
def test_parts_add_up(a: np.ndarray, b: np.ndarray) -> None:
    (own,) = profile_of(["x"], [np.concatenate([a, b])]).columns
    together = count(own, a) + count(own, b)
    assert (together.counts, together.missing) == (own.counts, own.missing)


def test_bins_hold_equally_many_and_few_values_have_one_each() -> None:
    rng = np.random.default_rng(0)
    smooth, few, constant = profile_of(
        ["smooth", "few", "constant"],
        [column(rng.normal(size=10_000)), column(rng.integers(0, 3, 10_000)), column(np.full(10_000, 7))],
    ).columns
    assert len(smooth.counts) == BINS
    assert max(smooth.counts) - min(smooth.counts) <= 1
    assert few.edges == (-0.5, 0.5, 1.5, 2.5)
    assert constant.counts == (0, 10_000, 0)
    assert distance(constant, count(constant, column(np.full(1_000, 100)))) > 1, "another constant is a change"
    assert distance(few, count(few, column(np.where(np.arange(999) % 3 == 2, 9, np.arange(999) % 3)))) > 1
    assert (constant.median, constant.low, constant.high) == (7.0, 7.0, 7.0)


def test_it_is_small_and_the_same_as_read_again() -> None:
    rng = np.random.default_rng(0)
    profile = profile_of([f"f{i}" for i in range(30)], [column(rng.normal(size=100_000)) for _ in range(30)])
    text = json.dumps(profile.to_json())
    assert len(text) < 40_000
    assert Profile.model_validate(json.loads(text)) == profile


def test_samples_of_one_distribution_are_no_distance_apart_on_average() -> None:
    rng = np.random.default_rng(1)
    (own,) = profile_of(["x"], [column(rng.normal(size=50_000))]).columns
    for rows in (500, 5_000):
        found = [distance(own, count(own, column(rng.normal(size=rows)))) for _ in range(300)]
        assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(300) + 0.1 * BINS / rows)
        assert np.std(found) == pytest.approx(np.sqrt(2 * (BINS - 1)) / rows, rel=0.3)


def test_a_shift_is_as_far_as_its_definition_says() -> None:
    before, after = Counted((50, 30, 20), 0), Counted((20, 30, 40), 10)
    p, q = (0.5, 0.3, 0.2, 0.005), (0.2, 0.3, 0.4, 0.1)  # nothing is half a row
    by_hand = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert distance(before, after) == pytest.approx(by_hand - 3 * (1 / 100 + 1 / 100))


def test_the_farthest_is_that_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(2)
    x, y = (column(rng.integers(0, 15, size)) for size in (4_000, 900))
    y = y + (rng.random(900) < 0.3)
    (own,) = profile_of(["x"], [x]).columns
    assert farthest(own, count(own, column(y))) == pytest.approx(ks_2samp(x, y).statistic)


def test_the_last_bit_of_a_value_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    x = rng.choice(column([0.1, 0.2, 0.30000001, 0.7]), 5_000)
    (own,) = profile_of(["x"], [x]).columns
    for other in (np.nextafter(x, np.float32(1)), np.nextafter(x, np.float32(0))):
        assert count(own, other).counts == own.counts


def test_nothing_is_not_far_from_anything() -> None:
    (own,) = profile_of(["x"], [column([])]).columns
    assert (own.rows, own.median) == (0, None)
    assert distance(own, count(own, column([1, 2]))) == 0.0
    assert farthest(own, count(own, column([]))) == 0.0


def test_stretches_know_that_days_differ() -> None:
    rng = np.random.default_rng(3)
    steady = rng.normal(size=28_000)
    weekends = np.where(np.arange(28_000) // 1_000 % 7 >= 5, 1.5, 0.0)
    calm, weekly = profile_of(["calm", "weekly"], [column(steady), column(steady + weekends)]).columns
    assert len(calm.stretches) == len(weekly.stretches) == 28
    assert max(calm.stretches) < 0.05
    assert max(weekly.stretches) > 0.25
