"""From a stream's log to the stream's tables (DESIGN 6.9).

Four tables, and one for each reference of the stream, each row with the log offset that it stands at:

- `<stream>`            the fields, `_offset`, `_effective` (T, microseconds), `_late`
- `<stream>.labels`     `_offset`, `label`, `subject` (an id), `value`, `known_at`, `subject_offset` (-1: no such event)
- `<stream>.decisions`  `_offset` and the fields of a decision record; `features` is null where there were none
- `<stream>.dead`       `_offset`, `reason`, `field`, `message`, `raw`
- `<stream>.<reference>`  the reference's fields, `_offset`

Each table remembers the last log offset that it covers, so that a job that is killed and done again adds nothing
twice; they may be at different offsets then, and catch up each for itself. A table that got no row for a while is left
as it is, for an empty version is a file for ever: the next job looks again at what is behind its offset, EMPTY_AFTER
offsets at most. The events' own table always goes along: its offset tells how far the stream is materialised.

Payloads (msgpack arrays; HISTORY is an Arrow IPC stream) of single events are read by their layout, not by the types
that the deciding rooms downstream write them with. Fields are only ever added at an array's end, and such are passed
over.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import polars as pl
from msgspec.structs import astuple
from numpy.typing import NDArray

from skyriver.core.errors import Conflict, Corrupt, NotFound
from skyriver.core.jobs import Progress
from skyriver.core.spec import StreamSpec
from skyriver.data.border_frame import DTYPES, schema_of
from skyriver.data.columns import Column, decode_events
from skyriver.data.decisions import DecisionColumns
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.data.operations import tables_of_stream
from skyriver.data.tables import StreamTables, Tables, TableVersion

COMMIT_ROWS = 1_000_000
"""Offsets after which rows are appended; a log of any length is read in such steps."""
EMPTY_AFTER = 250_000
"""Offsets after which a table without new rows gets an empty version: reading them again takes 0.4 s (1.7 us each)."""
FRAME_ROWS = 65_536
_LATE = 1
_OF_RECORDS = 4
"""Tables that every stream has; behind them are those of its references."""

Schema = Mapping[str, pl.DataType]


def schemas_of_stream(stream: StreamSpec) -> dict[str, dict[str, pl.DataType]]:
    """Columns of the tables that a stream owns, by the tables' names."""
    id_type = DTYPES[stream.field(stream.id).type]
    events, labels, decisions, dead, *references = tables_of_stream(stream)
    offset: dict[str, pl.DataType] = {"_offset": pl.Int64()}
    return {
        events: {**schema_of(stream.fields), **offset, "_effective": pl.Int64(), "_late": pl.Boolean()},
        labels: {
            **offset,
            "label": pl.String(),
            "subject": id_type,
            "value": pl.Float64(),
            "known_at": pl.Int64(),
            "subject_offset": pl.Int64(),
        },
        decisions: {
            **offset,
            "event_offset": pl.Int64(),
            "id": id_type,
            "status": pl.String(),
            "decision": pl.String(),
            "score": pl.Float64(),
            "features": pl.List(pl.Float32()),
            "model": pl.String(),
            "version": pl.Int64(),
            "rules_digest": pl.String(),
            "features_digest": pl.String(),
            "reason": pl.String(),
            "decided_at_us": pl.Int64(),
            "latency_us": pl.Int64(),
            "arm": pl.String(),
            "shadow_version": pl.Int64(),
            "shadow_score": pl.Float64(),
            "rule": pl.String(),
            "probability": pl.Float64(),
            "shadow_decision": pl.String(),
            "shadow_rules": pl.String(),
        },
        dead: {**offset, **dict.fromkeys(("reason", "field", "message", "raw"), pl.String())},
        **{
            name: {**schema_of(reference.fields), **offset}
            for name, reference in zip(references, stream.references, strict=True)
        },
    }


