"""Loading files into a stream's history: all rows of all files in one order, however many they are.

A load is prepared here and brought into the stream's log by its worker (DESIGN 6.1, 6.9): all rows of all files,
ordered by time and id, in blocks of HISTORY rows (`decide.log.history`). Labels stand where they became known, after
the events of that time; rows of references where they become current, before the events of that time. Nothing is
written to the log before all files were read to their ends and few enough rows were bad.

Nothing here holds all rows (`ordering`):

 1. Files are cleaned piece by piece, and their events sorted outside memory.
 2. The sorted events go back to disk; beside them, split by a hash of the id into parts of some PART_ROWS rows, what
    tells duplicates (id, time, place in the order) and the labels, those from columns and those from files.
 3. Part by part, where all rows of an id are together: which events are duplicates, when each label was known, which
    came before. The labels are sorted outside memory.
 4. Events without duplicates, labels and rows of references, sorted outside memory too, are merged into blocks.

On the disk it takes two to three times the packed rows; a byte an event is held in memory (whether it is a duplicate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import Progress
from skyriver.core.spec import FieldSpec, LabelSpec, StreamSpec, with_roles
from skyriver.core.units import format_span
from skyriver.data.border import Reason, Rejection
from skyriver.data.border_frame import DTYPES, bad_rows, encode_raw, schema_of
from skyriver.data.files import LoadFile, open_source
from skyriver.data.intake import Intake, LoadReport, disk
from skyriver.data.log import RecordKind
from skyriver.data.ordering import CHUNK_ROWS, Parts, Sorter, merge, read_chunks, write_chunk

BLOCK_ROWS = 65_536
PART_ROWS = 1 << 20
KNOWN_AT = "known_at"
"""The column of a file of labels that says when each became known."""
encode_row = msgspec.msgpack.encode
_FROM_FILE = -1
"""The place of the event of a label that came in a file of labels."""


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
    A file with `reference` holds rows of that reference. An event or such a row after `latest` is a bad row: one wrong
    clock must not move the stream's time.

    Raises InvalidInput: the codes of `data.files`, NO_FILES, UNKNOWN_LABEL, UNKNOWN_REFERENCE, TOO_MANY_BAD_ROWS;
    Unavailable (DISK_FULL).
    """
    with disk(work_dir):
        load = _Load(stream, files, work_dir, Intake(work_dir, progress), summed)
        load.clean(latest)
        load.order()
        load.settle()
        load.intake.check(stream.max_bad)
        return load.write()


