"""The activator: answers for the services of a tenant that sleep, until their replicas do.

The gateway sends it what is meant for a service that has no replica (serve.sleeping). It holds each request, says in
its report for which services some wait, and that wakes them. What it is told (`live`) names the sockets of the replicas
that are being started; a replica listens once it is ready, so the first connection that succeeds is where everything
held goes, on a few connections at once, before the gateway even knows of the replica.

A request is held until its `X-Request-Deadline`, or HOLD_S; then it is answered 504. One that cannot be held (too
many wait already, or too large ones) or whose service cannot wake is answered 503 with the reason, at once. What was
sent to a replica is never sent again. When a client leaves, its request is forgotten, or the connection to the replica
that has it is closed, which the replica takes as it would the client's.

Bodies: a service holds no more bytes than it leaves free for all others. So one alone gets half of them, the next half
of the rest, and something is always left for one that only now begins to wake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from skyriver.core.errors import DeadlineExceeded, Internal, NotFound, SkyriverError, Unavailable
from skyriver.serve.forwarding import Line
from skyriver.serve.holding import Counted, Queue
from skyriver.serve.http import JSON, PROBLEM, TEXT, HttpLimits, HttpServer, Request
from skyriver.serve.metrics import Histogram, prometheus_of_holding, resident_bytes

HOLD_S = 30.0
"""A request that names no deadline is held so long."""
MOST_HOLD_S = 100.0
"""One that names a later deadline, no longer than that: the gateway gives it up after 120 s."""
MARGIN_S = 0.02
"""So long before its deadline a request is given up: the gateway would answer at the deadline, and knows no reason."""
LOOK_S = 0.01
"""Between two looks for a replica, while something waits for it."""
JOIN_S = 0.05
"""Between two looks for further ones, while something still waits."""
GRACE_S = 9.0
_READY = (b"/v2/health/ready", b"/readyz", b"/v2/health/live", b"/livez")
_AGAIN = ((b"retry-after", b"1"),)
_LATER = ((b"retry-after", b"10"),)

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""(model, version); "" is whichever has the most weight."""


@dataclass(frozen=True, slots=True)
class ActivatorSettings:
    hold_s: float = HOLD_S
    held: int = 2048
    """Requests that wait for one service; one more is answered 503."""
    bodies: int = 64 * 1024 * 1024
    """Bytes of all requests that are held."""
    lines: int = 32
    """Connections to a replica at once."""
    http: HttpLimits = field(default_factory=lambda: HttpLimits(bodies=128 * 1024 * 1024))
    """Its `bodies` are those that are held, and those that are being read."""


