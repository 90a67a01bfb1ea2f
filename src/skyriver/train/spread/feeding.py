"""The rows of a step's parts: from tensors, arrays or anything with rows, fetched while the part before is worked
on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skyriver.core.errors import InvalidInput

Part = tuple[int, int, int, int]
"""Of an order: (step, part, first row of the step, end)."""


class Rows(Protocol):
    """What `ctx.steps` goes through: `len`, and of several row numbers at once their batch. `take` is called in another
    thread, unless `by_turns` is there and true, and may use no random numbers but those it is given."""

    def __len__(self) -> int: ...
    def take(self, rows: NDArray[np.int64]) -> Any: ...


WORTH_S: Final = 0.001
"""A batch that is quicker to fetch is fetched when it is asked for: to hand it over between threads takes as long."""


class Feeder:
    """Hands out batches, and has the next one fetched meanwhile where that is worth it."""

    def __init__(self, rows: Rows, numbers: Callable[[Part], NDArray[np.int64]]) -> None:
        self._rows, self._numbers = rows, numbers
        self._next: tuple[Part, Future[Any]] | None = None
        by_turns = getattr(rows, "by_turns", False)
        self._thread = None if by_turns else ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._took_s = 0.0
        """That one took lately."""

    def get(self, part: Part, following: Part | None) -> Any:
        """The batch of `part`; `following` is what is most likely asked for next."""
        known, self._next = self._next, None
        if known is not None and known[0] != part and not known[1].cancel():
            known[1].exception()  # members have changed: one batch is fetched at a time
            known = None
        batch = known[1].result() if known is not None and known[0] == part else self._take(part)
        if following is not None and self._thread is not None and self._took_s > WORTH_S:
            self._next = following, self._thread.submit(self._take, following)
        return batch

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self, part: Part) -> Any:
        begun = time.monotonic()
        batch = self._rows.take(self._numbers(part))
        self._took_s += (time.monotonic() - begun - self._took_s) / 4
        return batch


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Of as many rows each."""

    of: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.of[0])

    def take(self, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        index = torch.from_numpy(rows)
        return tuple(t.index_select(0, index) for t in self.of)


@dataclass(frozen=True, slots=True)
class _Items:
    """What torch calls a map-style data set. Its items may use random numbers of the process, which are set for each
    part: so they are made in turn."""

    of: Any
    by_turns: bool = True

    def __len__(self) -> int:
        return len(self.of)

    def take(self, rows: NDArray[np.int64]) -> Any:
        return torch.utils.data.default_collate([self.of[int(row)] for row in rows])


def as_rows(dataset: Any) -> Rows:
    """Raises InvalidInput (BAD_DATASET) where it is none."""
    if hasattr(dataset, "take") and hasattr(dataset, "__len__") and not isinstance(dataset, Tensor | np.ndarray):
        rows: Rows = dataset
        return rows
    if isinstance(dataset, Tensor | np.ndarray):
        dataset = (dataset,)
    if isinstance(dataset, Mapping):
        raise _refused("a dictionary of columns", "Give a tuple of tensors: ctx.steps((x, y), ...).")
    if isinstance(dataset, tuple | list) and dataset and all(isinstance(t, Tensor | np.ndarray) for t in dataset):
        return _Tensors(_of_one_length(dataset))
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        if not len(dataset):
            raise _refused("without a row", "Give at least one row.")
        return _Items(dataset)
    raise _refused(type(dataset).__name__, "Give a tuple of tensors, or something with len() and [row].")


def _of_one_length(dataset: Sequence[Any]) -> tuple[Tensor, ...]:
    tensors = tuple(torch.as_tensor(t) for t in dataset)
    lengths = [len(t) if t.dim() else 0 for t in tensors]
    if len(set(lengths)) != 1:
        raise _refused(f"tensors of {', '.join(map(str, lengths))} rows", "Give as many rows in each.")
    if not lengths[0]:
        raise _refused("without a row", "Give at least one row.")
    return tensors


def _refused(what: str, action: str) -> InvalidInput:
    return InvalidInput(f"ctx.steps: this is no data set: {what}.", code="BAD_DATASET", next_action=action)
