"""What declarations would have done with what was asked of a service: each decided on by the fleet itself. Pure.

The requests are those of the past; the replicas are played: work is a fluid, a replica is there one start after it was
asked for, and a service that sleeps is woken by who asks. What the fluid of a tick cannot say is how many requests meet
by chance: it is the share that waits too long of M/M/n (Erlang C, as Sakasegawa 1977 approximates it). All declarations
begin cold, as a new service does: what is known of the past at its end would be hindsight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from skyriver.control.schedule.explaining import explain
from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.control.schedule.sleeping import LOOK_S, Habits, Seen, Terms, idle_after, observe, wakes_at
from skyriver.control.schedule.tables import Flags, Floats, Whole

LEAST_CLEARING_S: Final = 1.0
"""As `serve.scaling_kind`: what waits at a waking is worth no more replicas than clear it within this."""
STAYS_S: Final = 15.0
"""So long they stay, whatever is decided."""
HOUR_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Past:
    """What was asked of one service: (T,) each, of ticks of `tick_s`, oldest first."""

    tick_s: float
    wall: float
    """Seconds of the wall's clock when the first tick began."""
    requests: Floats
    """That came; NaN: it is not known."""
    work_s: float
    """Replica-seconds of a request."""
    start_s: float
    """From asking for a replica to its first answer."""

    @property
    def known(self) -> Flags:
        found: Flags = np.isfinite(self.requests) & (self.requests >= 0)
        return found


@dataclass(frozen=True, slots=True)
class Declared:
    rules: Rules
    sleeps: Terms | None = None
    """Of a service that may sleep."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a declaration would have done, over the ticks that are known."""

    replicas: Whole
    """(T,) that are there, those that start too."""
    late: Floats
    """(T,) requests that were not answered within the latency that is judged by."""
    late_price: float
    """Of a late request: at which the objective just holds (`explaining`); in the unit of `Rules.price`, or in
    replica-hours where that is 0."""
    hours: float
    """Of replicas, starts included."""
    requests: float

    @property
    def late_share(self) -> float:
        return float(self.late.sum()) / self.requests if self.requests else 0.0

    @property
    def changes(self) -> int:
        return int((np.diff(self.replicas) != 0).sum())


def replay(past: Past, declared: Sequence[Declared], latency_s: float) -> list[Played]:
    """Of each of the `declared` from the same past, all judged by the same `latency_s`; 0: all that is answered is in
    time."""
    fleet = Fleet(past.tick_s)
    fleet.add_all({str(number): (one.rules, None) for number, one in enumerate(declared)})
    world = _World(past, declared)
    known, requests = past.known, np.where(past.known, past.requests, 0.0)
    there = np.zeros((len(past.requests), len(declared)), np.int64)
    late = np.zeros((len(past.requests), len(declared)))
    for tick, came in enumerate(requests.tolist()):
        second = (tick + 1) * past.tick_s
        there[tick] = world.there()
        ticks, late[tick] = world.tick(came, second, latency_s, fresh=bool(known[tick]))
        world.follow(fleet.decide(ticks, second, past.wall + second), second)
    there[~known], late[~known] = 0, 0.0
    prices = [decided and explain(decided).late_price for decided in map(fleet.decided, fleet.names)]
    return [
        Played(
            replicas=there[:, lane],
            late=late[:, lane],
            late_price=float(prices[lane] or 0.0),
            hours=float(there[:, lane].sum()) * past.tick_s / HOUR_S,
            requests=float(requests.sum()),
        )
        for lane in range(len(declared))
    ]


@dataclass(slots=True)
class _Rest:
    """Of a declaration that may sleep."""

    terms: Terms
    habits: Habits = field(default_factory=Habits)
    last: float = 0.0
    asleep: bool = True
    looked: float = 0.0
    wakes: float = 0.0
    """When the first replica of the last waking is ready."""
    until: float = 0.0
    """As many as it woke with stay."""


