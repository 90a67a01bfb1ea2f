"""Features over history: the very kernel of the stream, folding tables instead of a log.

Events, labels and rows of references are merged by offset, so each event sees what was known at its place in the log.
This module alone loads polars: the stream worker computes features without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.core.errors import Internal
from skyriver.core.jobs import Progress
from skyriver.data.keys import codes_of_column, keys_of_column
from skyriver.data.log import RecordKind
from skyriver.features.given import Given
from skyriver.features.kernel import load_kernel
from skyriver.features.layout import MISSING
from skyriver.features.plan import FeaturePlan
from skyriver.features.side import memory_side
from skyriver.features.state import EventBatch, FeatureState, Ints
from skyriver.features.texts import numbers_of_series

Scalar = TypeVar("Scalar", bound=np.generic)

_NO_OFFSET = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Backfill:
    """Of the events that were not late, in log order: offset int64 [n], effective time int64 [n] (microseconds),
    features float32 [n, F] and, if asked for, the same before rounding, float64 [n, F] (else 0 rows). Of a table:
    the rows in order, with their numbers as offsets and 0 as time."""

    offsets: Ints
    effective: Ints
    features: NDArray[np.float32]
    exact: NDArray[np.float64]
    unknown_labels: int = 0
    """Label records without an event of their subject's id before them; they count for nothing. Of a part: so far."""


def backfill(
    plan: FeaturePlan,
    cache_dir: Path,
    events: Iterable[pl.DataFrame],
    labels: pl.DataFrame | None = None,
    *,
    references: Mapping[str, pl.DataFrame] | None = None,
    exact: bool = False,
    progress: Progress | None = None,
    total: int = 0,
) -> Backfill:
    """The features of all `events`.

    `events`: frames in offset order with the source's fields and, of a stream, `_offset` i64, `_effective` i64,
    `_late` bool. `labels`, in any order: `_offset` i64, `label` text, `subject` (as the id), `value` f64, and
    `subject_offset` i64 where a stream recorded which event it meant; without it, it is the first one with that id.
    `references`: of each reference that the plan looks something up in, `_offset` i64 and its fields, in any order.
    `total` is the number of events, for `progress`. Raises Internal when the offsets go back.
    """
    parts = [
        _nothing(plan),
        *backfill_parts(
            plan, cache_dir, events, labels, references=references, exact=exact, progress=progress, total=total
        ),
    ]
    return Backfill(
        np.concatenate([p.offsets for p in parts]),
        np.concatenate([p.effective for p in parts]),
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.exact for p in parts]),
        parts[-1].unknown_labels,
    )


def backfill_parts(
    plan: FeaturePlan,
    cache_dir: Path,
    events: Iterable[pl.DataFrame],
    labels: pl.DataFrame | None = None,
    *,
    references: Mapping[str, pl.DataFrame] | None = None,
    exact: bool = False,
    progress: Progress | None = None,
    total: int = 0,
) -> Iterator[Backfill]:
    """As `backfill`, a part a frame, each with the unknown labels so far, and an empty one at the end: of all events
    only one frame is held."""
    if plan.of_stream:
        state = FeatureState(plan, memory_side(plan), load_kernel(plan, cache_dir))
        history = _History(plan, _Labels.of(plan, labels), _References.of(plan, references or {}))
        pieces = _released(state, history.fold(state, events, exact=exact))
    else:
        history = _History(plan, _Labels.of(plan, None), _References.of(plan, {}))
        pieces = _projected(plan, cache_dir, events, exact=exact)
    done = 0
    for part in pieces:
        done += len(part.offsets)
        if progress is not None:
            progress("features", done, total)
        yield replace(part, unknown_labels=history.labels.unknown)
    yield replace(_nothing(plan), unknown_labels=history.labels.unknown)


def fold_history(
    state: FeatureState,
    events: Iterable[pl.DataFrame],
    labels: pl.DataFrame | None = None,
    *,
    references: Mapping[str, pl.DataFrame] | None = None,
    exact: bool = False,
) -> Iterator[Backfill]:
    """Folds history into `state` and gives the features frame by frame; arguments as of `backfill`."""
    plan = state.plan
    history = _History(plan, _Labels.of(plan, labels), _References.of(plan, references or {}))
    return history.fold(state, events, exact=exact)


