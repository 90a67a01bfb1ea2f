import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

import skyriver as sr
from skyriver.core.errors import InvalidInput, JobFailed
from skyriver.core.spec import ModelSpec
from skyriver.train.baseline import CONSTANT, LIGHTGBM, LINEAR, baselines, fit_logistic
from skyriver.train.data import TrainingData
from skyriver.train.examine import lines
from skyriver.train.holdout import hold_out
from skyriver.train.metrics import average_precision
from skyriver.train.prequential import Judged, faded, stretches
from skyriver.train.run import Trained, train
from skyriver.train.search.budget import Budget
from skyriver.train.search.looking import Look
from skyriver.train.split import Rows, split_rows
from skyriver.train.verdict import Point, Rival, verdict

DAY = 86_400_000_000
DELAY = 2 * DAY


class Sale(sr.Event):
    sale: int
    at: sr.Time
    buyer: int
    price: float


def _fit(data: TrainingData) -> lightgbm.Booster:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": int(data.params.get("leaves", 7))}
    rate = {"learning_rate": data.params.get("rate", 0.1)}
    return lightgbm.train(settings | rate, lightgbm.Dataset(data.x, data.y), 60, callbacks=[data.early_stopping])


def _spec(clean: Any = None, **given: Any) -> ModelSpec:
    app = sr.App("shop")
    sales = app.stream("sales", Sale, id="sale", time="at", key="buyer")
    returned = app.labels("returned", of=sales, delay="2d")
    features = app.features("f", sales, {"a": sales.price, "b": sales.price * 2, "c": sales.price / 2})
    return app.model("returns", app.train(features, label=returned, test="3d", clean=clean, **given)(_fit))


def _rows(n: int = 3000, days: int = 20) -> Rows:
    luck = np.random.default_rng(3)
    x = luck.normal(size=(n, 3)).astype(np.float32)
    x[luck.random(x.shape) < 0.05] = np.nan
    y = (np.nan_to_num(x[:, 0]) + 0.5 * luck.normal(size=n) > 1).astype(np.float32)
    time = np.sort(luck.integers(0, days * DAY, n))
    return Rows(("a", "b", "c"), x, y, time, np.arange(n), {"buyer": luck.integers(0, 200, n)})


def _train(
    spec: ModelSpec, rows: Rows | None = None, fit: Callable[[TrainingData], Any] = _fit, **more: Any
) -> Trained:
    given: dict[str, Any] = {"params": {}, "seed": 0, "champion": None, "progress": lambda *_: None, "delay_us": DELAY}
    return train(spec, rows or _rows(), fit, **(given | more))


def _look(spec: ModelSpec, folder: Path) -> Look:
    assert spec.train is not None
    assert spec.train.search is not None
    return Look(Budget(trials=spec.train.search.trials), folder / "returns.jsonl")


SEARCH = sr.Search({"rate": sr.Float(0.01, 0.5, log=True), "leaves": sr.Int(2, 31)}, trials=6)


def test_a_search_never_sees_the_test_rows(tmp_path: Path) -> None:
    rows, spec = _rows(), _spec(search=SEARCH)
    assert spec.train is not None
    split = split_rows(spec.train, rows, DELAY, validate=True)
    seen: list[TrainingData] = []

    def fit(data: TrainingData) -> lightgbm.Booster:
        seen.append(data)
        return _fit(data)

    trained = _train(spec, rows, fit, look=_look(spec, tmp_path))
    found = trained.found
    assert found is not None
    trials, final = seen[:6], seen[6]
    assert {len(data.x) for data in trials} == {found.learned}
    opens = rows.time[split.train[-found.judged]]
    assert max(data.time.max() for data in trials) <= opens - DELAY, "with the label's delay as a gap"
    assert len(final.x) == len(split.train), "the best is fitted on all of the training part"
    assert {k: final.params[k] for k in found.best.params} == found.best.params == {**trained.params}
    steps = found.best.step or 60
    assert lightgbm.Booster(model_str=trained.model_text.decode()).num_trees() == steps
    other = Rows(rows.names, rows.x.copy(), rows.y, rows.time, rows.ids, rows.keys)
    other.x[split.test] *= -100
    again = _train(spec, other, look=_look(spec, tmp_path / "again")).found
    assert again is not None
    assert [t.params for t in again.trials] == [t.params for t in found.trials]
    assert [t.value for t in again.trials] == [t.value for t in found.trials]


def test_cleaning_is_fitted_for_the_trials_on_their_own_rows(tmp_path: Path) -> None:
    spec = _spec(sr.Clean(fill="median", scale=True), search=SEARCH)
    trained = _train(spec, look=_look(spec, tmp_path))
    assert trained.found is not None
    assert {trial.state for trial in trained.found.trials} <= {"complete", "pruned"}
    assert trained.metrics["average_precision"] > 0.6


