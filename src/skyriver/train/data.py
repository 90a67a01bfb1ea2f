"""What a training function gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training part of the data; the test part is never shown to the training function.

    `x` (n, f) float32, missing is NaN; `y` (n,) float32, the label; `names` the f feature names in the
    model's input order; `time` (n,) int64 effective time in microseconds, ascending (zeros for a table);
    `params` what `skyriver run --param name=value` gave; `seed` for whatever is random.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    names: tuple[str, ...]
    time: NDArray[np.int64]
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
