"""Predictions of many rows that are about a subject who is erased: their rows stay, as those of nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skyriver.decide.log.erasing import Erasing

if TYPE_CHECKING:
    import polars as pl

KEPT = ("model", "version")
"""Which version answered says nothing of whom it was asked about."""


def naming(by: Erasing, columns: Sequence[str]) -> list[str]:
    """Of `columns`, those by which rows can be told to be about the subject."""
    return [name for name in columns if name in (by.subject, by.stream.id)]


def changed_predictions(by: Erasing, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame | None:
    """Rows of a table of predictions, named by `columns`; None: none is about the subject. Files may have another type
    for a column than the stream has: values are compared as they are written."""
    import polars as pl

    mine = pl.repeat(False, len(frame), dtype=pl.Boolean(), eager=True)
    for name in naming(by, columns):
        wanted = [str(own) for own in ((by.value,) if name == by.subject else by.ids)]
        mine = mine | frame[name].cast(pl.String()).is_in(pl.Series(wanted, dtype=pl.String()).implode()).fill_null(
            False
        )
    if not mine.any():
        return None
    by.rows += int(mine.sum())
    return frame.with_columns(
        pl.when(~pl.lit(mine)).then(name).otherwise(pl.lit(None, dtype)).alias(name)
        for name, dtype in frame.schema.items()
        if name not in KEPT
    )
