"""Whether an objective is being missed fast enough to wake somebody, and when something will be full. Pure.

Burn rates as in Google's SRE workbook, chapter 5: a rate of 1 uses up what may fail exactly over the objective's
period; an alarm needs the rate over a long window, so that it matters, and over a short one, so that it still goes on.
"""

from __future__ import annotations

import math
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
SUDDEN_SECONDS: Final = 30
SUDDEN_SHARE: Final = 0.1
"""So many must fail at least for it to be sudden, or SUDDEN_RATE times what may."""
SUDDEN_RATE: Final = 20.0
SUDDEN_LEAST: Final = 20
SUDDEN_MORE: Final = 2.0
"""Times the share of the ten minutes before."""
SUDDEN_STEPS: Final = 2
"""Of the fine ring, in which it must be so: a single stall is over before anybody could look."""
JUMP_SECONDS: Final = 60
JUMP_STEPS: Final = 7
JUMP_RATE: Final = 3.0
"""Times what may fail."""
JUMP_MORE: Final = 4.0
"""Times what failed in the hour before."""
JUMP_FAR: Final = 8.0
"""Standard deviations of what chance alone does."""


@dataclass(slots=True)
class Ring:
    """Answers and bad ones of the last `size` steps of `step` seconds; it does not grow with how long it was fed."""

    step: int = MINUTE
    size: int = RING
    at: int = 0
    """The step that is not over."""
    answers: list[int] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers, self.bad = [0] * self.size, [0] * self.size

    def add(self, seconds: float, answers: int, bad: int) -> None:
        """What is older than the ring is left out: a clock that was set back must not count as now."""
        at = int(seconds // self.step)
        self._turn(at)
        if at > self.at - self.size:
            self.answers[at % self.size] += answers
            self.bad[at % self.size] += bad

    def over(self, seconds: float, steps: int, *, before: int = 0) -> tuple[int, int]:
        """Answers and bad ones of the last `steps`, at most `size`, the last `before` of them left out; the one that is
        not over counts as one."""
        self._turn(int(seconds // self.step))
        return sum(self._last(self.answers, steps, before)), sum(self._last(self.bad, steps, before))

    def lasting(self, seconds: float, steps: int, share: float) -> int:
        """In how many of the last `steps` at least `share` was bad."""
        self._turn(int(seconds // self.step))
        each = zip(self._last(self.answers, steps), self._last(self.bad, steps), strict=True)
        return sum(bad > 0 and bad >= share * answers for answers, bad in each)

    def _last(self, of: list[int], steps: int, before: int = 0) -> list[int]:
        end = (self.at - before) % self.size + 1
        start = end - max(0, min(steps, self.size) - before)
        return of[start:end] if start >= 0 else of[start:] + of[:end]

    def _turn(self, at: int) -> None:
        for passed in range(max(self.at + 1, at - self.size + 1), at + 1):
            self.answers[passed % self.size] = self.bad[passed % self.size] = 0
        self.at = max(self.at, at)


def sudden_share(allowed: float) -> float:
    return min(0.5, max(SUDDEN_SHARE, SUDDEN_RATE * allowed))


def sudden(fine: Ring, minutes: Ring, seconds: float, allowed: float) -> bool:
    """Whether so much fails at once that nobody should wait for the windows of FAST: of an objective of 99% with steady
    traffic they need eight minutes of total failure. `fine`: the same answers, by steps of a few seconds."""
    answers, bad = fine.over(seconds, SUDDEN_SECONDS // fine.step)
    if bad < SUDDEN_LEAST or bad < sudden_share(allowed) * answers:
        return False
    if fine.lasting(seconds, SUDDEN_SECONDS // fine.step, SUDDEN_SHARE) < SUDDEN_STEPS:
        return False
    before, bad_before = minutes.over(seconds, 11, before=1)
    return bad_before * answers * SUDDEN_MORE <= bad * before


def jumped(fine: Ring, minutes: Ring, seconds: float, allowed: float) -> bool:
    """Whether clearly more fails than in the hour before, and more than may, though not so much that it uses up what
    may fail soon: the windows of SLOW would need hours for it."""
    answers, bad = fine.over(seconds, JUMP_SECONDS // fine.step)
    if bad < LEAST_BAD or bad < JUMP_RATE * allowed * answers:
        return False
    if fine.lasting(seconds, JUMP_SECONDS // fine.step, JUMP_RATE * allowed) < JUMP_STEPS:
        return False
    before, bad_before = minutes.over(seconds, 61, before=2)
    usual = max(bad_before / before if before else 0.0, allowed / 2)
    chance = math.sqrt(answers * usual * (1 - usual) + 1)
    return bad >= JUMP_MORE * usual * answers and bad - usual * answers >= JUMP_FAR * chance


def burning(ring: Ring, seconds: float, allowed: float) -> Windows | None:
    """The windows whose rate is reached, the fast ones first. `allowed`: the share that may be bad, above 0."""
    for windows in (FAST, SLOW):
        answers, bad = ring.over(seconds, windows.long)
        limit = windows.rate * allowed
        if bad < LEAST_BAD or bad < limit * answers:
            continue
        now, bad_now = ring.over(seconds, windows.short)
        if bad_now and bad_now >= limit * now:
            return windows
    return None


def grows(points: Sequence[tuple[float, float]]) -> bool:
    """Whether it does, by nearly all pairs."""
    pairs = [(a, b) for place, a in enumerate(points) for b in points[place + 1 :] if b[0] > a[0]]
    up = sum(b[1] > a[1] for a, b in pairs)
    return len(points) >= LEAST_POINTS and up >= (1 - SURE) * len(pairs)


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
