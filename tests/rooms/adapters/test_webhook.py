"""A webhook's one request: what it sends, and what it makes of each answer."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from certificates import Authority
from free_ports import free_port
from receiver import SECRET, Receiver

from skyriver.adapters.webhook.client import MOST_ANSWER
from skyriver.adapters.webhook.sink import WebhookSink
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Place, Refused, Taken
from skyriver.decide.worker.sources import Access
from skyriver.trust.webhooks import is_signed, signature

NOW_US = 1_700_000_000_000_000
DELIVERY = Delivery("t/orders:4", "orders", "block", b'{"id":"t/orders:4"}')


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def deliver(url: str, *, timeout_s: float = 60.0, headers: tuple[tuple[str, str], ...] = (), ca: str = "") -> Answer:
    async def go() -> Answer:
        place = Place(url, Access(ca=ca), timeout_s, secrets=(SECRET,), headers=headers)
        sink = WebhookSink(place, lambda: NOW_US)
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
    receiver.behave, receiver.hang_s = (lambda _: "hang"), 60
    began = time.monotonic()
    assert deliver(receiver.url, timeout_s=0.3) == Failed("it did not answer within 0.3 s")
    assert time.monotonic() - began < 30


def test_one_that_is_away() -> None:
    found = deliver(f"http://127.0.0.1:{free_port()}/")
    assert isinstance(found, Failed)
    assert found.message.startswith("it cannot be reached: ")


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
        found = deliver(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout_s=1 if drip else 60)
        sent.set()
        thread.join(60)
    assert MOST_ANSWER > 20
    assert found == (Failed("it did not answer within 1 s") if drip else Taken())


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does this with each connection."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(60)


def test_a_connection_that_was_closed_meanwhile_is_replaced_without_telling() -> None:
    connections = []

    def answer(connection: socket.socket) -> None:
        connections.append(1)
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")  # and it hangs up, though it says nothing

    async def go(url: str) -> list[Answer]:
        sink = WebhookSink(Place(url, timeout_s=60, secrets=(SECRET,)), lambda: NOW_US)
        found = [await sink.deliver(DELIVERY) for _ in range(20)]
        await sink.close()
        return found

    with serving(answer) as url:
        assert asyncio.run(go(url)) == [Taken()] * 20
    assert len(connections) == 20


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "it did not answer as HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "it closed the connection before it had answered"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000, "its answer's head has over 65536 bytes"),
        (b"", "it closed the connection before it had answered"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "it"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    ],
)
def test_what_is_no_whole_answer(said: bytes, expected: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(said)

    with serving(answer) as url:
        found = deliver(url)
    if not expected:
        assert found == Taken()
    else:
        assert isinstance(found, Failed)
        assert found.message.startswith(expected)


def test_certificates_are_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server, authority.key(authority.server))

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65_536)
            secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with serving(answer) as plain:
        url = plain.replace("http:", "https:")
        found = deliver(url)
        assert isinstance(found, Failed)
        assert found.message.startswith("its certificate is not trusted")
        assert deliver(url, ca=authority.ca) == Taken()
        assert isinstance(deliver(url.replace("127.0.0.1", "localhost"), ca=authority.ca), Failed), "of another name"
