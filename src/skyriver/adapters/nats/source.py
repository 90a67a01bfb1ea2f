"""`Source` on NATS JetStream: a durable pull consumer with explicit acknowledgement.

Theory of operation
===================
The consumer lives at the server and knows what was acknowledged. One request for messages is always open; the server
sends as they come, and stops at `max_ack_pending`. Messages that an earlier connection left without an acknowledgement
would come again only after `ack_wait`, behind newer ones, and so too late for a stream that allows little disorder.
Therefore `connect` shortens the consumer's `ack_wait` for a moment: the server looks at once, finds them overdue, and
sends them first.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from skyriver.adapters.nats.connecting import away, connect, end, told
from skyriver.core.errors import Conflict, NotFound, SkyriverError, Unavailable
from skyriver.core.spec import NatsSpec
from skyriver.decide.worker.sources import Access, Message

ACK_WAIT_S = 30.0
OVERDUE_S = 0.01
LOOK_S = 0.3
"""The server looks for what is overdue within 100 ms of a shorter `ack_wait`."""
REQUEST_S = 30
HEARTBEAT_S = 5
SILENCE_S = 3 * HEARTBEAT_S
RECEIVED_BYTES = 8 << 20
_ENDED = frozenset({"404", "408"})
"""Of a request: nothing came, or its time is over."""
_ERRORS = (nats.errors.Error, OSError, TimeoutError, asyncio.TimeoutError)


@dataclass(slots=True)
class _Connection:
    client: Client
    context: JetStreamContext
    stream: str = ""
    inbox: str = ""
    asked: int = 0
    """Messages that the open request may still bring."""
    waiting: deque[Message] = field(default_factory=deque)
    open: set[int] = field(default_factory=set)
    """Numbers of messages that came and are not acknowledged: held for longer than `ack_wait`, they come once more."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    lost: SkyriverError | None = None

    def lose(self, error: SkyriverError) -> None:
        self.lost = self.lost or error
        self.news.set()


class NatsSource:
    """`access` is asked before each connection, so a changed file of credentials is used by the next one."""

    def __init__(self, spec: NatsSpec, access: Callable[[], Access]) -> None:
        self._spec = spec
        self._access = access
        self._connection: _Connection | None = None

    async def connect(self) -> None:
        await self.close()
        spec = self._spec

        async def on_closed() -> None:
            if self._connection is not None and self._connection.client is client:
                self._connection.lose(away(spec.url, "the connection ended"))

        client = await connect(spec.url, self._access(), f"skyriver {spec.durable}", on_closed)
        connection = self._connection = _Connection(client, client.jetstream())
        try:
            connection.stream = await self._find_stream(connection.context)
            await self._prepare(connection)
            connection.inbox = client.new_inbox()
            await client.subscribe(connection.inbox, cb=self._on_message)
            await self._ask(connection)
        except _ERRORS as error:
            raise told(error, spec.url) from error

    async def receive(self) -> list[Message]:
        connection = self._connection
        if connection is None:
            raise away(self._spec.url, "there is no connection")
        while not connection.waiting:
            if connection.lost is not None:
                raise connection.lost
            connection.news.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await connection.news.wait()
            except TimeoutError as error:
                raise away(self._spec.url, f"it was silent for {SILENCE_S} s") from error
        found: list[Message] = []
        size = 0
        while connection.waiting and (not found or size + len(connection.waiting[0].payload) <= RECEIVED_BYTES):
            message = connection.waiting.popleft()
            found.append(message)
            size += len(message.payload)
        return found

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        connection = self._connection
        for message in messages:
            of, given, number = message.handle
            if of is connection and connection is not None and connection.lost is None:
                try:
                    await given.ack()
                    connection.open.discard(number)
                except _ERRORS as error:
                    connection.lose(told(error, self._spec.url))

    async def lag(self) -> int | None:
        connection = self._connection
        if connection is None or not connection.stream:
            return None
        try:
            info = await connection.context.consumer_info(connection.stream, self._spec.durable)
        except _ERRORS as error:
            raise told(error, self._spec.url) from error
        return int(info.num_pending or 0)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if connection.lost is None:
                    await connection.client.flush()
            except _ERRORS:
                pass  # what was not acknowledged comes again
            finally:
                await end(connection.client)

    async def _find_stream(self, context: JetStreamContext) -> str:
        spec = self._spec
        try:
            return await context.find_stream_name_by_subject(spec.subject)
        except NotFoundError as error:
            raise NotFound(
                f"No stream of JetStream holds the subject {spec.subject}.",
                code="NO_SUBJECT",
                where=spec.url,
                next_action=f"Create one: `nats stream add --subjects '{spec.subject}'`.",
            ) from error
        except (ServiceUnavailableError, nats.errors.NoRespondersError) as error:
            raise Unavailable(
                "The NATS server has no JetStream for this user.",
                code="NO_JETSTREAM",
                where=spec.url,
                next_action="Enable it in the server's configuration: jetstream { store_dir: ... }.",
            ) from error

    async def _prepare(self, connection: _Connection) -> None:
        """The consumer as the specification says, with what was left without an acknowledgement first."""
        context, stream, spec = connection.context, connection.stream, self._spec
        try:
            found: ConsumerInfo | None = await context.consumer_info(stream, spec.durable)
        except NotFoundError:
            found = None
        if found is not None and (found.config.deliver_subject or found.config.ack_policy != AckPolicy.EXPLICIT):
            raise self._differs(stream, "is no pull consumer with explicit acknowledgement")
        try:
            if found is not None and found.num_ack_pending:
                await context.add_consumer(stream, self._config(OVERDUE_S))
                await asyncio.sleep(LOOK_S)
            await context.add_consumer(stream, self._config(ACK_WAIT_S))
        except APIError as error:
            raise self._differs(stream, f"cannot be as it is declared: {error.description}") from error

    def _config(self, ack_wait: float) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=self._spec.durable,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_deliver=-1,
            max_ack_pending=self._spec.in_flight,
            filter_subject=self._spec.subject,
        )

    def _differs(self, stream: str, why: str) -> Conflict:
        return Conflict(
            f"The consumer {self._spec.durable} of the stream {stream} {why}.",
            code="CONSUMER_DIFFERS",
            where=self._spec.url,
            next_action="Choose another durable=, or remove that consumer.",
        )

    async def _ask(self, connection: _Connection) -> None:
        connection.asked = self._spec.in_flight
        request = {
            "batch": connection.asked,
            "expires": REQUEST_S * 1_000_000_000,
            "idle_heartbeat": HEARTBEAT_S * 1_000_000_000,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{connection.stream}.{self._spec.durable}"
        await connection.client.publish(subject, json.dumps(request).encode(), connection.inbox)

    async def _on_message(self, given: Msg) -> None:
        connection = self._connection
        if connection is None:
            return
        status = (given.headers or {}).get("Status", "")
        if given.reply.startswith("$JS.ACK."):
            connection.asked -= 1
            delivered, number = given.metadata.num_delivered or 1, given.metadata.sequence.stream
            if number not in connection.open:
                connection.open.add(number)
                connection.waiting.append(Message(given.data, delivered > 1, (connection, given, number)))
        elif status in _ENDED:
            connection.asked = 0
        elif status != "100":
            why = (given.headers or {}).get("Description", status)
            connection.lose(away(self._spec.url, f"it ended the request: {why}"))
        connection.news.set()
        if connection.asked <= 0 and connection.lost is None:
            try:
                await self._ask(connection)
            except _ERRORS as error:
                connection.lose(told(error, self._spec.url))
