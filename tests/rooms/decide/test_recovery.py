"""What a start makes of the log: state as it was, and a decision for every event that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.core.errors import Conflict, Corrupt, Unavailable
from skyriver.core.units import SECOND
from skyriver.data.decisions import Status
from skyriver.data.log import RecordKind
from skyriver.decide.log.blocks import events_of
from skyriver.decide.log.records import decode_label
from skyriver.decide.worker.border import EventBorder

House = Any
MakeHouse = Callable[..., Any]


def features(house: House) -> dict[int, list[float]]:
    """Of each event as it was decided."""
    return {d.id: np.frombuffer(d.features, "<f4").tolist() for d in house.decisions()}


def decide_half_way(house: House, *rows: object, fold: bool) -> None:
    """The batch is appended and synced, and the process dies before the decisions are (or while it folds)."""
    border = EventBorder(house.stream)
    house.windows.broken = not fold
    house.engine._log = BreaksAtDecisions(house.log)
    with pytest.raises(Unavailable):
        house.engine.take([border.take(list(rows), 0, True)])
    house.log.sync()


class BreaksAtDecisions:
    def __init__(self, log: Any) -> None:
        self._log = log

    def append(self, records: Any) -> int:
        if records[0].kind in (RecordKind.DECISION, RecordKind.DECISIONS):
            raise Unavailable("killed")
        return self._log.append(records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("block_rows", [2, 1000])
def test_what_was_appended_and_not_decided_is_decided_once(make_house: MakeHouse, fold: bool, block_rows: int) -> None:
    house = make_house(block_rows=block_rows).start()
    house.send(house.event(1, amount=20))
    decide_half_way(house, house.event(2, amount=95), house.event(3, amount=5), house.event(4, at=-60), fold=fold)
    assert len(house.decisions()) == 1
    house.start(house.deciding(version=2))
    assert [(d.id, d.status, d.version) for d in house.decisions()] == [
        (1, "decided", 1),
        (2, "decided", 2),
        (3, "decided", 2),
        (4, "late", 0),
    ]
    assert features(house) == {1: [20.0, 1.0], 2: [95.0, 2.0], 3: [5.0, 3.0], 4: []}
    house.start()
    assert len(house.decisions()) == 4
    assert house.send(house.event(3)).decisions[0].version == 2


def test_a_restart_goes_on_where_the_log_ends(house: House) -> None:
    house.send(house.event(1, at=5), house.event(2, at=5, amount=-1), house.event(3, at=-30))
    house.send_labels({"payment": 1, "fraud": 1})
    before = house.engine.partition
    house.start()
    after = house.engine.partition
    assert after.time == before.time
    assert after.counters == before.counters
    assert house.send(house.event(1)).duplicates == 1
    house.send(house.event(4, at=5))
    assert features(house)[4] == [10.0, 1002.0]
    assert house.send(house.event(5, at=-0.1)).decisions[0].status == Status.LATE


def test_a_checkpoint_saves_the_replay(house: House) -> None:
    for payment in range(10):
        house.send(house.event(payment))
    house.save()
    house.send(house.event(10))
    end = house.log.next_offset
    house.start()
    assert house.recovered.offset == end - 2
    assert house.windows.folded == [end - 2]
    assert house.engine.partition.counters.events == 11
    house.send(house.event(11))
    assert features(house)[11] == [10.0, 12.0]
    assert house.send(house.event(3)).decisions[0].id == 3


def test_a_damaged_checkpoint_falls_back_to_the_older_one(house: House) -> None:
    house.send(house.event(1))
    house.save()
    house.send(house.event(2))
    house.save()
    older = house.checkpoints[1].offset

    opened = house._open_windows

    def open_windows(checkpoint: Any) -> Any:
        if checkpoint is house.checkpoints[0]:
            raise Corrupt("The snapshot is damaged.")
        return opened(checkpoint)

    house._open_windows = open_windows
    house.start()
    assert house.recovered.offset == older
    assert house.recovered.passed_over == (
        f"The checkpoint at {house.checkpoints[0].offset} cannot be used: The snapshot is damaged.",
    )
    house.send(house.event(3))
    assert features(house)[3] == [10.0, 3.0]


def test_changed_features_are_built_from_all_of_the_log(house: House) -> None:
    house.send(house.event(1))
    house.save()
    house.features_digest = "features-2"
    house.start()
    assert house.recovered.offset == 0
    assert "other features" in house.recovered.passed_over[0]
    house.send(house.event(2))
    assert features(house) == {1: [10.0, 1.0], 2: [10.0, 2.0]}
    assert [d.features_digest for d in house.decisions()] == ["features-1", "features-2"]


def test_a_log_that_is_damaged_is_not_replayed_around(house: House) -> None:
    house.send(house.event(1))
    house.store.rotten.add(1)
    with pytest.raises(Corrupt):
        house.start()


def cut(house: House, events: int) -> tuple[int, int]:
    """Gives up the log but for the last few events; where it begins then, and T of what is gone."""
    parts = [part for part in house.log.parts() if part.end <= house.log.next_offset - 2 * events]
    assert house.log.remove_before(parts[-1].end) > 0
    begin: tuple[int, int] = house.log.begin()
    return begin


@pytest.mark.parametrize("looks_back", [30, 31])
def test_a_cut_log_is_replayed_where_it_has_all_that_the_features_look_back_to(
    make_house: MakeHouse, looks_back: int
) -> None:
    house = make_house(reach=looks_back * SECOND)
    house.store.part_records = 4
    house.start()
    for n in range(40):
        house.send(house.event(n, at=n))
    known = house.engine.partition
    first, gone = cut(house, 30)
    assert gone == known.time - 30 * SECOND, "the test knows where the border is"
    if looks_back > 30:
        with pytest.raises(Conflict, match=f"first offset that is there is {first}.* 31s back") as caught:
            house.start()
        assert caught.value.code == "HISTORY_GONE"
        assert house.windows.closed
        return
    house.start()
    after = house.engine.partition
    assert (house.recovered.offset, after.time, after.control) == (first, known.time, known.control)
    assert after.counters.events < known.counters.events
    assert house.send(house.event(39), house.event(12, at=39)).duplicates == 2, "ids that it has are known"
    assert house.send(house.event(1, at=39)).duplicates == 0, "the period of ids is the retention's matter"


def test_an_event_that_is_undecided_at_the_end_of_a_cut_log_needs_whole_features(make_house: MakeHouse) -> None:
    house = make_house(reach=30 * SECOND)
    house.store.part_records = 4
    house.start()
    for n in range(40):
        house.send(house.event(n, at=n))
    cut(house, 30)
    decide_half_way(house, house.event(100, at=39), fold=True)
    house.start()
    assert house.decisions()[-1].id == 100
    decide_half_way(house, house.event(101, at=38), house.event(102, at=50), fold=True)
    house.reach = 31 * SECOND  # whole for the second alone
    with pytest.raises(Conflict, match="cannot be built anew"):
        house.start()


@pytest.mark.parametrize("saved", [False, True])
def test_a_log_of_other_fields_is_refused(house: House, saved: bool) -> None:
    house.send(house.event(1))
    if saved:
        house.save()
    stream = house.stream
    more = stream.fields[0].model_copy(update={"name": "more"})
    house.stream = stream.model_copy(update={"fields": (*stream.fields, more)})
    with pytest.raises(Conflict, match="amount float, more int") as caught:
        house.start()
    assert caught.value.code == "STREAM_CHANGED"
    house.stream = stream.model_copy(update={"labels": stream.labels[:1]})
    with pytest.raises(Conflict):
        house.start()
    label = stream.labels[0].model_copy(update={"name": "theft"})
    house.stream = stream.model_copy(update={"labels": (*stream.labels, label)})
    house.start()
    assert house.send(house.event(1)).duplicates == 1


def test_windows_are_closed_when_a_replay_fails(house: House) -> None:
    house.send(house.event(1))
    house.store.rotten.add(2)
    with pytest.raises(Corrupt):
        house.start()
    assert house.windows.closed


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.lists(st.tuples(st.integers(0, 30), st.integers(-20, 20)), max_size=6)),
            st.tuples(st.just("kill"), st.sampled_from(["unsynced", "folding", "deciding"])),
            st.tuples(st.just("save"), st.none()),
            st.tuples(st.just("label"), st.integers(0, 30)),
        ),
        max_size=14,
    ),
    st.sampled_from([2, 4, 1000]),
)
def test_kills_lose_nothing_and_decide_nothing_twice(make_house: MakeHouse, steps: list[Any], block_rows: int) -> None:
    """Whatever is killed when: each acknowledged event has one decision, with the features of an undisturbed life."""
    house = make_house(block_rows=block_rows).start()
    acknowledged: set[int] = set()
    last: list[Any] = []
    for step, what in steps:
        if step == "send":
            last = [house.event(i, at=t, customer=i % 3, amount=float(i)) for i, t in what]
            house.send(*last)
            acknowledged |= {row["payment"] for row in last}
        elif step == "save":
            house.save()
        elif step == "label":
            house.send_labels({"payment": what, "fraud": 1})
        elif what == "unsynced":
            house.engine.decide([EventBorder(house.stream).take([house.event(1000)], 0, False)])
            house.start()
        else:
            new = 2000 + 10 * len(house.records())
            decide_half_way(house, *[house.event(new + n) for n in range(3)], fold=what == "deciding")
            acknowledged |= {new, new + 1, new + 2}
            house.start()
    events = {r.offset + place for r in house.records() for place, _ in enumerate(events_of(r))}
    decided = Counter(d.event_offset for d in house.decisions())
    assert set(decided) == events
    assert all(count == 1 for count in decided.values())
    assert acknowledged == {d.id for d in house.decisions()}
    recorded = features(house)
    house.checkpoints = []
    house.start()
    assert features(house) == recorded
    assert replayed(house) == {k: v for k, v in recorded.items() if v}


def replayed(house: House) -> dict[int, list[float]]:
    """Features folded one by one over the whole log."""
    windows = type(house.windows)()
    found = {}
    for record in house.records():
        for place, (flags, values) in enumerate(events_of(record)):
            if not flags:
                found[values[0]] = windows.fold_events([record.offset + place], [record.time], [values])[0].tolist()
        if record.kind is RecordKind.LABEL:
            windows.fold_labels([record.offset], [decode_label(record.payload)])
    return found
