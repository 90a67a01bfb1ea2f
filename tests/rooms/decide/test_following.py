"""Decisions are read from a log with the events that they are about, in steps that end between records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from skyriver.adapters.memory.log import MemoryLogStore
from skyriver.core.errors import Conflict
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.columns import Columns, EventBlock
from skyriver.data.decisions import DecisionColumns, Outcome, Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log import following
from skyriver.decide.log.following import Follower
from skyriver.decide.log.records import DecisionRecord, encode, encode_event

FIELDS = (FieldSpec(name="order", type="int"), FieldSpec(name="at", type="time"), FieldSpec(name="shop", type="text"))
STREAM = StreamSpec(name="orders", fields=FIELDS, id="order", time="at", key="order")


def event(number: int, key_id: int = 0) -> Record:
    return Record(RecordKind.EVENT, number, encode_event(0, [number, number, f"s{number}"]), key_id=key_id)


def decision(offset: int, word: str) -> Record:
    found = DecisionRecord(offset, offset, Status.DECIDED, word, 0.5, b"", "m", 1, "", "", Reason.NONE, 0, 0)
    return Record(RecordKind.DECISION, 0, encode(found))


def block(first: int, words: Sequence[str]) -> list[Record]:
    """Events with the offsets from `first` on, and their decisions."""
    count = len(words)
    rows = [[first + n, first + n, f"s{first + n}"] for n in range(count)]
    events = EventBlock(Columns.of_rows(FIELDS, rows), np.arange(count), None)
    kinds = sorted(set(words))
    outcomes = [Outcome(Status.DECIDED, word, "m", 1, "", "", Reason.NONE) for word in kinds]
    decided = DecisionColumns(
        first,
        np.arange(first, first + count),
        outcomes,
        np.array([kinds.index(word) for word in words], np.uint16),
        np.zeros(count, np.float32),
        np.ones(count, np.bool_),
        np.empty((0, 0), np.float32),
        0,
        np.zeros(count, np.int64),
    )
    return [
        Record(RecordKind.EVENTS, 0, events.encode(), count),
        Record(RecordKind.DECISIONS, 0, decided.encode(), count),
    ]


def read(log: Any, start: int = 0, end: int | None = None) -> tuple[list[tuple[int, Any]], list[int]]:
    follower = Follower(STREAM, lambda record: record.decision == "block")
    steps = list(follower.steps(log, start, log.next_offset if end is None else end))
    found = [(d.record.event_offset, d.values.get("shop")) for step in steps for d in step.decided]
    return found, [step.next_offset for step in steps]


@pytest.fixture
def log() -> Any:
    made = MemoryLogStore().open()
    made.append([event(0), event(1), decision(0, "block"), event(3), decision(1, "approve"), decision(3, "block")])
    made.append(block(6, ["approve", "block", "block"]))
    made.append([event(12)])
    made.append(block(13, ["block", "approve"]))
    made.append([decision(12, "block")])
    made.sync()
    return made


ALL = [(0, "s0"), (3, "s3"), (7, "s7"), (8, "s8"), (13, "s13"), (12, "s12")]


def test_no_more_records_are_kept_than_may_be(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "KEPT_RECORDS", 2)
    log.append([event(number) for number in range(log.next_offset, log.next_offset + 8)])
    first = log.next_offset - 8
    log.append([decision(first + number, "block") for number in range(8)])
    log.sync()
    follower = Follower(STREAM, lambda record: True)
    for step in follower.steps(log, first + 8, log.next_offset):  # all of them are looked up
        assert len(step.decided) == 8
    assert len(follower._events) == 2


def test_each_decision_comes_with_its_event(log: Any) -> None:
    assert read(log) == (ALL, [18])


@pytest.mark.parametrize("start", [0, 2, 3, 5, 9, 12, 13, 15, 17])
def test_from_wherever_it_begins_the_later_ones_come(log: Any, start: int) -> None:
    after = {0: 0, 2: 0, 3: 1, 5: 1, 9: 2, 12: 4, 13: 4, 15: 4, 17: 5}[start]
    assert read(log, start)[0] == ALL[after:]


def test_it_goes_in_steps_between_records(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "STEP_DECISIONS", 1)
    found, ends = read(log)
    assert (found, ends) == (ALL, [3, 6, 12, 17, 18])
    monkeypatch.setattr(following, "READ_OFFSETS", 2)
    monkeypatch.setattr(following, "KEPT_RECORDS", 1)
    assert read(log)[0] == ALL, "events that were forgotten are looked up"


def test_an_encrypted_event_is_not_guessed_at() -> None:
    log = MemoryLogStore().open()
    log.append([event(0, key_id=7), decision(0, "block")])
    log.sync()
    with pytest.raises(Conflict) as caught:
        read(log)
    assert caught.value.code == "ENCRYPTED_RECORD"
