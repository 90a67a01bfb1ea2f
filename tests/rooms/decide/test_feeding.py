"""The feed: from a broker through the station into the log, whatever happens to each of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any

import pytest
from broker_servers import wait_for

from skyriver.adapters.memory.source import MemoryBroker, MemorySource
from skyriver.core.errors import NotAllowed, Unavailable
from skyriver.data.log import RecordKind
from skyriver.decide.log.records import RAW_LIMIT, decode_dead
from skyriver.decide.partition.receipt import Refused
from skyriver.decide.worker import feeding
from skyriver.decide.worker.border import EventBorder
from skyriver.decide.worker.feeding import Feed, read_messages
from skyriver.decide.worker.looking import Looks
from skyriver.decide.worker.metrics import Meter
from skyriver.decide.worker.sources import Message
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import EventWork

House = Any


class Checkpoints:
    def due(self, offset: int) -> bool:
        return False

    def begin(self, engine: Any, offset: int) -> None: ...


class Line:
    """A broker, a feed, a station over a house."""

    def __init__(self, house: House, *, queue: int = 10_000) -> None:
        self.house = house
        self.broken = False
        self.border = EventBorder(house.stream)
        self.broker = MemoryBroker()
        looks = Looks(lambda: nullcontext(house.store.reader()))
        self.station = Station(house.log, self._open, Checkpoints(), looks, to_disk=False, queue=queue, meter=Meter())
        self.feed = Feed(MemorySource(self.broker), "memory", self.station, lambda: self.border, house.clock)
        self.task: asyncio.Task[None] | None = None

    def _open(self) -> Any:
        if self.broken:
            raise Unavailable("no room", code="DISK_FULL")
        if self.station.problem:
            self.house.recover()
        return self.house.engine

    async def start(self) -> Line:
        await self.station.start()
        self.task = asyncio.create_task(self.feed.run())
        return self

    def publish(self, *bodies: object) -> None:
        self.broker.publish([b if isinstance(b, bytes) else json.dumps(b).encode() for b in bodies])

    async def until(self, held: Callable[[], object]) -> None:
        await wait_for(held, lambda: self.feed.report())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait((self.task,))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(feeding, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setattr(feeding, "HELD_S", 0.01)
    monkeypatch.setattr(feeding, "LAG_EVERY_S", 0.01)


def test_what_is_in_the_log_is_acknowledged(house: House) -> None:
    async def check() -> None:
        line = await Line(house).start()
        line.publish(house.event(1), [house.event(2), house.event(3)], b"\n".join(
            json.dumps(house.event(n)).encode() for n in (4, 5)), [])  # fmt: skip
        await line.until(lambda: not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1, 2, 3, 4, 5]
        await line.until(lambda: line.feed.counts.messages == 4)
        report = line.feed.report()
        assert (report["state"], report["events"], report["dead"], report["duplicates"]) == ("READY", 5, 0, 0)
        await line.until(lambda: line.feed.lag == 0)
        assert ("skyriver_source_lag_messages", 0) in {(m[0], m[3]) for m in line.feed.metrics()}
        await line.stop()

    run(check)


def test_what_cannot_be_read_is_one_dead_letter_with_its_bytes(house: House) -> None:
    long = b"{" + b"x" * (RAW_LIMIT + 5)
    bodies = [b"not json", b"\xff\xfe{", b"", b'{"a": 1}\n{"b"', long]

    async def check() -> None:
        line = await Line(house).start()
        line.publish(house.event(1), *bodies, house.event(2))
        await line.until(lambda: not line.broker.kept)
        dead = [decode_dead(r.payload) for r in house.records(RecordKind.DEAD)]
        assert [d.reason for d in dead] == ["NOT_JSON"] * 5
        assert [d.raw for d in dead] == [*bodies[:4], long[:RAW_LIMIT]]
        assert [d.id for d in house.decisions()] == [1, 2]
        await line.until(lambda: line.feed.counts.dead == 5)
        await line.stop()

    run(check)


def test_bad_rows_go_through_the_border_of_http(house: House) -> None:
    async def check() -> None:
        line = await Line(house).start()
        line.publish([house.event(1, amount=-5), house.event(2), 7], {**house.event(3), "color": "red"})
        await line.until(lambda: not line.broker.kept)
        dead = [decode_dead(r.payload) for r in house.records(RecordKind.DEAD)]
        assert [d.reason for d in dead] == ["OUT_OF_RANGE", "WRONG_TYPE", "UNKNOWN_FIELD"]
        assert [d.id for d in house.decisions()] == [2]
        await line.stop()

    run(check)


def test_a_message_beyond_the_limit_is_a_dead_letter(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "PAYLOAD_LIMIT", 100)
    good = json.dumps(house.event(1)).encode()
    found = read_messages(
        [Message(good), Message(b"[%s]" % (b"1," * 100 + b"1")), Message(good)], EventBorder(house.stream), 5
    )
    assert [row.reason if isinstance(row, Refused) else row[0] for row in found.rows] == [1, "TOO_LARGE", 1]
    assert found.arrived == 5


def test_many_events_of_many_messages_are_read_at_once(house: House) -> None:
    messages = [Message(json.dumps(house.event(n)).encode()) for n in range(1000)]
    fast = read_messages(messages, EventBorder(house.stream), 5)
    slow = read_messages([Message(b" " + m.payload) for m in messages], EventBorder(house.stream), 5)
    assert fast.columns is not None
    assert slow.columns is None
    assert fast.by_rows().rows == slow.rows


def test_a_broker_that_is_away_is_told_and_taken_up_again(house: House) -> None:
    async def check() -> None:
        line = await Line(house).start()
        line.publish(house.event(1))
        await line.until(lambda: not line.broker.kept)
        line.broker.stop()
        await line.until(lambda: line.feed.report()["state"] == "DEGRADED")
        report = line.feed.report()
        assert (report["reason"], report["message"]) == ("BROKER_AWAY", "The broker is away.")
        assert report["next_action"]
        line.publish(house.event(2))
        line.broker.away = False
        await line.until(lambda: not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1, 2]
        report = line.feed.report()
        assert (report["state"], report["reason"], report["connections"]) == ("READY", "", 2)
        await line.stop()

    run(check)


def test_what_is_wrong_on_this_machine_is_told_with_its_place(house: House) -> None:
    async def check() -> None:
        line = Line(house)

        async def refuse() -> None:
            raise NotAllowed(
                "It is open to others.", code="SECRET_EXPOSED", where="/home/b.toml", next_action="Close it."
            )

        line.feed._source.connect = refuse  # type: ignore[method-assign]
        await line.start()
        await line.until(lambda: line.feed.report()["reason"] == "SECRET_EXPOSED")
        assert line.feed.report()["message"] == "/home/b.toml: It is open to others."
        await line.stop()

    run(check)


def test_a_lost_connection_between_log_and_acknowledgement_decides_nothing_twice(house: House) -> None:
    async def check() -> None:
        line = Line(house)
        source = line.feed._source
        acknowledge = source.acknowledge

        async def lose(messages: Any) -> None:
            line.broker.cut()
            source.acknowledge = acknowledge  # type: ignore[method-assign]
            await acknowledge(messages)

        source.acknowledge = lose  # type: ignore[method-assign]
        await line.start()
        line.publish(house.event(1), house.event(2))
        await line.until(lambda: not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1, 2]
        await line.until(lambda: line.feed.counts.redelivered == 2)
        assert line.feed.counts.duplicates == 2
        await line.stop()

    run(check)


def test_a_batch_is_held_while_the_station_takes_nothing(house: House) -> None:
    async def check() -> None:
        line = await Line(house).start()
        house.store.room = 0
        line.broken = True
        line.publish(house.event(1))
        await line.until(lambda: line.feed.report()["reason"] in ("DISK_FULL", "RECOVERING"))
        assert line.feed.report()["state"] == "DEGRADED"
        assert len(line.broker.kept) == 1, "nothing is acknowledged that is not in the log"
        house.store.room, line.broken = None, False
        await line.until(lambda: not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1]
        assert line.feed.report()["state"] == "READY"
        await line.stop()

    run(check)


def test_a_fault_of_ours_is_told_and_tried_again(house: House) -> None:
    async def check() -> None:
        line = Line(house)
        source = line.feed._source
        receive = source.receive

        async def fail() -> Any:
            source.receive = receive  # type: ignore[method-assign]
            raise ZeroDivisionError

        source.receive = fail  # type: ignore[method-assign]
        await line.start()
        line.publish(house.event(1))
        await line.until(lambda: line.feed.counts.connections == 2 and not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1]
        await line.stop()

    run(check)


def test_a_connection_that_cannot_be_closed_does_not_end_the_feed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closed_already(source: MemorySource) -> None:
        raise RuntimeError("closed already")

    async def no_lag(source: MemorySource) -> int:
        raise OSError("no connection")

    monkeypatch.setattr(MemorySource, "close", closed_already)
    monkeypatch.setattr(MemorySource, "lag", no_lag)

    async def check() -> None:
        line = await Line(house).start()
        await line.until(lambda: line.feed.report()["state"] == "READY")
        line.broker.stop()
        await line.until(lambda: line.feed.report()["reason"] == "BROKER_AWAY")
        line.broker.away = False
        line.publish(house.event(1))
        await line.until(lambda: not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1]
        await line.stop()

    run(check)


def test_a_message_that_deciding_fails_with_becomes_a_dead_letter(house: House) -> None:
    """The batch is tried alone, then in halves, down to that message; the others are decided in their order."""

    async def check() -> None:
        line = await Line(house).start()
        sizes = poison(line, 13)
        line.publish(*[house.event(n) for n in range(1, 8)], [house.event(13), house.event(14)], house.event(20))
        await line.until(lambda: line.feed.counts.dead)
        line.publish(house.event(21))
        await line.until(lambda: not line.broker.kept)
        dead = [decode_dead(r.payload) for r in house.records(RecordKind.DEAD)]
        assert [(d.reason, json.loads(d.raw)[0]["payment"]) for d in dead] == [("INTERNAL", 13)]
        assert dead[0].message == "Deciding failed with this message, 2 times: ZeroDivisionError: unlucky."
        assert [d.id for d in house.decisions()] == [1, 2, 3, 4, 5, 6, 7, 20, 21]
        assert sizes[:3] == [[10], [10], [10]]
        await line.until(lambda: line.feed.report()["state"] == "READY")
        assert line.feed.counts.messages == 10
        await line.stop()

    run(check)


def test_a_message_is_not_to_blame_for_what_stands_beside_it(house: House) -> None:
    answers: list[Any] = []

    async def check() -> None:
        line = await Line(house).start()
        sizes = poison(line, 13)
        submit = line.station.submit

        def submit_with_a_bad_one(work: EventWork) -> None:
            submit(EventWork(line.border.take([house.event(13)], 0, False), answers.append))
            submit(work)

        line.station.submit = submit_with_a_bad_one  # type: ignore[method-assign, assignment]
        line.publish(house.event(1))
        await line.until(lambda: not line.broker.kept)
        assert sizes == [[1, 1], [1], [1]]
        assert [answer.code for answer in answers] == ["INTERNAL"] * 2
        assert [d.id for d in house.decisions()] == [1]
        assert house.records(RecordKind.DEAD) == []
        await line.stop()

    run(check)


def test_messages_that_the_border_fails_with_are_dead_letters_too(house: House) -> None:
    async def check() -> None:
        line = await Line(house).start()
        read = line.border.read

        def unlucky(body: bytes, *more: Any) -> Any:
            if b'"payment": 13' in body:
                raise RecursionError
            return read(body, *more)

        line.border.read = unlucky  # type: ignore[method-assign]
        line.publish(house.event(1), house.event(13), house.event(2))
        await line.until(lambda: not line.broker.kept)
        assert [d.id for d in house.decisions()] == [1, 2]
        assert [decode_dead(r.payload).reason for r in house.records(RecordKind.DEAD)] == ["INTERNAL"]
        await line.stop()

    run(check)


def poison(line: Line, payment: int) -> list[list[int]]:
    """From now on the engine fails with that payment, before anything is appended. The rows of each batch, by
    request."""
    sizes: list[list[int]] = []

    def spoil(engine: Any) -> Any:
        decide = engine.decide

        def unlucky(submissions: Any, *how: Any) -> Any:
            sizes.append([len(s) for s in submissions])
            ids = [row[0] for s in submissions for row in s.by_rows().rows if isinstance(row, list)]
            if payment in ids:
                raise ZeroDivisionError("unlucky")
            return decide(submissions, *how)

        engine.decide = unlucky
        return engine

    spoil(line.station.engine)
    open_engine = line.station._open_engine
    line.station._open_engine = lambda: spoil(open_engine())
    return sizes
