"""The queue before the engine: batches, order, limits, and what follows an error."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, QuotaExceeded, SkyriverError, Unavailable
from skyriver.decide.log.checkpoint import BlockAnswer
from skyriver.decide.log.history import read_block
from skyriver.decide.log.records import LoadStep
from skyriver.decide.partition.partition import RecentDecisions
from skyriver.decide.partition.receipt import Receipt
from skyriver.decide.worker.border import EventBorder, LabelBorder
from skyriver.decide.worker.looking import Looks
from skyriver.decide.worker.overload import Objective
from skyriver.decide.worker.pacing import Pacer
from skyriver.decide.worker.station import MAX_BATCH, Station
from skyriver.decide.worker.work import READS_A_TURN, ChangeWork, EventWork, FindWork, LabelWork, ReadWork, next_turn

House = Any


class Checkpoints:
    def __init__(self) -> None:
        self.wanted = False
        self.taken: list[int] = []

    def due(self, offset: int) -> bool:
        return self.wanted

    def begin(self, engine: Any, offset: int) -> None:
        self.wanted = False
        self.taken.append(offset)


class Post:
    """A station over a house, and the answers it gave."""

    def __init__(self, house: House, *, to_disk: bool = False, queue: int = 10_000, linger_us: int = 0) -> None:
        self.house = house
        self.answers: list[Any] = []
        self.checkpoints = Checkpoints()
        self.opened = 0
        self.refuse_open: list[SkyriverError] = []
        self.gate = threading.Event()
        """Closed: who reads the log hangs."""
        self.gate.set()
        self.unreadable: SkyriverError | None = None
        self.late: list[Any] = []
        """Answers that may come out of order."""
        self.looks = Looks(self._read)
        self.station = Station(
            house.log, self._open, self.checkpoints, self.looks, to_disk=to_disk, queue=queue, linger_us=linger_us
        )
        self.border = EventBorder(house.stream)

    @contextlib.contextmanager
    def _read(self) -> Iterator[Any]:
        assert self.gate.wait(60)
        if self.unreadable is not None:
            raise self.unreadable
        yield self.house.store.reader()

    def _open(self) -> Any:
        self.opened += 1
        if self.refuse_open:
            raise self.refuse_open.pop(0)
        if self.opened > 1:
            self.house.recover()
        return self.house.engine

    async def start(self) -> Post:
        await self.station.start()
        return self

    def events(self, *rows: object, wait: bool = False) -> EventWork:
        return EventWork(self.border.take(list(rows), 0, wait), self.answers.append)

    def send(self, *rows: object, wait: bool = False) -> None:
        self.station.submit(self.events(*rows, wait=wait))

    def late_send(self, *rows: object, wait: bool = False) -> None:
        work = self.events(*rows, wait=wait)
        work.answer = self.late.append
        self.station.submit(work)

    async def settle(self, count: int) -> list[Any]:
        """The answers, once there are so many."""
        async with asyncio.timeout(60):
            while len(self.answers) < count:
                await asyncio.sleep(0.001)
        return self.answers


def _use(deciding: Any, answer: Callable[[Any], None]) -> ChangeWork:
    return ChangeWork(lambda engine: engine.use(deciding), answer)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.mark.parametrize("to_disk", [False, True])
def test_what_waits_is_one_batch(house: House, to_disk: bool) -> None:
    async def test() -> None:
        post = await Post(house, to_disk=to_disk).start()
        for payment in range(5):
            post.send(house.event(payment), wait=True)
        answers = await post.settle(5)
        assert house.model.runs == [5]
        assert [a.decisions[0].id for a in answers] == [0, 1, 2, 3, 4]
        assert len(house.decisions()) == 5
        await post.station.drain(1)

    run(test)


def test_what_comes_during_a_sync_is_the_next_batch(house: House) -> None:
    async def test() -> None:
        post = await Post(house, to_disk=True).start()
        gate, syncing = threading.Event(), threading.Event()
        sync = house.log.sync

        def slow() -> None:
            syncing.set()
            assert gate.wait(60)
            sync()

        house.log.sync = slow
        post.send(house.event(1))
        assert await asyncio.to_thread(syncing.wait, 60)
        assert not post.answers
        post.send(house.event(2))
        post.send(house.event(3))
        gate.set()
        await post.settle(3)
        assert house.model.runs == [1, 2]
        await post.station.drain(1)

    run(test)


def test_what_comes_while_a_turn_lingers_is_taken_with_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for longer than is declared, counted from when the sockets were read last."""
    limit, turn = 20_000, 5_000

    async def test() -> None:
        loop, slept, now = asyncio.get_running_loop(), [], [10**12]
        post = await Post(house, linger_us=limit).start()
        await asyncio.sleep(0)  # its first turn, with nothing in it
        station = post.station
        station._linger.waits = True
        work = station._work

        def sleep(seconds: float) -> None:
            slept.append(round(seconds * 1e6))
            now[0] += round(seconds * 1e9)
            if len(slept) < 3:
                loop.call_soon(post.send, house.event(1 + len(slept)))  # as the loop reads it after the sleep

        def takes_long(*given: Any) -> Any:
            now[0] += turn * 1_000
            return work(*given)

        clock = SimpleNamespace(sleep=sleep, perf_counter_ns=lambda: now[0])  # of the station alone
        monkeypatch.setattr("skyriver.decide.worker.station.time", clock)
        station._work = takes_long  # type: ignore[method-assign]
        post.send(house.event(1))
        await post.settle(3)
        assert house.model.runs == [2, 1]  # the third came while nobody had come yet
        await asyncio.sleep(0.01)
        assert slept == [limit, limit - turn, limit - turn]  # nobody came any more: it does not go on sleeping
        found: list[int] = []
        station.submit(FindWork(1, lambda _: found.append(len(slept))))  # who only looks waits for nobody
        await until(lambda: bool(found))
        assert found == [3]
        assert len(slept) == 3
        await station.drain(1)

    run(test)


