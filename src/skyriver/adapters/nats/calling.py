"""A NATS client for callers that wait: its loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, ServiceUnavailableError

from skyriver.adapters.nats.connecting import connect, end, told
from skyriver.core.errors import SkyriverError, Unavailable
from skyriver.decide.worker.sources import Access

Result = TypeVar("Result")
_NO_JETSTREAM = frozenset({None, 0, 10008, 10039, 10076})
"""Temporarily unavailable; not enabled; not enabled for the account."""


class NatsCaller:
    """Connects when it is first used, and again after a connection was lost. Threads may share it. `check` looks at
    each server that it has connected to, before anything else is done with it; what it raises goes to the caller."""

    def __init__(
        self,
        url: str,
        access: Callable[[], Access],
        name: str,
        check: Callable[[Client, Access], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.url = url
        self._access = access
        self._name = name
        self._check = check
        self._client: Client | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[Client], Coroutine[Any, Any, Result]], seconds: float = 30.0) -> Result:
        """What `work` returns with a client that is connected. Raises Unavailable (BROKER_AWAY), NotAllowed; errors of
        JetStream (APIError) go on to the caller."""
        waiting = asyncio.run_coroutine_threadsafe(self._with_client(work, seconds), self._loop)
        try:
            return waiting.result(2 * seconds)
        except concurrent.futures.TimeoutError as error:
            waiting.cancel()
            raise told(TimeoutError(), self.url) from error

    def drop(self) -> None:
        """The connection ends; the next call makes another."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(30)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.drop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _with_client(self, work: Callable[[Client], Coroutine[Any, Any, Result]], seconds: float) -> Result:
        try:
            async with asyncio.timeout(seconds):
                if self._client is None or not self._client.is_connected:
                    await self._drop()
                    self._client = await self._connect()
                return await work(self._client)
        except (ServiceUnavailableError, nats.errors.NoRespondersError) as error:
            if isinstance(error, APIError) and error.err_code not in _NO_JETSTREAM:
                raise
            raise Unavailable(
                "The NATS server has no JetStream for this user, or is still starting it.",
                code="BROKER_AWAY",
                where=self.url,
                next_action="It is tried again by itself. Enable JetStream in the server's configuration.",
            ) from error
        except (APIError, SkyriverError):
            raise
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise told(error, self.url) from error

    async def _connect(self) -> Client:
        access = self._access()
        client = await connect(self.url, access, self._name, _ignore)
        if self._check is not None:
            try:
                await self._check(client, access)
            except BaseException:
                await end(client)
                raise
        return client

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await end(client)


async def _ignore() -> None:
    """The next call sees that the connection is gone."""
