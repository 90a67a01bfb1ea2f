"""Erasing a subject: nothing of it is left in any record or row; everybody else's are what they were, to the bit."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import skyriver as sr
from skyriver.adapters.memory.log import MemoryLogStore
from skyriver.adapters.memory.tables import MemoryTables
from skyriver.core.errors import InvalidInput
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import FeatureSpec, StreamSpec
from skyriver.data.columns import Columns, EventBlock
from skyriver.data.decisions import Outcome, Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.data.materialise import materialise, schemas_of_stream
from skyriver.decide.log.blocks import DecisionBlock, decisions_of
from skyriver.decide.log.erasing import Erasing, kept_of
from skyriver.decide.log.history import encode_frame, read_record
from skyriver.decide.log.records import DeadRecord, DecisionRecord, LabelRecord, Value, encode, encode_event
from skyriver.decide.partition.folding import Folding
from skyriver.decide.partition.kernel_windows import memory_windows
from skyriver.decide.streams.operations import plan_erase
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import plan_features

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
import worker_process as harness

HOUR = 3_600_000_000
APP = harness.declare()
STREAM: StreamSpec = APP.streams[0]
TRAILS = {
    "channels": sr.distinct("channel", by="customer", over="3d"),
    "least": sr.minimum("amount", by="channel", over="1d"),
    "last": sr.last("amount", by="customer", over="3d"),
}
FEATURES = APP.feature_sets[0].model_copy(
    update={"features": (*APP.feature_sets[0].features, *(FeatureSpec(name=n, expr=e.node) for n, e in TRAILS.items()))}
)
PLAN = plan_features(FEATURES, STREAM)
CUSTOMERS = [7_111_222_333_440 + n for n in range(4)]
CHANNELS = [f"ch-{n}-of-many" for n in range(3)]
FIRST_ID = 8_555_000_111_000
SUBJECTS: list[tuple[str, int | str]] = [("customer", CUSTOMERS[1]), ("channel", CHANNELS[1])]


class Writer:
    """Fills a log by all ways in which events, labels and decisions come into it."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.records: list[Record] = []
        self.next = 0
        self.at = 1_700_000_000_000_000
        self.number = 0
        self.events: list[tuple[int, int]] = []
        """(offset, id) of each."""

    def add(self, kind: RecordKind, payload: bytes, count: int = 1) -> int:
        self.records.append(Record(kind, self.at, payload, count, offset=self.next))
        self.next += count
        return self.next - count

    def event(self) -> list[Value]:
        self.at += self.luck.choice([0, 1_000_000, HOUR, 30 * HOUR])
        self.number += 1
        amount = round(self.luck.random() * 1000, 3)
        return [FIRST_ID + self.number, self.at, self.luck.choice(CUSTOMERS), self.luck.choice(CHANNELS), amount]

    def single(self) -> None:
        values = self.event()
        late = int(self.luck.random() < 0.1)
        offset = self.add(RecordKind.EVENT, encode_event(late, values))
        self.events.append((offset, int(values[0] or 0)))
        vector = struct.pack("<3f", 1.5, float("nan"), self.luck.random())
        self.add(
            RecordKind.DECISION,
            encode(
                DecisionRecord(
                    offset, int(values[0] or 0), Status.LATE if late else Status.DECIDED, "review", 0.7,
                    b"" if late else vector, "fraud", 3, "r", "f", Reason.NONE, self.at, 70, "", 4, 0.25, "sure", 0.5,
                )
            ),
        )  # fmt: skip

    def block(self) -> None:
        rows, times = [], []
        for _ in range(self.luck.randrange(2, 12)):
            rows.append(self.event())
            times.append(self.at)
        n = len(rows)
        late = np.array([self.luck.random() < 0.2 for _ in rows])
        block = EventBlock(Columns.of_rows(STREAM.fields, rows), np.array(times), late if late.any() else None)
        first = self.add(RecordKind.EVENTS, block.encode(), n)
        ids = np.array([int(row[0] or 0) for row in rows])
        self.events += [(first + p, own) for p, own in enumerate(ids.tolist())]
        having = n - int(late.sum())
        outcomes = [Outcome(Status.DECIDED, word, "fraud", 3, "r", "f", Reason.NONE) for word in ("block", "approve")]
        shadow = np.full(n, 0.5, np.float32) if self.luck.random() < 0.5 else None
        decided = DecisionBlock(
            first, ids, outcomes, np.array([self.luck.randrange(2) for _ in rows], np.uint16),
            np.linspace(0, 1, n, dtype=np.float32), late if late.any() else None,
            np.arange(3 * having, dtype=np.float32).reshape(having, 3), self.at, np.arange(n),
            4 if shadow is not None else 0, shadow, np.linspace(0, 0.5, n, dtype=np.float32),
        )  # fmt: skip
        self.add(RecordKind.DECISIONS, decided.encode(), n)

    def history(self) -> None:
        rows: list[dict[str, Any]] = []
        names = [own.name for own in STREAM.fields]
        for place in range(self.luck.randrange(3, 20)):
            if self.events and self.luck.random() < 0.3:
                subject, own = self.luck.choice(self.events)
                more = {"_label": 0, "_subject": own, "_value": 1.0, "_subject_offset": subject}
                rows.append({"_kind": 2, "_time": self.at, "_effective": self.at, **more})
                continue
            values = self.event()
            self.events.append((self.next + place, int(values[0] or 0)))
            row = dict(zip(names, values, strict=True))
            rows.append({"_kind": 1, "_time": self.at, "_effective": self.at, "_subject_offset": -1, **row})
        dtypes = {
            "_kind": pl.UInt8,
            "_label": pl.UInt8,
            "_subject": pl.Int64,
            "_value": pl.Float64,
            "channel": pl.String,
        }
        dtypes |= {"payment": pl.Int64, "at": pl.Int64, "customer": pl.Int64, "amount": pl.Float64}
        wanted = ["_kind", "_time", *names, "_label", "_subject", "_value", "_effective", "_subject_offset"]
        whole = [{name: row.get(name) for name in wanted} for row in rows]
        self.add(RecordKind.HISTORY, encode_frame(pl.DataFrame(whole, schema_overrides=dtypes)), len(rows))

    def label(self) -> None:
        if self.events:
            offset, own = self.luck.choice(self.events)
            self.add(RecordKind.LABEL, encode(LabelRecord(0, own, 1.0, self.at, offset)))

    def dead(self) -> None:
        names = [own.name for own in STREAM.fields]
        row = dict(zip(names, self.event(), strict=True))
        raw = self.luck.choice([json.dumps(row).encode(), json.dumps(row).encode()[:-1], b'{"x": 1}'])
        self.add(RecordKind.DEAD, encode(DeadRecord("BAD", "amount", f"{row['customer']} {row['channel']}", raw)))


