"""Whether an objective is being missed fast enough to wake somebody, and when something will be full. Pure.

Burn rates as in Google's SRE workbook, chapter 5: a rate of 1 uses up what may fail exactly over the objective's
period; an alarm needs the rate over a long window, so that it matters, and over a short one, so that it still goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

MINUTE: Final = 60
RING: Final = 360
"""Minutes kept: the longest window."""
LEAST_BAD: Final = 10
"""Fewer failures in the long window are no alarm, whatever their share."""
LEAST_POINTS: Final = 10
"""Fewer are no trend."""
POINTS: Final = 60
"""At most so many are compared, pair by pair."""
SURE: Final = 0.1
"""So great a share of the pairs at most may fall where something is said to grow."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Minutes, and the burn rate that both must reach."""

    long: int
    short: int
    rate: float


FAST: Final = Windows(60, 5, 14.4)
SLOW: Final = Windows(360, 30, 6.0)


@dataclass(slots=True)
class Ring:
    """Answers and bad ones of the last RING minutes; its size does not depend on how long it was fed."""

    minute: int = 0
    answers: list[int] = field(default_factory=lambda: [0] * RING)
    bad: list[int] = field(default_factory=lambda: [0] * RING)

    def add(self, seconds: float, answers: int, bad: int) -> None:
        """What is older than the ring is left out: a clock that was set back must not count as now."""
        minute = int(seconds // MINUTE)
        self._turn(minute)
        if minute > self.minute - RING:
            self.answers[minute % RING] += answers
            self.bad[minute % RING] += bad

    def over(self, seconds: float, minutes: int) -> tuple[int, int]:
        """Answers and bad ones of the last `minutes`, at most RING; the one that is not over counts as one."""
        self._turn(int(seconds // MINUTE))
        places = [(self.minute - back) % RING for back in range(min(minutes, RING))]
        return sum(self.answers[place] for place in places), sum(self.bad[place] for place in places)

    def _turn(self, minute: int) -> None:
        for passed in range(max(self.minute + 1, minute - RING + 1), minute + 1):
            self.answers[passed % RING] = self.bad[passed % RING] = 0
        self.minute = max(self.minute, minute)


def burning(ring: Ring, seconds: float, allowed: float) -> Windows | None:
    """The windows whose rate is reached, the fast ones first. `allowed`: the share that may be bad, above 0."""
    for windows in (FAST, SLOW):
        answers, bad = ring.over(seconds, windows.long)
        now, bad_now = ring.over(seconds, windows.short)
        limit = windows.rate * allowed
        if bad >= LEAST_BAD and bad >= limit * answers and bad_now and bad_now >= limit * now:
            return windows
    return None


def exhausted_in(points: Sequence[tuple[float, float]], limit: float) -> float | None:
    """Seconds from the last of `points` (seconds, used) until `limit` is reached; None where nothing grows.

    The slope is the median of those of all pairs (Theil 1950, Sen 1968): a file that came and went changes nothing."""
    if points and points[-1][1] >= limit:
        return 0.0
    step = -(-len(points) // POINTS) or 1
    taken = points[::-1][::step][::-1]
    if len(taken) < LEAST_POINTS:
        return None
    pairs = ((a, b) for place, a in enumerate(taken) for b in taken[place + 1 :])
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0])
    if not slopes or slopes[int(SURE * len(slopes))] <= 0:
        return None
    slope = median(slopes)
    height = median(used - slope * at for at, used in taken)
    return max(0.0, (limit - height) / slope - taken[-1][0])
