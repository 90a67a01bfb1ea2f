"""Features by key from a stream's worker, over one connection that is kept.

One body is under way at a time, with what waited when it was sent (at most MOST_ROWS rows): as in the batcher nothing
waits for company, and a worker is asked for no more by a replica than one turn of it reads. Who asks is answered within
`timeout_s` whatever the worker does, and never after its own deadline. A body that is under way for longer ends the
connection, for its answer would be taken for the next one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools
import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import DeadlineExceeded, SkyriverError, Unavailable, from_problem
from skyriver.serve.batching import NO_DEADLINE
from skyriver.serve.read_format import MOST_BYTES, MOST_ROWS, READ_PATH, ReadAnswer

TIMEOUT_S = 0.25
"""A turn of a worker with all that it may take, and the sync of its disk, are a tenth of it."""
QUEUE_ROWS = 1024
AWAY = "STATE_AWAY"
_HEAD = b"POST %b HTTP/1.1\r\nhost: worker\r\ncontent-type: application/json\r\ncontent-length: %%d\r\n\r\n" % READ_PATH

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where which features are read. `socket` "": the worker has not been started yet."""

    stream: str
    socket: str
    features: str
    """Their digest."""


@dataclass(frozen=True, slots=True)
class FeaturesFound:
    """As of the record at `offset`, up to which the last event was `age_us` ago (None: there was none). features:
    float32 [rows, F]; unknown: for each row the first key field whose value has no event in any window, or ""."""

    offset: int
    age_us: int | None
    features: NDArray[np.float32]
    unknown: tuple[str, ...]


Answer = Callable[[FeaturesFound | SkyriverError], None]


@dataclass(slots=True, eq=False)
class _Asked:
    rows: tuple[bytes, ...]
    answer: Answer | None
    """None: it was given up."""
    until_ns: int
    late: bool
    """It is its own deadline that is over then."""
    size: int = field(init=False)
    alone: bool = False
    """What the worker refuses of a body is to be told to whom it is the fault of."""
    again: bool = False
    """It was sent on a connection that ended."""

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.rows)) + len(self.rows)


