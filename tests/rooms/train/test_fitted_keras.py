"""Nets of Keras 3, on its torch backend, as trained models. Loading Keras takes longer than what it does here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted_rows import rows, train_by

from skyriver.core.errors import SkyriverError
from skyriver.core.spec import CleanSpec
from skyriver.decide.decision.reasons import Explainer
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import score
from skyriver.train.fitted import recognise
from skyriver.train.fitted.fitted_exam import check_fitted
from skyriver.train.fitted.keras_layers import UnknownLayer, export_layers

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
L = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def _fit(*layers: Any, epochs: int = 3, loss: str = "binary_crossentropy") -> Callable[[TrainingData], Any]:
    def fit(data: TrainingData) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([*layers])
        model.compile(loss=loss, optimizer=keras.optimizers.Adam(0.05))
        model.build((None, 3))
        model.fit(np.array(data.x), np.array(data.y), epochs=epochs, verbose=0, batch_size=64)
        return model

    return fit


def test_a_sequential_model_is_served_as_it_predicts(tmp_path: Path) -> None:
    made: list[Any] = []
    fit = _fit(L.Dense(16, activation="relu"), L.BatchNormalization(), L.Dropout(0.2), L.Dense(1, activation="sigmoid"))
    trained = train_by(
        lambda data: (made.append(fit(data)), made[-1])[1],
        rows(missing=True),
        clean=CleanSpec(fill="median", scale=True),
        calibrate="platt",
    )
    assert trained.metrics["onnx_max_difference"] < 1e-5
    assert trained.metrics["auc"] > 0.85
    assert trained.calibrated.method == "platt"
    told = Explainer.load(trained.onnx, ("a", "b", "c"), tmp_path)
    assert (told.method, told.unit) == ("integrated gradients", "log-odds")
    fitted = recognise(made[0], 3)
    assert (fitted.framework, fitted.features, fitted.text()) == ("Keras", 3, None)
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    np.testing.assert_allclose(score(fitted.to_onnx(), x), fitted.predict(x), atol=1e-6)


def test_a_softmax_of_two_is_the_probability_of_the_second() -> None:
    trained = train_by(_fit(L.Dense(2, activation="softmax"), loss="sparse_categorical_crossentropy"))
    assert trained.metrics["auc"] > 0.85


@pytest.mark.parametrize(
    ("fit", "code", "what", "instead"),
    [
        (_fit(L.Dense(1), loss="mse"), "UNSUPPORTED_MODEL", "ends in no sigmoid", 'activation="sigmoid"'),
        (
            lambda data: keras.Sequential([L.Input((3,)), L.Dense(4, activation="softmax")]),
            "UNSUPPORTED_MODEL", r"numbers of shape \[3, 4\]", "sigmoid",
        ),
        (lambda data: keras.Sequential([L.Dense(1, activation="sigmoid")]), "USER_ERROR", "never fitted", "fit"),
        (
            lambda data: keras.Sequential([L.Input((2,)), L.Dense(1, activation="sigmoid")]),
            "USER_ERROR", "does not take rows of 3 features", "data.x",
        ),
        (lambda data: L.Dense(1), "USER_ERROR", "Keras's Dense, not a model", "keras.Model"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_the_nearest_thing_that_can(
    fit: Callable[[TrainingData], Any], code: str, what: str, instead: str
) -> None:
    with pytest.raises(SkyriverError, match=what) as refused:
        train_by(fit)
    assert refused.value.code == code
    assert instead in refused.value.next_action


def _functional() -> Any:
    given = keras.Input((3,))
    scaled = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 4.0, 0.5])(given)
    one = L.Dense(8, activation="gelu")(L.LayerNormalization()(L.Dense(6)(scaled)))
    other = L.LeakyReLU(0.1)(L.Dense(8, use_bias=False)(L.Rescaling(0.5, 1.0)(given)))
    both = L.Concatenate()([L.Add()([one, other]), L.Multiply()([one, other]), L.ELU()(one)])
    both = L.Activation("silu")(L.BatchNormalization(momentum=0.5)(both))
    return keras.Model(given, L.Dense(1, activation="sigmoid")(keras.Sequential([L.Dense(4, "tanh")])(both)))


class _Odd(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.ops.square(x)


def test_layers_are_written_down_as_keras_computes_them() -> None:
    keras.utils.set_random_seed(0)
    model = _functional()
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-1, 1, 24, dtype=np.float32))
            layer.moving_variance.assign(np.linspace(0.5, 2, 24, dtype=np.float32))
    made = export_layers(model, 3)
    fitted = recognise(model, 3)
    np.testing.assert_allclose(score(made.SerializeToString(), x), fitted.predict(x), atol=1e-6)
    check_fitted(fitted, x)


@pytest.mark.parametrize(
    "name", ["relu", "tanh", "elu", "selu", "softplus", "softsign", "mish", "hard_sigmoid", "leaky_relu"]
)
def test_activations_are_keras_own(name: str) -> None:
    model = keras.Sequential([L.Input((3,)), L.Dense(5, activation=name), L.Dense(1, activation="sigmoid")])
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 3
    fitted = recognise(model, 3)
    np.testing.assert_allclose(score(fitted.to_onnx(), x), fitted.predict(x), atol=1e-6)


def test_a_layer_that_is_not_known_is_left_to_keras() -> None:
    model = keras.Sequential([L.Input((3,)), L.Dense(4), _Odd(), L.Dense(1, activation="sigmoid")])
    with pytest.raises(UnknownLayer, match="_Odd, of the application itself"):
        export_layers(model, 3)
    fitted = recognise(model, 3)
    np.testing.assert_allclose(score(fitted.to_onnx(), rows().x), fitted.predict(rows().x), atol=1e-6)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: keras.ops.minimum(x, 1.0),
        lambda x: 1.0 - x,
        lambda x: x * 2,
        lambda x: keras.ops.concatenate([x, x * 0.5], axis=1),
        lambda x: L.Multiply()([x, keras.ops.maximum(x, 0.2)]),
    ],
    ids=["minimum", "1 - x", "x * 2", "concatenate", "maximum"],
)
def test_an_operation_that_is_no_layer_is_left_to_keras(compute: Callable[[Any], Any]) -> None:
    keras.utils.set_random_seed(0)
    given = keras.Input((3,))
    model = keras.Model(given, L.Dense(1, activation="sigmoid")(compute(given)))
    with pytest.raises(UnknownLayer, match="which is no layer"):
        export_layers(model, 3)
    fitted, x = recognise(model, 3), rows().x * 3
    np.testing.assert_allclose(score(fitted.to_onnx(), x), fitted.predict(x), atol=1e-6)


def test_a_layer_that_is_told_to_compute_as_in_training_is_not_written_down_as_it_infers() -> None:
    given = keras.Input((3,))
    inferring = keras.Model(given, L.Dense(1, activation="sigmoid")(L.Dropout(0.5)(given, training=False)))
    assert export_layers(inferring, 3).graph.node
    training = keras.Model(given, L.Dense(1, activation="sigmoid")(L.Dropout(0.5)(given, training=True)))
    with pytest.raises(UnknownLayer, match="Dropout, called with more than"):
        export_layers(training, 3)
    by_name = keras.Model(given, L.Dense(1, activation="sigmoid")(inputs=given))
    assert export_layers(by_name, 3).graph.node


def test_on_another_backend_it_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([L.Input((3,)), _Odd(), L.Dense(1, activation="sigmoid")])
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(SkyriverError, match="it has _Odd") as refused:
        recognise(model, 3).to_onnx()
    assert "KERAS_BACKEND" in refused.value.next_action