class _World:
    """The replicas of all declarations, (N,) each."""

    def __init__(self, past: Past, declared: Sequence[Declared]) -> None:
        self._past = past
        self._rules = [one.rules for one in declared]
        self._latency = np.array([one.rules.latency_s for one in declared])
        self._rests = {n: _Rest(one.sleeps) for n, one in enumerate(declared) if one.sleeps is not None}
        self._ready = np.array([0 if n in self._rests else max(1, r.least) for n, r in enumerate(self._rules)])
        self._starting: list[list[float]] = [[] for _ in declared]
        """Seconds at which each is ready, soonest first."""
        self._backlog = np.zeros(len(declared))

    def there(self) -> Whole:
        return self._ready + np.array([len(each) for each in self._starting], np.int64)

    def tick(self, came: float, second: float, latency_s: float, *, fresh: bool) -> tuple[Ticks, Floats]:
        """What is told of it, and (N,) requests that are late by `latency_s`."""
        past, n = self._past, np.ones(len(self._rules))
        before = second - past.tick_s
        for lane, rest in self._rests.items():
            if came:
                self._wake(lane, rest, came, before)
        ready = self._serving(before, second)
        work = came * past.work_s
        self._backlog = np.maximum(self._backlog + work - ready * past.tick_s, 0.0)
        judged = self._late(came, ready, n * latency_s, before)
        late = self._late(came, ready, self._latency, before)
        possible = (self._latency == 0) | (past.work_s <= self._latency)
        ticks = Ticks(
            work=n * work,
            requests=n * came,
            judged=n * came,
            late=np.where(possible, late, 0.0),
            backlog=self._backlog.copy(),
            ready=self._ready.astype(np.float64),
            pending=np.array([float(len(each)) for each in self._starting]),
            start_s=n * past.start_s,
            service_s=np.where(possible, past.work_s, 0.0),
            fresh=np.full(len(self._rules), fresh),
        )
        self._look(came, second, fresh=fresh)
        return ticks, judged

    def _serving(self, before: float, second: float) -> Floats:
        """(N,) replicas on the mean of a tick."""
        serving = self._ready.astype(np.float64)
        for lane, starting in enumerate(self._starting):
            done = sum(at <= second for at in starting)
            serving[lane] += sum(second - max(at, before) for at in starting[:done]) / (second - before)
            del starting[:done]
            self._ready[lane] += done
        return serving

    def _late(self, came: float, ready: Floats, latency: Floats, before: float) -> Floats:
        """(N,) requests of those that came: by the fluid, by chance, or for the service slept."""
        past, work = self._past, came * self._past.work_s
        if work <= 0:
            return np.zeros(len(ready))
        by_fluid = np.clip((self._backlog - ready * latency) / work, 0.0, 1.0)
        at, free = np.maximum(ready, 1e-9), np.minimum(work / past.tick_s / np.maximum(ready, 1e-9), 1.0)
        waits = free ** (np.sqrt(2 * (at + 1)) - 1)
        too_long = waits * np.exp(-(1 - free) * at * np.maximum(latency - past.work_s, 0.0) / past.work_s)
        by_chance = np.where(past.work_s > latency, 1.0, np.where(latency < past.tick_s, too_long, 0.0))
        share = by_fluid + (1 - by_fluid) * by_chance
        for lane, rest in self._rests.items():
            if before < rest.wakes and rest.terms.allowed_s > 0:
                over_s = rest.wakes - before - rest.terms.allowed_s
                # who woke it waits for the whole start, and it is one request at least
                least = 1 / came if over_s > 0 and rest.wakes >= before + past.start_s else 0.0
                held = min(1.0, max(over_s / past.tick_s, least))
                share[lane] = held + (1 - held) * share[lane]
        return np.where(latency > 0, share, 0.0) * came

    def follow(self, wanted: Whole, second: float) -> None:
        for lane, (number, there) in enumerate(zip(wanted.tolist(), self.there().tolist(), strict=True)):
            rest = self._rests.get(lane)
            if rest is not None and rest.asleep:
                number = 0
            elif rest is not None:
                number = max(number, 1, there if second < rest.until else 0)
            self._starting[lane] += [second + self._past.start_s] * max(0, number - there)
            for _ in range(there - number):
                if self._starting[lane]:
                    self._starting[lane].pop()
                else:
                    self._ready[lane] -= 1

    def _wake(self, lane: int, rest: _Rest, came: float, second: float) -> None:
        rest.last = second + self._past.tick_s
        if not rest.asleep:
            return
        left_s = rest.terms.allowed_s - self._past.start_s
        needed = math.ceil(came * self._past.work_s / max(left_s, LEAST_CLEARING_S))
        number = min(self._rules[lane].most, max(1, needed))
        rest.asleep, rest.wakes = False, second + self._past.start_s
        rest.until = rest.wakes + STAYS_S
        self._starting[lane] += [rest.wakes] * number

    def _look(self, came: float, second: float, *, fresh: bool) -> None:
        """At those that may sleep, as often as the live loop does."""
        past = self._past
        for lane, rest in self._rests.items():
            rest.looked += came
            if not fresh or second % LOOK_S >= past.tick_s:
                continue
            now, last = past.wall + second, past.wall + rest.last if rest.last else 0.0
            held = came if not self._ready[lane] and came else 0.0
            observe(rest.habits, Seen(now, last, rest.looked, held, past.start_s))
            rest.looked = 0.0
            warming = wakes_at(rest.habits, rest.terms, now)
            is_warm = warming is not None and warming.at <= now < warming.until
            idle_s = idle_after(rest.habits, rest.terms).seconds
            if is_warm and rest.asleep:
                rest.asleep = False
                self._starting[lane].append(second + past.start_s)
            elif not rest.asleep and not is_warm and not self._backlog[lane] and second - rest.last >= idle_s:
                rest.asleep = True
