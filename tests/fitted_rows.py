"""Rows for what frameworks make of them, and a training by a function that returns a model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skyriver.core.spec import CleanSpec, CompressSpec, ModelSpec, TrainSpec
from skyriver.train.run import Trained, train
from skyriver.train.split import Rows

NAMES = ("a", "b", "c")


def rows(n: int = 900, *, missing: bool = False, scale: float = 1.0) -> Rows:
    luck = np.random.default_rng(3)
    x = luck.normal(size=(n, 3)).astype(np.float32) * np.float32(scale)
    y = (x[:, 0] / scale + 0.5 * luck.normal(size=n) > 0.5).astype(np.float32)
    if missing:
        x[luck.random(n) < 0.1, 1] = np.nan
    return Rows(NAMES, x, y, np.zeros(n, np.int64), np.arange(n), {})


def train_by(
    fit: Callable[[Any], Any],
    of: Rows | None = None,
    *,
    clean: CleanSpec | None = None,
    compress: CompressSpec | None = None,
    calibrate: Any = None,
) -> Trained:
    spec = TrainSpec(function="fit", features="f", label="y", test_share=0.3, clean=clean)
    model = ModelSpec(name="m", train=spec, calibrate=calibrate, compress=compress)
    given: dict[str, Any] = {"delay_us": None, "params": {}, "seed": 0, "champion": None}
    return train(model, of or rows(), fit, progress=lambda *_: None, **given)
