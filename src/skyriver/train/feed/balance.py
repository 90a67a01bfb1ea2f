"""Few rows of a class: weights by which they count as much as the others, and rows made between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import TrainSpec
from skyriver.core.spec_augment import MinoritySpec
from skyriver.train.data import TrainingData, read_only
from skyriver.train.packages import package


def prepared(spec: TrainSpec, data: TrainingData) -> TrainingData:
    """The training part with the rows and the weights that are declared. The rows by which a model is judged do not go
    through here."""
    if spec.minority is not None:
        data = with_minority(spec.minority, data)
    if data.weights is not None:
        _check_weights(spec.weight, data.weights)
    if spec.weights == "balanced":
        data = replace(data, weights=read_only(balanced(data.y)))
    return replace(data, augment=spec.augment) if spec.augment else data


def _check_weights(name: str, weights: NDArray[np.float32]) -> None:
    wrong = ~np.isfinite(weights) | (weights < 0)
    if wrong.any() or not weights.any():
        found = f"{weights[wrong][0]:g} in {int(wrong.sum()):,} rows" if wrong.any() else "0 everywhere"
        raise InvalidInput(
            f"The weights {name} are {found}.",
            code="BAD_WEIGHT",
            next_action="A weight is a number from 0 on; 0 leaves a row out.",
        )


def balanced(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,): n / (classes * rows of the row's class); they sum to n."""
    _, at, counts = np.unique(y, return_inverse=True, return_counts=True)
    return (len(y) / (len(counts) * counts))[at].astype(np.float32)


def with_minority(spec: MinoritySpec, data: TrainingData) -> TrainingData:
    """Rows made are behind the others, with the time of the last one. Raises InvalidInput: MISSING_VALUE where a
    feature is missing, for there is nothing between it and another; NOT_ENOUGH_DATA where the class has too few rows.
    """
    over_sampling = package("imblearn.over_sampling", "augment", "minority=", distribution="imbalanced-learn")
    missing = np.isnan(data.x)
    if missing.any():
        column = int(np.flatnonzero(missing.any(axis=0))[0])
        raise InvalidInput(
            f"minority= makes rows between rows, and {data.names[column]} is missing in"
            f" {int(missing[:, column].sum()):,} of them.",
            code="MISSING_VALUE",
            next_action='Declare clean=sr.Clean(fill="median"), or leave minority= out.',
        )
    classes, counts = np.unique(data.y, return_counts=True)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest <= spec.neighbours:
        raise InvalidInput(
            f"There are {fewest} training rows with {classes[counts.argmin()]:g}, and minority= looks at"
            f" {spec.neighbours} neighbours of each.",
            code="NOT_ENOUGH_DATA",
            next_action=f"Load more rows, or write sr.Minority(neighbours={max(1, fewest - 1)}).",
        )
    if len(classes) != 2 or fewest >= spec.ratio * most:
        return data
    sampler = over_sampling.SMOTE(
        sampling_strategy=spec.ratio, k_neighbors=spec.neighbours, random_state=data.seed & 0xFFFF_FFFF
    )
    x, y = sampler.fit_resample(data.x, data.y.astype(np.int64))
    made = len(x) - len(data.x)
    time = np.concatenate([data.time, np.full(made, data.time[-1] if len(data.time) else 0, np.int64)])
    return replace(data, x=read_only(x.astype(np.float32)), y=read_only(y.astype(np.float32)), time=read_only(time))
