"""What a training function may return, without the frameworks that take long to load: see also test_fitted_nets.py."""

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pytest
import xgboost
from fitted_rows import rows, train_by
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from skyriver.core.calibration import MEANS
from skyriver.core.errors import InvalidInput, JobFailed, SkyriverError
from skyriver.core.spec import CleanSpec, CompressSpec
from skyriver.decide.decision.reasons import Explainer
from skyriver.train.cleaning import fit_cleaning
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import score
from skyriver.train.fitted import recognise
from skyriver.train.fitted.estimator import Sklearn
from skyriver.train.fitted.fitted_exam import check_fitted
from skyriver.train.parity import Parity, furthest

Fit = Callable[[TrainingData], Any]


def _fits(model: Any) -> Fit:
    return lambda data: clone(model).fit(data.x, data.y)


def _xgb(rounds: int = 5, **settings: Any) -> Fit:
    given = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "verbosity": 0, **settings}
    return lambda data: xgboost.train(given, xgboost.DMatrix(data.x, data.y), rounds)


MODELS: dict[str, tuple[str, Fit]] = {
    "lightgbm-estimator": ("LightGBM", _fits(lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1))),
    "lightgbm-regressor": ("LightGBM", _fits(lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1))),
    "xgboost": ("XGBoost", _xgb()),
    "xgboost-regression": ("XGBoost", _xgb(objective="reg:squarederror", base_score=0.3)),
    "xgboost-estimator": ("XGBoost", _fits(xgboost.XGBClassifier(n_estimators=5, n_jobs=1))),
    "xgboost-forest": ("XGBoost", _fits(xgboost.XGBRFClassifier(n_estimators=4, max_depth=3, n_jobs=1))),
    "logistic": ("scikit-learn", _fits(LogisticRegression())),
    "linear": ("scikit-learn", _fits(LinearRegression())),
    "bayes": ("scikit-learn", _fits(GaussianNB())),
    "forest": ("scikit-learn", _fits(RandomForestClassifier(5, max_depth=4, random_state=0))),
    "boosting": ("scikit-learn", _fits(GradientBoostingClassifier(n_estimators=5, random_state=0))),
    "histograms": ("scikit-learn", _fits(HistGradientBoostingClassifier(max_iter=5, random_state=0))),
    "extra": ("scikit-learn", _fits(ExtraTreesRegressor(5, max_depth=4, random_state=0))),
    "histograms-regressor": ("scikit-learn", _fits(HistGradientBoostingRegressor(max_iter=5, random_state=0))),
    "tree": ("scikit-learn", _fits(DecisionTreeRegressor(max_depth=4, random_state=0))),
    "pipeline": ("scikit-learn", _fits(make_pipeline(StandardScaler(), LogisticRegression()))),
    "quantiles": (
        "scikit-learn",
        _fits(make_pipeline(QuantileTransformer(n_quantiles=5), LogisticRegression())),
    ),
    "calibrated": ("scikit-learn", _fits(CalibratedClassifierCV(LinearSVC(random_state=0), cv=2))),
    "search": ("scikit-learn", _fits(GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2))),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_each_framework_becomes_one_graph_that_scores_as_it_does(name: str) -> None:
    framework, fit = MODELS[name]
    made: list[Any] = []

    def keep(data: TrainingData) -> Any:
        made.append(fit(data))
        return made[-1]

    trained = train_by(keep, calibrate="platt")
    session = onnxruntime.InferenceSession(trained.onnx)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("features", ["n", 3], "tensor(float)")]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [("score", ["n"], "tensor(float)")]
    assert trained.metrics["onnx_max_difference"] < 1e-5
    assert trained.metrics["auc"] > 0.75
    assert trained.calibrated.method == "platt"
    fitted = recognise(made[0], 3)
    assert (fitted.framework, fitted.features) == (framework, 3)
    assert (trained.model_text is not None) == (framework == "LightGBM")
    assert MEANS in session.get_modelmeta().custom_metadata_map
    check_fitted(fitted, rows().x)
    assert train_by(fit, calibrate="platt").onnx == trained.onnx, "the same training gives the same bytes"


@pytest.mark.parametrize("name", ["xgboost", "xgboost-estimator", "histograms"])
def test_what_takes_missing_values_sends_them_where_its_framework_does(name: str) -> None:
    assert train_by(MODELS[name][1], rows(missing=True)).metrics["onnx_max_difference"] < 1e-5