def test_a_large_request_takes_turns_with_the_others(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        rows = [house.event(n) for n in range(2 * MAX_BATCH + 10)]
        rows[MAX_BATCH + 5] = {"payment": 1}
        post.send(*rows, wait=True)
        post.send(house.event(100_000), wait=True)
        small, large = await post.settle(2)
        assert house.model.runs == [MAX_BATCH, MAX_BATCH - 1, 11]
        assert small.decisions[0].id == 100_000
        assert (large.accepted, len(large.decisions), large.first_offset) == (2 * MAX_BATCH + 9, len(rows), 1)
        assert [r.index for r in large.rejected] == [MAX_BATCH + 5]
        assert [d and d.id for d in large.decisions] == [n if n != MAX_BATCH + 5 else None for n in range(len(rows))]
        assert post.station.waiting_rows == 0

    run(test)


def test_a_full_queue_refuses(house: House) -> None:
    async def test() -> None:
        post = await Post(house, queue=10).start()
        post.send(*[house.event(n) for n in range(8)])
        with pytest.raises(QuotaExceeded) as caught:
            post.send(*[house.event(n) for n in range(20, 23)])
        assert caught.value.code == "QUEUE_FULL"
        assert "More comes than the stream's worker can do: 8 rows wait in 1 requests, 10 may" in caught.value.message
        assert "`skyriver stream list`" in caught.value.next_action
        post.send(house.event(8), house.event(9))
        assert [a.accepted for a in await post.settle(2)] == [8, 2]
        post.send(*[house.event(n) for n in range(100, 150)])
        assert (await post.settle(3))[2].accepted == 50

    run(test)


def test_the_bytes_that_wait_are_bounded_whoever_is_gone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.decide.worker.station.QUEUE_BYTES", 1000)

    async def test() -> None:
        post = await Post(house).start()

        def submit(payment: object, size: int) -> None:
            work = post.events(house.event(payment))
            work.size = size
            post.station.submit(work)

        for first in (0, 10):  # what was answered, or failed, has room again
            house.windows.broken = first == 0
            submit(first + 1, 600)
            submit(first + 2, 400)
            with pytest.raises(QuotaExceeded, match="1000 bytes") as caught:
                submit(first + 3, 1)
            assert (caught.value.code, caught.value.http_status) == ("QUEUE_FULL", 429)
            await post.settle(2 if first == 0 else 4)
            await until(lambda: post.station.engine is not None)
        submit(20, 5000)  # one that is alone may be of any size
        with pytest.raises(QuotaExceeded):
            submit(21, 1)
        assert [getattr(a, "accepted", None) for a in await post.settle(5)] == [None, None, 1, 1, 1]

    run(test)


def test_behind_a_slow_disk_the_queue_fills_and_nothing_acknowledged_is_lost(house: House) -> None:
    async def test() -> None:
        post = await Post(house, to_disk=True, queue=100).start()
        gate, syncing = threading.Event(), threading.Event()
        sync = house.log.sync

        def slow() -> None:
            syncing.set()
            assert gate.wait(60)
            sync()

        house.log.sync = slow
        post.send(house.event(0))
        assert await asyncio.to_thread(syncing.wait, 60)
        taken, refused = 1, []
        for first in range(1, 1000, 30):
            try:
                post.send(*[house.event(n) for n in range(first, first + 30)])
                taken += 30
            except QuotaExceeded as error:
                refused.append(error.http_status)
        assert (taken, refused) == (91, [429] * 31)
        assert post.station.waiting_rows == 90
        assert not post.answers, "nothing is acknowledged before it is on the disk"
        gate.set()
        await post.settle(4)
        assert sum(a.accepted for a in post.answers) == taken == len(house.decisions())
        post.send(*[house.event(n) for n in range(500, 530)])
        assert (await post.settle(5))[4].accepted == 30
        await post.station.drain(1)

    run(test)


def test_labels_changes_and_look_ups_go_through_the_same_queue(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.send(house.event(1, amount=60.0), wait=True)
        now = house.clock.wall()
        labels = LabelBorder(house.stream).take([{"payment": 1, "fraud": 1}], now, now)
        post.station.submit(LabelWork(labels, post.answers.append))
        post.station.submit(FindWork(1, post.answers.append))
        post.station.submit(_use(house.deciding(version=2, when="score > 0.5"), post.answers.append))
        events, labelled, found, used = await post.settle(4)
        assert (labelled.accepted, labelled.unknown_subjects, used) == (1, 0, None)
        assert found == events.decisions[0]
        post.send(house.event(2, amount=60.0), wait=True)
        assert (await post.settle(5))[4].decisions[0].decision == "block"

    run(test)


class Paced(Pacer):
    """What it was given of each turn."""

    def __init__(self, house: House) -> None:
        super().__init__(Objective(50_000, 0.99), house.clock.monotonic, house.clock.wall)
        self.took: list[tuple[int, int]] = []
        self.known: list[bool] = []
        self.besides: list[tuple[int, bool]] = []

    def take(self, queue: Any, waiting: int, room: int, others: int = 0) -> Any:
        self.took.append((waiting, others))
        return super().take(queue, waiting, room, others)

    def know(self, *, cheaper: bool) -> None:
        self.known.append(cheaper)
        super().know(cheaper=cheaper)

    def done(self, turn: Any, took_us: int) -> None:
        assert 0 <= turn.besides_us <= took_us
        self.besides.append((turn.besides, turn.besides_us > 0))
        super().done(turn, took_us)


def test_what_waits_is_told_to_a_pacer_in_events_and_other_rows(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.station.pacer = pacer = Paced(house)
        now = house.clock.wall()
        labels = LabelBorder(house.stream).take([{"payment": 1, "fraud": 1}] * 40, now, now)
        post.send(*(house.event(n) for n in range(1, 20)))
        post.station.submit(LabelWork(labels, post.answers.append))
        await post.settle(2)
        assert pacer.took[:2] == [(19, 40), (3, 24)]
        assert (pacer.besides[0], sum(rows for rows, _ in pacer.besides)) == ((16, True), 40)
        house.windows.broken = True
        post.send(*(house.event(n) for n in range(30, 99)))
        post.station.submit(LabelWork(labels, post.answers.append))
        await post.settle(4)
        await until(lambda: post.station.engine is not None)
        post.send(house.event(200))
        await post.settle(5)
        assert pacer.took[-1] == (1, 0)
        before = len(pacer.known)
        post.station.tick()
        assert pacer.known[before:] == [False], "also while nothing comes: the version may be declared no more"

    run(test)


@pytest.mark.parametrize("to_disk", [False, True])
def test_what_answering_takes_is_told_to_a_pacer_beside_the_turns(house: House, to_disk: bool) -> None:
    class Noting(Pacer):
        def __init__(self) -> None:
            super().__init__(
                Objective(60_000_000, 0.99), house.clock.monotonic, house.clock.wall
            )  # no turn is cut for it
            self.times: list[tuple[int, int]] = []

        def done(self, turn: Any, took_us: int) -> None:
            self.times.append((turn.before_us, took_us))
            super().done(turn, took_us)

    async def test() -> None:
        post = await Post(house, to_disk=to_disk).start()
        post.station.pacer = pacer = Noting()

        def slowly(answer: Any) -> None:
            time.sleep(1.0)
            post.answers.append(answer)

        works = [post.events(*(house.event(n + 16 * place) for n in range(16))) for place in range(2)]
        works[0].answer = slowly
        for work in works:  # a turn takes 16 events as long as it knows nothing
            post.station.submit(work)
        await post.settle(2)
        (_, first), (between, second) = pacer.times
        assert between >= 1_000_000
        assert max(first, second) < 1_000_000

    run(test)


def test_live_events_wait_for_a_load_that_was_under_way(house: House) -> None:
    house.engine.partition.loads.note(LoadStep("load", 0, 0, False), BlockAnswer(0, 1, 0, 0))

    async def test() -> None:
        post = await Post(house).start()
        with pytest.raises(Unavailable) as caught:
            post.send(house.event(1))
        assert caught.value.code == "LOADING"
        now = house.clock.wall()
        labels = LabelBorder(house.stream).take([{"payment": 1, "fraud": 1}], now, now)
        post.station.submit(LabelWork(labels, post.answers.append))
        post.station.submit(_use(house.deciding(version=2), post.answers.append))
        await post.settle(2)
        with pytest.raises(Unavailable):
            post.send(house.event(1))

    run(test)


def test_live_events_wait_for_a_load_at_most_so_long(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.decide.worker.station.LOADING_SECONDS", 0.05)
    house.engine.partition.loads.note(LoadStep("load", 0, 0, False), BlockAnswer(0, 1, 0, 0))

    async def test() -> None:
        post = await Post(house).start()
        async with asyncio.timeout(60):
            while not post.answers:
                with contextlib.suppress(Unavailable):
                    post.send(house.event(1))
                await asyncio.sleep(0.005)
        assert post.answers[0].accepted == 1
        assert not house.engine.loading

    run(test)


def test_a_failed_batch_is_told_and_the_engine_recovered(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        house.windows.broken = True
        post.send(house.event(1), wait=True)
        post.send(*[house.event(100 + n) for n in range(MAX_BATCH)])
        (first, second) = await post.settle(2)
        assert (first.code, second.code) == ("DISK_FAILED", "DISK_FAILED")
        assert post.station.waiting_rows == 0
        with pytest.raises(Unavailable, match="not ready") as caught:
            post.send(house.event(2))
        assert caught.value.code == "RECOVERING"
        await until(lambda: post.station.engine is not None)
        post.send(house.event(1), wait=True)
        again = (await post.settle(3))[2]
        assert (again.accepted, again.duplicates, again.decisions[0].id) == (0, 1, 1)
        assert len(house.decisions()) == len(house.events())

    run(test)


def test_a_full_disk_is_waited_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.decide.worker.station.RETRY_SECONDS", 0.01)

    async def test() -> None:
        post = await Post(house).start()
        post.refuse_open = [Unavailable("full", code="DISK_FULL")] * 3
        house.store.room = 10
        post.send(house.event(1), wait=True)
        assert (await post.settle(1))[0].code == "DISK_FULL"
        house.store.room = None
        await until(lambda: post.station.engine is not None)
        assert post.opened == 5
        post.send(house.event(1), wait=True)
        assert (await post.settle(2))[1].accepted == 1

    run(test)


def test_a_lost_log_ends_the_station(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        house.store.open()
        post.send(house.event(1))
        post.send(*[house.event(n) for n in range(2, 2 * MAX_BATCH)])
        answers = await post.settle(2)
        assert isinstance(answers[0], Conflict)
        assert answers[1].code == answers[0].code == (await post.station.failed).code
        with pytest.raises(Unavailable):
            post.send(house.event(9))

    run(test)


def test_an_old_decision_is_looked_up_while_batches_go_on(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.send(house.event(1, amount=95.0), house.event(2), wait=True)
        first, second = (await post.settle(1))[0].decisions
        house.engine.partition.recent = RecentDecisions()
        post.gate.clear()
        post.station.submit(FindWork(2, post.late.append))
        post.late_send(house.event(3), house.event(1), {"payment": 4}, wait=True)
        post.send(house.event(5), wait=True)
        await post.settle(2)
        assert (post.answers[1].accepted, post.late) == (1, [])
        post.gate.set()
        await until(lambda: len(post.late) == 2)
        receipt = next(a for a in post.late if isinstance(a, Receipt))
        assert (receipt.accepted, receipt.duplicates, len(receipt.rejected)) == (1, 1, 1)
        assert [d and d.id for d in receipt.decisions] == [3, 1, None]
        assert receipt.decisions[1] == first
        assert second in post.late
        post.station.submit(FindWork(99, post.answers.append))
        assert (await post.settle(3))[2] is None
        await post.station.drain(1)

    run(test)


def test_an_event_of_history_is_told_as_such(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        at = house.event(0)["at"]
        names = ("_kind", "_time", "payment", "at", "customer", "amount", "_label", "_subject", "_value")
        kinds = (pl.UInt8, *[pl.Int64] * 4, pl.Float64, pl.UInt8, pl.Int64, pl.Float64)
        rows = [(1, at - 9, own, at - 9, 1, 5.0, None, None, None) for own in (1, 2)]
        data = BytesIO()
        pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row").write_ipc_stream(data)
        house.engine.load(read_block(data.getvalue(), house.stream), LoadStep("load-1", 0, 0, True))
        house.log.sync()
        post.send(house.event(3), wait=True)
        await post.settle(1)
        for own in (2, 3, 99):
            post.station.submit(FindWork(own, post.late.append))
        await until(lambda: len(post.late) == 3)
        told = next(answer for answer in post.late if isinstance(answer, SkyriverError))
        assert (told.code, told.message) == ("NOT_DECIDED", "The event 2 is loaded history, which is not decided.")
        assert told.exit_code == 3
        assert sorted(str(answer and answer.id) for answer in post.late if answer is not told) == ["3", "None"]
        await post.station.drain(1)

    run(test)


@pytest.mark.parametrize("error", [Unavailable("The tier is away.", code="TIER_AWAY"), Corrupt("It is damaged."), None])
def test_what_goes_wrong_with_a_look_up_is_answered_to_its_asker_alone(
    house: House, monkeypatch: pytest.MonkeyPatch, error: SkyriverError | None
) -> None:
    """None: it takes too long."""
    monkeypatch.setattr("skyriver.decide.worker.looking.LOOK_S", 60 if error else 0.05)

    async def test() -> None:
        post = await Post(house).start()
        post.send(*[house.event(n) for n in range(50)])
        await post.settle(1)
        house.engine.partition.recent = RecentDecisions()
        post.unreadable = error
        if error is None:
            post.gate.clear()
        post.late_send(house.event(60), house.event(1), wait=True)
        post.station.submit(FindWork(7, post.late.append))
        post.send(house.event(61), wait=True)
        await until(lambda: len(post.late) == 2)
        assert {answer.code for answer in post.late} == {error.code if error else "LOOK_LATE"}
        post.send(house.event(60), wait=True)
        _, other, again = await post.settle(3)
        assert (other.accepted, again.duplicates, again.decisions[0].id) == (1, 1, 60)
        assert post.opened == 1
        post.gate.set()
        await post.station.drain(1)

    run(test)


def test_only_so_many_look_up_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.decide.worker.looking.MOST", 3)

    async def test() -> None:
        post = await Post(house).start()
        post.send(house.event(1))
        await post.settle(1)
        house.engine.partition.recent = RecentDecisions()
        post.gate.clear()
        for _ in range(5):
            post.station.submit(FindWork(1, post.late.append))
        await until(lambda: len(post.late) == 2)
        assert [answer.code for answer in post.late] == ["LOOKS_FULL"] * 2
        post.gate.set()
        await until(lambda: len(post.late) == 5)
        assert [answer.id for answer in post.late[2:]] == [1] * 3
        await post.station.drain(1)

    run(test)


def test_an_unexpected_error_is_told_as_ours(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        decide, house.engine.decide = house.engine.decide, lambda *_: 1 / 0
        post.send(house.event(1))
        assert (await post.settle(1))[0].code == "INTERNAL"
        await until(lambda: post.station.engine is not None)
        assert decide is not house.engine.decide

    run(test)


def test_checkpoints_are_taken_between_batches_and_when_it_is_quiet(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.checkpoints.wanted = True
        post.send(house.event(1))
        await until(lambda: post.checkpoints.taken == [3])
        await until(lambda: not post.station._busy)
        post.checkpoints.wanted = True
        post.station.tick()
        post.send(house.event(2))
        assert isinstance((await post.settle(2))[1], Receipt)
        assert post.checkpoints.taken == [3, 3]

    run(test)


def test_a_checkpoint_is_no_part_of_what_answering_takes(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.checkpoints.wanted = True
        begin, before = post.checkpoints.begin, list[int]()

        def slowly(engine: Any, offset: int) -> None:
            time.sleep(2.0)
            begin(engine, offset)

        post.checkpoints.begin = slowly  # type: ignore[method-assign]
        work, note = post.station._work, before.append
        post.station._work = lambda engine, turn: note(turn.before_us) or work(engine, turn)  # type: ignore[method-assign,func-returns-value]
        post.send(house.event(1))
        await until(lambda: len(before) == 1)
        post.send(house.event(2))  # while the checkpoint is taken
        await post.settle(2)
        assert before[1] < 1_000_000

    run(test)


def test_the_end_waits_for_what_was_taken_and_refuses_the_rest(house: House) -> None:
    async def test() -> None:
        post = await Post(house, to_disk=True).start()
        for payment in range(3):
            post.send(house.event(payment))
        await post.station.drain(5)
        assert [a.accepted for a in post.answers] == [1, 1, 1]
        assert len(house.decisions()) == 3

    run(test)


async def until(held: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not held():
            await asyncio.sleep(0.001)


def rows_of(house: House, count: int) -> list[Any]:
    return [[None, None, house.event(1)["customer"], 5.0] for _ in range(count)]


def test_what_is_read_is_as_of_the_end_of_its_turn_and_changes_nothing(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.station.submit(ReadWork("features-1", rows_of(house, 1), post.late.append))
        post.send(house.event(1))
        post.send(house.event(2, customer=house.event(1)["customer"]))
        await post.settle(2)
        await until(lambda: len(post.late) == 1)
        found = post.late[0]
        assert (found.offset, found.time) == (house.log.next_offset - 1, house.engine.partition.time)
        assert found.read.features.tolist() == [[5.0, 2.0]]
        assert found.read.known.tolist() == [[True]]
        before = house.log.next_offset
        post.station.submit(ReadWork("features-1", [[None, None, 77, 5.0]], post.late.append))
        await until(lambda: len(post.late) == 2)
        assert (post.late[1].offset, post.late[1].read.known.tolist()) == (before - 1, [[False]])
        assert post.station.meter.read_rows == 2
        assert house.log.next_offset == before
        await post.station.drain(1)

    run(test)


def test_what_is_only_asked_waits_for_no_disk_but_is_not_told_of_a_log_that_was_lost(house: House) -> None:
    async def test() -> None:
        post = await Post(house, to_disk=True).start()
        post.send(house.event(1))
        await post.settle(1)
        syncs: list[str] = []
        sync = house.log.sync
        house.log.sync = lambda: (syncs.append(threading.current_thread().name), sync())
        post.station.submit(ReadWork("features-1", rows_of(house, 1), post.late.append))
        await until(lambda: len(post.late) == 1)
        post.station.submit(ReadWork("features-1", rows_of(house, 1), post.late.append))
        post.send(house.event(2))
        await until(lambda: len(post.late) == 2)
        assert [name == threading.main_thread().name for name in syncs] == [True, False]

        def lost() -> None:
            raise Conflict("Another writer has taken it.", code="LOG_LOST")

        house.log.sync = lost
        post.station.submit(ReadWork("features-1", rows_of(house, 1), post.late.append))
        await until(lambda: len(post.late) == 3)
        assert (post.late[2].code, post.station.failed.result().code) == ("LOG_LOST", "LOG_LOST")
        await post.station.drain(1)

    run(test)


def test_what_cannot_be_read_is_told_to_its_asker_alone(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        post.station.submit(ReadWork("others", rows_of(house, 1), post.late.append))
        post.station.submit(ReadWork("features-1", [["too short"]], post.late.append))
        post.send(house.event(1))
        await post.settle(1)
        await until(lambda: len(post.late) == 2)
        assert [answer.code for answer in post.late] == ["FEATURES_NOT_BUILT", "INTERNAL"]
        assert (post.answers[0].accepted, post.opened) == (1, 1)
        await post.station.drain(1)

    run(test)


def test_decisions_wait_for_so_many_rows_that_are_read_and_no_more(house: House) -> None:
    async def test() -> None:
        post = await Post(house).start()
        for _ in range(16):
            post.station.submit(ReadWork("features-1", rows_of(house, READS_A_TURN), post.late.append))
        with pytest.raises(QuotaExceeded) as full:
            post.station.submit(ReadWork("features-1", rows_of(house, 1), post.late.append))
        assert full.value.code == "READS_FULL"
        read_before: list[int] = []
        work = post.events(house.event(1))
        work.answer = lambda receipt: read_before.append(len(post.late))
        post.station.submit(work)
        await until(lambda: bool(read_before))
        assert read_before == [0], "the event is of the first turn, and its decision the first answer of it"
        await until(lambda: len(post.late) == 16)
        post.station.submit(ReadWork("features-1", rows_of(house, READS_A_TURN), post.late.append))  # room again
        with pytest.raises(InvalidInput, match="65 rows"):
            post.station.submit(ReadWork("features-1", rows_of(house, READS_A_TURN + 1), post.late.append))
        await until(lambda: len(post.late) == 17)
        await post.station.drain(1)

    run(test)


def test_what_is_to_be_read_goes_behind_rows_once_a_turn_has_read_its_part(house: House) -> None:
    reads = [ReadWork("features-1", rows_of(house, 40), print) for _ in range(3)]
    small, find = ReadWork("features-1", rows_of(house, 24), print), FindWork(1, print)
    queue = deque([*reads, find, small])
    assert next_turn(queue, 10).others == [reads[0], find, small]
    assert [*queue] == reads[1:]
    assert next_turn(queue, 10).others == [reads[1]]
