"""The engine's laws (DESIGN section 6), on the log's twin in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.core.errors import Unavailable
from skyriver.core.units import SECOND
from skyriver.data.decisions import Reason, Status
from skyriver.data.log import RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.records import decode_control, decode_dead, decode_event, decode_label
from skyriver.decide.worker.border import EventBorder

EVENT, DECISION, DEAD, CONTROL, LABEL = (
    RecordKind.EVENT,
    RecordKind.DECISION,
    RecordKind.DEAD,
    RecordKind.CONTROL,
    RecordKind.LABEL,
)


def test_an_event_is_logged_scored_decided_and_the_decision_logged(house: Any) -> None:
    receipt = house.send(house.event(7, amount=95.0), house.event(8, amount=10.0))
    assert (receipt.accepted, receipt.duplicates, receipt.first_offset, receipt.rejected) == (2, 0, 1, [])
    assert [d.decision for d in receipt.decisions] == ["block", "approve"]
    assert house.decisions() == receipt.decisions
    first = receipt.decisions[0]
    assert (first.event_offset, first.id, first.status, first.reason) == (1, 7, Status.DECIDED, Reason.NONE)
    assert first.score == pytest.approx(0.95)
    assert np.frombuffer(first.features, "<f4").tolist() == [95.0, 1.0]
    assert (first.model, first.version, first.features_digest) == ("fraud", 1, "features-1")
    assert [r.kind for r in house.records()] == [CONTROL, EVENT, EVENT, DECISION, DECISION]
    flags, values = decode_event(house.records(EVENT)[0].payload)
    assert (flags, values) == (0, [7, house.event(7)["at"], 1, 95.0])


def test_a_batch_is_scored_in_one_run(house: Any) -> None:
    border = EventBorder(house.stream)
    submissions = [border.take([house.event(i), house.event(i + 100)], 0, False) for i in range(5)]
    receipts = house.engine.take(submissions)
    assert house.model.runs == [10]
    assert [r.accepted for r in receipts] == [2] * 5
    assert [r.first_offset for r in receipts] == [1, 3, 5, 7, 9]
    assert receipts[0].decisions == []


def test_time_only_moves_forward_and_within_the_disorder_an_event_counts_as_now(house: Any) -> None:
    house.send(house.event(1, at=10), house.event(2, at=6), house.event(3, at=12))
    assert [r.time - house.clock.wall() for r in house.records(EVENT)] == [10 * SECOND, 10 * SECOND, 12 * SECOND]
    assert [d.status for d in house.decisions()] == [Status.DECIDED] * 3


def test_a_late_event_gets_the_fallback_and_never_enters_the_windows(house: Any) -> None:
    house.send(house.event(1, at=10))
    receipt = house.send(house.event(2, at=4.9, amount=99.0), house.event(3, at=10))
    late, next_one = receipt.decisions
    assert (late.status, late.decision, late.reason, late.score, late.features) == ("late", "review", "LATE", None, b"")
    assert (late.model, late.version) == ("", 0)
    assert np.frombuffer(next_one.features, "<f4").tolist() == [10.0, 2.0]
    record = house.records(EVENT)[1]
    assert decode_event(record.payload)[0] == 1
    assert record.time == house.records(EVENT)[0].time


def test_an_event_ahead_of_the_clock_is_a_dead_letter_and_does_not_move_time(house: Any) -> None:
    receipt = house.send(house.event(1, at=60), house.event(2, at=60.1), house.event(3, at=0))
    assert [(r.index, r.field, r.reason) for r in receipt.rejected] == [(1, "at", "AHEAD_OF_CLOCK")]
    assert "60.1 s ahead of the clock" in receipt.rejected[0].message
    assert [d and d.id for d in receipt.decisions] == [1, None, 3]
    dead = decode_dead(house.records(DEAD)[0].payload)
    assert (dead.reason, dead.field) == ("AHEAD_OF_CLOCK", "at")
    assert json.loads(dead.raw)["payment"] == 2
    assert house.send(house.event(2, at=1)).accepted == 1


def test_a_refused_row_is_a_dead_letter_beside_good_ones(house: Any) -> None:
    bad = {"payment": 2, "at": house.clock.wall(), "customer": 1, "amount": -1}
    receipt = house.send(house.event(1), bad, [1, 2], {"payment": 2**70})
    assert receipt.accepted == 1
    assert [(r.index, r.field, r.reason) for r in receipt.rejected] == [
        (1, "amount", "OUT_OF_RANGE"),
        (2, "", "WRONG_TYPE"),
        (3, "payment", "OUT_OF_RANGE"),
    ]
    assert [d is not None for d in receipt.decisions] == [True, False, False, False]
    raws = [decode_dead(r.payload).raw for r in house.records(DEAD)]
    assert json.loads(raws[0]) == bad
    assert raws[1:] == [b"[1,2]", b'{"payment":%d}' % 2**70]
    assert house.engine.partition.counters.dead == 3


def test_only_refused_rows_are_durable_too(house: Any) -> None:
    assert house.send({"payment": 1}).accepted == 0
    assert len(house.records(DEAD)) == 1
    assert house.model.runs == []


def test_a_duplicate_is_not_appended_and_gets_the_first_decision(house: Any) -> None:
    first = house.send(house.event(1, amount=95.0)).decisions[0]
    receipt = house.send(house.event(2), house.event(1, amount=5.0), house.event(2, amount=99.0))
    assert (receipt.accepted, receipt.duplicates) == (1, 2)
    assert receipt.decisions[1] == first
    assert receipt.decisions[2] == receipt.decisions[0]
    assert [decode_event(r.payload)[1][0] for r in house.records(EVENT)] == [1, 2]
    assert len(house.decisions()) == 2


def test_duplicates_are_seen_across_the_requests_of_a_batch(house: Any) -> None:
    border = EventBorder(house.stream)
    a, b = house.engine.take([border.take([house.event(1)], 0, True), border.take([house.event(1)], 0, True)])
    assert (a.accepted, b.accepted, b.duplicates, b.first_offset) == (1, 0, 1, -1)
    assert a.decisions == b.decisions


def test_a_duplicate_of_an_old_event_is_answered_from_the_log(house: Any) -> None:
    first = house.send(house.event(1, amount=95.0)).decisions[0]
    house.engine.partition.recent.__init__(limit=1)
    house.send(house.event(2))
    assert house.send(house.event(1)).decisions == [first]
    assert house.find(1) == first
    assert house.find(99) is None


def test_an_id_counts_for_the_dedupe_period(make_house: Callable[..., Any]) -> None:
    house = make_house()
    house.start()
    house.send(house.event(1, at=0))
    for second in range(0, 3700, 10):
        house.clock.pass_(10 * SECOND)
        house.send(house.event(1000 + second, at=second))
    assert house.send(house.event(1, at=3700)).accepted == 1
    assert house.send(house.event(1200, at=3700)).duplicates == 1


def test_a_stream_may_remember_no_ids(make_house: Callable[..., Any]) -> None:
    house = make_house()
    house = make_house(stream=house.stream.model_copy(update={"dedupe_us": 0})).start()
    assert house.send(house.event(1), house.event(1)).accepted == 2
    assert house.send(house.event(1)).accepted == 1


def test_a_refused_event_may_be_sent_again(house: Any) -> None:
    assert house.send({**house.event(1), "amount": -5}).accepted == 0
    assert house.send(house.event(1)).accepted == 1


@pytest.mark.parametrize(
    ("amount", "reason"), [(13.0, "MODEL_FAILED"), (14.0, "SCORE_NOT_FINITE"), (15.0, "SCORE_NOT_FINITE")]
)
def test_a_model_that_fails_on_an_event_fails_on_no_other(house: Any, amount: float, reason: str) -> None:
    receipt = house.send(house.event(1, amount=95.0), house.event(2, amount=amount), house.event(3, amount=96.0))
    good, failed, other = receipt.decisions
    assert (good.decision, other.decision) == ("block", "block")
    assert (failed.status, failed.decision, failed.reason, failed.score) == ("failed", "review", reason, None)
    assert np.frombuffer(failed.features, "<f4").tolist() == [amount, 2.0]
    assert (failed.model, failed.version) == ("fraud", 1)


def test_without_a_version_events_get_the_fallback(make_house: Callable[..., Any]) -> None:
    house = make_house()
    house.start(house.deciding(model=False))
    decision = house.send(house.event(1, amount=95.0)).decisions[0]
    assert (decision.status, decision.decision, decision.reason) == ("fallback", "review", "NO_VERSION")
    assert np.frombuffer(decision.features, "<f4").tolist() == [95.0, 1.0]
    house.engine.use(house.deciding())
    assert house.send(house.event(2, amount=95.0)).decisions[0].status == Status.DECIDED


def test_a_stream_without_decisions_records_that(make_house: Callable[..., Any]) -> None:
    house = make_house(with_features=False)
    house.start(Deciding())
    decision = house.send(house.event(1)).decisions[0]
    assert (decision.status, decision.decision, decision.reason) == ("fallback", "", "NO_DECISIONS")
    assert decision.features == b""


def test_every_change_stands_in_the_log_before_what_it_decides(house: Any) -> None:
    house.send(house.event(1, amount=60.0))
    house.engine.use(house.deciding(version=2, when="score >= 0.5"))
    house.send(house.event(2, amount=60.0))
    kinds = [r.kind for r in house.records()]
    assert kinds == [CONTROL, EVENT, DECISION, CONTROL, EVENT, DECISION]
    control = decode_control(house.records(CONTROL)[1].payload)
    assert control.model is not None
    assert (control.model.version, control.rules) == (2, (("block", "score >= 0.5"),))
    before, after = house.decisions()
    assert (before.decision, after.decision) == ("approve", "block")
    assert after.rules_digest == control.rules_digest != before.rules_digest


def test_labels_are_logged_with_their_subject_and_counted(house: Any) -> None:
    house.send(house.event(1), house.event(2))
    at = house.clock.wall() - 5
    receipt = house.send_labels(
        {"payment": 1, "fraud": True},
        {"payment": 1, "dispute": 0.5, "fraud": 0, "known_at": at},
        {"payment": 77, "fraud": 1},
        {"payment": 1},
        {"payment": 1, "fraud": "yes"},
        {"payment": 1, "fraud": 1, "other": 2},
        {"payment": 1, "fraud": 1, "known_at": house.clock.wall() + 61 * SECOND},
        {"payment": 1, "fraud": 5_000_000},
        {"payment": 1, "fraud": -(10**400)},
    )
    assert (receipt.accepted, receipt.unknown_subjects) == (4, 1)
    reasons = ["MISSING", "WRONG_TYPE", "UNKNOWN_FIELD", "AHEAD_OF_CLOCK", "OUT_OF_GRID", "OUT_OF_GRID"]
    assert [(r.index, r.reason) for r in receipt.rejected] == list(zip(range(3, 9), reasons, strict=True))
    assert receipt.rejected[-1].value == "-1" + "0" * 198 + "…"
    assert len(receipt.rejected[-1].message) < 200
    labels = [decode_label(r.payload) for r in house.records(LABEL)]
    assert [(x.label_index, x.subject_id, x.value, x.subject_offset) for x in labels] == [
        (0, 1, 1.0, 1),
        (0, 1, 0.0, 1),
        (1, 1, 0.5, 1),
        (0, 77, 1.0, -1),
    ]
    assert labels[0].known_at_us == house.clock.wall()
    assert labels[1].known_at_us == at
    assert {r.time for r in house.records(LABEL)} == {house.records(EVENT)[1].time}
    assert house.engine.partition.counters.labels == 4


def test_nothing_happens_when_the_log_takes_no_more(house: Any) -> None:
    house.send(house.event(1))
    house.store.room = 10
    with pytest.raises(Unavailable):
        house.send(house.event(2))
    house.store.room = None
    house.start()
    assert house.send(house.event(2)).accepted == 1
    assert [d.id for d in house.decisions()] == [1, 2]


def test_nothing_happens_when_the_windows_have_no_room(house: Any) -> None:
    house.windows.room = 0
    with pytest.raises(Unavailable):
        house.send(house.event(1))
    house.windows.room = 5
    assert house.send(house.event(1)).accepted == 1


def test_the_latency_is_from_arrival_to_decision(house: Any) -> None:
    submission = EventBorder(house.stream).take([house.event(1)], house.clock.monotonic(), True)
    house.clock.pass_(1234)
    decision = house.engine.take([submission])[0].decisions[0]
    assert (decision.latency_us, decision.decided_at_us) == (1234, house.clock.wall())


def test_text_ids_are_told_apart(make_house: Callable[..., Any]) -> None:
    base = make_house()
    fields = (replace_type(base.stream.fields[0]), *base.stream.fields[1:])
    house = make_house(stream=base.stream.model_copy(update={"fields": fields}))
    house.start()
    receipt = house.send(house.event("a"), house.event("b"), house.event("a"))
    assert (receipt.accepted, receipt.duplicates) == (2, 1)
    assert house.find("b").id == "b"


def replace_type(field: Any) -> Any:
    return field.model_copy(update={"type": "text"})


def test_a_part_of_a_request_names_rows_by_their_place_in_the_whole(house: Any) -> None:
    rows = [house.event(1), house.event(2, at=100), {**house.event(3), "amount": -1}]
    whole = EventBorder(house.stream).take(rows, 0, False)
    receipt = house.engine.take([whole.part(1, 3)])[0]
    assert [r.index for r in receipt.rejected] == [1, 2]
    assert [json.loads(decode_dead(r.payload).raw)["payment"] for r in house.records(DEAD)] == [2, 3]


def test_a_decision_is_made_once_though_the_clock_jumps(house: Any) -> None:
    house.clock.wall_us -= 5_000 * SECOND
    assert house.send(house.event(1)).decisions[0].decided_at_us == house.clock.wall() + 5_000 * SECOND


TIMES = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 5_000) | st.floats(3_599, 3_604) | st.floats(0, 3)),
    min_size=1,
    max_size=25,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(TIMES, st.lists(st.integers(0, 25), max_size=4), st.booleans())
def test_what_is_a_duplicate_does_not_depend_on_batches(
    make_house: Callable[..., Any], sent: list[tuple[int, float]], cuts: list[int], restarts: bool
) -> None:
    """One by one, all at once, and in some requests with restarts in between."""
    whole = accepted(make_house(block_rows=1000), sent, [])
    assert accepted(make_house(block_rows=1), sent, []) == whole
    assert accepted(make_house(), sent, range(len(sent))) == whole
    assert accepted(make_house(), sent, [min(cut, len(sent)) for cut in cuts], restarts=restarts) == whole


def accepted(
    house: Any, sent: list[tuple[int, float]], cuts: Sequence[int], *, restarts: bool = False
) -> list[list[Any]]:
    house.start()
    house.clock.pass_(10_000 * SECOND)
    places = [0, *sorted(cuts), len(sent)]
    for start, end in pairwise(places):
        house.send(*[house.event(payment, at=at) for payment, at in sent[start:end]])
        if restarts:
            house.start()
    return [values for _, values in house.events()]


def test_an_id_may_come_again_after_the_period_in_one_request(house: Any) -> None:
    house.clock.pass_(10_000 * SECOND)
    receipt = house.send(
        house.event(1, at=0), house.event(1, at=3590), house.event(1, at=7200), house.event(1, at=7300)
    )
    assert (receipt.accepted, receipt.duplicates) == (2, 2)
    assert receipt.decisions[1] == receipt.decisions[0] != receipt.decisions[2] == receipt.decisions[3]
    assert house.send(house.event(1, at=7300)).decisions == [receipt.decisions[2]]
    assert house.send(house.event(1, at=7200 + 7200)).accepted == 0, "ahead of the clock"
    house.clock.pass_(10_000 * SECOND)
    assert house.send(house.event(1, at=7200 + 7200)).accepted == 1
