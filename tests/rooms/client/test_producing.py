"""A producer tells of every event what became of it, whatever the stream, the line and the caller do."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.client.api import AsyncClient, Client
from skyriver.client.outbox import Outbox, encode
from skyriver.client.producing import Producing, Told, Undelivered
from skyriver.core.errors import Conflict, InvalidInput, QuotaExceeded, Unavailable

URL = "http://127.0.0.1:1"
DEADLINE = 60.0
QUICK = Producing(batch=5, linger=0.002, retry_seconds=DEADLINE)


@dataclass
class Stream:
    """Knows events by their ids, refuses those below 0, and does what `script` says before that: a status, or an error
    of the line; with `taken` the events are taken all the same, and only the answer is lost."""

    script: list[int | type[Exception]] = field(default_factory=list)
    taken: bool = False
    known: dict[int, dict[str, Any]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert self.open.wait(DEADLINE)
        assert request.url.path == "/streams/payments/events"
        assert request.headers["content-type"] == "application/x-ndjson"
        rows = [json.loads(line) for line in request.content.split(b"\n")]
        failure = self.script.pop(0) if self.script else None
        if failure is None or self.taken:
            body = self._take(rows, wait=request.url.params.get("wait") == "decision")
        if isinstance(failure, int):
            return httpx.Response(failure, json={"code": "QUEUE_FULL", "detail": "no"}, headers={"retry-after": "1"})
        if failure is not None:
            raise failure("broken")
        if not body["accepted"] and not body["duplicates"]:
            problem = {"code": "ALL_REJECTED", "detail": "none", "errors": body["rejected"]}
            return httpx.Response(422, json=problem)
        return httpx.Response(200, json=body)

    def _take(self, rows: list[dict[str, Any]], *, wait: bool) -> dict[str, Any]:
        self.sizes.append(len(rows))
        good = [row for row in rows if row["payment"] >= 0]
        new = [row for row in good if row["payment"] not in self.known]
        self.known |= {row["payment"]: row for row in new}
        self.order += [row["payment"] for row in new]
        rejected = [
            {"index": i, "field": "payment", "value": row["payment"], "reason": "OUT_OF_RANGE", "message": "below 0"}
            for i, row in enumerate(rows)
            if row["payment"] < 0
        ]
        body: dict[str, Any] = {"accepted": len(new), "duplicates": len(good) - len(new), "rejected": rejected}
        if wait:
            body["decisions"] = [
                {"id": row["payment"], "status": "decided", "decision": "ok"} if row["payment"] >= 0 else None
                for row in rows
            ]
        return body


def client(stream: Stream) -> Client:
    return Client(URL, "sky_x", transport=httpx.MockTransport(stream.answer))


def payments(*numbers: int) -> list[dict[str, Any]]:
    return [{"payment": n, "amount": n / 2} for n in numbers]


def test_events_go_in_batches_and_in_order() -> None:
    stream, told = Stream(), []
    with client(stream) as cloud, cloud.producer("payments", QUICK, told=told.append) as producer:
        for event in payments(*range(100)):
            producer.send(event)
        sent = producer.flush(DEADLINE)
        assert (sent.accepted, sent.duplicates, sent.rejected, sent.undelivered) == (100, 0, 0, 0)
    assert stream.order == list(range(100))
    assert max(stream.sizes) == 5
    assert [t.event["payment"] for t in told] == list(range(100))
    assert all(t.error is None for t in told)
    assert stream.known[7] == {"payment": 7, "amount": 3.5}


def test_a_single_event_waits_for_the_linger_alone() -> None:
    stream, heard = Stream(), threading.Event()
    with client(stream) as cloud:
        producer = cloud.producer("payments", QUICK, told=lambda _: heard.set())
        producer.send(payments(1)[0])
        assert heard.wait(DEADLINE), "nobody calls flush"
        producer.close()


def test_flush_does_not_wait_for_a_long_linger() -> None:
    stream = Stream()
    with client(stream) as cloud, cloud.producer("payments", Producing(linger=3600)) as producer:
        producer.send(payments(1)[0])
        assert producer.flush(DEADLINE).accepted == 1
        producer.send(payments(2)[0])
    assert stream.order == [1, 2], "nor does close"


def test_flush_waits_for_what_was_given_before_it_alone() -> None:
    """Of others that go on sending there is always something that waits: here the next event, for each answer."""
    stream, flushed = Stream(), threading.Event()

    def told(end: Told) -> None:
        if not flushed.is_set():
            producer.send(payments(end.event["payment"] + 1)[0])

    with client(stream) as cloud, cloud.producer("payments", Producing(batch=1), told=told) as producer:
        producer.send(payments(1)[0])
        assert producer.flush(DEADLINE).accepted >= 1
        flushed.set()


class Ends(BaseException):
    """What ends a thread."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_producer_that_has_ended() -> None:
    stream, ends = Stream(), []

    def told(end: Told) -> None:
        ends.append((end.event["payment"], end.error is None))
        if end.event["payment"] == 2:
            raise Ends

    with client(stream) as cloud:
        producer = cloud.producer("payments", Producing(linger=3600, batch=3), told=told)
        stream.open.clear()
        for event in payments(*range(1, 8)):
            producer.send(event)
        stream.open.set()
        sent = producer.flush(DEADLINE)
        assert ends == [(n, n <= 3) for n in range(1, 8)], "each event was told its end, once"
        assert (sent.accepted, sent.undelivered) == (3, 4)
        with pytest.raises(Conflict):
            producer.send(payments(8)[0])
        producer.close()


