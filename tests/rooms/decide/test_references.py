"""Rows of references: the border, the log, and the features that look them up, the same bits on every way."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, Corrupt, InvalidInput
from skyriver.core.spec import FieldSpec, ReferenceSpec
from skyriver.data.columns import Columns
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.history import read_block, read_record
from skyriver.decide.log.records import (
    ControlRecord,
    LoadStep,
    decode_control,
    decode_reference,
    encode_event,
    encode_reference,
)
from skyriver.decide.partition.building import Resting, build
from skyriver.decide.partition.folding import Folding
from skyriver.decide.partition.kernel_windows import KernelWindows, WindowsFiles, memory_windows
from skyriver.decide.partition.partition import check_same_stream, fields_of, references_of
from skyriver.decide.partition.windows import FeatureSets
from skyriver.decide.replay.verify import VerifyReport, verify_stream
from skyriver.decide.worker.border import ReferenceBorder
from skyriver.features.backfill import backfill
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import plan_features

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
Row = tuple[int, int, Any]
"""(kind, T, values of an event, or (reference, values)); its place is its offset."""


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    shop: str
    amount: float


class Shop(sr.Event):
    shop: str
    since: sr.Time
    name: str | None
    risk: float | None
    open: bool


class Person(sr.Event):
    at: sr.Time
    limit: int | None
    person: int


class Rate(sr.Event):
    id: int
    at: sr.Time


APP = sr.App("risk")
PAYMENTS = APP.stream("payments", Payment, id="payment", time="at", key="customer", disorder="10s")
SHOPS = APP.reference("shops", Shop, of=PAYMENTS, id="shop", time="since")
RATES = APP.reference("rates", Rate, of=PAYMENTS, id="id", time="at")
PEOPLE = APP.reference("people", Person, of=PAYMENTS, id="person", time="at")
FEATURES = APP.features(
    "behaviour",
    PAYMENTS,
    {
        "amount": PAYMENTS.amount,
        "risk": sr.lookup(SHOPS.risk, by="shop"),
        "open": sr.lookup(SHOPS.open, by="shop") == 1,
        "known_for": (PAYMENTS.at - sr.lookup(SHOPS.since, by="shop")) / SECOND,
        "to_limit": PAYMENTS.amount / sr.lookup(PEOPLE.limit, by="customer"),
        "mean_10m": sr.mean("amount", by="shop", over="10m"),
    },
).spec
STREAM = APP.spec.stream("payments")
PLAN = plan_features(FEATURES, STREAM)
SHOP, RATE, PERSON = range(3)


def windows(kernels: Path) -> KernelWindows:
    return memory_windows(STREAM, PLAN, load_kernel(PLAN, kernels))


def history(count: int, seed: int) -> list[Row]:
    """Rows of before, of now and of what is still to come, of shops that nobody pays at, too."""
    luck = random.Random(seed)
    rows: list[Row] = []
    at = START
    for number in range(count):
        time = at + luck.choice([-90, -1, 0, 1, 90]) * SECOND
        match luck.choice(["event", "event", "shop", "person", "rate"]):
            case "event":
                at += luck.choice([0, 1, 30]) * SECOND
                values = [number, at, luck.randrange(4), f"s{luck.randrange(3)}", luck.random() * 100]
                rows.append((RecordKind.EVENT, at, values))
            case "shop":
                risk = luck.choice([None, luck.random()])
                rows.append((RecordKind.REFERENCE, at, (SHOP, [f"s{luck.randrange(5)}", time, None, risk, True])))
            case "person":
                rows.append((RecordKind.REFERENCE, at, (PERSON, [time, luck.randrange(9), luck.randrange(5)])))
            case "rate":
                rows.append((RecordKind.REFERENCE, at, (RATE, [1, time])))
    return rows


def folded(rows: list[Row], into: Any, sizes: list[int], *, in_columns: bool = False) -> np.ndarray:
    found: list[np.ndarray] = [np.empty((0, len(PLAN.names)), np.float32)]
    start = 0
    while start < len(rows):
        kind, end = rows[start][0], start
        limit = start + sizes[start % len(sizes)]
        while end < min(limit, len(rows)) and rows[end][0] == kind:
            end += 1
        part, offsets = rows[start:end], list(range(start, end))
        times, contents = [t for _, t, _ in part], [content for _, _, content in part]
        if kind is RecordKind.REFERENCE:
            into.fold_references(offsets, contents)
        elif in_columns:
            columns = Columns.of_rows(STREAM.fields, contents)
            found.append(into.fold_columns(np.array(offsets), np.array(times), columns))
        else:
            found.append(into.fold_events(offsets, times, contents))
        start = end
    return np.concatenate(found)


def as_block(rows: list[Row]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {f.name: [] for f in STREAM.fields}
    for kind, _, content in rows:
        for place, name in enumerate(columns):
            columns[name].append(content[place] if kind is RecordKind.EVENT else None)
    payloads = [encode_reference(*content) if kind is RecordKind.REFERENCE else None for kind, _, content in rows]
    none = [None] * len(rows)
    return pl.DataFrame(columns, schema_overrides={"payment": pl.Int64, "customer": pl.Int64}).with_columns(
        pl.Series("_kind", [int(kind) for kind, _, _ in rows], dtype=pl.UInt8),
        pl.Series("_time", [t for _, t, _ in rows], dtype=pl.Int64),
        pl.Series("_effective", [t for _, t, _ in rows], dtype=pl.Int64),
        pl.Series("_label", none, dtype=pl.UInt8),
        pl.Series("_subject", none, dtype=pl.Int64),
        pl.Series("_value", none, dtype=pl.Float64),
        pl.Series("_subject_offset", [-1] * len(rows), dtype=pl.Int64),
        pl.Series("_reference", payloads, dtype=pl.Binary),
    )


def from_tables(rows: list[Row], kernels: Path, size: int) -> np.ndarray:
    frame = as_block(rows).with_row_index("_offset").cast({"_offset": pl.Int64})
    events = frame.filter(pl.col("_kind") == 1).with_columns(_late=pl.lit(False))
    references = {}
    for index, reference in enumerate(STREAM.references):
        own = [(n, *c[1]) for n, (kind, _, c) in enumerate(rows) if kind is RecordKind.REFERENCE and c[0] == index]
        names = ["_offset", *(f.name for f in reference.fields)]
        types = {"int": pl.Int64, "time": pl.Int64, "text": pl.String, "float": pl.Float64, "bool": pl.Boolean}
        schema = dict(zip(names, [pl.Int64, *(types[f.type] for f in reference.fields)], strict=True))
        references[reference.name] = pl.DataFrame(own, schema=schema, orient="row").reverse()
    frames = [events[start : start + size] for start in range(0, len(events), size)]
    return backfill(PLAN, kernels, frames, references=references).features


@pytest.mark.parametrize("seed", range(3))
def test_all_ways_give_the_same_bits(kernels: Path, seed: int) -> None:
    rows = history(500, seed)
    wanted = folded(rows, windows(kernels), [1])
    assert not np.isnan(wanted).all(axis=0).any(), "every feature has some value"
    assert np.isnan(wanted[:, 1]).any(), "some rows say nothing"
    blocks = windows(kernels)
    records = [
        Record(kind, at, encode_event(0, c) if kind is RecordKind.EVENT else encode_reference(*c), offset=n)
        for n, (kind, at, c) in enumerate(rows)
    ]
    replayed: list[np.ndarray] = []
    folding = Folding(windows(kernels), chunk=7, folded=lambda _, features: replayed.append(features))
    for record in records:
        folding.apply(record)
    folding.flush()
    for found in (
        folded(rows, windows(kernels), [7, 1, 64]),
        folded(rows, windows(kernels), [5, 100], in_columns=True),
        folded(rows, FeatureSets(windows(kernels)), [3]),
        np.concatenate([blocks.fold_block(s, as_block(rows[s : s + 60])) for s in range(0, len(rows), 60)]),
        from_tables(rows, kernels, 500),
        from_tables(rows, kernels, 11),
        np.concatenate(replayed),
    ):
        np.testing.assert_array_equal(found, wanted)


def test_more_ids_than_there_is_room_for_at_first(kernels: Path) -> None:
    count = 5000
    rows = [(SHOP, [f"s{n}", START - 5, None, n / 4, False]) for n in range(count)]
    rows += [(SHOP, ["s7", START + later, None, 1000.0 + later, False]) for later in range(2000)]  # one a microsecond
    into = windows(kernels)
    into.fold_references(range(len(rows)), rows)
    saved = into.save().state
    again = windows(kernels)
    again._state.restore(saved)
    for each in (into, again):
        events = [[n, START, 1, f"s{n}", 1.0] for n in range(count)]
        found = each.fold_events(range(len(rows), len(rows) + count), [START] * count, events)
        wanted = np.arange(count) / 4
        wanted[7] = 1000.0
        np.testing.assert_array_equal(found[:, 1], wanted.astype(np.float32))
        later = each.fold_events([99_999], [START + 1234], [[1, START, 1, "s7", 1.0]])
        assert later[0, 1] == 2234.0


def test_an_id_that_changes_again_and_again_takes_one_row(kernels: Path) -> None:
    into = windows(kernels)
    before = into.size[1]
    for n in range(3000):
        into.fold_events([2 * n], [START + n], [[n, START + n, 1, "s", 1.0]])
        into.fold_references([2 * n + 1], [(SHOP, ["s", START + n + n % 2, None, n / 4, True])])
    assert into.size[1] == before


def real_house(make_house: Callable[..., Any], kernels: Path) -> Any:
    class House(make_house):  # type: ignore[misc]
        def _open_windows(self, checkpoint: Any) -> Any:
            opened = windows(kernels)
            if checkpoint is not None:
                raise Conflict("The side log of a checkpoint ended with its process.")
            return opened

    return House(stream=STREAM)


def learn(house: Any, reference: int, *rows: dict[str, Any]) -> None:
    limit = house.clock.wall() + STREAM.ahead_us
    house.engine.learn([ReferenceBorder(STREAM, reference).take(rows, house.clock.wall(), limit)])
    house.log.sync()


def payment(number: int, second: float, shop: str = "s1", customer: int = 1, amount: float = 10.0) -> dict[str, Any]:
    at = START + round(second * SECOND)
    return {"payment": number, "at": at, "customer": customer, "shop": shop, "amount": amount}


def shop(second: float, risk: float | None, name: str = "s1") -> dict[str, Any]:
    return {"shop": name, "since": START + round(second * SECOND), "risk": risk, "open": True}


def features_of(house: Any) -> Iterator[list[float]]:
    for decision in house.decisions():
        yield np.frombuffer(decision.features, "<f4").tolist()


@pytest.mark.parametrize("block_rows", [0, 1])
def test_an_event_sees_the_rows_before_it_whose_time_has_come(
    make_house: Callable[..., Any], kernels: Path, block_rows: int
) -> None:
    house = real_house(make_house, kernels)
    house.block_rows = block_rows
    house.start(house.deciding(model=False))
    house.send(payment(1, 0))
    learn(house, SHOP, shop(-100, 0.25), shop(20, 0.5))
    house.send(payment(2, 1), payment(3, 19.9), payment(4, 20), payment(5, 21, "s2"))
    learn(house, SHOP, shop(5, 0.125))  # it comes too late to count
    learn(house, SHOP, shop(20, 0.75))  # what was said is corrected
    house.send(payment(6, 22), payment(7, 21))
    risks = [values[1] for values in features_of(house)]
    np.testing.assert_array_equal(risks, [np.nan, 0.25, 0.25, 0.5, np.nan, 0.75, 0.75])
    records = house.records(RecordKind.REFERENCE)
    assert [decode_reference(r.payload)[1][3] for r in records] == [0.25, 0.5, 0.125, 0.75]
    assert house.engine.partition.counters.reference_rows == 4
    before = [d.features for d in house.decisions()]
    house.start(house.deciding(model=False))  # from the log alone
    assert house.engine.partition.counters.reference_rows == 4
    house.send(payment(8, 22))
    assert [d.features for d in house.decisions()][:7] == before
    assert [*features_of(house)][-1][1] == 0.75


def test_history_and_its_references_are_one_order(make_house: Callable[..., Any], kernels: Path) -> None:
    house = real_house(make_house, kernels).start()
    rows: list[Row] = [
        (RecordKind.REFERENCE, START - 90 * SECOND, (SHOP, ["s1", START - 90 * SECOND, None, 0.5, True])),
        (RecordKind.EVENT, START - 80 * SECOND, [*payment(1, -80).values()]),
        (RecordKind.REFERENCE, START - 70 * SECOND, (RATE, [1, START - 70 * SECOND])),
    ]
    frame = as_block(rows).drop("_effective", "_subject_offset")
    order = ["_kind", "_time", *(f.name for f in STREAM.fields), "_label", "_subject", "_value", "_reference"]
    out = io.BytesIO()
    frame.select(order).write_ipc_stream(out)
    answer = house.engine.load(read_block(out.getvalue(), STREAM), LoadStep("load", 0, 0, last=True))
    house.log.sync()
    assert (answer.appended, answer.duplicates) == (3, 0)
    stored = read_record(house.records(RecordKind.HISTORY)[0].payload)
    assert stored["_subject_offset"].to_list() == [-1, -1, -1]
    assert stored["_effective"].to_list()[1:] == [START - 80 * SECOND] * 2
    house.send(payment(2, 0))
    assert next(features_of(house))[1] == 0.5
    bad = frame.select(order).with_columns(pl.Series("_reference", [encode_reference(3, [1]), None, None]))
    for wrong in (bad, frame.select(order).with_columns(pl.lit(None, pl.Binary).alias("_reference"))):
        out = io.BytesIO()
        wrong.write_ipc_stream(out)
        with pytest.raises(InvalidInput, match="does not fit the stream payments"):
            read_block(out.getvalue(), STREAM)


def test_a_request_is_taken_whole_or_not_at_all() -> None:
    border = ReferenceBorder(STREAM, SHOP)
    good = shop(0, 0.5)
    taken = border.take([good, shop(1, None)], START, START + 60 * SECOND)
    assert taken.rows[0] == ["s1", START, None, 0.5, True]
    for bad, field, reason in (
        ({**good, "riskk": 1}, "riskk", "UNKNOWN_FIELD"),
        ({**good, "risk": "high"}, "risk", "WRONG_TYPE"),
        ({"since": START, "open": True}, "shop", "MISSING"),
        ({**good, "since": START + 61 * SECOND}, "since", "AHEAD_OF_CLOCK"),
        ({**good, "since": "soon"}, "since", "BAD_TIME"),
        ([1], "", "WRONG_TYPE"),
    ):
        with pytest.raises(InvalidInput) as caught:
            border.take([good, bad], START, START + 60 * SECOND)
        assert (caught.value.code, caught.value.where) == ("REFERENCE_REFUSED", field)
        assert "1 of 2 rows of shops" in caught.value.message
        assert "row 2: " in caught.value.message
        assert [(d["index"], d["reason"]) for d in caught.value.details] == [(1, reason)]


def test_one_row_that_is_refused_is_told_alone() -> None:
    border = ReferenceBorder(STREAM, SHOP)
    bad = {**shop(0, 0.5), "risk": "inf"}
    with pytest.raises(InvalidInput) as caught:
        border.take([bad], START, START)
    assert caught.value.message == "The row of shops is refused: risk is 'inf': it must be a finite number."
    assert caught.value.next_action == "Correct it: nothing was changed."
    with pytest.raises(InvalidInput) as several:
        border.take([bad, shop(1, 0.5)], START, START)
    assert "may be sent again" in several.value.next_action


def test_references_may_be_added_to_a_stream_and_not_changed(make_house: Callable[..., Any], kernels: Path) -> None:
    house = real_house(make_house, kernels)
    house.stream = STREAM.model_copy(update={"references": STREAM.references[:1]})
    house.with_features = False
    house.start()
    assert decode_control(house.records(RecordKind.CONTROL)[0].payload).references == (
        ("shops", "shop text", "since time", "name text", "risk float", "open bool", "/id shop", "/time since"),
    )
    house.stream = STREAM
    house.start()
    house.stream = STREAM.model_copy(update={"references": STREAM.references[1:]})
    with pytest.raises(Conflict) as caught:
        house.start()
    assert caught.value.code == "STREAM_CHANGED"


@pytest.mark.parametrize(
    "changed",
    [{"id": "name"}, {"by": "other"}, {"until": "gone"}, {"time": "until"}, {"until": "", "by": ""}],
)
def test_a_list_that_comes_back_with_other_roles_is_refused(changed: dict[str, str]) -> None:
    fields = (
        FieldSpec(name="customer", type="text"),
        FieldSpec(name="name", type="text"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="until", type="time", nullable=True),
        FieldSpec(name="gone", type="time", nullable=True),
    )
    before = ReferenceSpec(name="denied", fields=fields, id="customer", time="at", until="until", by="customer")
    stream = STREAM.model_copy(update={"references": (before,)})
    control = {"fields": fields_of(stream), "labels": tuple(label.name for label in stream.labels)}
    told = ControlRecord(None, (), "", "", "", "", 0, 0, 0, references=references_of(stream), **control)
    check_same_stream(told, stream)
    other = stream.model_copy(update={"references": (before.model_copy(update=changed),)})
    with pytest.raises(Conflict) as caught:
        check_same_stream(told, other)
    assert caught.value.code == "STREAM_CHANGED"
    assert "id, time, until and by" in caught.value.next_action
    # A log of the release before does not tell them.
    bare = tuple(tuple(part for part in own if not part.startswith("/")) for own in told.references)
    check_same_stream(msgspec.structs.replace(told, references=bare), stream)
    check_same_stream(msgspec.structs.replace(told, references=bare), other)


def test_a_record_that_is_no_row_is_told() -> None:
    with pytest.raises(Corrupt, match="REFERENCE"):
        decode_reference(b"\xc1")
    with pytest.raises(Corrupt, match="REFERENCE"):
        decode_reference(b"\x91\xa1x")


class Steady:
    def wall(self) -> int:
        return START

    def monotonic(self) -> int:
        return 0


def test_a_log_that_gave_up_rows_is_not_folded_as_if_it_had_them(
    make_house: Callable[..., Any], kernels: Path, tmp_path: Path
) -> None:
    """They may still be current: nobody can tell from what is left."""
    house = real_house(make_house, kernels)
    house.store.part_records = 4
    house.start(house.deciding(model=False))
    learn(house, SHOP, shop(0, 0.5))
    for n in range(20):
        house.send(payment(n, n))
    files = WindowsFiles(STREAM, tmp_path / "side", kernels)

    def built() -> int:
        resting = Resting(1.0, Steady(), lambda _: None)
        reader = house.store.reader()
        reader.sync = lambda: reader.next_offset
        return build(reader, files, FEATURES, tmp_path / "building", resting, lambda *_: None)

    def verified() -> VerifyReport:
        reader = house.store.reader()
        return verify_stream(reader, STREAM, FEATURES, kernels, lambda *_: None, begin=reader.begin())

    assert built() == 0, "it is close behind the end"
    assert (verified().compared, verified().cut) == (20, 0)
    assert house.log.remove_before(house.log.parts()[1].end) > 0
    shutil.rmtree(tmp_path / "building")
    with pytest.raises(Conflict, match="look up references") as caught:
        built()
    assert caught.value.code == "REFERENCES_GONE"
    with pytest.raises(Conflict, match="rows of references of any age") as caught:
        verified()
    assert caught.value.code == "WINDOWS_CUT"
    with pytest.raises(Conflict, match="look up references") as caught:
        house.start(house.deciding(model=False))
    assert caught.value.code == "HISTORY_GONE"