def materialise(
    stream: StreamSpec,
    reader: LogReader,
    tables: StreamTables,
    tenant: str,
    known: Mapping[str, int],
    progress: Progress,
    *,
    begin: int = 0,
    end: int | None = None,
) -> list[tuple[str, TableVersion]]:
    """Brings the stream's tables up to what the log holds when this is called, or up to the offset `end` alone, which
    is as far as it is durable, and puts small files together; returns (table, its newest version). `begin` is the log's
    first offset.

    `known`: the recorded version of each table, by its full name (`tenant/table`). Raises Corrupt (UNREADABLE_RECORD)
    naming the offset, Corrupt (TABLE_AHEAD_OF_LOG, TABLE_BEHIND_LOG), Conflict (ENCRYPTED_RECORD), and what the log and
    the tables raise; what was appended until then stays.
    """
    parts = [
        _Part(f"{tenant}/{name}", schema, _held(tables, f"{tenant}/{name}"))
        for name, schema in schemas_of_stream(stream).items()
    ]
    decoder = _Decoder(stream, *parts)
    end = reader.next_offset if end is None else end
    ahead = next((part for part in parts if part.held is not None and part.held >= end), None)
    if ahead is not None:
        raise Corrupt(
            f"{ahead.name} covers the log up to offset {ahead.held}, but the log ends before {end}: it lost its end.",
            code="TABLE_AHEAD_OF_LOG",
            where=ahead.name,
            next_action="Remove the stream's tables and let them be made again from the log.",
        )
    covered = parts[0].held if parts[0].held is not None else -1
    if covered + 1 < begin:
        raise Corrupt(
            f"{parts[0].name} covers the log up to offset {covered}, but the log begins with {begin}: what is between"
            " them was given up when the table had it, and the table has lost it.",
            code="TABLE_BEHIND_LOG",
            where=parts[0].name,
            next_action="Restore the stream's tables from a backup.",
        )
    # A table that got no rows for a while stands before the events'; of what the log gave up it has all.
    start = max(begin, 1 + min(part.held if part.held is not None else -1 for part in parts))
    for part in parts:
        if part.held is not None:  # a table of a release before may lack columns
            tables.widen(part.name, part.schema, known=known.get(part.name))
    last = start - 1
    waiting = 0
    for record in reader.read(start, end=end):
        decoder.take(record)
        last = record.offset + record.count - 1
        waiting += record.count
        if waiting >= COMMIT_ROWS:
            _append(tables, parts, last, known)
            waiting = 0
            progress("materialising", last + 1 - start, end - start)
    _append(tables, parts, last, known)
    progress("materialising", end - start, end - start)
    return [(part.name, tables.compact(part.name, known=known.get(part.name))) for part in parts]


def _held(tables: Tables, name: str) -> int | None:
    try:
        return tables.latest(name).offset
    except NotFound:
        return None


def _append(tables: Tables, parts: Sequence[_Part], last: int, known: Mapping[str, int]) -> None:
    """References come first: whoever reads events finds the rows there that stand before them in the log."""
    events = parts[0]
    for part in (*parts[_OF_RECORDS:], *parts[:_OF_RECORDS]):
        if (
            part.held is None
            or last - part.held >= EMPTY_AFTER
            or (last > part.held and (part is events or part.waits))
        ):
            tables.append(part.name, part.drain(), offset=last, known=known.get(part.name))
            part.held = last


