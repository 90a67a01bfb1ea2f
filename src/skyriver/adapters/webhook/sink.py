"""`skyriver.decide.sinks.Sink` over HTTP: one POST a delivery, signed as the Standard Webhooks have it.

Redirects are not followed, proxies of the environment not used: what the operator wrote is where it goes. One deadline
holds for all of a request, connecting included, and no more than a little of an answer is read.
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
from collections.abc import Callable

import httpx

from skyriver.adapters.tls import client_context
from skyriver.decide.sinks import Answer, Delivery, Failed, Place, Refused, Taken
from skyriver.trust.webhooks import signature

MOST_ANSWER = 16 << 10
"""Bytes of an answer that are read; of a longer one the connection is closed."""
SHOWN = 200
MOST_WAIT_S = 3_600
"""That a receiver may ask for with Retry-After."""
AGAIN = frozenset({408, 409, 425, 429})
CONNECTIONS = 256


class WebhookSink:
    """`wall` tells microseconds since 1970. Raises Unavailable (BAD_CERTIFICATE)."""

    def __init__(self, place: Place, wall: Callable[[], int]) -> None:
        self._place = place
        self._wall = wall
        secure = place.url.startswith("https:")
        self._http = httpx.AsyncClient(
            verify=client_context(place.access) if secure else False,
            trust_env=False,
            follow_redirects=False,
            timeout=None,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers={"user-agent": "skyriver", "content-type": "application/json", **dict(place.headers)},
        )

    async def deliver(self, delivery: Delivery) -> Answer:
        place = self._place
        seconds = self._wall() // 1_000_000
        headers = {
            "idempotency-key": delivery.id,
            "webhook-id": delivery.id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature(place.secrets, delivery.id, seconds, delivery.body),
        }
        try:
            async with asyncio.timeout(place.timeout_s):
                async with self._http.stream("POST", place.url, content=delivery.body, headers=headers) as answer:
                    return self._judge(answer, await _read(answer))
        except TimeoutError:
            return Failed(f"it did not answer within {place.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as error:
            return Failed(_why(error))

    async def close(self) -> None:
        await self._http.aclose()

    def _judge(self, answer: httpx.Response, text: str) -> Answer:
        status = answer.status_code
        said = f"it answered {status}{f': {text}' if text else ''}"
        if 200 <= status < 300:
            return Taken()
        if status in AGAIN or status >= 500:
            return Failed(said, self._asked_wait(answer))
        if 300 <= status < 400:
            return Refused(f"it answered {status}, a redirect, which is not followed")
        return Refused(said)

    def _asked_wait(self, answer: httpx.Response) -> int:
        """Microseconds, of Retry-After: seconds, or a date."""
        text = answer.headers.get("retry-after", "").strip()
        seconds = 0.0
        if text.isdecimal() and len(text) < 10:
            seconds = float(text)
        elif text:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - self._wall() / 1e6
            except (ValueError, TypeError, OverflowError):
                seconds = 0.0
        return round(1e6 * min(MOST_WAIT_S, max(0.0, seconds)))


async def _read(answer: httpx.Response) -> str:
    """A little of it, as what is shown to people."""
    found = b""
    async for part in answer.aiter_raw():
        found += part
        if len(found) > MOST_ANSWER:
            break
    return "".join(c if c.isprintable() else " " for c in found[:SHOWN].decode(errors="replace")).strip()


def _why(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    match error:
        case httpx.ConnectError():
            return "it cannot be reached"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return "it closed the connection before it had answered"
        case _:
            return f"it cannot be reached: {type(error).__name__}"
