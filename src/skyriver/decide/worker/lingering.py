"""Whether a turn waits a moment for more requests, so that they share what a turn costs.

A wait pays where requests come by themselves, one soon after the other. Where each sender waits for its answer it only
makes all of them slower, and where requests are rare it brings nothing. Which of these is so, nobody says; it is tried:
STEP turns without waiting tell how fast requests come, STEP turns with it whether they come together, and no slower.
Then it stays so for a while, and is tried again. Pure.
"""

from __future__ import annotations

STEP = 16
"""Turns of a try."""
STEPS = 128
"""For so many steps what a try said holds: with 2 ms, trying costs a sender that waits for its answers 5 to 9%."""
TOGETHER = 1.5
"""Requests a turn, at least, that a wait must bring."""
AS_FAST = 0.85
"""Of the rate without waiting, at least, with it. Senders that wait for their answers are slowed by no more, where a
turn takes nearly as long as the wait; with a higher share, chance would end it for requests that come unasked."""
ENOUGH_ROWS = 16
"""That wait already: they share enough."""


class Linger:
    """`limit_us`: how long a request may wait at most, here or in its socket, for its turn to begin; 0: none ever
    waits. Times are monotonic microseconds."""

    __slots__ = ("_began", "_left", "_limit", "_rate", "_requests", "_turns", "waits")

    def __init__(self, limit_us: int) -> None:
        self._limit = limit_us
        self.waits = False
        """Whether turns wait now."""
        self._left = 0
        """Steps for which it stays so."""
        self._rate = 0.0
        """Requests a microsecond, when turns did not wait."""
        self._began = -1
        self._turns = self._requests = 0

    def wait_us(self, passed_us: int, rows: int) -> int:
        """How long the next turn is to wait still, so long after the sockets were read; `rows` wait in all."""
        return max(0, self._limit - passed_us) if self.waits and rows < ENOUGH_ROWS else 0

    def note(self, requests: int, now: int) -> None:
        """A turn took so many requests."""
        if not self._limit:
            return
        if self._began < 0:
            self._began = now
            return
        self._turns += 1
        self._requests += requests
        if self._turns == STEP:
            self._decide(self._requests, max(1, now - self._began))
            self._began, self._turns, self._requests = now, 0, 0

    def _decide(self, requests: int, took_us: int) -> None:
        together, rate = requests >= TOGETHER * STEP, requests / took_us
        self._left -= 1
        if not self.waits:
            self._rate = rate
            if self._left <= 0:
                self.waits, self._left = True, 0
        elif not together or (self._left < 0 and rate < AS_FAST * self._rate):
            self.waits, self._left = False, STEPS
        elif self._left < 0:
            self._left = STEPS
        elif self._left == 0:
            self.waits = False