def test_a_loop_of_epochs_is_ended_where_it_was_best(tmp_path: Path) -> None:
    space = {"units": sr.Int(2, 8), "rate": sr.Float(0.001, 0.05, log=True)}
    spec = _spec(sr.Clean(fill="median", scale=True), search=sr.Search(space, metric="log_loss", trials=4))
    epochs: list[int] = []

    def fit(data: TrainingData) -> MLPClassifier:
        net = MLPClassifier((data.params["units"],), learning_rate_init=data.params["rate"], random_state=data.seed)
        for epoch in range(1, 31):
            net.partial_fit(data.x, data.y, classes=[0.0, 1.0])
            if data.enough(epoch, lambda x: net.predict_proba(x)[:, 1]):
                break
        epochs.append(epoch)
        return net

    trained = _train(spec, fit=fit, look=_look(spec, tmp_path))
    found = trained.found
    assert found is not None
    assert epochs[4:] == [found.best.step] * 3, "the fit on all rows, and the two of the learning curve"
    assert 0 < found.read(found.best.value or 0.0) < 0.5
    assert trained.examined is not None
    assert trained.examined.metric == "log_loss"


def test_a_model_that_fails_on_rows_is_a_trial_that_failed(tmp_path: Path) -> None:
    spec = _spec(search=SEARCH)

    class Broken(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, x: Any) -> Any:
            raise ValueError("not today")

    with pytest.raises(JobFailed, match=r"failed on .* rows: .*not today") as caught:
        _train(spec, fit=lambda data: Broken().fit(np.nan_to_num(data.x), data.y), look=_look(spec, tmp_path))
    assert caught.value.code == "TRIALS_FAILED"


def test_what_is_given_is_not_searched(tmp_path: Path) -> None:
    spec = _spec(search=SEARCH)
    trained = _train(spec, look=_look(spec, tmp_path), params={"rate": 0.2})
    assert trained.found is not None
    assert list(trained.found.best.params) == ["leaves"]
    assert trained.params["rate"] == 0.2
    assert _train(spec, look=_look(spec, tmp_path), params={"rate": 0.2, "leaves": 4}).found is None


def test_a_table_is_parted_by_its_ids() -> None:
    rows = _rows()
    spec = _spec().train
    assert spec is not None
    rows = Rows(rows.names, rows.x, np.nan_to_num(rows.y), np.zeros_like(rows.time), rows.ids, {})
    split = split_rows(spec, rows, None, validate=False)
    learned, judging = hold_out(spec, rows, split, None)
    assert len(np.intersect1d(learned, judging)) == 0
    assert set(np.concatenate([learned, judging])) == set(split.train)
    assert len(judging) / len(split.train) == pytest.approx(0.25, abs=0.01)


def test_a_table_with_times_and_groups_is_parted_by_them() -> None:
    whole, luck = _rows(), np.random.default_rng(2)
    keys = {"at": luck.permutation(whole.time), "buyer": luck.integers(0, 300, len(whole.time))}
    rows = Rows(whole.names, whole.x, np.nan_to_num(whole.y), np.zeros_like(whole.time), whole.ids, keys)
    declared = _spec().train
    assert declared is not None
    for names in ({"time": "at"}, {"group": "buyer"}, {"time": "at", "group": "buyer"}):
        spec = declared.model_copy(update=names)
        learned, judging = hold_out(spec, rows, split_rows(spec, rows, None, validate=False), None)
        assert len(np.intersect1d(learned, judging)) == 0
        if "time" in names:
            assert keys["at"][learned].max() <= keys["at"][judging].min()
        if "group" in names:
            assert len(np.intersect1d(keys["buyer"][learned], keys["buyer"][judging])) == 0


def test_too_little_to_part_is_refused() -> None:
    rows = _rows()
    spec = _spec().train
    assert spec is not None
    split = split_rows(spec, rows, DELAY, validate=True)
    split.labels[split.train[-100:]] = 0
    rows.time[split.train[:-100]] = 0
    with pytest.raises(InvalidInput, match="0 of them positive") as caught:
        hold_out(spec, rows, split, DELAY)
    assert caught.value.code == "ONE_CLASS"


def test_baselines_know_what_there_is_to_know() -> None:
    rows = _rows()
    x, y, test = rows.x[:2000], rows.y[:2000], rows.x[2000:]
    found = {each.name: average_precision(rows.y[2000:], each.scores) for each in baselines(x, y, test, 0)}
    assert list(found) == [CONSTANT, LINEAR, LIGHTGBM]
    assert found[CONSTANT] == pytest.approx(rows.y[2000:].mean())
    assert found[LINEAR] > 0.7
    assert found[LIGHTGBM] > 0.7


