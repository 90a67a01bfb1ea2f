"""HTTP/1.1 for one process: an asyncio protocol around llhttp, for small JSON bodies at a high rate.

Why not an ASGI or RSGI server: between the socket and the handler stand here one parser and no task, thread or
future, which is more than twice the requests a core (docs/decisions/0005-http-of-replicas.md); and the queue of
requests that wait, the limits and the end of connections are ours to decide.

How it goes. Bytes come (`data_received`), llhttp finds the parts, a whole request is handed to `handler` as a
`Request`, which is answered by calling `Request.answer` once, at once or later, on the loop's thread. One request a
connection is under way; what a client sends behind it waits, unread once it is a whole request. A client that ends its
side while it waits has left, for a close looks no different on a Unix socket; behind a request that is unread it is not
seen yet. All limits close the connection: to a client that might still be sending, its answer is written first and what
comes is thrown away for a moment, for a reset would destroy the answer on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import httptools
import msgspec

from skyriver.core.errors import InvalidInput, SkyriverError, Unavailable

JSON = b"application/json"
PROBLEM = b"application/problem+json"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a client may do. Times in seconds."""

    body: int = 16 * 1024 * 1024
    """Bytes; a larger body is answered 413."""
    bodies: int = 64 * 1024 * 1024
    """Bytes of all bodies that are being read or wait for their answer; beyond it, 503."""
    head: int = 32 * 1024
    """Bytes of request line and headers; more is 431."""
    connections: int = 4096
    head_and_body_s: float = 30.0
    """From the first byte of a request to its last; longer is 408."""
    idle_s: float = 75.0
    """A connection without a request is closed after it."""
    unread_s: float = 30.0
    """A client that does not read its answers is cut off after it."""
    linger_s: float = 2.0
    """How long what a refused client still sends is thrown away."""
    quiet_s: float = 0.25
    """At the end an idle connection is closed once nothing came on it for so long: a request may be on its way."""


class BadRequest(InvalidInput):
    """The request is not HTTP as we take it; the connection is closed."""

    def __init__(self, message: str, *, code: str, status: int, next_action: str) -> None:
        super().__init__(message, code=code, next_action=next_action)
        self.status = status


