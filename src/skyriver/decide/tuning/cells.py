"""Events put together that all choices of thresholds treat alike, so that ten million of them cost as much as some
hundred.

Thresholds are chosen among some candidates. Two events then get the same decision whatever is chosen if what is
compared with thresholds lies between the same candidates, and all other conditions of the rules say the same of both.
Such events are a cell. A choice is tried by running the rules on one event of each cell; what it costs is added up from
what each cell costs under each decision.

The events come in parts, some ten thousand each, as often as they are asked for; what is held of an event is what its
signals are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skyriver.core.spec import CapacitySpec
from skyriver.core.units import DAY
from skyriver.data.columns import Bools, Ints, join
from skyriver.decide.rules.columns import Evaluate, Rows, compile_columns
from skyriver.decide.rules.costs import DecisionCost
from skyriver.decide.rules.ruleset import RuleSet
from skyriver.decide.rules.tree import Fixed, Tree
from skyriver.decide.tuning.thresholds import Threshold, beside, thresholds_of

Floats = NDArray[np.float64]
MOST_HELD = 20_000_000
"""Numbers that cells hold, 8 bytes each; with more of them there are fewer candidates."""


@dataclass(frozen=True, slots=True)
class Part:
    """Events in order of time: what rules see of them, bool [n] labels, int64 [n] times."""

    rows: Rows
    labels: Bools
    times: Ints


Parts = Callable[[], Iterable[Part]]
"""All parts, each time anew."""


@dataclass(frozen=True)
class Question:
    """Which thresholds of `rules` are looked for, those of the rules at the places `of`, by which costs, and how many
    events may get a decision."""

    rules: RuleSet
    costs: Mapping[str, DecisionCost]
    capacity: tuple[CapacitySpec, ...]
    of: frozenset[int]

    @cached_property
    def trees(self) -> tuple[Tree, ...]:
        """The rules; those that read counters never fire here: what they say depends on what was decided before."""
        never = Fixed(False, "truth")
        return tuple(never if place in self.rules.counting else tree for place, tree in enumerate(self.rules.trees))

    @cached_property
    def thresholds(self) -> tuple[Threshold, ...]:
        return thresholds_of(self.trees, self.of)

    @cached_property
    def decisions(self) -> tuple[str, ...]:
        """Those that an event with a score may get, and what is decided beyond a capacity."""
        decided = [decision for decision, _ in self.rules.ends[:-1]]
        return tuple(dict.fromkeys([*decided, *map(self.overflow, self.capacity)]))

    def place(self, decision: str) -> int:
        """Among the decisions; -1 for one that is never reached with a score."""
        return self.decisions.index(decision) if decision in self.decisions else -1

    def overflow(self, capacity: CapacitySpec) -> str:
        """What is decided beyond it: as the decision's budget says, else `otherwise`, for nobody looks at it."""
        budgets = (own.overflow for own in self.rules.budgets if own.decision == capacity.decision and not own.by)
        return next(budgets, self.rules.otherwise)

    @cached_property
    def decided(self) -> Ints:
        """The place in `decisions` of each place in the rules' `ends`."""
        return np.array([self.decisions.index(decision) for decision, _ in self.rules.ends[:-1]], np.int64)

    @cached_property
    def signals(self) -> tuple[Tree, ...]:
        return tuple(dict.fromkeys(own.signal for own in self.thresholds))

    @cached_property
    def conditions(self) -> tuple[Tree, ...]:
        """What rules ask beside their thresholds."""
        rules = enumerate(self.trees)
        return tuple(
            dict.fromkeys(found for place, tree in rules for found in (beside(tree) if place in self.of else (tree,)))
        )

    @cached_property
    def amounts(self) -> tuple[tuple[Evaluate, Evaluate, Evaluate], ...]:
        """What computes `each`, `positive` and `negative` of each decision's cost."""
        return tuple(
            (compile_columns(a), compile_columns(b), compile_columns(c))
            for a, b, c in (self.costs[decision].trees for decision in self.decisions)
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of the events before thresholds are tried: of each signal its values (NaN: missing), their labels,
    and of each decision's cost, where the label is 0 and where it is 1, the mean, which stands for what is missing."""

    signals: tuple[Floats, ...]
    labels: Bools
    fills: Floats
    """[decisions, 2]."""
    missing: int
    """Events of which some cost is missing."""


@dataclass(frozen=True)
class Cells:
    """C cells. `above` has for each threshold how many candidates an event's signal passes, -1 where it is missing."""

    rows: Rows
    above: Ints
    """[thresholds, C]."""
    cost: Floats
    """[C, decisions, days]."""
    events: Ints
    """[C, days]."""
    positives: Ints
    """[C, days]."""
    periods: tuple[Ints, ...]
    """[C, periods] of each capacity: the events in each period of its clock."""
    beyond: tuple[Floats, ...]
    """[C, periods] of each capacity: by how much they cost more by what is decided beyond it."""
    begins: tuple[Ints, ...]
    """[periods] of each capacity: the day in which each begins."""

    @property
    def days(self) -> int:
        return int(self.events.shape[1])


def survey(question: Question, parts: Parts) -> Survey:
    signals = [compile_columns(tree) for tree in question.signals]
    found: list[list[Floats]] = [[] for _ in signals]
    labels: list[Bools] = []
    sums, counts = np.zeros((len(question.decisions), 2)), np.zeros((len(question.decisions), 2))
    missing = 0
    for part in parts():
        for values, evaluate in zip(found, signals, strict=True):
            values.append(_numbers(evaluate, part.rows))
        labels.append(part.labels)
        costs = _costs(question, part)
        gone = np.isnan(costs)
        missing += int(np.count_nonzero(gone.any(axis=0)))
        for side in (0, 1):
            there = ~gone & (part.labels == bool(side))
            sums[:, side] += np.where(there, costs, 0.0).sum(axis=1)
            counts[:, side] += there.sum(axis=1)
    fills = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    joined = tuple(np.concatenate([np.empty(0), *values]) for values in found)
    return Survey(joined, np.concatenate([np.empty(0, np.bool_), *labels]), fills, missing)


def gather(
    question: Question, candidates: Sequence[Floats], parts: Parts, fills: Floats, start: int, end: int
) -> Cells | None:
    """Of events with times in [start, end). `candidates` of each threshold, ascending. None: there would be too many
    cells."""
    gathering = _Gathering(question, candidates, fills, start, end)
    for part in parts():
        if not gathering.add(part):
            return None
    return gathering.cells()


class _Gathering:
    def __init__(self, question: Question, candidates: Sequence[Floats], fills: Floats, start: int, end: int) -> None:
        self._question, self._fills, self._start = question, fills, start
        self._days = max(1, -(-(end - start) // DAY))
        self._spans = [(own.per_us, start // own.per_us, (end - 1) // own.per_us + 1) for own in question.capacity]
        sides = [(own.signal, own.inclusive) for own in question.thresholds]
        of_sides = {side: place for place, side in enumerate(dict.fromkeys(sides))}
        self._side_of = [of_sides[side] for side in sides]
        given = dict(zip(sides, candidates, strict=True))
        self._sides = [(compile_columns(signal), given[signal, incl], incl) for signal, incl in of_sides]
        self._conditions = [compile_columns(tree) for tree in question.conditions]
        self._known: dict[bytes, int] = {}
        self._keys: list[Ints] = []
        self._rows: list[Rows] = []
        widths = [len(question.decisions) * self._days, self._days, self._days]
        widths += [last - first for _, first, last in self._spans] * 2
        self._sums = [np.zeros((0, width)) for width in widths]

    def add(self, part: Part) -> bool:
        """Whether there is room for it."""
        if not len(part.times):
            return True
        keys = self._key(part.rows)
        first, inverse = _unique(keys, [len(c) + 2 for _, c, _ in self._sides] + [4] * len(self._conditions))
        cells = self._places(keys[:, first], part.rows, first)[inverse]
        size = len(self._known) * sum(held.shape[1] for held in self._sums)
        if size > MOST_HELD:
            return False
        days = (part.times - self._start) // DAY
        costs = _costs(self._question, part)
        for side in (0, 1):
            of_side = part.labels == bool(side)
            np.copyto(costs, self._fills[:, side, None], where=np.isnan(costs) & of_side)
        decisions = len(self._question.decisions)
        for place in range(decisions):
            self._add(0, cells, place * self._days + days, costs[place])
        self._add(1, cells, days, None)
        self._add(2, cells, days, part.labels.astype(np.float64))
        for place, ((per, begin, _), own) in enumerate(zip(self._spans, self._question.capacity, strict=True), 3):
            periods = part.times // per - begin
            self._add(place, cells, periods, None)
            instead = costs[self._question.place(self._question.overflow(own))]
            more = instead - costs[self._question.place(own.decision)]
            self._add(place + len(self._spans), cells, periods, more)
        return True

    def _key(self, rows: Rows) -> Ints:
        """[sides and conditions, n]: which cell each event is of."""
        found = []
        for evaluate, candidates, inclusive in self._sides:
            values = _numbers(evaluate, rows)
            passed = np.searchsorted(candidates, values, side="right" if inclusive else "left")
            found.append(np.where(np.isnan(values), -1, passed))
        for condition in self._conditions:
            values, missing = condition(rows)
            code = np.broadcast_to(np.asarray(values).astype(np.int64), len(rows.columns)).copy()
            if missing is not None:
                code[missing] = 2
            found.append(code)
        return np.array(found, np.int64).reshape(len(found), len(rows.columns))

    def _places(self, keys: Ints, rows: Rows, first: Ints) -> Ints:
        """The place of each of these cells; new ones are added."""
        places = np.empty(keys.shape[1], np.int64)
        new = []
        for column in range(keys.shape[1]):
            own = keys[:, column].tobytes()
            if own not in self._known:
                self._known[own] = len(self._known)
                new.append(column)
            places[column] = self._known[own]
        if new:
            self._keys.append(keys[:, new])
            self._rows.append(_taken(rows, first[new]))
            self._sums = [np.concatenate([held, np.zeros((len(new), held.shape[1]))]) for held in self._sums]
        return places

    def _add(self, place: int, cells: Ints, columns: Ints, weights: Floats | None) -> None:
        held = self._sums[place]
        added = np.bincount(cells * held.shape[1] + columns, weights, minlength=held.size)
        self._sums[place] = held + added.reshape(held.shape)

    def cells(self) -> Cells:
        keys = np.concatenate([np.empty((len(self._sides) + len(self._conditions), 0), np.int64), *self._keys], axis=1)
        count, decisions = keys.shape[1], len(self._question.decisions)
        cost, events, positives, *rest = self._sums
        periods, beyond = rest[: len(self._spans)], rest[len(self._spans) :]
        begins = [(np.arange(first, last) * per - self._start) // DAY for per, first, last in self._spans]
        return Cells(
            rows=_joined(self._rows),
            above=keys[self._side_of],
            cost=cost.reshape(count, decisions, self._days),
            events=events.astype(np.int64),
            positives=positives.astype(np.int64),
            periods=tuple(held.astype(np.int64) for held in periods),
            beyond=tuple(beyond),
            begins=tuple(np.clip(days, 0, self._days - 1) for days in begins),
        )


def _numbers(evaluate: Evaluate, rows: Rows) -> Floats:
    """NaN where it is missing."""
    values, missing = evaluate(rows)
    found = np.array(np.broadcast_to(np.asarray(values, np.float64), len(rows.columns)))
    if missing is not None:
        found[missing] = np.nan
    return found


def _costs(question: Question, part: Part) -> Floats:
    """[decisions, n]: what each event costs under each decision; NaN where that is missing."""
    found = np.empty((len(question.decisions), len(part.times)))
    for place, (each, positive, negative) in enumerate(question.amounts):
        by_label = np.where(part.labels, _numbers(positive, part.rows), _numbers(negative, part.rows))
        found[place] = _numbers(each, part.rows) + by_label
    found[~np.isfinite(found)] = np.nan
    return found


def _unique(keys: Ints, sizes: Sequence[int]) -> tuple[Ints, Ints]:
    """Of columns of numbers from -1 on, each below its size less 1: where each different one is first, and which one
    each is."""
    code, bound = np.zeros(keys.shape[1], np.int64), 1
    for row, size in zip(keys, sizes, strict=True):
        if bound * size >= 2**62:
            code = np.unique(code, return_inverse=True)[1]
            bound = int(code.max()) + 1
        code = code * size + (row + 1)
        bound *= size
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first, inverse


def _taken(rows: Rows, places: Ints) -> Rows:
    features = rows.features[places] if rows.features is not None else None
    probabilities = rows.probabilities[places] if rows.probabilities is not None else None
    return Rows(rows.scores[places], features, rows.columns.take(places), probabilities)


def _joined(parts: Sequence[Rows]) -> Rows:
    features = [part.features for part in parts if part.features is not None]
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Rows(
        np.concatenate([part.scores for part in parts]),
        np.concatenate(features) if features else None,
        join([part.columns for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
    )
