"""Boosted trees that go on from those of an attempt that was killed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from skyriver.core.errors import InvalidInput
from skyriver.train import kept_trees
from skyriver.train.boost import _SEED, _seed
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
    assert again.best_score == _train(_data(None), stop(), trees=9).best_score


def test_early_stopping_does_not_go_by_the_training_rows_after_an_interruption_either(tmp_path: Path) -> None:
    def good(scores: Any, rows: Any) -> Any:  # the training rows get no better
        return "good", 0.0 if len(scores) == 400 else float(np.std(scores)), True

    def fit(data: TrainingData, *kill: Any) -> Any:
        rows, held = lightgbm.Dataset(data.x[:400], data.y[:400]), lightgbm.Dataset(data.x[400:], data.y[400:])
        callbacks = [lightgbm.early_stopping(8, verbose=False), *kill]
        more: dict[str, Any] = {"valid_sets": [rows, held], "valid_names": ["fitted", "held"], "feval": good}
        return data.boost(SETTINGS | {"metric": "None"}, rows, TREES, callbacks=callbacks, **more)

    whole = fit(_data(None))
    assert whole.num_trees() == TREES
    with pytest.raises(Killed):
        fit(_data(tmp_path), killed_after(27))
    again = fit(_data(tmp_path))
    assert _trees(again) == _trees(whole)
    assert (again.best_iteration, again.best_score) == (whole.best_iteration, whole.best_score)


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


@pytest.mark.filterwarnings("ignore:Overriding the parameters")  # create_valid says so itself
@pytest.mark.parametrize("killed", [0, 1], ids=["in the first", "in the second"])
def test_two_models_of_one_dataset_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str], killed: int) -> None:
    def both(data: TrainingData, *kill: Any) -> list[str]:
        rows = data.dataset()
        held = rows.create_valid(data.x[:90], data.y[:90])
        settings = (SETTINGS, SETTINGS | {"num_leaves": 3})
        each = [kill if n == killed else () for n in (0, 1)]
        return [
            _trees(data.boost(of, rows, TREES, valid_sets=[held, rows], callbacks=list(with_)))
            for of, with_ in zip(settings, each, strict=True)
        ]

    whole = both(_data(None))
    with pytest.raises(Killed):
        both(_data(tmp_path), killed_after(27))
    assert both(_data(tmp_path)) == whole
    assert "goes on after 20 of 45 trees" in capfd.readouterr().err


def test_rows_that_lightgbm_was_given_before_are_trained_on_from_the_first_tree(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fit(data: TrainingData, *kill: Any) -> str:
        return _trees(data.boost(SETTINGS, data.dataset().construct(), TREES, callbacks=list(kill)))

    with pytest.raises(Killed):
        fit(_data(tmp_path), killed_after(27))
    assert fit(_data(tmp_path)) == fit(_data(None))
    assert "20 trees are there, but rows that LightGBM was given before are not had again" in capfd.readouterr().err


@pytest.mark.parametrize("of", ["rows", "valid"])
def test_where_scores_to_begin_with_would_be_lost_no_trees_are_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], of: str
) -> None:
    def fit(data: TrainingData, *kill: Any) -> tuple[str, Any]:
        begin, told = np.linspace(-2, 2, 300), {}  # type: ignore[var-annotated]
        rows, held = lightgbm.Dataset(data.x[:300], data.y[:300]), lightgbm.Dataset(data.x[300:], data.y[300:])
        (rows if of == "rows" else held).set_init_score(begin)
        callbacks = [lightgbm.record_evaluation(told), *kill]
        return _trees(data.boost(SETTINGS, rows, TREES, valid_sets=[held], callbacks=callbacks)), told

    whole = fit(_data(None))
    with pytest.raises(Killed):
        fit(_data(tmp_path), killed_after(27))
    assert not list(tmp_path.iterdir())
    assert fit(_data(tmp_path)) == whole
    assert "a Dataset with init_score cannot go on" in capfd.readouterr().err


def focal() -> Callable[[Any, Any], Any]:
    def objective(scores: Any, rows: Any) -> Any:
        p = 1 / (1 + np.exp(-scores))
        return p - rows.get_label(), p * (1 - p)

    return objective


def test_functions_and_sets_among_the_settings_are_those_of_the_attempt_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def digest(**settings: Any) -> str:
        return KeptTrees(tmp_path, {}, share=0).open(settings, {}).digest

    assert digest(objective=focal()) == digest(objective=focal()) != digest(objective=killed_after)
    assert digest(objective=partial(focal(), 1)) == digest(objective=partial(focal(), 1)) != digest(objective=focal())
    names = [f"m{n}" for n in range(9)]
    assert digest(metric=set(names)) == digest(metric=sorted(map(repr, names))) != digest(metric={"m1"})
    many = np.zeros(2_000)
    one = many.copy()
    one[1_000] = 1
    assert digest(costs=many) != digest(costs=one)
    whole = _train(_data(None), settings=SETTINGS | {"objective": focal()})
    with pytest.raises(Killed):
        _train(_data(tmp_path), killed_after(27), settings=SETTINGS | {"objective": focal()})
    again = _train(_data(tmp_path), settings=SETTINGS | {"objective": focal()})
    assert "goes on after 20 of 45 trees" in capfd.readouterr().err
    assert _trees(again) == _trees(whole)


def test_seeds_go_by_each_of_their_names(tmp_path: Path) -> None:
    drawn = {k: v for k, v in SETTINGS.items() if k != "seed"} | {"bagging_fraction": 0.5, "bagging_freq": 1}
    cases: list[dict[str, Any]] = [{"seed": None}, {"random_state": 3}, {"random_state": 3}, {"random_seed": 2**31 - 1}]
    found = []
    for number, seed in enumerate(cases):
        folder = tmp_path / str(number)
        with pytest.raises(Killed):
            _train(_data(folder), killed_after(27), settings=drawn | {"bagging_fraction": 0.5} | seed)
        found.append(_trees(_train(_data(folder), settings=drawn | seed)))
    assert found[1] == found[2]
    assert _seed({"random_state": 3}, _SEED, 20) == 23 != _seed({"seed": None}, _SEED, 20)


def test_what_keeping_costs_counts_from_before_the_model_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(kept_trees.time, "monotonic", lambda: now[0])
    model = kept_trees.OneModel(tmp_path, "trees-1", "", 100, _since=now[0])
    assert not model.due, "one that takes no time is not kept at all"
    now[0] += 100 * kept_trees.FIRST_S + 0.001
    assert model.due

    def write() -> bytes:
        now[0] += 2
        return b"trees"

    model.put(10, [], write)
    now[0] += 199
    assert not model.due
    now[0] += 2
    assert model.due


def rates(killed: bool = False) -> xgboost.callback.TrainingCallback:
    def rate(tree: int) -> float:
        if killed and tree == 24:
            raise Killed
        return float(0.9 * 0.97**tree)

    return xgboost.callback.LearningRateScheduler(rate)


def _xgboost(data: TrainingData, *callbacks: Any, trees: int = TREES, **more: Any) -> tuple[Any, dict[str, Any]]:
    told: dict[str, Any] = {}
    rows, held = xgboost.DMatrix(data.x[:400], data.y[:400]), xgboost.DMatrix(data.x[400:], data.y[400:])
    settings = X_SETTINGS | more.pop("settings", {})
    more |= {"evals": [(rows, "rows"), (held, "held")], "evals_result": told, "verbose_eval": False}
    return data.boost(settings, rows, trees, callbacks=list(callbacks), **more), told


def test_xgboost_goes_on_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole, all_of_it = _xgboost(_data(None), rates())
    with pytest.raises(Killed):
        _xgboost(_data(tmp_path), rates(killed=True))
    again, told = _xgboost(_data(tmp_path), rates())
    assert "goes on after 20 of 45 trees" in capfd.readouterr().err
    assert again.num_boosted_rounds() == TREES
    assert again.get_dump(with_stats=True) == whole.get_dump(with_stats=True), "also the rate of each tree"
    assert told == all_of_it
    rows = xgboost.DMatrix(_data(None).x)
    np.testing.assert_array_equal(again.predict(rows), whole.predict(rows))


@pytest.mark.parametrize("last", [20, 24, 0], ids=["with the tree it was kept at", "where it was killed", "later"])
def test_early_stopping_of_xgboost_is_that_of_a_training_which_was_never_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], last: int
) -> None:
    def fit(data: TrainingData) -> Any:
        if last == 0:
            return _xgboost(data, rates(), trees=300, early_stopping_rounds=16)
        stop = xgboost.callback.EarlyStopping(rounds=last - 1, min_delta=1.0)  # nothing is as much better
        return _xgboost(data, rates(), stop, trees=300)

    whole, all_of_it = fit(_data(None))
    assert whole.best_iteration < 20, "it is among the trees that are there"
    assert whole.num_boosted_rounds() == (last or whole.best_iteration + 17) < 45
    with pytest.raises(Killed):  # without stopping: as if it were killed between a tree and the stop
        _xgboost(_data(tmp_path), rates(killed=True), trees=300)
    again, told = fit(_data(tmp_path))
    assert "goes on after 20 of 300 trees" in capfd.readouterr().err
    assert (again.best_iteration, again.best_score) == (whole.best_iteration, whole.best_score)
    assert told == all_of_it
    assert again.get_dump(with_stats=True) == whole.get_dump(with_stats=True)


def test_xgboost_prints_which_tree_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fit(data: TrainingData, *callbacks: Any) -> None:
        rows = xgboost.DMatrix(data.x, data.y)
        data.boost(X_SETTINGS, rows, TREES, evals=[(rows, "rows")], callbacks=list(callbacks), verbose_eval=20)

    with pytest.raises(Killed):
        fit(_data(tmp_path), rates(killed=True))
    capfd.readouterr()
    fit(_data(tmp_path), rates())
    printed = capfd.readouterr().out
    assert [line.split("]")[0] for line in printed.splitlines()] == ["[20", "[40", "[44"]


class Seen(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Sees what the model is by then: that cannot be told anew."""

    def __init__(self, killed: bool) -> None:
        super().__init__()
        self.trees: list[int] = []
        self.killed = killed

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if self.killed and epoch == 24:
            raise Killed
        self.trees.append(model.num_boosted_rounds())
        return False


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "the callback Seen"),
        ({"booster": "dart", "rate_drop": 0.5}, 'the booster "dart"'),
        ({"objective": "rank:ndcg", "lambdarank_unbiased": True}, "lambdarank_unbiased"),
    ],
    ids=["callback", "dart", "rank"],
)
def test_what_xgboost_cannot_go_on_with_is_trained_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: dict[str, Any], why: str
) -> None:
    def fit(data: TrainingData, killed: bool = False) -> Any:
        seen = Seen(killed)
        rows = xgboost.DMatrix(data.x, data.y, qid=np.repeat(np.arange(6), 100))
        callbacks = [seen] if "callback" in why else [rates(killed)]
        return data.boost(X_SETTINGS | settings, rows, 30, callbacks=callbacks).get_dump(), seen.trees

    whole = fit(_data(None))
    with pytest.raises(Killed):
        fit(_data(tmp_path), killed=True)
    assert fit(_data(tmp_path)) == whole
    assert f"{why} cannot go on from trees that are there" in capfd.readouterr().err


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