def test_the_linear_model_is_that_of_scikit_learn() -> None:
    luck = np.random.default_rng(1)
    x = (luck.normal(size=(800, 4)) * [1, 10, 0.1, 3] + 2).astype(np.float32)
    y = (x[:, 0] + x[:, 1] / 10 + luck.normal(size=800) > 4).astype(np.float32)
    ours = fit_logistic(x, y).scores(x)
    standard = np.clip((x - x.mean(axis=0)) / x.std(axis=0), -10, 10)
    theirs = LogisticRegression(tol=1e-8, max_iter=500).fit(standard, y).predict_proba(standard)[:, 1]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e30, 7.0])
def test_the_linear_model_bears_columns_of_nothing_and_separable_rows(odd: float) -> None:
    x = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    x[:, 2] = odd
    y = (x[:, 0] > 0).astype(np.float32)
    scores = fit_logistic(x, y).scores(x)
    assert np.isfinite(scores).all()
    assert average_precision(y, scores) > 0.99


def test_each_run_is_examined() -> None:
    trained = _train(_spec())
    found = trained.examined
    assert found is not None
    assert [each.name for each in found.baselines] == [CONSTANT, LINEAR, LIGHTGBM]
    assert [point.rows for point in found.curve] == [194, 646, 1938]
    assert found.curve[-1].value == found.value == trained.metrics["average_precision"]
    assert found.trained == trained.metrics["train_average_precision"]
    said = list(lines(found))
    assert said[0].startswith("gap: average_precision")
    assert said[-1] == f"verdict: {found.verdict}"


def test_a_net_that_loses_is_told_so() -> None:
    def poor(data: TrainingData) -> lightgbm.Booster:
        settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 2, "min_data_in_leaf": 500}
        return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), 1)

    found = _train(_spec(), fit=poor).examined
    assert found is not None
    assert found.verdict.startswith(f"loses to {LINEAR}: average precision")


def test_a_function_that_bears_no_fewer_rows_has_no_curve(capfd: pytest.CaptureFixture[str]) -> None:
    def picky(data: TrainingData) -> lightgbm.Booster:
        if len(data.x) < 1000:
            raise ValueError("too few")
        return _fit(data)

    found = _train(_spec(), fit=picky).examined
    assert found is not None
    assert found.curve == ()
    assert "cannot be fitted on so few rows" in capfd.readouterr().err


def test_a_fit_that_takes_long_is_not_done_again() -> None:
    calls = itertools.count()

    def fit(data: TrainingData) -> lightgbm.Booster:
        next(calls)
        return _fit(data)

    spec = _spec()
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr("skyriver.train.examine.CURVE_SECONDS", 0.0)
        trained = _train(spec, fit=fit)
    assert next(calls) == 1
    assert trained.examined is not None
    assert trained.examined.curve == ()


def test_prequential_stretches_follow_each_other_and_learn_what_was_known() -> None:
    rows, spec = _rows(), _spec(prequential=4)
    assert spec.train is not None
    split = split_rows(spec.train, rows, DELAY, validate=True)
    parts = list(stretches(spec.train, rows, split))
    assert len(parts) == 3
    assert parts[-1].to_us == split.start - 1
    for one, other in itertools.pairwise(parts):
        assert one.to_us == other.from_us
    for part in parts:
        assert part.to_us - part.from_us == 3 * DAY
        assert rows.time[part.learned].max() <= part.from_us - DELAY
        assert part.from_us < rows.time[part.judged].min() <= rows.time[part.judged].max() <= part.to_us
    trained = _train(spec, rows)
    assert trained.examined is not None
    assert len(trained.examined.prequential) == 4
    assert trained.examined.prequential[-1].rows == len(split.test)
    assert 0.5 < trained.metrics["prequential_average_precision"] < 1


def test_a_stretch_that_cannot_be_fitted_is_left_out() -> None:
    def picky(data: TrainingData) -> lightgbm.Booster:
        if len(data.x) < 1000:
            raise ValueError("too few")
        return _fit(data)

    whole, found = (_train(_spec(prequential=4), fit=fit).examined for fit in (_fit, picky))
    assert whole is not None
    assert found is not None
    assert 1 <= len(found.prequential) < len(whole.prequential)


class _Scored(LogisticRegression):  # type: ignore[misc]
    """Says what is not there for each row."""

    def __init__(self, said: str = "") -> None:
        super().__init__()
        self.said = said

    def predict_proba(self, x: Any) -> Any:
        whole = super().predict_proba(x).astype(np.float64)
        return {
            "nan": np.full_like(whole, np.nan),
            "one nan": np.where(np.arange(len(whole))[:, None] == 3, np.nan, whole),
            "infinite": np.full_like(whole, 1e300),
            "fewer": whole[:-1],
            "more": np.repeat(whole, 2, axis=0),
        }[self.said]


