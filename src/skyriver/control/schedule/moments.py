"""When something was remembered, and whether it is still recent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_AWAY_S: Final = 600.0
"""What is recent is not any more after nobody decided for so long."""
SAME_CLOCK_S: Final = 10.0
"""By so much the clock on the wall may have been set meanwhile; else the clock that nobody sets is another one."""


@dataclass(frozen=True, slots=True)
class Moment:
    second: float
    """Of a clock that nobody sets; it begins anew with each start of a machine."""
    wall: float
    """Second, of the clock on the wall."""

    def follows(self, second: float, wall: float) -> bool:
        """MOST_AWAY_S later at most, by both clocks: one alone may have begun anew, or been set."""
        away, passed = self.second - second, self.wall - wall
        return 0 <= away <= MOST_AWAY_S and abs(passed - away) <= SAME_CLOCK_S
