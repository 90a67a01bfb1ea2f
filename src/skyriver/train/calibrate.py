"""Fitting a calibration: how often what got such a score was true, on rows that no training has seen.

Theory of operation. "isotonic" pools neighbouring scores until what they observed does not fall any more (pool
adjacent violators), and puts one point in the middle of each pool: straight lines between them keep the order of
scores, which the steps of plain isotonic regression would lose (centered isotonic regression, Oron and Flournoy, 2017).
It follows any shape, and needs many positives to see one. "platt" fits the two numbers of a logistic curve over the
score's log-odds (Platt, 1999), for which a few are enough. A model that was fitted by log loss often gives
probabilities as it is, and then either only adds noise: "auto" takes the one that says best, by log loss, what it was
not fitted on (five parts of the rows in turn), and leaves the score as it is unless that is better by more than chance.

Neither is ever certain: isotonic gets a positive more below the lowest score and a negative more above the highest,
Platt's targets are (n + 1) / (n + 2) and 1 / (n + 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray

from skyriver.core.calibration import CALIBRATION, MOST_POINTS, Calibration, Method
from skyriver.core.spec import Calibrate
from skyriver.train.evaluate import score, take
from skyriver.train.metrics import Array, equal_mass
from skyriver.train.split import Rows, Split

Numbers = NDArray[np.float64]

ISOTONIC_FROM: Final = 200
"""With fewer of an outcome "auto" does not try it."""
LEAST: Final = 10
"""With fewer of an outcome nothing is fitted."""
_EDGE: Final = 1e-7
"""Log-odds are taken of scores that are at least so far from 0 and 1, as far as float32 can tell them from these."""
_STEPS: Final = 100
PARTS: Final = 5


class Bin(NamedTuple):
    """Test rows of about the same score: how many, their mean score and probability, the share that was true."""

    rows: int
    score: float
    probability: float | None
    observed: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What is told of a model's probabilities: by what `method`, from how many held-out `rows` and positives; "" with
    `why` where it has none. `reliability` is of the test rows."""

    method: str
    rows: int
    positives: int
    why: str
    reliability: tuple[Bin, ...]


def calibrate(wanted: Calibrate | None, model: bytes, rows: Rows, split: Split) -> tuple[bytes, Calibrated]:
    """The ONNX `model` with the calibration that its scores of the validation part give, and what is told of it."""
    labels = split.labels[split.validation]
    calibration, why = None, "the application declares calibrate=None"
    if wanted is not None and len(labels):
        calibration, why = fit_calibration(wanted, labels, score(model, take(rows.x, split.validation)))
    elif wanted is not None:
        why = 'no rows are kept back for it: declare calibrate="isotonic" or "platt"'
    scores = score(model, take(rows.x, split.test))
    if calibration is None and not _are_probabilities(scores):
        why += (
            f"; its scores, {scores.min():.4g} to {scores.max():.4g}, are none themselves, though brier and log_loss"
            " take them for such: return a classifier, or have them calibrated"
        )
    told = Calibrated(
        calibration.method if calibration is not None else "",
        len(labels),
        int(labels.sum()),
        why,
        tuple(_reliability(split.labels[split.test], scores, calibration)),
    )
    return attach(model, calibration), told


def _reliability(labels: Array, scores: NDArray[np.float32], calibration: Calibration | None) -> Iterator[Bin]:
    probabilities = calibration.of(scores) if calibration is not None else None
    for rows in equal_mass(scores):
        yield Bin(
            len(rows),
            float(scores[rows].mean(dtype=np.float64)),
            float(probabilities[rows].mean(dtype=np.float64)) if probabilities is not None else None,
            float(labels[rows].mean(dtype=np.float64)),
        )


def fit_calibration(wanted: Calibrate, labels: Array, scores: NDArray[np.float32]) -> tuple[Calibration | None, str]:
    """`labels` 0 or 1 and finite `scores` of rows that no training has seen; with none, why there is none."""
    positives = int((labels > 0.5).sum())
    fewer = min(positives, len(labels) - positives)
    if fewer < LEAST:
        return None, f"{positives:,} of {len(labels):,} held-out rows are positive: at least {LEAST} of both are needed"
    method = wanted if wanted != "auto" else _best(labels, scores, fewer)
    found = _fit(method, labels, scores) if method is not None else None
    if found is None:
        return None, "what scores higher was not true more often on the held-out rows"
    return found, ""


def _best(labels: Array, scores: NDArray[np.float32], fewer: int) -> Method | None:
    """What says best what it was not fitted on; None where nothing can be fitted."""
    wanted: list[Method] = ["platt"] if fewer < ISOTONIC_FROM else ["platt", "isotonic"]
    losses = {method: loss for method in wanted if (loss := _losses(method, labels, scores)) is not None}
    best = min(losses, key=lambda method: losses[method].mean(), default=None)
    as_it_is = _losses("score", labels, scores) if _are_probabilities(scores) else None
    if best is None or as_it_is is None:
        return best
    gain = as_it_is - losses[best]
    return best if gain.mean() > gain.std() / math.sqrt(len(gain)) else "score"


