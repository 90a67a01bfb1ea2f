"""The rows of a step's parts: from tensors, arrays or anything with rows, fetched while the part before is worked
on."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skyriver.core.errors import InvalidInput
from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.feed.augment import augmented
from skyriver.train.feed.files import FileRows
from skyriver.train.spread.shards import Order

Part = tuple[int, int, int, int]
"""Of an order: (step, part, first row of the step, end)."""


class Rows(Protocol):
    """What `ctx.steps` goes through: `len`, and of several row numbers at once their batch. `take` is called in another
    thread, unless `by_turns` is there and true, and may use no random numbers but those it is given."""

    def __len__(self) -> int: ...
    def take(self, rows: NDArray[np.int64]) -> Any: ...


WORTH_S: Final = 0.001
"""A batch that is quicker to fetch is fetched when it is asked for: to hand it over between threads takes as long."""

TOGETHER_BYTES: Final = 1 << 20
"""Of a step's parts that are fetched at once."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where batches come from, and in which order."""

    order: Order
    take: Callable[[Part], Any]
    by_turns: bool = False
    """`take` is called by the training's own thread alone."""
    identity: int = 0
    """Of the rows, where it is known; else 0."""
    close: Callable[[], None] = lambda: None
    row_bytes: int = 0
    """Of rows that lie in memory, and are taken from there without a random number; else 0."""


def source(
    dataset: Any,
    batch: int,
    epochs: int,
    seed: int,
    *,
    drop_last: bool = False,
    augment: Sequence[AugmentSpec] = (),
) -> Source:
    """Raises InvalidInput (BAD_DATASET) where it is none."""
    plain = _source(dataset, batch, epochs, seed, drop_last=drop_last)
    if not augment:
        return plain
    order = plain.order

    def changed(part: Part) -> tuple[Tensor, ...]:
        found = plain.take(part)
        of = (found,) if isinstance(found, Tensor) else found
        if not isinstance(of, tuple | list) or not all(isinstance(each, Tensor) for each in of):
            raise InvalidInput(
                f"augment: a batch is {type(found).__name__}, no tuple of tensors.",
                code="BAD_AUGMENT",
                next_action="Give a tuple of tensors: ctx.steps((x, y), ...).",
            )
        numbers = order.rows_of(part[0], slice(part[2], part[3]))
        epoch = part[0] // order.steps_of_epoch
        made = augmented(tuple(each.numpy() for each in of), numbers, augment, seed, epoch)
        return tuple(map(torch.from_numpy, made))

    told = hashlib.sha256(json.dumps([one.to_json() for one in augment]).encode()).digest()
    identity = plain.identity ^ int.from_bytes(told[:7], "big")
    return Source(order, changed, by_turns=plain.by_turns, identity=identity, close=plain.close)


def _source(dataset: Any, batch: int, epochs: int, seed: int, *, drop_last: bool) -> Source:
    if isinstance(dataset, FileRows):
        ordered = dataset.order(min(batch, len(dataset)), epochs, seed, drop_last=drop_last)
        reader, parts = dataset.reader(ordered), dataset.parts

        def of_files(part: Part) -> tuple[Tensor, ...]:
            found = parts(reader.take(part[0], slice(part[2], part[3])))
            return tuple(map(torch.from_numpy, found))

        return Source(ordered, of_files, identity=dataset.identity, close=reader.close)
    rows = as_rows(dataset)
    order = Order(len(rows), min(batch, len(rows)), epochs, seed, drop_last)

    def of_rows(part: Part) -> Any:
        return rows.take(order.rows_of(part[0], slice(part[2], part[3])))

    row_bytes = rows.row_bytes if isinstance(rows, _Tensors) else 0
    return Source(order, of_rows, by_turns=getattr(rows, "by_turns", False), row_bytes=row_bytes)


class Feeder:
    """Hands out batches, and has the next one fetched meanwhile where that is worth it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._next: tuple[Part, Future[Any]] | None = None
        self._thread = None if source.by_turns else ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._took_s = 0.0
        """That one took lately."""
        self._last = deque[float](maxlen=3)
        self._small: dict[Part, Any] = {}
        """What was fetched together with the first part of a step."""
        self._begun: float | None = None
        self._waited_s = 0.0

    @property
    def waited(self) -> float:
        """The share of the time since the first batch was asked for in which the training waited for data."""
        return 0.0 if self._begun is None else self._waited_s / max(time.monotonic() - self._begun, 1e-9)

    def get(self, part: Part, following: Part | None, of_step: Sequence[Part] = ()) -> Any:
        """The batch of `part`; `following` is what is most likely asked for next, and `of_step` what this step has."""
        begun = time.monotonic()
        if self._begun is None:
            self._begun = begun
        try:
            if part in self._small:
                return self._small.pop(part)
            batch = self._get(part, following)
            if self._is_small(of_step):
                self._small = {each: self._take(each) for each in of_step if each > part}
            return batch
        finally:
            self._waited_s += time.monotonic() - begun

    def _get(self, part: Part, following: Part | None) -> Any:
        known, self._next = self._next, None
        if known is not None and known[0] != part and not known[1].cancel():
            known[1].exception()  # members have changed: one batch is fetched at a time
            known = None
        batch = known[1].result() if known is not None and known[0] == part else self._take(part)
        if following is not None and self._thread is not None and self.ahead:
            self._next = following, self._thread.submit(self._take, following)
        return batch

    def _is_small(self, parts: Sequence[Part]) -> bool:
        """After a backward pass the first call of anything takes several times as long: the processor's caches are full
        of gradients."""
        size = sum(stop - start for _, _, start, stop in parts) * self._source.row_bytes
        return 0 < size <= TOGETHER_BYTES and not self.ahead

    @property
    def took_s(self) -> float:
        """That one batch takes."""
        return self._took_s

    @property
    def ahead(self) -> bool:
        """Whether the next one is fetched meanwhile. The quickest of a few counts: on a machine with more to do than
        cores any of them may be held up, and then longest by the other thread."""
        return self._thread is not None and min(self._last, default=0.0) > WORTH_S

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._source.close()

    def _take(self, part: Part) -> Any:
        begun = time.monotonic()
        batch = self._source.take(part)
        took = time.monotonic() - begun
        self._took_s += (took - self._took_s) / 4
        self._last.append(took)
        return batch


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Of as many rows each."""

    of: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.of[0])

    @property
    def row_bytes(self) -> int:
        return int(sum(t.nbytes for t in self.of)) // len(self)

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
