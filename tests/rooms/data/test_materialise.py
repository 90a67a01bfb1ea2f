"""From log to tables: each record in its table, with its offset, once."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.memory.log import MemoryLogStore
from skyriver.adapters.memory.tables import MemoryTables
from skyriver.core.errors import Conflict, Corrupt, Unavailable
from skyriver.core.spec import FieldSpec, LabelSpec, ReferenceSpec, StreamSpec
from skyriver.data import materialise as module
from skyriver.data.columns import Columns, EventBlock
from skyriver.data.decisions import DecisionColumns, Outcome, Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.data.materialise import materialise, schemas_of_stream
from skyriver.data.tables import Tables, TableVersion
from skyriver.decide.log.records import (
    DeadRecord,
    DecisionRecord,
    LabelRecord,
    encode,
    encode_event,
    encode_reference,
)

STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="text"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="amount", type="float", nullable=True),
    ),
    id="payment",
    time="at",
    key="payment",
    labels=(LabelSpec(name="fraud", delay_us=10), LabelSpec(name="refund", delay_us=0)),
)
EVENTS, LABELS, DECISIONS, DEAD = (f"acme/{name}" for name in schemas_of_stream(STREAM))


def event(number: int, *, late: bool = False) -> Record:
    values = [f"p{number}", number * 10, None if number % 3 == 0 else number / 4]
    return Record(RecordKind.EVENT, 1000 + number, encode_event(int(late), values))


def label(number: int, place: int = 0, offset: int = -1) -> Record:
    return Record(RecordKind.LABEL, 5, encode(LabelRecord(place, f"p{number}", 1.0, 77, offset)))


def decision(number: int, features: Sequence[float] = (1.5, float("nan"))) -> Record:
    record = DecisionRecord(
        event_offset=number,
        id=f"p{number}",
        status=Status.DECIDED,
        decision="block",
        score=0.5 if features else None,
        features=struct.pack(f"<{len(features)}f", *features),
        model="fraud",
        version=3,
        rules_digest="r",
        features_digest="f",
        reason=Reason.NONE,
        decided_at_us=99,
        latency_us=4,
        rule="certain",
    )
    return Record(RecordKind.DECISION, 5, encode(record))


def dead(raw: bytes = b"{\xff") -> Record:
    return Record(RecordKind.DEAD, 5, encode(DeadRecord("MISSING", "amount", "amount is missing.", raw)))


def control() -> Record:
    return Record(RecordKind.CONTROL, 5, b"{}")


def history(numbers: Sequence[int]) -> Record:
    """An event and a label for each number."""
    rows = [
        row
        for n in numbers
        for row in (
            (1, n, n + 1, f"h{n}", n, 2.5, None, None, None, -1),
            (2, n, n + 1, None, None, None, 1, f"h{n}", 0.5, 7),
        )
    ]
    columns = [
        "_kind",
        "_time",
        "_effective",
        "payment",
        "at",
        "amount",
        "_label",
        "_subject",
        "_value",
        "_subject_offset",
    ]
    frame = pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)
    frame = frame.with_columns(pl.col("_kind", "_label").cast(pl.UInt8))
    out = io.BytesIO()
    frame.write_ipc_stream(out, compression="lz4")
    return Record(RecordKind.HISTORY, 5, out.getvalue(), count=len(frame))


def log_of(*records: Record) -> MemoryLogStore:
    store = MemoryLogStore()
    more(store, *records)
    return store


def more(store: MemoryLogStore, *records: Record) -> None:
    log = store.open()
    log.append(records)
    log.sync()


def quiet(stage: str, done: int, total: int) -> None:
    pass


def run(store: MemoryLogStore, tables: Tables, known: dict[str, int] | None = None) -> dict[str, TableVersion]:
    return dict(materialise(STREAM, store.reader(), tables, "acme", known or {}, quiet))


def rows(tables: Tables, name: str) -> list[tuple[Any, ...]]:
    return pl.concat(list(tables.scan(name, tables.latest(name).version))).rows()


@pytest.fixture(params=["memory", "delta"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Tables]:
    return MemoryTables if request.param == "memory" else lambda: DeltaTables(tmp_path)


def test_each_record_goes_to_its_table(make: Callable[[], Tables]) -> None:
    records = [
        event(0),
        control(),
        event(1, late=True),
        history([50, 60]),
        label(0, 1, 0),
        decision(2),
        decision(3, ()),
    ]
    store = log_of(*records, dead())
    tables = make()
    versions = run(store, tables)
    assert rows(tables, EVENTS) == [
        ("p0", 0, None, 0, 1000, False),
        ("p1", 10, 0.25, 2, 1001, True),
        ("h50", 50, 2.5, 3, 51, False),
        ("h60", 60, 2.5, 5, 61, False),
    ]
    assert rows(tables, LABELS) == [
        (4, "refund", "h50", 0.5, 50, 7),
        (6, "refund", "h60", 0.5, 60, 7),
        (7, "refund", "p0", 1.0, 77, 0),
    ]
    first, second = rows(tables, DECISIONS)
    assert first[:6] == (8, 2, "p2", "decided", "block", 0.5)
    assert first[7:] == ("fraud", 3, "r", "f", "", 99, 4, "", 0, None, "certain", None, "", "")
    assert first[6][0] == 1.5
    assert first[6][1] != first[6][1]  # a feature that is missing is NaN
    assert second[5:7] == (None, None)
    assert rows(tables, DEAD) == [(10, "MISSING", "amount", "amount is missing.", "{\ufffd")]
    assert list(versions) == [EVENTS, LABELS, DECISIONS, DEAD]
    assert {version.offset for version in versions.values()} == {10}
    for name, schema in schemas_of_stream(STREAM).items():
        assert dict(next(iter(tables.scan(f"acme/{name}", 0))).schema) == schema


SHOPS = ReferenceSpec(
    name="shops",
    fields=(
        FieldSpec(name="shop", type="text"),
        FieldSpec(name="since", type="time"),
        FieldSpec(name="risk", type="float", nullable=True),
        FieldSpec(name="open", type="bool"),
    ),
    id="shop",
    time="since",
)
WITH_SHOPS = STREAM.model_copy(update={"references": (SHOPS,)})


def shop(name: str, risk: float | None, index: int = 0) -> bytes:
    return encode_reference(index, [name, 7, risk, True])


def run_with_shops(store: MemoryLogStore, tables: Tables, known: dict[str, int] | None = None) -> list[str]:
    return [name for name, _ in materialise(WITH_SHOPS, store.reader(), tables, "acme", known or {}, quiet)]


def test_rows_of_a_reference_have_a_table_of_their_own(make: Callable[[], Tables]) -> None:
    loaded = pl.read_ipc_stream(io.BytesIO(history([50]).payload)).with_columns(
        pl.lit(None, pl.Binary).alias("_reference")
    )
    row = loaded[:1].with_columns(
        pl.lit(9, pl.UInt8).alias("_kind"),
        pl.lit(None, pl.String).alias("payment"),
        pl.lit(shop("c", 0.75)).alias("_reference"),
    )
    out = io.BytesIO()
    pl.concat([row, loaded]).write_ipc_stream(out)
    store = log_of(
        event(0),
        Record(RecordKind.REFERENCE, 5, shop("a", 0.5)),
        Record(RecordKind.REFERENCE, 5, shop("b", None)),
        Record(RecordKind.HISTORY, 5, out.getvalue(), count=3),
    )
    tables = make()
    assert run_with_shops(store, tables)[-1] == "acme/payments.shops"
    expected = [("a", 7, 0.5, True, 1), ("b", 7, None, True, 2), ("c", 7, 0.75, True, 3)]
    assert rows(tables, "acme/payments.shops") == expected
    assert [row[:2] for row in rows(tables, EVENTS)] == [("p0", 0), ("h50", 50)]
    assert len(rows(tables, LABELS)) == 1
    known = dict.fromkeys((EVENTS, LABELS, DECISIONS, DEAD, "acme/payments.shops"), 0)
    more(store, Record(RecordKind.REFERENCE, 5, shop("d", 1.0)))
    run_with_shops(store, tables, known)
    run_with_shops(store, tables, {**known, EVENTS: 1, "acme/payments.shops": 1})
    assert rows(tables, "acme/payments.shops") == [*expected, ("d", 7, 1.0, True, 6)]


def test_the_rows_before_an_event_are_there_when_it_is() -> None:
    """A job may be killed after any of its appends."""
    appended: list[str] = []

    class Told(MemoryTables):
        def append(self, name: str, *args: Any, **more: Any) -> TableVersion:
            appended.append(name)
            return super().append(name, *args, **more)

    run_with_shops(log_of(Record(RecordKind.REFERENCE, 5, shop("a", 0.5)), event(0)), Told())
    assert appended.index("acme/payments.shops") < appended.index(EVENTS)


@pytest.mark.parametrize("payload", [b"\xc1", shop("a", 0.5, 1), encode_reference(0, ["a", 7])])
def test_a_row_of_a_reference_that_cannot_be_read_is_named(payload: bytes) -> None:
    with pytest.raises(Corrupt, match="REFERENCE at offset 1") as caught:
        run_with_shops(log_of(event(0), Record(RecordKind.REFERENCE, 5, payload)), MemoryTables())
    assert caught.value.code == "UNREADABLE_RECORD"


def blocks(numbers: Sequence[int], first: int) -> list[Record]:
    """What `event` and `decision` are of these numbers, as blocks; those below 0 are late and have no features."""
    late = np.array([n < 0 for n in numbers])
    values = [[f"p{n}", n * 10, None if n % 3 == 0 else n / 4] for n in numbers]
    columns = Columns.of_rows(STREAM.fields, values)
    events = EventBlock(columns, np.array([1000 + n for n in numbers]), late)
    outcomes = [
        Outcome(Status.DECIDED, "block", "fraud", 3, "r", "f", Reason.NONE, "", "certain"),
        Outcome(Status.LATE, "review", "", 0, "r", "f", Reason.LATE),
    ]
    decided = DecisionColumns(
        first,
        [f"p{n}" for n in numbers],
        outcomes,
        late.astype(np.uint16),
        np.where(late, np.nan, 0.5).astype(np.float32),
        late,
        np.array([[1.5, np.nan]] * int((~late).sum()), np.float32),
        99,
        np.full(len(numbers), 4),
    )
    count = len(numbers)
    return [
        Record(RecordKind.EVENTS, 1000 + numbers[-1], events.encode(), count=count),
        Record(RecordKind.DECISIONS, 5, decided.encode(), count=count),
    ]


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, -2, 3], [-1, -2, -3]])
def test_blocks_fill_the_tables_as_their_events_do(make: Callable[[], Tables], numbers: list[int]) -> None:
    tables = make()
    run(log_of(event(7), *blocks(numbers, 1)), tables)
    assert rows(tables, EVENTS) == [
        ("p7", 70, 1.75, 0, 1007, False),
        *((f"p{n}", n * 10, None if n % 3 == 0 else n / 4, 1 + i, 1000 + n, n < 0) for i, n in enumerate(numbers)),
    ]
    for i, row in enumerate(rows(tables, DECISIONS)):
        assert row[:3] == (4 + i, 1 + i, f"p{numbers[i]}")
        if numbers[i] < 0:
            assert row[3:] == (
                "late",
                "review",
                None,
                None,
                "",
                0,
                "r",
                "f",
                "LATE",
                99,
                4,
                "",
                0,
                None,
                "",
                None,
                "",
                "",
            )
        else:
            outcome = ("decided", "block", 0.5, "fraud", 3, "r", "f", "", 99, 4, "", 0, None, "certain", None, "", "")
            assert (*row[3:6], *row[7:]) == outcome
            assert row[6][0] == 1.5
            assert row[6][1] != row[6][1]


ADDED = ("arm", "shadow_version", "shadow_score", "rule", "probability", "shadow_decision", "shadow_rules")


def told(tables: Tables, *names: str) -> list[tuple[object, ...]]:
    """Some columns of the decisions."""
    return pl.concat(list(tables.scan(DECISIONS, tables.latest(DECISIONS).version))).select(names).rows()


def with_arm(record: Record, arm: str, shadow: float | None) -> Record:
    """The same decision, of this arm, with what a shadow of version 9 said."""
    values = msgspec.msgpack.decode(record.payload)
    return Record(RecordKind.DECISION, 5, msgspec.msgpack.encode([*values[:13], arm, 9, shadow]))


def with_probability(record: Record, probability: float | None) -> Record:
    values = msgspec.msgpack.decode(record.payload)
    return Record(RecordKind.DECISION, 5, msgspec.msgpack.encode([*values[:17], probability]))


def test_probabilities_are_told_of_one_event_and_of_many(make: Callable[[], Tables]) -> None:
    _, many = blocks([1, 2, -3], 3)
    payload = msgspec.msgpack.decode(many.payload)
    payload[11] = np.array([0.25, np.nan, np.nan], np.float32).tobytes()
    block = Record(RecordKind.DECISIONS, 5, msgspec.msgpack.encode(payload), count=3)
    tables = make()
    run(log_of(with_probability(decision(0), 0.5), with_probability(decision(1), None), block), tables)
    assert told(tables, "probability") == [(0.5,), (None,), (0.25,), (None,), (None,)]


def test_what_other_rules_said_is_told_of_one_event_and_of_many(make: Callable[[], Tables]) -> None:
    values = msgspec.msgpack.decode(decision(0).payload)
    one = Record(RecordKind.DECISION, 5, msgspec.msgpack.encode([*values[:18], "review", "s"]))
    _, many = blocks([1, -3], 2)
    payload = msgspec.msgpack.decode(many.payload)
    payload[2][0] = [*payload[2][0][:9], "approve", "s"]
    block = Record(RecordKind.DECISIONS, 5, msgspec.msgpack.encode(payload), count=2)
    tables = make()
    run(log_of(one, decision(1), block), tables)
    assert told(tables, "shadow_decision", "shadow_rules") == [("review", "s"), ("", ""), ("approve", "s"), ("", "")]


def test_arms_and_what_a_shadow_said_are_told_of_one_event_and_of_many(make: Callable[[], Tables]) -> None:
    _, many = blocks([1, 2, -3], 3)
    payload = msgspec.msgpack.decode(many.payload)
    payload[2] = [[*outcome[:7], "canary"] for outcome in payload[2]]
    payload[9:] = [9, np.array([0.25, np.nan, np.nan], np.float32).tobytes()]
    block = Record(RecordKind.DECISIONS, 5, msgspec.msgpack.encode(payload), count=3)
    tables = make()
    run(log_of(with_arm(decision(0), "canary", 0.5), with_arm(decision(1), "", None), block), tables)
    assert told(tables, *ADDED[:3]) == [
        ("canary", 9, 0.5),
        ("", 9, None),
        ("canary", 9, 0.25),
        ("canary", 9, None),
        ("canary", 0, None),
    ], "a late event was asked of nobody"


def test_records_and_tables_of_before_there_were_arms_and_named_rules(make: Callable[[], Tables]) -> None:
    """Records lack them, and so does the table that is there: it gets them."""
    tables = make()
    before = {
        name: dtype for name, dtype in schemas_of_stream(STREAM)["payments.decisions"].items() if name not in ADDED
    }
    old = Record(RecordKind.DECISION, 5, msgspec.msgpack.encode(msgspec.msgpack.decode(decision(1).payload)[:13]))
    _, many = blocks([2], 3)
    payload = msgspec.msgpack.decode(many.payload)
    payload[2] = [outcome[:7] for outcome in payload[2]]
    older = Record(RecordKind.DECISIONS, 5, msgspec.msgpack.encode(payload[:9]), count=1)
    row = (0, 0, "p0", "decided", "block", 0.5, None, "fraud", 3, "r", "f", "", 99, 4)
    tables.append(DECISIONS, [pl.DataFrame([row], schema=before, orient="row")], offset=0, known=None)
    store = log_of(control(), old, older)
    versions = run(store, tables)
    assert versions[DECISIONS].version == 2, "one that widens it, one with the rows"
    without = ("", 0, None, "", None, "", "")
    assert told(tables, *ADDED) == [(None,) * len(ADDED), without, without]
    more(store, with_arm(decision(3), "canary", 0.75), decision(4))
    versions = run(store, tables, {name: version.version for name, version in versions.items()})
    assert versions[DECISIONS].version == 3
    assert told(tables, *ADDED[:4])[-2:] == [("canary", 9, 0.75, ""), ("", 0, None, "certain")]


def test_a_table_that_ends_within_a_block_gets_the_rest_of_it(make: Callable[[], Tables]) -> None:
    tables = make()
    store = log_of(*blocks([1, 2, 3], 0))
    dict(materialise(STREAM, store.reader(), tables, "acme", {}, quiet, end=2))
    run(store, tables)
    assert [row[3] for row in rows(tables, EVENTS)] == [0, 1, 2]
    assert [row[0] for row in rows(tables, DECISIONS)] == [3, 4, 5]


def test_a_block_of_other_fields_is_refused(make: Callable[[], Tables]) -> None:
    other = Columns.of_rows(STREAM.fields[:2], [["p1", 1]])
    record = Record(RecordKind.EVENTS, 5, EventBlock(other, np.array([1]), None).encode())
    with pytest.raises(Corrupt, match="not the fields"):
        run(log_of(record), make())
    with pytest.raises(Corrupt, match="DECISIONS at offset 0"):
        run(log_of(Record(RecordKind.DECISIONS, 5, b"\x91\x01", count=3)), make())


def test_an_empty_log_makes_empty_tables(make: Callable[[], Tables]) -> None:
    tables = make()
    store = MemoryLogStore()
    assert {(v.rows, v.offset) for v in run(store, tables).values()} == {(0, -1)}
    assert run(store, tables) == run(store, tables)
    more(store, event(0))
    assert run(store, tables)[EVENTS].rows == 1


def test_only_what_is_new_is_appended(make: Callable[[], Tables]) -> None:
    tables = make()
    store = log_of(event(0), history([1]))
    first = run(store, tables)
    assert run(store, tables) == first
    more(store, event(2), label(2))
    second = run(store, tables, {name: version.version for name, version in first.items()})
    assert [row[3] for row in rows(tables, EVENTS)] == [0, 1, 3]
    assert (second[EVENTS].offset, second[LABELS].offset) == (4, 4)
    assert (second[DECISIONS], second[DEAD]) == (first[DECISIONS], first[DEAD])


def test_a_table_without_new_rows_is_left_for_a_while(
    make: Callable[[], Tables], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EMPTY_AFTER", 10)
    tables, store = make(), log_of(event(0))
    run(store, tables)
    for number in range(1, 30):
        more(store, *([control()] if number % 3 else [event(number)]), *([dead()] if number == 15 else []))
        made = run(store, tables)
        assert made[EVENTS].offset == store.reader().next_offset - 1
        assert all(made[EVENTS].offset - version.offset < 10 for version in made.values())
    assert [row[3] for row in rows(tables, EVENTS)] == [0, 3, 6, 9, 12, 15, 19, 22, 25, 28]
    assert [row[0] for row in rows(tables, DEAD)] == [16]
    assert {name: version.version for name, version in made.items()} == {EVENTS: 29, LABELS: 3, DECISIONS: 3, DEAD: 3}


def test_long_logs_are_appended_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_ROWS", 10)
    monkeypatch.setattr(module, "FRAME_ROWS", 3)
    told: list[tuple[int, int]] = []
    tables = MemoryTables()
    store = log_of(*(r for n in range(20) for r in (event(n), history([n]), decision(n, [n] * (n % 3)))))
    materialise(STREAM, store.reader(), tables, "acme", {}, lambda stage, done, total: told.append((done, total)))
    assert tables.latest(EVENTS).version == 7
    assert [row[3] for row in rows(tables, EVENTS)] == [n for n in range(80) if n % 4 < 2]
    assert [row[0] for row in rows(tables, DECISIONS)] == [n for n in range(80) if n % 4 == 3]
    assert [row[6] for row in rows(tables, DECISIONS)] == [[float(n)] * (n % 3) or None for n in range(20)]
    assert told == sorted(told)
    assert told[-1] == (80, 80)


@pytest.mark.parametrize("after", range(9))
def test_tables_at_different_offsets_catch_up(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ends after some append, anywhere between two tables or two steps, and is done again."""
    monkeypatch.setattr(module, "COMMIT_ROWS", 6)

    class Ending(MemoryTables):
        left = after

        def append(self, *arguments: Any, **options: Any) -> TableVersion:
            if not self.left:
                raise Unavailable("ended here")
            self.left -= 1
            return super().append(*arguments, **options)

    tables = Ending()
    store = log_of(*(r for n in range(5) for r in (event(n), history([n]), decision(n), dead(), label(n))))
    with pytest.raises(Unavailable):
        run(store, tables)
    tables.left = 1000
    monkeypatch.setattr(module, "COMMIT_ROWS", 7)
    more(store, event(9), dead())
    run(store, tables)
    expected = MemoryTables()
    run(store, expected)
    for name in (EVENTS, LABELS, DECISIONS, DEAD):
        assert str(rows(tables, name)) == str(rows(expected, name))


