"""Blocks of history: what a bulk load brings into a stream's log, many rows a record, as an Arrow IPC stream.

Columns of a block as it comes from a load, in order of time: `_kind` u8 (RecordKind.EVENT, LABEL or REFERENCE), `_time`
i64 (the event's own time, the label's known_at, the row's own time), the stream's fields (null but in events), `_label`
u8 (place in the stream's labels), `_subject` (id type: the event that the label is about), `_value` f64 (all three null
but in labels); where the stream has references, `_reference` binary (what a REFERENCE record holds, null but in those
rows). The worker
adds what only it knows: `_effective` i64 (T) and `_subject_offset` i64 (-1: no such event before the label), so that
the record in the log says all that a replay needs.

Polars is loaded when the first block comes: it takes 25 MB, and most workers never see one after their start.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt, InvalidInput
from skyriver.core.spec import StreamSpec
from skyriver.data.keys import keys_of_column
from skyriver.data.log import RecordKind
from skyriver.decide.log.lists import Lists
from skyriver.decide.log.records import decode_reference

if TYPE_CHECKING:
    import polars as pl

MAX_ROWS = 65_536
ADDED = ("_effective", "_subject_offset")

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """A block that was checked. `events`, bool [n], tells events from labels and rows of references."""

    frame: pl.DataFrame
    events: NDArray[np.bool_]
    times: Ints

    def __len__(self) -> int:
        return len(self.events)

    def keep(self, rows: NDArray[np.bool_]) -> Block:
        """Only these rows."""
        if rows.all():
            return self
        import polars as pl  # its weight: see the module

        return Block(self.frame.filter(pl.Series(rows)), self.events[rows], self.times[rows])

    def event_ids(self, field: str) -> Ints:
        """Ids of the events as keys."""
        return keys_of_column(self.frame[field].filter(self.frame["_kind"] == RecordKind.EVENT))

    def texts(self, field: str) -> list[str]:
        """A field of the events that is a text in each."""
        return self.frame[field].filter(self.frame["_kind"] == RecordKind.EVENT).to_list()

    @property
    def of_labels(self) -> NDArray[np.bool_]:
        labels: NDArray[np.bool_] = self.frame["_kind"].to_numpy() == RecordKind.LABEL
        return labels

    def subjects(self) -> Ints:
        """Ids of the labels' subjects as keys."""
        return keys_of_column(self.frame["_subject"].filter(self.frame["_kind"] == RecordKind.LABEL))


def read_block(data: bytes, stream: StreamSpec) -> Block:
    """A block from a load. Raises InvalidInput (BAD_BLOCK) naming what is wrong with it."""
    frame = _decode(data)
    if frame is None:
        raise _refuse(stream, "it is not an Arrow IPC stream")
    wanted = _schema(stream)
    wrong = next((c for c in (*wanted, *frame.columns) if wanted.get(c) != frame.schema.get(c)), None)
    if wrong is not None:
        raise _refuse(stream, f"{wrong} is {frame.schema.get(wrong)}, it should be {wanted.get(wrong)}")
    frame = frame.select(list(wanted))
    if not 0 < len(frame) <= MAX_ROWS:
        raise _refuse(stream, f"it has {len(frame)} rows, at most {MAX_ROWS} are taken")
    kind = frame["_kind"].to_numpy()
    events = kind == RecordKind.EVENT
    labels, references = kind == RecordKind.LABEL, kind == RecordKind.REFERENCE
    if not np.all(events | labels | references) or (references.any() and not stream.references):
        raise _refuse(stream, "_kind is neither that of an event nor that of a label or a reference")
    _check_nulls(frame, int(np.count_nonzero(events)), int(np.count_nonzero(labels)), stream)
    if references.any():
        _check_references(frame, stream)
    times = frame["_time"].to_numpy()
    if np.any(times[1:] < times[:-1]):
        raise _refuse(stream, "its rows are not in the order of _time")
    return Block(frame, events, times)


