"""The log of a replica's predictions: what it was asked and what it answered, drawn, counted and forgotten.

A row is drawn once its answer is on its way, copied into a short buffer, and counted into the bins of the profile of
its version's training rows at the next report. So what is kept and what leaves the process are counts, from which no
row can be read. The buffer is what bounds the work: how far apart rows are drawn follows the rows of the turn before,
and what comes when it is full is left out. Each row that was drawn stands for as many as its turn had for one of them,
so a busy hour weighs as much more than a quiet one as it had more rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skyriver.core.errors import SkyriverError
from skyriver.release.requests import CELLS, DRAWN, ROWS, SQUARES
from skyriver.serve.batching import Ask
from skyriver.serve.runner import Array, Tensors

if TYPE_CHECKING:
    from skyriver.release.profiled import ModelProfile

BUFFER: Final = 100
"""Rows of a turn, which is half a second."""
AIM: Final = 0.8
"""Of the buffer, by the rows of the turn before."""
_NEVER: Final = 1 << 62


class PredictionLog:
    """Of one version whose model has one input, a matrix of the profile's columns, and the output `score`. On the loop
    that answers. `digest`: of the profile."""

    def __init__(
        self,
        profile: ModelProfile,
        digest: str,
        score: str | None,
        *,
        buffer: int = BUFFER,
        chance: Callable[[], float] = random.random,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        columns = (*profile.inputs.columns, *profile.scores.columns)
        self.digest = digest
        self._score = score
        self._chance = chance
        self._features = len(profile.inputs.columns)
        self._began = now() // 1_000
        self._buffer = np.empty((buffer, len(columns)), np.float32)
        most = max(len(column.edges) for column in columns)
        self._edges = np.full((len(columns), most), np.inf, np.float32)
        for edges, column in zip(self._edges, columns, strict=True):
            edges[: len(column.edges)] = column.edges
        self._missing = np.array([len(column.edges) + 1 for column in columns])
        self._first = CELLS + np.cumsum([0, *(self._missing[:-1] + 1)])
        self._counts = np.zeros(int(self._first[-1] + self._missing[-1] + 1))
        self._seen = self._drawn = self._behind = 0
        """Of this turn; `_behind`: of turns before, of which no row was drawn."""
        self._apart = 1
        self._next = 0

    def answered(self, asks: Sequence[Ask], results: Sequence[Tensors | SkyriverError], rows: int) -> None:
        """`rows`: of all of them. Most batches of a busy replica have none that is drawn, and are only counted."""
        if self._next >= self._seen + rows and not isinstance(results[0], SkyriverError):  # who fails was run alone
            self._seen += rows
            return
        for ask, outputs in zip(asks, results, strict=True):
            if ask.unwanted or isinstance(outputs, SkyriverError):
                continue
            end = self._seen + ask.rows
            while self._next < end:
                self._draw(ask.inputs, outputs, self._next - self._seen)
            self._seen = end

    def _draw(self, inputs: Tensors, outputs: Tensors, row: int) -> None:
        features = next(iter(inputs.values()))
        scores = outputs.get(self._score) if self._score is not None else None
        if scores is None or features.shape != (scores.size, self._features):
            self._next = _NEVER  # another model than the profile's
            return
        into = self._buffer[self._drawn]
        into[:-1] = features[row]
        into[-1] = scores.reshape(-1)[row]
        self._drawn += 1
        self._next += self._step() if self._drawn < len(self._buffer) else _NEVER

    def _step(self) -> int:
        return 1 if self._apart == 1 else 1 + int(self._chance() * (2 * self._apart - 1))

    def turn(self) -> None:
        """Counts what was drawn."""
        seen, drawn = self._seen, self._drawn
        if not seen:
            return
        if drawn:
            weight = (seen + self._behind) / drawn
            self._counts[ROWS] += seen + self._behind
            self._counts[SQUARES] += drawn * weight * weight
            self._counts[DRAWN] += drawn
            self._counts += weight * np.bincount(self._cells(self._buffer[:drawn]), minlength=len(self._counts))
        self._behind = 0 if drawn else self._behind + seen
        self._seen = self._drawn = 0
        self._apart = max(1, round(seen / (AIM * len(self._buffer)) + 0.5))
        self._next = self._step() - 1

    def _cells(self, rows: Array) -> Array:
        places = (rows[:, :, None] > self._edges).sum(2)
        return (self._first + np.where(np.isnan(rows), self._missing, places)).ravel()

    def report(self) -> dict[str, Any]:
        """As `skyriver.release.requests` has it."""
        return {"profile": self.digest, "began": self._began, "counts": self._counts.round(2).tolist()}
