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
from skyriver.decide import feeding
from skyriver.decide.border import EventBorder
from skyriver.decide.feeding import Feed, read_messages
from skyriver.decide.looking import Looks
from skyriver.decide.metrics import Meter
from skyriver.decide.receipt import Refused
from skyriver.decide.records import RAW_LIMIT, decode_dead
from skyriver.decide.sources import Message
from skyriver.decide.station import Station

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
