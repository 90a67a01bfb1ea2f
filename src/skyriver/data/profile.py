"""How columns of numbers were distributed once, in some twenty bins each: what later rows are compared with.

Bins are intervals between *edges*, the k-th one being (edges[k-1], edges[k]]; the first and the last are open. Edges
are quantiles of the rows that the profile is made of, so its bins hold about equally many; where a column has few
values each has a bin of its own, beside two for what lies beyond them. An edge lies midway between two values. A
missing value (NaN) is in no bin and is counted; infinity is the greatest number.

Days differ, heavy keys come and go, and neither is drift. So a profile also knows by how much stretches of its own rows
differed from the whole: what is new is only what goes beyond that (see `skyriver.observe.drift`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from skyriver.core.spec_base import Spec

BINS: Final = 20
STRETCHES: Final = 28
"""Of a profile's rows, in their order, at most; each has LEAST_ROWS at least."""
LEAST_ROWS: Final = 500

_GREATEST: Final = np.finfo(np.float32).max

Column = NDArray[np.float32]
Count = Annotated[int, Field(ge=0)]


class ColumnProfile(Spec):
    """`counts`: of each bin; `stretches`: how far stretches of the rows were from the whole (see `distance`), in the
    order of their time; `median`, `low` (p1) and `high` (p99) of the known ones, None where none is."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    missing: Count
    median: float | None
    low: float | None
    high: float | None
    stretches: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        return sum(self.counts) + self.missing


class Profile(Spec):
    """Of columns of the same rows. The scores of a model are a column like others."""

    form: int = 1
    """Of this description; a later release may know others."""
    rows: Count
    columns: tuple[ColumnProfile, ...]

    def column(self, name: str) -> ColumnProfile | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows in the bins of a column's profile, of any number of parts."""

    counts: tuple[int, ...]
    missing: int
    median: float | None = None
    """Of the rows, where they were counted at once."""

    @property
    def rows(self) -> int:
        return sum(self.counts) + self.missing

    def __add__(self, other: Counted) -> Counted:
        together = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Counted(together, self.missing + other.missing)


def profile_of(names: Sequence[str], columns: Sequence[Column]) -> Profile:
    """Of columns float32 [n] of the same n rows, in the order of their time."""
    rows = len(columns[0]) if columns else 0
    return Profile(rows=rows, columns=tuple(_column(name, x) for name, x in zip(names, columns, strict=True)))


def count(column: ColumnProfile, x: Column) -> Counted:
    """Rows in the bins of `column`."""
    known = _known(x)
    return Counted(
        tuple(_in_bins(column.edges, known).tolist()),
        len(x) - len(known),
        float(np.quantile(known, 0.5, method="inverted_cdf")) if len(known) else None,
    )


def cells_of(column: ColumnProfile, x: Column) -> NDArray[np.int64]:
    """The bin of each row, the one behind the last for a missing value."""
    found = np.searchsorted(np.array(column.edges, np.float32), np.clip(x, -_GREATEST, _GREATEST), side="left")
    return np.where(np.isnan(x), len(column.edges) + 1, found)


def distance(before: Counted | ColumnProfile, after: Counted | ColumnProfile) -> float:
    """The population stability index of the bins, a missing value being one more, without what chance alone adds to it:
    two samples of one distribution are (B - 1) (1/n + 1/N) apart on average [1]. So it is about 0, and may be below,
    where nothing changed. From 0.1 on people speak of a change, from 0.25 on of a great one.

    [1] B. Yurdakul, J. Naranjo, Statistical properties of the population stability index, J. Risk Model Validation 14
        (2020).
    """
    if not before.rows or not after.rows:
        return 0.0
    pairs = list(_shares(before, after))
    bins = sum(1 for p, q in pairs if p or q)
    # An empty bin has half a row, for the logarithm of nothing is not to be had.
    least = (0.5 / before.rows, 0.5 / after.rows)
    index = sum((max(q, least[1]) - max(p, least[0])) * math.log(max(q, least[1]) / max(p, least[0])) for p, q in pairs)
    return index - (bins - 1) * (1 / before.rows + 1 / after.rows)


def farthest(before: Counted | ColumnProfile, after: Counted | ColumnProfile) -> float:
    """The distance of Kolmogorov and Smirnov: the most by which the distribution functions differ, at the bins' edges,
    missing values being above all others. Of finer bins it may be more."""
    p = q = most = 0.0
    for of_before, of_after in _shares(before, after):
        p, q = p + of_before, q + of_after
        most = max(most, abs(p - q))
    return most


def _shares(before: Counted | ColumnProfile, after: Counted | ColumnProfile) -> Iterator[tuple[float, float]]:
    of_before, of_after = ((*of.counts, of.missing) for of in (before, after))
    for p, q in zip(of_before, of_after, strict=True):
        if p or q:
            yield p / max(1, before.rows), q / max(1, after.rows)


def _column(name: str, x: Column) -> ColumnProfile:
    known = _known(x)
    edges = _edges(known)
    median, low, high = (
        (float(v) for v in np.quantile(known, (0.5, 0.01, 0.99), method="inverted_cdf"))
        if len(known)
        else (None, None, None)
    )
    whole = Counted(tuple(_in_bins(edges, known).tolist()), len(x) - len(known))
    return ColumnProfile(
        name=name,
        edges=edges,
        counts=whole.counts,
        missing=whole.missing,
        median=median,
        low=low,
        high=high,
        stretches=tuple(_stretches(edges, x, whole)),
    )


def _known(x: Column) -> Column:
    return np.clip(x[~np.isnan(x)], -_GREATEST, _GREATEST)


def _edges(known: Column) -> tuple[float, ...]:
    values = np.unique(known).astype(np.float64)
    if not len(values):
        return ()
    last = np.arange(len(values) - 1)
    beyond: list[float] = []
    if len(values) <= BINS - 2:  # what lies beyond the known ones is another value
        apart = float(np.diff(values).min()) / 2 if len(values) > 1 else max(abs(float(values[0])) * 1e-4, 1e-6)
        beyond = [float(values[0]) - apart, float(values[-1]) + apart]
    else:
        quantiles = np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf")
        last = np.intersect1d(last, np.searchsorted(values, quantiles))
    # Midway to the next value: a score that is computed again may differ in its last bit.
    midway = np.clip([*beyond, *(values[last] + values[last + 1]) / 2], -_GREATEST, _GREATEST)
    return tuple(np.unique(midway.astype(np.float32)).tolist())


def _in_bins(edges: tuple[float, ...], known: Column) -> NDArray[np.int64]:
    places = np.searchsorted(np.array(edges, np.float32), known, side="left")
    return np.bincount(places, minlength=len(edges) + 1)


def _stretches(edges: tuple[float, ...], x: Column, whole: Counted) -> Iterator[float]:
    number = min(STRETCHES, len(x) // LEAST_ROWS)
    if number < 2:
        return
    for part in np.array_split(x, number):
        known = _known(part)
        of_part = Counted(tuple(_in_bins(edges, known).tolist()), len(part) - len(known))
        yield round(distance(whole, of_part), 5)
