"""Time as a port: pure code never asks the machine."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Both in whole microseconds. `wall` may jump either way; `monotonic` MUST never go back."""

    def wall(self) -> int: ...

    def monotonic(self) -> int: ...