class Activator:
    """Made on the loop that serves it. `live` gives what the control plane tells, when that has changed."""

    def __init__(self, live: Callable[[], Mapping[str, Any] | None], settings: ActivatorSettings | None = None) -> None:
        self.settings = settings or ActivatorSettings()
        self.changed = asyncio.Event()
        """Set when other services are waited for than before: the report is due at once."""
        self.hold_us = Histogram()
        """How long requests waited that were forwarded then."""
        self.forwarded = self.refused = self.expired = self.failed = self.left = 0
        self._live = live
        self._unreadable = False
        self._services: Mapping[str, Mapping[str, Any]] = {}
        self._queues: dict[Key, Queue] = {}
        self._counted: dict[str, Counted] = {}
        """By service, of those that it is told of."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = HttpServer(self._handle, self.settings.http)

    async def start(self, listening: socket.socket) -> None:
        await self._server.start(listening)

    async def stop(self, grace_s: float = GRACE_S) -> int:
        """Accepts no more, goes on waiting for what it holds; returns how many connections were cut off."""
        cut = await self._server.stop(grace_s)
        for task in self._tasks:
            task.cancel()
        return cut

    def report(self) -> dict[str, object]:
        return {
            "waiting": self._waiting(),
            **self._ended(),
            "services": {name: counted.told() for name, counted in self._counted.items()},
            "hold_p50_us": round(self.hold_us.quantile(0.5)),
            "hold_p95_us": round(self.hold_us.quantile(0.95)),
            "rss_mb": round(resident_bytes() / 1e6, 1),
        }

    def _waiting(self) -> dict[str, int]:
        waiting: dict[str, int] = {}
        for (name, _), queue in self._queues.items():
            waiting[name] = waiting.get(name, 0) + len(queue.held)
        return {name: count for name, count in waiting.items() if count}

    def _ended(self) -> dict[str, int]:
        return {
            "forwarded": self.forwarded,
            "refused": self.refused,
            "expired": self.expired,
            "failed": self.failed,
            "left": self.left,
        }

    # A request comes.

    def _handle(self, request: Request) -> None:
        if request.path in _READY:
            request.answer(200, b'{"ready":true}')
            return
        if request.path == b"/metrics":
            connections = len(self._server.connections)
            told = prometheus_of_holding(self._waiting(), self._ended(), self.hold_us, connections=connections)
            request.answer(200, told, TEXT)
            return
        key = target_of(request.path)
        if key is None:
            raise NotFound(
                "Only models are answered for here.",
                code="UNKNOWN_ROUTE",
                next_action="Ask for POST /v2/models/MODEL/infer or /predict/MODEL.",
            )
        self._look()
        if (problem := self._problem(key)) is not None:
            self._refuse(key[0], request, problem, _LATER)
        elif request.path.endswith(b"/ready") and request.method in (b"GET", b"HEAD"):
            request.answer(200, b'{"ready":true}')  # it answers, if not at once; to be asked so wakes nobody
        elif (full := self._full(queue := self._queues.get(key) or Queue(key[0]), request)) != "":
            error = Unavailable(f"{key[0]} is waking, and {full}", code="OVERLOADED", next_action="Send it again soon.")
            self._refuse(key[0], request, error, _AGAIN)
        else:
            self._hold(key, queue, request)

    def _full(self, queue: Queue, request: Request) -> str:
        """What keeps the request from being held, if anything."""
        if len(queue.held) >= self.settings.held:
            return f"{self.settings.held} requests wait for it already."
        size, held = len(request.body), sum(each.bodies for each in self._queues.values())
        if size and queue.bodies + size > self.settings.bodies - held - size:
            return f"{queue.bodies} bytes wait for it already: with {size} more too little is left for other services."
        return ""

    def _hold(self, key: Key, queue: Queue, request: Request) -> None:
        seconds = min(seconds_left(request.headers, time.time(), self.settings.hold_s), MOST_HOLD_S)
        if seconds <= 0:
            self._expire(key, queue, request)
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, key, queue, request)
        queue.add(request, timer)
        request.when_gone = partial(self._leave, queue, request)
        if key not in self._queues:
            self._queues[key] = queue
            self.changed.set()
            self._begin(self._carry(key, queue), self._tasks)
        elif queue.path:
            self._add_line(queue)

    def _leave(self, queue: Queue, request: Request) -> None:
        queue.remove(request)
        self.left += 1

    def _expire(self, key: Key, queue: Queue, request: Request) -> None:
        if request in queue.held:
            queue.remove(request)
        self.expired += 1
        if (counted := self._count(key[0])) is not None:
            counted.expired += 1
        trouble = (self._services.get(key[0]) or {}).get("trouble") or {}
        why = f" {trouble['message']}" if trouble.get("message") else ""
        error = DeadlineExceeded(
            f"{key[0]} was asleep and did not wake before the request's deadline.{why}",
            next_action=f"Send it again with more time; `skyriver explain {key[0]}` tells how it is.",
        )
        _answer(request, error, _AGAIN)

    def _refuse(
        self, name: str, request: Request, error: SkyriverError, headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        self.refused += 1
        if (counted := self._count(name)) is not None:
            counted.refused += 1
        _answer(request, error, headers)

    def _count(self, name: str) -> Counted | None:
        """None of a service that nobody told of: any path names one."""
        return self._counted.setdefault(name, Counted()) if name in self._services else None

    # What the control plane tells.

    def _look(self) -> None:
        try:
            live = self._live()
        except (OSError, ValueError) as error:  # what is held goes by what was told last
            if not self._unreadable:
                _log.warning("where replicas are cannot be read: %s", error)
            self._unreadable = True
            return
        self._unreadable = False
        if live is not None:
            self._services = live.get("services", {})
            self._counted = {name: counted for name, counted in self._counted.items() if name in self._services}

    def _problem(self, key: Key) -> SkyriverError | None:
        """Why the service cannot wake, where that is known: nothing of it is being started."""
        trouble = (self._services.get(key[0]) or {}).get("trouble") or {}
        if not trouble.get("failed") or self._sockets(key):
            return None
        return Unavailable(
            f"{key[0]} cannot wake: {trouble['message']}",
            code="WAKE_FAILED",
            next_action=f"`skyriver explain {key[0]}` tells more; it is tried again by itself.",
        )

    def _sockets(self, key: Key) -> list[str]:
        """Where replicas of the version listen, or will."""
        versions: Mapping[str, Mapping[str, Any]] = (self._services.get(key[0]) or {}).get("versions", {})
        if key[1]:
            return list(versions.get(key[1], {}).get("sockets", ()))
        # A version without weight is not asked unless it is named.
        weighty = [told for told in versions.values() if told["weight"]]
        return list(max(weighty, key=lambda told: int(told["weight"]))["sockets"]) if weighty else []

    # What is held goes on.

    async def _carry(self, key: Key, queue: Queue) -> None:
        """Until nothing is held for the service."""
        try:
            while queue.held:
                self._look()
                if (problem := self._problem(key)) is not None:
                    while queue.held:
                        self._refuse(key[0], queue.take(), problem, _LATER)
                    break
                line = await self._reach(key)
                if line is None:
                    await asyncio.sleep(LOOK_S)
                    continue
                queue.path = line.path
                self._begin(self._work(queue, line), queue.lines)
                while len(queue.lines) < min(self.settings.lines, len(queue.held)):
                    self._add_line(queue)
                joined = {line.path}
                while queue.lines:
                    await asyncio.wait(queue.lines, timeout=JOIN_S)
                    await self._join(key, queue, joined)
                queue.path = ""
        finally:
            self._queues.pop(key, None)
            self.changed.set()

    async def _join(self, key: Key, queue: Queue, joined: set[str]) -> None:
        """Replicas that listen by now take of what is still held as well: it may wake with several."""
        if not queue.held:
            return
        self._look()
        for path in self._sockets(key):
            if path not in joined:
                with contextlib.suppress(OSError):
                    line = await Line.to(path)
                    joined.add(path)
                    self._begin(self._work(queue, line), queue.lines)
                    for _ in range(min(self.settings.lines, len(queue.held)) - 1):
                        self._begin(self._work(queue, None, path), queue.lines)

    async def _reach(self, key: Key) -> Line | None:
        for path in self._sockets(key):
            with contextlib.suppress(OSError):
                return await Line.to(path)
        return None

    def _add_line(self, queue: Queue) -> None:
        if len(queue.lines) < self.settings.lines:
            self._begin(self._work(queue, None), queue.lines)

    async def _work(self, queue: Queue, line: Line | None, path: str = "") -> None:
        """One connection: a request after the other, until none is held or the replica is gone."""
        try:
            line = line or await Line.to(path or queue.path)
            while queue.held and line.open:
                request = queue.take()
                held_us = (time.perf_counter_ns() - request.arrived_ns) // 1000
                self.hold_us.add(held_us)
                if (counted := self._count(queue.name)) is not None:
                    counted.hold_us.add(held_us)
                await self._send(line, request)
        except OSError:
            return  # nobody listens any more; what is held stays held
        finally:
            if line is not None:
                line.close()

    async def _send(self, line: Line, request: Request) -> None:
        request.when_gone = line.close
        try:
            answer = await line.exchange(request)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            line.close()
            if request.gone:
                self.left += 1
                return
            self.failed += 1
            problem = Internal(
                f"The replica that had the request did not answer: {type(error).__name__}.",
                code="UPSTREAM_FAILED",
                next_action="Send it again.",
            )
            _answer(request, problem, (), status=502)
        else:
            self.forwarded += 1
            request.answer(answer.status, answer.body, answer.content_type, answer.headers)

    def _begin(self, work: Any, tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(lambda done: _ended(done, tasks))


def _ended(task: asyncio.Task[None], tasks: set[asyncio.Task[None]]) -> None:
    tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("what is held could not be passed on", exc_info=error)


def target_of(path: bytes) -> Key | None:
    """The model, and the version where one is named, that a path is for."""
    match path.decode("latin-1").split("/")[1:]:
        case ["v2", "models", name, "versions", version, *_] if name and version:
            return name, version
        case ["v2", "models", name, *_] | ["predict", name] if name:
            return name, ""
        case _:
            return None


def seconds_left(headers: Mapping[bytes, bytes], now: float, otherwise: float) -> float:
    """Until the deadline that the request names: a Unix time. One that is none is the replica's to refuse."""
    try:
        left = float(headers[b"x-request-deadline"]) - now
    except (KeyError, ValueError):
        return otherwise
    return left - MARGIN_S if math.isfinite(left) else otherwise


