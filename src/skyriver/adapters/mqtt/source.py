"""`Source` on an MQTT broker: one session that the broker keeps, QoS 1, acknowledged by hand.

Theory of operation
===================
A connection is a client of paho with a thread of its own, which reads the socket and hands what came to the loop. Each
connection has a new client: packet ids are the broker's and are used again, so an acknowledgement that is late must
never reach another connection. The session's name is the client's id; with a clean start refused and an expiry of
SESSION_S (3.1.1: for ever) the broker keeps, while nobody is connected, what was published and what was delivered and
not acknowledged, and sends the latter first. Receive Maximum bounds what is delivered and not acknowledged. Version
3.1.1 has none, and Mosquitto 2.0.11 does not keep to it once the first are acknowledged: so messages beyond it wait
here, and the client's thread stops reading its socket when HELD times as many do.

What MQTT cannot say: how many messages wait, and (unless the broker is made to) whether a message that it acknowledged
to its sender survives the broker's own death.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from skyriver.adapters.tls import client_context
from skyriver.core.errors import Conflict, NotAllowed, SkyriverError, Unavailable
from skyriver.core.spec import MqttSpec
from skyriver.decide.worker.sources import Access, Message

SESSION_S = 7 * 86_400
KEEPALIVE_S = 15
HELD = 4
SETTLE_S = 2.0
ANSWER_S = 10.0
"""For the broker's answer to a connection and a subscription."""
RECEIVED_BYTES = 8 << 20
"""Of one `receive`, at least one message."""
_REFUSED = frozenset({0x86, 0x87, 0x8A, 0x8C})
"""Bad user name or password, not authorized, banned, bad authentication method."""
_NOT_MQTT_5 = 0x84
_TAKEN_OVER = 0x8E


class MqttSource:
    """`access` is asked before each connection, so a changed file of credentials is used by the next one."""

    def __init__(self, spec: MqttSpec, access: Callable[[], Access]) -> None:
        self._spec = spec
        self._access = access
        self._connection: _Connection | None = None

    async def connect(self) -> None:
        await self.close()
        connection = self._connection = _Connection(self._spec, self._access(), asyncio.get_running_loop())
        try:
            await asyncio.to_thread(connection.open)
            async with asyncio.timeout(ANSWER_S):
                await asyncio.shield(connection.subscribed)
        except TimeoutError as error:
            raise _away(self._spec, "it does not answer") from error
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"The broker's certificate is not trusted: {error.verify_message}.",
                code="BAD_CERTIFICATE",
                where=self._spec.url,
                next_action="Name the authority that signed it as ca in the file of credentials.",
            ) from error
        except (OSError, ValueError) as error:
            raise _away(self._spec, getattr(error, "strerror", None) or str(error)) from error

    async def receive(self) -> list[Message]:
        if self._connection is None:
            raise _away(self._spec, "there is no connection")
        return await self._connection.receive()

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.handle is not None:
                connection, number = message.handle
                connection.acknowledge(number)

    async def lag(self) -> int | None:
        return None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.settle()
            await asyncio.shield(asyncio.to_thread(connection.close))


