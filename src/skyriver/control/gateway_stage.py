"""What the gateway's exam is played on: fake servers behind it, clients before it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from skyriver.control.gateway import Gateway
from skyriver.core.resources import NO_LIMIT, Pool, RequestLimit, Route, RouteTable, Server

TOKEN = "exam-token-of-acme"
OTHER_TOKEN = "exam-token-of-globex"
DEADLINE = 60.0

Body = bytes | Iterable[bytes]
"""Pieces are sent chunked, without a length."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A started gateway and what the exam needs around it."""

    gateway: Gateway
    address: tuple[str, int]
    control_socket: Path
    sockets: Path
    """A short, empty directory for the sockets of fake servers."""
    kill: Callable[[], None]
    """Ends the gateway at once, as SIGKILL does."""


@dataclass(slots=True)
class Upstream:
    """A fake server on a Unix socket: tells who it is and what it was sent. A request whose query is `hold` waits
    until `release` is set, one whose query is `drop`, or `drop=` and its name, gets no answer, one whose query is
    `stream` gets two events, one whose query is `watch` is watched until its connection ends."""

    name: str
    path: Path
    release: threading.Event = field(default_factory=threading.Event)
    seen: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Requests whose connection ended while they were watched."""
    delay: float = 0.0
    """Seconds before each answer but that it is ready."""
    status: int = 200

    @property
    def server(self) -> Server:
        return Server(self.name, str(self.path))


@contextmanager
def upstream(stage: Stage, name: str, path: Path | None = None) -> Iterator[Upstream]:
    """A fake server named `name` that listens; at the end all its connections are closed, as at a process's end."""
    at = Upstream(name, path or stage.sockets / f"{name}.sock")
    listener = _Listener(at)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield at
    finally:
        at.release.set()
        listener.shutdown()
        thread.join()
        listener.close_all()
        at.path.unlink(missing_ok=True)


class _Listener(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024  # a server's own: a connection beyond it is refused, and its server is out for a moment

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._open: set[socket.socket] = set()
        upstream.path.unlink(missing_ok=True)
        super().__init__(str(upstream.path), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def close_all(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A check that closes its connection early is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(1 << 16)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        upstream = self.server.upstream
        body = self._body()
        if self.path != "/v2/health/ready":
            upstream.seen.append(self.path)
        query = self.path.partition("?")[2]
        if query in ("drop", f"drop={upstream.name}"):
            self.close_connection = True
            return
        if query == "watch":
            self._watch()
            return
        if query == "hold" and not upstream.release.wait(DEADLINE):
            self.close_connection = True
            return
        told = {
            "upstream": upstream.name,
            "method": self.command,
            "path": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": body.decode(),
        }
        if self.path != "/v2/health/ready":
            time.sleep(upstream.delay)
            self.send_response_only(upstream.status)
        else:
            self.send_response_only(200)
        if query == "stream":
            self._stream()
            return
        data = json.dumps(told).encode()
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _watch(self) -> None:
        self.close_connection = True
        self.connection.settimeout(DEADLINE)
        try:
            ended = not self.connection.recv(1)
        except OSError as error:
            ended = not isinstance(error, TimeoutError)
        if ended:
            self.server.upstream.left.append(self.path)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size + 2)[:-2])
        self.rfile.readline()
        return b"".join(pieces)

    def _stream(self) -> None:
        """Two events, the second one after `release`."""
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"9\r\ndata: 1\n\n\r\n")
        self.server.upstream.release.wait(DEADLINE)
        self.wfile.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str:
        """Of a problem; asserts that it is one."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.body["status"] == self.status, self
        assert self.body["detail"], self
        assert self.body["next_action"], self
        return str(self.body["code"])


class Client:
    """One connection, kept alive."""

    def __init__(self, stage: Stage, token: str | None = TOKEN) -> None:
        self._connection = http.client.HTTPConnection(*stage.address, timeout=DEADLINE)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def send(self, path: str, method: str = "POST", body: Body = b"{}", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, self._headers | named)
        response = self._connection.getresponse()
        data = response.read()
        body_of = json.loads(data) if data else None
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body_of)

    def close(self) -> None:
        self._connection.close()


def send(
    stage: Stage, path: str, *, token: str | None = TOKEN, method: str = "POST", body: Body = b"{}", **headers: str
) -> Reply:
    with contextlib.closing(Client(stage, token)) as client:
        return client.send(path, method, body, **headers)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.005)


def table(
    *pools: Pool,
    split: tuple[tuple[str, int], ...] = (("fraud:1", 100),),
    routes: tuple[Route, ...] = (),
    limit: RequestLimit = NO_LIMIT,
    limits: tuple[tuple[str, RequestLimit], ...] = (),
) -> RouteTable:
    """Model `fraud` of tenant acme with a split and a limit, two tokens, and what is given."""
    digests = ((digest_of(TOKEN), "acme"), (digest_of(OTHER_TOKEN), "globex"))
    return RouteTable((Route("acme", "model", "fraud", split, limit=limit), *routes), pools, digests, limits=limits)


def pool(name: str, *servers: Upstream | Server, tenant: str = "acme") -> Pool:
    return Pool(tenant, name, tuple(s.server if isinstance(s, Upstream) else s for s in servers))


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Load:
    """Four clients that send one request after another until the end."""

    def __init__(self, stage: Stage) -> None:
        self.done = 0
        self.failed: list[object] = []
        self._stage = stage
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def reached(self, count: int) -> bool:
        return self.done >= count or bool(self.failed)

    def _run(self) -> None:
        with contextlib.closing(Client(self._stage)) as client:
            while not self._over.is_set() and not self.failed:
                try:
                    reply = client.send("/predict/fraud")
                except (OSError, http.client.HTTPException) as error:
                    self.failed.append(error)
                    return
                if reply.status != 200:
                    self.failed.append(reply)
                self.done += 1