class Request:
    """One request, whole. `path` and `query` are as they came, still percent-encoded; header names are lower case."""

    __slots__ = (
        "_connection",
        "arrived_ns",
        "body",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "status",
        "when_gone",
    )

    def __init__(
        self,
        connection: _Connection,
        method: bytes,
        path: bytes,
        query: bytes,
        headers: Mapping[bytes, bytes],
        body: bytes,
        keep_alive: bool,
        arrived_ns: int,
    ) -> None:
        self._connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.arrived_ns = arrived_ns
        """`time.perf_counter_ns()` when its last bytes came."""
        self.status = 0
        """Of the answer; 0 before it."""
        self.when_gone: Callable[[], object] | None = None
        """Called once, on the loop, where its client leaves before the answer: what was begun for it can be ended."""

    def unpack(self, unpacked: Callable[[bytes, int], bytes]) -> None:
        """Puts what `unpacked` makes of the body, in at most so many bytes, in its place. It counts as if it had been
        sent so: raises Unavailable (OVERLOADED) where all bodies together are too much."""
        self._connection.replace_body(self, unpacked)

    @property
    def gone(self) -> bool:
        """Whether its client has left: nobody would read an answer."""
        return self._connection.closed

    def answer(
        self, status: int, body: bytes = b"", content_type: bytes = JSON, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Once; a second answer, or one to a client that is gone, does nothing."""
        if self.status:
            return
        self.status = status
        self.when_gone = None  # it may hold the request, which would then hold itself
        self._connection.answer(self, status, body, content_type, headers)

    def left(self) -> None:
        """Its client is gone."""
        if (told := self.when_gone) is not None:
            self.when_gone = None
            told()


Handler = Callable[[Request], None]


class HttpServer:
    """Accepts on one listening socket until `stop`."""

    def __init__(self, handler: Handler, limits: HttpLimits | None = None) -> None:
        self.handler = handler
        self.limits = limits or HttpLimits()
        self.draining = False
        self.bodies = 0
        """Bytes of bodies held now."""
        self.connections: set[_Connection] = set()
        self._empty = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, listening: socket.socket) -> None:
        """`listening` is bound; this server closes it."""
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        self._listener = await make(lambda: _Connection(self), sock=listening, backlog=1024)
        self._sweep(loop)

    async def stop(self, grace_s: float) -> int:
        """Accepts no more, lets what runs end for at most `grace_s`; returns how many connections were cut off."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        loop = asyncio.get_running_loop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self.connections:
            connection.begin_drain()
        self._sweep(loop)
        self._empty.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace_s)
        if self._sweeper is not None:
            self._sweeper.cancel()
        cut = list(self.connections)
        for connection in cut:
            connection.abort()
        return len(cut)

    def opened(self, connection: _Connection) -> bool:
        """Whether there is room for it."""
        self.connections.add(connection)
        return len(self.connections) <= self.limits.connections

    def closed(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def handle(self, request: Request) -> None:
        """Nothing that a handler does wrong may end more than its own request."""
        try:
            self.handler(request)
        except SkyriverError as error:
            request.answer(error.http_status, _problem(error), PROBLEM)
        except Exception:
            _log.exception("%s %s failed", request.method.decode(), request.path.decode("latin-1"))
            request.answer(500, b'{"code":"INTERNAL","detail":"The request failed."}', PROBLEM)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends what is overdue: one timer for all connections costs a request nothing."""
        now = time.monotonic()
        for connection in list(self.connections):
            connection.sweep(now)
        self._sweeper = loop.call_later(0.05 if self.draining else 1.0, self._sweep, loop)


class _Connection(asyncio.Protocol):
    """Reads, hands over, answers in order. States: reading (no request under way), busy, lingering, closed."""

    __slots__ = (
        "_after",
        "_body",
        "_busy",
        "_closing",
        "_head_done",
        "_head_size",
        "_headers",
        "_held",
        "_limits",
        "_long_head",
        "_parser",
        "_paused",
        "_server",
        "_since",
        "_transport",
        "_unread_since",
        "_url",
        "_waiting",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._busy: Request | None = None
        self._waiting: deque[Request] = deque()
        self._since = 0.0
        """When the state began: the first byte of a request, or the end of the last one."""
        self._unread_since = 0.0
        self._closing = False
        """Nothing more is read; what is under way is still answered."""
        self._paused = False
        self._held = 0
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._head_size = 0
        self._long_head = False
        self._head_done = False
        self._after = False  # whether bytes of the next request have come

    @property
    def closed(self) -> bool:
        return self._transport is None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._since = time.monotonic()
        if not self._server.opened(self):
            error = Unavailable("Too many connections.", code="OVERLOADED", next_action="Try again in a second.")
            self._refuse(503, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._parser = None  # it holds us, we hold it
        self._transport = None
        self._waiting.clear()
        self._release()
        self._server.closed(self)
        if (left := self._busy) is not None:
            self._busy = None
            left.left()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._parser is None:
            return
        within_head = self._after and not self._head_done
        if within_head or len(data) > self._limits.head:
            self._long_head = True  # else no head can be too long
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, BadRequest):
                self._refuse(cause.status, cause)
            elif isinstance(cause, Unavailable):
                self._refuse(503, cause)
            else:
                raise
        except httptools.HttpParserError as error:
            action = "Send HTTP/1.1 without TLS."
            told = f"The request is not HTTP/1.1: {error}."
            self._refuse(400, BadRequest(told, code="BAD_HTTP", status=400, next_action=action))
        else:
            if within_head and not self._head_done:  # it began in an earlier piece and is not over
                self._head_size += len(data)
                if self._head_size > self._limits.head:
                    self._refuse(431, _too_long_head(self._limits))

    def pause_writing(self) -> None:
        self._unread_since = time.monotonic()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        if self._transport is not None and not self._paused:
            self._transport.resume_reading()

    # The parser's side. What is raised here comes out of feed_data.

    def on_message_begin(self) -> None:
        self._after = True
        if self._busy is None:
            self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # else a trailer, which nobody asked for
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._head_done = True
        if self._parser is not None and self._parser.should_upgrade():
            action = "Leave the header Upgrade out."
            raise BadRequest("Upgrades are not supported.", code="NOT_SUPPORTED", status=501, next_action=action)
        headers = self._headers
        if self._long_head and _size(headers) + len(self._url) > self._limits.head:
            raise _too_long_head(self._limits)
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body:
            raise _too_large_body(self._limits)
        if b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        size = len(part)
        self._held += size
        self._server.bodies += size
        if not self._body:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += part
        if len(self._body) > self._limits.body:
            raise _too_large_body(self._limits)
        if self._server.bodies > self._limits.bodies:
            raise _too_much()

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        headers = self._headers
        keep_alive = parser.should_keep_alive() and (
            b"connection" not in headers or parser.get_http_version() == "1.1"  # 1.0 would have to be told
        )
        path, _, query = _target(self._url).partition(b"?")
        request = Request(
            self,
            parser.get_method(),
            path,
            query,
            headers,
            bytes(self._body),
            keep_alive,
            time.perf_counter_ns(),
        )
        self._reset()
        if self._busy is None:
            self._busy = request
            self._server.handle(request)
        else:
            self._waiting.append(request)
            if not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

    # The request's side.

    def answer(
        self,
        request: Request,
        status: int,
        body: bytes,
        content_type: bytes,
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        transport = self._transport
        if transport is None or request is not self._busy:
            return
        ending = self._closing or self._server.draining
        last = not request.keep_alive or (ending and not self._waiting)
        transport.write(_response(status, body, content_type, headers, last=last, head=request.method == b"HEAD"))
        self._busy = None
        self._since = time.monotonic()
        size = len(request.body)
        self._held -= size
        self._server.bodies -= size
        if last and self._closing:
            self._linger(transport)
        elif last:
            self._closing = True
            transport.close()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._next)

    def replace_body(self, request: Request, unpacked: Callable[[bytes, int], bytes]) -> None:
        body = unpacked(request.body, self._limits.body)
        grown = len(body) - len(request.body)
        if self._server.bodies + grown > self._limits.bodies:
            raise _too_much()
        request.body = body
        if self._transport is not None:  # else its bodies count no more
            self._held += grown
            self._server.bodies += grown

    def _next(self) -> None:
        """The next request of those that a client sent without waiting for answers."""
        if self._transport is None or not self._waiting:
            return
        self._busy = self._waiting.popleft()
        if not self._waiting and self._paused:
            self._paused = False
            if not self._unread_since:
                self._transport.resume_reading()
        self._server.handle(self._busy)

    def _release(self) -> None:
        self._server.bodies -= self._held
        self._held = 0

    def _refuse(self, status: int, error: SkyriverError) -> None:
        """Ends the connection. Requests before the wrong one are answered, then it is not."""
        transport = self._transport
        if transport is None or self._closing:
            return
        self._closing = True
        self._since = time.monotonic()
        if self._busy is not None:
            return
        headers = ((b"retry-after", b"1"),) if status == 503 else ()
        transport.write(_response(status, _problem(error, status), PROBLEM, headers, last=True, head=False))
        self._linger(transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Closes after what the client still sends was thrown away: until it has seen the end, or for `linger_s`."""
        self._release()
        if self._paused and not self._unread_since:
            transport.resume_reading()
        if transport.is_closing() or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()

    def begin_drain(self) -> None:
        if self._busy is None and not self._after:
            self._since = time.monotonic()

    def sweep(self, now: float) -> None:
        limits = self._limits
        if self._unread_since and now - self._unread_since > limits.unread_s:
            self.abort()
        elif self._closing:
            if self._busy is None and now - self._since > limits.linger_s:
                self.abort()
        elif self._busy is not None:
            return
        elif self._after:
            if now - self._since > limits.head_and_body_s:
                action = f"Send all of it within {limits.head_and_body_s:g} s."
                told = "The request did not come in time."
                self._refuse(408, BadRequest(told, code="TOO_SLOW", status=408, next_action=action))
        elif now - self._since > (limits.quiet_s if self._server.draining else limits.idle_s):
            self._closing = True
            if self._transport is not None:
                self._transport.close()

    def abort(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.abort()


_SERVER = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


def _target(url: bytes) -> bytes:
    """A request's target without what it may say of the server (RFC 9112, absolute form): that is us."""
    if url.startswith(b"/") or (server := _SERVER.match(url)) is None:
        return url
    rest = url[server.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _size(headers: Mapping[bytes, bytes]) -> int:
    return sum(map(len, headers)) + sum(map(len, headers.values()))


_HEADS: dict[tuple[int, bytes], bytes] = {}


def _response(
    status: int,
    body: bytes,
    content_type: bytes,
    headers: tuple[tuple[bytes, bytes], ...],
    *,
    last: bool,
    head: bool,
) -> bytes:
    start = _HEADS.get((status, content_type))
    if start is None:
        start = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: " % (
            status,
            HTTPStatus(status).phrase.encode(),
            content_type,
        )
        _HEADS[status, content_type] = start
    if not headers and not last and not head:
        return b"%b%d\r\n\r\n%b" % (start, len(body), body)
    more = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    if last:
        more += b"connection: close\r\n"
    return b"%b%d\r\n%b\r\n%b" % (start, len(body), more, b"" if head else body)


def _problem(error: SkyriverError, status: int | None = None) -> bytes:
    problem = error.to_problem()
    if status is not None:
        problem["status"] = status
    return msgspec.json.encode(problem)


def _too_much() -> Unavailable:
    return Unavailable("Too much is being received.", code="OVERLOADED", next_action="Try again in a second.")


def _too_large_body(limits: HttpLimits) -> BadRequest:
    action = "Send less in one request."
    return BadRequest(f"A body has at most {limits.body} bytes.", code="BODY_TOO_LARGE", status=413, next_action=action)


def _too_long_head(limits: HttpLimits) -> BadRequest:
    told = f"Request line and headers have at most {limits.head} bytes."
    return BadRequest(told, code="HEAD_TOO_LARGE", status=431, next_action="Send fewer or shorter headers.")
