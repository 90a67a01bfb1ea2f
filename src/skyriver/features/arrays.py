"""The arrays that hold the state of keys, and how they are written into a snapshot."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyriver.features.layout import NODE_BEFORE, NODE_WIDTH

Ints = NDArray[np.int64]
FIRST_SLOTS = 1 << 10
_WIDTHS = (0, 1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Table:
    """`state` int64 [slots, stride] and its `index` int32 [4 * slots]: slot + 1 near the hash of its key, 0 empty."""

    index: NDArray[np.int32]
    state: Ints

    @classmethod
    def empty(cls, stride: int, slots: int) -> Table:
        return cls.of(np.zeros((slots, stride), np.int64))

    @classmethod
    def of(cls, rows: Ints) -> Table:
        """With room for these rows and an empty index."""
        return cls(np.zeros(4 * _room(len(rows)), np.int32), _with_room(rows))


@dataclass(frozen=True, slots=True)
class Nodes:
    """`nodes` int64 [n, 6] of trails (see `layout`), and the index of those of distinct counts, `chains` int32 [2, n]:
    of each hash the first node, of each node the next one of its hash; 0 is none."""

    nodes: Ints
    chains: NDArray[np.int32]

    @classmethod
    def empty(cls, count: int) -> Nodes:
        return cls.of(np.zeros((count, NODE_WIDTH), np.int64))

    @classmethod
    def of(cls, rows: Ints) -> Nodes:
        """With room for these rows and empty chains."""
        nodes = _with_room(rows)
        nodes[0, NODE_BEFORE] = -1  # it stands for none
        return cls(nodes, np.zeros((2, len(nodes)), np.int32))

    def doubled(self, more: int) -> Nodes:
        """With room for as many again, and at least `more`."""
        grown = np.zeros((_room(len(self.nodes) + max(more, len(self.nodes))), NODE_WIDTH), np.int64)
        grown[: len(self.nodes)] = self.nodes
        return Nodes(grown, np.zeros((2, len(grown)), np.int32))


def _room(rows: int) -> int:
    return max(FIRST_SLOTS, 1 << (rows - 1).bit_length()) if rows else FIRST_SLOTS


def _with_room(rows: Ints) -> Ints:
    if len(rows) == _room(len(rows)):
        return rows
    grown = np.zeros((_room(len(rows)), rows.shape[1]), np.int64)
    grown[: len(rows)] = rows
    return grown


def pack_rows(rows: Ints, live: NDArray[np.bool_]) -> bytes:
    """Places of the live rows, then each column of them in as few bytes as its values need."""
    places = np.flatnonzero(live)
    columns = [places, *rows[places].T] if len(places) else []
    packed = [struct.pack("<q", len(places))]
    for column in columns:
        low, high = int(column.min()), int(column.max())
        width = next(w for w in _WIDTHS if -(1 << 8 * w) <= 2 * low and 2 * high < 1 << 8 * w)
        packed += [bytes([width]), column.astype(f"<i{width}").tobytes() if width else b""]
    return b"".join(packed)


def unpack_rows(body: bytes, at: int, width: int, free: tuple[int, int] = (0, 0)) -> tuple[Ints, int, int]:
    """The rows up to the last live one, their number, and where the next part of `body` begins. Rows between live
    ones are zeros, but for a column that tells which are `free`: its place, and its value there."""
    (count,) = struct.unpack_from("<q", body, at)
    at += 8
    if not count:
        return np.zeros((0, width), np.int64), 0, at
    columns = []
    for _ in range(1 + width):
        size = body[at]
        at += 1
        columns.append(np.frombuffer(body, f"<i{size}", count, at) if size else np.zeros(count, np.int8))
        at += count * size
    places = columns[0].astype(np.int64)
    rows = np.zeros((int(places[-1]) + 1, width), np.int64)
    rows[:, free[0]] = free[1]
    for place, column in enumerate(columns[1:]):
        rows[places, place] = column
    return rows, len(rows), at