def test_cleaning_stands_in_front_of_every_framework() -> None:
    clean = CleanSpec(fill="median", clip=(0.01, 0.99), scale=True)
    for name in ("xgboost", "pipeline", "logistic"):
        found = train_by(MODELS[name][1], rows(missing=True, scale=1e4), clean=clean)
        assert found.metrics["onnx_max_difference"] < 1e-5
        assert np.isfinite(score(found.onnx, np.full((1, 3), np.nan, np.float32))).all()


def test_xgboosts_thresholds_part_rows_to_the_last_bit() -> None:
    made: list[Any] = []

    def fit(data: TrainingData) -> Any:
        made.append(_xgb(20, max_depth=5)(data))
        return made[-1]

    onnx_bytes = train_by(fit).onnx
    (node,) = [n for n in onnx.load_from_string(onnx_bytes).graph.node if n.op_type == "TreeEnsembleRegressor"]
    given = {a.name: a for a in node.attribute}
    inner = [i for i, mode in enumerate(given["nodes_modes"].strings) if mode == b"BRANCH_LEQ"]
    cuts = np.array([given["nodes_values"].floats[i] for i in inner], np.float32)
    asked = np.array([given["nodes_featureids"].ints[i] for i in inner])
    near = np.concatenate([cuts, np.nextafter(cuts, np.float32(np.inf)), np.nextafter(cuts, np.float32(-np.inf))])
    x = np.tile(rows(1).x, (len(near), 1))
    x[np.arange(len(near)), np.tile(asked, 3)] = near
    x = np.concatenate([x, np.array([[0.0, -0.0, np.nan], [-1e-40, 1e-40, 1e-38]], np.float32)])
    assert furthest(recognise(made[0], 3).predict(x), score(onnx_bytes, x)) < 1e-5


def test_an_early_stopped_estimator_of_xgboost_is_served_as_it_predicts() -> None:
    made: list[Any] = []

    def fit(data: TrainingData) -> Any:
        luck = np.random.default_rng(0)
        model = xgboost.XGBClassifier(n_estimators=60, learning_rate=1.0, early_stopping_rounds=2, n_jobs=1)
        made.append(model.fit(data.x, data.y, eval_set=[(data.x, luck.permutation(data.y))], verbose=False))
        return model

    trained = train_by(fit)
    assert made[0].get_booster().num_boosted_rounds() > made[0].best_iteration + 1
    np.testing.assert_allclose(score(trained.onnx, rows().x), made[0].predict_proba(rows().x)[:, 1], atol=1e-5)


@pytest.mark.parametrize("name", ["forest", "histograms"])
def test_scores_of_scikit_learns_trees_are_explained(name: str, tmp_path: Any) -> None:
    onnx_bytes = train_by(MODELS[name][1]).onnx
    told = Explainer.load(onnx_bytes, ("a", "b", "c"), tmp_path)
    assert (told.method, told.why) == ("TreeSHAP", "")
    found = told.explain(rows().x[5])
    total = found.contributions.sum() + found.base
    got = float(score(onnx_bytes, rows().x[5:6])[0])
    assert total == pytest.approx(np.log(got / (1 - got)) if told.unit == "log-odds" else got, abs=1e-4)


def test_scores_of_xgboost_are_explained_as_those_of_our_own_trees(tmp_path: Any) -> None:
    told = Explainer.load(train_by(_xgb()).onnx, ("a", "b", "c"), tmp_path)
    assert (told.method, told.unit, told.why) == ("TreeSHAP", "log-odds", "")
    row = rows().x[5]
    found = told.explain(row)
    model = _xgb()(TrainingData(*_training_part()))
    theirs = model.predict(xgboost.DMatrix(row[None, :]), pred_contribs=True)[0]
    np.testing.assert_allclose([*found.contributions, found.base], theirs, atol=1e-4)


def _training_part() -> tuple[Any, ...]:
    seen: list[TrainingData] = []
    train_by(lambda data: (seen.append(data), _xgb()(data))[1])
    return seen[0].x, seen[0].y, seen[0].names, seen[0].time


class _Untouched(ClassifierMixin, BaseEstimator):
    """Of no kind that skl2onnx knows."""

    def fit(self, x: Any, y: Any) -> "_Untouched":
        self.classes_ = np.unique(y)
        self.n_features_in_ = x.shape[1]
        return self

    def predict_proba(self, x: Any) -> Any:
        return np.tile([0.3, 0.7], (len(x), 1))


