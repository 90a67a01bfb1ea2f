"""What a turn takes where a stream declares within what time its events are decided, and what is told of it.

Turns are then no longer than the objective allows (`overload.Cost`). While the worker sheds, a turn is either of events
that can still be decided in time, or of those that cannot: these are not held up by a model that is not asked for them.
They are taken in the order in which they came, as ever. Labels, references and reads are no load of events: they are
neither counted among what waits and comes nor in what a turn of events takes, and a turn has only a part of the time
for them.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from skyriver.core.units import SECOND, format_duration
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.worker.overload import (
    FASTER,
    FIRST_ROWS,
    LOOK_US,
    TRIED,
    VAIN_US,
    Around,
    Cost,
    Objective,
    Seen,
    State,
    Step,
    advance,
)
from skyriver.decide.worker.work import ChangeWork, EventWork, LoadWork, Turn, Work, next_turn

WINDOW_US = 10 * SECOND
"""What is said of now is said of so long."""
RATE_US = SECOND // 2
"""Over which the rate of what comes is smoothed."""
LOAD_US = 2 * SECOND
"""Over which is counted what the thread does: a large request, or several at once, are none of a load's."""
PROBE_US = SECOND
"""So often, at most, who is not asked any more is asked all the same: else nobody would see that it has become fast."""

BESIDES = 4
"""All but events gets turns as if the latency were this part of it: an eighth of it for what they take."""

