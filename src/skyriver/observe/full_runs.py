"""What a request takes of a replica whose runs are as large as they may be. Pure.

Runs grow by themselves with what waits, and what a run costs however many rows it has is then shared by more of them.
So a replica can do more than its requests take while it is not busy, and whoever counts by that would ask for another
replica before there is need of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from skyriver.core.units import SECOND

LEAST_WORK_S: Final = 1e-5
LEAST_ROOM: Final = 0.2
"""Of the latency, that is left for chance beside a run under way and the one after it."""
_LONGEST_US: Final = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Batch:
    """Of the runs of a replica."""

    rows: int
    """That may share one."""
    fixed_s: float
    each_s: float
    """Of a row."""

    @property
    def run_s(self) -> float:
        """Of a full one."""
        return self.fixed_s + self.each_s * self.rows


@dataclass(frozen=True, slots=True)
class Taken:
    """Replica-seconds of a request."""

    full_s: float
    alone_s: float
    """In a run for itself."""
    queue_s: float
    """What it keeps one waiting that comes behind it, as if all of the latency were there for that."""
    batch: int
    """Rows of a full run; 0 where nobody says, or there is no objective."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a request took, on the mean."""

    now_s: float
    """Of a replica; of that `run_s` in so many `runs` with so many `rows`."""
    run_s: float
    runs: float
    rows: float


def in_full_runs(ran: Ran, batch: Batch, latency_s: float) -> Taken:
    """What a run costs however many rows it has is believed as far as its runs really took so long: what is measured at
    a start may be many times too much."""
    foreseen = batch.fixed_s * ran.runs + batch.each_s * ran.rows
    fixed_s = batch.fixed_s * (min(1.0, ran.run_s / foreseen) if foreseen > 0 else 0.0)
    full = max(LEAST_WORK_S, ran.now_s - fixed_s * max(0.0, ran.runs - max(ran.rows, 1.0) / batch.rows))
    alone = max(full, ran.now_s + fixed_s * max(0.0, 1.0 - ran.runs))
    room = max(LEAST_ROOM, 1.0 - 2 * batch.run_s / latency_s) if batch.rows > 1 else 1.0
    return Taken(full, alone, min(full / room, alone), batch.rows)


def batch_of(report: Mapping[str, Any]) -> Batch | None:
    """None where a replica does not tell, or nothing that can be."""
    rows, fixed, each = (report.get(what) for what in ("max_batch", "fixed_us", "each_us"))
    if not isinstance(rows, int) or rows < 1:
        return None
    if not all(isinstance(us, int | float) and 0 <= us < _LONGEST_US for us in (fixed, each)):
        return None
    return Batch(rows, float(fixed or 0) / SECOND, float(each or 0) / SECOND)
