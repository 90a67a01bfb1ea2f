"""An open loop of requests to a server, in a process of its own.

    python bench/_serving_load.py URL BODY --rate N --seconds N [--token T] [--deadline S] [--retry]
    python bench/_serving_load.py URL BODY --arrivals FILE ...

Request n is due at n / rate, or as the n-th line of FILE says (seconds from the start, ascending), whatever became of
those before it, and its latency is counted from then: where it waits for a connection, or the sender was late, that is
in it. SIGTERM ends it before its time. Prints one JSON document with what became of each request, in the order in which
they ended: when it was due (seconds from the start), its latency, its status; 0 is a connection that broke or no answer
at all. `--retry`: what broke or was answered 5xx is sent once more, at once and on a new connection, and what becomes
of that counts. `--deadline`: each says in `X-Request-Deadline` that nobody waits for it longer than so many seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import signal
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

MOST_CONNECTIONS = 512
GIVE_UP_S = 30.0
"""After the last request was due."""


@dataclass(slots=True)
class Sent:
    due: float
    again: bool = False
    """Whether it was sent for the second time."""


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._data = bytearray()
        self.waiting: Sent | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, sent: Sent, message: bytes) -> None:
        assert self.transport is not None
        self.waiting = sent
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        if len(self._data) < end + 4 + length or self.waiting is None:
            return
        self._data.clear()
        sent, self.waiting = self.waiting, None
        if b"connection: close" in head and self.transport is not None:
            self.transport.close()
            self.transport = None
        self._sender.ended(sent, int(head[9:12]), self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        sent, self.waiting = self.waiting, None
        self._sender.lost(self)
        if sent is not None:
            self._sender.ended(sent, 0, None)


@dataclass
class Sender:
    host: str
    port: int
    head: bytes
    """Of each message, up to the length."""
    body: bytes
    deadline: float
    retry: bool
    began: float = 0.0
    free: list[Connection] = field(default_factory=list)
    connections: int = 0
    queue: deque[Sent] = field(default_factory=deque)
    under_way: int = 0
    found: list[tuple[float, float, int]] = field(default_factory=list)
    sent_again: int = 0
    stopping: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, arrivals: Sequence[float]) -> None:
        """`arrivals`: when each request is due, seconds from now, ascending."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        self.began, sent = time.perf_counter(), 0  # Linux' monotonic clock, as others see it
        while not self.stopping and sent < len(arrivals):
            now = time.perf_counter() - self.began
            while sent < len(arrivals) and arrivals[sent] <= now:
                self.under_way += 1
                self._send(Sent(arrivals[sent]))
                sent += 1
            if sent < len(arrivals):
                await asyncio.sleep(max(0.0, arrivals[sent] - (time.perf_counter() - self.began)))
        give_up = time.perf_counter() + GIVE_UP_S
        while self.under_way and time.perf_counter() < give_up:
            await asyncio.sleep(0.01)
        now = time.perf_counter() - self.began
        self.found += [(now, now, 0)] * self.under_way

    def _stop(self) -> None:
        self.stopping = True

    def _send(self, sent: Sent) -> None:
        while self.free and not sent.again:
            connection = self.free.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.send(sent, self._message(sent))
                return
        self.queue.append(sent)
        if self.connections < MOST_CONNECTIONS:
            self.connections += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), self.host, self.port
            )
        except OSError:
            self.connections -= 1
            if self.queue:
                self.ended(self.queue.popleft(), 0, None)
            return
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if connection.transport is None:  # closed before it was used
            if self.queue:
                self.ended(self.queue.popleft(), 0, None)
        elif self.queue:
            sent = self.queue.popleft()
            connection.send(sent, self._message(sent))
        else:
            self.free.append(connection)

    def _message(self, sent: Sent) -> bytes:
        more = b""
        if self.deadline:
            left = self.deadline - (time.perf_counter() - self.began - sent.due)
            more = b"x-request-deadline: %.6f\r\n" % (time.time() + left)
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (self.head, more, len(self.body), self.body)

    def ended(self, sent: Sent, status: int, connection: Connection | None) -> None:
        if connection is not None and connection.transport is not None:
            self._next(connection)
        if self.retry and not sent.again and (status == 0 or status >= 500):
            sent.again = True
            self.sent_again += 1
            self._send(sent)
            return
        self.under_way -= 1
        self.found.append((sent.due, time.perf_counter() - self.began - sent.due, status))

    def lost(self, connection: Connection) -> None:
        self.connections -= 1
        with suppress(ValueError):
            self.free.remove(connection)
        if self.queue and self.connections < MOST_CONNECTIONS:
            self._send(self.queue.popleft())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("body", type=Path)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--arrivals", type=Path)
    parser.add_argument("--token", default="")
    parser.add_argument("--deadline", type=float, default=0.0)
    parser.add_argument("--retry", action="store_true")
    given = parser.parse_args()
    if given.arrivals is not None:
        arrivals = array("d", map(float, given.arrivals.read_text().split()))
    elif given.rate and given.seconds:
        arrivals = array("d", (number / given.rate for number in range(math.ceil(given.rate * given.seconds))))
    else:
        parser.error("give --rate and --seconds, or --arrivals")
    url = urlsplit(given.url)
    head = f"POST {url.path} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
    if given.token:
        head += f"authorization: Bearer {given.token}\r\n"
    port = url.port or 80
    sender = Sender(url.hostname or "", port, head.encode(), given.body.read_bytes(), given.deadline, given.retry)
    uvloop.run(sender.run(arrivals))
    used = resource.getrusage(resource.RUSAGE_SELF)
    document = {
        "began": sender.began,
        "due": [round(due, 6) for due, _, _ in sender.found],
        "latency": [round(latency, 6) for _, latency, _ in sender.found],
        "status": [status for _, _, status in sender.found],
        "sent_again": sender.sent_again,
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }
    print(json.dumps(document, separators=(",", ":")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
