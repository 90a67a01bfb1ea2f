"""The runs of one request, of a model whose rows cannot share one: a few wait at a time, so that others get their turns
between them, and no more are made once nobody waits for the answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from skyriver.core.errors import SkyriverError
from skyriver.serve.batching import Ask, Batcher
from skyriver.serve.runner import Array, Tensors

RUNS_WAITING = 8
"""Of one request of many runs, at a time."""


class Runs:
    """`done` is called once, with the results in the order of the runs, or the first error, which ends them."""

    __slots__ = ("_batcher", "_done", "_results", "_runs", "_until", "_waiting")

    def __init__(
        self,
        batcher: Batcher,
        runs: Sequence[dict[str, Array]],
        until: int,
        done: Callable[[list[Tensors] | SkyriverError], None],
    ) -> None:
        self._batcher = batcher
        self._runs = runs
        self._until = until
        self._done = done
        self._waiting: deque[Ask] = deque()
        """In the order in which the batcher answers them."""
        self._results: list[Tensors] = []

    def begin(self) -> None:
        """Raises as `Batcher.submit`."""
        if len(self._runs) > RUNS_WAITING:
            self._batcher.check(self._until, len(self._runs) - 1)
        first = [self._ask(place) for place in range(min(RUNS_WAITING, len(self._runs)))]
        self._batcher.submit(*first)
        self._waiting.extend(first)

    def give_up(self) -> None:
        """Nobody waits for them any more."""
        self._batcher.withdraw(*self._waiting)
        self._waiting.clear()

    def _ask(self, place: int) -> Ask:
        return Ask(self._runs[place], self._take, self._until)

    def _take(self, result: Tensors | SkyriverError) -> None:
        if isinstance(result, SkyriverError):
            self.give_up()
            self._done(result)
            return
        self._waiting.popleft()
        self._results.append(result)
        if len(self._results) == len(self._runs):
            self._done(self._results)
        elif (place := len(self._results) + len(self._waiting)) < len(self._runs):
            ask = self._ask(place)
            self._waiting.append(ask)
            self._batcher.go_on(ask)
