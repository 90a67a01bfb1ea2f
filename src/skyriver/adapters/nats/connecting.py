"""A connection to a NATS server, and its errors in the product's words."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.client import Client

from skyriver.adapters.tls import client_context
from skyriver.core.errors import NotAllowed, SkyriverError, Unavailable
from skyriver.decide.worker.sources import Access

CONNECT_S = 5
ANSWER_S = 8.0
END_S = 1.0
PING_S = 5
"""A server that leaves two pings without an answer is away."""


async def connect(url: str, access: Access, name: str, on_closed: Callable[[], Awaitable[None]]) -> Client:
    """A client that never connects again by itself: whoever uses it must know. Raises Unavailable, NotAllowed."""

    seen: list[Exception] = []

    async def note(error: Exception) -> None:
        seen[:] = [error]

    tls = client_context(access) if url.startswith("tls:") else None
    client = Client()
    try:
        async with asyncio.timeout(ANSWER_S):  # a server that hangs up within TLS leaves the client waiting
            await client.connect(
                [url.replace("tls://", "nats://")],
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                error_cb=note,
                closed_cb=on_closed,
                user=access.user or None,
                password=access.password or None,
                token=access.token or None,
                user_credentials=access.creds or None,
                tls=tls,
            )
    except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
        await end(client)
        cause = seen[0] if seen and isinstance(error, nats.errors.NoServersError) else error
        raise told(cause, url) from error
    return client


async def end(client: Client) -> None:
    """A client whose TLS failed would wait for its socket for ever."""
    with contextlib.suppress(TimeoutError, nats.errors.Error, OSError):
        async with asyncio.timeout(END_S):
            await client.close()


def told(error: BaseException, url: str) -> SkyriverError:
    """An error of the library as what a user can do."""
    if isinstance(error, SkyriverError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unavailable(
            f"The server's certificate is not trusted: {error.verify_message}.",
            code="BAD_CERTIFICATE",
            where=url,
            next_action="Name the authority that signed it as ca in the file of credentials.",
        )
    if isinstance(error, TimeoutError):
        return away(url, "it does not answer")
    text = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in text.lower():
        return NotAllowed(
            f"The NATS server refuses the connection: {text}.",
            code="BROKER_REFUSED",
            where=url,
            next_action="Check user, password, token or creds in the file of credentials.",
        )
    return away(url, getattr(error, "strerror", None) or text)


def away(url: str, why: str) -> Unavailable:
    return Unavailable(
        f"The NATS server is away: {why}.",
        code="BROKER_AWAY",
        where=url,
        next_action="It is tried again by itself. Look whether the server runs and can be reached from this machine.",
    )
