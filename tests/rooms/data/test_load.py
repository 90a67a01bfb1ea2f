"""Loads: what is cleaned, left out, ordered and refused, and what blocks of history look like."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.adapters.memory.tables import MemoryTables
from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.core.spec import FieldSpec, LabelSpec, ReferenceSpec, StreamSpec, TableSpec
from skyriver.data import ordering, stream_load
from skyriver.data.files import LoadFile
from skyriver.data.intake import LoadReport
from skyriver.data.load import load_table, store_dead
from skyriver.data.stream_load import PreparedLoad, prepare_stream_load
from skyriver.decide.log.history import read_block
from skyriver.decide.log.records import decode_reference

HOUR = 3_600_000
"""Shorter than one: a few real hours after 1970 are refused, as seconds that were taken for microseconds."""
STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="note", type="text", nullable=True),
        FieldSpec(name="amount", type="float", ge=0, fill=0.0),
    ),
    id="payment",
    time="at",
    key="payment",
    labels=(LabelSpec(name="fraud", delay_us=10 * HOUR), LabelSpec(name="refund", delay_us=0)),
    dedupe_us=24 * HOUR,
    max_bad=0.5,
)
Row = dict[str, Any]


def quiet(stage: str, done: int, total: int) -> None:
    pass


def lines(folder: Path, name: str, rows: Sequence[Row], label: str = "") -> LoadFile:
    path = folder / f"given-{name}"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return LoadFile(path, name, "jsonl", label)


def prepare(folder: Path, *files: LoadFile, stream: StreamSpec = STREAM) -> PreparedLoad:
    return prepare_stream_load(stream, files, folder, frozenset({"amount"}), quiet)


def rows_of(prepared: PreparedLoad, stream: StreamSpec = STREAM) -> list[tuple[Any, ...]]:
    """(time, "event", id) and (known at, label's place, subject, value), in the order of the log."""
    found: list[tuple[Any, ...]] = []
    for path in prepared.blocks:
        frame = read_block(path.read_bytes(), stream).frame  # what the worker makes of it
        for row in frame.iter_rows(named=True):
            if row["_kind"] == 1:
                assert row["_time"] == row[stream.time]
                found.append((row["_time"], "event", row[stream.id]))
            else:
                assert row[stream.id] is None
                found.append((row["_time"], row["_label"], row["_subject"], row["_value"]))
    assert len(found) == prepared.rows
    return found


def event(number: int, hour: float, **more: Any) -> Row:
    return {"payment": number, "at": int(hour * HOUR), "amount": 1, **more}


SHOPS = ReferenceSpec(
    name="shops",
    fields=(
        FieldSpec(name="shop", type="text"),
        FieldSpec(name="since", type="time"),
        FieldSpec(name="risk", type="float", nullable=True, le=1),
    ),
    id="shop",
    time="since",
)


def test_rows_of_references_stand_where_they_become_current(tmp_path: Path) -> None:
    stream = STREAM.model_copy(update={"references": (SHOPS.model_copy(update={"name": "malls"}), SHOPS)})
    events = lines(tmp_path, "events", [event(n, n, fraud=n) for n in range(1, 5)])
    rows: list[Row] = [
        {"shop": "b", "since": 3 * HOUR, "risk": 0.5},
        {"shop": "a", "since": 2 * HOUR},
        {"shop": "a", "since": -HOUR, "risk": 1},
        {"shop": "a", "since": 2 * HOUR, "risk": 2},
        {"shop": "c", "since": 99 * HOUR, "risk": 1},
    ]
    shops = replace(lines(tmp_path, "shops", rows), reference="shops")
    other = tmp_path / "other.csv"
    other.write_text("shop,since,risk\nd,1970-01-01T00:00:07.2,\n")
    csv = LoadFile(other, "other.csv", "csv", reference="shops")
    files = (events, shops, csv)
    prepared = prepare_stream_load(stream, files, tmp_path, frozenset({"amount"}), quiet, latest=50 * HOUR)
    frame = pl.concat([read_block(path.read_bytes(), stream).frame for path in prepared.blocks])
    found = [
        (row["_kind"], row["_time"] // HOUR, row["payment"] if row["_kind"] == 1 else row["_subject"])
        if row["_reference"] is None
        else decode_reference(row["_reference"])
        for row in frame.iter_rows(named=True)
    ]
    assert found == [
        (1, ["a", -HOUR, 1.0]),
        (1, 1, 1),
        (1, ["a", 2 * HOUR, None]),
        (1, ["d", 2 * HOUR, None]),
        (1, 2, 2),
        (1, ["b", 3 * HOUR, 0.5]),
        (1, 3, 3),
        (1, 4, 4),
        *((2, 10 + n, n) for n in range(1, 5)),
    ]
    report = prepared.report
    assert (report.rows_read, report.rows_good, report.references, report.labels) == (10, 8, 4, 4)
    assert dict(report.bad) == {"OUT_OF_RANGE": 1, "AHEAD_OF_CLOCK": 1}
    assert (report.first_time, report.last_time) == (HOUR, 4 * HOUR)
    alone = prepare_stream_load(stream, (csv,), tmp_path, frozenset({"amount"}), quiet)
    assert (alone.rows, alone.report.references) == (1, 1)


def test_rows_of_a_reference_that_nobody_declared_are_refused(tmp_path: Path) -> None:
    file = replace(lines(tmp_path, "shops", [{"shop": "a"}]), reference="shops")
    with pytest.raises(InvalidInput, match="no reference 'shops'") as caught:
        prepare(tmp_path, file)
    assert caught.value.code == "UNKNOWN_REFERENCE"


def test_all_files_are_one_order(tmp_path: Path) -> None:
    first = lines(tmp_path, "a", [event(3, 5), event(1, 2), event(9, 1)])
    second = lines(tmp_path, "b", [event(2, 2), event(4, 0)])
    prepared = prepare(tmp_path, first, second)
    assert [row[2] for row in rows_of(prepared)] == [4, 9, 1, 2, 3]
    report = prepared.report
    assert (report.rows_read, report.rows_good, report.duplicates, report.labels) == (5, 5, 0, 0)
    assert (report.first_time, report.last_time) == (0, 5 * HOUR)


def test_an_event_ahead_of_the_clock_is_a_bad_row(tmp_path: Path) -> None:
    rows = [event(1, 1), event(2, 50), event(3, 2), event(4, 2)]
    files = [lines(tmp_path, "a", rows)]
    prepared = prepare_stream_load(STREAM, files, tmp_path, frozenset(), quiet, latest=2 * HOUR)
    assert [row[2] for row in rows_of(prepared)] == [1, 3, 4]
    assert prepared.report.bad == {"AHEAD_OF_CLOCK": 1}
    example = prepared.report.examples[0]
    assert (example["row"], example["field"], example["message"]) == (
        2,
        "at",
        "at is 4 minutes ahead of the clock here.",
    )


def test_a_label_column_is_known_after_the_delay(tmp_path: Path) -> None:
    rows = [
        event(1, 0, fraud=1, refund=None),
        event(2, 10, fraud=0, refund=2.5),
        event(3, 10, refund=0),
        event(4, 11, fraud=None),
        event(5, 12, fraud="yes"),
    ]
    prepared = prepare(tmp_path, lines(tmp_path, "a", rows))
    assert rows_of(prepared) == [
        (0, "event", 1),
        (10 * HOUR, "event", 2),
        (10 * HOUR, "event", 3),
        (10 * HOUR, 0, 1, 1.0),
        (10 * HOUR, 1, 2, 2.5),
        (10 * HOUR, 1, 3, 0.0),
        (11 * HOUR, "event", 4),
        (20 * HOUR, 0, 2, 0.0),
    ]
    assert prepared.report.bad == {"WRONG_TYPE": 1}
    assert prepared.report.examples[0]["message"] == "fraud is 'yes': it must be a number."


def test_a_file_of_labels(tmp_path: Path) -> None:
    events = lines(tmp_path, "events", [event(1, 1), event(2, 2), event(3, 3)])
    given_labels = [
        {"payment": 1, "fraud": 1, "known_at": 7 * HOUR},
        {"payment": 2, "fraud": 0},
        {"payment": 3, "fraud": 1, "known_at": 2 * HOUR},
        {"payment": 77, "fraud": 1, "known_at": 4 * HOUR},
        {"payment": 78, "fraud": 1},
        {"payment": 1, "fraud": None},
        {"payment": 1, "fraud": 0, "known_at": 9 * HOUR},
    ]
    prepared = prepare(tmp_path, events, lines(tmp_path, "labels", given_labels, label="fraud"))
    assert [row for row in rows_of(prepared) if row[1] != "event"] == [
        (4 * HOUR, 0, 77, 1.0),
        (7 * HOUR, 0, 1, 1.0),
        (12 * HOUR, 0, 2, 0.0),
    ]
    report = prepared.report
    assert report.bad == {"BAD_TIME": 1, "MISSING": 2}
    assert (report.labels, report.label_duplicates, report.rows_read, report.rows_good) == (3, 1, 10, 7)
    dead = pl.concat([pl.read_ipc(path) for path in prepared.dead])
    assert sorted(dead.select("file", "row", "reason", "field").rows()) == [
        ("labels", 3, "BAD_TIME", "known_at"),
        ("labels", 5, "MISSING", "known_at"),
        ("labels", 6, "MISSING", "fraud"),
    ]
    assert dead.filter(pl.col("row") == 5)["raw"].to_list() == ['{"payment":78,"fraud":1.0,"known_at":null}']


def test_labels_alone_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("payment,refund,known_at\n5,1.5,1970-01-01T00:00:07.2Z\n4,2,1970-01-01T00:00:03.6Z\n")
    prepared = prepare(tmp_path, LoadFile(path, "labels.csv", "csv", "refund"))
    assert rows_of(prepared) == [(HOUR, 1, 4, 2.0), (2 * HOUR, 1, 5, 1.5)]
    assert prepared.report.first_time is None


def test_an_id_is_a_duplicate_for_the_stated_period(tmp_path: Path) -> None:
    rows = [event(1, hour, fraud=hour) for hour in (0, 24, 24.5, 48, 49)] + [event(2, 1), event(2, 1)]
    prepared = prepare(tmp_path, lines(tmp_path, "a", rows))
    assert [row for row in rows_of(prepared) if row[1] == "event"] == [
        (0, "event", 1),
        (HOUR, "event", 2),
        (int(24.5 * HOUR), "event", 1),
        (49 * HOUR, "event", 1),
    ]
    assert prepared.report.duplicates == 3
    assert prepared.report.labels == 1  # the label of a duplicate is one too
    assert prepared.report.label_duplicates == 2


def test_text_ids(tmp_path: Path) -> None:
    stream = STREAM.model_copy(update={"fields": (FieldSpec(name="payment", type="text"), *STREAM.fields[1:])})
    rows = [event("b", 1, fraud=1), event("a", 1), event("a", 2)]  # type: ignore[arg-type]
    prepared = prepare(tmp_path, lines(tmp_path, "a", rows), stream=stream)
    assert rows_of(prepared, stream) == [(HOUR, "event", "a"), (HOUR, "event", "b"), (11 * HOUR, 0, "b", 1.0)]


def test_too_many_bad_rows_refuse_the_load(tmp_path: Path) -> None:
    rows = [event(n, n, amount=-1 if n % 2 else 1) for n in range(10)]
    strict = STREAM.model_copy(update={"max_bad": 0.4})
    with pytest.raises(InvalidInput) as caught:
        prepare(tmp_path, lines(tmp_path, "a", rows), stream=strict)
    error = caught.value
    assert error.code == "TOO_MANY_BAD_ROWS"
    assert (
        "5 of 10 rows are bad (5 OUT_OF_RANGE); at most 40.0% may be. The first is row 2: amount is -1.0"
        in error.message
    )
    assert error.where == "a"
    assert len(error.details) == 5
    assert list(tmp_path.glob("block-*")) == []
    assert len(rows_of(prepare(tmp_path, lines(tmp_path, "a", rows)))) == 5


def test_refusals_of_the_whole_load(tmp_path: Path) -> None:
    good = lines(tmp_path, "good", [event(1, 1)])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    cases = [
        ([], "NO_FILES"),
        ([lines(tmp_path, "x", [{"payment": 1, "fine": 1}], label="fine")], "UNKNOWN_LABEL"),
        ([good, LoadFile(broken, "broken.parquet", "parquet")], "UNREADABLE_FILE"),
    ]
    for files, code in cases:
        with pytest.raises(InvalidInput) as caught:
            prepare(tmp_path, *files)
        assert caught.value.code == code
    assert list(tmp_path.glob("block-*")) == []


def test_ignored_columns_and_progress_are_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    file = lines(tmp_path, "a", [event(1, 1, colour="red"), event(2, 2, size=1)])
    prepared = prepare_stream_load(
        STREAM, [file], tmp_path, frozenset(), lambda stage, done, total: told.append((stage, done, total))
    )
    assert prepared.report.ignored == {"a": ("colour", "size")}
    assert told == [
        ("cleaning a", 2, 0),
        ("sorting", 2, 2),
        ("looking for duplicates", 1, 1),
        ("writing blocks", 2, 2),
    ]
    assert json.loads(json.dumps(prepared.report.to_json()))["ignored"] == {"a": ["colour", "size"]}


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_ipc_stream", full)
    with pytest.raises(Unavailable) as caught:
        prepare(tmp_path, lines(tmp_path, "a", [event(1, 1)]))
    assert caught.value.code == "DISK_FULL"


EVENTS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 60), st.sampled_from([None, None, 0, 1]), st.sampled_from([None, 1.5])),
    max_size=25,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(files=st.lists(EVENTS, min_size=1, max_size=3), size=st.integers(1, 9))
