"""`skyriver.decide.acting.sinks.Sink` on NATS JetStream: a message a delivery, with its id by which the server knows it
(`Nats-Msg-Id`), taken once the server has acknowledged that it is stored."""

from __future__ import annotations

import asyncio

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError

from skyriver.adapters.nats.connecting import connect, end, told
from skyriver.core.errors import SkyriverError
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Place, Refused, Taken


class NatsSink:
    """Connects when something is to be delivered, and again after a connection was lost."""

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._connecting = asyncio.Lock()

    async def deliver(self, delivery: Delivery) -> Answer:
        place = self._place
        subject = place.subject.replace("{stream}", delivery.stream).replace("{decision}", delivery.decision)
        try:
            async with asyncio.timeout(place.timeout_s):
                context = await self._connected()
                await context.publish(
                    subject, delivery.body, timeout=place.timeout_s, headers={"Nats-Msg-Id": delivery.id}
                )
            return Taken()
        except SkyriverError as error:
            if error.code == "BROKER_AWAY":
                return Failed(error.message)
            raise
        except NoStreamResponseError:
            return Failed(f"no stream of JetStream takes the subject {subject}")
        except nats.errors.MaxPayloadError:
            return Refused("it is larger than the server takes")
        except TimeoutError:
            return Failed(f"it did not answer within {place.timeout_s:g} s")
        except APIError as error:
            return Failed(f"JetStream answered {error.description}")
        except (nats.errors.Error, OSError) as error:
            return Failed(told(error, place.url).message)

    async def close(self) -> None:
        client, self._client, self._context = self._client, None, None
        if client is not None:
            await end(client)

    async def _connected(self) -> JetStreamContext:
        async with self._connecting:
            if self._client is None or self._context is None or not self._client.is_connected:
                await self.close()
                self._client = await connect(self._place.url, self._place.access, self._name, _ignore)
                self._context = self._client.jetstream()
            return self._context


async def _ignore() -> None:
    """The next delivery sees that the connection is gone."""
