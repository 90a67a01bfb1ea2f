"""What a turn takes where a stream declares within what time its events are decided, and what is told of it.

Turns are then no longer than the objective allows (`overload.Cost`). While the worker sheds, a turn is either of events
that can still be decided in time, or of those that cannot: these are not held up by a model that is not asked for them.
They are taken in the order in which they came, as ever.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from skyriver.core.units import SECOND, format_duration
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.worker.overload import FIRST_ROWS, LOOK_US, Cost, Objective, Seen, State, Step, advance
from skyriver.decide.worker.work import EventWork, Turn, Work, next_turn

WINDOW_US = 10 * SECOND
"""What is said of now is said of so long."""
RATE_US = SECOND // 2
"""Over which the rate of what comes is smoothed."""
PROBE_US = SECOND
"""So often an event is scored though it cannot be in time: else nobody would see that turns have become faster."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """Counts up to a look."""

    at: int
    events: int = 0
    in_time: int = 0
    shed: int = 0


class Pacer:
    """One thread. `now` is monotonic, `wall` is wall time, microseconds; `arrived` of submissions are by the first."""

    def __init__(self, objective: Objective, now: Callable[[], int], wall: Callable[[], int]) -> None:
        self.objective = objective
        self._now, self._wall = now, wall
        self._ladder = (Step.FULL, Step.SHED)
        self._cost = Cost(objective.share)
        start = now()
        self._state = State(since=start, uneasy_at=start)
        self._since = wall()
        """Of the step."""
        self._why = ""
        self._counts = _Told(start)
        self._looks = deque([_Told(start)])
        """Of the last WINDOW_US."""
        self._taken = self._waited = 0
        """Rows of events that turns took since the last look, and rows that waited then."""
        self._standing = -1
        self._scored_at = start
        self._rate_in = 0.0
        self._most = 1

    @property
    def step(self) -> Step:
        return self._ladder[self._state.place]

    def take(self, queue: deque[Work], waiting: int, room: int) -> Turn:
        """The next turn, of at most `room` rows; `waiting` are there."""
        now, self._most = self._now(), room
        if now - self._looks[-1].at >= LOOK_US:
            self._look(now, waiting)
        first = next((work for work in queue if isinstance(work, EventWork)), None)
        if first is None:
            return next_turn(queue, room)
        latency = self.objective.latency_us
        batch = self._cost.batch(latency, room)
        waited = now - first.submission.arrived
        self._standing = waited if self._standing < 0 else min(self._standing, waited)
        if self.step is not Step.SHED:
            turn = _turn(queue, room, batch or FIRST_ROWS)
        else:
            # What came before it cannot be decided in time; where no turn can, what has waited for so long already.
            last = now - latency + (math.ceil(self._cost.bound_us(min(batch, waiting))) if batch else 0)
            if first.submission.arrived >= last:
                turn = _turn(queue, room, batch or 1, lambda work: work.submission.arrived >= last)
            elif now - self._scored_at >= PROBE_US:
                turn = _turn(queue, room, batch or 1)
            else:
                turn = _turn(queue, room, room, lambda work: work.submission.arrived < last)
                turn.effort = Effort.SHED
        if turn.effort is Effort.FULL:
            self._scored_at = now
        self._taken += sum(len(part) for _, part in turn.events)
        return turn

    def done(self, turn: Turn, took_us: int) -> None:
        """Its decisions are durable."""
        now, counts, latency = self._now(), self._counts, self.objective.latency_us
        rows = sum(len(part) for _, part in turn.events)
        counts.events += rows
        if turn.effort is Effort.SHED:
            counts.shed += rows
            return
        self._cost.note(rows, took_us)
        counts.in_time += sum(len(part) for _, part in turn.events if now - part.arrived <= latency)

    def rest(self, waiting: int) -> None:
        """Now and then, while there is nothing to do."""
        now = self._now()
        if now - self._looks[-1].at >= LOOK_US:
            self._look(now, waiting)

    def report(self) -> dict[str, Any]:
        first, last = self._looks[0], self._counts
        events = last.events - first.events
        known = self._cost.turns > 0
        return {
            "step": self.step,
            "since": self._since,
            "latency_us": self.objective.latency_us,
            "share": self.objective.share,
            "in_time": round((last.in_time - first.in_time) / events, 4) if events else None,
            "shed": round((last.shed - first.shed) / events, 4) if events else None,
            "shed_events": last.shed,
            "rate_in": round(self._rate_in, 1),
            "capacity": round(self._cost.rate(self.objective.latency_us, self._most), 1) if known else None,
            "why": self._why,
        }

    def metrics(self) -> list[tuple[str, str, str, float]]:
        told = self.report()
        found: list[tuple[str, str, str, float]] = [
            (
                "skyriver_shedding",
                "gauge",
                "1: events that cannot be decided in time are shed.",
                told["step"] == Step.SHED,
            ),
            ("skyriver_shed_events_total", "counter", "Events shed since the start.", told["shed_events"]),
        ]
        if told["in_time"] is not None:
            what = "Share of the events scored within the declared latency, over the last 10 s."
            found.append(("skyriver_in_time_share", "gauge", what, told["in_time"]))
        if told["capacity"] is not None:
            what = "Events a second that can be scored within the declared latency."
            found.append(("skyriver_capacity_events_per_second", "gauge", what, told["capacity"]))
        return found

    def _look(self, now: int, waiting: int) -> None:
        before, counts, latency = self._looks[-1], self._counts, self.objective.latency_us
        elapsed = now - before.at
        came = max(0, self._taken + waiting - self._waited)
        newest = 1 - math.exp(-elapsed / RATE_US)
        self._rate_in += newest * (came * SECOND / elapsed - self._rate_in)
        if self._rate_in < 0.01:
            self._rate_in = 0.0
        rate = self._cost.rate(latency, self._most)
        standing = max(0, self._standing) if waiting else 0
        seen = Seen(now, waiting, standing, self._rate_in, rate, rate, counts.shed - before.shed)
        self._taken, self._waited, self._standing = 0, waiting, -1
        self._looks.append(_Told(now, counts.events, counts.in_time, counts.shed))
        while now - self._looks[0].at > WINDOW_US:
            self._looks.popleft()
        state = advance(self._state, seen, self.objective, self._ladder)
        if state.place != self._state.place:
            self._tell(state.place > self._state.place, self._ladder[state.place], seen)
        self._state = state

    def _tell(self, up: bool, step: Step, seen: Seen) -> None:
        """A step was taken."""
        within = format_duration(self.objective.latency_us)
        self._since = self._wall()
        self._why = (
            f"{seen.rate_in:,.0f} events/s come, {seen.rate_out:,.0f} can be decided within {within};"
            f" {seen.waiting:,} wait"
        )
        to = f"to {step}" if up else f"back to {step}"
        (_log.warning if up else _log.info)("%s: %s", to, self._why)


def pacer_of(live: Mapping[str, Any], now: Callable[[], int], wall: Callable[[], int]) -> Pacer | None:
    """For the objective of these live settings, if they have one."""
    told = live.get("objective")
    if not told:
        return None
    return Pacer(Objective(int(told["latency_us"]), float(told["share"])), now, wall)


def _turn(queue: deque[Work], room: int, events: int, fits: Callable[[EventWork], bool] = lambda work: True) -> Turn:
    """Of at most so many events, up to the first request that does not fit; the first one does."""
    return next_turn(queue, room, lambda work, taken: events - taken if fits(work) else 0)
