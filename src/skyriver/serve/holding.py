"""What the activator holds for one service, and what became of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from skyriver.serve.http import Request
from skyriver.serve.metrics import Histogram


class Counted:
    """Of one service."""

    __slots__ = ("expired", "hold_us", "refused")

    def __init__(self) -> None:
        self.hold_us = Histogram()
        self.expired = self.refused = 0

    def told(self) -> dict[str, object]:
        return {"hold_us": self.hold_us.told(), "expired": self.expired, "refused": self.refused}


class Queue:
    """What is held for one service, in the order in which it came."""

    __slots__ = ("bodies", "held", "lines", "name", "path")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: OrderedDict[Request, asyncio.TimerHandle] = OrderedDict()
        self.bodies = 0
        """Bytes of what is held."""
        self.lines: set[asyncio.Task[None]] = set()
        self.path = ""
        """The socket that was reached last; "" while none is."""

    def add(self, request: Request, timer: asyncio.TimerHandle) -> None:
        self.held[request] = timer
        self.bodies += len(request.body)

    def remove(self, request: Request) -> None:
        self.held.pop(request).cancel()
        self.bodies -= len(request.body)
        request.when_gone = None

    def take(self) -> Request:
        """The first."""
        request = next(iter(self.held))
        self.remove(request)
        return request