@pytest.mark.parametrize(
    ("fit", "code", "what", "instead"),
    [
        (lambda data: LogisticRegression(), "USER_ERROR", "LogisticRegression .* is not fitted", "fit"),
        (lambda data: xgboost.XGBClassifier(), "USER_ERROR", "XGBClassifier .* is not fitted", "fit"),
        (lambda data: lightgbm.LGBMClassifier(), "USER_ERROR", "LGBMClassifier .* is not fitted", "fit"),
        (lambda data: lightgbm.Dataset(data.x), "USER_ERROR", "LightGBM's Dataset, not a model", "Booster"),
        (lambda data: xgboost.DMatrix(data.x), "USER_ERROR", "XGBoost's DMatrix, not a model", "Booster"),
        (lambda data: LogisticRegression().fit(data.x[:, :2], data.y), "USER_ERROR", "of 2 features", "columns"),
        (lambda data: KMeans(2, n_init=1).fit(data.x), "UNSUPPORTED_MODEL", "neither a classifier", "Pipeline"),
        (_fits(LinearSVC()), "UNSUPPORTED_MODEL", "LinearSVC gives no probabilities", "CalibratedClassifierCV"),
        (_fits(_Untouched()), "UNSUPPORTED_MODEL", "skl2onnx cannot export it", "RandomForestClassifier"),
        (
            _fits(make_pipeline(QuantileTransformer(n_quantiles=101), LogisticRegression())),
            "UNSUPPORTED_MODEL", "QuantileTransformer of 101 quantiles", "n_quantiles=100",
        ),
        (
            lambda data: LinearRegression().fit(data.x, np.stack([data.y, data.y], 1)),
            "UNSUPPORTED_MODEL", "several outputs", "one of them",
        ),
        (
            lambda data: RandomForestClassifier(2).fit(data.x, np.stack([data.y, data.y], 1)),
            "UNSUPPORTED_MODEL", "several outputs", "one of them",
        ),
        (
            lambda data: GaussianNB().fit(data.x, np.zeros(len(data.y))),
            "UNSUPPORTED_MODEL", "only one class", "against the rest",
        ),
        (
            lambda data: GaussianNB().fit(data.x, np.where(data.y > 0, "yes", "no")),
            "UNSUPPORTED_MODEL", "'no'.* and .*'yes'", "0 or 1",
        ),
        (_xgb(booster="dart"), "UNSUPPORTED_MODEL", 'booster "dart"', "gbtree"),
        (_xgb(booster="gblinear"), "UNSUPPORTED_MODEL", 'booster "gblinear"', "gbtree"),
        (_xgb(objective="binary:hinge"), "UNSUPPORTED_MODEL", "objective binary:hinge", "binary:logistic"),
        (_xgb(objective="multi:softprob", num_class=3), "UNSUPPORTED_MODEL", "3 classes", "against the rest"),
        (_xgb(rounds=0), "UNSUPPORTED_MODEL", "no trees", "one round"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_the_nearest_thing_that_can(
    fit: Fit, code: str, what: str, instead: str
) -> None:
    with pytest.raises(SkyriverError, match=what) as refused:
        train_by(fit)
    assert refused.value.code == code
    assert instead in refused.value.next_action
    assert refused.value.where == "fit"


def test_xgboosts_categories_are_refused() -> None:
    def fit(data: TrainingData) -> Any:
        kinds = ["q", "q", "c"]
        x = np.column_stack([data.x[:, :2], (data.x[:, 2] > 0) + 2.0 * (data.x[:, 1] > 0)])
        y = (x[:, 2] == 2) ^ (x[:, 2] == 1)
        matrix = xgboost.DMatrix(x, y, feature_types=kinds, enable_categorical=True)
        return xgboost.train({"max_depth": 2, "nthread": 1}, matrix, 3)

    with pytest.raises(InvalidInput, match="categorical splits"):
        train_by(fit)


def test_of_two_thousand_classes_some_of_which_never_came_one_is_to_be_told_from_the_rest() -> None:
    def fit(data: TrainingData) -> Any:
        classes = np.random.default_rng(0).integers(0, 2000, len(data.y))
        return GaussianNB().fit(data.x, classes)

    with pytest.raises(InvalidInput, match=r"it knows \d+ classes") as refused:
        train_by(fit)
    assert "one against the rest" in refused.value.next_action


def test_a_framework_that_takes_no_missing_values_is_told_of_their_column() -> None:
    with pytest.raises(JobFailed, match="Input X contains NaN") as failed:
        train_by(MODELS["logistic"][1], rows(missing=True))
    assert "b has" in failed.value.next_action
    assert 'clean=sr.Clean(fill="median")' in failed.value.next_action
    assert train_by(MODELS["logistic"][1], rows(missing=True), clean=CleanSpec(fill="median"))


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_values_that_only_the_test_rows_have_are_told_too(odd: float) -> None:
    given = rows()

    def fit(data: TrainingData) -> Any:
        return LogisticRegression().fit(data.x, data.y)

    seen: list[TrainingData] = []
    train_by(lambda data: (seen.append(data), fit(data))[1], given)
    held_out = ~np.isin(given.x[:, 1], seen[0].x[:, 1])
    given.x[np.flatnonzero(held_out)[:7], 1] = odd
    with pytest.raises(JobFailed, match=f"b has 7 {'missing' if np.isnan(odd) else 'infinite'} of") as failed:
        train_by(fit, given)
    assert (failed.value.code, failed.value.where) == ("BAD_SCORES", "fit")


def test_an_export_that_changes_predictions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Sklearn.to_onnx

    def wrong(self: Sklearn) -> bytes:
        model = onnx.load_from_string(right(self))
        model.graph.node[-1].output[:] = ["almost"]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.0001, np.float32), "a bit"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["almost", "a bit"], ["score"]))
        return model.SerializeToString()

    monkeypatch.setattr(Sklearn, "to_onnx", wrong)
    with pytest.raises(JobFailed, match="differs from the trained one by") as failed:
        train_by(MODELS["logistic"][1])
    assert (failed.value.code, failed.value.where) == ("ONNX_DIFFERS", "fit")


