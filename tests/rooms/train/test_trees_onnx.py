"""The ONNX graph against LightGBM itself: equal scores, also on thresholds, beside them, and where one is missing."""

from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.train.trees_onnx import read_lightgbm, round_down, steps_to_onnx, to_onnx

Floats = NDArray[np.float32]


def _rows(seed: int, n: int = 400, features: int = 5, missing: float = 0.0) -> tuple[Floats, Floats]:
    luck = np.random.default_rng(seed)
    x = (luck.normal(size=(n, features)) * 10.0 ** luck.integers(-3, 4, features)).astype(np.float32)
    x[:, 0] = np.round(x[:, 0])  # many equal values
    y = (np.nan_to_num(x[:, 1] / np.abs(x[:, 1]).mean() + x[:, 0]) + luck.normal(size=n) > 0).astype(np.float32)
    x[luck.random(x.shape) < missing] = np.nan
    return x, y


def _fit(x: Floats, y: Floats, rounds: int = 25, **params: Any) -> lightgbm.Booster:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 15}
    return lightgbm.train({**settings, **params}, lightgbm.Dataset(x, y), rounds)


def _run(onnx_bytes: bytes, x: Floats) -> Floats:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    result: Floats = session.run(None, {"features": x})[0]
    return result


def _around_thresholds(text: str, x: Floats) -> Floats:
    """Rows of x in which features are put on a threshold, on its neighbours, on zero, and on missing."""
    luck = np.random.default_rng(1)
    rows = np.repeat(x[:100], 4, axis=0)
    for tree in read_lightgbm(text).trees:
        for feature, threshold in zip(tree.feature, round_down(tree.threshold), strict=True):
            up, down = np.float32(np.inf), np.float32(-np.inf)
            near = [
                threshold,
                1e-36,
                -1e-36,
                np.nextafter(threshold, up),
                np.nextafter(threshold, down),
                0,
                -0.0,
                np.nan,
            ]
            rows[luck.integers(0, len(rows), 8), feature] = near
    return rows


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"use_missing": False},
        {"sigmoid": 0.7},
        {"is_unbalance": True, "num_leaves": 63, "min_data_in_leaf": 1},
        {"objective": "cross_entropy"},
        {"boosting": "dart"},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6},
        {"boost_from_average": False, "extra_trees": True},
        {"objective": "regression"},
        {"objective": "huber"},
    ],
    ids=lambda p: ",".join(f"{k}={v}" for k, v in p.items()) or "plain",
)
def test_scores_as_lightgbm_does(params: dict[str, Any], missing: float) -> None:
    for seed in range(3):
        x, y = _rows(seed, missing=missing)
        booster = _fit(x, y, **params)
        text = booster.model_to_string()
        graph = to_onnx(read_lightgbm(text))
        # rows with missing values go also into models that never saw one
        for rows in (x, _rows(seed + 100, missing=0.3)[0], _around_thresholds(text, x)):
            score = _run(graph, rows)
            assert score.dtype == np.float32
            assert score.shape == (len(rows),)
            np.testing.assert_allclose(score, booster.predict(rows), rtol=0, atol=1e-5)


def test_extreme_and_infinite_values() -> None:
    x, y = _rows(4, missing=0.1)
    x[:40, 2] = np.finfo(np.float32).max
    x[40:80, 2] = np.inf
    x[80:120, 3] = -np.inf
    x[120:160, 3] = np.finfo(np.float32).min
    booster = _fit(x, y, min_data_in_leaf=1, num_leaves=63)
    np.testing.assert_allclose(
        _run(to_onnx(read_lightgbm(booster.model_to_string())), x), booster.predict(x), atol=1e-5
    )


def test_a_model_that_found_nothing() -> None:
    x, _ = _rows(0)
    booster = _fit(x, np.resize([0.0, 1.0, 0.0], len(x)).astype(np.float32), rounds=3, min_data_in_leaf=1000)
    score = _run(to_onnx(read_lightgbm(booster.model_to_string())), x[:5])
    np.testing.assert_allclose(score, booster.predict(x[:5]), atol=1e-6)


def test_steps_add_up_to_every_shorter_model() -> None:
    x, y = _rows(7, missing=0.1)
    booster = _fit(x, y, rounds=12)
    model = read_lightgbm(booster.model_to_string())
    sums = np.cumsum(_run(steps_to_onnx(model), x).astype(np.float64), axis=1)
    for count in (1, 5, 12):
        np.testing.assert_allclose(
            sums[:, count - 1], booster.predict(x, num_iteration=count, raw_score=True), atol=1e-5
        )
        np.testing.assert_allclose(
            _run(to_onnx(model.first(count)), x), booster.predict(x, num_iteration=count), atol=1e-5
        )


def test_the_same_model_is_the_same_bytes() -> None:
    x, y = _rows(2)
    text = _fit(x, y).model_to_string()
    assert to_onnx(read_lightgbm(text)) == to_onnx(read_lightgbm(text))


@example(-3.4028234664e38, 0.0)  # just below the least float32
@given(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
def test_a_threshold_rounded_down_parts_the_float32_as_before(threshold: float, x: float) -> None:
    rounded = round_down(np.array([threshold]))[0]
    assert (np.float32(x) <= rounded) == (x <= threshold)
    if np.isfinite(rounded) and rounded < np.finfo(np.float32).max:
        assert float(np.nextafter(rounded, np.float32(np.inf))) > threshold >= rounded


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"zero_as_missing": True}, "zero taken as missing"),
        ({"linear_tree": True}, "linear trees"),
        ({"objective": "multiclass", "num_class": 2}, "several classes"),
        ({"objective": "poisson"}, "poisson"),
        ({"objective": "regression", "reg_sqrt": True}, "objective regression"),
    ],
)
def test_refuses_what_it_cannot_say_exactly(params: dict[str, Any], what: str) -> None:
    x, y = _rows(0)
    with pytest.raises(InvalidInput, match=what) as refused:
        read_lightgbm(_fit(x, y, rounds=3, **params).model_to_string())
    assert refused.value.code == "UNSUPPORTED_MODEL"
    assert refused.value.next_action


def test_refuses_categorical_splits() -> None:
    luck = np.random.default_rng(0)
    x = luck.integers(0, 6, (500, 2)).astype(np.float32)
    data = lightgbm.Dataset(x, np.isin(x[:, 0], [1, 3, 4]).astype(np.float32), categorical_feature=[0])
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 3)
    with pytest.raises(InvalidInput, match="categorical splits"):
        read_lightgbm(booster.model_to_string())


@pytest.mark.parametrize("text", ["", "hello", "tree\nversion=v4\n"])
def test_refuses_what_is_no_model(text: str) -> None:
    with pytest.raises(InvalidInput, match="no LightGBM model text"):
        read_lightgbm(text)


def test_refuses_a_damaged_model() -> None:
    x, y = _rows(0)
    text = _fit(x, y, rounds=2).model_to_string()
    with pytest.raises(InvalidInput, match="damaged"):
        read_lightgbm(text.replace("leaf_value=", "leaf_valu="))
