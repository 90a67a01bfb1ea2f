"""The twin of the gateway: a small HTTP proxy in threads of this process, simple and correct, not fast."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import random
import socket
import threading
from collections.abc import Collection, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from skyriver.control import gateway_rules as rules
from skyriver.control.gateway_rules import Answer, check_socket, check_table, placed
from skyriver.core.errors import Conflict
from skyriver.core.resources import Pool, Route, RouteTable, Server

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


class MemoryGateway:
    """The `Gateway` port in memory. Its table stands in the object, as the other's stands on the disk: `crash` and
    `start` give the same routes again."""

    def __init__(self, *, port: int, control_socket: Path, address: str = "127.0.0.1", seed: int = 0) -> None:
        self._address = (address, port)
        self._control_socket = check_socket(str(control_socket))
        self._lock = threading.Lock()
        self._table = RouteTable()
        self._requests: dict[Server, int] = {}
        """Under way, of all servers of the table and of those that still have some."""
        self._random = random.Random(seed)
        self._server: _Listener | None = None

    def start(self) -> None:
        if self._server is not None:
            return
        try:
            self._server = _Listener(self._address, self)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Conflict(
                f"Port {self._address[1]} is in use.",
                code="PORT_IN_USE",
                next_action="Choose another one with `--port`, or end what uses it.",
            ) from error

    def apply(self, table: RouteTable) -> None:
        check_table(table)
        with self._lock:
            self._table = table
            listed = {server for pool in table.pools for server in placed(pool)}
            under_way = {server: count for server, count in self._requests.items() if count}
            self._requests = dict.fromkeys(listed, 0) | under_way

    def table(self) -> RouteTable:
        with self._lock:
            return self._table

    def sessions(self) -> Mapping[str, int]:
        with self._lock:
            counts: dict[str, int] = {}
            for server, count in self._requests.items():
                counts[server.name] = counts.get(server.name, 0) + count
            return counts

    def crash(self) -> None:
        """Ends at once, cutting what is under way, as a killed process does."""
        if self._server is not None:
            self._server.end()
            self._server = None

    stop = crash

    # What the handler asks.

    def tenant(self, authorization: str) -> tuple[str, bool] | None:
        """The token's tenant, and whether it may only look at streams; None for a token that nobody issued."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest, table = hashlib.sha256(token.strip().encode()).hexdigest(), self._table
        found = (tenant for known, tenant in table.tokens if known == digest)
        return next(((tenant, digest in table.read_only) for tenant in found), None)

    def take(self, tenant: str, path: str, tried: Collection[Server]) -> Server | Answer:
        """A server for the request, counted as busy from now on, or the answer when there is none."""
        with self._lock:
            pools = self._pools(tenant, path)
            if pools is None:
                return rules.UNKNOWN_ROUTE
            for pool in pools:
                free = [server for server in placed(pool) if server not in tried]
                if free:
                    server = min(free, key=lambda one: self._requests[one])
                    self._requests[server] += 1
                    return server
            return rules.NO_CAPACITY

    def give_back(self, server: Server) -> None:
        with self._lock:
            self._requests[server] -= 1
            if not self._requests[server] and not any(server in pool.servers for pool in self._table.pools):
                del self._requests[server]

    def _pools(self, tenant: str, path: str) -> list[Pool] | None:
        """The pools that may take a request, in the order to try; None without a route."""
        match path.split("/")[1:]:
            case ["v2", "models", name, "versions", version, *_]:
                pool = _pool(self._table, tenant, f"{name}:{version}")
                return None if pool is None else [pool]
            case ["v2", "models", name, *_] | ["predict", name, *_]:
                route = _route(self._table, tenant, "model", name)
            case ["streams", name, *_]:
                route = _route(self._table, tenant, "stream", name)
            case _:
                return None
        if route is None:
            return None
        parts = sorted((part for part in route.split if part[1]), key=lambda part: -part[1])
        if parts:
            chosen = self._random.choices(parts, [weight for _, weight in parts])[0]
            parts = [chosen, *(part for part in parts if part != chosen)]
        pools = (_pool(self._table, tenant, name) for name, _ in parts)
        return [pool for pool in pools if pool is not None]

    @property
    def control_socket(self) -> str:
        return self._control_socket


