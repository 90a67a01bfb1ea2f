"""Whether a model is still as good as it was on its test rows, once the truth is known. Pure.

Only rows whose labels have had their time count, and labels come late: it tells of a week ago, but of what matters.
A model that fails where inputs look as before is found by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Measure = Callable[[Array, Array], float]
"""Of labels and scores, such as the average precision; higher is better. NaN: not defined on them."""

LEAST_POSITIVES: Final = 30
SURE: Final = 3.0
"""Standard errors below what is tolerated: once in 700 looks at a model that is just so good."""
BLOCKS: Final = 50


@dataclass(frozen=True, slots=True)
class Quality:
    """`value` of the measure on so many rows, with its standard error; `reference` on the test rows when the version
    was made. `worse`: by more than is tolerated and than chance explains. None: it cannot be told."""

    value: float | None
    error: float | None
    reference: float
    rows: int
    positives: int
    worse: bool | None
    message: str


def judge(
    measure: Measure,
    labels: Array,
    scores: Array,
    *,
    reference: float,
    tolerance: float,
    name: str = "average precision",
) -> Quality:
    """`labels` (n,) 0 or 1 and `scores` (n,), in the order of their time. The standard error is by leaving out
    blocks of neighbouring rows, one after the other, for what happens together is not independent (the block jackknife:
    H. R. Künsch, Annals of Statistics 17, 1989)."""
    rows, positives = len(labels), int(np.count_nonzero(labels))
    if positives < LEAST_POSITIVES or positives == rows:
        why = (
            f"Of {rows:,} rows with known labels {positives:,} are positive; {LEAST_POSITIVES} are needed to judge it."
        )
        return Quality(None, None, reference, rows, positives, None, why)
    value = measure(labels, scores)
    error = _standard_error(measure, labels, scores)
    worse = value + SURE * error < reference - tolerance
    told = f"The {name} is {value:.3f} ± {error:.3f} on {rows:,} rows, and was {reference:.3f} on the test rows"
    return Quality(value, error, reference, rows, positives, worse, told + (": it is worse." if worse else "."))


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


@dataclass(slots=True)
class PageHinkley:
    """When the mean of a sequence has risen, such as that of a model's losses by day [1, 2]. `tolerated`: by how much
    it may; `limit`: what has come together beyond it when it is told.

    >>> rising = PageHinkley(tolerated=0.1, limit=1.2)
    >>> [rising.add(loss) for loss in (0, 0, 0, 1, 1, 1)]
    [False, False, False, False, False, True]

    [1] E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).
    [2] D. V. Hinkley, Inference about the change-point from cumulative sum tests, Biometrika 58 (1971).
    """

    tolerated: float
    limit: float
    count: int = 0
    mean: float = 0.0
    sum: float = 0.0
    lowest: float = field(default=0.0)

    def add(self, value: float) -> bool:
        """Whether it has risen by now."""
        self.count += 1
        self.mean += (value - self.mean) / self.count
        self.sum += value - self.mean - self.tolerated
        self.lowest = min(self.lowest, self.sum)
        return self.sum - self.lowest > self.limit