@dataclass(slots=True)
class _Part:
    """Rows on their way into one table. `held`: the last offset that the table covers, None before its first."""

    name: str
    schema: Schema
    held: int | None
    _waiting: list[tuple[object, ...]] = field(default_factory=list)
    _frames: list[pl.DataFrame] = field(default_factory=list)

    def wants(self, offset: int) -> bool:
        return self.held is None or offset > self.held

    @property
    def waits(self) -> bool:
        """Whether there are rows that the table has not."""
        return bool(self._waiting or self._frames)

    def add(self, row: tuple[object, ...]) -> None:
        """One row, in the order of the schema."""
        self._waiting.append(row)
        if len(self._waiting) >= FRAME_ROWS:
            self._flush()

    def add_frame(self, frame: pl.DataFrame) -> None:
        """Many rows, with at least the columns of the schema."""
        if self.held is not None:
            frame = frame.filter(pl.col("_offset") > self.held)
        if len(frame):
            self._flush()
            self._frames.append(frame.select(list(self.schema)))

    def drain(self) -> list[pl.DataFrame]:
        """All that waits, at least one frame; nothing waits then."""
        self._flush()
        frames, self._frames = self._frames, []
        return frames or [pl.DataFrame(schema=self.schema)]

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = zip(*self._waiting, strict=True)
        self._waiting = []
        try:
            self._frames.append(
                pl.DataFrame(
                    [_column(name, dtype, c) for (name, dtype), c in zip(self.schema.items(), columns, strict=True)]
                )
            )
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            raise Corrupt(
                f"Records hold values that do not fit {self.name}: {str(error).splitlines()[0][:200]}.",
                code="UNREADABLE_RECORD",
                where=self.name,
            ) from error


def _column(name: str, dtype: pl.DataType, values: Sequence[object]) -> pl.Series:
    if isinstance(dtype, pl.List):
        return _float_lists(name, [value if isinstance(value, bytes) else b"" for value in values])
    return pl.Series(name, values, dtype=dtype)


def _float_lists(name: str, rows: Sequence[bytes]) -> pl.Series:
    """Rows of float32 as lists, null for none; all rows of one length at a time, not row by row."""
    lengths = np.array([len(row) for row in rows])
    places: list[NDArray[np.int64]] = []
    lists: list[pl.Series] = []
    for length in np.unique(lengths):
        place = np.flatnonzero(lengths == length)
        if length:
            numbers = np.frombuffer(b"".join([rows[i] for i in place.tolist()]), dtype="<f4").reshape(len(place), -1)
            lists.append(pl.Series(name, numbers, dtype=pl.Array(pl.Float32, numbers.shape[1])).arr.to_list())
        else:
            lists.append(pl.Series(name, [None], dtype=pl.List(pl.Float32)).new_from_index(0, len(place)))
        places.append(place)
    return pl.concat(lists)[np.argsort(np.concatenate(places))]


_array = msgspec.msgpack.Decoder(list[object])


_OUTCOME: Schema = {
    "status": pl.String(),
    "decision": pl.String(),
    "model": pl.String(),
    "version": pl.Int64(),
    "rules_digest": pl.String(),
    "features_digest": pl.String(),
    "reason": pl.String(),
    "arm": pl.String(),
    "rule": pl.String(),
    "shadow_decision": pl.String(),
    "shadow_rules": pl.String(),
}
_ADDED = ("", 0, None, "", None, "", "")
"""arm, shadow_version, shadow_score, rule, probability, shadow_decision and shadow_rules of a DECISION record of before
they were written."""


def _places(record: Record) -> pl.Series:
    return pl.Series("_offset", np.arange(record.offset, record.offset + record.count))


def _series(name: str, dtype: pl.DataType, column: Column) -> pl.Series:
    series = pl.Series(name, column.values, dtype=dtype)
    if column.missing is None or isinstance(column.values, list):
        return series
    return series.zip_with(pl.Series(~column.missing), pl.Series([None], dtype=dtype))


def _known(name: str, values: NDArray[np.float32] | None, count: int) -> pl.Series:
    """Null for NaN, and where there are none."""
    if values is None:
        return pl.Series(name, [None], dtype=pl.Float64).new_from_index(0, count)
    return pl.Series(name, values.astype(np.float64)).fill_nan(None)