def test_a_log_that_lost_its_end_is_noticed() -> None:
    tables = MemoryTables()
    run(log_of(event(0), event(1)), tables)
    with pytest.raises(Corrupt) as caught:
        run(log_of(event(0)), tables)
    assert caught.value.code == "TABLE_AHEAD_OF_LOG"


def test_a_subject_key_is_refused() -> None:
    record = Record(RecordKind.EVENT, 5, b"secret", key_id=4)
    with pytest.raises(Conflict) as caught:
        run(log_of(event(0), record), MemoryTables())
    assert (caught.value.code, caught.value.where) == ("ENCRYPTED_RECORD", "payments@1")


@pytest.mark.parametrize(
    "record",
    [
        Record(RecordKind.EVENT, 5, b"\xc1"),
        Record(RecordKind.EVENT, 5, encode_event(0, ["p", 1])),
        Record(RecordKind.EVENT, 5, encode_event(0, ["p", 1, 2.0, 3.0])),
        Record(RecordKind.EVENT, 5, encode_event(0, ["p", 1, "much"])),
        Record(RecordKind.EVENT, 5, msgspec.msgpack.encode(["x", "p", 1, 2.0])),
        Record(RecordKind.LABEL, 5, msgspec.msgpack.encode([2, "p", 1.0, 7, -1])),
        Record(RecordKind.LABEL, 5, msgspec.msgpack.encode([0, "p", 1.0])),
        Record(RecordKind.DECISION, 5, msgspec.msgpack.encode([0] * 13)),
        Record(RecordKind.DEAD, 5, msgspec.msgpack.encode({"a": 1})),
        Record(RecordKind.HISTORY, 5, b"ARROW1", count=3),
        Record(RecordKind.HISTORY, 5, history([1]).payload, count=3),
    ],
    ids=lambda record: record.kind.name,
)
def test_a_record_that_cannot_be_read_is_named(record: Record) -> None:
    tables = MemoryTables()
    with pytest.raises(Corrupt) as caught:
        run(log_of(event(0), record), tables)
    assert caught.value.code == "UNREADABLE_RECORD"
    assert tables.names("acme") == []


def test_fields_added_at_the_end_of_a_record_are_passed_over() -> None:
    tables = MemoryTables()
    payload = msgspec.msgpack.encode([*msgspec.msgpack.decode(decision(0).payload), "new"])
    assert run(log_of(Record(RecordKind.DECISION, 5, payload)), tables)[DECISIONS].rows == 1
