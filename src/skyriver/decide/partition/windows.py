"""The features of a partition, as its engine uses them: rows of cleaned values in, float32 features out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict
from skyriver.core.spec import FeatureSetSpec
from skyriver.data.columns import Columns
from skyriver.data.log import RecordKind
from skyriver.decide.log.checkpoint import NEVER, SavedSet
from skyriver.decide.log.records import Id, LabelRecord, Value
from skyriver.features.state import KeyMemory

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
_EVENT = int(RecordKind.EVENT)

NOTHING_NEEDED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FeaturesRead:
    """features: float32 [rows, F]; known: bool [keys, rows], whether the key of this field has an event in some window
    (if not, it has the features of one that was never seen)."""

    keys: tuple[str, ...]
    known: NDArray[np.bool_]
    features: Floats


class Windows(Protocol):
    """Features over all that was folded, in log order. One thread at a time.

    What `fold_events` and `fold_block` return are the features of the events in their order, float32 [events, F].
    Raises Corrupt or Unavailable (DISK_FULL); the state is then to be restored from a checkpoint, unless
    `reserve` raised.
    """

    @property
    def digest(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> tuple[int, int]:
        """(keys that are held, bytes of their state in memory), told without looking at each."""
        ...

    @property
    def keys(self) -> tuple[KeyMemory, ...]:
        """The same by key column; of several sets, of that which decides."""
        ...

    @property
    def spec(self) -> FeatureSetSpec | None:
        """What is computed; None where nothing is."""
        ...

    @property
    def reach(self) -> int:
        """How far back from an event its features look, microseconds."""
        ...

    @property
    def whole_from(self) -> int:
        """From this effective time on they have folded all that they look back to."""
        ...

    def switch(self, digest: str) -> None:
        """From the next event on the features of `digest` are given back. Raises Conflict (FEATURES_NOT_BUILT),
        changing nothing, where they are not folded."""
        ...

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows: folding them then cannot fail for want of it."""
        ...

    def fold_events(self, offsets: Sequence[int], effective: Sequence[int], rows: Sequence[Sequence[Value]]) -> Floats:
        """Events that are not late."""
        ...

    def fold_columns(self, offsets: Ints, effective: Ints, columns: Columns) -> Floats:
        """The same events in columns, with the same features."""
        ...

    def fold_labels(self, offsets: Sequence[int], labels: Sequence[LabelRecord]) -> None: ...

    def fold_references(self, offsets: Sequence[int], rows: Sequence[tuple[int, list[Value]]]) -> None:
        """Rows of references: (the reference's place in the stream's, its values)."""
        ...

    def fold_block(self, first_offset: int, block: pl.DataFrame) -> Floats:
        """A block of history whose rows have the offsets from `first_offset` on (see `decide.log.history`)."""
        ...

    def read(self, digest: str, rows: Sequence[Sequence[Value]]) -> FeaturesRead:
        """The features `digest` as of what was folded. A row has the values of an event, None where one is not given.
        MUST change nothing. Raises Conflict (FEATURES_NOT_BUILT) where these features are not folded, or cannot be
        read; InvalidInput (KEY_MISSING)."""
        ...

    def rename(self, field: str, value: Id, other: Id, references: Collection[int] = ()) -> int:
        """What is held of this value of a key field is that of `other` from now on, which nothing is held of; so are
        the rows of the stream's references at these places, which lose their values. How many there were."""
        ...

    def save(self) -> SavedWindows: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SavedWindows:
    """`state` is to be kept in a checkpoint; before it counts, `flush` must have returned, which may run in another
    thread while folding goes on. Once no older checkpoint is kept, `release` gives back what only those needed."""

    state: bytes
    flush: Callable[[], None]
    release: Callable[[], None]
    beside: SavedSet | None = None
    """The state of the features that are folded beside those that decide."""
    oldest: int = NOTHING_NEEDED
    """Offset of the oldest event that a label could still change a feature through."""


def not_built(digest: str) -> Conflict:
    return Conflict(
        f"The features {digest[:12]} are not folded here.",
        code="FEATURES_NOT_BUILT",
        next_action="Wait until the stream has built them.",
    )


_generations = itertools.count(1)


