"""The receiving clock (DESIGN 6.1): what an event's time is held against, so that one wrong clock cannot move time."""

from __future__ import annotations

from skyriver.core.clock import Clock
from skyriver.core.units import SECOND

STEP_US = SECOND
"""A jump of the machine's clock against its monotonic one beyond this is reported."""


class ReceivingClock:
    """`now` is max(wall, wall at the start + monotonic time since): a clock set back does not refuse good events.

    `last` is the effective time at the start (None: no event yet): after a restart on a machine whose clock is
    behind, events up to `last` plus the stream's `ahead` are accepted too.
    """

    __slots__ = ("_clock", "_drift", "_last", "_origin", "ahead_us", "step_us")

    def __init__(self, clock: Clock, ahead_us: int, last: int | None = None) -> None:
        self._clock = clock
        self._origin = clock.wall() - clock.monotonic()
        self._drift = 0
        self._last = last
        self.ahead_us = ahead_us
        self.step_us = 0
        """The last step over a second of the machine's clock, forwards or (negative) back; 0: none was seen."""

    def restart(self, last: int | None) -> None:
        """The process was started again, and has opened the partition, its effective time being `last`."""
        self._last = last

    def now(self) -> int:
        """Microseconds since 1970."""
        wall = self._clock.wall()
        steady = self._origin + self._clock.monotonic()
        drift = wall - steady
        if abs(drift - self._drift) > STEP_US:
            self.step_us = drift - self._drift
        self._drift = drift
        return max(wall, steady)

    def monotonic(self) -> int:
        return self._clock.monotonic()

    def limit(self, now: int) -> int:
        """The latest time that an event may have at `now`."""
        return max(now, self._last if self._last is not None else now) + self.ahead_us