class FeatureReader:
    """Lives on one event loop."""

    def __init__(
        self, place: Place, loop: asyncio.AbstractEventLoop, *, timeout_s: float = TIMEOUT_S, limit: int = QUEUE_ROWS
    ) -> None:
        self._place = place
        self._loop = loop
        self._timeout_ns = int(timeout_s * 1e9)
        self._limit = limit
        self._start = b'{"features":"%b","rows":[' % place.features.encode()
        self._room = MOST_BYTES - len(self._start) - 2
        self._waiting: deque[_Asked] = deque()
        self._rows = 0
        """That wait."""
        self._under_way: list[_Asked] = []
        self._under_way_until = NO_DEADLINE
        self._line: _Line | None = None
        self._opening: asyncio.Task[None] | None = None
        self._due = False
        """A turn will be made in this one of the loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = NO_DEADLINE

    def ask(self, rows: Sequence[bytes], until_ns: int, answer: Answer) -> None:
        """`rows`: of JSON, at most MOST_ROWS. `answer` is called once, on the loop, at the latest at `until_ns` (of
        `time.perf_counter_ns`), with an error where it cannot be told: Unavailable (STATE_AWAY, FEATURES_NOT_BUILT,
        OVERLOADED), DeadlineExceeded, or what the worker refuses of the rows."""
        now = time.perf_counter_ns()
        until = min(until_ns, now + self._timeout_ns)
        asked = _Asked(tuple(rows), answer, until, late=until == until_ns)
        if until <= now:
            answer(_too_late())
            return
        if self._waiting and self._rows + len(rows) > self._limit:
            answer(_full(self._rows))
            return
        self._waiting.append(asked)
        self._rows += len(rows)
        if until < self._timer_ns:
            self._wake_at(until)
        self._soon()

    def close(self) -> None:
        """Who waits still is answered that the state is away."""
        if self._opening is not None:
            self._opening.cancel()
        self._drop_line()
        if self._timer is not None:
            self._timer.cancel()
        self._fail_all("It is not read from any more.")

    # Sending.

    def _soon(self) -> None:
        if not self._due and not self._under_way:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if self._under_way or not self._waiting:
            return
        if self._line is None:
            if self._opening is None:
                self._opening = self._loop.create_task(self._open())
            return
        batch = self._take()
        if batch:
            self._under_way = batch
            self._under_way_until = time.perf_counter_ns() + self._timeout_ns
            self._line.send(b"%b%b]}" % (self._start, b",".join([row for asked in batch for row in asked.rows])))

    def _take(self) -> list[_Asked]:
        batch: list[_Asked] = []
        rows = size = 0
        while self._waiting:
            asked = self._waiting[0]
            alone = asked.alone or asked.size > self._room
            full = rows + len(asked.rows) > MOST_ROWS or size + asked.size > self._room
            if batch and (alone or full):
                break
            self._waiting.popleft()
            self._rows -= len(asked.rows)
            if asked.answer is not None:
                batch.append(asked)
                rows, size = rows + len(asked.rows), size + asked.size
                if alone:
                    break
        return batch

    async def _open(self) -> None:
        """Connects; where that does not work, all who wait are told."""
        try:
            if not self._place.socket:
                raise FileNotFoundError("it was not started yet")
            async with asyncio.timeout(self._timeout_ns / 1e9):
                _, line = await self._loop.create_unix_connection(lambda: _Line(self), self._place.socket)
        except (OSError, TimeoutError) as error:
            self._opening = None
            self._fail_all(f"Its worker is away: {error or 'it takes no connection'}.")
            return
        self._opening = None
        if not line.open:
            self._fail_all("Its worker ended the connection.")
            return
        self._line = line
        self._turn()

    # What comes back.

    def answered(self, line: _Line, status: int, body: bytes) -> None:
        batch, self._under_way = self._under_way, []
        if not line.stays:
            self._drop_line()
        if status == 200:
            self._give(batch, body)
        else:
            self._refuse(batch, status, body)
        if self._waiting:
            self._soon()

    def lost(self, line: _Line) -> None:
        """The connection ended. A worker closes those that were idle, perhaps just when the next body was on its way:
        that is sent once more, for it changes nothing."""
        if line is not self._line:
            return
        self._line = None
        batch, self._under_way = self._under_way, []
        again = [asked for asked in batch if line.used and not asked.again]
        for asked in reversed(again):
            asked.again = True
            self._waiting.appendleft(asked)
            self._rows += len(asked.rows)
        self._fail([asked for asked in batch if asked not in again], self._away("Its worker ended the connection."))
        if self._waiting:
            self._soon()

    def _give(self, batch: list[_Asked], body: bytes) -> None:
        rows = sum(len(asked.rows) for asked in batch)
        try:
            found = _decoder.decode(body)
            features = np.frombuffer(found.features, "<f4").reshape(rows, -1)
            unknown = _unknown(found, rows)
        except (msgspec.DecodeError, ValueError):
            _log.exception("%s: its worker's answer is not understood", self._place.stream)
            self._fail(batch, self._away("Its worker's answer is not understood."))
            return
        age = found.age_us if found.age_us < _NO_EVENT else None
        start = 0
        for asked in batch:
            end = start + len(asked.rows)
            _tell(asked, FeaturesFound(found.offset, age, features[start:end], unknown[start:end]))
            start = end

    def _refuse(self, batch: list[_Asked], status: int, body: bytes) -> None:
        try:
            error = from_problem(status, msgspec.json.decode(body))
        except (msgspec.DecodeError, AttributeError):
            error = from_problem(status, {})
        if status in (400, 413, 422) and len(batch) > 1:
            for asked in reversed(batch):
                asked.alone = True
                self._waiting.appendleft(asked)
                self._rows += len(asked.rows)
            return
        if status not in (400, 413, 422):
            code = error.code if error.code in ("FEATURES_NOT_BUILT", "READS_FULL") else AWAY
            error = self._away(error.message, "OVERLOADED" if code == "READS_FULL" else code)
        self._fail(batch, error)

    # Time, and what fails.

    def _wake_at(self, when_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = when_ns
        self._timer = self._loop.call_later(max(0, when_ns - time.perf_counter_ns()) / 1e9, self._expire)

    def _expire(self) -> None:
        """Answers those whose time is over. They keep their place in a body that is under way."""
        self._timer, self._timer_ns = None, NO_DEADLINE
        now = time.perf_counter_ns()
        slow = self._away(f"Its worker did not answer within {self._timeout_ns / 1e6:.0f} ms.")
        for asked in (*self._under_way, *self._waiting):
            if asked.answer is not None and asked.until_ns <= now:
                _tell(asked, _too_late() if asked.late else slow)
        if self._under_way and self._under_way_until <= now:
            self._under_way = []
            self._drop_line()
            self._soon()
        left = [asked.until_ns for asked in (*self._under_way, *self._waiting) if asked.answer is not None]
        if self._under_way:
            left.append(self._under_way_until)
        if left:
            self._wake_at(min(left))

    def _away(self, why: str, code: str = AWAY) -> Unavailable:
        return Unavailable(
            f"The features cannot be read from {self._place.stream} now. {why}",
            code=code,
            next_action=f"Try again in a second; `skyriver explain stream/{self._place.stream}` shows its state.",
        )

    def _fail_all(self, why: str) -> None:
        batch = [*self._under_way, *self._waiting]
        self._under_way, self._rows = [], 0
        self._waiting.clear()
        self._fail(batch, self._away(why))

    def _fail(self, batch: Sequence[_Asked], error: SkyriverError) -> None:
        for asked in batch:
            _tell(asked, error)

    def _drop_line(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


_NO_EVENT = 1 << 60
"""An age beyond it is of a stream without events."""
_decoder = msgspec.msgpack.Decoder(ReadAnswer)


def _unknown(found: ReadAnswer, rows: int) -> tuple[str, ...]:
    """Of each row the first key that has no event. Raises ValueError where that is not told of so many rows."""
    if any(len(known) != rows for known in found.known) or len(found.known) != len(found.keys):
        raise ValueError(f"not of {rows} rows")
    if all(b"\0" not in known for known in found.known):
        return ("",) * rows
    told = [*zip(found.keys, found.known, strict=True)]
    return tuple(next((key for key, known in told if not known[row]), "") for row in range(rows))


def _tell(asked: _Asked, found: FeaturesFound | SkyriverError) -> None:
    """Nothing that goes wrong with one answer may keep the others from theirs."""
    answer, asked.answer = asked.answer, None
    if answer is None:
        return
    try:
        answer(found)
    except Exception:
        _log.exception("an answer could not be given")


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The deadline was over before the features could be read.", next_action="Give more time.")


def _full(rows: int) -> Unavailable:
    return Unavailable(
        f"The features of {rows} rows are waited for already.",
        code="OVERLOADED",
        next_action="Try again in a second, or give the service more replicas.",
    )


class _Line(asyncio.Protocol):
    """One connection: whole answers to `FeatureReader.answered`, its end to `lost`."""

    __slots__ = ("_body", "_parser", "_reader", "_transport", "stays", "used")

    def __init__(self, reader: FeatureReader) -> None:
        self._reader: FeatureReader | None = reader
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = b""
        self.used = False
        """It had an answer, so it was one that works."""
        self.stays = True

    @property
    def open(self) -> bool:
        return self._transport is not None

    def send(self, body: bytes) -> None:
        assert self._transport is not None
        self._transport.writelines((_HEAD % len(body), body))

    def close(self) -> None:
        self._reader = None
        if self._transport is not None:
            self._transport.abort()

    # The transport's and the parser's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        reader, self._reader = self._reader, None
        self._parser = None  # it holds us, we hold it
        self._transport = None
        if reader is not None:
            reader.lost(self)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._reader is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            with contextlib.suppress(AttributeError):
                self._transport.abort()  # type: ignore[union-attr]  # `connection_lost` tells of it

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        assert self._parser is not None
        body, self._body = self._body, b""
        self.used = True
        self.stays = self._parser.should_keep_alive()
        if self._reader is not None:
            self._reader.answered(self, self._parser.get_status_code(), body)
