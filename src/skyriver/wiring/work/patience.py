"""What a job asks of a stream's processes, which may be away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from skyriver.core.errors import SkyriverError, Unavailable, from_problem


def asked_until(
    send: Callable[[], httpx.Response],
    away: Callable[[httpx.TransportError], Unavailable],
    *,
    seconds: float,
    every: float,
) -> dict[str, Any]:
    """The answer to what `send` sends, again and again while the process is away or has no room, for so many seconds.
    Raises what it answers else, and in the end `away` of what went wrong on the way."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            response = send()
            if response.is_success:
                return dict(response.json())
            error: SkyriverError = from_problem(response.status_code, response.json())
        except httpx.TransportError as failed:
            error = away(failed)
        if error.http_status not in (429, 503) or time.monotonic() > deadline:
            raise error
        time.sleep(every)
