"""How fast a queue is worked off, and whether a request that comes now has time for its turn; pure."""

from __future__ import annotations

_KEPT = 0.9
"""A mean over some ten runs."""
_SPENT_WAITING = 0.8
"""Of the time that a request has. The rest is for the way back, and for turns that take longer than the mean."""


class Pace:
    """Learned while one run follows another: what is measured is all that a row costs, from bytes to bytes, not the
    model's part alone."""

    __slots__ = ("row_ns",)

    def __init__(self, row_ns: float = 0.0) -> None:
        self.row_ns = row_ns
        """0: nothing is known yet."""

    def note(self, rows: int, nanoseconds: int) -> None:
        """So many rows were worked off in so long a time, in which there was always one that waited."""
        cost = nanoseconds / max(rows, 1)
        self.row_ns = cost if not self.row_ns else self.row_ns * _KEPT + cost * (1 - _KEPT)

    def leaves_time(self, rows_ahead: int, left_ns: int) -> bool:
        """Whether somebody who has `left_ns` gets a turn behind `rows_ahead` soon enough. With nobody ahead always:
        only a run can show that the pace is another by now."""
        return not rows_ahead or rows_ahead * self.row_ns <= _SPENT_WAITING * left_ns
