"""A webhook's one request: what it sends, and what it makes of each answer."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from receiver import SECRET, Receiver

from skyriver.adapters.webhook.sink import MOST_ANSWER, WebhookSink
from skyriver.decide.sinks import Answer, Delivery, Failed, Place, Refused, Taken
from skyriver.trust.webhooks import is_signed, signature

NOW_US = 1_700_000_000_000_000
DELIVERY = Delivery("t/orders:4", "orders", "block", b'{"id":"t/orders:4"}')


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def deliver(url: str, *, timeout_s: float = 5.0, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    async def go() -> Answer:
        sink = WebhookSink(Place(url, timeout_s=timeout_s, secrets=(SECRET,), headers=headers), lambda: NOW_US)
        try:
            return await sink.deliver(DELIVERY)
        finally:
            await sink.close()

    return asyncio.run(go())


def test_it_is_signed_and_carries_its_id(receiver: Receiver) -> None:
    assert deliver(receiver.url, headers=(("authorization", "Bearer x"),)) == Taken()
    [headers] = receiver.headers
    assert receiver.unsigned == 0
    assert headers["idempotency-key"] == headers["webhook-id"] == "t/orders:4"
    assert headers["webhook-timestamp"] == "1700000000"
    assert (headers["content-type"], headers["authorization"]) == ("application/json", "Bearer x")


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of the Standard Webhooks' own reference."""
    import base64

    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    given = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == given
    both = signature([SECRET, key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert is_signed([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, both), "while secrets are exchanged"
    assert not is_signed([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265331, body, both)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("take", Taken()),
        ("204", Taken()),
        ("500", Failed("it answered 500: because of  [31m this")),
        ("503", Failed("it answered 503: because of  [31m this")),
        ("408", Failed("it answered 408: because of  [31m this")),
        ("409", Failed("it answered 409: because of  [31m this")),
        ("429", Failed("it answered 429: because of  [31m this", 2_000_000)),
        ("400", Refused("it answered 400: because of  [31m this")),
        ("410", Refused("it answered 410: because of  [31m this")),
        ("302", Refused("it answered 302, a redirect, which is not followed")),
        ("silent", Failed("it closed the connection before it had answered")),
    ],
)
def test_what_answers_mean(receiver: Receiver, how: str, expected: Answer) -> None:
    receiver.behave = lambda _: how
    found = deliver(receiver.url)
    assert type(found) is type(expected)
    assert str(found).replace("\\x1b", "").split() == str(expected).split()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("Tue, 14 Nov 2023 22:13:50 GMT", 30), ("100000", 3_600), ("-5", 0), ("soon", 0), ("9" * 400, 0)],
)
def test_how_long_a_receiver_may_ask_to_wait(receiver: Receiver, text: str, seconds: int) -> None:
    receiver.behave, receiver.retry_after = (lambda _: "429"), text
    found = deliver(receiver.url)
    assert isinstance(found, Failed)
    assert found.wait_us == seconds * 1_000_000


def test_one_that_hangs_is_left_after_its_time(receiver: Receiver) -> None:
    receiver.behave, receiver.hang_s = (lambda _: "hang"), 5
    began = time.monotonic()
    assert deliver(receiver.url, timeout_s=0.3) == Failed("it did not answer within 0.3 s")
    assert time.monotonic() - began < 3


def test_one_that_is_away() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert deliver(f"http://127.0.0.1:{port}/") == Failed("it cannot be reached")


@pytest.mark.parametrize("drip", [False, True])
def test_an_answer_without_an_end_is_not_read(drip: bool) -> None:
    """It is judged by its status once enough of it has come, or is a failure at its deadline."""
    sent = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                while not sent.is_set():
                    size = 1 if drip else 4_096
                    connection.sendall(b"%x\r\n%b\r\n" % (size, b"x" * size))
                    if drip:
                        sent.wait(0.05)
            except OSError:
                pass

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=serve, args=[listening], daemon=True)
        thread.start()
        found = deliver(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout_s=1)
        sent.set()
        thread.join(10)
    assert MOST_ANSWER > 20
    assert found == (Failed("it did not answer within 1 s") if drip else Taken())
