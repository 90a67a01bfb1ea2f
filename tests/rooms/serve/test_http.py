"""The HTTP server: order, limits, ends; over real sockets in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.errors import NotFound
from skyriver.serve.http import Handler, HttpLimits, HttpServer, Request

LIMITS = HttpLimits(body=1000, bodies=3000, head=2000, connections=20, linger_s=0.3)


def echo(request: Request) -> None:
    request.answer(200, request.method + b" " + request.path + b"?" + request.query + b" " + request.body)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)
        first, *lines = head[:-4].split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        body = await asyncio.wait_for(self.reader.readexactly(int(headers.get(b"content-length", b"0"))), 60)
        return int(first.split()[1]), headers, body

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(1), 60) == b""


@contextlib.asynccontextmanager
async def running(
    handler: Handler,
    limits: HttpLimits = LIMITS,
    *,
    family: socket.AddressFamily = socket.AF_INET,
    folder: Path = Path(),
) -> AsyncIterator[tuple[HttpServer, Callable[[], Awaitable[Client]]]]:
    """On 127.0.0.1, or on a Unix socket in `folder`."""
    server = HttpServer(handler, limits)
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(folder / "socket"))
    address = listening.getsockname()
    clients: list[Client] = []

    async def connect() -> Client:
        if family == socket.AF_UNIX:
            client = Client(*await asyncio.open_unix_connection(address))
        else:
            client = Client(*await asyncio.open_connection(*address))
        clients.append(client)
        return client

    await server.start(listening)
    try:
        yield server, connect
    finally:
        await server.stop(0.0)
        for client in clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scene(), 60)

    uvloop.run(main())


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"host: h", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_requests_on_one_connection() -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(post(b"/a?x=1", b"hello"))
            headers = {b"content-type": b"application/json", b"content-length": b"17"}
            assert await client.answer() == (200, headers, b"POST /a?x=1 hello")
            client.send(b"GET /b HTTP/1.1\r\nhost: h\r\n\r\n")
            assert (await client.answer())[2] == b"GET /b? "

    play(scene)


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"http://h:80/a/b?x=http://c/d", b"/a/b?x=http://c/d"),
        (b"HTTPS://h/", b"/?"),
        (b"http://h", b"/?"),
        (b"http://h?x=1/2", b"/?x=1/2"),
        (b"/a?to=http://h/b", b"/a?to=http://h/b"),
        (b"*", b"*?"),
    ],
)
def test_a_target_may_name_the_server_too(target: bytes, seen: bytes) -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(b"OPTIONS %b HTTP/1.1\r\nhost: h\r\n\r\n" % target)
            assert await client.answer() == (200, ANY, b"OPTIONS %b " % seen)

    play(scene)


def test_what_is_sent_without_waiting_is_answered_in_order() -> None:
    """Also when the first answer comes last."""
    held: list[Request] = []

    def handler(request: Request) -> None:
        if request.path == b"/0":
            held.append(request)
        else:
            echo(request)

    async def scene() -> None:
        async with running(handler) as (server, connect):
            client = await connect()
            client.send(b"".join(post(b"/%d" % n, b"x" * (n % 10)) for n in range(300)))
            while not held:
                await asyncio.sleep(0)
            held[0].answer(200, b"late")
            assert (await client.answer())[2] == b"late"
            for n in range(1, 300):
                assert (await client.answer())[2] == b"POST /%d? " % n + b"x" * (n % 10)
            assert server.bodies == 0

    play(scene)


def test_a_chunked_body() -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(
                b"POST /c HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            )
            assert (await client.answer())[2] == b"POST /c? abcde"

    play(scene)


def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(b"POST /c HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"ok")
            assert (await client.answer())[2] == b"POST /c? ok"

    play(scene)


def test_head_has_the_headers_of_get_alone() -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(b"HEAD /h HTTP/1.1\r\nhost: h\r\n\r\nGET /h HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"content-length: 9\r\n" in head
            assert (await client.answer())[2] == b"GET /h? "
            assert await client.ended()

    play(scene)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    ],
)
def test_a_connection_that_is_not_to_be_kept_is_closed(sent: bytes) -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(sent)
            status, headers, _ = await client.answer()
            assert (status, headers[b"connection"]) == (200, b"close")
            assert await client.ended()

    play(scene)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, b"BAD_HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, b"BAD_HTTP"),
        (b"GET / HTTP/1.1\r\nhost: h\r\nbad header\r\n\r\n", 400, b"BAD_HTTP"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400, b"BAD_HTTP"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400, b"BAD_HTTP"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n", 400, b"BAD_HTTP"),
        (post(b"/", b"x" * 1001), 413, b"BODY_TOO_LARGE"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999\r\n\r\n", 413, b"BODY_TOO_LARGE"),
        (
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
            + (b"1f4\r\n" + b"x" * 500 + b"\r\n") * 3,
            413,
            b"BODY_TOO_LARGE",
        ),
        (b"GET / HTTP/1.1\r\nhost: h\r\nlong: " + b"x" * 3000 + b"\r\n\r\n", 431, b"HEAD_TOO_LARGE"),
        (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 431, b"HEAD_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 501, b"NOT_SUPPORTED"),
    ],
)
def test_what_is_not_taken_is_answered_and_ends_the_connection(sent: bytes, status: int, code: bytes) -> None:
    handled: list[Request] = []

    async def scene() -> None:
        async with running(handled.append) as (server, connect):
            client = await connect()
            client.send(sent)
            given, headers, body = await client.answer()
            assert (given, headers[b"connection"]) == (status, b"close")
            assert code in body
            client.send(b"x" * 1000)  # what still comes does not destroy the answer
            assert await client.ended()
            client.writer.close()
            while server.connections:
                await asyncio.sleep(0.01)
            assert server.bodies == 0

    play(scene)
    assert not handled


def test_a_head_that_never_ends_is_cut() -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.send(b"GET / HTTP/1.1\r\nhost: h\r\nlong: ")
            for _ in range(30):
                client.send(b"x" * 100)
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.answer())[0] == 431

    play(scene)


def test_a_slow_request_is_ended_and_an_idle_connection_too() -> None:
    async def scene() -> None:
        limits = replace(LIMITS, head_and_body_s=0.1, idle_s=0.1)
        async with running(echo, limits) as (_, connect):
            slow, idle = await connect(), await connect()
            slow.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab")
            idle.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            await idle.answer()
            assert (await slow.answer())[0] == 408
            assert await idle.ended()

    play(scene)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def scene() -> None:
        async with running(lambda r: r.answer(200, b"x" * 10_000_000), replace(LIMITS, unread_s=0.1)) as (
            server,
            connect,
        ):
            client = await connect()
            client.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n" * 3)
            while not server.connections:
                await asyncio.sleep(0.01)
            while server.connections:
                await asyncio.sleep(0.01)

    play(scene)


def test_too_many_connections_and_too_many_bytes_are_refused_and_may_come_again() -> None:
    held: list[Request] = []

    async def scene() -> None:
        async with running(held.append, replace(LIMITS, connections=4)) as (server, connect):
            clients = [await connect() for _ in range(4)]
            status, headers, _ = await (await connect()).answer()
            assert (status, headers[b"retry-after"]) == (503, b"1")
            for client in clients[:3]:
                client.send(post(b"/", b"x" * 1000))
            while len(held) < 3:
                await asyncio.sleep(0)
            assert server.bodies == 3000
            clients[3].send(post(b"/", b"x"))
            assert (await clients[3].answer())[0] == 503
            for request in held:
                request.answer(200, b"{}")
            for client in clients[:3]:
                assert (await client.answer())[0] == 200
            assert server.bodies == 0

    play(scene)


def test_what_a_handler_raises_ends_its_own_request_only(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request) -> None:
        if request.path == b"/bug":
            raise RuntimeError("secret")
        if request.path == b"/known":
            raise NotFound("There is none.", code="NONE")
        echo(request)

    async def scene() -> None:
        async with running(handler) as (_, connect):
            client = await connect()
            client.send(b"".join(b"GET /%b HTTP/1.1\r\nhost: h\r\n\r\n" % p for p in (b"bug", b"known", b"good")))
            status, _, body = await client.answer()
            assert status == 500
            assert b"secret" not in body
            assert (await client.answer())[0] == 404
            assert (await client.answer())[0] == 200

    play(scene)
    assert "secret" in caplog.text


def test_an_answer_to_a_client_that_is_gone_does_nothing() -> None:
    held: list[Request] = []

    async def scene() -> None:
        async with running(held.append) as (server, connect):
            client = await connect()
            client.send(post(b"/", b"abc"))
            while not held:
                await asyncio.sleep(0)
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()  # with a reset
            while server.connections:
                await asyncio.sleep(0.001)
            held[0].answer(200, b"{}")
            held[0].answer(200, b"{}")
            assert server.bodies == 0

    play(scene)


@pytest.mark.parametrize("leave", ["close", "write_eof", "abort"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_client_that_ends_its_side_while_it_waits_has_left(
    family: socket.AddressFamily, leave: str, tmp_path: Path
) -> None:
    held: list[Request] = []
    left: list[Request] = []

    def hold(request: Request) -> None:
        held.append(request)
        request.when_gone = lambda: left.append(request)

    async def scene() -> None:
        async with running(hold, family=family, folder=tmp_path) as (server, connect):
            client, other = await connect(), await connect()
            client.send(post(b"/1", b"a"))
            other.send(post(b"/3", b"c"))
            while len(held) < 2:
                await asyncio.sleep(0)
            first, answered = sorted(held, key=lambda request: request.path)
            assert not first.gone
            getattr(client.writer.transport if leave == "abort" else client.writer, leave)()
            while len(server.connections) > 1:
                await asyncio.sleep(0.001)
            assert (first.gone, left, server.bodies) == (True, [first], 1)
            first.answer(200, b"{}")
            answered.answer(200, b"{}")
            assert (await other.answer())[0] == 200
            other.writer.close()
            while server.connections:
                await asyncio.sleep(0.001)
            assert (left, len(held)) == ([first], 2)

    play(scene)


def test_at_the_end_what_runs_is_answered_and_no_more_is_taken() -> None:
    held: list[Request] = []

    async def scene() -> None:
        async with running(held.append, replace(LIMITS, quiet_s=30.0)) as (server, connect):
            busy, idle = await connect(), await connect()
            busy.send(post(b"/", b"x"))
            while not held:
                await asyncio.sleep(0)
            stopping = asyncio.ensure_future(server.stop(5))
            await asyncio.sleep(0)
            with pytest.raises(OSError, match=r"."):
                await connect()
            idle.send(post(b"/late", b"y"))  # it was on its way
            while len(held) < 2:
                await asyncio.sleep(0)
            for request, client in zip(held, (busy, idle), strict=True):
                request.answer(200, b"done")
                status, headers, body = await client.answer()
                assert (status, headers[b"connection"], body) == (200, b"close", b"done")
            assert await stopping == 0

    play(scene)


def test_at_the_end_what_does_not_end_is_cut_off() -> None:
    async def scene() -> None:
        async with running(lambda request: None) as (server, connect):
            client = await connect()
            client.send(post(b"/", b"x"))
            while not server.bodies:
                await asyncio.sleep(0)
            assert await server.stop(0.05) == 1

    play(scene)


STREAM = (
    post(b"/1", b"abc")
    + b"POST /2 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-trailer: 1\r\n\r\n"
    + b"GET /3?q HTTP/1.1\r\nhost: h\r\n\r\n"
)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=12))
def test_where_the_network_cuts_makes_no_difference(cuts: set[int]) -> None:
    async def scene() -> None:
        async with running(echo) as (_, connect):
            client = await connect()
            client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            places = [0, *sorted(cuts), len(STREAM)]
            for start, end in itertools.pairwise(places):
                client.send(STREAM[start:end])
                await client.writer.drain()
                await asyncio.sleep(0.0005)
            assert [(await client.answer())[2] for _ in range(3)] == [b"POST /1? abc", b"POST /2? abc", b"GET /3?q "]

    play(scene)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_no_bytes_break_the_server(junk: bytes) -> None:
    async def scene() -> None:
        async with running(echo) as (server, connect):
            client = await connect()
            client.send(junk)
            client.writer.write_eof()
            await asyncio.wait_for(client.reader.read(), 60)
            client.writer.close()
            while server.connections:
                await asyncio.sleep(0.005)
            other = await connect()
            other.send(b"GET /3 HTTP/1.1\r\nhost: h\r\n\r\n")
            assert (await other.answer())[0] == 200

    play(scene)
