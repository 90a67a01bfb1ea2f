"""A block of events: on disk, and the same in all that an event gets as the same events one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.core.calibration import Calibration
from skyriver.core.errors import Corrupt
from skyriver.core.spec import FieldSpec
from skyriver.core.units import SECOND
from skyriver.data.columns import Columns, EventBlock, decode_events
from skyriver.data.decisions import Outcome, Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.scoring import Canary, Lane
from skyriver.decide.decision.trial import Trial
from skyriver.decide.log.blocks import DecisionBlock, decisions_of, decode_decisions
from skyriver.decide.log.records import ModelInUse
from skyriver.decide.partition.partition import Horizon, RecentDecisions
from skyriver.decide.partition.receipt import Receipt
from skyriver.decide.partition.sorting import order_block, order_rows
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.worker.answers import Form, Unread
from skyriver.decide.worker.border import EventBorder

EVENTS, DECISIONS = RecordKind.EVENTS, RecordKind.DECISIONS

ROWS = st.lists(
    st.tuples(
        st.integers(0, 12),  # id
        st.sampled_from([-8.0, -3.0, 0.0, 1.0, 2.0, 59.0, 61.0]),  # time
        st.sampled_from([5.0, 13.0, 14.0, 15.0, 95.0, 96.0, -1.0]),  # amount: refused, or a model that fails
    ),
    min_size=1,
    max_size=14,
)


def receipts_of(house: Any, sent: list[Any], cuts: list[int]) -> list[Receipt]:
    """All in one turn, in several requests."""
    border = EventBorder(house.stream)
    rows = [house.event(i, at=at, customer=i % 3, amount=amount) for i, at, amount in sent]
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    submissions = []
    for number, (start, end) in enumerate(pairwise(places)):
        body = msgspec.json.encode(rows[start:end])
        border._least = 1 if number % 2 else 1000
        submissions.append(border.read(body, Form.JSON, 400 + number, True))
    found: list[Receipt] = house.engine.take(submissions)
    return found


class Shadow:
    """None for an amount of 95 or 15."""

    def score(self, features: Any) -> Any:
        return np.where(np.isin(features[:, 0], (95, 15)), np.float32(np.nan), np.float32(0.5))


WHENS = ["score >= 0.9", "amount > 90", "probability >= 0.2", "probability is missing"]
CALIBRATION = Calibration("platt", ((0.05, 0.01), (0.13, 0.2), (0.9, 0.7)))


def counted(house: Any) -> list[Any]:
    """What the arms did."""
    arms = [{name: value for name, value in arm.items() if name != "run_us"} for arm in house.engine.arms.to_json()]
    return [*arms, house.engine.trials.to_json()]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    ROWS,
    st.lists(st.integers(0, 14), max_size=4),
    ROWS,
    st.sampled_from(WHENS),
    st.sampled_from([0.0, 50.0]),
    st.sampled_from([None, 0.0, 40.0]),
    st.sampled_from(WHENS),
)
def test_an_event_gets_the_same_alone_and_in_a_block(
    make_house: Callable[..., Any],
    first: list[Any],
    cuts: list[int],
    second: list[Any],
    when: str,
    percent: float,
    tried: float | None,
    other: str,
) -> None:
    houses = [make_house(block_rows=rows) for rows in (1000, 1)]

    def deciding(house: Any) -> Deciding:
        """With a shadow, that fails for other amounts than the model, a canary that says no probability, and rules that
        are tried."""
        shadow = Lane(ModelInUse("fraud", 2, "other"), Shadow())
        canary = Canary(Lane(ModelInUse("fraud", 3, "third"), Shadow()), percent)
        chosen = replace(house.deciding(when=when), shadow=shadow, calibration=CALIBRATION)
        if tried is not None:
            texts = [("hold", other), ("block", "amount < 10", "small")]
            rules = compile_rules(texts, "approve", "review", house.stream, None, without_score=True)
            chosen = replace(chosen, trial=Trial(rules, 2, tried), rules_version=1)
        return replace(chosen, canary=canary) if percent else chosen

    for house in houses:
        house.start(deciding(house))
    one, many = houses
    # Offsets differ in nothing: a block covers as many as its events would have had.
    assert receipts_of(one, first, cuts) == receipts_of(many, first, cuts)
    assert receipts_of(one, second, []) == receipts_of(many, second, [])
    for house in houses:
        state, arms = house.engine.partition, counted(house)
        house.start(deciding(house))
        after = house.engine.partition
        assert counted(house) == arms
        assert (after.time, after.horizon.points) == (state.time, state.horizon.points)
        state.counters.duplicates = 0
        assert after.counters == state.counters
    assert counted(one) == counted(many)
    assert one.engine.partition.counters == many.engine.partition.counters
    assert one.decisions() == many.decisions()
    assert one.events() == many.events()
    assert one.windows.counts == many.windows.counts
    assert not one.records(EVENTS)
    assert not many.records(RecordKind.EVENT)
    assert receipts_of(one, first, []) == receipts_of(many, first, [])


def test_a_block_is_one_record_and_its_decisions_are_one(make_house: Callable[..., Any]) -> None:
    house = make_house().start()
    receipt = house.send(*[house.event(n, amount=float(n + 20)) for n in range(100)])
    assert [(r.kind, r.count) for r in house.records()] == [(RecordKind.CONTROL, 1), (EVENTS, 100), (DECISIONS, 100)]
    assert house.model.runs == [100]
    assert receipt.decisions == house.decisions()
    assert house.log.next_offset == 201
    assert house.find(42) == receipt.decisions[42]


def test_a_decision_of_a_block_is_found_in_the_log_too(make_house: Callable[..., Any]) -> None:
    house = make_house().start()
    decisions = house.send(*[house.event(n) for n in range(50)]).decisions
    house.send(house.event(50))
    house.engine.partition.recent = RecentDecisions()
    assert house.find(7) == decisions[7]
    assert house.find(50).event_offset == 101
    assert house.find(99) is None


def test_decisions_in_memory_are_bounded() -> None:
    recent = RecentDecisions(limit=100)
    for first in range(0, 10_000, 30):
        recent.put_block(block(first, 30))
        recent.put(first + 1_000_000, b"")
    assert recent._held <= 100
    assert len(recent._blocks) <= 4
    found = recent.get(9_990 + 5)
    assert found is not None
    assert (found.event_offset, found.id) == (9_995, 5)
    assert recent.get(0) is None


def block(first: int, count: int) -> DecisionBlock:
    outcome = Outcome(Status.DECIDED, "ok", "m", 1, "r", "f", Reason.NONE)
    late = Outcome(Status.LATE, "review", "", 0, "r", "f", Reason.LATE)
    without = np.arange(count) % 3 == 2
    return DecisionBlock(
        first,
        np.arange(count),
        [outcome, late],
        without.astype(np.uint16),
        np.where(without, np.nan, np.arange(count)).astype(np.float32),
        without,
        np.arange(2 * int((~without).sum()), dtype=np.float32).reshape(-1, 2),
        77,
        np.arange(count),
    )


def test_each_decision_of_a_block_is_read_alone_and_in_order() -> None:
    made = block(100, 10)
    read = decode_decisions(made.encode(), 10)
    records = list(read.records())
    assert records == [read.record(place) for place in range(10)] == list(made.records())
    assert list(read.records(4, 7)) == records[4:7]
    assert [r.event_offset for r in records] == list(range(100, 110))
    assert [r.features == b"" for r in records] == [place % 3 == 2 for place in range(10)]
    assert np.frombuffer(records[3].features, "<f4").tolist() == [4.0, 5.0]
    assert (records[2].score, records[2].status, records[2].model) == (None, "late", "")
    assert list(decisions_of(Record(DECISIONS, 0, made.encode(), count=10))) == records


@pytest.mark.parametrize("count", [9, 11])
def test_a_block_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(Corrupt, match="DECISIONS"):
        decode_decisions(block(0, 10).encode(), count)
    columns = Columns.of_rows([FieldSpec(name="a", type="int")], [[n] for n in range(10)])
    with pytest.raises(Corrupt, match="EVENTS"):
        decode_events(EventBlock(columns, np.arange(10), None).encode(), count)


def test_no_payload_breaks_the_readers() -> None:
    whole = block(0, 10).encode()
    for cut in range(len(whole)):
        with pytest.raises(Corrupt):
            decode_decisions(whole[:cut], 10)
        with pytest.raises(Corrupt):
            decode_events(whole[:cut], 10)


VALUES = {
    "int": st.none() | st.integers(-(2**63), 2**63 - 1),
    "float": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "text": st.none() | st.text(max_size=5),
    "bool": st.none() | st.booleans(),
    "time": st.none() | st.integers(-(10**15), 10**15),
}


@given(st.data(), st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4), st.integers(1, 9))
def test_columns_are_their_rows(data: st.DataObject, kinds: list[Any], count: int) -> None:
    fields = [FieldSpec(name=f"f{place}", type=kind, nullable=True) for place, kind in enumerate(kinds)]
    rows = data.draw(st.lists(st.tuples(*(VALUES[kind] for kind in kinds)).map(list), min_size=count, max_size=count))
    late = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    columns = Columns.of_rows(fields, rows)
    assert columns.rows() == rows
    read = decode_events(EventBlock(columns, np.arange(count), np.array(late)).encode(), count)
    assert read.columns.rows() == rows
    assert (read.late.tolist() if read.late is not None else [False] * count) == late
    places = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1)))
    assert read.columns.take(places).rows() == [rows[place] for place in places]
    assert read.columns.part(1, count).rows() == rows[1:]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(-1, 3)), min_size=1, max_size=20),
    st.integers(0, 20),
    st.sampled_from([0, 10, 10_000]),
)
def test_a_block_is_put_in_order_as_its_rows(rows: list[tuple[int, int, int]], time: int, period: int) -> None:
    keys, own, known = (list(column) for column in zip(*rows, strict=True))
    horizon = Horizon(period, [(0, 0), (2, time // 2)])
    common: dict[str, Any] = {"time": time, "limit": 50, "disorder": 5}
    wanted = order_rows(own, keys, known, **common, horizon=horizon.look_ahead())
    found = order_block(np.array(own), np.array(keys), keys, np.array(known), **common, horizon=horizon.look_ahead())
    assert found.effective.tolist() == wanted.effective
    assert (found.late.tolist() if found.late is not None else [False] * len(wanted.late)) == wanted.late
    new = [place for place, (fate, _) in enumerate(wanted.fates) if fate == 0]
    assert (found.new.tolist() if found.new is not None else list(range(len(rows)))) == new
    assert found.fates == {place: fate for place, fate in enumerate(wanted.fates) if fate[0] != 0}


@given(
    st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from([0, 3, SECOND, 3600 * SECOND]),
)
def test_a_horizon_is_the_same_by_blocks_and_one_by_one(steps: list[int], cuts: list[int], period: int) -> None:
    times = np.cumsum(np.array(steps, np.int64)) + 1
    one, many = Horizon(period), Horizon(period)
    for offset, time in enumerate(times.tolist()):
        one.note(offset, time)
    for start, end in pairwise([0, *sorted(min(cut, len(times)) for cut in cuts), len(times)]):
        if end > start:
            many.note_all(start, times[start:end])
    assert many.points == one.points


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    st.sampled_from(["payment", "at", "customer", "amount"])
    | st.text(max_size=2)
    | st.integers(-9, 9)
    | st.binary(max_size=2)
)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.dictionaries(KEYS, ANYTHING, max_size=5) | ANYTHING, max_size=20).map(msgspec.msgpack.encode),
    st.lists(st.dictionaries(st.text(max_size=2), ANYTHING, max_size=3), max_size=20).map(msgspec.json.encode),
    st.tuples(st.binary(max_size=3), st.integers(1, 40)).map(lambda t: b"[" + b'{"payment":1}' * t[1] + t[0] + b"]"),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(BODIES, st.sampled_from(list(Form)))
def test_no_body_breaks_the_border_or_the_engine(make_house: Callable[..., Any], body: bytes, form: Form) -> None:
    house = make_house(block_rows=4).start()
    border = EventBorder(house.stream)
    border._least = 4
    try:
        submission = border.read(body, form, 0, True)
    except Unread:
        return
    rows = len(submission)
    receipt = house.engine.take([submission])[0]
    assert receipt.accepted + receipt.duplicates + len(receipt.rejected) == rows == len(receipt.decisions)
    assert len(house.records(RecordKind.DEAD)) == len(receipt.rejected)
    assert len(house.decisions()) == len(house.events()) == receipt.accepted