def test_batches_are_bounded_in_bytes() -> None:
    stream = Stream()
    settings_ = Producing(batch=100, batch_bytes=250, linger=3600)
    with client(stream) as cloud, cloud.producer("payments", settings_) as producer:
        for n in range(6):
            producer.send({"payment": n, "text": "x" * 100})
        producer.send({"payment": 6, "text": "x" * 1000})
    assert stream.sizes == [2, 2, 2, 1], "one that is larger goes alone"


@pytest.mark.parametrize("taken", [False, True])
def test_a_full_queue_and_a_broken_line_are_borne(taken: bool) -> None:
    failures = [429, 503, httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout, 502, 500]
    stream = Stream(script=[*failures], taken=taken)
    with client(stream) as cloud, cloud.producer("payments", QUICK) as producer:
        for event in payments(*range(12)):
            producer.send(event)
    assert stream.order == list(range(12))
    sent = producer.sent
    assert sent.accepted + sent.duplicates == 12
    assert bool(sent.duplicates) == taken, "what had been taken is known by its id"


def test_refused_events_are_told_with_their_reason_and_keep_nobody_back() -> None:
    stream, told = Stream(), []
    with client(stream) as cloud, cloud.producer("payments", QUICK, told=told.append) as producer:
        for event in payments(1, -2, 3, -4, 5):
            producer.send(event)
        producer.flush(DEADLINE)
        for event in payments(-6, -7):
            producer.send(event)
    wrong = {t.event["payment"]: t.error for t in told if t.error is not None}
    assert set(wrong) == {-2, -4, -6, -7}
    assert all(isinstance(e, InvalidInput) and (e.code, e.where) == ("OUT_OF_RANGE", "payment") for e in wrong.values())
    assert (producer.sent.accepted, producer.sent.rejected) == (3, 4)
    assert [t.event["payment"] for t in producer.sent.rejections] == [-2, -4, -6, -7]


def test_decisions_come_with_their_events() -> None:
    stream, told = Stream(), []
    options = Producing(batch=3, decisions=True)
    with client(stream) as cloud, cloud.producer("payments", options, told=told.append) as producer:
        for event in payments(1, -2, 3):
            producer.send(event)
    assert [t.decision and t.decision["id"] for t in told] == [1, None, 3]
    assert producer.sent.statuses == Counter(decided=2)


