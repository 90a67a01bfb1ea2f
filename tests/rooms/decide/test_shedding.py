"""Events that are shed: their records, what is learnt from them, and a station that does so until it need not."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skyriver.core.units import SECOND
from skyriver.data.decisions import Reason, Status
from skyriver.data.log import RecordKind
from skyriver.decide.decision.scoring import Canary, Effort, Lane, in_canary
from skyriver.decide.decision.stretches import Threads
from skyriver.decide.log.records import ModelInUse, decode_control
from skyriver.decide.worker.border import EventBorder
from skyriver.decide.worker.looking import Looks
from skyriver.decide.worker.overload import Objective, Step
from skyriver.decide.worker.pacing import Pacer, pacer_of
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import EventWork, Turn

House = Any


@pytest.mark.parametrize("block_rows", [1, 1_000_000])
def test_an_event_that_is_shed_gets_the_fallback_and_is_learnt_from(
    make_house: Callable[..., House], block_rows: int
) -> None:
    house = make_house(block_rows=block_rows).start()
    house.send(house.event(1, 0, 7, amount=95))
    assert house.model.runs == [1]
    receipt = house.send(*(house.event(n, 1, 7, amount=95) for n in (2, 3)), effort=Effort.SHED)
    assert house.model.runs == [1], "nobody was asked"
    for record in receipt.decisions:
        assert (record.status, record.reason, record.decision) == (Status.FALLBACK, Reason.SHED, "review")
        assert (record.score, record.model, record.version, record.rule) == (None, "", 0, "")
        assert record.features, "they are recorded as of any event"
    third = house.send(house.event(4, 2, 7, amount=95)).decisions[0]
    assert (third.status, third.decision) == (Status.DECIDED, "block")
    assert house.windows.counts == {"7": 4}
    again = house.send(house.event(2, 3, 7, amount=95))
    assert (again.duplicates, again.decisions[0].reason) == (1, Reason.SHED), "the first decision stays"
    counters = house.engine.partition.counters
    assert (counters.decided, counters.by_reason) == (4, {"SHED": 2})


def test_rows_and_blocks_shed_alike(make_house: Callable[..., House]) -> None:
    def records(block_rows: int) -> list[Any]:
        house = make_house(block_rows=block_rows).start()
        canary = Canary(Lane(ModelInUse("fraud", 2, "other"), house.model), 50.0)
        shadow = Lane(ModelInUse("fraud", 3, "third"), house.model)
        house.engine.use(replace(house.deciding(), canary=canary, shadow=shadow))
        house.send(*(house.event(n, 10 - 9 * (n == 5), n) for n in range(40)), effort=Effort.SHED)
        arms, mine = house.engine.arms.stats, in_canary(np.array([n for n in range(40) if n != 5]), 2, 50.0)
        assert (arms["canary"].by_reason["SHED"], arms["released"].by_reason["SHED"]) == (mine.sum(), (~mine).sum())
        assert [arm.events for arm in arms.values()] == [0, 0, 0], "nobody was asked, so nobody is judged by it"
        assert not any(told["by_decision"] or told["places"] for told in house.engine.arms.to_json())
        return [replace_time(record) for record in house.decisions()]

    def replace_time(record: Any) -> Any:
        return (record.id, record.status, record.reason, record.arm, record.decision, record.shadow_version)

    rows, block = records(1_000_000), records(1)
    assert rows == block
    assert {record[1] for record in rows} == {Status.FALLBACK, Status.LATE}


@pytest.mark.parametrize("block_rows", [1, 1_000_000])
def test_the_cheaper_version_scores_and_what_it_cannot_is_shed(
    make_house: Callable[..., House], block_rows: int
) -> None:
    class Cheap:
        def score(self, features: Any) -> Any:
            return np.where(features[:, 0] == 13, np.nan, 0.95).astype(np.float32)

    house = make_house(block_rows=block_rows).start()
    cheap, canary = Lane(ModelInUse("fraud", 7, "cheap"), Cheap()), Lane(ModelInUse("fraud", 2, "other"), house.model)
    shadow = Lane(ModelInUse("fraud", 3, "third"), house.model)
    house.engine.use(replace(house.deciding(), cheaper=cheap, canary=Canary(canary, 50.0), shadow=shadow))
    house.send(*(house.event(n, 0, n, amount=13 if n == 3 else 10) for n in range(40)), effort=Effort.CHEAPER)
    assert house.model.runs == []
    for record in house.decisions():
        if record.id == 3:
            assert (record.status, record.reason, record.score, record.version) == ("fallback", "SHED", None, 0)
        else:
            told = (record.status, record.reason, record.decision, record.model, record.version, record.arm)
            assert told == ("fallback", "CHEAPER", "block", "fraud", 7, "")
            assert (record.score, record.shadow_version) == (np.float32(0.95), 0)
    assert sum(stats.events for stats in house.engine.arms.stats.values()) == 0, "no version is judged by another's"
    [*_, control] = [decode_control(record.payload) for record in house.records(RecordKind.CONTROL)]
    assert control.cheaper == cheap.model
    before = {arm: stats.events for arm, stats in house.engine.arms.stats.items()}
    house.start(house.engine.deciding)
    assert {arm: stats.events for arm, stats in house.engine.arms.stats.items()} == before


def test_without_a_cheaper_version_the_released_one_is_asked(house: House) -> None:
    assert house.send(house.event(1), effort=Effort.CHEAPER).decisions[0].reason is Reason.NONE


def test_what_was_shed_is_so_after_a_restart_and_what_had_no_decision_is_scored(house: House) -> None:
    house.send(house.event(1), effort=Effort.SHED)
    append = house.log.append

    def dies(records: Any) -> int:
        if records[0].kind is RecordKind.DECISION:
            raise OSError("killed")
        return int(append(records))

    house.log.append = dies
    with pytest.raises(OSError, match="killed"):
        house.send(house.event(2), effort=Effort.SHED)
    house.log.append = append
    house.log.sync()
    house.start()
    assert [(d.id, d.reason) for d in house.decisions()] == [(1, Reason.SHED), (2, Reason.NONE)]
    assert house.engine.partition.counters.by_reason == {"SHED": 1}
    assert house.send(house.event(1), house.event(2)).duplicates == 2


class NoCheckpoints:
    def due(self, offset: int) -> bool:
        return False

    def begin(self, engine: Any, offset: int) -> None: ...


async def driven(house: House, station: Station, pacer: Pacer, told: list[Step], *, rate: int) -> list[Any]:
    """The answers to `rate` events a second for ten seconds, and then one a second for thirty, by the house's clock;
    `told` gets the step of each turn."""
    clock, border, answers = house.clock, EventBorder(house.stream), list[Any]()
    began = clock.monotonic()
    due = deque([began + n * SECOND // rate for n in range(10 * rate)] + [began + n * SECOND for n in range(10, 40)])
    while due or station._busy:
        while due and due[0] <= clock.monotonic():
            row = house.event(len(due), (due[0] - began) / SECOND)
            station.submit(EventWork(border.take([row], due.popleft(), True), answers.append))
        await asyncio.sleep(0)
        if not station._busy:
            clock.pass_(100_000)
            station.tick()
        told.append(pacer.step)
    await station.drain(1)
    return answers


def test_a_station_sheds_while_it_must_and_decides_all_once(house: House) -> None:
    """A model that takes a tenth of a second for each event, by the house's clock."""
    clock, told = house.clock, []
    score = house.model.score

    def slow(features: Any) -> Any:
        clock.pass_(100_000 * len(features))
        return score(features)

    house.model.score = slow

    async def test() -> None:
        def look() -> Any:
            raise AssertionError("nothing is looked up")

        station = Station(house.log, lambda: house.engine, NoCheckpoints(), Looks(look), to_disk=False, queue=10_000)
        await station.start()
        pacer = Pacer(Objective(SECOND, 0.99), clock.monotonic, clock.wall)
        took = pacer.done
        # By the same clock, which stands still but for the model.

        def slowly(turn: Turn, _: int) -> None:
            turn.scoring_us, turn.before_us = 100_000 * turn.rows * (turn.effort is Effort.FULL), 0
            took(turn, 1 + turn.scoring_us)

        pacer.done = slowly  # type: ignore[method-assign]
        station.pacer = pacer
        answers = await driven(house, station, pacer, told, rate=30)  # where 10 can be scored
        assert len(answers) == 330
        records = [answer.decisions[0] for answer in answers]
        assert sorted(r.id for r in records) == sorted(r.id for r in house.decisions())
        reasons = Counter(r.reason for r in records)
        assert set(reasons) == {Reason.NONE, Reason.SHED}
        assert reasons[Reason.SHED] > 50
        assert records[-1].reason is Reason.NONE

    asyncio.run(test())
    assert told[0] is told[-1] is Step.FULL
    assert sum(one is not other for one, other in itertools.pairwise(told)) == 2, "up once, and down once"


