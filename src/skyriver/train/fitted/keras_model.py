"""A Keras 3 model, on any backend: its layers by `keras_layers`, those that are not known there by Keras itself."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed
from skyriver.train.fitted.fitted import Fitted, as_scores, first_line, refuse_model
from skyriver.train.fitted.graph import is_probability, scoring_graph
from skyriver.train.fitted.keras_layers import LAYERS, UnknownLayer, export_layers
from skyriver.train.fitted.recognise import not_a_model

_SIGMOID = 'Let its last layer be Dense(1, activation="sigmoid"), or two units with "softmax".'


@dataclass(frozen=True, slots=True)
class Keras:
    model: Any
    features: int
    outputs: int
    framework: str = "Keras"
    continuous: bool = True

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        found = np.asarray(_predict(self.model, x))
        return as_scores(found[:, 1] if self.outputs == 2 else found)

    def to_onnx(self) -> bytes:
        exported = _export(self.model, self.features)
        output = exported.graph.output[0].name
        if not is_probability(exported, output):
            refuse_model(
                "it does not say that what it gives is a probability: it ends in no sigmoid or softmax", _SIGMOID
            )
        return scoring_graph(exported, self.features, output, column=1 if self.outputs == 2 else None)

    def text(self) -> bytes | None:
        return None


def of_keras(model: Any, features: int) -> Fitted:
    """A model that takes (n, features) and ends in one sigmoid or a softmax of two. Raises JobFailed (USER_ERROR),
    InvalidInput (UNSUPPORTED_MODEL, MISSING_PACKAGE)."""
    import keras

    if not isinstance(model, keras.Model):
        raise not_a_model(model, "Keras", "Return the keras.Model.")
    if not model.built:
        raise JobFailed(
            "The Keras model that the training function returned was never fitted.",
            code="USER_ERROR",
            next_action="Call its fit(data.x, data.y) before you return it.",
        )
    return Keras(model, features, _outputs(model, features))


def _predict(model: Any, x: NDArray[np.float32]) -> Any:
    with warnings.catch_warnings():
        # Keras on torch hands torch's tensors to NumPy 2 as NumPy 1 wanted them.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        return model.predict(np.array(x, np.float32), verbose=0, batch_size=4096)


def _outputs(model: Any, features: int) -> int:
    try:
        found = _predict(model, np.zeros((3, features), np.float32))
    except Exception as error:  # whatever the layers throw
        raise JobFailed(
            f"The Keras model that the training function returned does not take rows of {features} features:"
            f" {first_line(error)}",
            code="USER_ERROR",
            next_action="Train on data.x with all its columns, in their order.",
        ) from error
    shape = np.shape(found) if isinstance(found, np.ndarray) else ()
    if shape not in ((3, 1), (3, 2)):
        told = f"for 3 rows it gives numbers of shape {list(shape)}" if shape else "it has several outputs"
        refuse_model(told, _SIGMOID)
    return int(shape[1])


def _export(model: Any, features: int) -> onnx.ModelProto:
    import keras

    try:
        return export_layers(model, features)
    except UnknownLayer as error:
        if keras.backend.backend() != "torch":
            refuse_model(
                f"it has {error}, and Keras exports that on its torch backend alone",
                f'Set os.environ["KERAS_BACKEND"] = "torch" before Keras is imported; or use {LAYERS}.',
            )
    return _by_keras(model)


def _by_keras(model: Any) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracing, for which Keras asks; parity says what came of it
        path = Path(folder, "model.onnx")
        try:
            model.export(str(path), format="onnx", verbose=False)
        except Exception as error:  # the exporter's errors share no base but Exception
            refuse_model(f"Keras cannot export it ({first_line(error)})", f"Use {LAYERS}.")
        return onnx.load(path)
