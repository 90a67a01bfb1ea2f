"""What features ask of text fields, as numbers: a kernel holds no texts.

Whether a field has a certain text, or any at all, is found where an event's values are gathered for the kernel, by the
text itself, and given to it as one more column of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TextColumn:
    """1 where the field is `text`, 0 where it is another one, NaN where it is missing. Where `text` is None, 0 for any
    text."""

    field: str
    text: str | None

    @property
    def name(self) -> str:
        """Among the columns of a plan; no field can have the name of a comparison."""
        return self.field if self.text is None else f"{self.field}={self.text}"

    def of_values(self, values: Sequence[object]) -> Floats:
        return np.array([np.nan if value is None else value == self.text for value in values], np.float64)

    def of_column(self, series: pl.Series) -> Floats:
        found = series == self.text if self.text is not None else series.is_not_null() & False
        of_each = pl.select(pl.when(series.is_not_null()).then(found.cast(pl.Float64)).otherwise(np.nan)).to_series()
        numbers: Floats = of_each.to_numpy()
        return numbers