def test_what_could_not_be_sent_is_reported_once_and_can_be_sent_again() -> None:
    stream = Stream(script=[503] * 1000)
    with client(stream) as cloud:
        producer = cloud.producer("payments", Producing(retry_seconds=0.0))
        for event in payments(1, 2):
            producer.send(event)
        with pytest.raises(Undelivered) as caught:
            producer.flush(DEADLINE)
        assert [e["payment"] for e in caught.value.events] == [1, 2]
        assert caught.value.code == "UNDELIVERED"
        stream.script = []
        for event in caught.value.events:
            producer.send(event)
        assert producer.flush(DEADLINE).accepted == 2
        assert producer.close().undelivered == 2


@pytest.mark.parametrize("status", [401, 404, 413])
def test_what_does_not_pass_is_not_tried_again(status: int) -> None:
    stream, told = Stream(script=[status]), []
    with client(stream) as cloud, cloud.producer("payments", QUICK, told=told.append) as producer:
        producer.send(payments(1)[0])
        producer.flush(DEADLINE)
        assert [t.error is not None and t.error.http_status in (status, 422) for t in told] == [True]
        producer.send(payments(2)[0])
    assert stream.order == [2]


def test_the_buffer_is_bounded_and_a_caller_waits_then_is_refused() -> None:
    stream = Stream()
    stream.open.clear()
    with client(stream) as cloud:
        producer = cloud.producer("payments", Producing(batch=2, buffer=4, block_seconds=0.01))
        for event in payments(1, 2, 3, 4):
            producer.send(event)
        with pytest.raises(QuotaExceeded) as caught:
            producer.send(payments(5)[0])
        assert caught.value.code == "BUFFER_FULL"
        with pytest.raises(Unavailable) as late:
            producer.flush(0.01)
        assert late.value.code == "NOT_FLUSHED"
        stream.open.set()
        producer.flush(DEADLINE)
        producer.send(payments(5)[0])
        producer.close()
    assert stream.order == [1, 2, 3, 4, 5]


def test_a_waiting_caller_goes_on_when_there_is_room() -> None:
    stream = Stream()
    stream.open.clear()
    with client(stream) as cloud, cloud.producer("payments", Producing(batch=2, buffer=2)) as producer:
        for event in payments(1, 2):
            producer.send(event)
        threading.Timer(0.02, stream.open.set).start()
        producer.send(payments(3)[0])
    assert stream.order == [1, 2, 3]


def test_a_closed_producer_takes_nothing() -> None:
    with client(Stream()) as cloud:
        producer = cloud.producer("payments")
        producer.close()
        with pytest.raises(Conflict):
            producer.send(payments(1)[0])
        producer.close()


def test_what_is_no_json_is_refused_at_once() -> None:
    with client(Stream()) as cloud, cloud.producer("payments") as producer:
        with pytest.raises(InvalidInput) as caught:
            producer.send({"payment": object()})
        assert caught.value.code == "NOT_JSON"
        with pytest.raises(InvalidInput, match="amount is -inf"):
            producer.send({"payment": 1, "amount": -math.inf})
        producer.send({"payment": 1, "at": datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)})


def test_a_callers_mistake_does_not_stop_it(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream()

    def told(_: Told) -> None:
        raise RuntimeError("mine")

    with client(stream) as cloud, cloud.producer("payments", QUICK, told=told) as producer:
        for event in payments(*range(20)):
            producer.send(event)
    assert stream.order == list(range(20))
    assert "could not be told" in caplog.text


def test_an_answer_for_other_events_is_no_acknowledgement() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"accepted": 1, "duplicates": 0, "rejected": []})

    with Client(URL, "sky_x", transport=httpx.MockTransport(answer)) as cloud:
        producer = cloud.producer("payments", Producing(linger=3600))
        for event in payments(1, 2):
            producer.send(event)
        with pytest.raises(Undelivered, match="2 events were not delivered"):
            producer.close()


