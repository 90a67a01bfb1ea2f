"""Bearing a control plane that is away: it comes back within seconds, and what it looks after goes on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from skyriver.core.errors import Unavailable

AWAY = frozenset({"CONTROL_AWAY", "CLOUD_AWAY", "TIMED_OUT"})
AWAY_SECONDS = 60.0
PAUSE_SECONDS = 0.5
T = TypeVar("T")


class Patience:
    """Tries again while the control plane is away, for at most `seconds` at a time, and says so once each time; not at
    all with 0."""

    def __init__(self, say: Callable[[str], None], seconds: float = AWAY_SECONDS) -> None:
        self._say = say
        self._seconds = seconds
        self._since: float | None = None

    def call(self, attempt: Callable[[], T]) -> T:
        """Raises what `attempt` raises, and Unavailable once it was away for too long."""
        while True:
            try:
                found = attempt()
            except Unavailable as error:
                if error.code not in AWAY or not self._seconds:
                    raise
                now = time.monotonic()
                if self._since is None:
                    self._since = now
                    self._say(f"The control plane is away ({error.code}); waiting for it. What runs goes on.")
                if now - self._since > self._seconds:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                self.answered()
                return found

    def answered(self) -> None:
        """It is there."""
        if self._since is not None:
            self._since = None
            self._say("The control plane is back.")
