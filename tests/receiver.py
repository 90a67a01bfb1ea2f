"""A receiver of webhooks, as bad as they come: it checks signatures, and acts once for each id."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from skyriver.trust.webhooks import is_signed

SECRET = b"0123456789abcdef0123456789abcdef"
Behave = Callable[[dict[str, Any]], str]
"""What it does with a delivery: "take", "late" (takes it, and answers when the client has gone), "silent" (takes it,
and hangs up half-way through its answer), "hang", "503", "429", "422", "302"."""


def misbehave(luck: random.Random, refuses: Callable[[dict[str, Any]], bool], *, well: float = 60.0) -> Behave:
    """It fails in every way there is; `well`: the weight of the deliveries that it just takes, the others have 40."""

    def behave(body: dict[str, Any]) -> str:
        if refuses(body):
            return "422"
        return luck.choices(["take", "late", "silent", "hang", "503", "429"], [well, 4, 12, 3, 15, 6])[0]

    return behave


class Receiver:
    """Runs until `close`. `acted` has each id once, in the order in which it was acted on; `seen` how often it came."""

    def __init__(self, behave: Behave | None = None, port: int = 0) -> None:
        self.behave: Behave = behave or (lambda body: "take")
        self.acted: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.unsigned = 0
        self.at_once = 0
        self.most_at_once = 0
        self.retry_after = "2"
        self.hang_s = 3.0
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._connections: set[socket.socket] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver._connections.add(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with receiver._lock:
                    receiver.at_once += 1
                    receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
                try:
                    receiver._handle(self, body)
                except OSError:  # the client is gone
                    self.close_connection = True
                finally:
                    with receiver._lock:
                        receiver.at_once -= 1

            def do_GET(self) -> None:
                raise AssertionError("a redirect was followed")

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self.port}/decisions"

    def _handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        id_, seconds = headers["webhook-id"], int(headers["webhook-timestamp"])
        document = json.loads(body)
        fine = is_signed([SECRET], id_, seconds, body, headers["webhook-signature"])
        with self._lock:
            self.headers.append(headers)
            self.seen[id_] += 1
            if not fine or document["id"] != id_ or headers["idempotency-key"] != id_:
                self.unsigned += 1
        how = self.behave(document)
        if how in ("take", "late", "silent"):
            with self._lock:
                if id_ not in self._known:
                    self._known.add(id_)
                    self.acted.append(document)
        self._answer(handler, how)

    def _answer(self, handler: BaseHTTPRequestHandler, how: str) -> None:
        if how in ("hang", "late"):
            time.sleep(self.hang_s)
        if how == "silent":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-le")
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        status = int(how) if how.isdecimal() else 200
        handler.send_response(status)
        if status == 429:
            handler.send_header("retry-after", self.retry_after)
        if status == 302:
            handler.send_header("location", self.url + "/elsewhere")
        text = b"" if status == 200 else b"because of\n\x1b[31m this"
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def write_file(self, home: Path, name: str, tenant: str = "t", **more: Any) -> None:
        """What the operator writes for it."""
        path = home / "sinks" / tenant / f"{name}.toml"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = "whsec_" + base64.b64encode(SECRET).decode()
        lines = [f'url = "{self.url}"', f'secrets = ["{key}"]', *(f"{k} = {v}" for k, v in more.items())]
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
