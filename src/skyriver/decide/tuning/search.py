"""Looking for thresholds by which decisions cost least, with no more events of a decision in a period than people can
see.

One threshold is tried at all its candidates at once: the rules are run on one event of each cell with the comparison
held true, and once more with it held false; how many events pass a candidate says how much of each counts. Two
thresholds are tried together, the one at each of its candidates and the other at all at once, which for two is a search
of all choices. Of more than two all pairs are tried in turn until nothing gets better, which is not sure to find the
best of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skyriver.data.columns import Ints
from skyriver.decide.rules.columns import compile_columns, first_that_fires
from skyriver.decide.tuning.cells import Cells, Floats, Question
from skyriver.decide.tuning.thresholds import with_thresholds

Number = TypeVar("Number", np.int64, np.float64)
Choice = tuple[int, ...]
"""Of each threshold, the place of a candidate."""
ROUNDS = 12
KEPT_SWEEPS = 2_000


@dataclass(frozen=True, slots=True)
class Sweep:
    """One threshold at all its candidates: the decision of each cell where the signal passes and where it does not, and
    how many events there are beyond capacity."""

    above: Ints
    below: Ints
    over: Ints


@dataclass(frozen=True, order=True, slots=True)
class Worth:
    """Lower is better: first that nothing is beyond capacity, then the cost."""

    over: int
    cost: float


class Search:
    def __init__(self, question: Question, candidates: Sequence[Floats], cells: Cells) -> None:
        self._question, self._candidates, self._cells = question, candidates, cells
        self._all = np.arange(len(cells.events))
        self._orders = [np.argsort(own, kind="stable") for own in cells.above]
        self._ends = [
            np.searchsorted(own[order], np.arange(len(c)), side="right")
            for own, order, c in zip(cells.above, self._orders, candidates, strict=True)
        ]
        """Of each threshold, how many cells in its order do not pass each candidate."""
        self._sweeps: dict[tuple[int, Choice], Sweep] = {}

    def values(self, choice: Choice) -> tuple[float, ...]:
        return tuple(float(own[place]) for own, place in zip(self._candidates, choice, strict=True))

    def decide(self, choice: Choice) -> Ints:
        """The decision of each cell, as its place in `decisions`."""
        return self._decide(self.values(choice))

    def _decide(self, values: Sequence[float | bool]) -> Ints:
        question = self._question
        rules = tuple(compile_columns(tree) for tree in with_thresholds(question.trees, values, question.of))
        return question.decided[first_that_fires(rules, self._cells.rows)]

    def worth(self, choice: Choice, weights: Floats) -> Worth:
        """`weights` [days]: how often each day counts."""
        decided = self.decide(choice)
        cost = float(self.costs_of(weights)[self._all, decided].sum())
        return Worth(sum(int(np.maximum(0, held - most).sum()) for held, most in self.held(decided)), cost)

    def held(self, decided: Ints) -> list[tuple[Ints, int]]:
        """(events in each period, at most) of each capacity."""
        question = self._question
        return [
            (counts[decided == question.place(own.decision)].sum(axis=0), own.most)
            for own, counts in zip(question.capacity, self._cells.periods, strict=True)
        ]

    def by_day(self, decided: Ints) -> Floats:
        """[days]: what each costs. Of events beyond capacity so many as there are cost what is decided then: which ones
        is not known, so their share of all that got this decision in the period."""
        found: Floats = self._cells.cost[self._all, decided].sum(axis=0)
        beyond, begins = self._cells.beyond, self._cells.begins
        for own, (held, most), more, days in zip(
            self._question.capacity, self.held(decided), beyond, begins, strict=True
        ):
            share = np.maximum(0, held - most) / np.maximum(1, held)
            np.add.at(found, days, share * more[decided == self._question.place(own.decision)].sum(axis=0))
        return found

    def costs_of(self, weights: Floats) -> Floats:
        """[C, decisions]."""
        found: Floats = self._cells.cost @ weights
        return found

    def best(self, start: Choice, weights: Floats, together: int) -> tuple[Worth, Choice]:
        """From `start` on by steps that change `together` thresholds at a time, one or two."""
        costs, count = self.costs_of(weights), len(start)
        moves = list(combinations(range(count), min(together, count)))
        found = (self.worth(start, weights), start)
        for _ in range(ROUNDS):
            before = found
            for move in moves:
                found = min(found, self._moved(found, move, costs), key=_in_order)
            if found[0] == before[0] or len(moves) == 1:
                break
        return found

    def curve(self, at: Choice, place: int, weights: Floats) -> tuple[Floats, Ints]:
        """The cost, and the events beyond capacity, at each candidate of one threshold, the others as chosen."""
        sweep = self._sweep(at, place)
        return self._costs(sweep, place, self.costs_of(weights)), sweep.over

    def _moved(self, found: tuple[Worth, Choice], move: tuple[int, ...], costs: Floats) -> tuple[Worth, Choice]:
        """The best that this move leads to, if that is better than what is known by more than rounding."""
        choice, place = found[1], move[-1]
        others = range(len(self._candidates[move[0]])) if len(move) > 1 else (choice[place],)
        best = found
        for other in others:
            at = (*choice[: move[0]], other, *choice[move[0] + 1 :])
            sweep = self._sweep(at, place)
            by_candidate = self._costs(sweep, place, costs)
            own = int(np.lexsort((by_candidate, sweep.over))[0])
            worth = Worth(int(sweep.over[own]), float(by_candidate[own]))
            if worth.over < best[0].over or (
                worth.over == best[0].over and worth.cost < best[0].cost - 1e-9 * abs(best[0].cost)
            ):
                best = (worth, (*at[:place], own, *at[place + 1 :]))
        return best

    def _sweep(self, at: Choice, place: int) -> Sweep:
        key = (place, (*at[:place], -1, *at[place + 1 :]))
        if key not in self._sweeps:
            if len(self._sweeps) >= KEPT_SWEEPS:
                self._sweeps.clear()
            self._sweeps[key] = self._swept(at, place)
        return self._sweeps[key]

    def _swept(self, at: Choice, place: int) -> Sweep:
        values = self.values(at)
        true = self._decide((*values[:place], True, *values[place + 1 :]))
        false = self._decide((*values[:place], False, *values[place + 1 :]))
        missing = self._cells.above[place] < 0
        if missing.any():  # then the comparison is neither, whatever the number
            neither = self._decide(values)[missing]
            true[missing] = neither
            false[missing] = neither
        above, below = (true, false) if self._question.thresholds[place].fires_above else (false, true)
        return Sweep(above, below, self._over(above, below, place))

    def _over(self, above: Ints, below: Ints, place: int) -> Ints:
        order, ends = self._orders[place], self._ends[place]
        found = np.zeros(len(ends), np.int64)
        for own, counts in zip(self._question.capacity, self._cells.periods, strict=True):
            decision = self._question.place(own.decision)
            low = _running(counts[order] * (below[order] == decision)[:, None])
            high = _running(counts[order] * (above[order] == decision)[:, None])
            held = low[ends] + high[-1] - high[ends]
            found += np.maximum(0, held - own.most).sum(axis=1)
        return found

    def _costs(self, sweep: Sweep, place: int, costs: Floats) -> Floats:
        order, ends = self._orders[place], self._ends[place]
        low = _running(costs[self._all, sweep.below][order])
        high = _running(costs[self._all, sweep.above][order])
        found: Floats = low[ends] + high[-1] - high[ends]
        return found


def _running(values: NDArray[Number]) -> NDArray[Number]:
    """The sums of the first 0, 1, ... rows."""
    found = np.zeros((len(values) + 1, *values.shape[1:]), values.dtype)
    np.cumsum(values, axis=0, out=found[1:])
    return found


def _in_order(found: tuple[Worth, Choice]) -> Worth:
    return found[0]
