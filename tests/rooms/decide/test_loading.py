"""History in the log: blocks of a load, their order, their duplicates, and what windows make of them."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import polars as pl
import pytest

from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.units import SECOND
from skyriver.data.decisions import Status
from skyriver.data.log import RecordKind
from skyriver.decide.log.checkpoint import BlockAnswer
from skyriver.decide.log.history import read_block, read_record
from skyriver.decide.log.records import LoadStep, decode_control

House = Any
SCHEMA = {
    "_kind": pl.UInt8,
    "_time": pl.Int64,
    "payment": pl.Int64,
    "at": pl.Int64,
    "customer": pl.Int64,
    "amount": pl.Float64,
    "_label": pl.UInt8,
    "_subject": pl.Int64,
    "_value": pl.Float64,
}


def event(payment: int, second: float, customer: int = 1, amount: float = 10.0) -> tuple[Any, ...]:
    at = 1_700_000_000 * SECOND + round(second * SECOND)
    return (1, at, payment, at, customer, amount, None, None, None)


def label(subject: int, second: float, value: float = 1.0, which: int = 0) -> tuple[Any, ...]:
    return (2, 1_700_000_000 * SECOND + round(second * SECOND), None, None, None, None, which, subject, value)


def encoded(frame: pl.DataFrame) -> bytes:
    out = BytesIO()
    frame.write_ipc_stream(out)
    return out.getvalue()


def block(*rows: tuple[Any, ...]) -> bytes:
    return encoded(pl.DataFrame(rows, schema=SCHEMA, orient="row"))


def load(house: House, data: bytes, sequence: int = 0, *, name: str = "load-1", last: bool = False) -> Any:
    answer = house.engine.load(read_block(data, house.stream), LoadStep(name, sequence, 0, last))
    house.log.sync()
    return answer


def history(house: House) -> pl.DataFrame:
    return pl.concat([read_record(r.payload) for r in house.records(RecordKind.HISTORY)])


def test_a_block_enters_log_windows_ids_and_time(house: House) -> None:
    answer = load(house, block(event(1, -100), event(2, -99, customer=2), label(1, -98), event(3, -97)), last=True)
    assert (answer.appended, answer.duplicates) == (4, 0)
    record = house.records(RecordKind.HISTORY)[0]
    assert (record.count, record.offset + record.count - 1) == (4, answer.last_offset)
    assert record.time == house.engine.partition.time == event(3, -97)[1]
    frame = history(house)
    assert frame["_effective"].to_list() == [event(0, s)[1] for s in (-100, -99, -99, -97)]
    assert frame["_subject_offset"].to_list() == [-1, -1, record.offset, -1]
    assert house.send(house.event(1)).duplicates == 1
    assert house.send(house.event(1)).decisions == [None]
    decision = house.send(house.event(4)).decisions[0]
    assert np.frombuffer(decision.features, "<f4").tolist() == [10.0, 1003.0]
    assert house.engine.partition.counters.history_rows == 4
    assert house.send_labels({"payment": 3, "fraud": 1}).unknown_subjects == 0


def test_duplicates_of_a_block_are_dropped_and_counted(house: House) -> None:
    house.send(house.event(1, at=-50))
    answer = load(house, block(event(1, -50), event(2, -49), event(2, -49), event(3, -48), label(9, -40)))
    assert (answer.appended, answer.duplicates) == (3, 2)
    assert history(house)["payment"].to_list() == [2, 3, None]
    assert house.windows.counts == {"1": 3}


def test_an_id_may_come_again_after_the_period(house: House) -> None:
    answer = load(house, block(event(1, -9000), event(1, -8000), event(1, -4000), event(5, -1), event(6, 0)))
    assert (answer.appended, answer.duplicates) == (4, 1)
    answer = load(house, block(event(5, 0), event(1, 0)), 1)
    assert (answer.appended, answer.duplicates) == (1, 1)


def test_labels_know_only_events_before_them(house: House) -> None:
    load(house, block(label(2, -10), event(2, -9), label(2, -8)))
    assert history(house)["_subject_offset"].to_list() == [-1, -1, 3]


def test_a_block_of_known_events_appends_nothing(house: House) -> None:
    house.send(house.event(1, at=-50))
    end = house.log.next_offset
    answer = load(house, block(event(1, -50)))
    assert (answer.appended, answer.duplicates, answer.last_offset) == (0, 1, end)
    assert [r.kind for r in house.records()[end:]] == [RecordKind.CONTROL]


@pytest.mark.parametrize("saved", [False, True])
def test_a_restart_knows_of_a_block_of_known_events(house: House, saved: bool) -> None:
    """In the middle of a load, as the last block of the log, and as the last one of its load."""
    first = load(house, block(event(1, -50)), 0)
    second = load(house, block(event(1, -50)), 1)
    if saved:
        house.save()
    house.start()
    assert load(house, block(event(1, -50)), 1) == second
    assert load(house, block(event(2, -49)), 2).appended == 1
    house.start()
    assert load(house, block(event(1, -50)), 0) == first
    load(house, block(event(2, -49)), 3, last=True)
    house.start()
    with pytest.raises(Conflict, match="the load has ended"):
        load(house, block(event(3, -48)), 4)


def test_a_log_that_does_not_tell_of_such_a_block_is_opened(house: House) -> None:
    """As it was written before the announcement said so."""
    load(house, block(event(1, -50)), 0)
    house.engine.partition.loads.note(LoadStep("load-1", 1, 1, False), BlockAnswer(1, 0, 1, house.log.next_offset - 1))
    load(house, block(event(2, -49)), 2)
    for _ in range(2):
        house.start()
    assert load(house, block(event(3, -48)), 3).appended == 1


def test_history_before_the_last_event_is_refused(house: House) -> None:
    house.send(house.event(1, at=10))
    end = house.log.next_offset
    with pytest.raises(Conflict, match=r"begins 6 s before the last event of payments") as caught:
        load(house, block(event(2, 4)))
    assert caught.value.code == "HISTORY_AFTER_LIVE"
    assert house.log.next_offset == end
    assert load(house, block(event(2, 5.1))).appended == 1
    assert house.records(RecordKind.HISTORY)[0].time == house.records(RecordKind.EVENT)[0].time


def test_history_ahead_of_the_clock_is_refused(house: House) -> None:
    with pytest.raises(InvalidInput, match="61 s ahead") as caught:
        load(house, block(event(2, 61)))
    assert caught.value.code == "AHEAD_OF_CLOCK"


def test_a_repeated_block_is_answered_as_before(house: House) -> None:
    first = load(house, block(event(1, -10), event(1, -10)), 0)
    second = load(house, block(event(2, -9)), 1)
    end = house.log.next_offset
    assert load(house, block(event(1, -10), event(1, -10)), 0) == first
    house.start()
    assert load(house, block(event(1, -10), event(1, -10)), 0) == first
    assert load(house, block(event(2, -9)), 1) == second
    assert house.log.next_offset == end + 1
    house.save()
    house.start()
    assert house.recovered.offset > end
    assert load(house, block(event(2, -9)), 1) == second
    with pytest.raises(Conflict, match="2 have come"):
        load(house, block(event(3, -8)), 3)
    assert load(house, block(event(3, -8)), 2, last=True).appended == 1
    with pytest.raises(Conflict, match="the load has ended"):
        load(house, block(event(4, -8)), 3)


def test_a_load_begins_with_its_first_block(house: House) -> None:
    with pytest.raises(Conflict, match="0 have come") as caught:
        load(house, block(event(1, -10)), 1)
    assert caught.value.code == "LOAD_OUT_OF_ORDER"


def test_a_replay_folds_the_block_again(house: House) -> None:
    load(house, block(event(1, -100), label(1, -98), event(2, -97, customer=2)))
    house.send(house.event(3))
    counts = house.windows.counts
    house.start()
    assert house.windows.counts == counts == {"1": 1002, "2": 1}
    assert house.engine.partition.counters.history_rows == 3
    assert house.send(house.event(2)).duplicates == 1


def test_the_step_of_a_block_does_not_change_what_decides(house: House) -> None:
    load(house, block(event(1, -100)))
    announced = decode_control(house.records(RecordKind.CONTROL)[-1].payload)
    assert announced.load == LoadStep("load-1", 0, 0, False)
    house.start()
    assert house.engine.partition.control.load is None
    assert house.send(house.event(2)).decisions[0].status == Status.DECIDED


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: b"nothing", "not an Arrow IPC stream"),
        (lambda f: encoded(f.head(0)), "0 rows"),
        (lambda f: encoded(f.drop("amount")), "amount is None"),
        (lambda f: encoded(f.with_columns(more=1)), "more is Int32, it should be None"),
        (lambda f: encoded(f.with_columns(pl.col("amount").cast(pl.Float32))), "amount is Float32"),
        (lambda f: encoded(f.with_columns(_kind=pl.lit(3, pl.UInt8))), "_kind"),
        (lambda f: encoded(f.reverse()), "order of _time"),
        (lambda f: encoded(f.with_columns(amount=pl.lit(None, pl.Float64))), "amount has 3 missing"),
        (lambda f: encoded(f.with_columns(_value=pl.lit(None, pl.Float64))), "_value has 3 missing"),
        (lambda f: encoded(f.with_columns(pl.col("_label") + pl.lit(7, pl.UInt8))), "names label 7"),
        (lambda f: encoded(pl.concat([f[:1]] * 65_537)), "at most 65536"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(house: House, change: Callable[[pl.DataFrame], bytes], why: str) -> None:
    frame = pl.DataFrame([event(1, -3), label(1, -2), event(2, -1)], schema=SCHEMA, orient="row")
    with pytest.raises(InvalidInput, match=why) as caught:
        read_block(change(frame), house.stream)
    assert caught.value.code == "BAD_BLOCK"


def test_columns_may_come_in_any_order(house: House) -> None:
    frame = pl.DataFrame([event(1, -3)], schema=SCHEMA, orient="row")
    assert read_block(encoded(frame.select(sorted(frame.columns))), house.stream).frame.columns == list(SCHEMA)


@pytest.mark.parametrize("saved", [False, True])
def test_a_load_that_was_interrupted_goes_on_before_live_events(house: House, saved: bool) -> None:
    load(house, block(event(1, -10)), 0)
    assert house.engine.loading
    house.start()
    house.engine.use(house.deciding(version=2))
    house.send_labels({"payment": 1, "fraud": 1})
    house.send({"payment": 2})
    for _ in range(2):
        if saved:
            house.save()
        house.start()
        assert house.engine.loading, "neither labels nor models nor starts are its end"
    load(house, block(event(2, -9)), 1, last=True)
    assert not house.engine.loading
    house.start()
    assert not house.engine.loading


@pytest.mark.parametrize("saved", [False, True])
def test_live_events_after_a_load_that_never_ended_wait_for_it_no_more(house: House, saved: bool) -> None:
    load(house, block(event(1, -10)), 0)
    house.send(house.event(2, at=-1000))
    if saved:
        house.save()
    house.start()
    assert not house.engine.loading
    load(house, block(event(3, -9)), 1)
    assert house.engine.loading, "it came back"
    load(house, block(event(4, -8)), name="load-2", last=True)
    assert not house.engine.loading, "another one took its place"
