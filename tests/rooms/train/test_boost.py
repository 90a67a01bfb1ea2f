"""Boosted trees that go on from those of an attempt that was killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from skyriver.core.errors import InvalidInput
from skyriver.train.data import TrainingData
from skyriver.train.kept_trees import KEPT, KeptTrees

TREES = 45
SETTINGS = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4, "metric": "auc", "seed": 3}
X_SETTINGS = {"objective": "binary:logistic", "nthread": 1, "max_depth": 2, "verbosity": 0, "seed": 3}


class Killed(Exception):
    pass


def killed_after(trees: int) -> Callable[[Any], None]:
    def callback(env: Any) -> None:
        if env.iteration + 1 == trees:
            raise Killed

    return callback


class KilledAfter(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if epoch == 24:
            raise Killed
        return False


def _data(folder: Path | None, flipped: int = 0, **params: Any) -> TrainingData:
    luck = np.random.default_rng(5)
    x = luck.normal(size=(600, 4)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + 0.5 * luck.normal(size=600) > 0).astype(np.float32)
    y[:flipped] = 1 - y[:flipped]
    kept = KeptTrees(folder, {"code": "a"}, share=0) if folder is not None else None
    return TrainingData(x, y, ("a", "b", "c", "d"), np.zeros(600, np.int64), params=params, kept=kept)


def _train(data: TrainingData, *callbacks: Any, settings: dict[str, Any] = SETTINGS, trees: int = TREES) -> Any:
    given, held = lightgbm.Dataset(data.x[:400], data.y[:400]), lightgbm.Dataset(data.x[400:], data.y[400:])
    return data.boost(settings, given, trees, valid_sets=[held], callbacks=list(callbacks))


def _trees(booster: Any) -> str:
    text: str = booster.model_to_string(num_iteration=-1)
    return text.split("end of trees", maxsplit=1)[0].split("Tree=0", 1)[1]


def test_a_killed_training_goes_on_and_gives_the_same_bits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = lightgbm.train(SETTINGS, lightgbm.Dataset(_data(None).x[:400], _data(None).y[:400]), TREES)
    with pytest.raises(Killed):
        _train(_data(tmp_path), killed_after(27))
    again = _train(_data(tmp_path))
    assert "goes on after 20 of 45 trees" in capfd.readouterr().err
    assert again.num_trees() == TREES
    assert _trees(again) == _trees(plain) == _trees(_train(_data(None)))


def test_early_stopping_is_that_of_a_training_which_was_never_killed(tmp_path: Path) -> None:
    def stop() -> Any:
        return lightgbm.early_stopping(12, verbose=False)

    settings = SETTINGS | {"learning_rate": 0.8}
    whole = _train(_data(None), stop(), settings=settings, trees=200)
    assert 0 < whole.best_iteration < 200
    evaluated: dict[str, Any] = {}
    with pytest.raises(Killed):
        _train(_data(tmp_path), killed_after(whole.best_iteration + 9), stop(), settings=settings, trees=200)
    again = _train(_data(tmp_path), stop(), lightgbm.record_evaluation(evaluated), settings=settings, trees=200)
    assert again.best_iteration == whole.best_iteration
    assert len(evaluated["valid_0"]["auc"]) == whole.best_iteration + 12, "also those of the attempt before"
    np.testing.assert_array_equal(again.predict(_data(None).x), whole.predict(_data(None).x))


def test_one_that_early_stopping_had_ended_is_not_trained_on(tmp_path: Path) -> None:
    def stop() -> Any:
        return lightgbm.early_stopping(7, verbose=False, min_delta=1.0)  # nothing is as much better

    def killed_at_the_end(env: Any) -> None:
        if env.iteration == 9:
            raise Killed

    killed_at_the_end.order = 0  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        _train(_data(tmp_path), killed_at_the_end)
    again = _train(_data(tmp_path), stop())
    assert (again.best_iteration, again.num_trees()) == (1, 10)


def test_each_model_of_a_function_has_its_own_and_other_rows_begin_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = _data(tmp_path)
    _train(first, trees=30)
    with pytest.raises(Killed):
        _train(first, killed_after(15))
    second = _data(tmp_path)
    _train(second, trees=30)
    _train(second)
    told = capfd.readouterr().err
    assert "goes on after 20 of 30 trees" in told
    assert "goes on after 10 of 45 trees" in told
    for other in (_data(tmp_path, flipped=9), _data(tmp_path, depth=3)):
        _train(other, trees=12)
        assert "of other rows, parameters or code, and is passed over" in capfd.readouterr().err


def test_the_last_ones_are_kept_and_a_damaged_one_is_passed_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        _train(_data(tmp_path), killed_after(75), trees=80)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"trees-1-{n:08d}" for n in (50, 60, 70)][-KEPT:]
    files[-1].write_bytes(files[-1].read_bytes()[:-100])
    files[-2].write_bytes(b"")
    _train(_data(tmp_path), trees=80)
    told = capfd.readouterr().err
    assert told.count("is not what was written, and is passed over") == 2
    assert "goes on after 50 of 80 trees" in told


def test_a_disk_that_is_full_ends_no_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_bytes(b"")
    assert _train(_data(tmp_path / "taken")).num_trees() == TREES
    assert "10 trees could not be kept" in capfd.readouterr().err


def test_xgboost_goes_on_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fit(data: TrainingData, *callbacks: Any) -> Any:
        return data.boost(X_SETTINGS, xgboost.DMatrix(data.x, data.y), TREES, callbacks=list(callbacks))

    whole = fit(_data(None))
    with pytest.raises(Killed):
        fit(_data(tmp_path), KilledAfter())
    again = fit(_data(tmp_path))
    assert "goes on after 20 of 45 trees" in capfd.readouterr().err
    assert again.num_boosted_rounds() == TREES
    rows = xgboost.DMatrix(_data(None).x)
    np.testing.assert_array_equal(again.predict(rows), whole.predict(rows))


@pytest.mark.parametrize(
    ("settings", "rows", "trees", "more", "what"),
    [
        ({"boosting": "dart"}, None, 10, {}, 'boosting "dart"'),
        ({"boosting_type": "rf"}, None, 10, {}, 'boosting "rf"'),
        ({"n_estimators": 10}, None, 10, {}, "n_estimators among the settings"),
        ({"early_stopping_round": 10}, None, 10, {}, "early_stopping_round among the settings"),
        ({}, None, 10, {"init_model": "a.txt"}, "init_model="),
        ({}, None, 0, {}, "0 as number of trees"),
        ({}, [[1.0]], 10, {}, "rows as list"),
    ],
    ids=["dart", "rf", "trees", "stopping", "begun", "none", "rows"],
)
def test_what_cannot_go_on_is_refused(
    settings: dict[str, Any], rows: Any, trees: int, more: dict[str, Any], what: str
) -> None:
    data = _data(None)
    with pytest.raises(InvalidInput, match=what) as refused:
        data.boost(settings, lightgbm.Dataset(data.x, data.y) if rows is None else rows, trees, **more)
    assert refused.value.code == "BAD_BOOST"
    assert refused.value.next_action
