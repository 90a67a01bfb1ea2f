"""How the gateway's twin forwards: HTTP/1.1 in threads of this process. What may go where, `MemoryGateway` says."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from skyriver import __version__
from skyriver.control import gateway_rules as rules
from skyriver.control.gateway_rules import Answer
from skyriver.core import inference_protocol as protocol
from skyriver.core.resources import Server

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 120.0
PIECE = 1 << 16

_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "expect",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "server",
    )
)


class Choices(Protocol):
    """What the proxy asks about each request."""

    @property
    def control_socket(self) -> str: ...

    def tenant(self, authorization: str) -> tuple[str, bool] | None: ...

    def admit(self, tenant: str, path: str) -> tuple[str, ...] | Answer: ...

    def leave(self, counted: tuple[str, ...]) -> None: ...

    def take(self, tenant: str, path: str, tried: Collection[Server]) -> Server | Answer: ...

    def give_back(self, server: Server, took: float | None, *, failed: bool) -> None: ...


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], gateway: Choices) -> None:
        self.gateway = gateway
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._open_lock:
            self._open.add(connection)
        return connection, address

    def close_request(self, request: object) -> None:
        if isinstance(request, socket.socket):
            with self._open_lock:
                self._open.discard(request)
        super().close_request(request)  # type: ignore[arg-type]  # the base class says more than it hands over

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def handle_one_request(self) -> None:
        """Any method is forwarded: one way in for all, where the base class looks for one function a method."""
        self.raw_requestline = self.rfile.readline(PIECE + 1)
        if not self.raw_requestline:
            self.close_connection = True
            return
        self._id = ""
        self._until: float | None = None
        self._read: bytes | None = None
        if self.parse_request():
            self._forward()
            self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True
        self.request_version = "HTTP/1.1"
        self._say(rules.BAD_REQUEST)

    def log_message(self, format: str, *args: object) -> None:
        """No access log."""

    def _forward(self) -> None:
        gateway = self.server.gateway
        given = self.headers.get(rules.ID_HEADER, "")
        self._id = given if re.fullmatch(rules.ID_PATTERN, given) else str(uuid.uuid4())
        self._arrived = time.time()
        self.path = _without_host(self.path)
        path = self.path.partition("?")[0]
        if path in (*rules.LIVE_PATHS, rules.READY_PATH):
            self._send(200, (("content-type", "application/json"),), b'{"live":true}')
            return
        found = gateway.tenant(self.headers.get("authorization", ""))
        if found is None:
            self._refuse(rules.UNAUTHENTICATED)
            return
        tenant, read_only = found
        deadline = self.headers.get(rules.DEADLINE_HEADER)
        lengths = set(self.headers.get_all("content-length", []))
        if self.headers.defects or len(lengths) > 1 or not all(length.isdigit() for length in lengths):
            self.send_error(400)
        elif "/." in path or "/%2e" in path.lower():
            self._refuse(rules.BAD_PATH)
        elif read_only and path.startswith(rules.STREAMS) and self.command not in rules.LOOKING:
            self._refuse(rules.NOT_ALLOWED)
        elif deadline is not None and not re.fullmatch(rules.DEADLINE_PATTERN, deadline):
            self._refuse(rules.BAD_DEADLINE)
        elif deadline is not None and float(deadline) <= self._arrived:
            self._refuse(rules.DEADLINE_EXCEEDED)
        elif path.startswith("/api/"):
            connection = _connect(gateway.control_socket)
            if connection is None:
                self._refuse(rules.CONTROL_AWAY)
            else:
                self._exchange(connection, tenant, control=True)
        elif path in protocol.METADATA_PATHS and self.command in rules.LOOKING:
            told = json.dumps(protocol.server_metadata(__version__)).encode()
            self._send(200, (("content-type", "application/json"),), told)
        elif path.startswith("/v2/") and path.split("/")[2] in protocol.OF_THE_SERVER:
            self._refuse(rules.NOT_SUPPORTED)
        elif max(map(int, lengths), default=0) > rules.BODY_LIMIT:
            self._refuse(rules.BODY_TOO_LARGE)
        else:
            self._until = None if deadline is None else float(deadline)
            self._within_limits(tenant, path)

    def _within_limits(self, tenant: str, path: str) -> None:
        counted = self.server.gateway.admit(tenant, path)
        if isinstance(counted, Answer):
            self._refuse(counted)
            return
        try:
            self._to_server(tenant, path)
        finally:
            self.server.gateway.leave(counted)

    def _to_server(self, tenant: str, path: str) -> None:
        """Tries servers until one takes the connection. What was sent is sent again at most once, if its server ended
        before it answered."""
        tried: set[Server] = set()
        again = rules.may_come_twice(self.command, path)
        while True:
            server = self.server.gateway.take(tenant, path, tried)
            if isinstance(server, Answer):
                every = server == rules.UNKNOWN_ROUTE and path == protocol.ALL_STATISTICS
                self._refuse(rules.NOT_SUPPORTED if every else server)
                return
            began, self._status, self._answered = time.monotonic(), 0, 0.0
            try:
                connection = _connect(server.socket)
                if connection is not None:
                    if self._exchange(connection, tenant, control=False, again=again):
                        return
                    again = False
            finally:
                took = self._answered - began if self._answered else None
                self.server.gateway.give_back(server, took, failed=not 0 < self._status < 500)
            tried.add(server)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline(PIECE).split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline(PIECE)
        while self.rfile.readline(PIECE).strip():
            pass
        return b"".join(pieces)

    def _exchange(
        self, connection: http.client.HTTPConnection, tenant: str, *, control: bool, again: bool = False
    ) -> bool:
        """False when the server ended without an answer and the request may be sent `again`."""
        if self._read is None:
            self._read = self._body()
        body = self._read
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if _passes(name.lower(), control=control):
                    connection.putheader(name, value)
            connection.putheader(rules.TENANT_HEADER, tenant)
            connection.putheader(rules.ARRIVED_HEADER, f"{self._arrived:.6f}")
            connection.putheader(rules.ID_HEADER, self._id)
            if body or "content-length" in self.headers:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            if self._until is not None:
                connection.sock.settimeout(max(0.001, min(ANSWER_SECONDS, self._until - time.time())))
            self._wait(connection.sock)
            response = connection.getresponse()
        except _LeftError:
            self.close_connection = True
        except TimeoutError:
            self._say(rules.UPSTREAM_TIMEOUT)
        except (OSError, http.client.HTTPException):
            if again:
                return False
            self._say(rules.UPSTREAM_FAILED)
        else:
            self._status, self._answered = response.status, time.monotonic()
            self._relay(response)
        finally:
            connection.close()
        return True

    def _wait(self, server: socket.socket) -> None:
        """Until the server answers, or takes too long. Raises _LeftError when the client closes meanwhile."""
        asking, deadline = [self.connection], time.monotonic() + (server.gettimeout() or ANSWER_SECONDS)
        while True:
            found, _, _ = select.select([server, *asking], [], [], max(0.0, deadline - time.monotonic()))
            if server in found or not found:
                return
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise _LeftError
            asking = []  # its next request is here already

    def _relay(self, response: http.client.HTTPResponse) -> None:
        headers = [(n, v) for n, v in response.getheaders() if n.lower() not in (*_HOP_BY_HOP, rules.ID_HEADER)]
        if response.length is not None or self.command == "HEAD":
            self._send(response.status, headers, response.read())
            return
        self.send_response_only(response.status)
        for name, value in (*headers, (rules.ID_HEADER, self._id), ("transfer-encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        while piece := response.read1(PIECE):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, answer: Answer) -> None:
        """Before the body was read: the connection cannot be used again unless there is none."""
        if self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers:
            self.close_connection = True
        self._say(answer)

    def _say(self, answer: Answer) -> None:
        self._send(
            answer.status,
            (("content-type", "application/problem+json"), *answer.headers),
            answer.body(self.path.partition("?")[0]),
        )

    def _send(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", rules.ID_HEADER):
                self.send_header(name, value)
        if self._id:
            self.send_header(rules.ID_HEADER, self._id)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _LeftError(Exception):
    """The client."""


def _without_host(target: str) -> str:
    """`http://host/path?query` as `/path?query`."""
    _, scheme, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if scheme and not target.startswith("/") else target


def _passes(name: str, *, control: bool) -> bool:
    if name in _HOP_BY_HOP or name in ("content-length", rules.ID_HEADER) or name.startswith(rules.OWN_HEADERS):
        return False
    return control or name != "authorization"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CONNECT_SECONDS)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise
        self.sock.settimeout(ANSWER_SECONDS)


def _connect(path: str) -> http.client.HTTPConnection | None:
    """None when nobody listens there."""
    connection = _UnixConnection(path)
    try:
        connection.connect()
    except OSError:
        return None
    return connection