def test_the_order_is_that_of_the_definition(
    files: list[list[tuple[int, int, int | None, float | None]]],
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_files = [
        lines(tmp_path, str(n), [event(i, t, fraud=f, refund=r) for i, t, f, r in rows])
        for n, rows in enumerate(files)
        if rows
    ]
    if not given_files:
        return
    ordered = sorted((row for rows in files for row in rows), key=lambda row: (row[1], row[0]))
    taken: dict[int, int] = {}
    expected: list[tuple[Any, ...]] = []
    labels: dict[tuple[int, int], tuple[Any, ...]] = {}
    for number, hour, fraud, refund in ordered:
        if number in taken and hour - taken[number] <= 24:
            continue
        taken[number] = hour
        expected.append((hour * HOUR, 1, "event", number))
        for place, delay, value in ((0, 10, fraud), (1, 0, refund)):
            if value is not None:
                labels.setdefault((number, place), ((hour + delay) * HOUR, 2, number, place, float(value)))
    merged = sorted([*expected, *labels.values()], key=lambda row: (row[0], row[1], row[2] if row[1] == 2 else 0))
    flat = [(r[0], "event", r[3]) if r[1] == 1 else (r[0], r[3], r[2], r[4]) for r in merged]
    monkeypatch.setattr(stream_load, "BLOCK_ROWS", size)
    monkeypatch.setattr(stream_load, "PART_ROWS", size)
    monkeypatch.setattr(stream_load, "CHUNK_ROWS", size)
    monkeypatch.setattr(ordering, "CHUNK_ROWS", size)
    monkeypatch.setattr(ordering, "RUN_BYTES", 40 * size)
    monkeypatch.setattr(ordering, "PARTS_BYTES", 40 * size)
    prepared = prepare(tmp_path, *given_files)
    assert rows_of(prepared) == flat
    assert len(prepared.blocks) == -(-len(flat) // size)


TABLE = TableSpec(
    name="items",
    fields=(FieldSpec(name="item", type="int"), FieldSpec(name="price", type="float", ge=0, nullable=True)),
    id="item",
    max_bad=0.5,
)


def into_table(tables: MemoryTables, folder: Path, offset: int, *rows: Row) -> LoadReport:
    file = lines(folder, f"load-{offset}", rows)
    return load_table(TABLE, [file], tables, "acme/items", offset, None, quiet, work_dir=folder)


def test_a_table_takes_each_id_once(tmp_path: Path) -> None:
    tables = MemoryTables()
    report = into_table(tables, tmp_path, 1, {"item": 2, "price": 1}, {"item": 1}, {"item": 2, "price": 9})
    assert (report.rows_read, report.duplicates) == (3, 1)
    assert report.version == tables.latest("acme/items")
    report = into_table(tables, tmp_path, 2, {"item": 1, "price": 5}, {"item": 3, "price": -1}, {"item": 4, "price": 4})
    assert (report.rows_read, report.rows_good, report.duplicates, report.bad) == (3, 2, 1, {"OUT_OF_RANGE": 1})
    assert report.version is not None
    rows = pl.concat(list(tables.scan("acme/items", report.version.version))).rows()
    assert rows == [(2, 1.0), (1, None), (4, 4.0)]
    dead = pl.concat(list(tables.scan("acme/items.dead", 0)))
    assert dead.select("_offset", "file", "row", "reason", "field", "raw").rows() == [
        (2, "load-2", 2, "OUT_OF_RANGE", "price", '{"item": 3, "price": -1}')
    ]


def test_a_load_of_a_table_that_is_repeated_does_no_harm(tmp_path: Path) -> None:
    class Cut(MemoryTables):
        fail = False

        def append(self, name: str, *arguments: Any, **options: Any) -> Any:
            if name == "acme/items" and self.fail:
                raise Unavailable("The disk is full.", code="DISK_FULL")
            return super().append(name, *arguments, **options)

    tables = Cut()
    rows = [{"item": 1, "price": 1}, {"item": 2, "price": -2}]
    tables.fail = True
    with pytest.raises(Unavailable):
        into_table(tables, tmp_path, 1, *rows)
    tables.fail = False
    assert into_table(tables, tmp_path, 1, *rows).rows_good == 1
    again = into_table(tables, tmp_path, 1, *rows)
    assert again.repeated
    assert again.version == tables.latest("acme/items")
    assert (tables.latest("acme/items").rows, tables.latest("acme/items.dead").rows) == (1, 1)


def test_a_table_has_no_labels(tmp_path: Path) -> None:
    file = lines(tmp_path, "a", [{"item": 1}], label="fraud")
    with pytest.raises(InvalidInput, match="is a table"):
        load_table(TABLE, [file], MemoryTables(), "acme/items", 1, None, quiet, work_dir=tmp_path)


def test_dead_rows_of_a_stream_are_kept_in_a_table(tmp_path: Path) -> None:
    tables = MemoryTables()
    prepared = prepare(tmp_path, lines(tmp_path, "a", [event(1, 1), event(2, 2, amount=-1)]))
    version = store_dead(prepared, tables, "acme/payments.refused", 7)
    assert version is not None
    assert (version.rows, version.offset) == (1, 7)
    assert (
        store_dead(prepare(tmp_path, lines(tmp_path, "b", [event(1, 1)])), tables, "acme/payments.refused", 8) is None
    )


def test_dead_rows_of_a_stream_are_there_once_whenever_their_load_comes_again(tmp_path: Path) -> None:
    tables, name = MemoryTables(), "acme/payments.refused"
    prepared = prepare(tmp_path, lines(tmp_path, "a", [event(1, 1), event(2, 2, amount=-1)]))
    for position in (20, -7, 10, 20, 10, -7):  # 10 was cut off before its rows were stored, and comes after 20
        assert store_dead(prepared, tables, name, position) == tables.latest(name)
    rows = pl.concat(list(tables.scan(name, tables.latest(name).version)))
    assert rows["_offset"].to_list() == [20, -7, 10]


def test_memory_is_no_part_of_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and parts of a few rows give the blocks that one of everything gives; files of labels and bad rows too."""
    luck = random.Random(5)
    events = [
        [event(luck.randrange(300), luck.randrange(90), fraud=luck.choice([None, 0, 1])) for _ in range(200)]
        for _ in range(3)
    ]
    labels = [
        {"payment": luck.randrange(400), "refund": 1.5, "known_at": luck.choice([None, luck.randrange(200) * HOUR])}
        for _ in range(150)
    ]
    found = []
    for run_bytes in (ordering.RUN_BYTES, 900):
        folder = tmp_path / str(run_bytes)
        folder.mkdir()
        monkeypatch.setattr(ordering, "RUN_BYTES", run_bytes)
        if run_bytes == 900:
            for module, name in ((ordering, "CHUNK_ROWS"), (stream_load, "CHUNK_ROWS"), (stream_load, "PART_ROWS")):
                monkeypatch.setattr(module, name, 7)
            monkeypatch.setattr(ordering, "PARTS_BYTES", 500)
        files = [lines(folder, f"e{n}", rows) for n, rows in enumerate(events)]
        prepared = prepare(folder, *files, lines(folder, "l", labels, "refund"), lines(folder, "m", labels, "refund"))
        left = {path.name for path in folder.iterdir()} - {path.name for path in (*prepared.blocks, *prepared.dead)}
        assert all(name.startswith("given-") for name in left), "nothing else stays on the disk"
        report = prepared.report
        counts = (report.duplicates, report.labels, report.label_duplicates, dict(report.bad), report.last_time)
        found.append((counts, [path.read_bytes() for path in prepared.blocks]))
    assert found[0] == found[1]
    assert min(found[0][0][:3]) > 0
    assert set(found[0][0][3]) == {"MISSING", "BAD_TIME"}


def test_the_same_files_give_the_same_blocks(tmp_path: Path) -> None:
    numbers = [(n * 7919) % 1000 for n in range(1000)]
    given = [
        lines(tmp_path, "a", [event(n % 900, n % 97, fraud=n % 2, note=str(n) if n % 3 else None) for n in numbers]),
        lines(tmp_path, "b", [{"payment": n % 500, "refund": n} for n in numbers], label="refund"),
    ]
    made = []
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        folder.mkdir()
        prepared = prepare(folder, *given)
        made.append([path.read_bytes() for path in prepared.blocks])
    assert made[0] == made[1]