def complete(block: Block, effective: Ints, subject_offset: Ints) -> pl.DataFrame:
    """The rows as they are logged. `subject_offset` int64 [n] is read for labels alone."""
    import polars as pl  # its weight: see the module

    return block.frame.with_columns(
        pl.Series("_effective", effective),
        pl.Series("_subject_offset", np.where(block.of_labels, subject_offset, -1)),
    )


def encode_frame(frame: pl.DataFrame) -> bytes:
    """The payload of a HISTORY record."""
    out = io.BytesIO()
    frame.write_ipc_stream(out, compression="lz4")
    return out.getvalue()


def read_record(payload: bytes) -> pl.DataFrame:
    """The rows of a HISTORY record, in the order of their offsets."""
    frame = _decode(payload)
    if frame is None or not set(ADDED) <= set(frame.columns):
        raise Corrupt("A record of kind HISTORY cannot be read.", code="UNREADABLE_RECORD")
    return frame


def learn_frame(lists: Lists, frame: pl.DataFrame, only: Collection[int] | None = None) -> None:
    """The rows of lists in a HISTORY record; `only` of those at these places."""
    if len(lists) and "_reference" in frame.columns:
        import polars as pl  # its weight: see the module

        rows = frame.filter(pl.col("_kind") == RecordKind.REFERENCE).select("_reference", "_effective")
        for payload, now in rows.iter_rows():
            index, values = decode_reference(payload)
            if only is None or index in only:
                lists.learn(index, values, now)


def _decode(data: bytes) -> pl.DataFrame | None:
    import polars as pl  # its weight: see the module

    try:
        return pl.read_ipc_stream(io.BytesIO(data)).rechunk()
    except (pl.exceptions.PolarsError, OSError):
        return None


def _schema(stream: StreamSpec) -> dict[str, pl.DataType]:
    import polars as pl  # its weight: see the module

    from skyriver.data.border_frame import schema_of  # loads polars

    fields = schema_of(stream.fields)
    return {
        "_kind": pl.UInt8(),
        "_time": pl.Int64(),
        **fields,
        "_label": pl.UInt8(),
        "_subject": fields[stream.id],
        "_value": pl.Float64(),
        **({"_reference": pl.Binary()} if stream.references else {}),
    }


def _check_nulls(frame: pl.DataFrame, events: int, labels: int, stream: StreamSpec) -> None:
    nulls = {name: frame[name].null_count() for name in frame.columns}
    always = ["_kind", "_time"]
    of_events = [f.name for f in stream.fields if not f.nullable]
    of_labels = ["_label", "_subject", "_value"]
    of_references = ["_reference"] if stream.references else []
    rows = len(frame)
    for names, expected in (
        (always, 0),
        (of_events, rows - events),
        (of_labels, rows - labels),
        (of_references, events + labels),
    ):
        for name in names:
            if nulls[name] != expected:
                raise _refuse(stream, f"{name} has {nulls[name]} missing values where {expected} rows have none")
    if labels and (named := int(frame["_label"].drop_nulls().to_numpy().max())) >= len(stream.labels):
        raise _refuse(stream, f"it names label {named}, the stream has {len(stream.labels)}")


def _check_references(frame: pl.DataFrame, stream: StreamSpec) -> None:
    for payload in frame["_reference"].drop_nulls().to_list():
        index, values = decode_reference(payload)
        if not 0 <= index < len(stream.references) or len(values) != len(stream.references[index].fields):
            raise _refuse(stream, f"it holds a row of reference {index}, the stream has {len(stream.references)}")


def _refuse(stream: StreamSpec, why: str) -> InvalidInput:
    return InvalidInput(
        f"The block does not fit the stream {stream.name}: {why}.",
        code="BAD_BLOCK",
        next_action="Load the file again: its blocks are made anew by what is declared now.",
    )