def written(seed: int) -> list[Record]:
    writer = Writer(seed)
    ways = [writer.single, writer.block, writer.history, writer.label, writer.dead]
    for _ in range(60):
        writer.luck.choice(ways)()
    return writer.records


def erasing(records: list[Record], subject: tuple[str, int | str]) -> Erasing:
    found = Erasing(STREAM, *subject, kept_of(STREAM, [FEATURES], (), subject[0]), b"s" * 32)
    count = sum(found.find(record) for record in records)
    assert count == len(found.ids) == len(found.offsets) > 5
    return found


def erased(records: list[Record], by: Erasing) -> list[Record]:
    changed = [by.changed(record) for record in records]
    return [
        record if payload is None else replace(record, payload=payload)
        for record, payload in zip(records, changed, strict=True)
    ]


def features_of(records: list[Record], kernels: Path) -> dict[int, np.ndarray]:
    windows = memory_windows(STREAM, PLAN, load_kernel(PLAN, kernels))
    found: dict[int, np.ndarray] = {}

    def take(offsets: list[int], rows: np.ndarray) -> None:
        found.update(zip(offsets, rows.copy(), strict=True))

    folding = Folding(windows, folded=take)
    for record in records:
        if record.kind is RecordKind.HISTORY:
            folding.flush()
            frame = read_record(record.payload)
            rows = windows.fold_block(record.offset, frame)
            events = np.flatnonzero(frame["_kind"].to_numpy() == 1) + record.offset
            take(events.tolist(), rows)
        else:
            folding.apply(record)
    folding.flush()
    return found