def test_many_threads_share_one() -> None:
    stream = Stream()
    with client(stream) as cloud, cloud.producer("payments", Producing(batch=7, buffer=20)) as producer:
        threads = [
            threading.Thread(target=lambda k=k: [producer.send(e) for e in payments(*range(k, 400, 4))])
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert sorted(stream.order) == list(range(400))
    assert producer.sent.accepted == 400


def on_asyncio(stream: Stream, act: Callable[[AsyncClient], Any]) -> Any:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return stream.answer(request)

    async def main() -> Any:
        async with AsyncClient(URL, "sky_x", transport=httpx.MockTransport(answer)) as cloud:
            return await act(cloud)

    return asyncio.run(main())


def test_on_asyncio_it_is_the_same() -> None:
    stream, told = Stream(script=[503, httpx.ReadError]), []

    async def act(cloud: AsyncClient) -> Any:
        async with cloud.producer("payments", QUICK, told=told.append) as producer:
            for event in payments(*range(50), -1):
                await producer.send(event)
            await producer.flush(DEADLINE)
            await producer.send(payments(50)[0])
        return producer.sent

    sent = on_asyncio(stream, act)
    assert (sent.accepted, sent.rejected, sent.undelivered) == (51, 1, 0)
    assert stream.order == list(range(51))
    assert [t.event["payment"] for t in told] == [*range(50), -1, 50]


def test_on_asyncio_nobody_waits_for_a_producer_that_was_cancelled() -> None:
    stream = Stream()

    async def act(cloud: AsyncClient) -> Any:
        producer = cloud.producer("payments", Producing(linger=3600))
        await producer.send(payments(1)[0])
        await asyncio.sleep(0)  # it has begun
        producer._task.cancel()
        with pytest.raises(Undelivered):
            await producer.flush(DEADLINE)
        await producer.close()
        return producer.sent.undelivered

    assert on_asyncio(stream, act) == 1


def test_on_asyncio_the_buffer_is_bounded_and_losses_are_told() -> None:
    stream = Stream(script=[503] * 1000)

    async def act(cloud: AsyncClient) -> Any:
        producer = cloud.producer("payments", Producing(batch=2, buffer=2, block_seconds=0.01))
        for event in payments(1, 2):
            await producer.send(event)
        with pytest.raises(QuotaExceeded):
            await producer.send(payments(3)[0])
        with pytest.raises(Unavailable, match="still wait"):
            await producer.flush(0.01)
        stream.script = [401]
        with pytest.raises(Undelivered) as caught:
            await producer.close()
        return [e["payment"] for e in caught.value.events]

    assert on_asyncio(stream, act) == [1, 2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 30)),
            st.tuples(st.just("time"), st.integers(0, 4)),
            st.tuples(st.just("hurry"), st.just(0)),
            st.tuples(st.just("fail"), st.booleans()),
        )
    ),
    st.integers(1, 4),
    st.integers(1, 60),
)
def test_no_event_is_told_twice_or_never(steps: list[tuple[str, Any]], batch: int, size: int) -> None:
    """The outbox under any order of calls: batches keep the order and their bounds, each event has one end."""
    told: list[int] = []
    outbox = Outbox(Producing(batch=batch, batch_bytes=size, linger=2), lambda t: told.append(t.event["n"]))
    put, now, fails = 0, 0.0, False

    def send() -> None:
        taken = outbox.take()
        assert 1 <= len(taken) <= batch
        assert sum(len(e.line) for e in taken) <= max(size, len(taken[0].line))
        if fails:
            outbox.give_up(taken, Unavailable("no"))
        else:
            outbox.settle(taken, {"accepted": len(taken), "duplicates": 0, "rejected": []})

    for step, value in steps:
        if step == "put":
            outbox.put(encode({"n": put, "pad": "x" * value}), now)
            put += 1
        elif step == "time":
            now += value
        elif step == "hurry":
            outbox.hurry()
        else:
            fails = value
        while outbox.due_in(now) == 0.0:
            send()
    outbox.closed = True
    while outbox.due_in(now) == 0.0:
        send()
    assert outbox.ended(put)
    assert not outbox.ended(put + 1)
    assert told == list(range(put))
    assert outbox.sent.accepted + outbox.sent.undelivered == put