class _Connection:
    def __init__(self, spec: MqttSpec, access: Access, loop: asyncio.AbstractEventLoop) -> None:
        self._spec = spec
        self._loop = loop
        self._waiting: deque[Message] = deque()
        self._news = asyncio.Event()
        self._told = False
        self._open = 0
        """Handed out with QoS 1 and not acknowledged."""
        self._room = threading.Condition()
        self._closing = False
        self._lost: SkyriverError | None = None
        self._settled = asyncio.Event()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self._old = spec.version == "3.1.1"
        client = self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=spec.durable,
            clean_session=False if self._old else None,
            protocol=paho.MQTTv311 if self._old else paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        if access.user:
            client.username_pw_set(access.user, access.password or None)
        if spec.url.startswith("mqtts:"):
            client.tls_set_context(client_context(access))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect

    async def settle(self) -> None:
        """Returns when the broker has read the acknowledgements, as far as it goes along: it takes packets in their
        order, and answers a subscription. Closed before, the socket could take them with it."""
        if self._lost is None and self.subscribed.done():
            self._settled.clear()
            self._ask_for_topic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await self._settled.wait()

    def _ask_for_topic(self) -> None:
        """Retained messages come with a new subscription alone, where the broker can tell."""
        if self._old:
            self.client.subscribe(self._spec.topic, qos=1)
        else:
            self.client.subscribe(self._spec.topic, options=SubscribeOptions(qos=1, retainHandling=1))

    # In a thread of the loop's

    def open(self) -> None:
        """Raises OSError."""
        place = urlsplit(self._spec.url)
        host, port = place.hostname or "", place.port or 0
        if self._old:
            self.client.connect(host, port, KEEPALIVE_S)
        else:
            wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            wanted.SessionExpiryInterval = SESSION_S
            wanted.ReceiveMaximum = self._spec.in_flight
            self.client.connect(host, port, KEEPALIVE_S, clean_start=False, properties=wanted)
        self.client.loop_start()

    def close(self) -> None:
        with self._room:
            self._closing = True
            self._room.notify()
        connected = self.client.socket()
        self.client.disconnect()
        if self._lost is not None and isinstance(connected, socket.socket):
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()
        self._call(self._forget)

    # In the client's thread

    def _on_connect(self, _client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        if code.is_failure:
            self._call(self._lose, _refused(self._spec, code))
        else:
            self._ask_for_topic()

    def _on_subscribe(self, _client: Any, _data: Any, _number: int, codes: list[ReasonCode], _properties: Any) -> None:
        if codes[0].value == 1:
            self._call(self._subscribe)
        else:
            self._call(self._lose, _not_subscribed(self._spec, codes[0]))

    def _on_message(self, _client: Any, _data: Any, given: paho.MQTTMessage) -> None:
        handle = (self, given.mid) if given.qos else None
        with self._room:
            self._room.wait_for(lambda: self._closing or len(self._waiting) < HELD * self._spec.in_flight)
        self._waiting.append(Message(bytes(given.payload), given.dup, handle))
        if not self._told:
            self._told = True
            self._call(self._news.set)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._call(self._lose, _disconnected(self._spec, code))

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    # On the loop

    def _subscribe(self) -> None:
        self._settled.set()
        if not self.subscribed.done():
            self.subscribed.set_result(None)

    def _lose(self, error: SkyriverError) -> None:
        self._lost = self._lost or error
        if not self.subscribed.done():
            self.subscribed.set_exception(error)
        self._settled.set()
        self._news.set()

    def _forget(self) -> None:
        self.subscribed.cancel()

    async def receive(self) -> list[Message]:
        while not self._waiting or self._open >= self._spec.in_flight:
            if self._lost is not None:
                raise self._lost
            self._told = False
            self._news.clear()
            if not self._waiting or self._open >= self._spec.in_flight:
                await self._news.wait()
        found: list[Message] = []
        size = 0
        while self._waiting and self._open < self._spec.in_flight:
            if found and size + len(self._waiting[0].payload) > RECEIVED_BYTES:
                break
            message = self._waiting.popleft()
            found.append(message)
            size += len(message.payload)
            self._open += message.handle is not None
        with self._room:
            self._room.notify()
        return found

    def acknowledge(self, number: int) -> None:
        """Of a connection that is over: into the void."""
        self.client.ack(number, 1)
        self._open -= 1
        self._news.set()


def _away(spec: MqttSpec, why: str) -> Unavailable:
    return Unavailable(
        f"The MQTT broker is away: {why}.",
        code="BROKER_AWAY",
        where=spec.url,
        next_action="It is tried again by itself. Look whether the broker runs and can be reached from this machine.",
    )


def _refused(spec: MqttSpec, code: ReasonCode) -> SkyriverError:
    if code.value in _REFUSED:
        return NotAllowed(
            f"The MQTT broker refuses the connection: {code}.",
            code="BROKER_REFUSED",
            where=spec.url,
            next_action="Check user and password in the file of credentials, and what the broker allows that user.",
        )
    if code.value == _NOT_MQTT_5:
        return Conflict(
            f"The broker does not speak MQTT {spec.version}.",
            code="OTHER_VERSION",
            where=spec.url,
            next_action='Write version="3.1.1" in sr.Mqtt, or version="5" if that is what it has.',
        )
    return _away(spec, f"it refuses the connection: {code}")


def _not_subscribed(spec: MqttSpec, code: ReasonCode) -> SkyriverError:
    return NotAllowed(
        f"The MQTT broker refuses the topic {spec.topic} with QoS 1: {code}.",
        code="TOPIC_REFUSED",
        where=spec.url,
        next_action="Allow it to the user of the credentials, with QoS 1.",
    )


def _disconnected(spec: MqttSpec, code: ReasonCode) -> SkyriverError:
    if code.value == _TAKEN_OVER:
        return Conflict(
            f"Another client named {spec.durable} has taken the session.",
            code="SESSION_TAKEN",
            where=spec.url,
            next_action="Give each stream, and each cloud, a durable= of its own.",
        )
    # Not every broker says so: Mosquitto 2.0.11 just hangs up.
    return Unavailable(
        f"The MQTT broker ended the connection: {code}.",
        code="BROKER_AWAY",
        where=spec.url,
        next_action=f"It is tried again by itself. If it goes on so, another client may be named {spec.durable}, too:"
        " each stream, and each cloud, needs a durable= of its own.",
    )
