"""What `_elastic_live.py` does, simulated: requests that come one by one, to replicas that answer them one by one.

The product's own controller decides, by what it would have been told; all times are of the live run (`Measured`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
from _elastic_world import Floats, Trace

from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.observe.demand import START_SHARE

SPEED, HOUR_S = 60.0, 3_600
QUIET_TICKS = 5
"""Before the first request."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of a live cloud, seconds."""

    service_s: float
    """A replica takes for a request."""
    starts_s: tuple[float, ...]
    """From each replica's row to its being ready, oldest first: those that start together are slower."""
    end_s: float
    """From the decision that a replica is one too many to its being gone, beside the requests it still has."""
    tick_s: float
    phase_s: float
    """From a whole second to the look that follows it."""
    told_s: float
    """Age of what a replica reports, when the controller reads it."""


@dataclass(frozen=True, slots=True)
class Lived:
    """A replica costs from when it was asked for to when it is gone."""

    asked: float
    gone: float


@dataclass(slots=True)
class Replayed:
    latency: Floats
    """(N,) of each request."""
    lived: list[Lived]
    wanted: list[tuple[float, int]]
    """(second, replicas) of each decision."""


@dataclass(slots=True, eq=False)
class _Replica:
    asked: float
    ready: float
    free: float
    """When it has answered all that it has."""
    gone: float = math.inf


@dataclass(slots=True)
class _World:
    arrivals: Sequence[float]
    measured: Measured
    replicas: list[_Replica]
    gone: list[_Replica] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    ends: list[tuple[float, float]] = field(default_factory=list)
    """A heap of (end, latency) that nobody told yet."""
    told: int = 0
    """Requests that came, as reported."""
    waiting: int = 0
    started: int = 0

    def until(self, second: float) -> None:
        """All requests that come before go to whoever has fewest; one replica's are answered in turn."""
        service_s = self.measured.service_s
        while len(self.latency) < len(self.arrivals) and (now := self.arrivals[len(self.latency)]) < second:
            able = [each for each in self.replicas if each.ready <= now] or self.replicas
            least = min(able, key=lambda each: max(each.free, each.ready, now))
            least.free = max(least.free, least.ready, now) + service_s
            self.latency.append(least.free - now)
            heappush(self.ends, (least.free, least.free - now))

    def look(self, second: float, latency_s: float) -> Ticks:
        """What is reported by then, since the last look."""
        seen = second - self.measured.told_s
        came = int(np.searchsorted(self.arrivals, seen))
        judged = late = 0
        while self.ends and self.ends[0][0] <= seen:
            late += heappop(self.ends)[1] > latency_s
            judged += 1
        requests, self.told = came - self.told, came
        self.waiting += requests - judged
        ready = sum(each.ready <= second for each in self.replicas)
        work_s, starts = self.measured.service_s, sorted(self.measured.starts_s[: max(1, self.started)])
        start_s = starts[min(len(starts) - 1, int(START_SHARE * len(starts)))]
        row = (requests * work_s, requests, judged, late, self.waiting * work_s)
        row += (ready, len(self.replicas) - ready, start_s, work_s)
        return Ticks(*(np.array([float(value)]) for value in row), fresh=np.array([True]))

    def follow(self, wanted: int, second: float) -> None:
        starts = self.measured.starts_s
        for _ in range(wanted - len(self.replicas)):
            self.started += 1
            self.replicas.append(_Replica(second, second + starts[self.started % len(starts)], 0.0))
        surplus = len(self.replicas) - wanted
        if surplus > 0:
            self.replicas.sort(key=lambda each: (each.ready > second, each.asked))
            for each in self.replicas[wanted:]:
                each.gone = max(each.free, second) + self.measured.end_s
            self.gone += self.replicas[wanted:]
            del self.replicas[wanted:]


def replay_requests(
    arrivals: Sequence[float], seconds: float, rules: Rules, measured: Measured, first: int
) -> Replayed:
    """From `first` replicas that are ready, and a controller that knows nothing but a quiet moment."""
    fleet = Fleet(measured.tick_s)
    fleet.add("service", rules)
    begun = measured.phase_s - QUIET_TICKS * measured.tick_s
    world = _World(arrivals, measured, [_Replica(begun, begun, begun) for _ in range(first)])
    decisions = []
    for tick in range(math.ceil(seconds / measured.tick_s) + QUIET_TICKS + 1):
        second = begun + tick * measured.tick_s
        world.until(second)
        wanted = int(fleet.decide(world.look(second, rules.latency_s), second - begun, second - begun)[0])
        decisions.append((second, wanted))
        world.follow(wanted, second)
    world.until(math.inf)
    lived = [Lived(each.asked, each.gone) for each in (*world.gone, *world.replicas)]
    return Replayed(np.array(world.latency), lived, decisions)


def replica_seconds(lived: Iterable[Lived], begin: float, end: float) -> float:
    return sum(max(0.0, min(each.gone, end) - max(each.asked, begin)) for each in lived)


def arrivals_of_steps(rng: np.random.Generator, levels: Sequence[float], seconds: float, service_s: float) -> Floats:
    """`levels`: replicas' work, of so many seconds each; a Poisson process."""
    return np.concatenate(list(_steps(rng, levels, seconds, service_s)))


def _steps(rng: np.random.Generator, levels: Sequence[float], seconds: float, service_s: float) -> Iterator[Floats]:
    for number, level in enumerate(levels):
        count = rng.poisson(level * seconds / service_s)
        yield np.sort(rng.uniform(number * seconds, (number + 1) * seconds, count))


def arrivals_of_trace(
    rng: np.random.Generator, trace: Trace, mean: float, service_s: float, last_s: int = HOUR_S
) -> Floats:
    """The last seconds of the trace, SPEED times as fast: a random part of its requests, which are the work of `mean`
    replicas on average."""
    requests = trace.requests[-last_s:].astype(np.int64)
    seconds = len(requests) / SPEED
    kept = rng.poisson(requests * (mean * seconds / service_s / requests.sum()))
    second = np.repeat(np.arange(len(requests)), kept)
    return np.sort((second + rng.uniform(0, 1, len(second))) / SPEED)
