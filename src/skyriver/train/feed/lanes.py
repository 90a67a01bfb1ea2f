"""The order of rows of files that are larger than memory: shuffled, a function of (seed, epoch, step), and read in
pieces of tens of thousands of rows.

In each epoch the blocks of the files (row groups, mostly) come in an order of their own, one line of all rows. The line
is cut into LANES stretches, and each step takes as many rows of each lane. A lane is cut into windows of a few blocks,
and within a window the rows come in any order. So a step's rows are of `LANES * window` blocks from all over the
files; a lane is read from its begin to its end, two windows of it are in memory at most; and a worker that has some
of the step's parts reads only the lanes of these parts.

What randomness that gives: each row is in each epoch once; which blocks are near each other is as random as in a
permutation of the blocks; within a window all orders are alike. Rows of the same block stay near each other: with a
share `r` of the variance of what the rows hold lying between blocks (0 where the files are in no order, 1 where each
block is of one kind), the mean of a batch of b rows has (1 - r) / b + r / (LANES * window) of a row's variance instead
of 1 / b. A file sorted by its label or time wants a larger window, or to be shuffled once on disk. The method is that
of WebDataset and tf.data (shuffled shards, then a buffer), without their dependence on who reads how far ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.train.spread.shards import Order, key, permuted

LANES: Final = 8
"""Whatever the number of workers: as many as a step has shards where results are to be the same bits."""
WINDOW: Final = 2
"""Blocks of a lane that are shuffled together."""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of a lane that are shuffled together."""

    epoch: int
    lane: int
    number: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of a window, from a place in its own shuffled order on."""

    window: Window
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a block that follow each other."""

    block: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class LaneOrder(Order):
    """`Order` by blocks: `blocks` are their rows, `window` how many of a lane are shuffled together."""

    blocks: tuple[int, ...] = ()
    window: int = WINDOW
    _lines: dict[int, _Line] = field(default_factory=dict, compare=False, repr=False)
    """Of the epochs asked for last."""

    def rows_of(self, step: int, part: slice) -> NDArray[np.int64]:
        found = [np.empty(0, np.int64)]
        for cut in self.cuts(step, part):
            line = self._line(cut.window.epoch)
            first, end = line.span(cut.window)
            places = np.arange(cut.begin, cut.end, dtype=np.uint64)
            found.append(line.rows(first + permuted(places, end - first, self.key(cut.window))))
        return np.concatenate(found)

    def cuts(self, step: int, part: slice) -> list[Cut]:
        """Where the rows of a part of a step are, in their order."""
        epoch, within = divmod(step, self.steps_of_epoch)
        line, count = self._line(epoch), self.count(step)
        found: list[Cut] = []
        for lane in range(LANES):
            first, end = lane * count // LANES, (lane + 1) * count // LANES
            low, high = max(first, part.start), min(end, part.stop)
            if low < high:
                before = within * (line.each[lane + 1] - line.each[lane]) - first
                found += line.cuts(epoch, lane, before + low, before + high)
        return found

    def pieces(self, window: Window) -> list[Piece]:
        """What a window is read from, in the order of the line."""
        return self._line(window.epoch).pieces(window)

    def after(self, window: Window) -> Window | None:
        """Which one of the lane comes next."""
        if window.number + 1 < self._line(window.epoch).windows(window.lane):
            return Window(window.epoch, window.lane, window.number + 1)
        epoch = window.epoch + 1
        return Window(epoch, window.lane, 0) if epoch < self.epochs and self._line(epoch).windows(window.lane) else None

    def shuffled(self, window: Window, rows: int) -> NDArray[np.int64]:
        """At each place, which row of the window's pieces is there."""
        return permuted(np.arange(rows, dtype=np.uint64), rows, self.key(window))

    def key(self, window: Window) -> int:
        return key(self.seed, window.epoch, window.lane, window.number)

    def _line(self, epoch: int) -> _Line:
        line = self._lines.get(epoch)
        if line is None:
            for old in list(self._lines):  # a copy: whoever takes rows and whoever reads them are two threads
                if abs(old - epoch) > 1:
                    self._lines.pop(old, None)
            line = self._lines[epoch] = _Line(self, epoch)
        return line


class _Line:
    """The blocks of an epoch one after another, and where lanes and windows begin."""

    def __init__(self, order: LaneOrder, epoch: int) -> None:
        blocks = np.array(order.blocks, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(blocks)])[:-1]
        self._block = permuted(np.arange(len(blocks), dtype=np.uint64), len(blocks), key(order.seed, epoch, -1))
        self._ends = np.cumsum(blocks[self._block])
        self._shift = starts[self._block] - (self._ends - blocks[self._block])
        """Of the rows of a block: their number in the files less their place in the line."""
        steps, last = order.steps_of_epoch, order.count(order.steps_of_epoch - 1)
        lanes = np.arange(LANES + 1)
        self.each = [int(x) for x in lanes * order.batch // LANES]
        """Where the lanes' parts of a step begin."""
        begins = np.array(self.each) * (steps - 1) + lanes * last // LANES
        self._edges = [
            _edges(int(begins[lane]), int(begins[lane + 1]), self._ends, order.window, lane) for lane in range(LANES)
        ]

    def windows(self, lane: int) -> int:
        return len(self._edges[lane]) - 1

    def span(self, window: Window) -> tuple[int, int]:
        """Of the line."""
        edges = self._edges[window.lane]
        return int(edges[window.number]), int(edges[window.number + 1])

    def cuts(self, epoch: int, lane: int, low: int, high: int) -> Iterator[Cut]:
        """The rows low to high of a lane."""
        edges = self._edges[lane]
        at, high = int(edges[0]) + low, int(edges[0]) + high
        number = int(np.searchsorted(edges, at, side="right")) - 1
        while at < high:
            end = min(high, int(edges[number + 1]))
            yield Cut(Window(epoch, lane, number), at - int(edges[number]), end - int(edges[number]))
            at, number = end, number + 1

    def pieces(self, window: Window) -> list[Piece]:
        at, end = self.span(window)
        found = []
        place = int(np.searchsorted(self._ends, at, side="right"))
        while at < end:
            to = min(end, int(self._ends[place]))
            before = int(self._ends[place - 1]) if place else 0
            found.append(Piece(int(self._block[place]), at - before, to - before))
            at, place = to, place + 1
        return found

    def rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers in the files of these places of the line."""
        found: NDArray[np.int64] = places + self._shift[np.searchsorted(self._ends, places, side="right")]
        return found


def _edges(begin: int, end: int, ends: NDArray[np.int64], window: int, lane: int) -> NDArray[np.int64]:
    """Where the windows of a lane begin, and its end. The first ones are of different lengths: not all lanes read at
    the same time."""
    first = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, end, side="left"))
    inner: NDArray[Any] = ends[first + lane % window : last : window]
    return np.unique(np.concatenate([[begin], inner[inner < end], [end]]))
