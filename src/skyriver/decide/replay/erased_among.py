"""Decisions on events of erased subjects, among those that are decided again: they are not, but they count for budgets
and counters as they were made, each at its place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from skyriver.data.columns import Bools
from skyriver.decide.log.recorded import Recorded
from skyriver.decide.replay.standing import Standing
from skyriver.decide.replay.stretch import Events


class ErasedAmong:
    """`gone` of the `events` that were decided as `then` says, in the order of their decisions."""

    def __init__(self, events: Events, then: Recorded, gone: Bools) -> None:
        self._offsets, self._sorter = then.events, np.argsort(then.events, kind="stable")
        self._places = np.flatnonzero(gone)
        self._events, self._then = events.take(self._places), then.take(gone)
        self._noted = 0

    def between(self, others: Events, standing: Standing) -> Iterator[tuple[int, int]]:
        """Runs of the others, [first, end), of which each is to be decided before the next one is asked for: between
        two of them those that are erased count."""
        if not standing.tallies or not len(self._places):
            yield 0, len(others)
            return
        own = self._sorter[np.searchsorted(self._offsets, others.offsets, sorter=self._sorter)]
        first = 0
        for count, end in enumerate(np.searchsorted(own, self._places).tolist()):
            if end > first:
                yield first, end
                first = end
            self._note(count + 1, standing)
        if first < len(others):
            yield first, len(others)

    def note_rest(self, standing: Standing) -> None:
        self._note(len(self._places), standing)

    def _note(self, until: int, standing: Standing) -> None:
        """The first of them, so many."""
        some = np.arange(self._noted, until)
        if len(some):
            mine = np.zeros(len(self._places), np.bool_)
            mine[some] = True
            standing.note(self._events.take(some), self._then.take(mine))
        self._noted = max(self._noted, until)
