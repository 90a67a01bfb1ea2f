"""The id index with what it lately took written into checkpoints instead of files of its own.

A checkpoint of the index waits for the disk, some 10 ms that events would wait too. So it is made only when FLUSH ids
have come since the last one; until then a checkpoint of the partition holds the last description and the ids since.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt
from skyriver.data.ids import IdIndex

FLUSH = 1 << 16
"""Ids that a checkpoint holds itself at most: 1 MiB."""

Ints = NDArray[np.int64]


class _Described(msgspec.Struct, array_like=True):
    index: bytes | None
    keys: bytes
    offsets: bytes


_decoder = msgspec.msgpack.Decoder(_Described)


class JournaledIds:
    """`Ids` on an IdIndex. One thread at a time."""

    def __init__(self, index: IdIndex, description: bytes | None) -> None:
        self._index = index
        self._description = description
        self._keys = array("q")
        self._offsets = array("q")
        self._dropped = False
        """Since the last checkpoint of the index."""

    @classmethod
    def open(cls, directory: Path, saved: bytes | None) -> JournaledIds:
        """As `describe` saved it; None: empty. Raises Corrupt, Unavailable."""
        if saved is None:
            return cls(IdIndex.open(directory), None)
        try:
            described = _decoder.decode(saved)
            keys, offsets = np.frombuffer(described.keys, np.int64), np.frombuffer(described.offsets, np.int64)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Corrupt("The description of the id index is not what was written.", where="ids") from error
        ids = cls(IdIndex.open(directory, described.index), described.index)
        if len(keys):
            ids.add(keys, offsets)
        return ids

    def find(self, keys: Ints) -> Ints:
        return self._index.find(keys)

    def add(self, keys: Ints, offsets: Ints) -> None:
        self._index.add(keys, offsets)
        self._keys.frombytes(keys.tobytes())
        self._offsets.frombytes(offsets.tobytes())

    def forget(self, before_offset: int) -> None:
        """Entries with an offset below are not found any more. They may be again after a restart."""
        self._index.forget(before_offset)

    def drop(self, keys: Ints, before_offset: int) -> None:
        """Entries of these keys with an offset below are gone from what `describe` tells once `drops` is false."""
        self._index.drop(keys, before_offset)
        self._dropped = True
        of, at = np.array(self._keys, np.int64), np.array(self._offsets, np.int64)
        kept = ~(np.isin(of, keys) & (at < before_offset))
        self._keys, self._offsets = array("q", of[kept].tobytes()), array("q", at[kept].tobytes())

    @property
    def drops(self) -> bool:
        return self._index.drops

    def describe(self) -> tuple[bytes, bytes | None]:
        """What `open` needs, and the part of it that names files. Raises Unavailable (DISK_FULL), changing nothing."""
        if len(self._keys) >= FLUSH or (self._dropped and not self.drops):
            self._dropped = False
            self._description = self._index.checkpoint()
            self._keys, self._offsets = array("q"), array("q")
        saved = _Described(self._description, self._keys.tobytes(), self._offsets.tobytes())
        return msgspec.msgpack.encode(saved), self._description

    def release(self, kept: Sequence[bytes | None]) -> None:
        """Removes files that no description among `kept` names."""
        self._index.release([description for description in kept if description is not None])

    def close(self) -> None:
        self._index.close()
