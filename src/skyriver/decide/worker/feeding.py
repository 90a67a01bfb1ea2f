"""The feed of a stream: takes events from a broker, as HTTP takes them from a request.

One batch is under way at a time: what the broker has delivered is cleaned at the same border as events of HTTP, goes
through the station, and is acknowledged to the broker once it is in the log at the stream's durability. What comes
meanwhile is the next batch. So the broker's order is kept, and a death between log and acknowledgement means only that
a message is delivered again: its events are known by their ids. A message that cannot be read is a dead letter as a
whole, and acknowledged: none comes for ever.

Nobody waits for a feed. While the broker is away the stream goes on over HTTP, the feed connects again and again, and
the report tells why. While the station takes nothing (a full queue, a load, a full disk) the feed holds its batch: the
broker delivers no more than the declared number of messages, and keeps the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from skyriver.core.clock import Clock
from skyriver.core.errors import Internal, SkyriverError
from skyriver.decide.log.records import RAW_LIMIT
from skyriver.decide.partition.receipt import Receipt, Refused, Submission
from skyriver.decide.worker.answers import Form, parse_rows
from skyriver.decide.worker.border import EventBorder
from skyriver.decide.worker.sources import Message, Source
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import EventWork

PAYLOAD_LIMIT = 16 << 20
"""Bytes of a message, as of a request."""
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
STEADY_S = 5.0
"""A connection that held for so long was a good one: the next one is tried at once."""
HELD_S = 0.2
"""Before a batch that the station did not take is given to it again."""
TRIES = 2
"""So often a batch that deciding failed with is tried with nothing beside it."""
LAG_EVERY_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class FeedCounts:
    """Since the process started."""

    messages: int = 0
    """Acknowledged."""
    redelivered: int = 0
    events: int = 0
    """Of which the log knew `duplicates`."""
    duplicates: int = 0
    dead: int = 0
    """Dead letters: events that the border refused, and messages that could not be read."""
    connections: int = 0


class Feed:
    """All on the loop's thread. `name` is what people know the broker by; `border` gives the one of now."""

    def __init__(
        self, source: Source, name: str, station: Station, border: Callable[[], EventBorder], clock: Clock
    ) -> None:
        self._source = source
        self._name = name
        self._station = station
        self._border = border
        self._clock = clock
        self._state = "STARTING"
        self._since = clock.wall()
        self._problem: SkyriverError | None = None
        self.counts = FeedCounts()
        self.lag: int | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        wait = FIRST_WAIT_S
        while True:
            began = loop.time()
            error = await self._serve()
            self._tell("DEGRADED", error)
            wait = FIRST_WAIT_S if loop.time() - began > STEADY_S else wait
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def report(self) -> dict[str, object]:
        """As the worker's report shows it."""
        error = self._problem
        return {
            "name": self._name,
            "state": self._state,
            "reason": error.code if error is not None else "",
            "message": self._message(),
            "next_action": error.next_action if error is not None else "",
            "since": self._since,
            "lag": self.lag,
            **msgspec.to_builtins(self.counts),
        }

    def _message(self) -> str:
        error = self._problem
        if error is None:
            return ""
        return error.message if not error.where or error.where in self._name else f"{error.where}: {error.message}"

    def metrics(self) -> list[tuple[str, str, str, float]]:
        """(name, kind, what it is, value)."""
        counts = self.counts
        found = [
            ("skyriver_source_connected", "gauge", "Whether messages are taken.", float(self._state == "READY")),
            *(
                (f"skyriver_source_{name}_total", "counter", told, float(value))
                for name, told, value in (
                    ("connections", "Connections to the broker.", counts.connections),
                    ("messages", "Messages that were acknowledged to the broker.", counts.messages),
                    ("redelivered", "Of them, those that it had delivered before.", counts.redelivered),
                    ("events", "Events in them.", counts.events),
                    ("duplicates", "Of them, those that the log knew.", counts.duplicates),
                    ("dead_letters", "Events, and messages as a whole, that were refused.", counts.dead),
                )
            ),
        ]
        if self.lag is not None:
            found.append(("skyriver_source_lag_messages", "gauge", "That the broker holds undelivered.", self.lag))
        return found

    async def _serve(self) -> SkyriverError:
        """One connection, from its beginning to what ended it."""
        watching: asyncio.Task[None] | None = None
        try:
            await self._source.connect()
            self.counts.connections += 1
            self._tell("READY", None)
            watching = asyncio.create_task(self._watch_lag())
            while True:
                await self._take(await self._source.receive())
        except SkyriverError as error:
            return error
        except Exception:  # a fault of ours must not keep the broker's messages from being tried again
            _log.exception("the feed failed")
            return Internal("The feed failed.", next_action="The worker's log says why.")
        finally:
            if watching is not None:
                watching.cancel()
            self.lag = None
            await self._close()

    async def _close(self) -> None:
        try:
            await self._source.close()
        except Exception as error:  # there is a reason already why the connection ends
            _log.warning("the connection to %s was not closed: %s", self._name, error)

    async def _take(self, messages: Sequence[Message]) -> None:
        receipt = await self._submit(messages)
        await self._source.acknowledge(messages)
        counts = self.counts
        counts.messages += len(messages)
        counts.redelivered += sum(message.redelivered for message in messages)
        counts.events += receipt.accepted + receipt.duplicates
        counts.duplicates += receipt.duplicates
        counts.dead += len(receipt.rejected)

    async def _submit(self, messages: Sequence[Message]) -> Receipt:
        """What became of them, once it is durable. The batch is held for as long as it takes; if deciding fails with
        it, and not for what stood beside it, the messages are tried in halves, down to the one that it fails with,
        which becomes a dead letter."""
        size = sum(len(message.payload) for message in messages)
        taken = await self._hold(lambda: read_messages(messages, self._border(), self._clock.monotonic()), size)
        if isinstance(taken, Receipt):
            return taken
        if len(messages) > 1:
            half = len(messages) // 2
            receipt = await self._submit(messages[:half])
            receipt.add(await self._submit(messages[half:]))
            return receipt
        why = f"Deciding failed with this message, {TRIES} times: {_cause(taken)}"
        _log.error("a message of %s becomes a dead letter. %s", self._name, why)
        found = await self._hold(lambda: _dead(messages[0], why, self._clock.monotonic()), 0)
        if isinstance(found, SkyriverError):
            raise found
        return found

    async def _hold(self, read: Callable[[], Submission], size: int) -> Receipt | Internal:
        """Until they are taken, or deciding has failed TRIES times with nothing beside them."""
        failures = 0
        while True:
            answer = await self._try(read, size, alone=failures > 0)
            if isinstance(answer, Receipt):
                if self._state != "READY":
                    self._tell("READY", None)
                return answer
            self._tell("DEGRADED", answer)
            if isinstance(answer, Internal):
                failures += 1
                if failures > TRIES:
                    return answer
            await asyncio.sleep(HELD_S)

    async def _try(self, read: Callable[[], Submission], size: int, *, alone: bool) -> Receipt | SkyriverError:
        done: asyncio.Future[Receipt | SkyriverError] = asyncio.get_running_loop().create_future()
        try:
            submission = read()
            if not len(submission):
                return Receipt()
            self._station.submit(EventWork(submission, partial(_settle, done), alone=alone, size=size))
        except SkyriverError as error:
            return error
        except Exception as error:
            _log.exception("a batch of messages cannot be read")
            failed = Internal("The messages cannot be read.", next_action="The worker's log says why.")
            failed.__cause__ = error
            return failed
        return await done

    async def _watch_lag(self) -> None:
        while True:
            try:
                self.lag = await self._source.lag()
            except Exception as error:  # what the connection suffers from, it tells itself
                _log.debug("the lag is not known: %r", error)
            await asyncio.sleep(LAG_EVERY_S)

    def _tell(self, state: str, error: SkyriverError | None) -> None:
        told = (state, error.code if error is not None else "")
        if told != (self._state, self._problem.code if self._problem is not None else ""):
            self._since = self._clock.wall()
            _log.info("the feed from %s is %s%s", self._name, state, f": {error}" if error is not None else "")
        self._state, self._problem = state, error


