"""The state of the features of one stream: folds records in log order, is saved and brought back.

state = FeatureState(plan, disk_side(plan, directory), load_kernel(plan, cache))
state.restore(saved)                      # or nothing: start empty
state.fold(batch, out)                    # features of the batch's events
saved, mark = state.snapshot(), state.mark()
state.side.flush(); ...                   # make `saved` durable with the log offset, in one atomic write
state.side.release(mark)
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict, Corrupt, Internal
from skyriver.data.log import RecordKind
from skyriver.features import layout
from skyriver.features.arrays import FIRST_SLOTS, Nodes, Table, pack_rows, unpack_rows
from skyriver.features.given import Given
from skyriver.features.kernel import Kernel, load_kernel
from skyriver.features.plan import FeaturePlan
from skyriver.features.references import ROW_KEY, ROW_ROLE, ROW_VALUES
from skyriver.features.side import Mark, Side, disk_side
from skyriver.features.tables import STATE_KEY, STATE_REFERENCES

Ints = NDArray[np.int64]
_EVENT, _LABEL, _REFERENCE = int(RecordKind.EVENT), int(RecordKind.LABEL), int(RecordKind.REFERENCE)
"""NumPy takes 8 us to see that a member is a number."""
_NO_INTS: Ints = np.empty(0, np.int64)
_NO_BYTES: NDArray[np.uint8] = np.empty(0, np.uint8)
_NO_FLOATS: NDArray[np.float64] = np.empty(0, np.float64)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """`n` records in log order. Late events are left out: they never enter windows (DESIGN 6.1).

    kind uint8 [n]: RecordKind.EVENT, LABEL or REFERENCE; effective int64 [n]: effective time, never going back (only
    of events read); offset int64 [n]; columns: of the plan's number fields float64 [n], missing NaN, of its time fields
    int64 [n], missing INT64_MIN (only of events read); keys int64 [n] each of the plan's key columns; codes int64 [n]
    each of the plan's codes, missing INT64_MIN.
    For labels (may be empty when there are none): subject_row int64 [n]: the event's side row, -1 unknown or late;
    label uint8 [n]: place in the stream's labels; value float64 [n], NaN takes the label back.
    For rows of references: subject_row, their place in `given`; label, that of the reference in the plan.
    """

    kind: NDArray[np.uint8]
    effective: Ints
    offset: Ints
    columns: Mapping[str, NDArray[np.float64] | Ints]
    keys: Mapping[str, Ints]
    subject_row: Ints = field(default_factory=lambda: _NO_INTS)
    label: NDArray[np.uint8] = field(default_factory=lambda: _NO_BYTES)
    value: NDArray[np.float64] = field(default_factory=lambda: _NO_FLOATS)
    codes: Mapping[str, Ints] = field(default_factory=dict)
    given: Given | None = None


@dataclass(frozen=True, slots=True)
class KeyMemory:
    """The keys of one column, or the rows of a reference: those that are `held`, and the memory that one of them takes,
    at least and at most."""

    by: str
    held: int
    least_bytes: int
    most_bytes: int


class FeatureState:
    """Windows and keys of `plan` after the records folded so far. One thread at a time; `fold` lets others run."""

    def __init__(self, plan: FeaturePlan, side: Side, kernel: Kernel) -> None:
        if kernel.fold is None or kernel.grow is None or kernel.digest != plan.digest or side.plan != plan:
            raise Internal("The kernel, the side log and the plan of features do not belong together.")
        self.plan = plan
        self.side = side
        self._fold, self._grow, self._thread = kernel.fold, kernel.grow, kernel.thread
        self._meta = np.zeros(layout.meta_length(plan), np.int64)
        # Keys meet in the index by a hash that nobody outside can foresee: no one can make them collide.
        self._meta[layout.META_SEED] = int.from_bytes(os.urandom(8), "little", signed=True)
        self._tables = [Table.empty(k.stride, FIRST_SLOTS) for k in plan.keys]
        self._nodes = Nodes.empty(FIRST_SLOTS)
        self._trails = bool(plan.trails)
        self._key_columns = plan.key_columns
        self._find_rows = kernel.find_rows
        self._references = [Table.empty(r.stride, FIRST_SLOTS) for r in plan.references]
        self._nothing_given = Given.none(plan.references)
        self._slots = np.zeros((len(plan.keys), layout.LOOK_AHEAD), np.uint64)
        self._wide = len(plan.names)
        self._no_exact = np.empty((0, self._wide), np.float64)
        self._reset()

    def _reset(self) -> None:
        self._meta[layout.META_NOW] = layout.NEVER
        for key in range(len(self.plan.keys)):
            at = layout.table_place(self.plan, key)
            self._meta[at], self._meta[at + 1] = 0, -1
        for reference in range(len(self.plan.references)):
            at = layout.reference_place(self.plan, reference)
            self._meta[at], self._meta[at + 1] = 0, -1
        self._meta[layout.nodes_place(self.plan)] = 1

    @property
    def now(self) -> int:
        """Effective time of the last event, microseconds; -2^62 before the first."""
        return int(self._meta[layout.META_NOW])

    @property
    def off_grid(self) -> int:
        """Values beyond their grid, which the border should have refused; they count as missing."""
        return int(self._meta[layout.META_OFF_GRID])

    @property
    def active_keys(self) -> dict[str, int]:
        """Of each key column, the keys that have events in some window."""
        used = (self._used(key) for key in range(len(self._tables)))
        return {
            name: int(np.count_nonzero(table.state[:n, STATE_REFERENCES] > 0))
            for name, table, n in zip(self.plan.key_fields, self._tables, used, strict=True)
        }

    @property
    def held_keys(self) -> int:
        """Keys with a place in the tables, those that went idle since it last made room among them."""
        return sum(self._used(key) for key in range(len(self._tables)))

    @property
    def keys(self) -> tuple[KeyMemory, ...]:
        """By key column, then by reference, whose keys are its rows."""
        plan, meta = self.plan, self._meta
        columns = (
            KeyMemory(column.field, self._used(key), column.least_bytes, column.most_bytes)
            for key, column in enumerate(plan.keys)
        )
        references = (
            KeyMemory(table.name, int(meta[layout.reference_place(plan, place)]), table.row_bytes, table.row_bytes)
            for place, table in enumerate(plan.references)
        )
        return (*columns, *references)

    @property
    def memory_bytes(self) -> int:
        """Of the key tables and the nodes of their trails, and of the rows of references."""
        tables = sum(t.state.nbytes + t.index.nbytes for t in (*self._tables, *self._references))
        return tables + self._nodes.nodes.nbytes + self._nodes.chains.nbytes

    @property
    def held(self) -> tuple[Ints, tuple[NDArray[Any], ...]]:
        """What a reader of these features is given, to be read only and not after the next fold: the register, then
        index and state of each key table, the nodes of trails, and index and rows of each reference."""
        keys, references = (
            [array for table in tables for array in (table.index, table.state)]
            for tables in (self._tables, self._references)
        )
        return self._meta, (*keys, *((self._nodes.nodes,) if self._trails else ()), *references)

    def mark(self) -> Mark:
        """The side log at this point: what a snapshot taken now needs of it."""
        edges = len(self.plan.edges)
        slowest = int(self._meta[layout.cursor_place(edges - 1)]) if edges else self.side.row_count
        return self.side.mark(slowest)

    def fold(self, batch: EventBatch, out: NDArray[np.float32], exact: NDArray[np.float64] | None = None) -> int:
        """Takes in the records; row i of `out` float32 [>= events, features] gets the features of the i-th *event*
        of the batch, and `exact` float64, if given, the same before rounding. Gives the number of events.

        Raises Corrupt (a damaged side row), Internal (records out of order): the state is then not to be used
        any more, restore it from a snapshot.
        """
        n = len(batch.kind)
        self._check_shapes(batch, n, out, exact)
        self.side.reserve(n, n)
        values, times, keys = self.stacked(batch.columns, batch.keys, n)
        codes = np.empty((len(self.plan.codes), n), np.int64)
        for place, name in enumerate(self.plan.codes):
            codes[place] = batch.codes[name]
        meta, side = self._meta, self.side
        meta[layout.META_AT] = meta[layout.META_OUT] = 0
        meta[layout.META_ROWS], meta[layout.META_JOURNAL] = side.row_count, side.journal_count
        while True:
            status = self._fold(
                batch.kind, batch.effective, batch.offset, values, times, keys,
                batch.subject_row, batch.label, batch.value,
                side.rows.array, side.labels.array, side.journal.array,
                meta, self._slots, out, self._no_exact if exact is None else exact,
                *(a for t in self._tables for a in (t.index, t.state)),
                *((self._nodes.nodes, self._nodes.chains, codes) if self._trails else ()),
                *self._of_references(batch),
            )  # fmt: skip
            side.row_count, side.journal_count = int(meta[layout.META_ROWS]), int(meta[layout.META_JOURNAL])
            if status == layout.DONE:
                return int(meta[layout.META_OUT])
            if status != layout.GROW:
                raise self._failure(status)
            self._make_room(int(meta[layout.META_FAULT]))  # at least one slot more, so the next round gets further

    def _of_references(self, batch: EventBatch) -> tuple[NDArray[Any], ...]:
        if not self._references:
            return ()
        given = batch.given if batch.given is not None else self._nothing_given
        return given.keys, given.times, given.values, *(a for t in self._references for a in (t.index, t.state))

    def subject_rows(self, kind: NDArray[np.uint8], offset: Ints, subject_offset: Ints) -> Ints:
        """`subject_row` of a batch to be folded next, from its `kind` and `offset` and the log offsets of the events
        that its labels are about (-1: unknown): rows of earlier batches, and of the batch's own events."""
        rows = self.side.rows_of(subject_offset)
        own = offset[kind == RecordKind.EVENT]
        at = np.searchsorted(own, subject_offset)
        at[at == len(own)] = 0
        inside = own[at] == subject_offset if len(own) else np.zeros(len(at), np.bool_)
        return np.where(inside, self.side.row_count + at, rows)

    def snapshot(self) -> bytes:
        """Tables, cursors, time and the side log's mark, with a checksum; the side log itself is not in it."""
        plan, meta = self.plan, self._meta
        mark = self.mark()
        head = (self.now, self.off_grid, *astuple(mark))
        cursors = meta[layout.META_CURSORS : layout.waiting_place(plan, 0)]
        parts = [_MAGIC, bytes.fromhex(plan.digest), struct.pack(_HEAD, *head), cursors.astype("<i8").tobytes()]
        for key, table in enumerate(self._tables):
            state = table.state[: self._used(key)]
            parts.append(pack_rows(state, state[:, STATE_REFERENCES] > 0))
        if plan.trails:
            nodes = self._nodes.nodes[: meta[layout.nodes_place(plan)]]
            parts.append(pack_rows(nodes, nodes[:, layout.NODE_BEFORE] >= 0))
        for place, table in enumerate(self._references):
            rows = table.state[: meta[layout.reference_place(plan, place)]]
            parts.append(pack_rows(rows, rows[:, ROW_ROLE] > 0))
        body = b"".join(parts)
        return body + hashlib.sha256(body).digest()

    def restore(self, saved: bytes) -> None:
        """The state that `snapshot` saved, with the side log cut to it. Raises Corrupt (SNAPSHOT_CORRUPT) or Conflict
        (SNAPSHOT_OF_OTHER_FEATURES), changing nothing; Corrupt (SIDE_CORRUPT) where the side log lacks what the
        snapshot needs: this state is then not to be used any more."""
        body, plan = _checked(saved), self.plan
        at = len(_MAGIC) + 32
        if body[len(_MAGIC) : at] != bytes.fromhex(plan.digest):
            raise Conflict(
                "This snapshot is of another set of features.",
                code="SNAPSHOT_OF_OTHER_FEATURES",
                next_action="Build the state of the new features from the stream's history.",
            )
        now, off_grid, *mark = struct.unpack_from(_HEAD, body, at)
        at += struct.calcsize(_HEAD)
        cursors = np.frombuffer(body, "<i8", len(plan.edges), at)
        at += cursors.nbytes
        tables = []
        for column in plan.keys:
            rows, used, at = unpack_rows(body, at, column.stride)
            tables.append((Table.of(rows), used))
        nodes, nodes_used = np.zeros((0, layout.NODE_WIDTH), np.int64), 1
        if plan.trails:
            nodes, nodes_used, at = unpack_rows(body, at, layout.NODE_WIDTH, free=(layout.NODE_BEFORE, -1))
        references = []
        for reference in plan.references:
            rows, used, at = unpack_rows(body, at, reference.stride)
            references.append((Table.of(rows), used))
        self.side.cut(Mark(*mark))
        self._meta[layout.META_NOW], self._meta[layout.META_OFF_GRID] = now, off_grid
        self._meta[layout.META_CURSORS : layout.waiting_place(plan, 0)] = cursors
        self._tables = [table for table, _ in tables]
        for key, (table, used) in enumerate(tables):
            place = layout.table_place(plan, key)
            self._meta[place] = used
            self._grow(table.index, table.state, self._meta, place)
        self._references = [table for table, _ in references]
        for place, (_, used) in enumerate(references):
            self._meta[layout.reference_place(plan, place)] = used
            self._find(place)
        self._meta[layout.nodes_place(plan)] = max(1, nodes_used)
        self._thread_nodes(Nodes.of(nodes))

    def rename(self, field: str, key: int, other: int, references: Collection[int] = ()) -> int:
        """What is held of the key of this column is that of the key `other` from now on, which nothing is held of; so
        are the rows of the references at these places of the plan, which lose their values. How many there were."""
        found = 0
        for place, column in enumerate(self.plan.keys):
            table = self._tables[place]
            held = table.state[: self._used(place)]
            if column.field == field and (mine := _held_as(held, key)).size:
                if _held_as(held, other).size:
                    raise Internal(f"The key {other} of {field} is held already.")
                held[mine, STATE_KEY] = other
                self._tables[place] = table = Table(np.zeros_like(table.index), table.state)
                self._grow(table.index, table.state, self._meta, layout.table_place(self.plan, place))
                found += len(mine)
        for place in references:
            table = self._references[place]
            rows = table.state[: int(self._meta[layout.reference_place(self.plan, place)])]
            mine = np.flatnonzero((rows[:, ROW_KEY] == key) & (rows[:, ROW_ROLE] > 0))
            if mine.size:
                rows[mine, ROW_KEY], rows[mine, ROW_VALUES:] = other, 0
                self._references[place] = Table(np.zeros_like(table.index), table.state)
                self._find(place)
                found += len(mine)
        return found

    def _thread_nodes(self, nodes: Nodes) -> None:
        self._nodes = nodes
        if self._thread is not None:
            self._thread(nodes.nodes, nodes.chains, self._meta, *(t.state for t in self._tables))

    def _find(self, reference: int) -> None:
        """The index of a reference, which is empty, anew."""
        assert self._find_rows is not None
        table = self._references[reference]
        self._find_rows(table.index, table.state, self._meta, layout.reference_place(self.plan, reference))

    def _used(self, key: int) -> int:
        return int(self._meta[layout.table_place(self.plan, key)])

    def _check_shapes(
        self, batch: EventBatch, n: int, out: NDArray[np.float32], exact: NDArray[np.float64] | None
    ) -> None:
        """The kernel trusts lengths: a wrong one would write into foreign memory."""
        wide = self._wide
        for outputs in (out,) if exact is None else (out, exact):
            if outputs.shape[1] != wide or (len(outputs) < n and len(outputs) < np.count_nonzero(batch.kind == _EVENT)):
                raise Internal(f"The output {outputs.shape} has no room for {n} records of {wide} features.")
        right = len(batch.effective) == n and len(batch.offset) == n
        if len(batch.subject_row) != n or len(batch.label) != n or len(batch.value) != n:
            kinds = batch.kind.tobytes()
            right = right and _LABEL not in kinds and _REFERENCE not in kinds
        elif self._references and _REFERENCE in batch.kind.tobytes():
            right = right and self._fits(batch)
        if not right:
            raise Internal("The arrays of a batch differ in length.")

    def _fits(self, batch: EventBatch) -> bool:
        """Whether what is given is there, in the width of the tables."""
        given, of_references = batch.given, batch.kind == _REFERENCE
        if given is None or given.values.shape[1] != self._nothing_given.values.shape[1]:
            return False
        places = batch.subject_row[of_references]
        known = int(places.min()) >= 0 and int(places.max()) < min(len(given.keys), len(given.times), len(given.values))
        return known and int(batch.label[of_references].max()) < len(self._references)

    def stacked(
        self, columns: Mapping[str, NDArray[np.float64] | Ints], keys: Mapping[str, Ints], n: int
    ) -> tuple[NDArray[np.float64], Ints, Ints]:
        """Numbers, times and keys side by side, in the plan's order and types."""
        plan = self.plan
        values = np.empty((len(plan.columns), n), np.float64)
        for place, name in enumerate(plan.columns):
            values[place] = columns[name]
        times = np.empty((len(plan.times), n), np.int64)
        for place, name in enumerate(plan.times):
            times[place] = columns[name]
        stacked_keys = np.empty((len(self._key_columns), n), np.int64)
        for place, name in enumerate(self._key_columns):
            stacked_keys[place] = keys[name]
        return values, times, stacked_keys

    def _make_room(self, key: int) -> None:
        """Keys without events in any window make room; where they are less than a quarter, the table doubles. Behind
        the keys: nodes, which all have a use when there are none left, then references, as do their rows."""
        if key > len(self._tables):
            place = key - len(self._tables) - 1
            full = self._references[place].state
            more = Table.empty(full.shape[1], 2 * len(full))
            more.state[: len(full)] = full
            self._references[place] = more
            self._find(place)
            return
        if key == len(self._tables):
            self._thread_nodes(self._nodes.doubled(len(self.plan.trails)))
            return
        table, used = self._tables[key], self._used(key)
        idle = int(np.count_nonzero(table.state[:used, STATE_REFERENCES] <= 0))
        slots = len(table.state) * (1 if 4 * idle >= len(table.state) else 2)
        grown = Table.empty(table.state.shape[1], slots)
        if slots == len(table.state):
            grown = Table(grown.index, table.state)
        else:
            grown.state[: len(table.state)] = table.state
        self._tables[key] = grown
        self._grow(grown.index, grown.state, self._meta, layout.table_place(self.plan, key))

    def _failure(self, status: int) -> Corrupt | Internal:
        meta = self._meta
        if status == layout.UNSOUND_ROW:
            return self.side.damage_at(int(meta[layout.META_FAULT]))
        at = int(meta[layout.META_AT])
        if status == layout.OUT_OF_ORDER:
            return Internal(f"Record {at} of the batch goes back in effective time, behind {self.now}.")
        return Internal(f"Record {at} of the batch is neither an event nor a label nor a row of a reference.")


def open_state(plan: FeaturePlan, directory: Path, cache_dir: Path, saved: bytes | None = None) -> FeatureState:
    """The state with its side log in `directory`, as it was at the snapshot `saved`, or empty."""
    kernel = load_kernel(plan, cache_dir)
    state = FeatureState(plan, disk_side(plan, directory), kernel)
    if saved is not None:
        state.restore(saved)
    return state


def _held_as(state: Ints, key: int) -> Ints:
    return np.flatnonzero((state[:, STATE_KEY] == key) & (state[:, STATE_REFERENCES] > 0))


_MAGIC = b"skyriver features 1\n"
_HEAD = "<8q"


def _checked(saved: bytes) -> bytes:
    body, checksum = saved[:-32], saved[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != checksum:
        raise Corrupt(
            "The snapshot of the features is not what was written.",
            code="SNAPSHOT_CORRUPT",
            next_action="Take an older checkpoint, or build the state anew from the stream's history.",
        )
    return body