def _answer(
    request: Request, error: SkyriverError, headers: tuple[tuple[bytes, bytes], ...], *, status: int = 0
) -> None:
    """In the words of the protocol under `/v2`, as a problem elsewhere."""
    problem = error.to_problem() | {"status": status or error.http_status}
    if request.path.startswith(b"/v2"):
        told = {"error": f"{error.message} {error.next_action}".strip(), "code": error.code}
        request.answer(int(problem["status"]), msgspec.json.encode(told), JSON, headers)
    else:
        request.answer(int(problem["status"]), msgspec.json.encode(problem), PROBLEM, headers)


async def serve_activator(
    activator: Activator,
    listening: socket.socket,
    *,
    stop: asyncio.Event,
    report: Callable[[dict[str, object]], None],
    report_s: float = 1.0,
) -> int:
    """Answers on `listening` until `stop` is set; returns how many connections were cut off. `report` is given what to
    tell: at once when other services are waited for than before, else every `report_s` at most."""
    await activator.start(listening)
    told: dict[str, object] = {}
    ending = asyncio.ensure_future(stop.wait())
    while not stop.is_set():
        activator.changed.clear()
        now = {"ready": True, **activator.report()}
        if now != told:
            with contextlib.suppress(OSError):  # a full disk: tried again
                report(now)
                told = now
        changed = asyncio.ensure_future(activator.changed.wait())
        await asyncio.wait({changed, ending}, timeout=report_s, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
    leaving = asyncio.ensure_future(activator.stop())
    while not leaving.done():  # what it still holds is woken for all the same
        with contextlib.suppress(OSError):
            report({"ready": False, **activator.report()})
        await asyncio.wait({leaving}, timeout=report_s)
    return leaving.result()
