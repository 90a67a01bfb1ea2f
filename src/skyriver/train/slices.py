"""What the test rows say of a model beside its metrics: how sure these are, how it differs from the champion on the
same rows, and all of that on parts of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skyriver.train.evaluate import calibration_of, rank_metrics, score
from skyriver.train.intervals import Interval, differences, intervals


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model says of the n test rows: scores float32 [n] and, if it has a calibration, probabilities [n]."""

    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None

    def take(self, rows: NDArray[np.int64]) -> Scored:
        probabilities = self.probabilities
        return Scored(self.scores[rows], None if probabilities is None else probabilities[rows])


def scored(onnx: bytes, x: NDArray[np.float32]) -> Scored:
    """Of rows `x` float32 [n, F]."""
    scores, calibration = score(onnx, x), calibration_of(onnx)
    return Scored(scores, None if calibration is None else calibration.of(scores))


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of the test rows: their places among them. `of`: the declared slice that it comes from."""

    name: str
    of: str
    rows: NDArray[np.int64]
    least: int = 0
    least_positives: int = 0


@dataclass(frozen=True, slots=True)
class OnRows:
    """`champion` is None where there is none, or none that could be scored. `differences`: by how much the model's
    metrics are above the champion's, and the interval of it."""

    rows: int
    positives: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    champion: Mapping[str, float] | None = None
    differences: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """`scores` float32 [n]: what the model says of the test rows."""

    whole: OnRows
    slices: tuple[tuple[Slice, OnRows], ...]
    scores: NDArray[np.float32]


def gather(labels: NDArray[np.float32], model: Scored, champion: Scored | None, slices: Sequence[Slice]) -> Evidence:
    """`labels` float32 [n] of the test rows, which `slices` are of."""
    parts = []
    for part in slices:
        theirs = None if champion is None else champion.take(part.rows)
        parts.append((part, _on_rows(labels[part.rows], model.take(part.rows), theirs)))
    return Evidence(_on_rows(labels, model, champion), tuple(parts), model.scores)


def _on_rows(labels: NDArray[np.float32], model: Scored, champion: Scored | None) -> OnRows:
    metrics = rank_metrics(labels, model.scores, model.probabilities)
    known, differ = None, {}
    if champion is not None:
        # Without a calibration its scores are all that it says.
        said = champion.scores if champion.probabilities is None else champion.probabilities
        known = rank_metrics(labels, champion.scores, said)
        found = differences(labels, (model.scores, model.probabilities), (champion.scores, said))
        differ = {name: (metrics[name] - known[name], *ends) for name, ends in found.items() if name in known}
    return OnRows(
        rows=len(labels),
        positives=int(np.count_nonzero(labels > 0.5)),
        metrics=metrics,
        intervals={
            name: ends for name, ends in intervals(labels, model.scores, model.probabilities).items() if name in metrics
        },
        champion=known,
        differences=differ,
    )
