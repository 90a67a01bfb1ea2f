"""Whether a model is still as good as it was on its test rows, once the truth is known. Pure.

Only rows whose labels have had their time count, and labels come late: it tells of a week ago, but of what matters.
A model that fails where inputs look as before is found by nothing else.

It is looked at again and again, and each look may err. So all looks at one version have ALPHA together: the k-th one
has ALPHA (K + 1) / ((k + K)(k + K + 1)), of which the sum over all k is ALPHA, however long it serves (alpha spending:
K. K. G. Lan, D. L. DeMets, Biometrika 70, 1983; here by Boole's inequality, for looks overlap). With K = PATIENCE the
first month of daily looks has half of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Measure = Callable[[Array, Array], float]
"""Of labels and scores, such as the average precision; higher is better. NaN: not defined on them."""

LEAST_POSITIVES: Final = 30
ALPHA: Final = 0.02
"""The chance that a version which is just so good as tolerated is ever called worse."""
PATIENCE: Final = 30
BLOCKS: Final = 50
NORMAL: Final = 1.959964
"""Standard errors from the middle to an end of an interval of 95%."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Of the test rows when the version was made: the measure there, its standard error, and the share of positives."""

    value: float
    error: float
    share: float

    @classmethod
    def of(cls, value: float, interval: tuple[float, float], rows: int, positives: int) -> Reference:
        """`interval` of 95%. Its lower half counts: by that much it may have been better by chance."""
        return cls(value, max(0.0, value - interval[0]) / NORMAL, positives / max(1, rows))


@dataclass(frozen=True, slots=True)
class Quality:
    """`value` of the measure on so many rows, with its standard error; `needed`: so many standard errors (of it and of
    the reference together) below what is tolerated is `worse`. None: it cannot be told."""

    value: float | None
    error: float | None
    reference: float
    needed: float
    rows: int
    positives: int
    worse: bool | None
    message: str


def judge(
    measure: Measure,
    labels: Array,
    scores: Array,
    *,
    reference: Reference,
    tolerance: float,
    look: int = 1,
    name: str = "average precision",
) -> Quality:
    """`labels` (n,) 0 or 1 and `scores` (n,), in the order of their time; it is the `look`-th at this version. The
    standard error is by leaving out blocks of neighbouring rows, one after the other, for what happens together is not
    independent (the block jackknife: H. R. Künsch, Annals of Statistics 17, 1989); quantiles are those of Student's t
    of so many blocks."""
    rows, positives = len(labels), int(np.count_nonzero(labels))
    needed = sure(look)
    if positives < LEAST_POSITIVES or positives == rows:
        why = (
            f"Of {rows:,} rows with known labels {positives:,} are positive; {LEAST_POSITIVES} are needed to judge it."
        )
        return Quality(None, None, reference.value, needed, rows, positives, None, why)
    value, error = measure(labels, scores), _standard_error(measure, labels, scores)
    worse = value + needed * math.hypot(error, reference.error) < reference.value - tolerance
    before = f"{reference.value:.3f} ± {reference.error:.3f} on the test rows"
    told = f"The {name} is {value:.3f} ± {error:.3f} on {rows:,} rows, and was {before}"
    return Quality(
        value, error, reference.value, needed, rows, positives, worse, told + (": it is worse." if worse else ".")
    )


def sure(look: int) -> float:
    """Standard errors that the `look`-th look asks for (Student's t by the expansion of Cornish and Fisher)."""
    alpha = ALPHA * (PATIENCE + 1) / ((look + PATIENCE) * (look + PATIENCE + 1))
    z, free = NormalDist().inv_cdf(1 - alpha), BLOCKS - 1
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def average_precision_at(share: float) -> Measure:
    """The average precision as it would be with `share` positives among all, for it falls with their share though the
    model stays as good: negatives have a weight (calibrated precision: W. Siblini et al., Master your metrics with
    calibration, IDA 2020)."""

    def measure(labels: Array, scores: Array) -> float:
        order = np.argsort(-scores, kind="stable")
        ordered, positive = scores[order], labels[order] > 0.5
        last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        found, others = (np.cumsum(which, dtype=np.float64)[last] for which in (positive, ~positive))
        if not found[-1] or not others[-1]:
            return float("nan")
        weight = (1 - share) / share * found[-1] / others[-1]
        return float(np.sum(np.diff(found, prepend=0.0) * found / (found + weight * others)) / found[-1])

    return measure


def _standard_error(measure: Measure, labels: Array, scores: Array) -> float:
    borders = np.linspace(0, len(labels), min(BLOCKS, len(labels)) + 1).astype(int)
    found = []
    for first, last in pairwise(borders):
        kept = np.r_[0:first, last : len(labels)]
        found.append(measure(labels[kept], scores[kept]))
    known = np.array([value for value in found if np.isfinite(value)])
    if len(known) < 2:
        return float("inf")
    return float(np.sqrt((len(known) - 1) / len(known) * np.sum((known - known.mean()) ** 2)))