@pytest.mark.parametrize("said", ["nan", "one nan", "infinite", "fewer", "more"])
def test_scores_that_say_nothing_are_left_out(said: str, capfd: pytest.CaptureFixture[str]) -> None:
    def fit(data: TrainingData) -> LogisticRegression:
        model = LogisticRegression() if len(data.x) in whole else _Scored(said)
        return model.fit(np.nan_to_num(data.x), data.y)

    spec = _spec(sr.Clean(fill="median"), prequential=4)
    declared = spec.train
    assert declared is not None
    rows = _rows()
    split = split_rows(declared, rows, DELAY, validate=True)
    learned = [len(each.learned) for each in stretches(declared, rows, split)]
    whole = {len(split.train), learned[1]}  # the model, and one stretch
    found = _train(spec, rows, fit=fit).examined
    assert found is not None
    assert found.curve == ()
    assert [each.learned for each in found.prequential] == [learned[1], len(split.train)]
    told = capfd.readouterr().err
    assert told.count("learning curve: left out") == told.count("prequential: left out") == 2
    assert told.count("The model gave") == 4
    whole.add(len(split.train[::3]))
    found = _train(spec, rows, fit=fit).examined
    assert found is not None
    assert [point.rows for point in found.curve] == [len(split.train[::3]), len(split.train)]


def test_stretches_without_both_classes_are_left_out() -> None:
    spec = _spec(prequential=50).train
    assert spec is not None
    rows = _rows()
    assert 0 < len(list(stretches(spec, rows, split_rows(spec, rows, DELAY, validate=True)))) < 10


def test_old_stretches_fade() -> None:
    both = [Judged(0, 1, 10, 10, 5, {"auc": 0.5}), Judged(1, 2, 10, 10, 5, {"auc": 1.0})]
    assert faded(both) == {"prequential_auc": pytest.approx((0.9 * 0.5 + 1.0) / 1.9)}
    assert faded([]) == {}


BETTER = Rival("LightGBM with defaults", 0.65, (-0.05, -0.08, -0.02))


@pytest.mark.parametrize(
    ("trained", "rivals", "curve", "said"),
    [
        (0.65, [BETTER], [], "loses to LightGBM with defaults: average precision 0.6 against 0.65"),
        (0.65, [Rival("x", 0.59, (0.01, -0.01, 0.03))], [],
         "no better than x within the noise of the test rows: average precision 0.6 against 0.59"),
        (0.95, [], [], "overfits: average precision 0.95 on training rows, 0.6 on test rows"),
        (0.65, [], [Point(30, 0.5, (0.1, 0.05, 0.15)), Point(100, 0.6)],
         "more data would help: +0.1 since 30 of 100 rows"),
        (0.65, [], [Point(30, 0.59, (0.01, -0.05, 0.05)), Point(100, 0.6)], "holds: +0.05 apart on training rows"),
        (0.65, [Rival("x", 0.4, (0.2, 0.1, 0.3))], [],
         "holds: better than x: average precision 0.6 against 0.4, +0.05 apart on training rows"),
        (None, [], [], "average precision 0.6, with nothing to compare it with"),
        (None, [Rival("x", 0.5, None)], [],
         "not worse than x, on too few rows to be sure: average precision 0.6 against 0.5"),
    ],
)  # fmt: skip
def test_verdicts(trained: float | None, rivals: Sequence[Rival], curve: Sequence[Point], said: str) -> None:
    assert verdict("average_precision", 0.6, trained, rivals, curve) == said


def test_of_a_loss_less_is_better() -> None:
    assert verdict("log_loss", 0.3, None, [Rival("x", 0.2, (-0.1, -0.2, -0.05))], []).startswith("loses to x")
    assert verdict("log_loss", 0.3, None, [Rival("x", 0.4, (0.1, 0.05, 0.2))], []).startswith("holds")


def test_trials_that_fail_do_not_end_the_training(tmp_path: Path) -> None:
    spec = _spec(search=SEARCH)

    def fit(data: TrainingData) -> lightgbm.Booster:
        if data.params["leaves"] > 12:
            raise ValueError("too many leaves")
        return _fit(data)

    found = _train(spec, fit=fit, look=_look(spec, tmp_path)).found
    assert found is not None
    errors = [trial.error for trial in found.trials if trial.state == "failed"]
    assert errors
    assert "ValueError: too many leaves" in errors[0]
    with pytest.raises(JobFailed, match="ValueError: never") as caught:
        _train(spec, fit=lambda data: math.floor(_raise()), look=_look(spec, tmp_path / "never"))
    assert caught.value.code == "TRIALS_FAILED"
    assert _train(spec, look=_look(spec, tmp_path / "never")).found, "the next run does not go on with that"


def _raise() -> float:
    raise ValueError("never")
