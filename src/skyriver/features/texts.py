"""What features ask of text fields, as numbers: a kernel holds no texts.

Whether a field has a certain text, or any at all, is found where an event's values are gathered for the kernel, by the
text itself, and given to it as one more column of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skyriver.features.tables import TextColumn

if TYPE_CHECKING:
    import polars as pl  # the stream worker holds this module and must not load polars

Floats = NDArray[np.float64]


def numbers_of_values(asked: TextColumn, values: Sequence[object]) -> Floats:
    return np.array([np.nan if value is None else value == asked.text for value in values], np.float64)


def numbers_of_series(asked: TextColumn, series: pl.Series) -> Floats:
    """The same of a column of texts."""
    equal = (series == (series if asked.text is None else asked.text)).cast(float).to_numpy()  # null is NaN
    numbers: Floats = equal - 1 if asked.text is None else equal
    return numbers