def _released(state: FeatureState, parts: Iterator[Backfill]) -> Iterator[Backfill]:
    for part in parts:
        state.side.release(state.mark())  # no checkpoint: only the windows still need rows
        yield part


def _nothing(plan: FeaturePlan) -> Backfill:
    none, width = np.empty(0, np.int64), len(plan.names)
    return Backfill(none, none, np.empty((0, width), np.float32), np.empty((0, width), np.float64))


@dataclass(slots=True)
class _Labels:
    """Label records in offset order, and what is known of their subjects so far."""

    offsets: Ints
    places: NDArray[np.uint8]
    values: NDArray[np.float64]
    subjects: Ints
    """Place of each record's subject in the three below."""
    ids: Ints
    """Keys of the different subjects, ascending."""
    first_offsets: Ints
    """Offset of the first event with that id."""
    rows: Ints
    """Its side row; -1: late, or not met yet."""
    subject_offsets: Ints | None
    """Offsets of the subjects' events as the stream found them (-1: none); None: they are found by id."""
    unknown: int = 0
    taken: int = 0

    @classmethod
    def of(cls, plan: FeaturePlan, frame: pl.DataFrame | None) -> _Labels:
        places = {label.name: label.index for label in plan.labels}
        if frame is None:
            frame = pl.DataFrame(
                schema={"_offset": pl.Int64, "label": pl.String, "subject": pl.Int64, "value": pl.Float64}
            )
        frame = frame.filter(pl.col("label").is_in(list(places))).sort("_offset")
        ids, subjects = np.unique(keys_of_column(frame["subject"]), return_inverse=True)
        indexes: NDArray[np.uint8] = np.empty(0, np.uint8)
        if places:
            indexes = frame["label"].replace_strict(places, return_dtype=pl.UInt8).to_numpy()
        return cls(
            _ints(frame["_offset"]),
            indexes,
            _floats(frame["value"]),
            subjects.astype(np.int64),
            ids,
            np.full(len(ids), _NO_OFFSET),
            np.full(len(ids), -1, np.int64),
            _ints(frame["subject_offset"]) if "subject_offset" in frame.columns else None,
        )

    def meet(self, ids: Ints, offsets: Ints, rows: Ints) -> None:
        """Events: the first one with an id is the one its labels are about."""
        if not len(self.ids):
            return
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        wanted = np.flatnonzero(self.ids[at] == ids)[::-1]  # backwards: of several assignments the last one stays
        wanted = wanted[self.first_offsets[at[wanted]] == _NO_OFFSET]
        self.first_offsets[at[wanted]] = offsets[wanted]
        self.rows[at[wanted]] = rows[wanted]

    def take(self, until: int) -> tuple[slice, Ints]:
        """The records with offsets up to `until` that were not taken yet, and where their subjects are: side rows or,
        where the stream recorded them, log offsets; -1 for unknown."""
        end = int(np.searchsorted(self.offsets, until, side="right"))
        these = slice(self.taken, end)
        self.taken = end
        if self.subject_offsets is not None:
            found = self.subject_offsets[these]
            self.unknown += int(np.count_nonzero(found < 0))
            return these, found
        known = self.first_offsets[self.subjects[these]] < self.offsets[these]
        self.unknown += int(np.count_nonzero(~known))
        return these, np.where(known, self.rows[self.subjects[these]], -1)