class FeatureSets:
    """The features that decide, and others that are folded beside them until they take over (DESIGN 6.8).

    Without features that decide (a stream that declares none yet) events get vectors of no features.
    """

    def __init__(self, deciding: Windows | None, beside: Windows | None = None) -> None:
        self._deciding = deciding
        self._beside = beside
        self.generation = next(_generations)
        """Another one with each change of what is folded."""
        self._gone: list[Windows] = []
        """Let go, but a checkpoint that is being written may still flush them."""

    @property
    def digest(self) -> str:
        return self._deciding.digest if self._deciding is not None else ""

    @property
    def names(self) -> tuple[str, ...]:
        return self._deciding.names if self._deciding is not None else ()

    @property
    def spec(self) -> FeatureSetSpec | None:
        return self._deciding.spec if self._deciding is not None else None

    @property
    def reach(self) -> int:
        return self._deciding.reach if self._deciding is not None else 0

    @property
    def whole_from(self) -> int:
        return self._deciding.whole_from if self._deciding is not None else NEVER

    def whole_at(self, time: int) -> frozenset[str]:
        """Digests of what may decide at this effective time: it has folded all that it looks back to."""
        return frozenset(windows.digest for windows in self._all() if windows.whole_from <= time)

    @property
    def size(self) -> tuple[int, int]:
        """Of all sets together."""
        sizes = [windows.size for windows in self._all()]
        return sum(keys for keys, _ in sizes), sum(bytes_ for _, bytes_ in sizes)

    @property
    def keys(self) -> tuple[KeyMemory, ...]:
        return self._deciding.keys if self._deciding is not None else ()

    @property
    def beside(self) -> Windows | None:
        return self._beside

    @property
    def specs(self) -> dict[str, FeatureSetSpec]:
        """What is folded, by its digest; those that decide are first."""
        return {w.digest: w.spec for w in self._all() if w.spec is not None}

    def add(self, beside: Windows) -> None:
        """Folds these from now on too; they must stand where the others do. What was beside before is let go."""
        self.drop()
        self._beside = beside
        self.generation = next(_generations)

    def drop(self) -> None:
        """Lets go of the features beside."""
        if self._beside is not None:
            self._gone.append(self._beside)
            self.generation = next(_generations)
        self._beside = None

    def switch(self, digest: str) -> None:
        """The features beside take over, and those that decided are let go. "": nothing is folded any more."""
        if digest == self.digest:
            return
        if not digest:
            self.drop()
        elif self._beside is None or self._beside.digest != digest:
            raise not_built(digest)
        before, self._deciding, self._beside = self._deciding, self._beside, None
        self.generation = next(_generations)
        if before is not None:
            self._gone.append(before)

    def reserve(self, rows: int) -> None:
        for windows in self._all():
            windows.reserve(rows)

    def fold_events(self, offsets: Sequence[int], effective: Sequence[int], rows: Sequence[Sequence[Value]]) -> Floats:
        if self._beside is not None:
            self._beside.fold_events(offsets, effective, rows)
        if self._deciding is None:
            return np.empty((len(rows), 0), np.float32)
        return self._deciding.fold_events(offsets, effective, rows)

    def fold_columns(self, offsets: Ints, effective: Ints, columns: Columns) -> Floats:
        if self._beside is not None:
            self._beside.fold_columns(offsets, effective, columns)
        if self._deciding is None:
            return np.empty((len(columns), 0), np.float32)
        return self._deciding.fold_columns(offsets, effective, columns)

    def fold_labels(self, offsets: Sequence[int], labels: Sequence[LabelRecord]) -> None:
        for windows in self._all():
            windows.fold_labels(offsets, labels)

    def fold_references(self, offsets: Sequence[int], rows: Sequence[tuple[int, list[Value]]]) -> None:
        for windows in self._all():
            windows.fold_references(offsets, rows)

    def fold_block(self, first_offset: int, block: pl.DataFrame) -> Floats:
        if self._beside is not None:
            self._beside.fold_block(first_offset, block)
        if self._deciding is None:
            return np.empty((int(np.count_nonzero(block["_kind"].to_numpy() == _EVENT)), 0), np.float32)
        return self._deciding.fold_block(first_offset, block)

    def read(self, digest: str, rows: Sequence[Sequence[Value]]) -> FeaturesRead:
        for windows in self._all():
            if windows.digest == digest:
                return windows.read(digest, rows)
        raise not_built(digest)

    def rename(self, field: str, value: Id, other: Id, references: Collection[int] = ()) -> int:
        return sum(windows.rename(field, value, other, references) for windows in self._all())

    def save(self) -> SavedWindows:
        """While no other one is being written."""
        self._close_gone()
        folded = self._all()
        saved = {windows.digest: windows.save() for windows in folded}
        own = saved.get(self.digest)
        beside = None
        if self._beside is not None and self._beside.spec is not None:
            state = saved[self._beside.digest].state
            beside = SavedSet(self._beside.digest, self._beside.spec.to_json(), state, self._beside.whole_from)

        def flush() -> None:
            for each in saved.values():
                each.flush()

        def release() -> None:
            for windows in folded:
                if windows in self._all():
                    saved[windows.digest].release()

        oldest = min((windows.oldest for windows in saved.values()), default=NOTHING_NEEDED)
        return SavedWindows(own.state if own is not None else b"", flush, release, beside, oldest)

    def close(self) -> None:
        self._close_gone()
        for windows in self._all():
            windows.close()

    def _close_gone(self) -> None:
        gone, self._gone = self._gone, []
        for windows in gone:
            windows.close()

    def _all(self) -> list[Windows]:
        return [w for w in (self._deciding, self._beside) if w is not None]
