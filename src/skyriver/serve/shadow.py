"""Copies of requests to another version, of which nobody is sent the answers: how a replica tries a shadow.

A copy is taken once the request is answered, and sent in a later turn of the loop, over a few connections with one
request each. What does not fit into a short queue is dropped and counted: a shadow that is slow, stuck or gone costs
its copies and no answer. Both answers are compared here, request by request; only counts go into the replica's report.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
import msgspec

from skyriver.core.errors import InvalidInput
from skyriver.release.canary import SHARES, SLOW, quantiles, slow_from
from skyriver.release.guards import SLOWER
from skyriver.serve.http import Request
from skyriver.serve.marks import COPIED
from skyriver.serve.metrics import Histogram
from skyriver.serve.protocol import BINARY_HEADER
from skyriver.serve.scores import Scores, score_bucket

TOOK_HEADER: Final = b"x-took-us"
"""Of the answer to a copy: how long it took, from its last byte on, as the shadow's own replica counts it."""
QUEUE: Final = 64
QUEUE_BYTES: Final = 4 << 20
LINES: Final = 4
ANSWER_S: Final = 10.0
"""A copy that is not answered within this time has failed."""
IDLE_S: Final = 1.0
"""A connection that had nothing to do for so long may be closed for that; a copy that was on its way then is nobody's
failure."""
_SENT: Final = (b"content-type", b"accept", b"x-request-id", BINARY_HEADER)
_FULL: Final = (503, 504)
"""Nobody's answer: neither is copied, nor compared."""
_UNASKED: Final = (404, 405, 413, 501)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    version: int
    share: int
    """Percent of the requests."""
    sockets: tuple[str, ...]
    """Of the shadow's replicas."""
    slower: float = SLOWER
    """An answer is slow that takes so many times as long as most of the champion's."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ShadowSettings:
        """Raises InvalidInput (BAD_CONFIG)."""
        try:
            return cls(
                int(told["version"]), int(told["share"]), tuple(map(str, told["sockets"])), float(told["slower"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"Which version gets copies is told wrong: {error!r}.",
                code="BAD_CONFIG",
                next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
            ) from error


@dataclass(frozen=True, slots=True)
class Answered:
    """`body` of an answer with status 200 in JSON, else empty."""

    status: int
    took_us: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Copy:
    head: bytes
    body: bytes
    champion: Answered


class Compared:
    """What is counted of the pairs: by guard and bound [all, bad of the shadow alone, bad of the champion alone].

    `known`: latencies and scores of the champion, by which it is found, once, what is slow (`slower` says by how much)
    and what is beyond its scores. `score`: the output by which versions are compared, as it is answered, and as the
    model calls it."""

    def __init__(
        self, score: tuple[str, str] | None, known: Callable[[], tuple[Histogram, Scores]], slower: float = SLOWER
    ) -> None:
        self._slower = slower
        self._score = score
        self._known = known
        self._slow_from: int | None = None
        self._bounds: list[int] = []
        self.pairs: dict[str, list[list[int]]] = {"errors": [[0, 0, 0]], "refusals": [[0, 0, 0]]}
        self.sides = [{"answered": 0, "failed": 0, "refused": 0} for _ in range(2)]
        self.latency = (Histogram(), Histogram())
        self.differences = Histogram()
        """Of the scores, in millionths."""

    def note(self, champion: Answered, shadow: Answered) -> None:
        both = (champion, shadow)
        refused = [400 <= answer.status < 500 for answer in both]
        failed = [answer.status >= 500 for answer in both]
        for side, is_refused, has_failed in zip(self.sides, refused, failed, strict=True):
            side["refused"] += is_refused
            side["answered"] += not is_refused
            side["failed"] += has_failed
        self._count("errors", [failed])
        self._count("refusals", [refused])
        if champion.status == shadow.status == 200:
            for histogram, answer in zip(self.latency, both, strict=True):
                histogram.add(answer.took_us)
            if self._slow_from is not None:
                self._count("latency", [[answer.took_us >= self._slow_from for answer in both]])
            self._note_scores(champion, shadow)

    def _note_scores(self, champion: Answered, shadow: Answered) -> None:
        """Of the first row: those of one request are no evidence each."""
        before, after = first_score(champion.body, self._score), first_score(shadow.body, self._score)
        if before is None or after is None:
            return
        self.differences.add(round(min(abs(after - before), 1e3) * 1e6))
        if self._bounds:
            buckets = (score_bucket(before), score_bucket(after))
            below = [[bucket < bound for bucket in buckets] for bound in self._bounds]
            above = [[bucket > bound for bucket in buckets] for bound in self._bounds]
            self._count("scores", [*below, *above])

    def _count(self, guard: str, bad: Sequence[Sequence[bool]]) -> None:
        for counts, (champion, shadow) in zip(self.pairs[guard], bad, strict=True):
            counts[0] += 1
            counts[1] += shadow and not champion
            counts[2] += champion and not shadow

    def find_bounds(self) -> None:
        """Where they are not known and can be told by now."""
        latency, scores = self._known()
        if self._slow_from is None and (usual := quantiles([latency.told()], (SLOW,))):
            self._slow_from = slow_from(usual[0], self._slower)
            self.pairs["latency"] = [[0, 0, 0]]
        if not self._bounds and (bounds := quantiles([scores.told()], SHARES)):
            self._bounds = bounds
            self.pairs["scores"] = [[0, 0, 0] for _ in range(2 * len(bounds))]


def first_score(body: bytes, score: tuple[str, str] | None) -> float | None:
    """The score of the first row that an answer holds, in named fields or as the Open Inference Protocol has it."""
    if score is None or not body:
        return None
    try:
        found: Any = msgspec.json.decode(body)
        if "outputs" in found:
            data = next(output["data"] for output in found["outputs"] if output["name"] == score[1])
            return float(data[0])
        value = (found["predictions"][0] if "predictions" in found else found)[score[0]]
        return float(value[0] if isinstance(value, list) else value)
    except (ValueError, KeyError, IndexError, TypeError, StopIteration):
        return None


class Shadow:
    """Sends copies to one version. On one event loop."""

    def __init__(
        self,
        settings: ShadowSettings,
        compared: Compared,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.compared = compared
        self._loop = asyncio.get_running_loop()
        self._chance = chance
        self._since = time.time_ns() // 1_000
        self._copies = {"sent": 0, "dropped": 0, "unanswered": 0}
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0
        self._pumping = False
        self._lines: list[_Line] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.settings = settings

    def offer(self, request: Request, status: int, body: bytes, took_us: int) -> None:
        """A request that is answered: a copy of it, perhaps."""
        if self._chance() * 100 >= self.settings.share or not _is_copied(request, status):
            return
        size = len(request.body) + len(body)
        if not self.settings.sockets or len(self._waiting) >= QUEUE or self._bytes + size > QUEUE_BYTES:
            self._copies["dropped"] += 1
            return
        self._bytes += size
        self._waiting.append(_Copy(_head(request), request.body, Answered(status, took_us, body)))
        self._wake()

    def follow(self, settings: ShadowSettings) -> None:
        """Other sockets or another share of the same version."""
        self.settings = settings
        for line in self._lines:
            if line.path not in settings.sockets:
                line.close()

    def keep_up(self) -> None:
        """Now and then: opens what is not open, gives up what is not answered."""
        self.compared.find_bounds()
        now = time.monotonic()
        self._lines = [line for line in self._lines if not line.closed]
        for line in list(self._lines):
            line.look(now)
        for number in range(LINES if self.settings.sockets else 0):
            path = self.settings.sockets[number % len(self.settings.sockets)]
            wanted = -(-LINES // len(self.settings.sockets))
            if len(self._lines) < LINES and sum(line.path == path for line in self._lines) < wanted:
                line = _Line(path, self)
                self._lines.append(line)
                self._run(line.open())

    def report(self) -> dict[str, Any]:
        champion, candidate = self.compared.sides
        latency = dict(zip(("champion", "candidate"), (h.told() for h in self.compared.latency), strict=True))
        return {
            "version": self.settings.version,
            "since": self._since,
            "copies": dict(self._copies),
            "champion": dict(champion),
            "candidate": dict(candidate),
            "pairs": {guard: [list(counts) for counts in bounds] for guard, bounds in self.compared.pairs.items()},
            "differences": self.compared.differences.told(),
            "latency_us": latency,
        }

    def close(self) -> None:
        self._waiting.clear()
        for line in self._lines:
            line.close()
        for task in self._tasks:
            task.cancel()

    # The lines' side.

    def answered(self, copy: _Copy, answer: Answered | None) -> None:
        """None: it was lost on the way, which is no answer of the version."""
        if answer is None or answer.status in _FULL:
            self._copies["unanswered"] += 1
        else:
            self.compared.note(copy.champion, answer)
        self._wake()

    def hung_up(self, copy: _Copy, path: str) -> None:
        """Its connection was closed in place of an answer: that is a failure, unless the process has ended, which is
        judged by itself."""
        self._run(self._look_whether_it_lives(copy, path))

    async def _look_whether_it_lives(self, copy: _Copy, path: str) -> None:
        try:
            transport, _ = await self._loop.create_unix_connection(asyncio.Protocol, path)
        except OSError:
            self.answered(copy, None)
            return
        transport.close()
        self.answered(copy, Answered(500, 0, b""))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for line in self._lines:
            if not self._waiting:
                return
            if line.idle:
                copy = self._waiting.popleft()
                self._bytes -= len(copy.body) + len(copy.champion.body)
                self._copies["sent"] += 1
                line.send(copy)


class _Line(asyncio.Protocol):
    """One connection to a replica of the shadow, with one copy under way at most."""

    def __init__(self, path: str, shadow: Shadow) -> None:
        self.path = path
        self.closed = False
        self._shadow = shadow
        self._transport: asyncio.WriteTransport | None = None
        self._copy: _Copy | None = None
        self._since = self._rested = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._took_us = 0
        self._parts: list[bytes] = []
        self._is_json = False

    @property
    def idle(self) -> bool:
        return self._transport is not None and self._copy is None and not self.closed

    async def open(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, self.path)
        except OSError:
            self.closed = True  # tried again at the next `keep_up`

    def send(self, copy: _Copy) -> None:
        assert self._transport is not None
        now = time.monotonic()
        self._copy, self._since, self._rested = copy, now, now - self._since
        self._transport.writelines((copy.head, copy.body))

    def look(self, now: float) -> None:
        if self._copy is not None and now - self._since > ANSWER_S:
            self._done(Answered(500, round(ANSWER_S * 1e6), b""))
            self.close()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def _done(self, answer: Answered | None) -> None:
        copy, self._copy, self._since = self._copy, None, time.monotonic()
        if copy is not None:
            self._shadow.answered(copy, answer)

    # The transport's side, and the parser's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._since = cast(asyncio.WriteTransport, transport), time.monotonic()
        if self.closed:
            self._transport.close()
        self._shadow._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        theirs = not self.closed and self._copy is not None and self._rested < IDLE_S
        self.closed, self._transport = True, None
        if theirs and (copy := self._copy) is not None:
            self._copy = None
            self._shadow.hung_up(copy, self.path)
        else:
            self._done(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            _log.warning("what a shadow answered is no HTTP: %s", error)
            self._done(Answered(500, 0, b""))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == TOOK_HEADER:
            self._took_us = int(value)
        elif name == b"content-type":
            self._is_json = value.startswith(b"application/json")

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        body = b"".join(self._parts) if status == 200 and self._is_json else b""
        answer = Answered(status, self._took_us, body)
        if not self._parser.should_keep_alive():
            self.close()
        self._reset()
        self._done(answer)


class Copied(Request):
    """A copy, as the replica of a shadow sees it: without the mark of its path, answered with how long it took."""

    __slots__ = ("_of",)

    def __init__(self, request: Request) -> None:
        super().__init__(
            request._connection,
            request.method,
            request.path.removeprefix(COPIED),
            request.query,
            request.headers,
            request.body,
            request.keep_alive,
            request.arrived_ns,
        )
        self._of = request
        request.when_gone = self.left

    def answer(
        self, status: int, body: bytes = b"", content_type: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        if self.status:
            return
        self.status, self.when_gone = status, None
        took_us = (time.perf_counter_ns() - self.arrived_ns) // 1_000
        told = (*headers, (TOOK_HEADER, b"%d" % took_us))
        self._of.answer(status, body, content_type or b"application/json", told)


def _is_copied(request: Request, status: int) -> bool:
    """What was asked of one version by its number, and what no version was asked for, is not."""
    return (
        status not in (*_FULL, *_UNASKED)
        and b"/versions/" not in request.path
        and not (
            status != 200 and b"content-encoding" in request.headers  # packed yet, perhaps
        )
    )


def _head(request: Request) -> bytes:
    """Without its deadline, which is over, and its encoding, which was taken off."""
    headers = request.headers
    lines = [b"POST %b%b HTTP/1.1" % (COPIED, request.path)]
    lines += [b"%b: %b" % (name, headers[name]) for name in _SENT if name in headers]
    lines.append(b"content-length: %d\r\n\r\n" % len(request.body))
    return b"\r\n".join(lines)
