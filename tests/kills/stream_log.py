"""What a stream's log holds, as tables: the truth that its answers and its tables are held against."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.adapters.segments.log import SegmentReader
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import decode_events
from skyriver.data.log import Record, RecordKind
from skyriver.data.materialise import schemas_of_stream
from skyriver.decide.log.blocks import decisions_of, events_of
from skyriver.decide.log.records import (
    LATE,
    ControlRecord,
    DecisionRecord,
    decode_control,
    decode_label,
    decode_reference,
)

EVENT, LABEL = int(RecordKind.EVENT), int(RecordKind.LABEL)


@dataclass(frozen=True, slots=True)
class LogContent:
    """`events`, `labels`, `decisions` and `rows` (of its list) have the columns of the stream's tables, by offset.
    `live`: which events came live, and are to be decided; the others are history. `problems`: where the order is
    broken."""

    events: pl.DataFrame
    live: NDArray[np.bool_]
    labels: pl.DataFrame
    decisions: pl.DataFrame
    controls: list[tuple[int, ControlRecord]]
    """By their offsets: what the decisions after each were made with."""
    refused: list[int]
    """Offsets of refused events."""
    end: int
    problems: list[str]
    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame({"_offset": []}))


class _Collector:
    def __init__(self, stream: StreamSpec) -> None:
        self._stream = stream
        self._names = [f.name for f in stream.fields]
        self._label_names = [label.name for label in stream.labels]
        events, labels, decisions, _, *lists = schemas_of_stream(stream).values()
        self.schemas = {"events": events, "labels": labels, "decisions": decisions, "rows": {"_offset": pl.Int64()}}
        if lists:
            (self.schemas["rows"],) = lists
        self.rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in self.schemas}
        self.frames: dict[str, list[pl.DataFrame]] = {name: [] for name in self.schemas}
        self.live: list[NDArray[np.bool_]] = []
        self.controls: list[tuple[int, ControlRecord]] = []
        self.refused: list[int] = []

    def take(self, record: Record) -> None:
        match record.kind:
            case RecordKind.EVENT | RecordKind.EVENTS:
                times = [record.time]
                if record.kind is RecordKind.EVENTS:
                    times = decode_events(record.payload, record.count).effective.tolist()
                for place, ((flags, values), time) in enumerate(zip(events_of(record), times, strict=True)):
                    self._add("events", (*values, record.offset + place, time, bool(flags & LATE)))
            case RecordKind.DECISION | RecordKind.DECISIONS:
                for place, decision in enumerate(decisions_of(record)):
                    self._decision(record.offset + place, decision)
            case RecordKind.LABEL:
                found = decode_label(record.payload)
                name = self._label_names[found.label_index]
                subject, value, known = found.subject_id, found.value, found.known_at_us
                self._add("labels", (record.offset, name, subject, value, known, found.subject_offset))
            case RecordKind.REFERENCE:
                _, values = decode_reference(record.payload)
                self._add("rows", (*values, record.offset))
            case RecordKind.HISTORY:
                self._history(record)
            case RecordKind.CONTROL:
                self.controls.append((record.offset, decode_control(record.payload)))
            case RecordKind.DEAD:
                self.refused.append(record.offset)
            case _:
                raise AssertionError(f"{record.kind!r} at offset {record.offset}: nobody told me what it is")

    def _add(self, table: str, row: tuple[Any, ...]) -> None:
        rows = self.rows[table]
        rows.append(row)
        if len(rows) >= 1 << 16:
            self.flush(table)

    def flush(self, table: str) -> None:
        rows, self.rows[table] = self.rows[table], []
        if rows:
            self.frames[table].append(pl.DataFrame(rows, schema=self.schemas[table], orient="row"))
            if table == "events":
                self.live.append(np.ones(len(rows), np.bool_))

    def _decision(self, offset: int, found: DecisionRecord) -> None:
        features = np.frombuffer(found.features, "<f4").tolist() if found.features else None
        head = (offset, found.event_offset, found.id, str(found.status), found.decision, found.score, features)
        tail = (found.model, found.version, found.rules_digest, found.features_digest, str(found.reason))
        last = (found.decided_at_us, found.latency_us, found.arm, found.shadow_version, found.shadow_score, found.rule)
        beside = (found.shadow_decision, found.shadow_rules)
        self._add("decisions", (*head, *tail, *last, found.probability, *beside))

    def _history(self, record: Record) -> None:
        frame = pl.read_ipc_stream(io.BytesIO(record.payload))
        assert len(frame) == record.count
        offsets = pl.int_range(record.offset, record.offset + record.count).alias("_offset")
        frame = frame.with_columns(offsets, pl.lit(False).alias("_late"))
        self.flush("events")
        events = frame.filter(pl.col("_kind") == EVENT).select(list(self.schemas["events"]))
        self.frames["events"].append(events)
        self.live.append(np.zeros(len(events), np.bool_))
        self.flush("labels")
        labels = frame.filter(pl.col("_kind") == LABEL)
        self.frames["labels"].append(
            labels.select(
                "_offset",
                label=pl.lit(pl.Series(self._label_names, dtype=pl.String)).gather(pl.col("_label").cast(pl.UInt32)),
                subject="_subject",
                value="_value",
                known_at="_time",
                subject_offset="_subject_offset",
            )
        )

    def whole(self, table: str) -> pl.DataFrame:
        self.flush(table)
        schema = self.schemas[table]
        return pl.concat([pl.DataFrame(schema=schema), *(f.cast(pl.Schema(schema)) for f in self.frames[table])])


def read_log(directory: Path, stream: StreamSpec) -> LogContent:
    """All of it. Raises Corrupt."""
    collector, problems = _Collector(stream), []
    expected = epoch = 0
    time = None
    for record in SegmentReader(directory).read():
        if record.offset != expected:
            problems.append(f"offset {record.offset} follows {expected - 1}")
        if record.epoch < epoch:
            problems.append(f"offset {record.offset} is of epoch {record.epoch}, after one of {epoch}")
        if record.kind in (RecordKind.EVENT, RecordKind.EVENTS, RecordKind.HISTORY):
            if time is not None and record.time < time:
                problems.append(f"time goes back at offset {record.offset}")
            time = record.time
        expected, epoch = record.offset + record.count, record.epoch
        collector.take(record)
    events = collector.whole("events")
    live = np.concatenate([*collector.live, np.empty(0, np.bool_)])
    labels, decisions = collector.whole("labels"), collector.whole("decisions")
    controls, refused = collector.controls, collector.refused
    rows = collector.whole("rows")
    found = LogContent(events, live, labels, decisions, controls, refused, expected, problems, rows)
    problems += _gaps(found)
    return found


def _gaps(found: LogContent) -> list[str]:
    """Every offset is one thing."""
    frames: Sequence[pl.DataFrame] = (found.events, found.labels, found.decisions, found.rows)
    others = [*found.refused, *(offset for offset, _ in found.controls)]
    offsets = np.concatenate([*(f["_offset"].to_numpy() for f in frames), np.array(others, np.int64)])
    offsets.sort()
    if np.array_equal(offsets, np.arange(found.end)):
        return []
    return [f"{len(offsets)} records have {len(np.unique(offsets))} offsets below {found.end}"]