@dataclass(slots=True)
class _References:
    """Rows of references in offset order. `places`: of their references in the plan."""

    offsets: Ints
    places: NDArray[np.uint8]
    given: Given
    taken: int = 0

    @classmethod
    def of(cls, plan: FeaturePlan, frames: Mapping[str, pl.DataFrame]) -> _References:
        if missing := [table.name for table in plan.references if table.name not in frames]:
            raise Internal(f"Features look up {missing[0]}, whose rows are not given.")
        tables = [(place, table, frames[table.name]) for place, table in enumerate(plan.references)]
        offsets = np.concatenate([np.empty(0, np.int64), *(_ints(frame["_offset"]) for _, _, frame in tables)])
        places = [np.empty(0, np.uint8), *(np.full(len(frame), place, np.uint8) for place, _, frame in tables)]
        order = np.argsort(offsets, kind="stable")
        parts = [
            Given.of_columns(
                plan.references,
                keys_of_column(frame[table.id]),
                _ints(frame[table.time]),
                [_floats(frame[name]) for name in table.fields],
            )
            for _, table, frame in tables
        ]
        given = Given.in_order([Given.none(plan.references), *parts], order)
        return cls(offsets[order], np.concatenate(places)[order], given)

    def take(self, until: int) -> slice:
        """The rows with offsets up to `until` that were not taken yet."""
        these = slice(self.taken, int(np.searchsorted(self.offsets, until, side="right")))
        self.taken = these.stop
        return these


@dataclass(slots=True)
class _History:
    plan: FeaturePlan
    labels: _Labels
    references: _References
    last_offset: int = field(default=-1)

    def fold(self, state: FeatureState, events: Iterable[pl.DataFrame], *, exact: bool) -> Iterator[Backfill]:
        for frame in events:
            yield self._fold_one(state, frame, exact=exact)
        these, subjects = self.labels.take(_NO_OFFSET)  # after the last event: they change the state only
        rows = self.references.take(_NO_OFFSET)
        if len(subjects) or rows.stop > rows.start:
            self._fold_batch(state, self._batch(state, None, these, subjects, rows), 0, exact=False)

    def _fold_one(self, state: FeatureState, frame: pl.DataFrame, *, exact: bool) -> Backfill:
        offsets, in_time = _ints(frame["_offset"]), ~frame["_late"].to_numpy()
        if not len(offsets):
            return _nothing(self.plan)
        if offsets[0] <= self.last_offset or bool(np.any(np.diff(offsets) <= 0)):
            raise Internal(f"The history of {self.plan.spec.source} is not in the order of its offsets.")
        self.last_offset = int(offsets[-1])
        rows = np.where(in_time, state.side.row_count + np.cumsum(in_time) - 1, -1)
        if len(self.labels.ids) and self.labels.subject_offsets is None:
            self.labels.meet(keys_of_column(frame[self.plan.id]), offsets, rows)
        these, subjects = self.labels.take(self.last_offset)
        given = self.references.take(self.last_offset)
        kept = frame if bool(in_time.all()) else frame.filter(pl.Series(in_time))
        return self._fold_batch(state, self._batch(state, kept, these, subjects, given), len(kept), exact=exact)

    def _fold_batch(self, state: FeatureState, batch: EventBatch, events: int, *, exact: bool) -> Backfill:
        width = len(self.plan.names)
        features = np.empty((events, width), np.float32)
        before = np.empty((events if exact else 0, width), np.float64)
        state.fold(batch, features, before if exact else None)
        of_event = batch.kind == RecordKind.EVENT
        return Backfill(batch.offset[of_event], batch.effective[of_event], features, before)

    def _batch(
        self, state: FeatureState, frame: pl.DataFrame | None, these: slice, subjects: Ints, rows: slice
    ) -> EventBatch:
        """The frame's events, `these` labels and these `rows` of references, merged by offset."""
        plan, labels, references = self.plan, self.labels, self.references
        events = _Events.of(plan, frame)
        label_offsets, row_offsets = labels.offsets[these], references.offsets[rows]
        of_events = np.arange(len(events.offset))
        for others in (label_offsets, row_offsets):
            if len(others):
                of_events += np.searchsorted(others, events.offset)
        of_labels = np.arange(len(subjects)) + np.searchsorted(events.offset, label_offsets)
        of_rows = np.arange(len(row_offsets)) + np.searchsorted(events.offset, row_offsets)
        if len(subjects) and len(row_offsets):
            of_labels += np.searchsorted(row_offsets, label_offsets)
            of_rows += np.searchsorted(label_offsets, row_offsets)
        n = len(events.offset) + len(subjects) + len(row_offsets)
        kind = np.full(n, RecordKind.LABEL.value, np.uint8)
        kind[of_events], kind[of_rows] = RecordKind.EVENT.value, RecordKind.REFERENCE.value
        offset = _spread(events.offset, of_events, n)
        if len(subjects):
            offset[of_labels] = label_offsets
        if len(row_offsets):
            offset[of_rows] = row_offsets
        if labels.subject_offsets is not None and len(subjects):
            subjects = state.subject_rows(kind, offset, subjects)
        subject_row = _spread(subjects, of_labels, n)
        label = _spread(labels.places[these], of_labels, n)
        if len(row_offsets):
            subject_row, label = subject_row.copy(), label.copy()
            subject_row[of_rows], label[of_rows] = np.arange(rows.start, rows.stop), references.places[rows]
        numbers = {name: _spread(column, of_events, n) for name, column in events.numbers.items()}
        times = {name: _spread(column, of_events, n) for name, column in events.times.items()}
        return EventBatch(
            kind=kind,
            effective=_spread(events.effective, of_events, n),
            offset=offset,
            columns={**numbers, **times},
            keys={name: _spread(column, of_events, n) for name, column in events.keys.items()},
            subject_row=subject_row,
            label=label,
            value=_spread(labels.values[these], of_labels, n),
            codes={name: _spread(column, of_events, n) for name, column in events.codes.items()},
            given=references.given,
        )