def read_messages(messages: Sequence[Message], border: EventBorder, arrived: int) -> Submission:
    """All rows of all messages. One that cannot be read is one refused row."""
    payloads = [message.payload for message in messages]
    if all(payload.startswith(b"{") for payload in payloads) and sum(map(len, payloads)) <= PAYLOAD_LIMIT:
        with contextlib.suppress(SkyriverError):  # one of them is broken, or has line feeds in it
            return border.read(b"\n".join(payloads), Form.LINES, arrived, False)
    rows: list[object] = []
    broken: list[Refused] = []
    for message in messages:
        found = _rows_of(message.payload)
        if isinstance(found, SkyriverError):
            broken.append(Refused(len(rows), "", None, found.code, found.message))
            rows.append(msgspec.Raw(message.payload[:RAW_LIMIT]))  # kept as it came
        else:
            rows += found
    submission = border.take(rows, arrived, False)
    for refused in broken:
        submission.rows[refused.index] = refused
    return submission


def _dead(message: Message, why: str, arrived: int) -> Submission:
    raw = msgspec.Raw(message.payload[:RAW_LIMIT])
    return Submission([raw], [Refused(0, "", None, "INTERNAL", why)], arrived)


def _cause(error: Internal) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}." if cause is not None else error.message


def _rows_of(payload: bytes) -> list[object] | SkyriverError:
    """One event as JSON, an array of them, or one a line."""
    if len(payload) > PAYLOAD_LIMIT:
        return SkyriverError(
            f"The message has {len(payload)} bytes, {PAYLOAD_LIMIT} are read.",
            code="TOO_LARGE",
            next_action="Send smaller messages, one event in each.",
        )
    try:
        return parse_rows(payload, Form.JSON)
    except SkyriverError as error:
        if b"\n" not in payload.strip():
            return error
    try:
        return parse_rows(payload, Form.LINES)
    except SkyriverError as error:
        return error


def _settle(done: asyncio.Future[Receipt | SkyriverError], answer: Receipt | SkyriverError) -> None:
    if not done.done():
        done.set_result(answer)
