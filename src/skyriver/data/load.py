"""Loading files: into a stream's history, and into a plain table.

A stream's load is prepared here and brought into its log by the worker (DESIGN 6.1, 6.9): all rows of all files,
ordered by time and id, in blocks of HISTORY rows (see `decide.history`). Labels stand where they became known, after
the events of that time. Nothing is written before all files were read to their ends and few enough rows were bad.

Rows are held in memory, some 8 bytes a value and the texts: a few million rows, a few GB. More than that needs
several loads, in the order of time; sorting on disk is not built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput, NotFound
from skyriver.core.jobs import Progress
from skyriver.core.spec import FieldSpec, LabelSpec, StreamSpec, TableSpec
from skyriver.core.units import format_span
from skyriver.data.border import Reason, Rejection
from skyriver.data.border_frame import DTYPES, bad_rows, encode_raw, schema_of
from skyriver.data.files import LoadFile, open_source
from skyriver.data.intake import Intake, LoadReport, append_dead, disk
from skyriver.data.log import RecordKind
from skyriver.data.tables import Tables, TableVersion

BLOCK_ROWS = 65_536
KNOWN_AT = "known_at"
"""The column of a file of labels that says when each became known."""


@dataclass(frozen=True, slots=True)
class PreparedLoad:
    """`blocks`: Arrow IPC streams in the order of the log, `rows` rows altogether; `dead`: Arrow IPC files of
    DEAD_SCHEMA without `_offset`, see `store_dead`."""

    blocks: tuple[Path, ...]
    rows: int
    dead: tuple[Path, ...]
    report: LoadReport


def prepare_stream_load(
    stream: StreamSpec,
    files: Sequence[LoadFile],
    work_dir: Path,
    summed: frozenset[str],
    progress: Progress,
    *,
    latest: int | None = None,
) -> PreparedLoad:
    """Cleans and orders the files of one load and writes its blocks into `work_dir`.

    A file with `label` holds the id of a subject, a value in a column of the label's name and, if it has it,
    `known_at`; any other holds events, and may have a column per label: then it is known `delay` after its event. A
    label is known `delay` after its event too where `known_at` is missing; its event must then be in this load. An
    id that comes again within the stream's `dedupe` is a duplicate, so is a second value of a label: the first counts.
    An event after `latest` is a bad row: one wrong clock must not move the stream's time.

    Raises InvalidInput: the codes of `data.files`, NO_FILES, UNKNOWN_LABEL, TOO_MANY_BAD_ROWS; Unavailable (DISK_FULL).
    """
    with disk(work_dir):
        intake = Intake(work_dir, progress)
        events = _ordered(stream, list(_event_frames(stream, files, summed, intake, latest)))
        kept = ~_duplicates(events, stream)
        duplicates = len(events) - int(kept.sum())
        if duplicates:
            events = events.filter(pl.Series(kept))
        labels, label_duplicates = _labels(stream, files, events, intake)
        intake.check(stream.max_bad)
        report = intake.report(
            duplicates=duplicates,
            labels=len(labels),
            label_duplicates=label_duplicates,
            first_time=events[stream.time][0] if len(events) else None,
            last_time=events[stream.time][-1] if len(events) else None,
        )
        rows = len(events) + len(labels)
        blocks: list[Path] = []
        for frame in _blocks(stream, events, labels):
            path = work_dir / f"block-{len(blocks):06d}.arrow"
            frame.write_ipc_stream(path, compression="lz4")
            blocks.append(path)
            progress("writing blocks", min(len(blocks) * BLOCK_ROWS, rows), rows)
        return PreparedLoad(tuple(blocks), rows, tuple(intake.dead), report)


def load_table(
    table: TableSpec,
    files: Sequence[LoadFile],
    tables: Tables,
    name: str,
    offset: int,
    known: int | None,
    progress: Progress,
    *,
    work_dir: Path,
) -> LoadReport:
    """Appends the files' rows to the plain table `name` as one version, bad ones to `<name>.dead`.

    An id that is in the table already, or comes again in the load, is a duplicate and left out. `offset` counts the
    loads of this table: one that was done before is not done again. Raises as `prepare_stream_load` does.
    """
    last = _latest(tables, name)
    if last is not None and offset <= last.offset:
        return LoadReport(0, 0, {}, (), 0, 0, 0, None, None, {}, repeated=True, version=last)
    with disk(work_dir):
        intake = Intake(work_dir, progress)
        frames = [schema_frame(table.fields)]
        for file in files:
            if file.label:
                _refuse(file.name, "UNKNOWN_LABEL", f"{table.name} is a table: labels are columns of it.", "")
            frames.extend(cleaned.good for cleaned in intake.clean(file, table.fields, frozenset()))
        intake.check(table.max_bad)
        rows = pl.concat(frames)
        kept = rows.unique(subset=[table.id], keep="first", maintain_order=True)
        if last is not None:
            for piece in tables.scan(name, last.version, [table.id]):
                kept = kept.join(piece, on=table.id, how="anti", maintain_order="left")
        # The dead letters first: when they are there and the rows are not, the load is repeated, and does no harm.
        append_dead(tables, f"{name}.dead", intake.dead, offset)
        version = tables.append(name, [kept], offset=offset, known=known)
        return intake.report(duplicates=len(rows) - len(kept), version=version)


def store_dead(load: PreparedLoad, tables: Tables, name: str, position: int) -> TableVersion | None:
    """Appends a load's bad rows to the table `name`, once, however often it is called; None when there are none.

    `position`, their `_offset`, is the last log offset of the load and so its own. Whether its rows are there is
    looked up and not told from the table's offset: a load that was cut off may come again after others.
    """
    if not load.dead:
        return None
    last = _latest(tables, name)
    if last is None:
        return append_dead(tables, name, load.dead, position, version_offset=max(0, position))
    if any((piece["_offset"] == position).any() for piece in tables.scan(name, last.version, ["_offset"])):
        return last
    return append_dead(tables, name, load.dead, position, version_offset=max(position, last.offset + 1))


def schema_frame(fields: Sequence[FieldSpec]) -> pl.DataFrame:
    return pl.DataFrame(schema=schema_of(fields))


# Events and labels of a stream


def _label_field(label: LabelSpec, *, nullable: bool) -> FieldSpec:
    return FieldSpec(name=label.name, type="float", nullable=nullable)


def _event_frames(
    stream: StreamSpec, files: Sequence[LoadFile], summed: frozenset[str], intake: Intake, latest: int | None
) -> Iterator[pl.DataFrame]:
    """Fields and a column for each label, null where it is not known; labels are summed, so they keep to the grid."""
    every = (*stream.fields, *(_label_field(label, nullable=True) for label in stream.labels))
    yield schema_frame(every)
    for file in files:
        if file.label:
            continue
        source = open_source(file.path, file.name, file.format)
        labels = [label for label in stream.labels if source.has(label.name)]
        fields = (*stream.fields, *(_label_field(label, nullable=True) for label in labels))
        lacking = [pl.lit(None, pl.Float64).alias(label.name) for label in stream.labels if label not in labels]
        for cleaned in intake.clean(file, fields, summed | {label.name for label in labels}):
            good = cleaned.good
            if latest is not None:
                sound = good[stream.time] <= latest
                rows = good.with_columns(cleaned.rows.alias("_row")).filter(~sound)
                intake.refuse(file.name, _ahead_of_clock(rows, stream, latest))
                good = good.filter(sound)
            yield good.with_columns(lacking).select([f.name for f in every])


def _ahead_of_clock(rows: pl.DataFrame, stream: StreamSpec, latest: int) -> pl.DataFrame:
    bad = []
    for row in rows.iter_rows(named=True):
        ahead = format_span(row[stream.time] - latest + stream.ahead_us)
        message = f"{stream.time} is {ahead} ahead of the clock here."
        rejection = Rejection(stream.time, row[stream.time], Reason.AHEAD_OF_CLOCK, message)
        bad.append((row.pop("_row"), rejection, encode_raw(row)))
    return bad_rows(bad)


def _ordered(stream: StreamSpec, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """By (time, id), and what has both the same in the order of the files."""
    return pl.concat(frames).sort(stream.time, stream.id, maintain_order=True)


def _duplicates(events: pl.DataFrame, stream: StreamSpec) -> NDArray[np.bool_]:
    """Which of the ordered events have an id that was taken no longer than `dedupe` before."""
    dropped = np.zeros(len(events), dtype=np.bool_)
    again = events[stream.id].is_duplicated()
    if not again.any():
        return dropped
    suspects = (
        events.select(pl.col(stream.id).alias("id"), pl.col(stream.time).alias("time"))
        .with_row_index("place")
        .filter(again)
        .sort("id", "place")
    )
    current: object = None
    taken = 0
    for place, key, time in suspects.iter_rows():
        if key == current and time - taken <= stream.dedupe_us:
            dropped[place] = True
        else:
            current, taken = key, time
    return dropped


def _labels(
    stream: StreamSpec, files: Sequence[LoadFile], events: pl.DataFrame, intake: Intake
) -> tuple[pl.DataFrame, int]:
    """(`_time`, `_label`, `_subject`, `_value`) in the order of time and subject, and how many came again."""
    frames = [
        events.filter(pl.col(label.name).is_not_null()).select(
            (pl.col(stream.time) + label.delay_us).alias("_time"),
            pl.lit(place, dtype=pl.UInt8).alias("_label"),
            pl.col(stream.id).alias("_subject"),
            pl.col(label.name).alias("_value"),
        )
        for place, label in enumerate(stream.labels)
    ]
    subjects = events.select(pl.col(stream.id).alias("_subject"), pl.col(stream.time).alias("_event"))
    subjects = subjects.unique(subset="_subject", keep="first", maintain_order=True)
    frames.extend(frame for file in files if file.label for frame in _label_file(stream, file, subjects, intake))
    if not frames:
        return pl.DataFrame(schema={"_time": pl.Int64(), "_label": pl.UInt8()}), 0
    every = pl.concat(frames).sort("_time", "_subject", "_label", maintain_order=True)
    labels = every.unique(subset=["_label", "_subject"], keep="first", maintain_order=True)
    return labels, len(every) - len(labels)


def _label_file(stream: StreamSpec, file: LoadFile, subjects: pl.DataFrame, intake: Intake) -> Iterator[pl.DataFrame]:
    place = next((n for n, label in enumerate(stream.labels) if label.name == file.label), None)
    if place is None:
        known = ", ".join(label.name for label in stream.labels) or "none"
        _refuse(file.name, "UNKNOWN_LABEL", f"{stream.name} has no label {file.label!r}.", f"It has {known}.")
    label = stream.labels[place]
    fields = [stream.field(stream.id), _label_field(label, nullable=False)]
    if open_source(file.path, file.name, file.format).has(KNOWN_AT):
        unit = stream.field(stream.time).time_unit
        fields.append(FieldSpec(name=KNOWN_AT, type="time", nullable=True, time_unit=unit))
    for cleaned in intake.clean(file, fields, frozenset({label.name})):
        rows = (
            cleaned.good.rename({stream.id: "_subject", label.name: "_value"})
            .with_columns(cleaned.rows.alias("_row"))
            .with_columns([] if len(fields) > 2 else [pl.lit(None, pl.Int64).alias(KNOWN_AT)])
            .join(subjects, on="_subject", how="left", maintain_order="left")
            .with_columns(pl.coalesce(KNOWN_AT, pl.col("_event") + label.delay_us).alias("_time"))
        )
        good = (pl.col("_time") >= pl.coalesce("_event", "_time")).fill_null(False)
        intake.refuse(file.name, _bad_labels(rows.filter(~good), stream.id, label.name))
        yield rows.filter(good).select("_time", pl.lit(place, dtype=pl.UInt8).alias("_label"), "_subject", "_value")


def _bad_labels(rows: pl.DataFrame, id_field: str, label: str) -> pl.DataFrame:
    """Labels whose place in time cannot be told."""
    bad = []
    for row in rows.iter_rows(named=True):
        if row["_time"] is None:
            reason, why = Reason.MISSING, "is missing, and the event it is about is not in this load"
        else:
            reason, why = Reason.BAD_TIME, "lies before the event that the label is about"
        rejection = Rejection(KNOWN_AT, row[KNOWN_AT], reason, f"{KNOWN_AT} {why}.")
        raw = encode_raw({id_field: row["_subject"], label: row["_value"], KNOWN_AT: row[KNOWN_AT]})
        bad.append((row["_row"], rejection, raw))
    return bad_rows(bad)


def _blocks(stream: StreamSpec, events: pl.DataFrame, labels: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Both in one order, in blocks: a label stands after the events of its time."""
    fields = schema_of(stream.fields)
    id_type = DTYPES[stream.field(stream.id).type]
    # Where each label stands among all rows: after the events up to its time, and the labels before it.
    places = np.searchsorted(events[stream.time].to_numpy(), labels["_time"].to_numpy(), side="right")
    places = places + np.arange(len(labels))
    total = len(events) + len(labels)
    for start in range(0, total, BLOCK_ROWS):
        first, last = np.searchsorted(places, [start, min(start + BLOCK_ROWS, total)])
        event_start, event_end = start - first, min(start + BLOCK_ROWS, total) - last
        some_events = events.slice(event_start, event_end - event_start).select(
            pl.lit(int(RecordKind.EVENT), dtype=pl.UInt8).alias("_kind"),
            pl.col(stream.time).alias("_time"),
            *fields,
            pl.lit(None, pl.UInt8).alias("_label"),
            pl.lit(None, id_type).alias("_subject"),
            pl.lit(None, pl.Float64).alias("_value"),
        )
        if first == last:
            yield some_events
            continue
        some_labels = labels.slice(first, last - first).select(
            pl.lit(int(RecordKind.LABEL), dtype=pl.UInt8).alias("_kind"),
            "_time",
            *(pl.lit(None, dtype).alias(name) for name, dtype in fields.items()),
            "_label",
            "_subject",
            "_value",
        )
        yield pl.concat([some_events, some_labels]).sort("_time", "_kind", maintain_order=True)


def _latest(tables: Tables, name: str) -> TableVersion | None:
    try:
        return tables.latest(name)
    except NotFound:
        return None


def _refuse(name: str, code: str, message: str, next_action: str) -> NoReturn:
    raise InvalidInput(message, code=code, where=name, next_action=next_action)
