"""The exam of `Fitted`: runs on the model of every framework, and of one of your own too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyriver.core.exam import must
from skyriver.train.evaluate import open_model, score
from skyriver.train.fitted.fitted import Fitted

CLOSE = 1e-5


def check_fitted(fitted: Fitted, x: NDArray[np.float32]) -> None:
    """`x` float32 (n, features), at least 3 rows that it takes. Raises AssertionError naming the law that does not
    hold."""
    given = x.copy()
    scores = fitted.predict(x)
    must(scores.shape == (len(x),) and scores.dtype == np.float64, "predict gives float64 (n,)")
    must(bool(np.isfinite(scores).all()), "rows that it takes get numbers")
    must(np.array_equal(given, x, equal_nan=True), "predict leaves the rows as they are")
    must(np.array_equal(fitted.predict(x), scores), "the same rows score the same")
    alone = np.concatenate([fitted.predict(x[n : n + 1]) for n in range(3)])
    must(bool(np.abs(alone - scores[:3]).max() <= CLOSE), "a row scores the same alone")
    data = fitted.to_onnx()
    session = open_model(data, threads=1)
    taken = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
    must(taken == [("features", "tensor(float)", [fitted.features])], "the graph takes features, float32 [n, features]")
    told = [(one.name, one.type, len(one.shape)) for one in session.get_outputs()]
    must(told == [("score", "tensor(float)", 1)], "the graph gives score, float32 [n]")
    must(bool(np.abs(score(data, x) - scores).max() <= CLOSE), "the graph scores as predict does")
    must(fitted.to_onnx() == data, "the same model gives the same bytes")
    text = fitted.text()
    must(text is None or text.startswith(b"tree\n"), "text is LightGBM's, or None")
