"""HTTP/1.1 towards one address: POST, on connections that are kept. Between the caller and the socket stands one
parser (llhttp): what a general client costs a request, several times over, would be the dispatcher's whole core.

An answer is read up to a size; a longer one counts as it is, and its connection is closed. A connection that was kept
and turns out to be closed is replaced once without telling: the server hung up while nobody asked anything.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

MOST_ANSWER = 16 << 10
"""Bytes of a body that are read."""
MOST_HEAD = 64 << 10


class Lost(Exception):
    """The connection ended, or what came is no HTTP. `began`: something of an answer had come."""

    def __init__(self, why: str, *, began: bool) -> None:
        super().__init__(why)
        self.began = began


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: Mapping[bytes, bytes]
    """Names in lower case."""
    body: bytes


class HttpPoster:
    """Any number of requests at once, each on its own connection. The caller sets the time limit: who is cancelled
    takes its connection along."""

    def __init__(self, url: str, context: ssl.SSLContext | None, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if context is not None else 80)
        self._context = context
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {target} HTTP/1.1", f"host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
        self._head = "\r\n".join(lines).encode("latin-1")
        self._idle: list[_Connection] = []
        self._closed = False

    async def post(self, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """Raises Lost, OSError (ssl.SSLError among them)."""
        more = "".join(f"\r\n{k}: {v}" for k, v in headers.items()).encode("latin-1")
        request = b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (self._head, more, len(body), body)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                try:
                    return await self._ask(connection, request)
                except Lost as lost:
                    if lost.began:
                        raise
        return await self._ask(await self._connect(), request)

    async def close(self) -> None:
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        name = self._host if self._context is not None else None
        _, made = await asyncio.get_running_loop().create_connection(
            _Connection, self._host, self._port, ssl=self._context, server_hostname=name
        )
        return made

    async def _ask(self, connection: _Connection, request: bytes) -> HttpAnswer:
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.abort()
            raise
        if connection.usable and not self._closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[HttpAnswer] | None = None
        self._keep = True
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._size = 0
        self._head_done = False

    @property
    def usable(self) -> bool:
        return self._transport is not None and self._keep and not self._transport.is_closing()

    async def ask(self, request: bytes) -> HttpAnswer:
        self._begin()
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport is None:
            raise Lost("it closed the connection", began=False)
        self._transport.write(request)
        return await self._waiting

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self._keep = False  # nobody asked for anything
            self.abort()
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"it did not answer as HTTP: {error}")
            return
        if not self._head_done and self._size > MOST_HEAD:
            self._fail(f"its answer's head has over {MOST_HEAD} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        endless = self._head_done and not self._headers.keys() & {b"content-length", b"transfer-encoding"}
        if endless and exc is None:
            self._complete()
        else:
            self._fail("it closed the connection before it had answered")

    def _fail(self, why: str) -> None:
        self._keep = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Lost(why, began=self._size > 0))

    def _complete(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(HttpAnswer(self._parser.get_status_code(), self._headers, self._body))

    # The parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._head_done = True

    def on_body(self, part: bytes) -> None:
        if len(self._body) < MOST_ANSWER:
            self._body += part[: MOST_ANSWER - len(self._body)]
        if len(self._body) >= MOST_ANSWER:
            self._keep = False
            self._complete()

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # the answer comes after it
            self._headers, self._head_done, self._body = {}, False, b""
            return
        self._keep = self._keep and self._parser.should_keep_alive()
        self._complete()
