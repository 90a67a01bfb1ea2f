import importlib
import io
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest

from skyriver.core.app import App
from skyriver.core.curves import Curves
from skyriver.core.errors import InvalidInput, JobFailed
from skyriver.core.events import Event, Time
from skyriver.core.spec import CleanSpec, ModelSpec, TrainSpec
from skyriver.core.terms import precision_at
from skyriver.train.cleaning import fit_cleaning
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import calibration_of, score
from skyriver.train.run import Champion, Trained, train
from skyriver.train.split import Rows, split_rows

DAY = 86_400_000_000
DELAY = 2 * DAY


def _fit(data: TrainingData) -> lightgbm.Booster:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 7, "seed": data.seed}
    return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), int(data.params.get("trees", 10)))


def _spec(clean: CleanSpec | None = None) -> ModelSpec:
    app = App("shop")

    class Sale(Event):
        sale: int
        at: Time
        buyer: int
        price: float

    sales = app.stream("sales", Sale, id="sale", time="at", key="buyer")
    returned = app.labels("returned", of=sales, delay="2d")
    features = app.features("f", sales, {"a": sales.price, "b": sales.price * 2, "c": sales.price / 2})
    fit = app.train(features, label=returned, test="3d", clean=clean)(_fit)
    return app.model("returns", fit, metrics={"buyers": precision_at(5, by="buyer")})


def _rows(n: int = 3000, days: int = 20) -> Rows:
    luck = np.random.default_rng(3)
    x = luck.normal(size=(n, 3)).astype(np.float32)
    x[luck.random(x.shape) < 0.05] = np.nan
    y = (np.nan_to_num(x[:, 0]) + 0.5 * luck.normal(size=n) > 1).astype(np.float32)
    time = np.sort(luck.integers(0, days * DAY, n))
    return Rows(("a", "b", "c"), x, y, time, np.arange(n), {"buyer": luck.integers(0, 200, n)})


def _train(fit: Callable[[TrainingData], Any] = _fit, rows: Rows | None = None, **changes: Any) -> Trained:
    given: dict[str, Any] = {"params": {}, "seed": 0, "champion": None, "progress": lambda *_: None, "delay_us": DELAY}
    spec = _spec().model_copy(update={"calibrate": changes.pop("calibrate", "auto")})
    return train(spec, rows or _rows(), fit, **(given | changes))


def test_gives_an_onnx_model_and_what_it_is_worth() -> None:
    told: list[str] = []
    trained = _train(progress=lambda stage, done, total: told.append(stage))
    assert {
        "auc", "average_precision", "train_auc", "train_average_precision", "log_loss", "brier", "positives_share",
        "onnx_max_difference", "buyers", "calibration_error", "calibration_error_calibrated", "brier_calibrated",
    } == set(trained.metrics)  # fmt: skip
    assert 0.85 < trained.metrics["auc"] < 1
    assert trained.metrics["onnx_max_difference"] < 1e-6
    assert trained.champion_metrics is None
    assert told == ["split", "fit", "convert", "evaluate", "examine"]
    session = onnxruntime.InferenceSession(trained.onnx)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("features", ["n", 3], "tensor(float)")]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [("score", ["n"], "tensor(float)")]
    again = lightgbm.Booster(model_str=(trained.model_text or b"").decode())
    rows = _rows()
    np.testing.assert_allclose(score(trained.onnx, rows.x), again.predict(rows.x), atol=1e-6)


def test_parts_are_told_and_lie_apart() -> None:
    trained = _train()
    (_, train_ends, train_rows, train_positives), (test_begins, test_ends, test_rows, _) = trained.train, trained.test
    assert test_begins - train_ends > DELAY
    assert test_ends <= 18 * DAY
    assert 0 < train_positives < train_rows
    assert test_rows == pytest.approx(450, abs=60)


def test_the_function_sees_the_training_part_alone() -> None:
    seen: list[TrainingData] = []

    def fit(data: TrainingData) -> lightgbm.Booster:
        seen.append(data)
        return _fit(data)

    rows = _rows()
    trained = _train(fit, rows, params={"trees": 3}, seed=7)
    data, split = seen[0], split_rows(_spec().train, rows, DELAY, validate=True)  # type: ignore[arg-type]
    assert len(data.x) == len(data.y) == len(data.time) == len(split.train) == trained.train[2]
    assert (data.names, data.params, data.seed) == (("a", "b", "c"), {"trees": 3}, 7)
    assert data.time.max() == trained.train[1]
    with pytest.raises(ValueError, match="read-only"):
        data.x[0, 0] = 1.0


