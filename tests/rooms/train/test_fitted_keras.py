"""Nets of Keras 3, on its torch backend, as trained models. Loading Keras takes longer than what it does here."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fitted_rows import rows, train_by

from skyriver.core.errors import SkyriverError
from skyriver.core.spec import CleanSpec
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import score
from skyriver.train.fitted import recognise

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


def test_a_sequential_model_is_served_as_it_predicts() -> None:
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
