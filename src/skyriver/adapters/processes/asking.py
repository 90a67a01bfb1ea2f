"""`skyriver.control.asking.Asker` over Unix sockets."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from skyriver.core.errors import Unavailable, from_problem

ANSWER_S = 10.0
MOST_BYTES = 64 << 20


class SocketAsker:
    """A connection for each request: they are few."""

    def ask(
        self,
        socket: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        connection = _Connection(socket)
        target = f"{path}?{urlencode(query)}" if query else path
        given = json.dumps(body).encode() if body is not None else None
        try:
            connection.request(method, target, given, dict(headers or {}))
            answer = connection.getresponse()
            status, content = answer.status, answer.read(MOST_BYTES)
            document = json.loads(content) if content else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(
                f"The process does not answer: {error}.",
                code="PROCESS_AWAY",
                next_action="Try again: it is started again by itself. `skyriver ps` shows how it is.",
            ) from error
        finally:
            connection.close()
        if status >= 400:
            raise from_problem(status, document)
        return document


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("process", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
