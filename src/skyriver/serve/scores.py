"""The scores that a replica gave, counted so that those of two versions can be compared."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

COARSE: Final = 4
"""Buckets that are one, half a power of two, where there is a histogram for each hundredth of the keys."""
_FEW = 32
"""Scores that the interpreter is done with before arrays are made."""
_HALF = 8 * 1_100
"""The bucket of 1/2; that of the smallest number is above 0."""


class Scores:
    """Numbers in buckets that stand in their order, for shares beyond a bound are compared. A bucket is an eighth of a
    power of two wide, counted from 0 and, above 1/2, from 1 as well: where probabilities are, whatever their scale."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, scores: NDArray[np.floating]) -> None:
        """What is no number is in no bucket."""
        counts = self.counts
        if scores.size <= _FEW:
            for value in scores.ravel().tolist():
                if math.isfinite(value):
                    bucket = score_bucket(value)
                    counts[bucket] = counts.get(bucket, 0) + 1
            return
        values = scores[np.isfinite(scores)].astype(np.float64)
        for bucket, count in zip(*np.unique(score_buckets(values), return_counts=True), strict=True):
            counts[int(bucket)] = counts.get(int(bucket), 0) + int(count)

    def told(self) -> list[list[int]]:
        """[bucket, how many], in the order of their numbers."""
        return [[bucket, count] for bucket, count in sorted(self.counts.items())]


def score_bucket(value: float) -> int:
    """Not smaller for a greater `value`, which is finite."""
    if value < 0:
        return -_magnitude(-value)
    if value <= 0.5:
        return _magnitude(value)
    if value < 1:
        return 2 * _HALF - _magnitude(1 - value)
    return 2 * _HALF + _magnitude(value) - _magnitude(1.0) + 1


def _magnitude(value: float) -> int:
    """0 of 0, else a number above it: the exponent and three bits of the mantissa."""
    if value == 0:
        return 0
    mantissa, exponent = math.frexp(value)  # value = mantissa * 2^exponent, mantissa in [0.5, 1)
    return _HALF + 8 * exponent + int(mantissa * 16) - 8


def score_buckets(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """`score_bucket` of each."""
    near_one = (values > 0.5) & (values < 1)
    mantissa, exponent = np.frexp(np.abs(np.where(near_one, 1 - values, values)))
    magnitude = np.where(mantissa == 0, 0, _HALF + 8 * exponent + (mantissa * 16).astype(np.int64) - 8)
    above = 2 * _HALF + magnitude - _magnitude(1.0) + 1
    return np.where(
        values < 0, -magnitude, np.where(near_one, 2 * _HALF - magnitude, np.where(values >= 1, above, magnitude))
    )