def _vectors(features: NDArray[np.float32], without: NDArray[np.bool_] | None, count: int) -> pl.Series:
    """Lists of float32, null for the events without."""
    having = np.flatnonzero(~without) if without is not None else np.arange(count)
    if not len(having):
        return pl.Series("features", [None], dtype=pl.List(pl.Float32)).new_from_index(0, count)
    lists = pl.Series("features", features, dtype=pl.Array(pl.Float32, features.shape[1])).arr.to_list()
    if len(having) == count:
        return lists
    places = np.full(count, None, object)
    places[having] = np.arange(len(having))
    return lists.gather(pl.Series(places.tolist(), dtype=pl.UInt32))


class _Decoder:
    """Puts each record's rows where they belong."""

    def __init__(
        self, stream: StreamSpec, events: _Part, labels: _Part, decisions: _Part, dead: _Part, *references: _Part
    ) -> None:
        self._stream = stream
        self._events, self._labels, self._decisions, self._dead = events, labels, decisions, dead
        self._references = references
        self._names = [label.name for label in stream.labels]

    def take(self, record: Record) -> None:
        if record.key_id:
            raise Conflict(
                f"The record at offset {record.offset} is encrypted under a subject's key: no table is made of it.",
                code="ENCRYPTED_RECORD",
                where=f"{self._stream.name}@{record.offset}",
                next_action="Materialise the stream where its keys are.",
            )
        match record.kind:
            case RecordKind.EVENT:
                self._event(record)
            case RecordKind.LABEL:
                self._label(record)
            case RecordKind.REFERENCE:
                self._reference(record, record.offset, record.payload)
            case RecordKind.DECISION:
                self._decision(record)
            case RecordKind.DEAD:
                self._refused(record)
            case RecordKind.HISTORY:
                self._history(record)
            case RecordKind.EVENTS:
                self._block(record)
            case RecordKind.DECISIONS:
                self._decided_block(record)
            case RecordKind.CONTROL:
                pass

    def _event(self, record: Record) -> None:
        if self._events.wants(record.offset):
            flags, *values = self._read(record, 1 + len(self._stream.fields))
            self._events.add((*values, record.offset, record.time, self._flag(record, flags)))

    def _flag(self, record: Record, flags: object) -> bool:
        if not isinstance(flags, int):
            raise self._unreadable(record, "its flags are no number")
        return bool(flags & _LATE)

    def _label(self, record: Record) -> None:
        if self._labels.wants(record.offset):
            index, *rest = self._read(record, 5)
            if not isinstance(index, int) or not 0 <= index < len(self._names):
                raise self._unreadable(record, f"the stream has no label {index}")
            subject, value, known_at, subject_offset = rest
            self._labels.add((record.offset, self._names[index], subject, value, known_at, subject_offset))

    def _reference(self, record: Record, offset: int, payload: bytes) -> None:
        index, *values = self._values(record, payload)
        if not isinstance(index, int) or not 0 <= index < len(self._references):
            raise self._unreadable(record, f"the stream has no reference {index!r}")
        part = self._references[index]
        if len(values) < len(part.schema) - 1:
            raise self._unreadable(record, f"a row of {part.name} has {len(values)} values")
        if part.wants(offset):
            part.add((*values[: len(part.schema) - 1], offset))

    def _decision(self, record: Record) -> None:
        if self._decisions.wants(record.offset):
            values = self._read(record, 13, added=_ADDED)
            features = values[5]
            if not isinstance(features, bytes) or len(features) % 4:
                raise self._unreadable(record, "its features are no row of float32")
            self._decisions.add((record.offset, *values))

    def _refused(self, record: Record) -> None:
        if self._dead.wants(record.offset):
            reason, name, message, raw = self._read(record, 4)
            text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
            self._dead.add((record.offset, str(reason), str(name), str(message), text))

    def _history(self, record: Record) -> None:
        try:
            frame = pl.read_ipc_stream(io.BytesIO(record.payload))
            if len(frame) != record.count:
                raise self._unreadable(record, f"it has {len(frame)} rows, its header says {record.count}")
            frame = frame.with_columns(pl.int_range(record.offset, record.offset + record.count).alias("_offset"))
            late = pl.lit(False).alias("_late")
            self._events.add_frame(frame.filter(pl.col("_kind") == RecordKind.EVENT).with_columns(late))
            rows = frame.filter(pl.col("_kind") == RecordKind.REFERENCE)
            for offset, payload in rows.select("_offset", "_reference").iter_rows() if len(rows) else ():
                self._reference(record, offset, payload)
            names = pl.Series(self._names, dtype=pl.String)
            labels = frame.filter(pl.col("_kind") == RecordKind.LABEL)
            if len(labels):
                self._labels.add_frame(
                    labels.select(
                        "_offset",
                        label=pl.lit(names).gather(pl.col("_label").cast(pl.UInt32)),
                        subject="_subject",
                        value="_value",
                        known_at="_time",
                        subject_offset="_subject_offset",
                    )
                )
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._unreadable(record, str(error).splitlines()[0][:200]) from error

    def _block(self, record: Record) -> None:
        last = record.offset + record.count - 1
        if not self._events.wants(last):
            return
        block = decode_events(record.payload, record.count)
        if [column.type for column in block.columns.columns] != [field.type for field in self._stream.fields]:
            raise self._unreadable(record, "its columns are not the fields of the stream")
        late = block.late if block.late is not None else np.zeros(record.count, np.bool_)
        self._events.add_frame(
            pl.DataFrame(
                [
                    *(
                        _series(name, dtype, column)
                        for (name, dtype), column in zip(
                            schema_of(self._stream.fields).items(), block.columns.columns, strict=True
                        )
                    ),
                    _places(record),
                    pl.Series("_effective", block.effective),
                    pl.Series("_late", late),
                ]
            )
        )

    def _decided_block(self, record: Record) -> None:
        if not self._decisions.wants(record.offset + record.count - 1):
            return
        n = record.count
        try:
            found = DecisionColumns.decode(record.payload, n)
            outcomes = pl.DataFrame([astuple(outcome) for outcome in found.outcomes], schema=_OUTCOME, orient="row")
            frame = outcomes[found.codes.astype(np.uint32)].with_columns(
                _places(record),
                pl.Series("event_offset", np.arange(found.first, found.first + n)),
                pl.Series("id", found.ids, dtype=self._decisions.schema["id"]),
                pl.Series("score", found.scores.astype(np.float64)).fill_nan(None),
                _vectors(found.features, found.without, n),
                pl.Series("decided_at_us", np.full(n, found.decided_at_us)),
                pl.Series("latency_us", found.latency_us),
                pl.Series("shadow_version", found.shadow_versions),
                _known("shadow_score", found.shadow, n),
                _known("probability", found.probabilities, n),
            )
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise self._unreadable(record, str(error).splitlines()[0][:200]) from error
        self._decisions.add_frame(frame)

    def _values(self, record: Record, payload: bytes) -> list[object]:
        try:
            return _array.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unreadable(record, str(error)) from error

    def _read(self, record: Record, length: int, added: Sequence[object] = ()) -> list[object]:
        """At least `length` values, and those that later releases `added` behind them, by what they are before that."""
        values = self._values(record, record.payload)
        if len(values) < length or (record.kind is RecordKind.EVENT and len(values) != length):
            raise self._unreadable(record, f"it has {len(values)} values instead of {length}")
        return [*values[: length + len(added)], *added[max(0, len(values) - length) :]]

    def _unreadable(self, record: Record, why: str) -> Corrupt:
        return Corrupt(
            f"The record of kind {record.kind.name} at offset {record.offset} cannot be read: {why}.",
            code="UNREADABLE_RECORD",
            where=f"{self._stream.name}@{record.offset}",
        )