@dataclass(frozen=True, slots=True)
class _Events:
    offset: Ints
    effective: Ints
    numbers: dict[str, NDArray[np.float64]]
    times: dict[str, Ints]
    keys: dict[str, Ints]
    codes: dict[str, Ints]

    @classmethod
    def of(cls, plan: FeaturePlan, frame: pl.DataFrame | None) -> _Events:
        """Of no frame: no events."""
        if frame is None:
            none = np.empty(0, np.int64)
            numbers = dict.fromkeys(plan.columns, np.empty(0, np.float64))
            times, keys, codes = (dict.fromkeys(n, none) for n in (plan.times, plan.key_columns, plan.codes))
            return cls(none, none, numbers, times, keys, codes)
        return cls(
            _ints(frame["_offset"]),
            _ints(frame["_effective"]),
            dict(zip(plan.columns, _numbers(plan, frame), strict=True)),
            {name: _ints(frame[name]) for name in plan.times},
            {name: keys_of_column(frame[name]) for name in plan.key_columns},
            {name: codes_of_column(frame[name]) for name in plan.codes},
        )


def _projected(
    plan: FeaturePlan, cache_dir: Path, frames: Iterable[pl.DataFrame], *, exact: bool
) -> Iterator[Backfill]:
    """Features of a table's rows: expressions of the row alone."""
    project = load_kernel(plan, cache_dir).project
    if project is None:
        raise Internal("The features of a stream are not computed row by row.")
    done, width = 0, len(plan.names)
    for frame in frames:
        n = len(frame)
        values = np.empty((len(plan.columns), n), np.float64)
        for place, column in enumerate(_numbers(plan, frame)):
            values[place] = column
        times = np.empty((len(plan.times), n), np.int64)
        for place, name in enumerate(plan.times):
            times[place] = _ints(frame[name])
        features = np.empty((n, width), np.float32)
        before = np.empty((n if exact else 0, width), np.float64)
        project(values, times, features, before)
        yield Backfill(np.arange(done, done + n), np.zeros(n, np.int64), features, before)
        done += n


def _numbers(plan: FeaturePlan, frame: pl.DataFrame) -> Iterator[NDArray[np.float64]]:
    """The plan's columns, in their order."""
    yield from (_floats(frame[name]) for name in plan.number_fields)
    yield from (numbers_of_series(text, frame[text.field]) for text in plan.texts)


def _floats(series: pl.Series) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return numbers


def _ints(series: pl.Series) -> Ints:
    numbers: Ints = series.cast(pl.Int64).fill_null(MISSING).to_numpy()
    return numbers


def _spread(values: NDArray[Scalar], at: Ints, n: int) -> NDArray[Scalar]:
    """`values` at the places `at` of an array of `n`, zeros elsewhere."""
    if len(values) == n:
        return np.ascontiguousarray(values)
    spread = np.zeros(n, values.dtype)
    spread[at] = values
    return spread
