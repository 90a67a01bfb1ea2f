"""Rows in the bins of a profile, of the last window, by its quarters and by places: hundreds of keys that a hash put
together, as of customers. What a look keeps for the next one.

Keys are heavy: one customer may make a tenth of a day's rows, and customers come and go. So drift must be there also
when the places that differ most are left out (`skyriver.observe.drift`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from skyriver.data.profile import Counted, Profile, cells_of

PLACES: Final = 32
QUARTERS: Final = 4

Counts = NDArray[np.int64]
"""[PLACES, cells]: of each place and column its bins and then what was missing, the columns one after the other."""


class Window:
    """`since`: from when on all was counted or drawn from (wall microseconds), 0: not yet; `next_offset`: of the log,
    where the next look begins."""

    def __init__(self, profile: Profile, window_us: int) -> None:
        self.profile, self._quarter_us = profile, max(1, window_us // QUARTERS)
        self.next_offset, self.since = 0, 0
        self._counts: dict[int, Counts] = {}
        self._offsets: dict[int, tuple[int, int]] = {}
        """By quarter: how many there were and how many of them were read."""
        self._cells = [len(column.edges) + 2 for column in profile.columns]

    @property
    def rows(self) -> int:
        return sum(int(counts[:, : self._cells[0]].sum()) for counts in self._counts.values())

    @property
    def share(self) -> float:
        """Of what came in the window: how much was looked at."""
        there, read = (sum(offsets[what] for offsets in self._offsets.values()) for what in (0, 1))
        return read / there if there else 1.0

    def add(
        self, features: NDArray[np.float32], scores: NDArray[np.float32], places: NDArray[np.uint8], at: int
    ) -> None:
        """Rows [n, F], their scores [n] and places [n], decided at about `at` (wall microseconds)."""
        width, first = sum(self._cells), 0
        found = np.zeros(PLACES * width, np.int64)
        for column, x, cells in zip(self.profile.columns, [*features.T, scores], self._cells, strict=True):
            found += np.bincount(places * np.int64(width) + first + cells_of(column, x), minlength=len(found))
            first += cells
        quarter, counts = at // self._quarter_us, found.reshape(PLACES, width)
        self._counts[quarter] = self._counts[quarter] + counts if quarter in self._counts else counts
        self.since = min(self.since or at, at)

    def looked(self, there: int, read: int, at: int) -> None:
        """Of `there` offsets of the log, up to about `at`, so many were read."""
        before = self._offsets.get(at // self._quarter_us, (0, 0))
        self._offsets[at // self._quarter_us] = (before[0] + there, before[1] + read)

    def forget(self, until: int) -> None:
        """What was decided before."""
        self._counts = {q: counts for q, counts in self._counts.items() if (q + 1) * self._quarter_us > until}
        self._offsets = {q: offsets for q, offsets in self._offsets.items() if (q + 1) * self._quarter_us > until}

    def together(self) -> dict[str, Counted]:
        """By column."""
        return {name: _counted(counts.sum(axis=0)) for name, counts in self._columns()}

    def by_place(self) -> dict[str, Sequence[Counted]]:
        return {name: [_counted(place) for place in counts] for name, counts in self._columns()}

    def _columns(self) -> Iterator[tuple[str, Counts]]:
        whole = sum(self._counts.values(), np.zeros((PLACES, sum(self._cells)), np.int64))
        borders = np.cumsum(self._cells)[:-1]
        for column, counts in zip(self.profile.columns, np.split(whole, borders, axis=1), strict=True):
            yield column.name, counts

    def to_bytes(self) -> bytes:
        quarters = sorted(self._counts.keys() | self._offsets.keys())
        none = np.zeros((PLACES, sum(self._cells)), np.int64)
        file = io.BytesIO()
        np.savez_compressed(
            file,
            quarters=np.array(quarters, np.int64),
            offsets=np.array([self._offsets.get(q, (0, 0)) for q in quarters], np.int64).reshape(-1, 2),
            counts=np.array([self._counts.get(q, none) for q in quarters], np.int64).reshape(-1, *none.shape),
            at=np.array([self.next_offset, self.since], np.int64),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, profile: Profile, window_us: int, data: bytes) -> Self:
        """Raises ValueError where it is of another profile."""
        made = cls(profile, window_us)
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            counts, offsets = kept["counts"], kept["offsets"]
            if counts.shape[1:] != (PLACES, sum(made._cells)):
                raise ValueError(f"counts of shape {counts.shape} are of another profile")
            for place, quarter in enumerate(kept["quarters"].tolist()):
                made._counts[quarter] = counts[place]
                made._offsets[quarter] = (int(offsets[place, 0]), int(offsets[place, 1]))
            made.next_offset, made.since = (int(value) for value in kept["at"])
        return made


def places_of(keys: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A fixed place for each key, even also for keys that count up (the finaliser of SplitMix64)."""
    z = keys.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(PLACES)).astype(np.uint8)


def _counted(cells: NDArray[np.int64]) -> Counted:
    *bins, missing = cells.tolist()
    return Counted(tuple(bins), missing)