class _Load:
    """One load on its way; the methods are its steps."""

    def __init__(
        self, stream: StreamSpec, files: Sequence[LoadFile], work_dir: Path, intake: Intake, summed: frozenset[str]
    ) -> None:
        self.intake = intake
        self._stream = stream
        self._files = files
        self._work_dir = work_dir
        self._summed = summed
        id_type = DTYPES[stream.field(stream.id).type]
        self._sorter = Sorter(work_dir, "events", [stream.time, stream.id])
        self._known = Sorter(work_dir, "known", ["_time", "_subject", "_label"])
        self._given_rows = Sorter(work_dir, "references", ["_time"])
        self._references = 0
        self._label_chunks: list[Path] = []
        self._ordered: list[Path] = []
        self._subjects = {"_subject": id_type, "_event": pl.Int64(), "_place": pl.Int64()}
        self._given = {
            "_subject": id_type,
            "_label": pl.UInt8(),
            "_value": pl.Float64(),
            "_time": pl.Int64(),
            "_place": pl.Int64(),
            "_file": pl.Int64(),
            "_row": pl.Int64(),
        }
        self._kept: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._rows = self._labels = self._label_duplicates = 0
        self._first_time: int | None = None
        self._last_time: int | None = None

    def clean(self, latest: int | None) -> None:
        for frame in _event_frames(self._stream, self._files, self._summed, self.intake, latest):
            self._sorter.add(frame)
            self._rows += len(frame)
        for number, file in enumerate(self._files):
            if file.label:
                for frame in _label_file(self._stream, file, self.intake):
                    path = self._work_dir / f"labels-{len(self._label_chunks):06d}.arrow"
                    given = frame.with_columns(
                        pl.lit(_FROM_FILE, pl.Int64).alias("_place"), pl.lit(number, pl.Int64).alias("_file")
                    )
                    self._label_chunks.append(write_chunk(path, given.select(list(self._given))))
            elif file.reference:
                for frame in _reference_file(self._stream, file, self.intake, latest):
                    self._given_rows.add(frame)
                    self._references += len(frame)

    def order(self) -> None:
        """Events in their order, and what is to be seen id by id."""
        stream, parts = self._stream, 1 + self.intake.rows // PART_ROWS
        self._subject_parts = Parts(self._work_dir, "subjects", parts, self._subjects)
        self._label_parts = Parts(self._work_dir, "given", parts, self._given)
        place = 0
        for frame in self._sorter.sorted():
            for piece in frame.iter_slices(CHUNK_ROWS):
                placed = piece.with_columns(pl.int_range(place, place + len(piece), dtype=pl.Int64).alias("_place"))
                self._subject_parts.add(
                    placed.select(pl.col(stream.id).alias("_subject"), pl.col(stream.time).alias("_event"), "_place")
                )
                for number, label in enumerate(stream.labels):
                    self._label_parts.add(_of_column(placed, stream, label, number).select(list(self._given)))
                path = self._work_dir / f"ordered-{len(self._ordered):06d}.arrow"
                self._ordered.append(write_chunk(path, piece.select([f.name for f in stream.fields])))
                place += len(piece)
            self.intake.progress("sorting", place, self._rows)
        for given in read_chunks(self._label_chunks):
            self._label_parts.add(given)
        self._kept = np.ones(place, np.bool_)

    def settle(self) -> None:
        """Duplicates are found, and labels get their time."""
        for number in range(self._subject_parts.count):
            events = self._subject_parts.read(number).sort("_place")
            dropped = _duplicates(events, self._stream)
            self._kept[events["_place"].filter(pl.Series(dropped)).to_numpy()] = False
            subjects = events.filter(pl.Series(~dropped)).unique("_subject", keep="first", maintain_order=True)
            labels = self._with_times(self._label_parts.read(number), subjects)
            every = labels.sort("_time", "_subject", "_label", maintain_order=True)
            first = every.unique(subset=["_label", "_subject"], keep="first", maintain_order=True)
            self._label_duplicates += len(every) - len(first)
            self._labels += len(first)
            self._known.add(first)
            self.intake.progress("looking for duplicates", number + 1, self._subject_parts.count)

    def _with_times(self, given: pl.DataFrame, subjects: pl.DataFrame) -> pl.DataFrame:
        """Labels whose place in time can be told; the others are bad rows."""
        of_files = given["_place"] == _FROM_FILE
        delays = pl.Series([label.delay_us for label in self._stream.labels], dtype=pl.Int64)
        kept = pl.Series(self._kept[np.maximum(given["_place"].to_numpy(), 0)]) if len(self._kept) else ~of_files
        columns = given.filter(~of_files & kept)
        rows = (
            given.filter(of_files)
            .rename({"_time": KNOWN_AT})
            .join(subjects.select("_subject", "_event"), on="_subject", how="left", maintain_order="left")
            .with_columns(pl.lit(delays).gather(pl.col("_label").cast(pl.UInt32)).alias("_delay"))
            .with_columns(pl.coalesce(KNOWN_AT, pl.col("_event") + pl.col("_delay")).alias("_time"))
        )
        good = (pl.col("_time") >= pl.coalesce("_event", "_time")).fill_null(False)
        bad = rows.filter(~good)
        for number in bad["_file"].unique().sort():
            file = self._files[number]
            of_file = bad.filter(pl.col("_file") == number).sort("_row")
            self.intake.refuse(file.name, _bad_labels(of_file, self._stream.id, file.label))
        wanted = ["_time", "_label", "_subject", "_value"]
        return pl.concat([columns.select(wanted), rows.filter(good).select(wanted)])

    def write(self) -> PreparedLoad:
        merged = self._merged()
        rows = int(self._kept.sum()) + self._labels + self._references
        blocks: list[Path] = []
        for frame in _cut(merged, BLOCK_ROWS):
            path = self._work_dir / f"block-{len(blocks):06d}.arrow"
            frame.write_ipc_stream(path, compression="lz4")
            blocks.append(path)
            self.intake.progress("writing blocks", min(len(blocks) * BLOCK_ROWS, rows), rows)
        report = self.intake.report(
            duplicates=len(self._kept) - int(self._kept.sum()),
            labels=self._labels,
            references=self._references,
            label_duplicates=self._label_duplicates,
            first_time=self._first_time,
            last_time=self._last_time,
        )
        return PreparedLoad(tuple(blocks), rows, tuple(self.intake.dead), report)

    def _merged(self) -> Iterator[pl.DataFrame]:
        if not self._stream.references:
            return merge([self._event_rows(), self._label_rows()], ["_time", "_kind"])
        rank = pl.when(pl.col("_kind") == RecordKind.REFERENCE).then(0).otherwise(pl.col("_kind")).alias("_rank")
        sources = (self._reference_rows(), self._event_rows(), self._label_rows())
        ranked = [(_as_row(frame, self._stream).with_columns(rank) for frame in frames) for frames in sources]
        return (frame.drop("_rank") for frame in merge(ranked, ["_time", "_rank"]))

    def _reference_rows(self) -> Iterator[pl.DataFrame]:
        for frame in self._given_rows.sorted():
            yield frame.with_columns(pl.lit(int(RecordKind.REFERENCE), dtype=pl.UInt8).alias("_kind"))

    def _event_rows(self) -> Iterator[pl.DataFrame]:
        """As they stand in blocks."""
        stream, place = self._stream, 0
        fields = schema_of(stream.fields)
        for frame in read_chunks(self._ordered):
            kept = self._kept[place : place + len(frame)]
            place += len(frame)
            if not kept.all():
                frame = frame.filter(pl.Series(kept))
            if not len(frame):
                continue
            times = frame[stream.time]
            self._first_time, self._last_time = times[0] if self._first_time is None else self._first_time, times[-1]
            yield frame.select(
                pl.lit(int(RecordKind.EVENT), dtype=pl.UInt8).alias("_kind"),
                pl.col(stream.time).alias("_time"),
                *fields,
                pl.lit(None, pl.UInt8).alias("_label"),
                pl.lit(None, fields[stream.id]).alias("_subject"),
                pl.lit(None, pl.Float64).alias("_value"),
            )

    def _label_rows(self) -> Iterator[pl.DataFrame]:
        fields = schema_of(self._stream.fields)
        for frame in self._known.sorted():
            yield frame.select(
                pl.lit(int(RecordKind.LABEL), dtype=pl.UInt8).alias("_kind"),
                "_time",
                *(pl.lit(None, dtype).alias(name) for name, dtype in fields.items()),
                "_label",
                "_subject",
                "_value",
            )


