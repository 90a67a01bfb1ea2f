"""Sends events to a stream's worker from a process of its own; or is a server that does nothing, to measure the sender.

    python bench/_load.py batches SOCKET REQUESTS                            all requests of a file
    python bench/_load.py many SOCKET TEMPLATES --events N --rows R          N new events, R lines of JSON a request
    python bench/_load.py schedule SOCKET TEMPLATES --rate N --seconds N     new events, each sent when it is due
    python bench/_load.py nothing SOCKET                                     answers all with 200, until it is ended

Prints one JSON document. `schedule` is an open loop: event n is due at n / rate, whatever became of those before it,
and its latency is counted from when it was due. Where it waits for a free connection, or the sender was late, that is
in it. This module imports nothing but the standard library, and msgspec's and uvloop's weight is not in its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import select
import socket
import statistics
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_LENGTH = struct.Struct("<II")
MOST_CONNECTIONS = 512
IDLE_S = 30.0
"""A connection that was not used for so long is opened anew: a server closes them after a while."""
GIVE_UP_S = 60.0
"""After the last event was due, or after the last answer."""


class Sending(NamedTuple):
    """A request with some events (0: with labels)."""

    url: str
    kind: str
    body: bytes
    events: int


def write_requests(path: Path, requests: Iterable[Sending]) -> None:
    """Ready to be sent."""
    with path.open("wb") as file:
        for request in requests:
            message = _message(request.url, request.kind, request.body)
            file.write(_LENGTH.pack(request.events, len(message)) + message)


def _read_requests(path: Path) -> list[tuple[bytes, int]]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        events, length = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        found.append((data[at : at + length], events))
        at += length
    return found


def _message(url: str, kind: str, body: bytes) -> bytes:
    head = f"POST {url} HTTP/1.1\r\nhost: worker\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(slots=True)
class Connection:
    """Reads answers off one socket."""

    sock: socket.socket
    data: bytearray = field(default_factory=bytearray)
    due: float = 0.0
    """When the event that it waits for was due."""
    used: float = field(default_factory=time.perf_counter)

    @classmethod
    def to(cls, path: str) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(GIVE_UP_S)
        sock.connect(path)
        return cls(sock)

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Status and body of the answers that have come whole; waits for some bytes."""
        piece = self.sock.recv(1 << 18)
        if not piece:
            raise ConnectionError("the worker has closed the connection")
        self.data += piece
        while (answer := self._next()) is not None:
            yield answer

    def _next(self) -> tuple[int, bytes] | None:
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.data[:end])
        at = head.find(b"content-length: ") + 16
        stop = head.find(b"\r", at)
        length = int(head[at:] if stop < 0 else head[at:stop])
        if len(self.data) < end + 4 + length:
            return None
        body = bytes(self.data[end + 4 : end + 4 + length])
        del self.data[: end + 4 + length]
        return int(head[9:12]), body


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def send_batches(path: str, requests: Iterable[tuple[bytes, int]], depth: int) -> dict[str, object]:
    """In order on one connection, `depth` requests on their way."""
    connection = Connection.to(path)
    statuses: Counter[int] = Counter()
    wrong = ""
    sent = answered = events = size = 0
    waiting = iter(requests)
    following = next(waiting, None)
    began, cpu = time.perf_counter(), _cpu()
    while following is not None or answered < sent:
        while following is not None and sent - answered < depth:
            message, rows = following
            connection.sock.sendall(message)
            sent, events, size = sent + 1, events + rows, size + len(message)
            following = next(waiting, None)  # while the worker works
        for status, body in connection.read():
            statuses[status] += 1
            answered += 1
            if status != 200:
                wrong = wrong or body[:300].decode(errors="replace")
    return {
        "events": events,
        "bytes": size,
        "requests": sent,
        "wall_seconds": time.perf_counter() - began,
        "cpu_seconds": _cpu() - cpu,
        "statuses": statuses,
        "wrong": wrong,
    }


class Events:
    """Endless different events of now: what stands in front of a template's tail is made for each."""

    def __init__(self, file: Path, seed: int = 0) -> None:
        given = json.loads(file.read_text())
        self._tails = [tail.encode() for tail in given["tails"]]
        self._keys = given["keys"]
        self._luck = random.Random(seed)
        self._id = time.time_ns() // 1000  # no other run's, and none is reached that a later run begins with
        self._url = given["url"]

    def next(self) -> bytes:
        """A request with one event."""
        return _message(self._url, "application/json", self._one())

    def many(self, rows: int) -> bytes:
        """A request with so many, as lines of JSON."""
        return _message(self._url, "application/x-ndjson", b"\n".join([self._one() for _ in range(rows)]))

    def _one(self) -> bytes:
        luck, self._id = self._luck.random, self._id + 1
        at = time.time_ns() // 1000
        customer, terminal = int(luck() * self._keys), int(luck() * self._keys)
        head = (
            f'{{"payment":{self._id},"at":{at},"customer":{customer},"terminal":{terminal},"amount":{luck() * 300:.2f}'
        )
        return head.encode() + self._tails[self._id % len(self._tails)]


