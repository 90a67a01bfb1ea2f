"""What is done of a step by whom, and in which order its parts are summed: all of it without torch.

A step's rows are cut into a fixed number of virtual shards, whatever the number of workers. Each worker has a stretch
of them. What shards give (gradients above all) is summed in one binary tree over all shards, whose shape is that of the
shards alone: so a worker sums what lies in its stretch, and what is left is the same few additions for everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

BLOCK: Final = 8_192
"""Rows whose order is computed at once: a millisecond and 64 KB."""


def stretch(rank: int, world: int, shards: int) -> range:
    """The shards of a worker: one after another, as many as the others have or one more."""
    return range(rank * shards // world, (rank + 1) * shards // world)


def blocks(stretch: range) -> Iterator[tuple[int, int]]:
    """(first shard, shards) of the largest whole subtrees of which a stretch consists, in order."""
    at = stretch.start
    while at < stretch.stop:
        size = at & -at or 1 << (stretch.stop - 1).bit_length()
        while at + size > stretch.stop:
            size //= 2
        yield at, size
        at += size


def rows_of_shard(shard: int, shards: int, rows: int) -> slice:
    """Which of the `rows` of a step it has; none, where there are fewer rows than shards."""
    return slice(shard * rows // shards, (shard + 1) * rows // shards)


@dataclass(slots=True)
class TreeSum(Generic[T]):
    """Sums blocks that are pushed in order, as soon as two are the halves of a larger one. `add(left, right)` may write
    into `left`. A block of nothing is None, and adds nothing: so that a sum does not depend on who has the rows."""

    add: Callable[[T, T], T]
    stack: list[tuple[int, int, T | None]] = field(default_factory=list)
    """(first shard, shards, sum): what is not summed any further yet."""

    def push(self, first: int, size: int, value: T | None) -> None:
        while self.stack:
            before, before_size, other = self.stack[-1]
            if before_size != size or before % (2 * size):
                break
            self.stack.pop()
            first, size = before, 2 * size
            if other is not None:
                value = other if value is None else self.add(other, value)
        self.stack.append((first, size, value))

    def whole(self) -> T | None:
        """Once all blocks are there."""
        ((_, _, value),) = self.stack
        return value


@dataclass(frozen=True, slots=True)
class Order:
    """In which order rows come: in each epoch all of them once, by a permutation that is a function of (seed, epoch)
    and is computed where it is asked for (a Feistel network of four rounds; numbers outside are sent through again:
    Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The last step of an epoch has what is left."""

    rows: int
    batch: int
    epochs: int
    seed: int
    drop_last: bool = False
    """What is left of an epoch is no step."""

    @property
    def steps_of_epoch(self) -> int:
        return self.rows // self.batch if self.drop_last else -(-self.rows // self.batch)

    @property
    def steps(self) -> int:
        return self.steps_of_epoch * self.epochs

    def count(self, step: int) -> int:
        """Rows of a step."""
        within = step % self.steps_of_epoch
        return min(self.batch, self.rows - within * self.batch)

    def rows_of(self, step: int, part: slice) -> NDArray[np.int64]:
        """The numbers of the rows of a part of a step."""
        epoch, within = divmod(step, self.steps_of_epoch)
        at, end, of = within * self.batch + part.start, within * self.batch + part.stop, key(self.seed, epoch)
        there = [
            _block(block, self.rows, of)[max(0, at - block * BLOCK) : end - block * BLOCK]
            for block in range(at // BLOCK, -(-end // BLOCK))
        ]
        return np.concatenate(there) if there else np.empty(0, dtype=np.int64)


@lru_cache(maxsize=4)
def _block(block: int, rows: int, of: int) -> NDArray[np.int64]:
    """Where a permutation takes BLOCK places in a row: a call takes as long for a few of them."""
    places = np.arange(block * BLOCK, min((block + 1) * BLOCK, rows), dtype=np.uint64)
    return permuted(places, rows, of)


def key(seed: int, *numbers: int) -> int:
    """64 bits that depend on all of these and their order (the mixing of splitmix64: Steele et al., "Fast splittable
    pseudorandom number generators", 2014)."""
    state = _mixed((seed + _GAMMA) & _MASK)
    for number in numbers:
        state = _mixed(((state ^ (number & _MASK)) + _GAMMA) & _MASK)
    return state


_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15


def _mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def permuted(places: NDArray[np.uint64], n: int, of: int) -> NDArray[np.int64]:
    """Where a permutation of range(n) takes these."""
    half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
    low = np.uint64((1 << int(half)) - 1)
    keys = [np.uint64(key(of, r)) for r in range(4)]
    found = places.copy()
    outside = np.ones(len(found), dtype=bool)
    while outside.any():  # at most four times as many numbers as rows: it ends after few rounds
        left, right = found[outside] >> half, found[outside] & low
        for k in keys:
            left, right = right, left ^ (hashed(right + k) & low)
        found[outside] = left << half | right
        outside = found >= n
    return found.astype(np.int64)


def hashed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