def test_a_streams_probabilities_cost_no_training_rows() -> None:
    trained, without = _train(), _train(calibrate=None)
    assert trained.train == without.train
    assert trained.calibrated.method == "platt", "there are fewer than 200 positives"
    calibration = calibration_of(trained.onnx)
    assert calibration is not None
    rows = _rows()
    split = split_rows(_spec().train, rows, DELAY, validate=True)  # type: ignore[arg-type]
    assert (trained.calibrated.rows, trained.calibrated.positives) == (
        len(split.validation),
        int(split.labels[split.validation].sum()),
    )
    assert sum(b.rows for b in trained.calibrated.reliability) == len(split.test)
    assert trained.metrics["calibration_error_calibrated"] < trained.metrics["calibration_error"]
    assert calibration_of(without.onnx) is None
    assert without.calibrated.why == "the application declares calibrate=None"
    assert without.calibrated.reliability[0].probability is None
    assert not any(name.endswith("_calibrated") for name in without.metrics)
    assert trained.metrics.items() >= without.metrics.items()


def test_the_test_rows_fit_no_probabilities() -> None:
    rows = _rows()
    split = split_rows(_spec().train, rows, DELAY, validate=True)  # type: ignore[arg-type]
    turned = rows.y.copy()
    turned[split.test] = 1 - turned[split.test]
    other = _train(rows=Rows(rows.names, rows.x, turned, rows.time, rows.ids, rows.keys))
    assert other.onnx == _train().onnx


def test_a_table_gives_up_rows_for_probabilities_only_when_asked() -> None:
    rows = _rows()
    spec = ModelSpec(name="m", train=TrainSpec(function="f", features="f", label="y", test_share=0.3))
    table = {"params": {}, "seed": 0, "champion": None, "progress": lambda *_: None, "delay_us": None}
    free = train(spec, rows, _fit, **table)  # type: ignore[arg-type]
    asked = train(spec.model_copy(update={"calibrate": "platt"}), rows, _fit, **table)  # type: ignore[arg-type]
    assert free.calibrated.method == ""
    assert "no rows are kept back" in free.calibrated.why
    assert asked.calibrated.method == "platt"
    assert asked.train[2] + asked.calibrated.rows == free.train[2]


def test_scores_that_are_no_probabilities_are_said_to_be_none() -> None:
    def thousandfold(data: TrainingData) -> Any:
        return lightgbm.train({"verbose": -1}, lightgbm.Dataset(data.x, data.y * 1_000), 20)

    rows = _rows()
    spec = ModelSpec(name="m", train=TrainSpec(function="f", features="f", label="y", test_share=0.3))
    table: dict[str, Any] = {"params": {}, "seed": 0, "champion": None, "progress": lambda *_: None, "delay_us": None}
    said = r"its scores, -?[\d.e+]+ to [\d.e+]+, are none themselves, though brier and log_loss take them for such"
    raw = train(spec, rows, thousandfold, **table).calibrated
    assert re.search(said, raw.why)
    calibrated = train(spec.model_copy(update={"calibrate": "platt"}), rows, thousandfold, **table).calibrated
    assert (calibrated.method, calibrated.why) == ("platt", "")
    assert "none themselves" not in train(spec, rows, _fit, **table).calibrated.why


def test_a_champion_without_probabilities_can_be_compared_by_them() -> None:
    rows = _rows()
    trained = _train(champion=Champion(_train(calibrate=None).onnx, rows.x))
    assert trained.champion_metrics is not None
    assert trained.champion_metrics["brier_calibrated"] == trained.champion_metrics["brier"]
    assert "calibration_error_calibrated" in trained.champion_metrics


def test_the_same_input_gives_the_same_bytes() -> None:
    assert _train().onnx == _train().onnx


