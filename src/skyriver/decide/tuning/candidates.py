"""The numbers among which thresholds are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from skyriver.data.columns import Bools
from skyriver.decide.tuning.cells import Floats

DIGITS = range(2, 17)
NEAR = 0.02
"""A candidate is rounded by no more than this share of the distance to its neighbours."""


def candidates_of(
    signal: Floats, labels: Bools, most: int, in_use: Sequence[float], near: Sequence[tuple[float, float]] = ()
) -> Floats:
    """About `most` numbers, ascending, that tell the events apart where it matters: half of them evenly among the
    events whose label is 1, the others ever closer together towards the highest and the lowest signals. Always among
    them: those `in_use`, one below and one above all signals; and between each two of `near` half as many more."""
    there = ~np.isnan(signal)
    values = np.sort(signal[there])
    if not len(values):
        return np.array(sorted(set(in_use)))
    positives = np.sort(signal[there & labels])
    shares = np.logspace(math.log10(1 / len(values)), 0, max(2, most // 3)) * len(values)
    tail = np.unique(np.clip(np.ceil(shares).astype(np.int64), 1, len(values)))
    low = tail[:: 2 if len(tail) > 2 else 1]
    chosen = [values[-tail], values[low - 1]]
    chosen.append(_evenly(positives, most // 2))
    for low_end, high_end in near:
        for own in (values, positives):
            chosen.append(_evenly(own[(own >= low_end) & (own <= high_end)], most // 4))
    inner = _rounded(np.unique(np.concatenate(chosen)))
    first, last = float(values[0]), float(values[-1])
    below = _short(first - _step(first), math.inf)
    if first >= 0:
        below = max(below, 0.0)
    above = _short(last + _step(last), math.inf)
    return np.unique(np.array([*inner, *in_use, below, above]))


def _evenly(values: Floats, most: int) -> Floats:
    """Some of them, in order, as many between each two."""
    if not len(values):
        return values
    places = np.linspace(0, len(values) - 1, min(len(values), max(2, most)))
    return values[np.round(places).astype(np.int64)]


def _step(value: float) -> float:
    """A unit of the third digit."""
    return float(10.0 ** (math.floor(math.log10(abs(value))) - 2)) if value else 1e-3


def _rounded(values: Floats) -> list[float]:
    padded = [-math.inf, *values.tolist(), math.inf]
    found = []
    for before, value, after in zip(padded, padded[1:], padded[2:], strict=False):
        gap = min(value - before, after - value)
        found.append(_short(value, NEAR * gap))
    return found


def _short(value: float, error: float) -> float:
    """With as few digits as keep it this near; three of a number that has no neighbours."""
    if math.isinf(error):
        return float(f"{value:.3g}")
    for digits in DIGITS:
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= error:
            return short
    return value