def _route(table: RouteTable, tenant: str, kind: str, name: str) -> Route | None:
    return next((r for r in table.routes if (r.tenant, r.kind, r.name) == (tenant, kind, name)), None)


def _pool(table: RouteTable, tenant: str, name: str) -> Pool | None:
    return next((p for p in table.pools if (p.tenant, p.name) == (tenant, name)), None)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], gateway: MemoryGateway) -> None:
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
    server: _Listener

    def handle_one_request(self) -> None:
        """Any method is forwarded: one way in for all, where the base class looks for one function a method."""
        self.raw_requestline = self.rfile.readline(PIECE + 1)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
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
        path = self.path.partition("?")[0]
        if path in (*rules.LIVE_PATHS, rules.READY_PATH):
            self._send(200, (("content-type", "application/json"),), b'{"live":true}')
            return
        found = gateway.tenant(self.headers.get("authorization", ""))
        if found is None:
            self._refuse(rules.UNAUTHENTICATED)
            return
        tenant, read_only = found
        lengths = set(self.headers.get_all("content-length", []))
        if self.headers.defects or len(lengths) > 1 or not all(length.isdigit() for length in lengths):
            self.send_error(400)
        elif "/." in path or "/%2e" in path.lower():
            self._refuse(rules.BAD_PATH)
        elif read_only and path.startswith(rules.STREAMS) and self.command not in rules.LOOKING:
            self._refuse(rules.NOT_ALLOWED)
        elif path.startswith("/api/"):
            connection = _connect(gateway.control_socket)
            if connection is None:
                self._refuse(rules.CONTROL_AWAY)
            else:
                self._exchange(connection, tenant, control=True)
        elif max(map(int, lengths), default=0) > rules.BODY_LIMIT:
            self._refuse(rules.BODY_TOO_LARGE)
        else:
            self._to_server(tenant, path)

    def _to_server(self, tenant: str, path: str) -> None:
        """Tries servers until one takes the connection; what was sent is never sent twice."""
        tried: set[Server] = set()
        while True:
            server = self.server.gateway.take(tenant, path, tried)
            if isinstance(server, Answer):
                self._refuse(server)
                return
            try:
                connection = _connect(server.socket)
                if connection is not None:
                    self._exchange(connection, tenant, control=False)
                    return
            finally:
                self.server.gateway.give_back(server)
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

    def _exchange(self, connection: http.client.HTTPConnection, tenant: str, *, control: bool) -> None:
        body = self._body()
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if _passes(name.lower(), control=control):
                    connection.putheader(name, value)
            connection.putheader(rules.TENANT_HEADER, tenant)
            if body or "content-length" in self.headers:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
        except TimeoutError:
            self._say(rules.UPSTREAM_TIMEOUT)
        except (OSError, http.client.HTTPException):
            self._say(rules.UPSTREAM_FAILED)
        else:
            self._relay(response)
        finally:
            connection.close()

    def _relay(self, response: http.client.HTTPResponse) -> None:
        headers = [(n, v) for n, v in response.getheaders() if n.lower() not in _HOP_BY_HOP]
        if response.length is not None or self.command == "HEAD":
            self._send(response.status, headers, response.read())
            return
        self.send_response_only(response.status)
        for name, value in (*headers, ("transfer-encoding", "chunked")):
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
        self._send(answer.status, (("content-type", "application/problem+json"), *answer.headers), answer.body())

    def _send(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _passes(name: str, *, control: bool) -> bool:
    if name in _HOP_BY_HOP or name == "content-length" or name.startswith(rules.OWN_HEADERS):
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
