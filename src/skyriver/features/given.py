"""Rows of references on their way into a kernel, see `skyriver.features.references`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyriver.data.keys import key_of_text
from skyriver.features.references import ReferenceTable

Values = Sequence[int | float | str | bool | None]


@dataclass(frozen=True, slots=True)
class Given:
    """Rows of references that come with a batch: keys and times int64 [m], values float64 [m, the most fields that are
    looked up in one], missing NaN."""

    keys: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def none(cls, tables: Sequence[ReferenceTable]) -> Given:
        return cls.of(tables, [])

    @classmethod
    def of(cls, tables: Sequence[ReferenceTable], rows: Sequence[tuple[int, Values]]) -> Given:
        """`rows`: (place among `tables`, the row as it is logged)."""
        values = np.full((len(rows), _width(tables)), np.nan)
        keys, times = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for number, (place, row) in enumerate(rows):
            table = tables[place]
            own = row[table.id_place]
            keys[number] = key_of_text(own) if isinstance(own, str) else own  # type: ignore[assignment]  # an id is one
            times[number] = row[table.time_place]  # type: ignore[assignment]  # and a time is whole
            for word, at in enumerate(table.field_places):
                if (value := row[at]) is not None:
                    values[number, word] = value
        return cls(keys, times, values)

    @classmethod
    def of_columns(
        cls,
        tables: Sequence[ReferenceTable],
        keys: NDArray[np.int64],
        times: NDArray[np.int64],
        columns: Sequence[NDArray[np.float64]],
    ) -> Given:
        """Rows of one reference; `columns` are those of its fields that are looked up, in their order."""
        values = np.full((len(keys), _width(tables)), np.nan)
        for place, column in enumerate(columns):
            values[:, place] = column
        return cls(keys, times, values)

    @classmethod
    def in_order(cls, parts: Sequence[Given], order: NDArray[np.int64]) -> Given:
        """The rows of all parts, those at the places `order`."""
        return cls(
            np.concatenate([part.keys for part in parts])[order],
            np.concatenate([part.times for part in parts])[order],
            np.concatenate([part.values for part in parts])[order],
        )


def _width(tables: Sequence[ReferenceTable]) -> int:
    return max((len(t.fields) for t in tables), default=0)