def tables_of(records: list[Record]) -> dict[str, pl.DataFrame]:
    store, tables = MemoryLogStore(), MemoryTables()
    log = store.open()
    log.append(records)
    log.sync()
    made = materialise(STREAM, store.reader(), tables, "acme", {}, lambda *_: None)
    return {name: pl.concat(list(tables.scan(name, version.version))) for name, version in made}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("subject", SUBJECTS, ids=["customer", "channel"])
def test_everybody_elses_features_stay_to_the_bit(seed: int, subject: tuple[str, int | str], kernels: Path) -> None:
    records = written(seed)
    by = erasing(records, subject)
    before, after = features_of(records, kernels), features_of(erased(records, by), kernels)
    assert before.keys() == after.keys()
    others = [offset for offset in before if offset not in by.offsets]
    assert len(others) > 50
    for offset in others:
        assert before[offset].tobytes() == after[offset].tobytes(), offset


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("subject", SUBJECTS, ids=["customer", "channel"])
def test_nothing_of_the_subject_is_left(seed: int, subject: tuple[str, int | str]) -> None:
    records = written(seed)
    by = erasing(records, subject)
    after = erased(records, by)
    gone: list[int | str] = [subject[1], *by.ids]
    for record in after:
        traces = [str(one).encode() for one in gone]
        traces += [struct.pack(form, one) for one in gone if isinstance(one, int) for form in ("<q", ">q")]
        if record.kind is RecordKind.HISTORY:
            frame = read_record(record.payload)
            assert not set(gone) & {value for row in frame.iter_rows() for value in row}
            plain = io.BytesIO()
            frame.write_ipc_stream(plain, compression="uncompressed")
            assert not [trace for trace in traces if trace in plain.getvalue()], "nor in a buffer that no row shows"
        else:
            assert not [trace for trace in traces if trace in record.payload]
        for decision in decisions_of(record):
            if decision.event_offset in by.offsets:
                assert decision.status is Status.ERASED
                assert (decision.score, decision.probability, decision.features, decision.rule) == (None, None, b"", "")
    words = [[d.decision for r in all_of for d in decisions_of(r)] for all_of in (records, after)]
    assert words[0] == words[1], "budgets count them"
    again = Erasing(STREAM, *subject, by.kept, by.secret, ids=set(by.ids), offsets=set(by.offsets))
    assert [again.find(record) for record in after] == [0] * len(after)
    assert [again.changed(record) for record in after] == [None] * len(after), "done again it changes nothing"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("subject", SUBJECTS, ids=["customer", "channel"])
def test_tables_change_as_the_log_does(seed: int, subject: tuple[str, int | str]) -> None:
    """Those of before, changed, are those that the changed log gives."""
    records = written(seed)
    by = erasing(records, subject)
    before, after = tables_of(records), tables_of(erased(records, by))
    events, labels, decisions, dead = (f"acme/{name}" for name in schemas_of_stream(STREAM))
    changed = {
        events: by.changed_events(before[events]),
        labels: by.changed_ids(before[labels], "subject"),
        decisions: by.changed_decisions(before[decisions]),
        dead: by.changed_refused(before[dead]),
    }
    assert sum(frame is not None for frame in changed.values()) >= 3
    for name, frame in changed.items():
        left, right = before[name] if frame is None else frame, after[name]
        assert_frame_equal(left, right)