class _Net:
    """Far off in its ONNX form, and, where it is `random`, otherwise each time."""

    framework, features, continuous = "PyTorch", 3, True

    def __init__(self, far: float, random: bool) -> None:
        self.far, self.luck = far, np.random.default_rng(0) if random else None

    def predict(self, x: Any) -> Any:
        moved = 0.0 if self.luck is None else self.luck.uniform(0.1, 0.2, len(x))
        return np.full(len(x), 0.5 + self.far) + moved


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (_Net(0.005, random=False), "Scale the features"),
        (_Net(0.2, random=False), "Its export is wrong: report it"),
        (_Net(0.0, random=True), "differ from one call to the next: leave out"),
    ],
    ids=["near", "far", "random"],
)
def test_what_helps_against_a_difference_goes_by_what_it_comes_from(
    net: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyriver.train.parity.score", lambda onnx, x: np.full(len(x), 0.5))
    with pytest.raises(JobFailed) as failed:
        Parity(net, fit_cleaning(None, rows().x), ("a", "b", "c"), "fit").check(b"", rows().x)
    assert failed.value.code == "ONNX_DIFFERS"
    assert failed.value.next_action.startswith(("Its", "Scale"))
    assert told in failed.value.next_action


def test_rounding_of_unscaled_features_is_no_fault_of_the_export_and_jumps_of_trees_are() -> None:
    def fit(data: TrainingData) -> Any:
        model = LogisticRegression().fit(data.x[:, :1] / 1e6, data.y)
        model.n_features_in_ = 3
        # Large terms that cancel out, by which float32 loses digits.
        model.coef_ = np.array([[model.coef_[0, 0] / 1e6, 1e-2, 1e-2 / 0.999]])
        return model

    given = rows(scale=1e6)
    given.x[:, 2] = -given.x[:, 1] * np.float32(0.999)
    assert 1e-5 < train_by(fit, given).metrics["onnx_max_difference"] < 1e-3
    assert (
        recognise(make_pipeline(StandardScaler(), RandomForestClassifier(2)).fit(given.x, given.y), 3).continuous
        is False
    )


def test_compression_of_what_has_no_text_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(InvalidInput, match="fit returned a model of XGBoost") as refused:
        train_by(MODELS["xgboost"][1], compress=CompressSpec(max_loss=0.01))
    assert refused.value.code == "NOT_COMPRESSIBLE"


def test_a_converter_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    with pytest.raises(InvalidInput, match="needs the package skl2onnx") as refused:
        train_by(MODELS["logistic"][1])
    assert refused.value.code == "MISSING_PACKAGE"
    assert "skyriver[sklearn]" in refused.value.next_action
