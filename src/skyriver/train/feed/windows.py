"""The windows of a `LaneOrder` in memory: what is needed now, and of each lane the one that comes next, which a thread
reads meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from skyriver.train.feed.lanes import LaneOrder, Piece, Window

Table = NDArray[np.float32]


class Windows:
    """A window is put into its own shuffled order as it is read; rows of a step are then slices of few arrays. `take`
    is called by one thread at a time."""

    def __init__(self, order: LaneOrder, read: Callable[[Piece], Table], columns: int) -> None:
        self._order, self._read, self._columns = order, read, columns
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        self._there: dict[Window, Future[Table]] = {}
        self._used: dict[int, int] = {}
        """The last step that asked for a lane."""
        self.peak_rows = 0
        """The most that were held at once, with what was being read."""

    def take(self, step: int, part: slice) -> Table:
        """(n, columns) of a part of a step. Raises what `read` raises."""
        cuts = self._order.cuts(step, part)
        following = {cut.window.lane: self._order.after(cut.window) for cut in cuts}
        self._forget(step, {cut.window for cut in cuts} | {after for after in following.values() if after})
        wanted = [self._wanted(cut.window, step) for cut in cuts]
        slices = [future.result()[cut.begin : cut.end] for cut, future in zip(cuts, wanted, strict=True)]
        for after in following.values():  # behind what is needed now
            if after is not None:
                self._wanted(after, step)
        return np.concatenate(slices)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._there.clear()

    def _wanted(self, window: Window, step: int) -> Future[Table]:
        self._used[window.lane] = step
        found = self._there.get(window)
        if found is None:
            found = self._there[window] = self._thread.submit(self._load, window)
        return found

    def _forget(self, step: int, kept: set[Window]) -> None:
        """Of the lanes that are asked for now all but `kept`, and lanes that others have now."""
        now = {window.lane for window in kept}
        for window in list(self._there):
            is_others = window.lane not in now and self._used[window.lane] < step - 1
            if is_others or (window.lane in now and window not in kept):
                self._there.pop(window).cancel()

    def _load(self, window: Window) -> Table:
        pieces = self._order.pieces(window)
        rows = sum(piece.end - piece.begin for piece in pieces)
        self.peak_rows = max(self.peak_rows, self._held() + rows)
        places = np.empty(rows, np.int64)
        places[self._order.shuffled(window, rows)] = np.arange(rows)
        table = np.empty((rows, self._columns), np.float32)
        at = 0
        for piece in pieces:
            end = at + piece.end - piece.begin
            table[places[at:end]] = self._read(piece)
            at = end
        return table

    def _held(self) -> int:
        done = [future for future in list(self._there.values()) if future.done() and not future.cancelled()]
        return sum(len(future.result()) for future in done if future.exception() is None)
