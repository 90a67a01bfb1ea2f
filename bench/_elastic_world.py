"""A service in simulated time, for the scalers of `elastic.py`: one second a step, work as a fluid, many lanes at once.

A lane is one scaler, or one setting of one, with replicas of its own; all lanes of a world get the same requests. Work
is in replica-seconds: a replica that is ready does one a second, in the order in which it came. A request is late
whose work is not done within `deadline_s` seconds after the second in which it came. A replica costs from the moment
in which it is asked for; it works `delay_s` seconds later. One that is not ready yet is given back first, the youngest
of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
CONCURRENCY = 5
"""Requests that a replica works on at once, each at a fifth of its speed: Ray Serve's default."""
SLOT_S = 300
"""Of what is known of the days before."""


@dataclass(frozen=True, slots=True)
class Trace:
    """`work`: (T,) replica-seconds that come in each second; `requests`: (T,) how many they are; `before`: (N,) the
    mean work a second in each slot of SLOT_S seconds before the first one, oldest first."""

    name: str
    work: Floats
    requests: Floats
    before: Floats = field(default_factory=lambda: np.zeros(0))
    lead_s: int = 0
    """Of its seconds, that come before what counts: the service was there before."""

    @property
    def seconds(self) -> int:
        return len(self.work)

    def first(self) -> int:
        """Replicas that all scalers start with: one and a half times the first five minutes' need."""
        return max(1, int(np.ceil(1.5 * self.work[:300].mean())))


@dataclass(slots=True)
class Seen:
    """Of each lane, (L,) each; those of the last second unless they are totals."""

    second: int
    came: float
    """Work, of all lanes alike."""
    requests: float
    done: Floats
    """Work."""
    backlog: Floats
    """Work that waits."""
    ready: Whole
    pending: Whole
    late: Floats
    """Requests that became late: those of `deadline_s` before, of `judged`."""
    judged: float


class Scaler(Protocol):
    """It is told of every second, and decides when it wants to."""

    lanes: int

    def second(self, seen: Seen) -> Whole | None:
        """How many replicas each lane wants, ready or not; None: as before."""
        ...


@dataclass(slots=True)
class Outcome:
    """(L,) each."""

    attained: Floats
    """Share of all requests that were in time."""
    cost: Floats
    """Replica-seconds, of those that start too."""
    starts: Whole
    most: Whole


@njit(cache=True)
def _pass_second(  # pragma: no cover
    t,
    came,
    cumulative,
    came_then,
    per_work,
    wanted,
    ready,
    ring,
    pending,
    done,
    backlog,
    late,
    cost,
    starts,
    most,
    delay,
    counts,
):
    size = ring.shape[1]
    slot = t % size
    for lane in range(len(wanted)):
        ready[lane] += ring[lane, slot]
        pending[lane] -= ring[lane, slot]
        ring[lane, slot] = 0
        change = wanted[lane] - ready[lane] - pending[lane]
        if change > 0:
            starts[lane] += change if counts else 0
            if delay == 0:
                ready[lane] += change
            else:
                ring[lane, (t + delay) % size] += change
                pending[lane] += change
        elif change < 0:
            back = delay
            while change < 0 and back > 0:
                at = (t + back) % size
                given = min(-change, ring[lane, at])
                ring[lane, at] -= given
                pending[lane] -= given
                change += given
                back -= 1
            ready[lane] += change
        if counts:
            cost[lane] += ready[lane] + pending[lane]
            most[lane] = max(most[lane], ready[lane])
        work = min(backlog[lane] + came, float(ready[lane]))
        done[lane] = work
        backlog[lane] = max(0.0, backlog[lane] + came - work)
        # What has come up to now less what waits is done; what had come `deadline` ago should be among it.
        missing = cumulative[0] - (cumulative[1] - backlog[lane])
        late[lane] = min(max(missing, 0.0), came_then) * per_work


def replay(trace: Trace, scaler: Scaler, *, delay_s: int, deadline_s: int) -> Outcome:
    lanes = scaler.lanes
    wanted = np.full(lanes, trace.first(), np.int64)
    ready, pending = wanted.copy(), np.zeros(lanes, np.int64)
    ring = np.zeros((lanes, delay_s + 1), np.int64)
    done, backlog, late = np.zeros(lanes), np.zeros(lanes), np.zeros(lanes)
    cost, starts, most = np.zeros(lanes), np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    cumulative = np.concatenate((np.zeros(deadline_s), np.cumsum(trace.work)))
    came_then = np.concatenate((np.zeros(deadline_s), trace.work))
    asked_then = np.concatenate((np.zeros(deadline_s), trace.requests))
    all_late, all_asked = np.zeros(lanes), 0.0
    for t in range(trace.seconds):
        per_work = asked_then[t] / came_then[t] if came_then[t] else 0.0
        marks = (cumulative[t], cumulative[t + deadline_s])
        _pass_second(
            t, trace.work[t], marks, came_then[t], per_work, wanted,
            ready, ring, pending, done, backlog, late, cost, starts, most, delay_s, t >= trace.lead_s,
        )  # fmt: skip
        if t >= trace.lead_s + deadline_s:
            all_late += late
            all_asked += asked_then[t]
        seen = Seen(t, trace.work[t], trace.requests[t], done, backlog, ready, pending, late, asked_then[t])
        told = scaler.second(seen)
        if told is not None:
            wanted = np.maximum(told, 0)
    return Outcome(1 - all_late / max(all_asked, 1.0), cost, starts, most)
