"""What is replayed: the history of one service, and what might be declared of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.control.schedule.history import TICK_S, TICKS, Minute
from skyriver.control.schedule.tables import Floats

LEAST_START_S, MOST_START_S = 0.1, 600.0


@dataclass(frozen=True, slots=True)
class History:
    """Of one service, tick by tick."""

    begins: int
    """Seconds of the wall's clock, whole minutes."""
    work: Floats
    """(T,) replicas' work that came; NaN where nobody looked."""
    late: float
    """Measured share of the judged requests; NaN: nothing was judged."""
    service_s: float
    """Replica-seconds of a request."""
    start_s: float
    cores: float
    """The most that a replica took within five seconds, and of memory ever."""
    rss_mb: float
    judged: float = 0.0
    """Requests of which it was measured whether they were late, by what was declared then."""
    was_late: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    """(T,) measured share of each minute's requests; NaN: none was judged. Empty: only `late` is known."""

    @property
    def known_s(self) -> float:
        return float(np.isfinite(self.work).sum()) * TICK_S

    @property
    def ends(self) -> int:
        return self.begins + len(self.work) * TICK_S


def history_of(minutes: Iterable[Minute]) -> History | None:
    """None where nothing is kept."""
    kept = list(minutes)
    if not kept:
        return None
    first, last = kept[0].number, kept[-1].number
    work = np.full((last - first + 1, TICKS), np.nan)
    for minute in kept:
        work[minute.number - first] = [np.nan if came is None else came for came in minute.work]
    known_s = np.isfinite(work).sum(1) * float(TICK_S)
    judged, late = np.zeros(len(work)), np.zeros(len(work))
    for minute in kept:
        at = minute.number - first
        judged[at], late[at] = minute.judged * known_s[at], minute.late * known_s[at]
    asked, missed, came = float(judged.sum()), float(late.sum()), float(np.nansum(work)) * TICK_S
    shares = np.where(judged > 0, np.minimum(late / np.maximum(judged, 1e-9), 1.0), np.nan)
    return History(
        begins=first * 60,
        work=work.ravel(),
        late=min(missed / asked, 1.0) if asked else np.nan,
        service_s=came / asked if asked else 0.0,
        start_s=min(max(float(np.median([minute.start_s for minute in kept])), LEAST_START_S), MOST_START_S),
        cores=max(minute.cores for minute in kept),
        rss_mb=max(minute.rss_mb for minute in kept),
        judged=asked,
        was_late=np.repeat(shares, TICKS),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is declared."""

    least: int
    most: int
    latency_s: float = 0.0
    share: float = 0.99
    hold_s: float | None = None
    wake_s: float = 0.0
    idle_s: float | None = None
    slower: float = 1.0
    """Times as long as a request takes now."""

    @property
    def is_elastic(self) -> bool:
        return self.most > max(self.least, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the time that is known."""

    replicas: float
    """On the mean, those that start too."""
    late: float
    """Share of the work."""
    most: int
    """Replicas at once."""
    there: Floats = field(compare=False, repr=False)
    """(T,) replicas."""
    too_late: Floats = field(compare=False, repr=False)
    """(T,) replica-seconds of work that was late."""
    late_price: float = 0.0
    """Of a late request, in replica-hours: at which the objective just holds; 0: nothing was decided."""


@dataclass(slots=True)
class Total:
    there: Floats
    too_late: Floats
    replicas: float = 0.0
    late: float = 0.0
    most: int = 0
    late_price: float = 0.0

    @classmethod
    def of(cls, history: History) -> Total:
        return cls(np.zeros(len(history.work)), np.zeros(len(history.work)))

    def put(self, begins: int, there: NDArray[Any], too_late: NDArray[Any]) -> None:
        """What a piece of the history, that begins with this tick, says of it."""
        first, last = max(0, -begins), min(len(there), len(self.there) - begins)
        self.there[begins + first : begins + last] = there[first:last]
        self.too_late[begins + first : begins + last] = too_late[first:last]


def late_by_start(came: Floats, left_s: float | Floats, allowed_s: float | Floats, waker_s: float | Floats) -> Floats:
    """Of the work that comes in a tick, with the first replica ready in `left_s`: whoever comes so early that he waits
    too long. `waker_s`: of the request that woke it, which waits all the time; 0: nobody did."""
    early = np.clip((np.asarray(left_s) - allowed_s) / TICK_S, 0.0, 1.0)
    waker = np.where(np.asarray(left_s) > allowed_s, np.minimum(1.0, waker_s / np.maximum(came, 1e-9)), 0.0)
    late: Floats = came * np.where(np.asarray(allowed_s) > 0, np.maximum(early, waker), 0.0)
    return late