def test_a_champion_is_judged_on_the_same_rows() -> None:
    first = _train()
    rows = _rows()
    trained = _train(champion=Champion(first.onnx, rows.x))
    assert trained.champion_metrics == {k: first.metrics[k] for k in trained.champion_metrics or {}}
    assert "average_precision" in (trained.champion_metrics or {})
    assert _train(champion=Champion(first.onnx, None)).champion_metrics == {}


def test_what_the_function_raises_is_told_with_its_line() -> None:
    def fit(data: TrainingData) -> lightgbm.Booster:
        raise ValueError("the moon is wrong")

    with pytest.raises(JobFailed, match="_fit failed: ValueError: the moon is wrong") as failed:
        _train(fit)
    assert failed.value.code == "USER_ERROR"
    assert failed.value.where.startswith("test_run.py:")
    assert isinstance(failed.value.__cause__, ValueError), "the job's log gets the whole traceback"


def test_a_package_that_the_function_lacks_is_told_with_where_to_name_it() -> None:
    def fit(data: TrainingData) -> lightgbm.Booster:
        return importlib.import_module("nowhere_to_be_found.boosted")

    with pytest.raises(JobFailed, match="No module named 'nowhere_to_be_found'") as failed:
        _train(fit)
    assert "requirements.txt beside the application's file that names what brings nowhere" in failed.value.next_action


def test_an_error_inside_a_library_points_at_the_users_line() -> None:
    def fit(data: TrainingData) -> lightgbm.Booster:
        return lightgbm.train({"objective": "nonsense", "verbose": -1}, lightgbm.Dataset(data.x, data.y), 1)

    with pytest.raises(JobFailed, match="nonsense") as failed:
        _train(fit)
    assert failed.value.where.startswith("test_run.py:")
    log = io.StringIO()
    traceback.print_exception(failed.value.__cause__, file=log)
    assert "lightgbm" in log.getvalue()


def test_leaving_the_process_is_a_failure_too() -> None:
    def fit(data: TrainingData) -> lightgbm.Booster:
        raise SystemExit(0)

    with pytest.raises(JobFailed, match="SystemExit"):
        _train(fit)


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (None, "returned NoneType, not a model"),
        ({"model": 1}, "returned dict"),
    ],
)
def test_what_is_no_model_is_refused(result: object, what: str) -> None:
    with pytest.raises(JobFailed, match=what) as failed:
        _train(lambda data: result)
    assert failed.value.code == "USER_ERROR"


def test_a_model_of_fewer_features_is_refused() -> None:
    def fit(data: TrainingData) -> lightgbm.Booster:
        return lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(data.x[:, :2], data.y), 2)

    with pytest.raises(JobFailed, match="a model of 2 features, the data has 3"):
        _train(fit)


def test_an_early_stopped_model_is_served_as_it_predicts() -> None:
    def fit(data: TrainingData) -> lightgbm.Booster:
        part = len(data.y) * 2 // 3
        known = lightgbm.Dataset(data.x[:part], data.y[:part])
        check = lightgbm.Dataset(data.x[part:], data.y[part:], reference=known)
        settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "learning_rate": 0.5}
        stop = lightgbm.early_stopping(3, verbose=False)
        return lightgbm.train(settings, known, 200, valid_sets=[check], callbacks=[stop])

    trained = _train(fit)
    assert trained.metrics["onnx_max_difference"] < 1e-6
    assert (trained.model_text or b"").count(b"\nTree=") < 100


def test_a_metric_by_an_unknown_key_is_refused() -> None:
    rows = _rows()
    with pytest.raises(InvalidInput, match="by 'buyer'"):
        _train(rows=Rows(rows.names, rows.x, rows.y, rows.time, rows.ids, {}))


def test_a_table_has_no_time() -> None:
    rows = _rows()
    zeros = Rows(rows.names, rows.x, rows.y, np.zeros_like(rows.time), rows.ids, rows.keys)
    trained = _train(rows=zeros, delay_us=None)
    assert trained.train[:2] == trained.test[:2] == (0, 0)
    assert trained.train[2] + trained.test[2] == 3000
    assert trained.metrics["auc"] > 0.85


