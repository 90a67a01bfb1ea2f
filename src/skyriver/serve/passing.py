"""Requests of keys that another version has a share of: a replica of the champion passes them on, and brings back what
was answered; both versions count what became of requests by the place of their key (see `skyriver.release.clusters`).

The gateway sends all requests of such a model to the champion: it cannot compute a place as streams do, and a key may
stand in a body. A request that has no key is the champion's. Where the other version does not answer at all, the
champion does, and it counts as a failure of the other one: nobody is refused because a version dies in its first hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from skyriver.core.errors import InvalidInput
from skyriver.core.names import BY_ENTITY
from skyriver.data.keys import key_of
from skyriver.release.places import PLACES, place_between
from skyriver.serve.forwarding import Answer, Line
from skyriver.serve.http import JSON, Request
from skyriver.serve.marks import PLACED
from skyriver.serve.runner import RUN_LIMIT_S
from skyriver.serve.scores import COARSE, score_bucket
from skyriver.serve.shadow import Copied, first_score

IDLE_LINES: Final = 64
"""Kept open to each replica."""
ANSWER_S: Final = 5.0
"""Its callers wait so long for a version that says nothing, where the model declares no latency: one that hangs is to
cost them little."""
LEAST_S: Final = 1.0
MOST_S: Final = RUN_LIMIT_S + 10
_LATE: Final = 4
"""Times the declared latency."""
_NUMBER: Final = 1 << 63
_decoder = msgspec.json.Decoder()
_log = logging.getLogger(__name__)

Score = tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class SharingSettings:
    champion: int
    version: int
    """Which has the share."""
    percent: int
    key: str
    """The name of a header, or BY_ENTITY."""
    field: str
    """What requests by entity call the key."""
    number: bool
    """Whether keys are whole numbers."""
    at: int
    """When it begins to have this share (wall microseconds): in one moment at all replicas."""
    sockets: tuple[str, ...]
    """Where its requests go; none: this replica passes nothing on."""
    latency_us: int = 0
    """Of the model, as declared; 0: none is."""

    @property
    def answer_s(self) -> float:
        """After so long it has failed, and the champion answers."""
        return min(max(_LATE * self.latency_us / 1e6, LEAST_S), MOST_S) if self.latency_us else ANSWER_S

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> SharingSettings:
        """Raises InvalidInput (BAD_CONFIG)."""
        try:
            return cls(
                int(told["champion"]),
                int(told["version"]),
                int(told["percent"]),
                str(told["key"]),
                str(told["field"]),
                bool(told["number"]),
                int(told["at"]),
                tuple(map(str, told["sockets"])),
                int(told.get("latency_us", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"Which keys another version has is told wrong: {error!r}.",
                code="BAD_CONFIG",
                next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
            ) from error


class PlaceCounts:
    """Of each place what was answered, failed and refused, how long answers took and their scores, in coarse buckets:
    there are a hundred of each."""

    def __init__(self) -> None:
        self._counts = [[0, 0, 0] for _ in range(PLACES)]
        self._latency: list[dict[int, int]] = [{} for _ in range(PLACES)]
        self._scores: list[dict[int, int]] = [{} for _ in range(PLACES)]

    def add(self, place: int, status: int, took_us: int, score: float | None) -> None:
        """As `skyriver.serve.metrics.Counters` tells errors and refusals apart."""
        counts = self._counts[place]
        refused = 400 <= status < 500 or status == 501
        counts[0] += not refused
        counts[1] += status >= 500 and not refused
        counts[2] += refused
        bits = max(0, took_us.bit_length() - 3)
        _count(self._latency[place], took_us >> bits << bits)
        if score is not None and math.isfinite(score):
            _count(self._scores[place], score_bucket(score) // COARSE)

    def told(self) -> list[list[Any]]:
        """[answered, failed, refused, [[bucket, how many] of latencies, in microseconds], the same of scores]."""
        return [
            [*counts, sorted(latency.items()), sorted(scores.items())]
            for counts, latency, scores in zip(self._counts, self._latency, self._scores, strict=True)
        ]


def _count(histogram: dict[int, int], bucket: int) -> None:
    histogram[bucket] = histogram.get(bucket, 0) + 1


class Placed(Request):
    """A request that is answered here, and counted at the place of its key; `counts` None: it is not."""

    __slots__ = ("_counts", "_of", "_place", "_score")

    def __init__(
        self, request: Request, place: int, counts: PlaceCounts | None, score: Score = None, path: bytes = b""
    ) -> None:
        super().__init__(
            request._connection,
            request.method,
            path or request.path,
            request.query,
            request.headers,
            request.body,
            request.keep_alive,
            request.arrived_ns,
        )
        self._of, self._place, self._counts, self._score = request, place, counts, score
        request.when_gone = self.left

    def answer(
        self, status: int, body: bytes = b"", content_type: bytes = JSON, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        if self.status:
            return
        self.status, self.when_gone = status, None
        took_us = (time.perf_counter_ns() - self.arrived_ns) // 1_000
        self._of.body = self.body  # what was unpacked counts until the answer
        self._of.answer(status, body, content_type, headers)
        if self._counts is not None:
            is_json = status == 200 and content_type == JSON
            self._counts.add(self._place, status, took_us, first_score(body, self._score) if is_json else None)


class Sharing:
    """On the loop that answers. `here`: handles a request that the other version did not answer."""

    def __init__(self, settings: SharingSettings, score: Score, here: Callable[[Request], None]) -> None:
        self.settings = replace(settings, percent=0)
        self.score = score
        self.counts = PlaceCounts()
        self._lost = [0] * PLACES
        self._here = here
        self._idle: dict[str, list[Line]] = {}
        self._under_way: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._begins: asyncio.TimerHandle | None = None
        self.follow(settings)

    def follow(self, settings: SharingSettings) -> None:
        """Another share begins when it is told to."""
        if self._begins is not None:
            self._begins.cancel()
        before, wait_s = self.settings, settings.at / 1e6 - time.time()
        if (before.version, before.percent) == (settings.version, settings.percent):
            self.settings = settings
        elif before.version == settings.version and wait_s > 0:
            self.settings = replace(before, sockets=settings.sockets)
            self._begins = asyncio.get_running_loop().call_later(wait_s, self._begin, settings)
        else:
            self._begin(settings)
        for path in self._idle.keys() - set(settings.sockets):
            for line in self._idle.pop(path):
                line.close()

    def _begin(self, settings: SharingSettings) -> None:
        """Each share has counts of its own."""
        self.settings, self.counts, self._lost = settings, PlaceCounts(), [0] * PLACES

    def take(self, request: Request) -> Request | None:
        """The request as it is handled here; None: it was passed on."""
        if isinstance(request, (Placed, Copied)) or request.method != b"POST" or b"/versions/" in request.path:
            return request
        if (key := self._key(request)) is None:
            return request
        place = place_between(key, self.settings.champion, self.settings.version)
        if place >= self.settings.percent:
            return Placed(request, place, self.counts, self.score)
        if not self.settings.sockets:
            return Placed(request, place, None)
        path = min(self.settings.sockets, key=lambda path: self._under_way.get(path, 0))
        task = asyncio.get_running_loop().create_task(self._pass_on(request, place, path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    def report(self) -> dict[str, Any]:
        told = {"version": self.settings.version, "percent": self.settings.percent, "places": self.counts.told()}
        return told | ({"lost": list(self._lost)} if any(self._lost) else {})

    def close(self) -> None:
        """What is under way comes to its end."""
        self.follow(replace(self.settings, percent=0, at=0, sockets=()))

    # The key.

    def _key(self, request: Request) -> int | None:
        settings = self.settings
        if settings.key == BY_ENTITY:
            value = self._of_entity(request)
        else:
            header = request.headers.get(settings.key.encode())
            value = header.strip().decode("utf-8", "replace") if header else None
            if settings.number and value is not None:
                value = _whole(value)
        if value is None or isinstance(value, bool) or not isinstance(value, int | str):
            return None
        return key_of(value) if isinstance(value, str) or -_NUMBER <= value < _NUMBER else None

    def _of_entity(self, request: Request) -> object:
        """Of a request for one row."""
        if b'"entity"' not in request.body or b"content-encoding" in request.headers:
            return None
        try:
            row: Any = _decoder.decode(request.body)
            value: object = row["entity"].get(self.settings.field)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # it is refused where it is read
        return value if isinstance(value, int if self.settings.number else str) else None

    # The way there.

    async def _pass_on(self, request: Request, place: int, path: str) -> None:
        answer = await self._asked(request, place, path)
        if answer is not None:
            request.answer(answer.status, answer.body, answer.content_type, answer.headers)
        else:
            self._lost[place] += 1
            self._here(Placed(request, place, None))

    async def _asked(self, request: Request, place: int, path: str) -> Answer | None:
        """None: it was not answered. A connection that was open may have been closed since: then it is asked anew."""
        self._under_way[path] = self._under_way.get(path, 0) + 1
        asked = _with_place(request, place)
        try:
            if idle := self._idle.get(path):
                with contextlib.suppress(ConnectionError, EOFError):
                    return await self._on(idle.pop(), path, asked)
            return await self._on(await Line.to(path), path, asked)
        except Exception as error:  # whatever it is, its caller waits for an answer
            _log.warning("version %d did not answer: %r", self.settings.version, error)
            return None
        finally:
            self._under_way[path] -= 1

    async def _on(self, line: Line, path: str, asked: Request) -> Answer:
        """Raises as `Line.exchange`; the line is closed then."""
        try:
            async with asyncio.timeout(self.settings.answer_s):
                answer = await line.exchange(asked)
        except BaseException:
            line.close()
            raise
        idle = self._idle.setdefault(path, [])
        if line.open and path in self.settings.sockets and len(idle) < IDLE_LINES:
            idle.append(line)
        else:
            line.close()
        return answer


def placed_of(request: Request, sharing: Sharing | None) -> Placed | None:
    """A request that was passed on to this replica; None: it is none."""
    if not request.path.startswith(PLACED):
        return None
    place, _, path = request.path.removeprefix(PLACED).partition(b"/")
    if not place.isdigit() or int(place) >= PLACES:
        return None
    counts, score = (sharing.counts, sharing.score) if sharing is not None else (None, None)
    return Placed(request, int(place), counts, score, b"/" + path)


def _with_place(request: Request, place: int) -> Request:
    return Request(
        request._connection,
        request.method,
        b"%b%d%b" % (PLACED, place, request.path),
        request.query,
        request.headers,
        request.body,
        request.keep_alive,
        request.arrived_ns,
    )


def _whole(text: str) -> int | None:
    """As a whole number is written, so that one has one key."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19) or str(int(text)) != text:
        return None
    return int(text)