LADDERS = {
    (threads, cheaper): (Step.FULL, *(Step.THREADS,) * threads, *(Step.CHEAPER,) * cheaper, Step.SHED)
    for threads in (False, True)
    for cheaper in (False, True)
}
"""With more threads, and with a cheaper version."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """Counts up to a look."""

    at: int
    events: int = 0
    in_time: int = 0
    shed: int = 0
    cheaper: int = 0
    threads: int = 0
    came: int = 0
    besides: int = 0
    """Rows of all but events."""
    scoring_us: int = 0
    """That turns waited for scores."""
    recording_us: int = 0
    """That turns took else for events: features, rules, the log and its disk."""
    besides_us: int = 0
    between_us: int = 0
    """That was spent on reading and answering."""


class Pacer:
    """One thread. `now` is monotonic, `wall` is wall time, microseconds; `arrived` of submissions are by the first."""

    def __init__(self, objective: Objective, now: Callable[[], int], wall: Callable[[], int]) -> None:
        self.objective = objective
        self._now, self._wall = now, wall
        self._ladder: tuple[Step, ...] = LADDERS[False, False]
        self._costs = {effort: Cost(objective.share) for effort in Effort}
        """That of SHED is what any turn of events takes but for its scores, so each turn tells it."""
        self._around = Around()
        self._besides = Cost(objective.share)
        """Of rows that are none of events."""
        self._beside = FIRST_ROWS
        """Such rows that a turn may take."""
        start = now()
        self._state = State(since=start, uneasy_at=start)
        self._since = wall()
        """Of the step."""
        self._why = ""
        self._is_wide = False
        """More threads are taken, or would be but for the cheaper version."""
        self._vain_until = start
        """Until when they are not, for they brought nothing."""
        self._late_by = ""
        self._late_since = 0
        """Since when events are late though no step would mend it; wall time, 0: they are not."""
        self._counts = _Told(start)
        self._looks = deque([_Told(start)])
        """Of the last WINDOW_US."""
        self._taken = self._waited = self._refused = 0
        """Rows of events that turns took since the last look, that waited then, and that were refused since."""
        self._standing = -1
        self._asked_at = dict.fromkeys(Effort, start)
        self._rate_in = 0.0
        self._most = 1

    @property
    def step(self) -> Step:
        return self._ladder[self._state.place]

    def keep(self, objective: Objective) -> None:
        """This one from now on; what was learnt and counted stays, and so does the step, until the next looks."""
        self.objective = objective
        for cost in (*self._costs.values(), self._besides):
            cost.keep(objective.share)
        self._beside = self._besides.batch(objective.latency_us // BESIDES, self._most)

    def know(self, *, cheaper: bool) -> None:
        """Whether there is a cheaper version."""
        ladder = LADDERS[self.objective.cpus > 1 and self._now() >= self._vain_until, cheaper]
        self._climb(ladder)

    def _climb(self, ladder: tuple[Step, ...]) -> None:
        if ladder is not self._ladder:
            step = self.step if self.step in ladder else Step.FULL
            self._since = self._since if step is self.step else self._wall()
            self._ladder, self._state = ladder, replace(self._state, place=ladder.index(step))
            self._widen()

    def take(self, queue: deque[Work], waiting: int, room: int, others: int = 0) -> Turn:
        """The next turn, of at most `room` rows; `waiting` of events are there, and `others`."""
        now, self._most = self._now(), room
        if now - self._looks[-1].at >= LOOK_US:
            self._look(now, waiting)
        first = next((work for work in queue if isinstance(work, EventWork)), None)
        if first is None:
            return next_turn(queue, room, besides=self._beside)
        arrived = first.submission.arrived
        self._standing = now - arrived if self._standing < 0 else min(self._standing, now - arrived)
        effort = self._scoring
        if effort in (Effort.THREADS, Effort.CHEAPER) and self.step is not Step.SHED and self._is_due(self._below, now):
            effort = self._below  # else nobody would see that it would do again
        turn = self._turn(queue, waiting, others, arrived, effort)
        turn.threads = self.objective.cpus if self._is_wide and turn.effort is not Effort.FULL else 1
        if turn.effort is not Effort.SHED:
            self._asked_at[turn.effort] = now
        self._taken += sum(len(part) for _, part in turn.events)
        return turn

    def _turn(self, queue: deque[Work], waiting: int, others: int, arrived: int, effort: Effort) -> Turn:
        """Of one sort, by the first request with events, which arrived then."""
        now, room, latency, cost = self._now(), self._most, self.objective.latency_us, self._costs[effort]
        beside = self._beside
        besides_us = self._besides.bound_us(min(beside, others)) if others else 0
        batch = cost.batch(latency, room, besides_us)
        if self.step is not Step.SHED or not self._state.helps:
            turn = _next(queue, room, batch, beside)
        else:
            # What came before it cannot be decided in time.
            last = now - math.floor(cost.target_us(latency) - cost.bound_us(min(batch, waiting)) - besides_us)
            if arrived < last and not self._is_due(effort, now):
                # And what this turn makes late: else turns that shed alone would follow each other.
                lasts = math.ceil(self._costs[Effort.SHED].bound_us(min(room, waiting)))
                turn = _next(queue, room, room, beside, lambda work: work.submission.arrived < last + lasts)
                turn.effort = Effort.SHED
                return turn
            late = arrived < last
            turn = _next(queue, room, batch, beside, lambda work: late or work.submission.arrived >= last)
        turn.effort = effort
        return turn

    def _is_due(self, effort: Effort, now: int) -> bool:
        """A turn takes half of the latency at most, so this takes a twentieth of the time."""
        return now - self._asked_at[effort] >= max(PROBE_US, 10 * self.objective.latency_us)

    @property
    def _scoring(self) -> Effort:
        """Who is asked for the events that are scored."""
        if self.step in (Step.CHEAPER, Step.SHED) and Step.CHEAPER in self._ladder:
            return Effort.CHEAPER
        return Effort.THREADS if self.step is not Step.FULL and Step.THREADS in self._ladder else Effort.FULL

    @property
    def _below(self) -> Effort:
        """Who would be with the step below."""
        if self.step is Step.SHED:
            return self._scoring  # a worker that sheds scores by it all the same
        wide = self.step is Step.CHEAPER and Step.THREADS in self._ladder
        return Effort.THREADS if wide else Effort.FULL

    def _widen(self) -> None:
        """More threads are tried anew each time that they are taken."""
        wide = self.step is not Step.FULL and Step.THREADS in self._ladder
        if wide and not self._is_wide:
            self._costs[Effort.THREADS] = self._costs[Effort.FULL].guess()
        self._is_wide = wide

    @property
    def _gain(self) -> float:
        """Times as many events a second with more threads; 0: not known."""
        one, more = self._costs[Effort.FULL], self._costs[Effort.THREADS]
        tried = self._is_wide and more.turns >= TRIED
        return one.us(round(more.rows)) / max(1.0, more.us(round(more.rows))) if tried else 0.0

    def refused(self, rows: int) -> None:
        """So many events came and found no room."""
        self._refused += rows

    def done(self, turn: Turn, took_us: int) -> None:
        """Its decisions are durable."""
        now, counts, latency = self._now(), self._counts, self.objective.latency_us
        if len(turn.events) < len(turn.works):
            self._note_besides(turn)
        rows, took_us = sum(len(part) for _, part in turn.events), max(0, took_us - turn.besides_us)
        counts.besides, counts.besides_us = counts.besides + turn.besides, counts.besides_us + turn.besides_us
        counts.between_us += turn.before_us
        if not rows:
            return
        counts.events += rows
        rest_us = max(0, took_us - turn.scoring_us)
        counts.scoring_us, counts.recording_us = counts.scoring_us + turn.scoring_us, counts.recording_us + rest_us
        self._costs[Effort.SHED].note(rows, rest_us)
        if turn.effort is Effort.SHED:
            counts.shed += rows
            return
        self._costs[turn.effort].note(rows, took_us)
        counts.cheaper += rows if turn.effort is Effort.CHEAPER else 0
        counts.threads += rows if turn.threads > 1 else 0
        counts.in_time += sum(len(part) for _, part in turn.events if now - part.arrived <= latency)

    def _note_besides(self, turn: Turn) -> None:
        besides = turn.besides
        if besides and not any(isinstance(work, ChangeWork | LoadWork) for work in turn.others):
            self._besides.note(besides, turn.besides_us)
            self._beside = self._besides.batch(self.objective.latency_us // BESIDES, self._most)

    def rest(self, waiting: int) -> None:
        """Now and then, while there is nothing to do."""
        now = self._now()
        if now - self._looks[-1].at >= LOOK_US:
            self._look(now, waiting)

    def report(self) -> dict[str, Any]:
        first, last = self._looks[0], self._counts
        events = last.events - first.events
        cost = self._costs[self._scoring]
        return self._report_threads(events, last.threads - first.threads) | {
            "step": self.step,
            "since": self._since,
            "latency_us": self.objective.latency_us,
            "share": self.objective.share,
            "in_time": round((last.in_time - first.in_time) / events, 4) if events else None,
            "shed": round((last.shed - first.shed) / events, 4) if events else None,
            "shed_events": last.shed,
            "cheaper": round((last.cheaper - first.cheaper) / events, 4) if events else None,
            "rate_in": round(self._rate_in, 1),
            "capacity": round(self._rate(self._scoring), 1) if cost.turns else None,
            "alone_us": round(cost.bound_us(1)) if cost.turns else None,
            "why": self._why,
            "late_since": self._late_since,
            "late_by": self._late_by,
            "busy": self._busy(self._now()),
        }

    def _report_threads(self, events: int, threads: int) -> dict[str, Any]:
        cpus = self.objective.cpus
        if cpus == 1:
            return {}
        told = {"most": cpus, "share": round(threads / events, 4) if events else None, "gain": round(self._gain, 2)}
        return {"threads": told | {"in_vain": self._now() < self._vain_until}}

    def metrics(self) -> list[tuple[str, str, str, float]]:
        told = self.report()
        found: list[tuple[str, str, str, float]] = [
            (
                "skyriver_shedding",
                "gauge",
                "1: events that cannot be decided in time are shed.",
                float(told["step"] == Step.SHED),
            ),
            ("skyriver_shed_events_total", "counter", "Events shed since the start.", told["shed_events"]),
            (
                "skyriver_cheaper_events_total",
                "counter",
                "Events that the cheaper version scored since the start.",
                self._counts.cheaper,
            ),
        ]
        if self.objective.cpus > 1:
            what = "That scoring may take now."
            found.append(
                ("skyriver_scoring_threads", "gauge", what, float(self.objective.cpus if self._is_wide else 1))
            )
        if told["in_time"] is not None:
            what = "Share of the events scored within the declared latency, over the last 10 s."
            found.append(("skyriver_in_time_share", "gauge", what, told["in_time"]))
        if told["capacity"] is not None:
            what = "Events a second that can be read, scored within the declared latency, and answered."
            found.append(("skyriver_capacity_events_per_second", "gauge", what, told["capacity"]))
        return found

    def _look(self, now: int, waiting: int) -> None:
        before, counts, latency = self._looks[-1], self._counts, self.objective.latency_us
        elapsed = now - before.at
        came = max(0, self._taken + waiting - self._waited) + self._refused
        counts.came += came
        newest = 1 - math.exp(-elapsed / RATE_US)
        self._rate_in += newest * (came * SECOND / elapsed - self._rate_in)
        if self._rate_in < 0.01:
            self._rate_in = 0.0
        self._look_around(now)
        cost, lately = self._costs[self._scoring], self._over(now)
        rate, below = self._rate(self._scoring), self._rate(self._below)
        standing = max(0, self._standing) if waiting else 0
        seen = Seen(
            now,
            waiting,
            standing,
            self._rate_in,
            rate,
            below,
            cost.target_us(latency),
            counts.shed - before.shed,
            self._rate(Effort.SHED),
            lately.came * SECOND / lately.at,
        )
        self._taken, self._waited, self._refused, self._standing = 0, waiting, 0, -1
        self._looks.append(replace(counts, at=now))
        while now - self._looks[0].at > WINDOW_US:
            self._looks.popleft()
        if self._state.breaks and 0 < self._gain < FASTER and self._scoring is Effort.THREADS:
            self._give_up_threads(now)
        state = advance(self._state, seen, self.objective, self._ladder)
        if state.place != self._state.place:
            self._tell(state.place > self._state.place, self._ladder[state.place], seen)
        if bool(state.late_since) != bool(self._state.late_since):
            self._late_since = self._wall() if state.late_since else 0
        self._late_by = self._by(self._busy(now)) if state.late_since else ""
        self._state = state
        self._widen()

    def _give_up_threads(self, now: int) -> None:
        told = "%d threads decide %.2f times as many events as one: not taken for %s"
        _log.info(told, self.objective.cpus, self._gain, format_duration(VAIN_US))
        self._vain_until = now + VAIN_US
        self._climb(LADDERS[False, Step.CHEAPER in self._ladder])

    def _over(self, now: int, us: int = LOAD_US) -> _Told:
        """What was counted lately; `at` is how long that is."""
        first = next((look for look in self._looks if now - look.at <= us), self._looks[-1])
        then, last = asdict(first), asdict(self._counts)
        return _Told(**{what: last[what] - then[what] for what in last if what != "at"}, at=max(1, now - first.at))

    def _busy(self, now: int) -> dict[str, float]:
        """Shares of the time, lately."""
        lately = self._over(now, WINDOW_US)
        spent = {
            "scoring": lately.scoring_us,
            "recording": lately.recording_us,
            "labels": lately.besides_us,
            "answering": lately.between_us,
        }
        return {what: round(min(1.0, us / lately.at), 3) for what, us in spent.items()}

    def _by(self, busy: dict[str, float]) -> str:
        """What takes most of the time. Of two that take about as much it is the same at each look."""
        most = max(busy, key=lambda what: busy[what])
        return self._late_by if self._late_by and busy[most] < 1.5 * busy[self._late_by] else most

    def _look_around(self, now: int) -> None:
        """What an event costs besides its turn. Reading and answering is shared by rows, whatever they are of."""
        lately = self._over(now)
        rows = lately.events + lately.besides
        each = lately.between_us / rows if lately.events else self._around.each_us
        besides_us = lately.besides_us + (lately.between_us * lately.besides / rows if rows else 0.0)
        most_us = self._besides.bound_us(self._beside) + each * self._beside if self._besides.turns else 0.0
        self._around = Around(each, min(1.0, besides_us / lately.at), most_us)

    def _rate(self, effort: Effort) -> float:
        """Events a second with it; 0: not known."""
        return self._costs[effort].rate(self.objective.latency_us, self._most, self._around)

    def _tell(self, up: bool, step: Step, seen: Seen) -> None:
        """A step was taken."""
        latency = self.objective.latency_us
        within = f"within {format_duration(latency)}"
        if seen.within_us != latency:
            within = f"(one alone takes up to {seen.within_us / 4_000:,.1f} ms)"
        self._since = self._wall()
        self._why = (
            f"{seen.rate_in:,.0f} events/s come, {seen.rate_out:,.0f} can be decided {within}; {seen.waiting:,} wait"
        )
        to = f"to {step}" if up else f"back to {step}"
        (_log.warning if up else _log.info)("%s: %s", to, self._why)


def pacer_of(
    live: Mapping[str, Any], now: Callable[[], int], wall: Callable[[], int], before: Pacer | None = None
) -> Pacer | None:
    """For the objective of these live settings, if they have one: the one of `before`, which goes on."""
    told = live.get("objective")
    if not told:
        return None
    objective = Objective(int(told["latency_us"]), float(told["share"]), int(told.get("cpus", 1)))
    if before is None:
        return Pacer(objective, now, wall)
    before.keep(objective)
    return before


def _next(
    queue: deque[Work],
    room: int,
    events: int,
    besides: int,
    fits: Callable[[EventWork], bool] = lambda work: True,
) -> Turn:
    """Of at most so many events, and rows besides, up to the first request that does not fit; the first one does."""
    return next_turn(queue, room, lambda work, taken: events - taken if fits(work) else 0, besides)