def test_fitted_cleaning_travels_with_the_model_and_knows_the_training_rows_alone() -> None:
    rows = _rows()
    held_out = split_rows(_spec().train, rows, DELAY, validate=False).test  # type: ignore[arg-type]
    rows.x[held_out] *= 50  # what the test rows are like must not be known
    seen: list[np.ndarray] = []

    def fit(data: TrainingData) -> lightgbm.Booster:
        seen.append(np.array(data.x))
        return _fit(data)

    spec = _spec(CleanSpec(fill="median", clip=(0.01, 0.99), scale=True))
    given: dict[str, Any] = {"params": {}, "seed": 0, "champion": None, "progress": lambda *_: None}
    trained = train(spec, rows, fit, delay_us=DELAY, **given)
    x, *_ = seen  # the others are of the learning curve
    assert not np.isnan(x).any()
    assert np.abs(x.mean(axis=0)).max() < 1e-5
    assert np.abs(x).max() < 4
    assert trained.metrics["onnx_max_difference"] < 1e-6
    raw = score(trained.onnx, rows.x[held_out])
    assert np.isfinite(raw).all()
    cleaned = fit_cleaning(spec.train.clean, rows.x[split_rows(spec.train, rows, DELAY, validate=False).train])  # type: ignore[union-attr, arg-type]
    booster = lightgbm.Booster(model_str=(trained.model_text or b"").decode())
    np.testing.assert_allclose(raw, booster.predict(cleaned.apply(rows.x[held_out])), atol=1e-6)


def test_the_function_tells_how_it_goes() -> None:
    told: list[tuple[int, dict[str, float], int, int]] = []

    def fit(data: TrainingData) -> lightgbm.Booster:
        half = len(data.x) // 2
        train_set, valid = (lightgbm.Dataset(data.x[part], data.y[part]) for part in (slice(half), slice(half, None)))
        settings = {"objective": "binary", "metric": "auc", "verbose": -1, "num_threads": 1, "num_leaves": 7}
        data.report(0, begun=1)
        return lightgbm.train(settings, train_set, 5, valid_sets=[valid], callbacks=[data.callback()])

    rows = _rows()
    _train(fit, rows, tell=lambda step, values, samples, of: told.append((step, dict(values), samples, of)))
    assert told[0] == (0, {"begun": 1}, 0, 0)
    assert [(step, of) for step, _, _, of in told[1:]] == [(n, 5) for n in range(1, 6)]
    assert {tuple(values) for _, values, _, _ in told[1:]} == {("valid_0 auc",)}
    assert 0.5 < told[-1][1]["valid_0 auc"] <= 1
    assert told[-1][2] == len(split_rows(_spec().train, rows, DELAY, validate=True).train)  # type: ignore[arg-type]


def test_what_it_reports_wrongly_ends_it_with_that_reason() -> None:
    curves = Curves()

    def fit(data: TrainingData) -> None:
        data.report(1, loss="low")

    with pytest.raises(InvalidInput) as refused:
        _train(fit, tell=lambda step, values, samples, of: curves.tell(step, values, 0))
    assert refused.value.code == "BAD_METRIC"


def test_the_data_can_be_given_to_another_process() -> None:
    def tell(*_: object) -> None: ...

    x = np.zeros((2, 1), np.float32)
    data = TrainingData(x, x[:, 0], ("a",), np.zeros(2, np.int64), {"trees": 3}, 7, tell=tell)
    again = pickle.loads(pickle.dumps(data))
    again.report(1, loss=0.5)  # nobody listens there
    assert (again.params, again.seed, again.names) == (data.params, data.seed, data.names)


def test_what_a_library_says_in_many_lines_is_told_in_one() -> None:
    def fit(data: TrainingData) -> Any:
        raise ValueError("it is wrong.\nA long story\nof how it came")

    with pytest.raises(JobFailed) as failed:
        _train(fit)
    assert failed.value.message == "_fit failed: ValueError: it is wrong."


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 7.45 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["numpy", "torch"],
)
def test_memory_that_is_not_there_is_told_with_the_rows_and_what_to_do(error: Exception) -> None:
    def fit(data: TrainingData) -> Any:
        raise error

    with pytest.raises(JobFailed, match=r"not enough memory for _fit with [\d,]+ rows of 3 features") as failed:
        _train(fit)
    assert failed.value.code == "OUT_OF_MEMORY"
    assert "half the batch size" in failed.value.next_action
    assert failed.value.where.startswith("test_run.py:")
