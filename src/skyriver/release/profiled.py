"""What a version was made of, in numbers that tell nothing of a single row: what later rows are compared with."""

from __future__ import annotations

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec_base import Spec
from skyriver.data.profile import Profile, profile_of

MOST_ROWS: Final = 200_000
"""Of more rows so many, evenly spaced in their order: 24 MB of thirty features."""
SCORE: Final = "score"


class ModelProfile(Spec):
    """`inputs`: the features of the training rows, before any cleaning. `scores`: the column SCORE, of the test rows,
    which the model did not learn from. Some 1 KB a column."""

    inputs: Profile
    scores: Profile

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises InvalidInput (BAD_PROFILE)."""
        try:
            return cls.model_validate_json(data)
        except ValueError as error:
            raise InvalidInput(
                f"This is no profile of a version: {error}",
                code="BAD_PROFILE",
                next_action="Restore it from a copy of the cloud's folder, or train the version again.",
            ) from None


def profile_model(
    names: tuple[str, ...], x: NDArray[np.float32], train: NDArray[np.int64], scores: NDArray[np.float32]
) -> ModelProfile:
    """`x` float32 [n, F] in the order of time, of which `train` are the places of the training rows; `scores` float32
    [m] of the test rows."""
    rows = x[evenly(train, MOST_ROWS)]
    return ModelProfile(
        inputs=profile_of(names, [np.ascontiguousarray(rows[:, place]) for place in range(len(names))]),
        scores=profile_of((SCORE,), [scores[evenly(np.arange(len(scores)), MOST_ROWS)]]),
    )


def evenly(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of them, evenly spaced, the first one among them."""
    if len(places) <= most:
        return places
    return places[np.arange(most) * len(places) // most]
