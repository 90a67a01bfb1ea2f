"""How calls bear that a part is away: what is repeated and for how long, and how an operation is waited for."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx

from skyriver.client.flows import Flow, Listen, Pause, Request, ServerEvent
from skyriver.core.contract import Resource
from skyriver.core.errors import JobFailed, SkyriverError, Unavailable
from skyriver.core.jobs import ENDED

PATIENCE_SECONDS = 10.0
"""For how long other calls are repeated: longer than the control plane needs to come back."""
CONNECT_SECONDS = 3.0
"""The same, where nothing listens at all: longer than the gateway needs to come back."""
SILENCE_SECONDS = 15.0
"""Without any sign of life, after which a stream of events is given up; one comes in every 5 s."""
AWAY_SECONDS = 60.0
"""For how long `wait` waits for a cloud of which it hears nothing."""
POLL_SECONDS = 0.25

_AGAIN = frozenset({429, 503})
_LASTS = frozenset({"BUDGET_SPENT", "NO_ADVICE"})
"""What is not over in a moment."""


def changed(request: Request) -> Flow[Any]:
    """What changes something carries a key, so that it can be repeated and is done once."""
    keyed = {**request.headers, "Idempotency-Key": secrets.token_hex(16)}
    return (yield from answered(replace(request, headers=keyed)))


def answered(
    request: Request, seconds: float = PATIENCE_SECONDS, connect_seconds: float = CONNECT_SECONDS
) -> Flow[Any]:
    return (yield from repeated(request, seconds, connect_seconds)).json()


def repeated(
    request: Request, seconds: float = PATIENCE_SECONDS, connect_seconds: float = CONNECT_SECONDS
) -> Flow[httpx.Response]:
    """Asks again with growing pauses while a part is away. What timed out has waited long: it is asked once more."""
    begun, pause, timed_out = time.monotonic(), 0.05, 0
    while True:
        try:
            answer: httpx.Response = yield request
        except SkyriverError as error:
            timed_out += error.code == "TIMED_OUT"
            limit = connect_seconds if error.code == "CLOUD_AWAY" else seconds
            passed = timed_out < 2 if error.code == "TIMED_OUT" else time.monotonic() + pause < begun + limit
            if error.http_status not in _AGAIN or error.code in _LASTS or not passed:
                raise
        else:
            return answer
        yield Pause(pause)
        pause = min(pause * 1.5, 1.0)


class Waiting:
    """One `wait`: listens, and asks where there is nothing to listen to."""

    def __init__(self, path: str, timeout: float, told: Callable[[Resource], None] | None) -> None:
        self._path = path
        self._told = told
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._heard = time.monotonic()
        self._last = ""
        self._found: Resource | None = None

    def flow(self, operation: str) -> Flow[Resource]:
        listening = True
        while True:
            try:
                if listening:
                    yield Listen(f"{self._path}/events", self._last, self._take, self._silence())
                if not self._done():
                    self._look((yield Request("GET", self._path)).json())
            except SkyriverError as error:
                # Too many listen, or this cloud is older than its client.
                listening = listening and error.code not in ("TOO_MANY_LISTENERS", "UNKNOWN_ROUTE")
                if not isinstance(error, Unavailable) and error.code not in ("TOO_MANY_LISTENERS", "UNKNOWN_ROUTE"):
                    raise
                if time.monotonic() > self._heard + AWAY_SECONDS:
                    raise
            if self._done():
                return _succeeded(operation, self._found)
            if time.monotonic() > self._deadline:
                raise Unavailable(
                    f"{operation} has not finished within {self._timeout:g} s; it goes on.",
                    code="NOT_FINISHED",
                    next_action=f"`skyriver explain {operation}` shows how far it is.",
                )
            yield Pause(POLL_SECONDS)

    def _silence(self) -> float:
        return max(0.1, min(SILENCE_SECONDS, self._deadline - time.monotonic()))

    def _take(self, event: ServerEvent | None) -> bool:
        self._heard = time.monotonic()
        if event is not None:
            self._last = event.id
            self._look(json.loads(event.data))
        return self._done() or time.monotonic() > self._deadline

    def _look(self, found: Resource) -> None:
        self._heard = time.monotonic()
        self._last = str(found["revision"])
        self._found = found
        if self._told is not None:
            self._told(found)

    def _done(self) -> bool:
        return self._found is not None and self._found["state"] in ENDED


def _succeeded(operation: str, found: Resource | None) -> Resource:
    assert found is not None
    if found["state"] == "SUCCEEDED":
        return found
    failed = found["status"].get("failed", operation)
    raise JobFailed(
        found["message"] or f"{operation} was {found['state'].lower()}.",
        code=found["reason"] or "JOB_FAILED",
        where=failed,
        next_action=found["next_action"] or f"`skyriver explain {failed}` tells more.",
    )