def _losses(method: Method, labels: Array, scores: NDArray[np.float32]) -> Numbers | None:
    """Log loss of each row by what is fitted on the other parts, which follow each other in time."""
    found = np.empty(len(labels))
    for part in np.array_split(np.arange(len(labels)), PARTS):
        others = np.ones(len(labels), np.bool_)
        others[part] = False
        fitted = _fit(method, labels[others], scores[others])
        if fitted is None:
            return None
        p = np.clip(fitted.of(scores[part]).astype(np.float64), _EDGE, 1 - _EDGE)
        found[part] = -np.where(labels[part] > 0.5, np.log(p), np.log1p(-p))
    return found


def _fit(method: Method, labels: Array, scores: NDArray[np.float32]) -> Calibration | None:
    match method:
        case "isotonic":
            points = _isotonic(labels, scores)
        case "platt":
            points = _platt(labels, scores)
        case "score":
            points = ((0.0, 0.0), (1.0, 1.0))
        case _:
            assert_never(method)
    return Calibration(method, points) if points is not None else None


def _are_probabilities(scores: Array) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all())


def attach(model: bytes, calibration: Calibration | None) -> bytes:
    """The ONNX `model` with it, in the place of one that it has."""
    return with_metadata(model, CALIBRATION, calibration.to_text() if calibration is not None else None)


def with_metadata(model: bytes, key: str, text: str | None) -> bytes:
    found = onnx.load_from_string(model)
    kept = [(entry.key, entry.value) for entry in found.metadata_props if entry.key != key]
    del found.metadata_props[:]
    for own, value in [*kept, *([(key, text)] if text is not None else [])]:
        found.metadata_props.add(key=own, value=value)
    data: bytes = found.SerializeToString(deterministic=True)
    return data


def _isotonic(labels: Array, scores: NDArray[np.float32]) -> tuple[tuple[float, float], ...] | None:
    values, which = np.unique(scores.astype(np.float64), return_inverse=True)
    counts = np.bincount(which).astype(np.float64)
    positives = np.bincount(which, (labels > 0.5).astype(np.float64))
    middles = counts * values
    # The two rows that keep it from being certain count where they stand, not in the middle of their pool.
    counts[0], positives[0], middles[0] = counts[0] + 1, positives[0] + 1, middles[0] + values[0]
    counts[-1], middles[-1] = counts[-1] + 1, middles[-1] + values[-1]
    pools: list[tuple[float, float, float]] = []
    for own in zip(counts.tolist(), positives.tolist(), middles.tolist(), strict=True):
        pools.append(own)
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0]:
            pools[-2:] = [_pooled(pools[-2], pools[-1])]
    while len(pools) > MOST_POINTS:
        cheapest = int(np.argmin([_lost(a, b) for a, b in pairwise(pools)]))
        pools[cheapest : cheapest + 2] = [_pooled(pools[cheapest], pools[cheapest + 1])]
    if len(pools) == 1:
        return None
    return tuple((middle / count, positive / count) for count, positive, middle in pools)


def _pooled(one: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _lost(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """By how much the squared error grows when the two become one."""
    return (one[1] / one[0] - other[1] / other[0]) ** 2 * one[0] * other[0] / (one[0] + other[0])


def _platt(labels: Array, scores: NDArray[np.float32]) -> tuple[tuple[float, float], ...] | None:
    given = scores.astype(np.float64)
    of_probabilities = _are_probabilities(given)
    x = _log_odds(given) if of_probabilities else given
    positive = labels > 0.5
    if x.min() == x.max() or positive.all() or not positive.any():
        return None
    count = int(positive.sum())
    target = np.where(positive, (count + 1) / (count + 2), 1 / (len(labels) - count + 2))
    slope, level = _logistic(x, target)
    if slope <= 0:
        return None
    # Even steps of log-odds: lines between them miss the curve by less than 1% of it.
    knots = np.linspace(x.min(), x.max(), MOST_POINTS)
    places = 1 / (1 + np.exp(-knots)) if of_probabilities else knots
    levels = 1 / (1 + np.exp(-(slope * knots + level)))
    places, first = np.unique(places, return_index=True)
    return tuple(zip(places.tolist(), np.maximum.accumulate(levels[first]).tolist(), strict=True))


def _log_odds(scores: Numbers) -> Numbers:
    inside = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.log(inside) - np.log1p(-inside)


def _logistic(x: Numbers, target: Numbers) -> tuple[float, float]:
    """Slope and level of the curve of least log loss, by Newton's steps, each as long as it helps."""
    middle, spread = float(x.mean()), float(x.std())
    z = (x - middle) / spread

    def loss(a: float, b: float) -> float:
        w = a * z + b
        return float(np.mean(np.logaddexp(0.0, w) - target * w))

    a, b = 0.0, math.log(target.mean() / (1 - target.mean()))
    best = loss(a, b)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(a * z + b)))
        weight = p * (1 - p)
        miss = p - target
        gradient = np.array([np.mean(miss * z), np.mean(miss)])
        mixed = np.mean(weight * z)
        curve = np.array([[np.mean(weight * z * z) + 1e-12, mixed], [mixed, np.mean(weight) + 1e-12]])
        step = np.linalg.solve(curve, gradient)
        length = 1.0
        while length > 1e-6 and loss(a - length * step[0], b - length * step[1]) > best:
            length /= 2
        a, b = a - length * step[0], b - length * step[1]
        before, best = best, loss(a, b)
        if before - best < 1e-12:
            break
    return a / spread, b - a * middle / spread
