"""Classes of few rows: their weights, and rows made between them."""

from __future__ import annotations

import numpy as np
import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import TrainSpec
from skyriver.train.feed.balance import balanced, prepared

SPEC = TrainSpec(function="fit", features="f", label="y")


def data(few: int = 12, many: int = 88) -> sr.TrainingData:
    chance = np.random.default_rng(2)
    y = np.array([1.0] * few + [0.0] * many, np.float32)
    x = chance.normal(size=(len(y), 3)).astype(np.float32) + 4 * y[:, None]
    return sr.TrainingData(x=x, y=y, names=("a", "b", "c"), time=np.arange(len(y)), seed=3)


def test_each_class_weighs_the_same() -> None:
    y = np.array([0, 0, 0, 1, 2, 2], np.float32)
    weights = balanced(y)
    assert weights.sum() == pytest.approx(6)
    assert [weights[y == c].sum() for c in (0, 1, 2)] == pytest.approx([2, 2, 2])
    assert prepared(SPEC, data()).weights is None
    given = prepared(SPEC.model_copy(update={"weights": "balanced"}), data()).weights
    assert given is not None
    assert given[0] == pytest.approx(100 / 24)
    assert not given.flags.writeable


def test_rows_are_made_between_those_of_the_rare_class() -> None:
    given = data()
    spec = SPEC.model_copy(update={"minority": sr.Minority(ratio=0.5, neighbours=3)})
    made = prepared(spec, given)
    assert np.array_equal(made.x[:100], given.x)
    assert (made.y == 1).sum() == 44
    assert len(made.x) == len(made.y) == len(made.time) == 132
    new, rare = made.x[100:], given.x[given.y == 1]
    assert (new >= rare.min(axis=0)).all()
    assert (new <= rare.max(axis=0)).all()
    assert made.x.dtype == made.y.dtype == np.float32
    assert np.array_equal(made.x, prepared(spec, given).x)
    assert np.array_equal(made.time, np.sort(made.time))
    both = prepared(spec.model_copy(update={"weights": "balanced"}), given).weights
    assert both is not None
    assert len(both) == 132


def test_where_there_are_enough_none_is_made() -> None:
    spec = SPEC.model_copy(update={"minority": sr.Minority(ratio=0.1)})
    assert len(prepared(spec, data()).x) == 100


def test_what_is_missing_is_between_nothing() -> None:
    spec = SPEC.model_copy(update={"minority": sr.Minority()})
    given = data()
    given.x[7, 1] = np.nan
    with pytest.raises(InvalidInput, match=r"b is missing in 1 of them") as refused:
        prepared(spec, given)
    assert refused.value.code == "MISSING_VALUE"
    assert "clean=sr.Clean(fill=" in refused.value.next_action
    with pytest.raises(InvalidInput, match="There are 4 training rows with 1") as few:
        prepared(spec, data(few=4))
    assert few.value.code == "NOT_ENOUGH_DATA"
