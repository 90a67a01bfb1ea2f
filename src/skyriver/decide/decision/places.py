"""What a version did, by hundredths of the keys: a key stays with its version, so what its events got is no draw of
its own, and is judged by the place of the key (see `skyriver.release.clusters`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skyriver.release.places import PLACES
from skyriver.serve.scores import COARSE, score_bucket, score_buckets

Told = list[tuple[int, int, list[tuple[int, int]]]]
"""Of each place: events, those without the version's score, and of the scores (bucket, how many) in their order."""


class Places:
    """Counts only grow."""

    def __init__(self, told: Told | None = None) -> None:
        self._events = [events for events, _, _ in told] if told else [0] * PLACES
        self._failed = [failed for _, failed, _ in told] if told else [0] * PLACES
        self._scores = [dict(scores) for _, _, scores in told] if told else [{} for _ in range(PLACES)]

    def add(self, place: int, *, failed: bool, score: float | None) -> None:
        self._events[place] += 1
        self._failed[place] += failed
        if score is not None and math.isfinite(score):
            bucket = score_bucket(score) // COARSE
            self._scores[place][bucket] = self._scores[place].get(bucket, 0) + 1

    def add_many(self, places: NDArray[np.int64], failed: NDArray[np.bool_], scores: NDArray[np.float32]) -> None:
        """The arrays belong together; NaN for no score."""
        for counts, those in ((self._events, places), (self._failed, places[failed])):
            for place, count in zip(*np.unique(those, return_counts=True), strict=True):
                counts[place] += int(count)
        known = np.isfinite(scores)
        buckets = score_buckets(scores[known].astype(np.float64)) // COARSE
        both, counted = np.unique(np.stack([places[known], buckets]), axis=1, return_counts=True)
        for place, bucket, count in zip(*both.tolist(), counted.tolist(), strict=True):
            self._scores[place][bucket] = self._scores[place].get(bucket, 0) + count

    def told(self) -> Told:
        """Empty where there is nothing to tell."""
        if not any(self._events):
            return []
        scores = [sorted(of.items()) for of in self._scores]
        return list(zip(self._events, self._failed, scores, strict=True))
