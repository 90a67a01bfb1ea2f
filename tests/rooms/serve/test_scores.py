"""Buckets of scores: in the order of the numbers, fine where probabilities are, the same for one and for many."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.serve.scores import Scores, score_bucket

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_a_greater_number_is_in_no_lower_bucket(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert score_bucket(low) <= score_bucket(high)


@pytest.mark.parametrize("value", [1e-6, 0.001, 0.01, 0.3, 0.7, 0.99, 0.999999, 3.0, 1e6, -0.2, -50.0])
def test_a_bucket_is_an_eighth_of_a_power_of_two_wide(value: float) -> None:
    """Counted from the end that is nearer, where the number is a probability."""
    from_end = 1 - value if 0.5 < value < 1 else abs(value)
    wide = from_end / 4
    assert score_bucket(value) != score_bucket(value + wide)
    assert score_bucket(value) != score_bucket(value - wide)


@given(st.lists(st.one_of(numbers, st.just(math.nan), st.just(math.inf)), max_size=200))
def test_many_are_counted_as_each_is(values: list[float]) -> None:
    one_by_one, at_once = Scores(), Scores()
    for value in values:
        one_by_one.add(np.array([value]))
    at_once.add(np.array(values).reshape(-1, 1))
    padded = Scores()
    padded.add(np.array([*values, *[math.nan] * 40]))
    assert one_by_one.told() == at_once.told() == padded.told()
    assert sum(count for _, count in at_once.told()) == sum(map(math.isfinite, values))