def test_nobodys_events_are_not_linked_unless_subjects_are_counted() -> None:
    records = written(1)
    by_customer, by_channel = (erasing(records, subject) for subject in SUBJECTS)
    customers = {by_customer.subject_at(offset) for offset in by_customer.offsets}
    assert len(customers) == len(by_customer.offsets)
    channels = {by_channel.subject_at(offset) for offset in by_channel.offsets}
    assert len(channels) == 1, "channels are counted by customer"
    assert by_customer.kept.fields == {"at", "channel", "amount"}
    assert by_channel.kept.fields == {"at", "customer", "amount"}
    other = Erasing(STREAM, *SUBJECTS[0], by_customer.kept, b"t" * 32)
    assert not customers & {other.subject_at(offset) for offset in by_customer.offsets}, "only the secret tells them"


def test_what_no_other_feature_reads_is_emptied() -> None:
    few = FEATURES.model_copy(update={"features": FEATURES.features[:2]})  # amount, and its mean by customer
    by = Erasing(STREAM, *SUBJECTS[0], kept_of(STREAM, [few], (), "customer"), b"s" * 32)
    values: list[Value] = [FIRST_ID, 5, CUSTOMERS[1], "ch", 12.5]
    payload = by.changed(Record(RecordKind.EVENT, 5, encode_event(1, values), offset=77))
    assert payload == encode_event(1, [by.id_of(FIRST_ID), 5, by.subject_at(77), "", 0.0])


def test_what_budgets_count_by_stays_but_never_the_subject() -> None:
    few = FEATURES.model_copy(update={"features": {}})
    counted = ("", "amount", SUBJECTS[0][0], STREAM.id)
    kept = kept_of(STREAM, [few], counted, SUBJECTS[0][0])
    assert kept.fields == {"amount", STREAM.time}
    assert not kept.linked


def job(name: str, kind: str, state: str, **more: Any) -> Resource:
    spec = {"kind": kind, "target": "payments", "inputs": {"files": [{"digest": f"file of {name}"}]}}
    return Resource("t", "job", name, spec=spec, state=state, **more)


def test_what_is_planned_knows_all_files_and_not_who_it_is() -> None:
    artifacts = {"outputs": {"artifacts": {"rows-1": {"digest": "rows 1"}, "rows-2": {"digest": "rows 2"}}}}
    rows = [
        Resource("t", "app", "risk", spec={"spec": APP.to_json(), "code": {}}),
        Resource("t", "stream", "payments", spec={"stream": STREAM.to_json()}, parent="app/risk"),
        Resource("t", "model", "fraud", parent="app/risk"),
        Resource("t", "version", "fraud:1", spec={"model": "fraud"}),
        Resource("t", "version", "other:1", spec={"model": "other"}),
        job("one", "load", "SUCCEEDED"),
        job("two", "load", "RUNNING"),
        job("three", "replay", "SUCCEEDED", status=artifacts),
        job("four", "call", "SUCCEEDED", status=artifacts | {"outputs": {"artifacts": {"mine": {"digest": "mine"}}}}),
    ]
    snapshot = Snapshot({row.key: row for row in rows}, {}, {}, 1_000)
    _, planned = plan_erase(snapshot, "t", "payments", {"dry_run": True}, {"subject": {"digest": "who"}})
    assert planned.spec["inputs"] == {
        "subject": {"digest": "who"},
        "versions": ["fraud:1"],
        "files": ["file of one"],
        "replays": ["rows 1", "rows 2"],
        "predictions": {"tables": {}, "files": {}, "uploads": [], "jobs": []},
        "dispatcher": False,
    }
    assert planned.spec["params"] == {"dry_run": True}
    with pytest.raises(InvalidInput) as told:
        plan_erase(snapshot, "t", "payments", {}, {})
    assert told.value.code == "NO_SUBJECT"
    nats = replace(rows[1], spec={"stream": {**STREAM.to_json(), "log": {"url": "nats://here:4222"}}})
    with pytest.raises(InvalidInput) as told:
        plan_erase(
            Snapshot({row.key: row for row in (*rows, nats)}, {}, {}, 1_000),
            "t",
            "payments",
            {},
            {"subject": {"digest": "w"}},
        )
    assert told.value.code == "LOG_NOT_REWRITABLE"
