"""Erasing a subject, say a customer, from what a stream keeps: which values go, and what stands in their place. Pure.

Theory of operation. A subject is known by the value of a field, mostly the stream's key. Its events stay in the log as
events of nobody: offsets are dense, and other subjects' windows, replays and trained models count them as before. Of
each such event
- the id and the subject's field get *surrogates*: HMAC-SHA256 under a secret of this erasure. The secret is kept while
  the work lasts, so that it can be taken up again, and destroyed at its end (RFC 2104; crypto-erasure: whoever has all
  files and the old value as well can compute no surrogate). Each event gets another one, so that events cannot be
  linked to each other, unless features count how many different subjects there are: then all have the same.
- fields stay that features by *other* fields are computed from (a terminal and an amount, where a terminal's mean is a
  feature, or budgets count by it), and the time. All others are emptied: missing, or 0 and "" where a value must be
  there.
Its decisions become `erased`: the word stays, for budgets count it, without score, rule and features. Labels go with
the event's surrogate. Of refused events that name the subject, only the reason stays. Rows of references about the
subject are emptied.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt
from skyriver.core.spec import FeatureSetSpec, FieldSpec, StreamSpec
from skyriver.data.columns import Bools, Columns, EventBlock, decode_events
from skyriver.data.columns import Column as ColumnOf
from skyriver.data.decisions import DecisionColumns, Outcome, Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.blocks import decode_decisions
from skyriver.decide.log.history import encode_frame, read_record
from skyriver.decide.log.records import (
    DeadRecord,
    Id,
    Value,
    decode_dead,
    decode_decision,
    decode_event,
    decode_label,
    decode_reference,
    encode,
    encode_event,
    encode_reference,
)

if TYPE_CHECKING:
    import polars as pl

SECRET_BYTES = 32
ERASED = "erased"
"""What a text of a subject begins with, in place of its value."""
_EMPTY: dict[str, Value] = {"int": 0, "float": 0.0, "text": "", "bool": False, "time": 0}


@dataclass(frozen=True, slots=True)
class Kept:
    """`fields` of the subject's events that stay, for features or budgets of others read them. `linked`: some feature
    counts different subjects, so that all events of one must stay those of one."""

    fields: frozenset[str]
    linked: bool


class ErasingWork(msgspec.Struct, frozen=True):
    """What a worker is told of an erasure, in a file of the stream's directory that is destroyed at its end."""

    subject: str
    value: Id
    fields: list[str]
    linked: bool
    secret: bytes
    references: list[int]
    end: int
    """The log's, when it was looked for; its worker looks at what came since."""
    ids: list[Id]
    offsets: list[int]
    said: str = ""
    """Digest of the object that says who it is."""

    def erasing(self, stream: StreamSpec) -> Erasing:
        return Erasing(
            stream,
            self.subject,
            self.value,
            Kept(frozenset(self.fields), self.linked),
            self.secret,
            frozenset(self.references),
            set(self.ids),
            set(self.offsets),
        )


_work = msgspec.msgpack.Decoder(ErasingWork)


def read_work(data: bytes) -> ErasingWork:
    """Raises Corrupt (BAD_ERASURE)."""
    try:
        return _work.decode(data)
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"The file of an erasure cannot be read: {error}.",
            code="BAD_ERASURE",
            next_action="Restore it from a backup; without one remove it, and erase the subject again.",
        ) from error


def references_about(stream: StreamSpec, features: Iterable[FeatureSetSpec], subject: str) -> frozenset[int]:
    """Places of the references, lists among them, whose rows are about what the field `subject` names: they have its
    name as their id, or are looked up by it."""
    names = {lookup.reference for spec in features for lookup in spec.lookups() if lookup.by == subject}
    return frozenset(n for n, own in enumerate(stream.references) if own.name in names or subject in (own.id, own.by))


