"""How sure a metric is, and the difference of two on the same rows: 95% intervals, the same for the same rows.

Of `auc` and `average_precision` by the bootstrap (percentiles), with weights that are Poisson(1) instead of a draw of n
rows [1]. Both ask of a row without a positive beside it only between which positives it stands, and a sum of m such
weights is Poisson(m): a replicate costs as much as there are positives, not rows, and is exact. For two scores of the
same rows the weights are the same, so that what makes rows hard for both does not widen the interval of their
difference. Of means over rows (`log_loss`, `brier`) by the central limit theorem; other metrics have none here.

[1] J. A. Hanley, B. MacGibbon, Creating non-parametric bootstrap samples using Poisson frequencies, Computer Methods
    and Programs in Biomedicine 83 (2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

REPLICATES: Final = 400
LEAST_REPLICATES: Final = 100
MOST_DRAWS: Final = 20_000_000
"""Of one interval: with more positives there are fewer replicates, and each is surer."""
LEAST_OF_EACH: Final = 5
"""Positives and negatives: with fewer no interval is told, for resampling a handful of rows knows nothing of others."""
BLOCK_DRAWS: Final = 2_000_000
ENDS: Final = (0.025, 0.975)
NORMAL: Final = 1.959964
SEED: Final = 20_190_129

Array = NDArray[Any]
Interval = tuple[float, float]
Replicates = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Rows in the order of their scores, from the highest, as far as the metrics see it: G different scores that some
    positive has. `positives` int64 [G]; `negatives` int64 [2G + 1]: at 2g those between the one before and g, at 2g + 1
    those with the score g, the last those below all. `group` int64 [P] and `gap` int64 [N]: where each positive and
    each negative is, in the order of the rows."""

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    group: NDArray[np.int64]
    gap: NDArray[np.int64]


def _rank(labels: Array, scores: Array) -> _Ranked:
    is_positive = labels > 0.5
    held = np.unique(scores[is_positive])  # ascending
    groups = len(held)
    group = groups - 1 - np.searchsorted(held, scores[is_positive])
    others = scores[~is_positive]
    below, up_to = np.searchsorted(held, others, side="left"), np.searchsorted(held, others, side="right")
    # Of `up_to` scores at or below it one is its own if it is tied.
    gap = np.where(up_to > below, 2 * (groups - up_to) + 1, 2 * (groups - up_to))
    return _Ranked(
        np.bincount(group, minlength=groups), np.bincount(gap, minlength=2 * groups + 1), group.astype(np.int64), gap
    )


def _metrics(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> Replicates:
    """Of B replicates: weights [B, G] of positives and [B, 2G + 1] of negatives, by the places of `_Ranked`."""
    found, seen = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
    all_found, all_seen = found[:, -1], seen[:, -1]
    upper, tied = seen[:, 1::2], negatives[:, 1::2]
    with np.errstate(all="ignore"):
        precision = np.where(positives > 0, found / (found + upper), 0.0)
        average = (positives * precision).sum(axis=1) / all_found
        area = (positives * (all_seen[:, None] - upper + tied / 2)).sum(axis=1) / (all_found * all_seen)
    return {"average_precision": average, "auc": area}


def intervals(labels: Array, scores: Array, probabilities: Array | None) -> dict[str, Interval]:
    """Of each metric that has one, by its name."""
    found = _of_means(_losses(labels, scores, probabilities))
    if _few(labels):
        return found
    ranked, luck = _rank(labels, scores), np.random.default_rng(SEED)
    parts = []
    for block in _blocks(len(ranked.positives) * 3):
        positives = luck.poisson(ranked.positives, (block, len(ranked.positives))).astype(np.float64)
        negatives = luck.poisson(ranked.negatives, (block, len(ranked.negatives))).astype(np.float64)
        parts.append(_metrics(positives, negatives))
    return found | _percentiles(parts)


def differences(
    labels: Array, one: tuple[Array, Array | None], other: tuple[Array, Array | None]
) -> dict[str, Interval]:
    """Of `one` minus `other`, each its scores and its probabilities, on the same rows."""
    ours, theirs = _losses(labels, *one), _losses(labels, *other)
    found = _of_means({name: ours[name] - theirs[name] for name in ours if name in theirs})
    if _few(labels):
        return found
    ranked = (_rank(labels, one[0]), _rank(labels, other[0]))
    # Negatives that both scores put at the same places are drawn together.
    width = len(ranked[1].negatives)
    cells, counts = np.unique(ranked[0].gap * width + ranked[1].gap, return_counts=True)
    places, luck = np.divmod(cells, width), np.random.default_rng(SEED)
    count, parts = len(ranked[0].group), []
    for block in _blocks(count + len(cells)):
        rows, drawn = luck.poisson(1.0, (block, count)), luck.poisson(counts, (block, len(cells)))
        both = [
            _metrics(_summed(rows, each.group, len(each.positives)), _summed(drawn, places[side], len(each.negatives)))
            for side, each in enumerate(ranked)
        ]
        parts.append({name: both[0][name] - both[1][name] for name in both[0]})
    return found | _percentiles(parts)


def _summed(drawn: NDArray[np.int64], places: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(places, weights=row, minlength=width) for row in drawn])


def _few(labels: Array) -> bool:
    positives = int(np.count_nonzero(labels > 0.5))
    return min(positives, len(labels) - positives) < LEAST_OF_EACH


def _blocks(draws: int) -> Iterator[int]:
    """How many replicates at a time, each of so many draws."""
    left = min(REPLICATES, max(LEAST_REPLICATES, MOST_DRAWS // draws))
    while left:
        block = min(left, max(1, BLOCK_DRAWS // draws))
        yield block
        left -= block


def _percentiles(parts: Sequence[Replicates]) -> dict[str, Interval]:
    found = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[np.isfinite(values)]  # of a replicate without a positive nothing can be said
        if len(values):
            low, high = np.quantile(values, ENDS)
            found[name] = (float(low), float(high))
    return found


def _losses(labels: Array, scores: Array, probabilities: Array | None) -> dict[str, NDArray[np.float64]]:
    """Of each row, of the metrics that are means."""
    scores = scores.astype(np.float64)
    p = np.clip(scores, 1e-15, 1 - 1e-15)
    found = {
        "log_loss": -np.where(labels > 0.5, np.log(p), np.log1p(-p)),
        "brier": (scores - labels) ** 2,
    }
    if probabilities is not None:
        found["brier_calibrated"] = (probabilities.astype(np.float64) - labels) ** 2
    return found


def _of_means(losses: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
    found = {}
    for name, values in losses.items():
        if len(values) >= 2 * LEAST_OF_EACH:
            mean, half = float(values.mean()), NORMAL * float(values.std(ddof=1)) / len(values) ** 0.5
            found[name] = (mean - half, mean + half)
    return found
