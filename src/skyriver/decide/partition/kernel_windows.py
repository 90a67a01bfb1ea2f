"""Windows by a compiled kernel, in memory or with a side log on the disk; and where their files are."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.columns import Column, Columns
from skyriver.data.keys import codes_of_column, codes_of_values, key_of_text, keys_of_column, keys_of_texts
from skyriver.data.log import RecordKind
from skyriver.decide.log.checkpoint import NEVER
from skyriver.decide.log.records import Id, LabelRecord, Value, decode_reference
from skyriver.decide.partition.windows import NOTHING_NEEDED, FeaturesRead, Floats, SavedWindows, not_built
from skyriver.features.given import Given
from skyriver.features.kernel import Kernel, load_kernel
from skyriver.features.layout import MISSING
from skyriver.features.plan import ROW_OFFSET, FeaturePlan, plan_features
from skyriver.features.reading import Reader, load_reader
from skyriver.features.side import disk_side, memory_side
from skyriver.features.state import EventBatch, FeatureState, KeyMemory
from skyriver.features.texts import numbers_of_series, numbers_of_values

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]
_EVENT, _LABEL, _REFERENCE = int(RecordKind.EVENT), int(RecordKind.LABEL), int(RecordKind.REFERENCE)


class KernelWindows:
    """The compiled kernel over a side log on disk or in memory."""

    def __init__(
        self, stream: StreamSpec, state: FeatureState, whole_from: int = NEVER, reader: Reader | None = None
    ) -> None:
        self._state = state
        self._reader = reader
        self.whole_from = whole_from
        self._plan = plan = state.plan
        places = {f.name: (place, f.type) for place, f in enumerate(stream.fields)}
        self._columns = [(name, places[name][0]) for name in plan.number_fields]
        self._texts = [(text, places[text.field][0]) for text in plan.texts]
        self._times = [(name, places[name][0]) for name in plan.times]
        self._keys = [(name, *places[name]) for name in plan.key_columns]
        self._references = {table.index: place for place, table in enumerate(plan.references)}
        self._codes = [(name, places[name][0]) for name in plan.codes]
        self._width = len(plan.names)

    @property
    def digest(self) -> str:
        return self._plan.digest

    @property
    def names(self) -> tuple[str, ...]:
        return self._plan.names

    @property
    def size(self) -> tuple[int, int]:
        return self._state.held_keys, self._state.memory_bytes

    @property
    def keys(self) -> tuple[KeyMemory, ...]:
        return self._state.keys

    @property
    def spec(self) -> FeatureSetSpec | None:
        return self._plan.spec

    @property
    def reach(self) -> int:
        return self._plan.reach

    @property
    def plan(self) -> FeaturePlan:
        return self._plan

    def switch(self, digest: str) -> None:
        if digest != self.digest:
            raise not_built(digest)

    def reserve(self, rows: int) -> None:
        self._state.side.reserve(rows, rows)

    def fold_events(self, offsets: Sequence[int], effective: Sequence[int], rows: Sequence[Sequence[Value]]) -> Floats:
        n = len(rows)
        columns, keys = self._in_columns(rows)
        out = np.empty((n, self._width), np.float32)
        batch = EventBatch(
            kind=np.full(n, _EVENT, np.uint8),
            effective=np.array(effective, np.int64),
            offset=np.array(offsets, np.int64),
            columns=columns,
            keys=keys,
            codes={name: codes_of_values([row[place] for row in rows]) for name, place in self._codes},
        )
        self._state.fold(batch, out)
        return out

    def read(self, digest: str, rows: Sequence[Sequence[Value]]) -> FeaturesRead:
        if digest != self.digest or self._reader is None:
            raise not_built(digest)
        for name, place, _ in self._keys:
            if any(row[place] is None for row in rows):
                raise InvalidInput(
                    f"{name} is missing, and features are read by it.",
                    code="KEY_MISSING",
                    where=name,
                    next_action=f"Give {', '.join(self._plan.key_columns)}.",
                )
        columns, keys = self._in_columns(rows)
        known = np.empty((len(self._plan.keys), len(rows)), np.bool_)
        out = np.empty((len(rows), self._width), np.float32)
        self._reader.read(self._state, columns, keys, known, out)
        return FeaturesRead(self._plan.key_fields, known, out)

    def _in_columns(
        self, rows: Sequence[Sequence[Value]]
    ) -> tuple[dict[str, NDArray[np.float64] | Ints], dict[str, Ints]]:
        """What the plan reads of the rows' values, and their keys."""
        columns: dict[str, NDArray[np.float64] | Ints] = {}
        for name, place in self._columns:
            columns[name] = np.array([row[place] for row in rows], np.float64)  # None becomes NaN
        for text, place in self._texts:
            columns[text.name] = numbers_of_values(text, [row[place] for row in rows])
        for name, place in self._times:
            columns[name] = np.array([MISSING if row[place] is None else row[place] for row in rows], np.int64)
        keys: dict[str, Ints] = {}
        for name, place, kind in self._keys:
            values = [row[place] for row in rows]
            keys[name] = keys_of_texts(values) if kind == "text" else np.array(values, np.int64)  # type: ignore[arg-type]
        return columns, keys

    def fold_columns(self, offsets: Ints, effective: Ints, columns: Columns) -> Floats:
        of = columns.columns
        found: dict[str, NDArray[np.float64] | Ints] = {}
        for name, place in self._columns:
            found[name] = _with_missing(of[place], np.float64, np.nan)
        for text, place in self._texts:
            found[text.name] = numbers_of_values(text, of[place].values)  # type: ignore[arg-type]  # texts are a list
        for name, place in self._times:
            found[name] = _with_missing(of[place], np.int64, MISSING)
        keys: dict[str, Ints] = {}
        for name, place, _ in self._keys:
            keys[name] = columns.keys(place)
        out = np.empty((len(columns), self._width), np.float32)
        kind = np.full(len(columns), _EVENT, np.uint8)
        codes = {name: _codes(of[place]) for name, place in self._codes}
        batch = EventBatch(kind=kind, effective=effective, offset=offsets, columns=found, keys=keys, codes=codes)
        self._state.fold(batch, out)
        return out

    def fold_labels(self, offsets: Sequence[int], labels: Sequence[LabelRecord]) -> None:
        n = len(labels)
        nothing, zeros = np.full(n, np.nan), np.zeros(n, np.int64)
        batch = EventBatch(
            kind=np.full(n, _LABEL, np.uint8),
            effective=zeros,
            offset=np.array(offsets, np.int64),
            columns={**dict.fromkeys(self._plan.columns, nothing), **dict.fromkeys(self._plan.times, zeros)},
            keys=dict.fromkeys(self._plan.key_columns, zeros),
            subject_row=self._rows_of(np.array([label.subject_offset for label in labels], np.int64)),
            label=np.array([label.label_index for label in labels], np.uint8),
            value=np.array([label.value for label in labels], np.float64),
            codes=dict.fromkeys(self._plan.codes, zeros),
        )
        self._state.fold(batch, np.empty((0, self._width), np.float32))

    def fold_references(self, offsets: Sequence[int], rows: Sequence[tuple[int, list[Value]]]) -> None:
        kept = [(offset, row) for offset, row in zip(offsets, rows, strict=True) if row[0] in self._references]
        if not kept:
            return
        n = len(kept)
        nothing, zeros = np.full(n, np.nan), np.zeros(n, np.int64)
        given = [(self._references[index], values) for _, (index, values) in kept]
        batch = EventBatch(
            kind=np.full(n, _REFERENCE, np.uint8),
            effective=zeros,
            offset=np.array([offset for offset, _ in kept], np.int64),
            columns={**dict.fromkeys(self._plan.columns, nothing), **dict.fromkeys(self._plan.times, zeros)},
            keys=dict.fromkeys(self._plan.key_columns, zeros),
            subject_row=np.arange(n, dtype=np.int64),
            label=np.array([place for place, _ in given], np.uint8),
            value=nothing,
            codes=dict.fromkeys(self._plan.codes, zeros),
            given=Given.of(self._plan.references, given),
        )
        self._state.fold(batch, np.empty((0, self._width), np.float32))

    def _rows_of(self, offsets: Ints) -> Ints:
        """Side rows of the subjects with these offsets (-1: none)."""
        rows = np.full(len(offsets), -1, np.int64)
        known = offsets >= 0
        rows[known] = self._state.side.rows_of(offsets[known])
        return rows

    def fold_block(self, first_offset: int, block: pl.DataFrame) -> Floats:
        offsets = np.arange(first_offset, first_offset + len(block), dtype=np.int64)
        row_in_block = np.cumsum(block["_kind"].to_numpy() == _EVENT) - 1
        block, offsets, given, places = self._references_in(block, offsets)
        n = len(block)
        kind = block["_kind"].to_numpy()
        is_event = kind == _EVENT
        columns: dict[str, NDArray[np.float64] | Ints] = {}
        for name, _ in self._columns:
            columns[name] = block[name].cast(float).fill_null(float("nan")).to_numpy()
        for text, _ in self._texts:
            columns[text.name] = numbers_of_series(text, block[text.field])
        for name, _ in self._times:
            columns[name] = block[name].fill_null(MISSING).to_numpy()
        keys: dict[str, Ints] = {}
        for name, _, _ in self._keys:
            keys[name] = np.zeros(n, np.int64)
            keys[name][is_event] = keys_of_column(block[name].drop_nulls())
        subject = block["_subject_offset"].fill_null(-1).to_numpy()
        rows = self._rows_of(np.where(subject < first_offset, subject, -1))
        inside = np.flatnonzero(subject >= first_offset)  # events of this very block, whose rows are still to be made
        if len(inside):
            rows[inside] = self._state.side.row_count + row_in_block[subject[inside] - first_offset]
        label = block["_label"].fill_null(0).to_numpy()
        if len(places):
            of_references, label = kind == _REFERENCE, label.copy()
            rows[of_references], label[of_references] = np.arange(len(places)), places
        out = np.empty((int(np.count_nonzero(is_event)), self._width), np.float32)
        batch = EventBatch(
            kind=kind,
            effective=block["_effective"].to_numpy(),
            offset=offsets,
            columns=columns,
            keys=keys,
            subject_row=rows,
            label=label,
            value=block["_value"].fill_null(float("nan")).to_numpy(),
            codes={name: codes_of_column(block[name]) for name, _ in self._codes},
            given=given,
        )
        self._state.fold(batch, out)
        return out

    def _references_in(
        self, block: pl.DataFrame, offsets: Ints
    ) -> tuple[pl.DataFrame, Ints, Given | None, NDArray[np.uint8]]:
        """The block without rows of references that nothing is looked up in, the others, and which these are of."""
        none = np.empty(0, np.uint8)
        if "_reference" not in block.columns or not (block["_kind"] == _REFERENCE).any():
            return block, offsets, None, none
        found = [decode_reference(row) if row is not None else None for row in block["_reference"].to_list()]
        kept = np.array([row is None or row[0] in self._references for row in found])
        rows = [(self._references[row[0]], row[1]) for row in found if row is not None and row[0] in self._references]
        if not kept.all():
            import polars as pl  # its weight: see `decide.log.history`

            block, offsets = block.filter(pl.Series(kept)), offsets[kept]
        given = Given.of(self._plan.references, rows) if rows else None
        return block, offsets, given, np.array([place for place, _ in rows], np.uint8)

    def rename(self, field: str, value: Id, other: Id, references: Collection[int] = ()) -> int:
        key, new = (key_of_text(v) if isinstance(v, str) else v for v in (value, other))
        return self._state.rename(field, key, new, [self._references[r] for r in references if r in self._references])

    def save(self) -> SavedWindows:
        mark = self._state.mark()
        side = self._state.side
        there = mark.first_row < side.row_count
        oldest = int(side.rows.array[mark.first_row, ROW_OFFSET]) if there else NOTHING_NEEDED
        return SavedWindows(self._state.snapshot(), side.flush, lambda: side.release(mark), oldest=oldest)

    def forget(self) -> None:
        """Gives back the space of rows that no window needs; there is no going back to a state saved before."""
        self._state.side.release(self._state.mark())

    def close(self) -> None:
        self._state.side.close()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A feature set that can be folded at once: planned, compiled and run once."""

    plan: FeaturePlan
    kernel: Kernel
    reader: Reader | None = None
    """Where they are also to be read without folding."""


class WindowsFiles:
    """The side logs of one stream: DIR/<first 16 digits of the plan's digest>/, one for each set of features. `reads`:
    windows that are opened can be read, too."""

    def __init__(self, stream: StreamSpec, directory: Path, cache_dir: Path, *, reads: bool = False) -> None:
        self._stream = stream
        self._directory = directory
        self._cache_dir = cache_dir
        self._reads = reads
        self._prepared: dict[str, Prepared] = {}

    def digest_of(self, features: FeatureSetSpec) -> str:
        return plan_features(features, self._stream).digest

    def prepare(self, features: FeatureSetSpec) -> Prepared:
        """May take long: a set that this machine has not seen before is compiled."""
        plan = plan_features(features, self._stream)
        if plan.digest not in self._prepared:
            reader = load_reader(plan, self._cache_dir) if self._reads else None
            prepared = Prepared(plan, load_kernel(plan, self._cache_dir), reader)
            self._warm(prepared)
            self._prepared[plan.digest] = prepared
        return self._prepared[plan.digest]

    def open(self, features: FeatureSetSpec, saved: bytes | None, whole_from: int = NEVER) -> KernelWindows:
        """The windows as `saved` in a checkpoint, or empty ones. Raises Corrupt or Conflict."""
        prepared = self.prepare(features)
        mine = self.directory_of(prepared.plan.digest)
        if saved is None:
            shutil.rmtree(mine, ignore_errors=True)
        state = FeatureState(prepared.plan, disk_side(prepared.plan, mine), prepared.kernel)
        if saved is not None:
            try:
                state.restore(saved)
            except SkyriverError:
                state.side.close()
                if not self._put_back(mine):
                    raise
                return self.open(features, saved, whole_from)
        return KernelWindows(self._stream, state, whole_from, prepared.reader)

    def set_aside(self, features: FeatureSetSpec) -> None:
        """Keeps the set's side log, for checkpoints that cannot be read now, while `open` makes another one; until
        `keep_only`."""
        mine = self.directory_of(self.digest_of(features))
        aside = mine.with_suffix(".aside")
        if mine.is_dir() and not aside.exists():
            mine.rename(aside)

    def _put_back(self, mine: Path) -> bool:
        aside = mine.with_suffix(".aside")
        if not aside.is_dir():
            return False
        shutil.rmtree(mine, ignore_errors=True)
        aside.rename(mine)
        return True

    def directory_of(self, digest: str) -> Path:
        return self._directory / digest[:16]

    def disk_bytes(self, digest: str) -> int:
        """What its side log takes."""
        try:
            return sum(path.stat().st_blocks * 512 for path in self.directory_of(digest).iterdir())
        except FileNotFoundError:
            return 0

    def keep_only(self, digests: Collection[str]) -> None:
        """Removes the side logs of all other sets; call it once no checkpoint that is kept needs them."""
        kept = {digest[:16] for digest in digests}
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        for digest in self._prepared.keys() - set(digests):
            del self._prepared[digest]

    def _warm(self, prepared: Prepared) -> None:
        """Runs the kernel once, on a state that is thrown away: the first event waits for nothing."""
        windows = memory_windows(self._stream, prepared.plan, prepared.kernel)
        sample: dict[str, Value] = {"int": 0, "float": 0.0, "text": "", "bool": False, "time": 0}
        windows.fold_events([0], [0], [[sample[f.type] for f in self._stream.fields]])
        windows.close()


def _codes(column: Column) -> Ints:
    if isinstance(column.values, list):
        return codes_of_values(column.values)
    return _with_missing(column, np.int64, MISSING)


def _with_missing(column: Column, dtype: type[np.float64] | type[np.int64], missing: float) -> NDArray[Any]:
    """The values, with `missing` where there is none."""
    values = cast("NDArray[Any]", column.values).astype(dtype)
    if column.missing is not None:
        values[column.missing] = missing
    return values


def memory_windows(
    stream: StreamSpec, plan: FeaturePlan, kernel: Kernel, reader: Reader | None = None
) -> KernelWindows:
    """Windows whose side log ends with the process."""
    return KernelWindows(stream, FeatureState(plan, memory_side(plan), kernel), reader=reader)
