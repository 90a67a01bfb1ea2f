"""How good scores are: pure NumPy, each metric by its usual definition, ties handled exactly.

`labels` (n,) are 0 or 1, `scores` (n,) finite, higher is more suspicious. A metric that is not defined on the given
rows (one class only, no rows) is NaN; whoever stores metrics leaves it out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS = 20
"""Of `equal_mass`."""
_PROBABILITY_FLOOR = 1e-15
"""Log loss of a certain and wrong answer is cut at -log(1e-15) = 34.5."""


def roc_auc(labels: Array, scores: Array) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann-Whitney U)."""
    positives, negatives = _cumulated(labels, scores)
    if len(positives) == 0 or positives[-1] == 0 or negatives[-1] == 0:
        return float("nan")
    found = np.diff(positives, prepend=0.0)
    # Each step of equal scores: its positives beat all negatives still below, and half of those beside them.
    below = negatives[-1] - negatives + np.diff(negatives, prepend=0.0) / 2
    return float(np.sum(found * below) / (positives[-1] * negatives[-1]))


def average_precision(labels: Array, scores: Array) -> float:
    """Sum over thresholds of precision x gain in recall: the step-wise area under the precision-recall curve."""
    positives, negatives = _cumulated(labels, scores)
    if len(positives) == 0 or positives[-1] == 0:
        return float("nan")
    precision = positives / (positives + negatives)
    return float(np.sum(np.diff(positives, prepend=0.0) * precision) / positives[-1])


def log_loss(labels: Array, probabilities: Array) -> float:
    if len(labels) == 0:
        return float("nan")
    p = np.clip(probabilities.astype(np.float64), _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    return float(-np.mean(np.where(labels > 0.5, np.log(p), np.log1p(-p))))


def brier(labels: Array, probabilities: Array) -> float:
    """Mean squared distance of the probability from what happened."""
    if len(labels) == 0:
        return float("nan")
    return float(np.mean((probabilities.astype(np.float64) - labels) ** 2))


def equal_mass(values: Array) -> list[NDArray[np.int64]]:
    """The rows of each of at most BINS bins, from the lowest `values` on, of as many rows each as equal values, which
    stay together, allow."""
    order = np.argsort(values, kind="stable")
    if len(order) == 0:
        return []
    ordered = values[order]
    borders = np.searchsorted(ordered, ordered[len(ordered) * np.arange(1, BINS) // BINS])
    return [part for part in np.split(order, np.unique(borders)) if len(part)]


def calibration_error(labels: Array, probabilities: Array) -> float:
    """The expected calibration error: by how far a probability is from the share of positives, as a mean over the bins
    of `equal_mass`, each with as much weight as it has rows."""
    if len(labels) == 0:
        return float("nan")
    missed = probabilities.astype(np.float64) - (labels > 0.5)
    return float(sum(abs(missed[rows].sum()) for rows in equal_mass(probabilities)) / len(labels))


def precision_at(
    k: int,
    labels: Array,
    scores: Array,
    keys: NDArray[np.int64],
    times: NDArray[np.int64],
    *,
    start: int,
    end: int,
    per_us: int,
    known_keys: NDArray[np.int64],
    known_from: NDArray[np.int64],
) -> float:
    """Precision among the `k` keys with the highest score, averaged over periods: the card precision top-k of
    Le Borgne et al., Fraud Detection Handbook, chapter 4 (there keys are cards, periods days, k is 100).

    Periods of `per_us` follow each other from `start`; a last one that is not whole by `end` is left out unless it is
    the only one. `times` (n,) is ascending, in [start, end). A key ranks by its highest score in the period (equal
    scores: the lower key first) and is a hit when it has a positive in it. Left out from a period are keys already
    known as positive: those of `known_keys` (m,) whose `known_from` (m,) is not after its start, and the hits of
    periods before it, for they have been looked into. Fewer than k keys count as if misses filled them up.
    """
    found: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    precisions = []
    for opens in range(start, max(end - per_us, start) + 1, per_us):
        rows = slice(*np.searchsorted(times, [opens, opens + per_us]))
        gone = np.concatenate([found, known_keys[known_from <= opens]])
        left = ~np.isin(keys[rows], gone)
        unique, inverse = np.unique(keys[rows][left], return_inverse=True)
        highest = np.full(len(unique), -np.inf)
        np.maximum.at(highest, inverse, scores[rows][left])
        positive = np.zeros(len(unique), dtype=bool)
        np.logical_or.at(positive, inverse, labels[rows][left] > 0.5)
        top = np.lexsort((unique, -highest))[:k]
        hits = unique[top[positive[top]]]
        precisions.append(len(hits) / k)
        found = np.concatenate([found, hits])
    return float(np.mean(precisions))


def _cumulated(labels: Array, scores: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positives and negatives at or above each different score, from the highest score down."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    positive = (labels[order] > 0.5).astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1) if len(ordered) else np.empty(0, dtype=int)
    positives = np.cumsum(positive)[last]
    return positives, last + 1 - positives
