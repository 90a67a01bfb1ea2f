"""Test, then train, over consecutive stretches of time: how good a model would have been all along, had it been trained
anew before each of them.

J. Gama, R. Sebastião, P. P. Rodrigues, On evaluating stream learning algorithms, Machine Learning 90 (2013). Rows of a
stretch are judged by what was learnt of rows whose labels were known before it began; the mean over stretches forgets
old ones by a fading factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.spec import PREQUENTIAL, TrainSpec
from skyriver.train.split import Rows, Split

FADING: Final = 0.9
"""The weight of a stretch, relative to the one after it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Row numbers: what is learnt from, and what is judged, with effective times in (from_us, to_us]."""

    learned: NDArray[np.int64]
    judged: NDArray[np.int64]
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Judged:
    from_us: int
    to_us: int
    learned: int
    rows: int
    positives: int
    metrics: Mapping[str, float]


def stretches(spec: TrainSpec, rows: Rows, split: Split) -> Iterator[Stretch]:
    """The stretches before the test, from the oldest on; left out are those without both classes on either side."""
    end = split.end - 1  # up to there labels are known
    for number in range(spec.prequential - 1, 0, -1):
        closes = end - number * spec.test_us
        opens = closes - spec.test_us
        places = np.searchsorted(rows.time, [opens - split.delay_us, opens, closes], side="right")
        learned, judged = np.arange(places[0]), np.arange(places[1], places[2])
        if all(0 < split.labels[part].sum() < len(part) for part in (learned, judged)):
            yield Stretch(learned, judged, opens, closes)


def faded(judged: Sequence[Judged]) -> dict[str, float]:
    """The metrics' means, from the oldest stretch to the newest."""
    found = {}
    for told in PREQUENTIAL:
        name = told.removeprefix("prequential_")
        values = [each.metrics[name] for each in judged if name in each.metrics]
        weights = FADING ** np.arange(len(values))[::-1]
        if values:
            found[told] = float(weights @ values / weights.sum())
    return found
