"""Whether a model is as good as it was."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from skyriver.observe.quality import ALPHA, Reference, average_precision_at, judge, sure
from skyriver.train.metrics import average_precision


def rows(rng: np.random.Generator, count: int, apart: float, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(count) < share).astype(np.float32)
    return labels, rng.normal(apart * labels, 1).astype(np.float32)


def reference(apart: float) -> Reference:
    return Reference(average_precision(*rows(np.random.default_rng(99), 400_000, apart)), 0.0, 0.05)


HALF = Reference(0.5, 0.0, 0.05)


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
        judge(average_precision, *rows(np.random.default_rng(s), 4_000, 2.0), reference=HALF, tolerance=0.0)
        for s in range(40)
    ]
    spread = float(np.std([q.value for q in found]))
    assert np.mean([q.error for q in found]) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("share", [0.0, 0.002, 1.0])
def test_without_enough_of_both_it_cannot_be_told(share: float) -> None:
    labels, scores = rows(np.random.default_rng(0), 5_000, 1.0, share)
    found = judge(average_precision, labels, scores, reference=HALF, tolerance=0.02)
    assert (found.worse, found.value) == (None, None)
    assert "30 are needed" in found.message


def test_the_same_rows_give_the_same_answer() -> None:
    of = rows(np.random.default_rng(0), 5_000, 1.0)
    assert judge(average_precision, *of, reference=HALF, tolerance=0) == judge(
        average_precision, *of, reference=HALF, tolerance=0
    )


def test_versions_that_are_as_good_are_rarely_called_worse_in_half_a_year_of_looks() -> None:
    """By their own test rows, which are a draw too: weeks of as many rows, at each of which it is looked once.
    With a test metric that is taken as exact one in six is called worse."""
    rng, exact, called = np.random.default_rng(3), 0, 0
    for _ in range(150):
        drawn = rng.normal(0.6, 0.03)
        of_test = Reference(drawn, 0.03, 0.05)
        weeks = rng.normal(0.6, 0.03, 26)
        called += any(v + sure(k + 1) * np.hypot(0.03, 0.03) < of_test.value for k, v in enumerate(weeks))
        exact += any(v + 3 * 0.03 < drawn for v in weeks)
    assert called <= 150 * ALPHA
    assert exact >= 15
    assert 0.6 - 0.25 + sure(26) * np.hypot(0.03, 0.03) < 0.6, "what matters is seen all the same"


def test_all_looks_together_have_one_chance() -> None:
    needed = [sure(look) for look in range(1, 2_000)]
    assert needed == sorted(needed)
    assert 3.2 < needed[0] < needed[29] < needed[364] < 5.3
    spent = sum(float(t.sf(x, 49)) for x in needed)
    assert 0.9 * ALPHA < spent < 1.05 * ALPHA


def test_rarer_positives_are_no_worse_model() -> None:
    many, few = rows(np.random.default_rng(1), 60_000, 2.0, 0.10), rows(np.random.default_rng(2), 60_000, 2.0, 0.02)
    measure = average_precision_at(0.10)
    assert measure(*many) == pytest.approx(average_precision(*many), abs=0.01)
    assert average_precision(*few) < average_precision(*many) - 0.15
    assert measure(*few) == pytest.approx(measure(*many), abs=0.03)
    assert np.isnan(measure(np.ones(5), np.arange(5.0)))


def test_by_how_much_a_reference_may_be_off() -> None:
    of = Reference.of(0.6, (0.502, 0.66), 1_000, 50)
    assert (of.value, of.error, of.share) == (0.6, pytest.approx(0.05, abs=1e-4), 0.05)