def kept_of(stream: StreamSpec, features: Iterable[FeatureSetSpec], counted: Iterable[str], subject: str) -> Kept:
    """Of all feature sets that are computed on the stream, for a subject named by the field `subject`; `counted`: the
    fields by whose values budgets and counters count decisions, "" among them for those of all."""
    fields, linked = {stream.time, *counted} - {""}, False
    for spec in features:
        for aggregate in spec.aggregates():
            if aggregate.by == subject:
                continue
            fields.add(aggregate.by)
            if aggregate.column:
                fields.add(aggregate.column)
                linked = linked or aggregate.column == subject
    return Kept(frozenset(fields - {stream.id, subject}), linked)


@dataclass(slots=True)
class Erasing:
    """What is changed where. `ids` and `offsets` are those of the subject's events that were found; `find` adds to
    them, and must have seen all of the log before `changed` is asked."""

    stream: StreamSpec
    subject: str
    value: int | str
    kept: Kept
    secret: bytes
    references: frozenset[int] = frozenset()
    """Places of the references whose rows are about the subject."""
    ids: set[Id] = field(default_factory=set)
    offsets: set[int] = field(default_factory=set)
    rows: int = 0
    """Events, decisions, labels, refused events and rows of references that were changed."""
    _place: int = field(init=False, default=0)
    _id_place: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        names = [own.name for own in self.stream.fields]
        self._place, self._id_place = names.index(self.subject), names.index(self.stream.id)

    # Surrogates

    def id_of(self, own: Id) -> Id:
        return self._surrogate(b"id", own)

    def subject_at(self, offset: int) -> int | str:
        return self._surrogate(b"subject", self.value if self.kept.linked else offset, like=self.value)

    def in_state(self, end: int) -> int | str:
        """What the state of features goes on under, of events below the offset `end`: another one each time, for the
        subject may come again before an erasure that was cut off is taken up."""
        return self._surrogate(b"state %d" % end, self.value)

    def _surrogate(self, what: bytes, of: Id, like: Id | None = None) -> Id:
        mark = hmac.digest(self.secret, b"%s %s" % (what, repr(of).encode()), "sha256")
        if isinstance(of if like is None else like, str):
            return f"{ERASED}-{mark[:16].hex()}"
        # Below all that people count with, and far from the ends of int64.
        return -1 - (int.from_bytes(mark[:8], "big") >> 2)

    # The log

    def find(self, record: Record) -> int:
        """How many of the subject's events the record holds."""
        match record.kind:
            case RecordKind.EVENT:
                _, values = decode_event(record.payload)
                return self._found([(record.offset, values)]) if values[self._place] == self.value else 0
            case RecordKind.EVENTS:
                block = decode_events(record.payload, record.count)
                places = np.flatnonzero(self._are(block.columns))
                rows = block.columns.take(places).rows() if len(places) else []
                return self._found([(record.offset + p, row) for p, row in zip(places.tolist(), rows, strict=True)])
            case RecordKind.HISTORY:
                frame = read_record(record.payload)
                places = np.flatnonzero((frame[self.subject] == self.value).fill_null(False).to_numpy())
                own = frame[self.stream.id].gather(places).to_list()
                self.ids.update(own)
                self.offsets.update((record.offset + places).tolist())
                return len(places)
        return 0

    def _found(self, events: Sequence[tuple[int, Sequence[Value]]]) -> int:
        for offset, values in events:
            self.offsets.add(offset)
            self.ids.add(cast("Id", values[self._id_place]))
        return len(events)

    def _are(self, columns: Columns) -> Bools:
        """Which events are the subject's."""
        values = columns.columns[self._place].values
        if isinstance(values, list):
            return np.array([value == self.value for value in values], np.bool_)
        return np.asarray(values == self.value, np.bool_)

    def changed(self, record: Record) -> bytes | None:
        """The payload that takes the place of the record's; None: it holds nothing of the subject."""
        match record.kind:
            case RecordKind.EVENT:
                flags, values = decode_event(record.payload)
                if values[self._place] != self.value:
                    return None
                self.rows += 1
                return encode_event(flags, self._row(values, record.offset))
            case RecordKind.EVENTS:
                return self._block(record)
            case RecordKind.DECISION:
                decision = decode_decision(record.payload)
                if decision.event_offset not in self.offsets or decision.status is Status.ERASED:
                    return None
                self.rows += 1
                own = self.id_of(decision.id)
                nobody = type(decision)(
                    decision.event_offset, own, Status.ERASED, decision.decision, None, b"", "", 0, "", "",
                    Reason.NONE, decision.decided_at_us, decision.latency_us,
                )  # fmt: skip
                return encode(nobody)
            case RecordKind.DECISIONS:
                return self._decisions(record)
            case RecordKind.LABEL:
                label = decode_label(record.payload)
                if label.subject_id not in self.ids:
                    return None
                self.rows += 1
                return encode(msgspec.structs.replace(label, subject_id=self.id_of(label.subject_id)))
            case RecordKind.DEAD:
                dead = decode_dead(record.payload)
                if not self.is_named(dead.raw, dead.message):
                    return None
                self.rows += 1
                return encode(DeadRecord(dead.reason, "", "", b""))
            case RecordKind.REFERENCE:
                return self._reference(record.payload, record.offset)
            case RecordKind.HISTORY:
                return self._history(record)
            case RecordKind.CONTROL:
                return None

    def _row(self, values: Sequence[Value], offset: int) -> list[Value]:
        row = [
            value if own.name in self.kept.fields else _emptied(own)
            for own, value in zip(self.stream.fields, values, strict=True)
        ]
        row[self._place] = self.subject_at(offset)
        row[self._id_place] = self.id_of(cast("Id", values[self._id_place]))
        return row

    def _block(self, record: Record) -> bytes | None:
        block = decode_events(record.payload, record.count)
        places = np.flatnonzero(self._are(block.columns))
        if not len(places):
            return None
        self.rows += len(places)
        rows = block.columns.take(places).rows()
        changed = [self._row(row, record.offset + p) for p, row in zip(places.tolist(), rows, strict=True)]
        new = Columns.of_rows(self.stream.fields, changed)
        columns = [_put(old, places, column) for old, column in zip(block.columns.columns, new.columns, strict=True)]
        return EventBlock(Columns(tuple(columns), record.count), block.effective, block.late).encode()

    def _decisions(self, record: Record) -> bytes | None:
        block = decode_decisions(record.payload, record.count)
        mine = [p for p in range(len(block)) if block.first + p in self.offsets]
        mine = [p for p in mine if block.outcomes[block.codes[p]].status is not Status.ERASED]
        if not mine:
            return None
        self.rows += len(mine)
        gone = np.zeros(len(block), np.bool_)
        gone[mine] = True
        ids: list[str] | NDArray[np.int64]
        if isinstance(block.ids, list):
            ids = [cast("str", self.id_of(own)) if g else own for own, g in zip(block.ids, gone.tolist(), strict=True)]
        else:
            ids = block.ids.copy()
            ids[mine] = [self.id_of(int(block.ids[p])) for p in mine]
        had = ~block.without if block.without is not None else np.ones(len(block), np.bool_)
        codes, words = block.codes.copy(), sorted({block.outcomes[block.codes[p]].decision for p in mine})
        for p in mine:
            codes[p] = len(block.outcomes) + words.index(block.outcomes[block.codes[p]].decision)
        found: DecisionColumns = replace(
            block,
            ids=ids,
            outcomes=[*block.outcomes, *(Outcome(Status.ERASED, word, "", 0, "", "", Reason.NONE) for word in words)],
            codes=codes,
            scores=_without(block.scores, gone),
            without=~had | gone,
            features=block.features[~gone[had]],
            shadow=_without(block.shadow, gone) if block.shadow is not None else None,
            probabilities=_without(block.probabilities, gone) if block.probabilities is not None else None,
        )
        return found.encode()

    def _reference(self, payload: bytes, offset: int) -> bytes | None:
        index, values = decode_reference(payload)
        if index not in self.references:
            return None
        spec = self.stream.references[index]
        place = next(n for n, own in enumerate(spec.fields) if own.name == spec.id)
        if values[place] != self.value:
            return None
        self.rows += 1
        row = [
            value if own.name in (spec.time, spec.until) else _emptied(own)
            for own, value in zip(spec.fields, values, strict=False)
        ]
        row[place] = self.subject_at(offset)
        return encode_reference(index, row)

    def _history(self, record: Record) -> bytes | None:
        import polars as pl  # its weight: see `decide.log.history`

        frame = read_record(record.payload)
        found = self.changed_events(
            frame.with_columns(pl.int_range(record.offset, record.offset + len(frame)).alias("_offset"))
        )
        changed = frame if found is None else found.select(frame.columns)
        subjects = self.changed_ids(changed, "_subject")
        changed = changed if subjects is None else subjects
        if self.references and "_reference" in frame.columns:
            rows = [
                (self._reference(row, record.offset + n) or row) if row is not None else None
                for n, row in enumerate(changed["_reference"].to_list())
            ]
            changed = changed.with_columns(pl.Series("_reference", rows, dtype=pl.Binary()))
        return None if changed.equals(frame) else encode_frame(_without_garbage(changed))

    def is_named(self, raw: bytes, message: str) -> bool:
        """Whether a refused event is the subject's: by its fields where it can be read, else by its words."""
        try:
            row = json.loads(raw)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            return self._is_said(raw.decode(errors="replace")) or self._is_said(message)
        own = row.get(self.stream.id)
        mine = _same(row.get(self.subject), self.value) or any(_same(own, known) for known in self.ids)
        return mine or self._is_said(message)

    def _is_said(self, text: str) -> bool:
        words = set(re.findall(r"\w+", text))
        return any(
            str(one) in words or (isinstance(one, str) and one and one in text) for one in (self.value, *self.ids)
        )

    # Tables, as the log

    def find_rows(self, frame: pl.DataFrame) -> int:
        """As `find`, of rows of the table of events: of what the log has given up."""
        mine = frame.filter((frame[self.subject] == self.value).fill_null(False))
        self.ids.update(mine[self.stream.id].to_list())
        self.offsets.update(mine["_offset"].to_list())
        return len(mine)

    def changed_events(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """Rows with the stream's fields and `_offset`; None: none is the subject's."""
        import polars as pl

        mine = (frame[self.subject] == self.value).fill_null(False)
        if not mine.any():
            return None
        self.rows += int(mine.sum())
        offsets, own = frame["_offset"].filter(mine).to_list(), frame[self.stream.id].filter(mine).to_list()
        given: dict[str, list[Any]] = {
            self.subject: [self.subject_at(offset) for offset in offsets],
            self.stream.id: [self.id_of(one) for one in own],
        }
        gone = pl.lit(mine)
        columns: list[Any] = []
        for spec in self.stream.fields:
            dtype = frame.schema[spec.name]
            if spec.name in given:
                new = pl.Series(spec.name, given[spec.name], dtype=dtype)
                columns.append(frame[spec.name].scatter(mine.arg_true(), new))
            elif spec.name not in self.kept.fields:
                columns.append(pl.when(~gone).then(spec.name).otherwise(pl.lit(_emptied(spec), dtype)).alias(spec.name))
        return frame.with_columns(columns)

    def changed_ids(self, frame: pl.DataFrame, column: str) -> pl.DataFrame | None:
        """Rows that name events by their ids."""
        import polars as pl

        mine = frame[column].is_in(pl.Series(list(self.ids), dtype=frame.schema[column]).implode()).fill_null(False)
        if not self.ids or not mine.any():
            return None
        self.rows += int(mine.sum())
        new = pl.Series(
            column, [self.id_of(own) for own in frame[column].filter(mine).to_list()], dtype=frame.schema[column]
        )
        return frame.with_columns(frame[column].scatter(mine.arg_true(), new))

    def changed_decisions(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        import polars as pl

        mine = frame["event_offset"].is_in(pl.Series(list(self.offsets), dtype=pl.Int64()).implode())
        mine = mine & (frame["status"] != str(Status.ERASED))
        if not mine.any():
            return None
        self.rows += int(mine.sum())
        stays = ("_offset", "event_offset", "decision", "decided_at_us", "latency_us")
        nobody = {"id": None, "status": str(Status.ERASED), "version": 0, "shadow_version": 0}
        columns: list[Any] = []
        for name, dtype in frame.schema.items():
            if name == "id":
                own = [self.id_of(one) for one in frame["id"].filter(mine).to_list()]
                columns.append(frame["id"].scatter(mine.arg_true(), pl.Series("id", own, dtype=dtype)))
            elif name not in stays:
                empty = nobody.get(name, "" if dtype == pl.String() else None)
                columns.append(pl.when(~pl.lit(mine)).then(name).otherwise(pl.lit(empty, dtype)).alias(name))
        return frame.with_columns(columns)

    def changed_refused(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """Rows with `reason`, `field`, `message` and `raw`."""
        import polars as pl

        rows = frame.select("raw", "message").iter_rows()
        mine = pl.Series(
            [self.is_named((raw or "").encode(), message or "") for raw, message in rows], dtype=pl.Boolean()
        )
        if not mine.any():
            return None
        self.rows += int(mine.sum())
        emptied = [
            pl.when(~pl.lit(mine)).then(name).otherwise(pl.lit("")).alias(name) for name in ("field", "message", "raw")
        ]
        return frame.with_columns(emptied)

    def changed_references(self, index: int, frame: pl.DataFrame) -> pl.DataFrame | None:
        """Rows of the table of the reference at this place."""
        import polars as pl

        if index not in self.references:
            return None
        spec = self.stream.references[index]
        mine = (frame[spec.id] == self.value).fill_null(False)
        if not mine.any():
            return None
        self.rows += int(mine.sum())
        columns: list[Any] = []
        for own in spec.fields:
            dtype = frame.schema[own.name]
            if own.name == spec.id:
                new = [self.subject_at(offset) for offset in frame["_offset"].filter(mine).to_list()]
                columns.append(frame[own.name].scatter(mine.arg_true(), pl.Series(own.name, new, dtype=dtype)))
            elif own.name not in (spec.time, spec.until):
                columns.append(
                    pl.when(~pl.lit(mine)).then(own.name).otherwise(pl.lit(_emptied(own), dtype)).alias(own.name)
                )
        return frame.with_columns(columns)


def _without_garbage(frame: pl.DataFrame) -> pl.DataFrame:
    """Texts and bytes are views into buffers, which would be written whole, with what no row shows any more."""
    import polars as pl

    views = [name for name, dtype in frame.schema.items() if dtype in (pl.String(), pl.Binary())]
    return frame.with_columns(pl.Series(name, frame[name].to_list(), dtype=frame.schema[name]) for name in views)


def _emptied(own: FieldSpec) -> Value:
    return None if own.nullable else _EMPTY[own.type]


def _put(old: ColumnOf, places: NDArray[np.int64], new: ColumnOf) -> ColumnOf:
    """The column with other values at these places."""
    values: Any
    if isinstance(old.values, list):
        values = list(old.values)
        for place, value in zip(places.tolist(), new.values, strict=True):
            values[place] = value
    else:
        values = old.values.copy()
        values[places] = new.values
    missing = old.missing.copy() if old.missing is not None else np.zeros(len(values), np.bool_)
    missing[places] = new.missing if new.missing is not None else False
    return ColumnOf(old.type, values, missing if missing.any() else None)


def _without(values: NDArray[np.float32], gone: Bools) -> NDArray[np.float32]:
    return np.where(gone, np.float32(np.nan), values).astype(np.float32)


def _same(given: object, known: Id) -> bool:
    """As a sender may write it."""
    return given is not None and (given == known or str(given) == str(known))
