"""`skyriver.decide.acting.sinks.Sink` over HTTP: one POST a delivery, signed as the Standard Webhooks have it.

Redirects are not followed, proxies of the environment not used: what the operator wrote is where it goes. One deadline
holds for all of a request, connecting included, and no more than a little of an answer is read.
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
from collections.abc import Callable

from skyriver.adapters.tls import client_context
from skyriver.adapters.webhook.client import HttpAnswer, HttpPoster, Lost
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Place, Refused, Taken
from skyriver.trust.webhooks import signature

SHOWN = 200
MOST_WAIT_S = 3_600
"""That a receiver may ask for with Retry-After."""
AGAIN = frozenset({408, 409, 425, 429})


class WebhookSink:
    """`wall` tells microseconds since 1970. Raises Unavailable (BAD_CERTIFICATE)."""

    def __init__(self, place: Place, wall: Callable[[], int]) -> None:
        self._place = place
        self._wall = wall
        context = client_context(place.access) if place.url.startswith("https:") else None
        headers = {"user-agent": "skyriver", "content-type": "application/json", **dict(place.headers)}
        self._http = HttpPoster(place.url, context, headers)

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
                return self._judge(await self._http.post(delivery.body, headers))
        except TimeoutError:
            return Failed(f"it did not answer within {place.timeout_s:g} s")
        except Lost as lost:
            return Failed(str(lost))
        except ssl.SSLCertVerificationError as error:
            return Failed(f"its certificate is not trusted: {error.verify_message}")
        except OSError as error:
            return Failed(f"it cannot be reached: {error.strerror or error}")

    async def close(self) -> None:
        await self._http.close()

    def _judge(self, answer: HttpAnswer) -> Answer:
        status, text = answer.status, _shown(answer.body)
        said = f"it answered {status}{f': {text}' if text else ''}"
        if 200 <= status < 300:
            return Taken()
        if status in AGAIN or status >= 500:
            return Failed(said, self._asked_wait(answer))
        if 300 <= status < 400:
            return Refused(f"it answered {status}, a redirect, which is not followed")
        return Refused(said)

    def _asked_wait(self, answer: HttpAnswer) -> int:
        """Microseconds, of Retry-After: seconds, or a date."""
        text = answer.headers.get(b"retry-after", b"").decode("latin-1").strip()
        seconds = 0.0
        if text.isdecimal() and len(text) < 10:
            seconds = float(text)
        elif text:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - self._wall() / 1e6
            except (ValueError, TypeError, OverflowError):
                seconds = 0.0
        return round(1e6 * min(MOST_WAIT_S, max(0.0, seconds)))


def _shown(body: bytes) -> str:
    """A little of it, for people."""
    return "".join(c if c.isprintable() else " " for c in body[:SHOWN].decode(errors="replace")).strip()