def test_a_station_scores_in_more_threads_while_it_must(house: House) -> None:
    """A model that takes a tenth of a second for each event, or half of that in two threads, by the house's clock."""
    clock, threads, told = house.clock, Threads(), list[Step]()
    score, took = house.model.score, [0]
    counts: set[tuple[Step, int]] = set()

    async def test() -> None:
        def look() -> Any:
            raise AssertionError("nothing is looked up")

        station = Station(
            house.log,
            lambda: house.engine,
            NoCheckpoints(),
            Looks(look),
            to_disk=False,
            queue=10_000,
            threads=threads,
        )
        await station.start()
        pacer = Pacer(Objective(SECOND, 0.99, cpus=2), clock.monotonic, clock.wall)

        def slow(features: Any) -> Any:
            took[0] = 100_000 * len(features) // threads.count
            clock.pass_(took[0])
            counts.add((pacer.step, threads.count))
            return score(features)

        house.model.score, done = slow, pacer.done

        def noted(turn: Turn, _: int) -> None:
            turn.scoring_us, turn.before_us = took[0], 0
            done(turn, 1 + took[0])

        pacer.done = noted  # type: ignore[method-assign]
        station.pacer = pacer
        answers = await driven(house, station, pacer, told, rate=15)  # where 10 can be scored
        assert Counter(answer.decisions[0].reason for answer in answers) == {Reason.NONE: 180}

    asyncio.run(test())
    assert [step for step, _ in itertools.groupby(told)] == [Step.FULL, Step.THREADS, Step.FULL]
    assert counts == {(Step.FULL, 1), (Step.THREADS, 1), (Step.THREADS, 2)}, "now and then in one, to see what it takes"


@pytest.mark.parametrize("block_rows", [1, 1_000_000])
def test_more_threads_change_nothing_of_what_is_decided(make_house: Callable[..., House], block_rows: int) -> None:
    def records(effort: Effort) -> list[Any]:
        house = make_house(block_rows=block_rows).start()
        house.send(*(house.event(n, n, n % 3, amount=5.0 * n) for n in range(20)), effort=effort)
        return [(r.id, r.status, r.reason, r.decision, r.score, r.version, r.features) for r in house.decisions()]

    assert records(Effort.THREADS) == records(Effort.FULL)


def test_a_stream_without_an_objective_has_no_pacer() -> None:
    assert pacer_of({}, lambda: 0, lambda: 0) is None
    pacer = pacer_of({"objective": {"latency_us": 50_000, "share": 0.999}}, lambda: 0, lambda: 0)
    assert pacer is not None
    assert pacer.objective == Objective(50_000, 0.999)
    assert {type(value) for *_, value in pacer.metrics()} <= {int, float}
    assert {name for name, *_ in pacer.metrics()} == {
        "skyriver_shedding",
        "skyriver_shed_events_total",
        "skyriver_cheaper_events_total",
    }
