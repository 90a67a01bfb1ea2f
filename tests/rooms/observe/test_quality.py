"""Whether a model is as good as it was."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from skyriver.observe import quality
from skyriver.observe.quality import PageHinkley, judge
from skyriver.train.metrics import average_precision


def rows(rng: np.random.Generator, count: int, apart: float, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(count) < share).astype(np.float32)
    return labels, rng.normal(apart * labels, 1).astype(np.float32)


def reference(apart: float) -> float:
    return average_precision(*rows(np.random.default_rng(99), 400_000, apart))


def test_it_is_worse_by_more_than_chance_explains_or_it_is_not() -> None:
    known = reference(2.0)
    as_good = [
        judge(average_precision, *rows(np.random.default_rng(s), 4_000, 2.0), reference=known, tolerance=0.02)
        for s in range(30)
    ]
    assert [q.worse for q in as_good] == [False] * 30
    worse = [
        judge(average_precision, *rows(np.random.default_rng(s), 4_000, 1.2), reference=known, tolerance=0.02)
        for s in range(5)
    ]
    assert [q.worse for q in worse] == [True] * 5
    assert "it is worse" in worse[0].message


def test_the_error_is_about_that_of_many_samples() -> None:
    found = [
        judge(average_precision, *rows(np.random.default_rng(s), 4_000, 2.0), reference=0.5, tolerance=0.0)
        for s in range(40)
    ]
    spread = float(np.std([q.value for q in found]))
    assert np.mean([q.error for q in found]) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("share", [0.0, 0.002, 1.0])
def test_without_enough_of_both_it_cannot_be_told(share: float) -> None:
    labels, scores = rows(np.random.default_rng(0), 5_000, 1.0, share)
    found = judge(average_precision, labels, scores, reference=0.5, tolerance=0.02)
    assert (found.worse, found.value) == (None, None)
    assert "30 are needed" in found.message


def test_the_same_rows_give_the_same_answer() -> None:
    of = rows(np.random.default_rng(0), 5_000, 1.0)
    assert judge(average_precision, *of, reference=0.5, tolerance=0) == judge(
        average_precision, *of, reference=0.5, tolerance=0
    )


def test_a_mean_that_rises_is_told_and_noise_is_not() -> None:
    rng = np.random.default_rng(4)
    steady = PageHinkley(tolerated=0.25, limit=10)
    assert not any(steady.add(x) for x in rng.normal(1, 0.5, 5_000))
    assert not any(steady.add(x) for x in rng.normal(0, 0.5, 500)), "better is not worse"
    rising = PageHinkley(tolerated=0.25, limit=10)
    for x in rng.normal(1, 0.5, 1_000):
        assert not rising.add(x)
    when = next(n for n, x in enumerate(rng.normal(2, 0.5, 1_000)) if rising.add(x))
    assert when < 40


def test_its_example_is_true() -> None:
    assert doctest.testmod(quality).failed == 0
