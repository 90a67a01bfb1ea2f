"""How much usually comes at an hour of the week, and whether an hour was unusual. Pure; a few kilobytes for each thing.

The expectation is the median of the same hour of the last weeks, its spread the median absolute deviation (Rousseeuw
and Croux 1993), never below that of a Poisson process nor a tenth of what is expected: a change of the last days' level
must not be told each hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

HOUR_S: Final = 3600
WEEK: Final = 168
"""Hours."""
WEEKS: Final = 4
"""Kept of each hour."""
LEAST_WEEKS: Final = 2
FAR: Final = 6.0
"""Spreads."""
LEAST_SPREAD: Final = 20.0
"""A handful of requests by hand is no unusual hour."""
_NORMAL: Final = 1.4826
"""Of a normal distribution: standard deviations in a median absolute deviation."""


@dataclass(slots=True)
class Season:
    hour: int = -1
    """Since 1970; the one under way."""
    under_way: float = 0.0
    whole: bool = False
    """Whether it was watched from its beginning."""
    known: dict[int, list[float]] = field(default_factory=dict)
    """By the hour of the week, the oldest first."""

    def add(self, wall_s: float, amount: float) -> tuple[float, float] | None:
        """(what came, what was expected) where an hour has just ended that was unusual; it is learnt all the same."""
        hour, found = int(wall_s // HOUR_S), None
        if hour > self.hour:
            if self.whole and hour == self.hour + 1:
                found = self._judge(self.hour % WEEK, self.under_way)
                self.known.setdefault(self.hour % WEEK, []).append(self.under_way)
                del self.known[self.hour % WEEK][:-WEEKS]
            self.whole = self.hour >= 0 and hour == self.hour + 1
            self.hour, self.under_way = hour, 0.0
        self.under_way += amount
        return found

    def expected(self, wall_s: float) -> float | None:
        """Of the hour that it is; None where that is not known."""
        weeks = self.known.get(int(wall_s // HOUR_S) % WEEK, ())
        return median(weeks) if len(weeks) >= LEAST_WEEKS else None

    def _judge(self, place: int, came: float) -> tuple[float, float] | None:
        weeks = self.known.get(place, ())
        if len(weeks) < LEAST_WEEKS:
            return None
        usual = median(weeks)
        spread = max(_NORMAL * median(abs(week - usual) for week in weeks), usual**0.5, 0.1 * usual, LEAST_SPREAD)
        return (came, usual) if abs(came - usual) > FAR * spread else None

    def to_json(self) -> Mapping[str, Any]:
        return {str(place): weeks for place, weeks in self.known.items()}

    @classmethod
    def of(cls, document: Mapping[str, Sequence[float]]) -> Season:
        known = {int(place): [float(week) for week in weeks][-WEEKS:] for place, weeks in document.items()}
        return cls(known={place: weeks for place, weeks in known.items() if 0 <= place < WEEK})
