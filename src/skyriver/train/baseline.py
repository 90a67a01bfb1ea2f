"""What costs nothing to have: a constant, a linear model and LightGBM with its defaults, fitted on the rows that the
model was fitted on and judged by those that judge it. Who loses to one of them need not be released."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CONSTANT, LINEAR, LIGHTGBM = "a constant", "logistic regression", "LightGBM with defaults"
MOST_CELLS: Final = 6_000_000
"""Of more numbers as many rows as have so many, evenly spaced, are learnt from: some 4 s of a core."""
MOST_PRODUCTS: Final = 600_000_000
"""Of the linear model, a step: rows times the square of its inputs, some 0.3 s of a core."""
FEW_CELLS: Final = 1_000_000
"""Of fewer numbers threads cost more than they bring."""
TREES: Final = 100
"""LightGBM's default."""
STEPS: Final = 25
RIDGE: Final = 1.0
"""Half the weight of the squared coefficients of standardised features, scikit-learn's C=1."""
FAR: Final = 10.0
"""Standard deviations; what is farther counts as so far."""
_BLOCK: Final = 65_536

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Baseline:
    """`scores` float32 (m,) of the rows that judge; learnt from so many `rows`."""

    name: str
    scores: Floats
    rows: int


def baselines(x: Floats, y: Floats, test: Floats, seed: int) -> Iterator[Baseline]:
    """Of training rows `x` float32 (n, F), missing is NaN, with labels `y` (n,), both classes among them; judged by
    `test` float32 (m, F)."""
    yield Baseline(CONSTANT, np.full(len(test), y.mean(dtype=np.float64), np.float32), len(x))
    every = _every(x, MOST_CELLS // max(1, x.shape[1]))
    some = max(every, _every(x, MOST_PRODUCTS // max(1, (2 * x.shape[1]) ** 2)))
    linear = fit_logistic(x[::some], y[::some])
    yield Baseline(LINEAR, linear.scores(test), len(x[::some]))
    yield Baseline(LIGHTGBM, _lightgbm(x[::every], y[::every], test, seed), len(x[::every]))


def _every(x: Floats, most: int) -> int:
    return max(1, -(-len(x) // max(1_000, most)))


def _lightgbm(x: Floats, y: Floats, test: Floats, seed: int) -> Floats:
    import lightgbm

    threads = 1 if x.size < FEW_CELLS else 0
    settings = {"objective": "binary", "verbose": -1, "seed": seed, "deterministic": True, "force_row_wise": True}
    booster = lightgbm.train({**settings, "num_threads": threads}, lightgbm.Dataset(x, y), TREES)
    return np.asarray(booster.predict(test, num_threads=threads), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Logistic:
    """Of standardised features, 0 where one is missing, and for each that ever was, whether it is. `weights` (W,), the
    constant first."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    absent: NDArray[np.int64]
    weights: NDArray[np.float64]

    def inputs(self, x: Floats) -> NDArray[np.float64]:
        """float64 (n, W)."""
        missing = ~np.isfinite(x)
        known = np.where(missing, 0.0, np.clip((x - self.mean) / self.deviation, -FAR, FAR))
        return np.hstack([np.ones((len(x), 1)), known, missing[:, self.absent].astype(np.float64)])

    def scores(self, x: Floats) -> Floats:
        parts = [self.inputs(x[i : i + _BLOCK]) @ self.weights for i in range(0, len(x), _BLOCK)]
        return _sigmoid(np.concatenate([np.empty(0), *parts])).astype(np.float32)


def fit_logistic(x: Floats, y: Floats) -> Logistic:
    """By Newton's method with a ridge, halving a step that does not lower the loss."""
    known = np.isfinite(x)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, x, 0.0).sum(axis=0, dtype=np.float64) / count
    variance = np.array(
        [np.square(x[known[:, f], f].astype(np.float64) - mean[f]).sum() / count[f] for f in range(x.shape[1])]
    )
    deviation = np.sqrt(variance)
    deviation[~(deviation > 0)] = 1.0
    absent = np.flatnonzero(~known.all(axis=0) & known.any(axis=0))
    found = Logistic(mean, deviation, absent, np.zeros(1 + x.shape[1] + len(absent)))
    ridge = np.full(len(found.weights), RIDGE)
    ridge[0] = 0.0
    weights, (loss, gradient, curvature) = found.weights, _derived(found, x, y, found.weights, ridge)
    for _ in range(STEPS):
        step, size = np.linalg.lstsq(curvature, gradient, rcond=None)[0], 1.0
        while size > 1e-3:
            tried = weights - size * step
            new = _derived(found, x, y, tried, ridge)
            if new[0] <= loss:
                break
            size /= 2
        else:
            break
        done = loss - new[0] < 1e-7 * max(1.0, loss)
        weights, (loss, gradient, curvature) = tried, new
        if done:
            break
    return Logistic(mean, deviation, absent, weights)


def _derived(
    model: Logistic, x: Floats, y: Floats, weights: NDArray[np.float64], ridge: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The loss, its gradient and its Hessian."""
    loss = float(ridge @ weights**2) / 2
    gradient, curvature = ridge * weights, np.diag(ridge)
    for i in range(0, len(x), _BLOCK):
        inputs, labels = model.inputs(x[i : i + _BLOCK]), y[i : i + _BLOCK].astype(np.float64)
        raw = inputs @ weights
        p = _sigmoid(raw)
        loss += float(np.sum(np.logaddexp(0.0, raw) - labels * raw))
        gradient = gradient + inputs.T @ (p - labels)
        curvature = curvature + (inputs * (p * (1 - p))[:, None]).T @ inputs
    return loss, gradient, curvature


def _sigmoid(raw: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(raw / 2)))
