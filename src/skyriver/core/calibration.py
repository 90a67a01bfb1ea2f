"""From a model's score to a probability: a monotone line through few points, fitted on rows that no training has seen.

It travels in the metadata of the model's ONNX file, under CALIBRATION, so the file's digest covers it. Both ways of
fitting (`skyriver.train.calibrate`) end as points, and between points there is only adding and multiplying: every
machine gives the same bits, for an event alone and for a block of them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput

Method = Literal["isotonic", "platt", "score"]
"""How it was fitted; "score": the score is a probability as it is."""
Floats = NDArray[np.float32]

CALIBRATION: Final = "skyriver.calibration"
"""Its key among the metadata of an ONNX file."""
MEANS: Final = "skyriver.means"
"""Another: a JSON array of what the features were on average in the training, null for none."""
MOST_POINTS: Final = 64
MOST_BYTES: Final = 16_384
"""Of its JSON: more than the most points ever take."""


class Calibration:
    """`scores` ascend strictly, `probabilities` do not fall and are in [0, 1]. Beyond the ends it is constant."""

    __slots__ = ("_levels", "_lines", "_slopes", "_starts", "method", "points")

    def __init__(self, method: Method, points: tuple[tuple[float, float], ...]) -> None:
        self.method = method
        self.points = points
        scores, levels = (np.array(column, np.float64) for column in zip(*points, strict=True))
        steps = np.diff(scores)
        self._starts = scores
        self._levels = levels
        self._slopes = np.append(np.diff(levels) / steps, 0.0)
        self._lines: tuple[list[float], list[float], list[float]] = (
            scores.tolist(),
            levels.tolist(),
            self._slopes.tolist(),
        )

    def of(self, scores: Floats) -> Floats:
        """float32 [n], NaN for none -> float32 [n], NaN for none."""
        if len(scores) == 1:  # most events come alone: a tenth of the time
            return np.array([self._of_one(float(scores[0]))], np.float32)
        given = np.clip(scores.astype(np.float64), self._starts[0], self._starts[-1])
        place = np.searchsorted(self._starts, given, side="right") - 1
        ends = self._levels[np.minimum(place + 1, len(self._levels) - 1)]
        # Rounding must not lift the end of one line above the beginning of the next.
        found = np.minimum(self._levels[place] + (given - self._starts[place]) * self._slopes[place], ends)
        rounded: Floats = found.astype(np.float32)
        return rounded

    def _of_one(self, score: float) -> float:
        """The same of one, in float64."""
        if score != score:
            return score
        starts, levels, slopes = self._lines
        given = min(max(score, starts[0]), starts[-1])
        place = bisect_right(starts, given) - 1
        end = levels[min(place + 1, len(levels) - 1)]
        return min(levels[place] + (given - starts[place]) * slopes[place], end)

    def to_text(self) -> str:
        return json.dumps({"method": self.method, "points": self.points}, separators=(",", ":"))

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """Of a model; None where it has none. Raises InvalidInput (BAD_CALIBRATION)."""
        text = metadata.get(CALIBRATION)
        if text is None:
            return None
        try:
            if len(text) > MOST_BYTES:
                raise ValueError(f"it has {len(text)} bytes")
            told = json.loads(text)
            return cls(told["method"], _checked(told["points"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidInput(
                f"The model's calibration cannot be read: {error}.",
                code="BAD_CALIBRATION",
                next_action=f"Take {CALIBRATION!r} out of the metadata of the ONNX file, or train the model here.",
            ) from None


def _checked(told: Any) -> tuple[tuple[float, float], ...]:
    """Raises ValueError, TypeError."""
    points = tuple((float(score), float(probability)) for score, probability in told)
    if not 1 <= len(points) <= MOST_POINTS:
        raise ValueError(f"it has {len(points)} points, and may have 1 to {MOST_POINTS}")
    scores, probabilities = np.array(points).T
    if not np.isfinite(points).all() or (np.diff(scores) <= 0).any():
        raise ValueError("its scores do not ascend")
    if (np.diff(probabilities) < 0).any() or probabilities[0] < 0 or probabilities[-1] > 1:
        raise ValueError("its probabilities fall, or are beyond 0 and 1")
    return points