@dataclass(slots=True)
class Schedule:
    """The open loop. `waiting` by file descriptor; select() is used because it wakes within microseconds."""

    path: str
    events: Events
    rate: float
    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Seconds, in the order of the answers."""
    late: list[float] = field(default_factory=list)
    """How much later than due each event was sent."""
    statuses: Counter[int] = field(default_factory=Counter)
    undecided: int = 0
    wrong: str = ""
    bytes: int = 0
    free: list[Connection] = field(default_factory=list)
    waiting: dict[int, Connection] = field(default_factory=dict)
    connections: int = 0

    def run(self) -> dict[str, object]:
        count, sent = round(self.rate * self.seconds), 0
        self.free = [Connection.to(self.path) for _ in range(16)]
        self.connections = len(self.free)
        cpu, began = _cpu(), time.perf_counter()
        while sent < count or self.waiting:
            now = time.perf_counter() - began
            while sent < count and sent / self.rate <= now and self._send(began, sent / self.rate):
                sent += 1
                now = time.perf_counter() - began
            if now > self.seconds + GIVE_UP_S:
                break
            pause = max(0.0, sent / self.rate - now) if sent < count and self._room() else 1.0
            ready, _, _ = select.select(list(self.waiting), [], [], pause)
            for number in ready:
                self._receive(number, began)
        return self._figures(count, sent, _cpu() - cpu, time.perf_counter() - began)

    def _room(self) -> bool:
        return bool(self.free) or self.connections < MOST_CONNECTIONS

    def _send(self, began: float, due: float) -> bool:
        """False: every connection waits for an answer."""
        if not self._room():
            return False
        if not self.free:
            self.connections += 1
            self.free.append(Connection.to(self.path))
        connection = self.free.pop()
        now = time.perf_counter()
        if now - connection.used > IDLE_S:
            connection.sock.close()
            connection = Connection.to(self.path)
        connection.used = now
        message = self.events.next()
        connection.due = due
        self.late.append(time.perf_counter() - began - due)
        connection.sock.sendall(message)
        self.bytes += len(message)
        self.waiting[connection.sock.fileno()] = connection
        return True

    def _receive(self, number: int, began: float) -> None:
        connection = self.waiting[number]
        for status, body in connection.read():
            self.latencies.append(time.perf_counter() - began - connection.due)
            self.statuses[status] += 1
            if status != 200:
                self.wrong = self.wrong or body[:300].decode(errors="replace")
            elif b'"status":"decided"' not in body:
                self.undecided += 1
                self.wrong = self.wrong or body[:300].decode(errors="replace")
            del self.waiting[number]
            self.free.append(connection)

    def _figures(self, count: int, sent: int, cpu: float, wall: float) -> dict[str, object]:
        return {
            "events": count,
            "sent": sent,
            "answered": len(self.latencies),
            "bytes": self.bytes,
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "statuses": self.statuses,
            "undecided": self.undecided,
            "wrong": self.wrong,
            "connections": self.connections,
            "latency_ms": quantiles_ms(self.latencies),
            "sent_late_ms": quantiles_ms(self.late),
        }


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=1000, method="inclusive")
    named = {"p50": cuts[499], "p90": cuts[899], "p99": cuts[989], "p99_9": cuts[998], "max": max(seconds)}
    return {name: round(value * 1e3, 3) for name, value in named.items()}


class _Nothing(asyncio.Protocol):
    """Answers every POST with a decision that is always the same."""

    BODY = b'{"accepted":1,"decisions":[{"status":"decided","decision":"approve"}]}'
    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)

    def __init__(self) -> None:
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            at = self._data.find(b"content-length: ") + 16
            whole = end + 4 + int(self._data[at : self._data.find(b"\r", at)])
            if len(self._data) < whole:
                return
            del self._data[:whole]
            self._transport.write(self.ANSWER)  # type: ignore[attr-defined]


async def do_nothing(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_Nothing, path)
    async with server:
        await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("batches", "schedule", "many", "nothing"))
    parser.add_argument("socket")
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    if given.what == "nothing":
        with suppress(KeyboardInterrupt):
            asyncio.run(do_nothing(given.socket))
        return 0
    if given.what == "batches":
        found = send_batches(given.socket, _read_requests(given.file), given.depth)
    elif given.what == "many":
        events = Events(given.file)
        sizes = (min(given.rows, given.events - at) for at in range(0, given.events, given.rows))
        found = send_batches(given.socket, ((events.many(rows), rows) for rows in sizes), given.depth)
    else:
        found = Schedule(given.socket, Events(given.file), given.rate, given.seconds).run()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