def _as_row(frame: pl.DataFrame, stream: StreamSpec) -> pl.DataFrame:
    """With all columns of a block of a stream that has references; those that it lacks are null."""
    fields = schema_of(stream.fields)
    schema: dict[str, pl.DataType] = {
        "_kind": pl.UInt8(),
        "_time": pl.Int64(),
        **fields,
        "_label": pl.UInt8(),
        "_subject": fields[stream.id],
        "_value": pl.Float64(),
        "_reference": pl.Binary(),
    }
    return frame.select(
        pl.col(name) if name in frame.columns else pl.lit(None, dtype).alias(name) for name, dtype in schema.items()
    )


def _cut(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of `rows` each; the last one may have fewer."""
    waiting: list[pl.DataFrame] = []
    there = 0
    for frame in frames:
        rest = frame
        while there + len(rest) >= rows:
            yield pl.concat([*waiting, rest[: rows - there]])
            rest, waiting, there = rest[rows - there :], [], 0
        if len(rest):
            waiting.append(rest)
            there += len(rest)
    if waiting:
        yield pl.concat(waiting)


def _of_column(events: pl.DataFrame, stream: StreamSpec, label: LabelSpec, number: int) -> pl.DataFrame:
    """Labels that stand in a column of their events: known `delay` after them."""
    return events.filter(pl.col(label.name).is_not_null()).select(
        pl.col(stream.id).alias("_subject"),
        pl.lit(number, dtype=pl.UInt8).alias("_label"),
        pl.col(label.name).alias("_value"),
        (pl.col(stream.time) + label.delay_us).alias("_time"),
        "_place",
        pl.lit(_FROM_FILE, pl.Int64).alias("_file"),
        pl.lit(0, pl.Int64).alias("_row"),
    )


def _label_field(label: LabelSpec, *, nullable: bool) -> FieldSpec:
    return FieldSpec(name=label.name, type="float", nullable=nullable)


def _event_frames(
    stream: StreamSpec, files: Sequence[LoadFile], summed: frozenset[str], intake: Intake, latest: int | None
) -> Iterator[pl.DataFrame]:
    """Fields and a column for each label, null where it is not known; labels are summed, so they keep to the grid."""
    own = with_roles(stream.fields, stream.id, stream.time)
    every = (*own, *(_label_field(label, nullable=True) for label in stream.labels))
    for file in files:
        if file.label or file.reference:
            continue
        source = open_source(file.path, file.name, file.format)
        labels = [label for label in stream.labels if source.has(label.name)]
        fields = (*own, *(_label_field(label, nullable=True) for label in labels))
        lacking = [pl.lit(None, pl.Float64).alias(label.name) for label in stream.labels if label not in labels]
        for cleaned in intake.clean(file, fields, summed | {label.name for label in labels}):
            good = cleaned.good
            if latest is not None:
                sound = good[stream.time] <= latest
                rows = good.with_columns(cleaned.rows.alias("_row")).filter(~sound)
                intake.refuse(file.name, _ahead_of_clock(rows, stream, latest, stream.time))
                good = good.filter(sound)
            yield good.with_columns(lacking).select([f.name for f in every])


def _reference_file(stream: StreamSpec, file: LoadFile, intake: Intake, latest: int | None) -> Iterator[pl.DataFrame]:
    """Its good rows: `_time`, and `_reference` as a record of that kind holds them."""
    index = next((n for n, r in enumerate(stream.references) if r.name == file.reference), None)
    if index is None:
        known = ", ".join(r.name for r in stream.references) or "none"
        message = f"{stream.name} has no reference {file.reference!r}."
        _refuse(file.name, "UNKNOWN_REFERENCE", message, f"It has {known}.")
    reference = stream.references[index]
    fields = with_roles(reference.fields, reference.id, reference.time)
    for cleaned in intake.clean(file, fields, frozenset()):
        good = cleaned.good
        if latest is not None:
            sound = good[reference.time] <= latest
            rows = good.with_columns(cleaned.rows.alias("_row")).filter(~sound)
            intake.refuse(file.name, _ahead_of_clock(rows, stream, latest, reference.time))
            good = good.filter(sound)
        payloads = [encode_row([index, *row]) for row in good.select([f.name for f in reference.fields]).iter_rows()]
        yield pl.DataFrame({"_time": good[reference.time], "_reference": pl.Series(payloads, dtype=pl.Binary)})


def _ahead_of_clock(rows: pl.DataFrame, stream: StreamSpec, latest: int, field: str) -> pl.DataFrame:
    bad = []
    for row in rows.iter_rows(named=True):
        ahead = format_span(row[field] - latest + stream.ahead_us)
        message = f"{field} is {ahead} ahead of the clock here."
        rejection = Rejection(field, row[field], Reason.AHEAD_OF_CLOCK, message)
        bad.append((row.pop("_row"), rejection, encode_raw(row)))
    return bad_rows(bad)


def _duplicates(events: pl.DataFrame, stream: StreamSpec) -> NDArray[np.bool_]:
    """Which of the ordered events have an id that was taken no longer than `dedupe` before."""
    dropped = np.zeros(len(events), dtype=np.bool_)
    again = events["_subject"].is_duplicated()
    if not again.any():
        return dropped
    suspects = (
        events.select(pl.col("_subject").alias("id"), pl.col("_event").alias("time"))
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


def _label_file(stream: StreamSpec, file: LoadFile, intake: Intake) -> Iterator[pl.DataFrame]:
    """Its good rows; `_time` is when they became known, where the file tells."""
    place = next((n for n, label in enumerate(stream.labels) if label.name == file.label), None)
    if place is None:
        known = ", ".join(label.name for label in stream.labels) or "none"
        _refuse(file.name, "UNKNOWN_LABEL", f"{stream.name} has no label {file.label!r}.", f"It has {known}.")
    label = stream.labels[place]
    fields = [stream.field(stream.id), _label_field(label, nullable=False)]
    if open_source(file.path, file.name, file.format).has(KNOWN_AT):
        unit = stream.field(stream.time).time_unit
        fields.append(FieldSpec(name=KNOWN_AT, type="time", nullable=True, time_unit=unit))
    for cleaned in intake.clean(file, with_roles(fields, stream.id, KNOWN_AT), frozenset({label.name})):
        yield cleaned.good.select(
            pl.col(stream.id).alias("_subject"),
            pl.lit(place, dtype=pl.UInt8).alias("_label"),
            pl.col(label.name).alias("_value"),
            (pl.col(KNOWN_AT) if len(fields) > 2 else pl.lit(None, pl.Int64)).alias("_time"),
            cleaned.rows.alias("_row"),
        )


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


def _refuse(name: str, code: str, message: str, next_action: str) -> NoReturn:
    raise InvalidInput(message, code=code, where=name, next_action=next_action)
