"""Scalers of others, by the rules that their documentation (and where it is silent, their source) states.

In this world a replica serves one request at a time and a request is one replica-second on average: requests in service
are the work done in a second, requests that wait are the backlog. All lanes of a scaler are settings of it, one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from _elastic_world import CONCURRENCY, Floats, Seen, Trace, Whole

SYNC_S = 15


class Recent:
    """Means over the last seconds, per lane; over those there are when there are fewer."""

    def __init__(self, lanes: int, most_s: int) -> None:
        self._totals, self._lanes, self._seconds = np.zeros((most_s + 1, lanes)), np.arange(lanes), 0

    def add(self, values: Floats | float) -> None:
        before = self._totals[self._seconds % len(self._totals)]
        self._seconds += 1
        self._totals[self._seconds % len(self._totals)] = before + values

    def mean(self, window_s: Whole) -> Floats:
        there = np.minimum(window_s, self._seconds)
        begun = self._totals[(self._seconds - there) % len(self._totals), self._lanes]
        now = self._totals[self._seconds % len(self._totals)]
        return (now - begun) / np.maximum(there, 1)


class Highest:
    """The highest of what was wished in the last seconds, per lane; of wishes that are `every_s` apart."""

    def __init__(self, window_s: Whole, every_s: int) -> None:
        self._steps, self._wishes = window_s // every_s, np.zeros((int(window_s.max()) // every_s + 1, len(window_s)))
        self._number = 0

    def of(self, wish: Whole) -> Whole:
        size = len(self._wishes)
        self._wishes[self._number % size] = wish
        age = (self._number - np.arange(size)) % size
        self._number += 1
        found: Whole = np.where(age[:, None] <= self._steps, self._wishes, 0).max(axis=0).astype(np.int64)
        return found


def _columns(settings: Sequence[object], *names: str) -> list[Floats]:
    return [np.array([getattr(setting, name) for setting in settings], np.float64) for name in names]


def _seconds(settings: Sequence[object], name: str) -> Whole:
    return np.array([getattr(setting, name) for setting in settings], np.int64)


class Fixed:
    """As many replicas all the time."""

    def __init__(self, replicas: Sequence[int]) -> None:
        self.lanes, self._replicas = len(replicas), np.array(replicas, np.int64)

    def second(self, seen: Seen) -> Whole | None:
        return self._replicas if seen.second == 0 else None

    @staticmethod
    def peak(trace: Trace) -> int:
        """What its highest minute needs."""
        minute = np.convolve(trace.work, np.ones(60) / 60, "valid")
        return max(1, int(np.ceil(minute.max())))


@dataclass(frozen=True, slots=True)
class HpaSetting:
    """`window_s`: of the metric."""

    target: float = 0.8
    stabilization_s: int = 300
    window_s: int = 30


class HpaBehavior:
    """From a wish to replicas, as autoscaling/v2 does by default (kubernetes.io, "Horizontal Pod Autoscaling", "Default
    behavior", and the reference of HorizontalPodAutoscalerBehavior): up at once, by the higher of four pods and 100% in
    15 s; down to the highest wish of the last five minutes."""

    def __init__(self, stabilization_s: Whole) -> None:
        self._highest, self._begun = Highest(stabilization_s, SYNC_S), False

    def of(self, wish: Whole, current: Whole) -> Whole:
        if not self._begun:
            self._highest.of(current)
            self._begun = True
        down = self._highest.of(wish)
        steady = np.minimum(np.maximum(current, wish), down)
        return np.maximum(np.minimum(steady, np.maximum(2 * current, current + 4)), 1)


class Hpa:
    """Kubernetes' HorizontalPodAutoscaler on CPU, autoscaling/v2.

    kubernetes.io, "Horizontal Pod Autoscaling" ("Algorithm details"): every 15 s replicas = ceil(current x usage /
    target), nothing within a tolerance of 0.1, pods that are not ready yet are set aside, and count as using nothing
    when that would scale up; the reference of HorizontalPodAutoscalerSpec: 80% CPU is the metric when none is given;
    and the source, pkg/controller/podautoscaler/replica_calculator.go, for what "set aside" means: a pod counts once it
    has been ready for a window of the metric. metrics-server, "FAQ": scraped every 15 s; the window is 30 s here, and
    the last scrape seven seconds old.
    """

    TOLERANCE = 0.1

    def __init__(self, settings: Sequence[HpaSetting] = (HpaSetting(),)) -> None:
        self.lanes = len(settings)
        (self._target,) = _columns(settings, "target")
        self._window = _seconds(settings, "window_s")
        self._behavior = HpaBehavior(_seconds(settings, "stabilization_s"))
        self._done, self._ready = Recent(self.lanes, 120), Recent(self.lanes, 120)
        self._last_ready = np.zeros((int(self._window.max()), self.lanes), np.int64)
        self._usage = np.zeros(self.lanes)

    def second(self, seen: Seen) -> Whole | None:
        self._done.add(seen.done)
        self._ready.add(seen.ready)
        if seen.second == 0:
            self._last_ready[:] = seen.ready
        self._last_ready[seen.second % len(self._last_ready)] = seen.ready
        if seen.second % SYNC_S == SYNC_S // 2:
            self._usage = self._done.mean(self._window) / np.maximum(self._ready.mean(self._window), 1e-9)
        if seen.second % SYNC_S != SYNC_S - 1:
            return None
        current = seen.ready + seen.pending
        counted = np.minimum(self._last_ready.min(axis=0), seen.ready)
        return self._behavior.of(self.wish(self._usage, counted, current), current)

    def wish(self, usage: Floats, counted: Whole, current: Whole) -> Whole:
        """`usage`: mean share of a replica that is busy; `counted`: pods that are not set aside."""
        ratio = usage / self._target
        plain = np.where(np.abs(1 - ratio) <= self.TOLERANCE, current, _up(ratio * counted))
        spread = ratio * counted / np.maximum(current, 1)
        careful = np.where(spread <= 1 + self.TOLERANCE, current, _up(spread * current))
        wish = np.where((counted < current) & (ratio > 1), careful, plain)
        return np.where(counted > 0, wish, current)


def _up(replicas: Floats) -> Whole:
    """The next whole number, but for what arithmetic leaves."""
    return np.ceil(replicas - 1e-9).astype(np.int64)


@dataclass(frozen=True, slots=True)
class KedaSetting:
    """`target`: of what a replica can do, the threshold; `window_s`: of the query's `rate`."""

    target: float = 0.8
    stabilization_s: int = 300
    window_s: int = 120


class Keda:
    """KEDA with the Prometheus scaler, which feeds an HPA.

    keda.sh, "Prometheus" (scaler): the example's query is sum(rate(http_requests_total[2m])), its threshold, which has
    no default, is a rate a replica: here 80% of what a replica can do, as the HPA's own metric has it. "ScaledObject
    specification": polled every 30 s, which matters from zero to one only (the HPA asks for the value whenever it
    syncs, unless it is cached), cooldown 300 s to zero, the metric is an AverageValue, so replicas are ceil(rate /
    threshold), within the HPA's tolerance, and its default behavior. Prometheus scrapes every 15 s and counts requests
    when they come, those that wait too.
    """

    POLLING_S, COOLDOWN_S = 30, 300

    def __init__(self, settings: Sequence[KedaSetting] = (KedaSetting(),)) -> None:
        self.lanes = len(settings)
        (self._threshold,) = _columns(settings, "target")
        self._window = _seconds(settings, "window_s")
        self._behavior = HpaBehavior(_seconds(settings, "stabilization_s"))
        self._requests = Recent(self.lanes, int(self._window.max()))
        self._rate = np.zeros(self.lanes)
        self._active = np.zeros(self.lanes, np.int64)

    def second(self, seen: Seen) -> Whole | None:
        self._requests.add(seen.requests)
        if seen.second % SYNC_S == SYNC_S // 2:
            self._rate = self._requests.mean(self._window)
        if seen.second % SYNC_S != SYNC_S - 1:
            return None
        current = seen.ready + seen.pending
        polled = seen.second % self.POLLING_S == self.POLLING_S - 1
        self._active[(self._rate > 0) & polled] = seen.second
        wanted = self._behavior.of(self.wish(self._rate, current), current)
        woken = np.where((self._rate > 0) & polled, 1, 0)
        idle = (self._rate == 0) & (seen.second - self._active >= self.COOLDOWN_S)
        return np.where(current == 0, woken, np.where(idle, 0, wanted))

    def wish(self, rate: Floats, current: Whole) -> Whole:
        ratio = rate / (self._threshold * np.maximum(current, 1))
        return np.where(np.abs(1 - ratio) <= Hpa.TOLERANCE, current, _up(rate / self._threshold))


@dataclass(frozen=True, slots=True)
class KpaSetting:
    """`target`: utilisation of the requests that a replica serves at a time."""

    target: float = 0.7
    stable_s: int = 60
    scale_down_delay_s: int = 0


class Kpa:
    """Knative's Pod Autoscaler on concurrency, containerConcurrency CONCURRENCY.

    knative.dev, "Additional autoscaling configuration for Knative Pod Autoscaler" and "Configuring concurrency", and
    config/core/configmaps/autoscaler.yaml: stable window 60 s, panic window 10% of it, panic from 200% of what is ready
    on, target utilisation 70%, at most 1000 times up and to a half down at once, no delay of scaling down; and
    pkg/autoscaler/scaling/autoscaler.go: every two seconds, in panic never down, until a stable window after the last
    time over the threshold; it begins in panic where more than one pod is ready. Down to zero after a stable window
    without a request.
    """

    TICK_S, PANIC_SHARE, PANIC_THRESHOLD, UP_RATE, DOWN_RATE = 2, 0.1, 2.0, 1000.0, 2.0

    def __init__(self, settings: Sequence[KpaSetting] = (KpaSetting(),)) -> None:
        self.lanes = len(settings)
        (self._target,) = _columns(settings, "target")
        self._stable_s = _seconds(settings, "stable_s")
        self._panic_s = np.maximum(np.round(self._stable_s * self.PANIC_SHARE), 1).astype(np.int64)
        self._concurrency = Recent(self.lanes, int(self._stable_s.max()))
        self._delayed = Highest(_seconds(settings, "scale_down_delay_s"), self.TICK_S)
        self._panicked = np.full(self.lanes, -1)
        self._most = np.zeros(self.lanes, np.int64)

    def second(self, seen: Seen) -> Whole | None:
        if seen.second == 0:
            self._panicked = np.where(seen.ready > 1, 0, -1)
            self._most = seen.ready.copy()
        self._concurrency.add(CONCURRENCY * seen.done + seen.backlog)
        if seen.second % self.TICK_S:
            return None
        stable, panic = self._concurrency.mean(self._stable_s), self._concurrency.mean(self._panic_s)
        return self._delayed.of(self.wish(stable, panic, seen.ready, seen.second))

    def wish(self, stable: Floats, panic: Floats, ready: Whole, now: int) -> Whole:
        pods = np.maximum(ready, 1)
        least, most = np.floor(ready / self.DOWN_RATE), np.ceil(pods * self.UP_RATE)
        by_stable, by_panic = _up(stable / self._target / CONCURRENCY), _up(panic / self._target / CONCURRENCY)
        over = by_panic / pods >= self.PANIC_THRESHOLD
        panicked = np.where(over, now, self._panicked)
        ended = ~over & (panicked >= 0) & (panicked + self._stable_s < now)
        self._panicked = np.where(ended, -1, panicked)
        self._most[ended] = 0
        in_panic = self._panicked >= 0
        wish = np.clip(by_stable, least, most)
        wish = np.where(in_panic, np.maximum(wish, np.clip(by_panic, least, most)), wish).astype(np.int64)
        self._most = np.where(in_panic, np.maximum(self._most, wish), self._most)
        return np.where(in_panic, self._most, wish)


@dataclass(frozen=True, slots=True)
class ServeSetting:
    target: float = 2.0
    look_back_s: int = 30
    up_s: int = 30
    down_s: int = 600


class RayServe:
    """Ray Serve's autoscaler.

    docs.ray.io, "Advanced Ray Serve Autoscaling" and "ray.serve.config.AutoscalingConfig": replicas = ceil(ongoing
    requests / target_ongoing_requests), the mean of the last look_back_period_s (30 s), told every metrics_interval_s
    (10 s); ongoing are those in service and those that wait; the target is 2, a change up must be wished for
    upscale_delay_s (30 s) on end, one down for downscale_delay_s (600 s); scaling factors 1, at least one replica. And
    python/ray/serve/autoscaling_policy.py for how the delays are counted.
    """

    METRICS_S = 10

    def __init__(self, settings: Sequence[ServeSetting] = (ServeSetting(),)) -> None:
        self.lanes = len(settings)
        (self._target,) = _columns(settings, "target")
        self._look_back, self._up_s, self._down_s = (_seconds(settings, n) for n in ("look_back_s", "up_s", "down_s"))
        self._ongoing = Recent(self.lanes, int(self._look_back.max()))
        self._told = np.zeros(self.lanes)
        self._wished_s = np.zeros(self.lanes, np.int64)

    def second(self, seen: Seen) -> Whole | None:
        self._ongoing.add(CONCURRENCY * seen.done + seen.backlog)
        if seen.second % self.METRICS_S == self.METRICS_S - 1:
            self._told = self._ongoing.mean(self._look_back)
        if seen.second < self.METRICS_S:
            return None
        return self.wish(self._told, seen.ready + seen.pending)

    def wish(self, ongoing: Floats, current: Whole) -> Whole:
        """A second of its loop. `_wished_s`: for how long it wished more (below 0: fewer)."""
        desired = np.maximum(_up(ongoing / self._target), 1)
        more, fewer = desired > current, desired < current
        since = np.where(more, np.maximum(self._wished_s, 0) + 1, np.where(fewer, np.minimum(self._wished_s, 0) - 1, 0))
        now = (more & (since > self._up_s)) | (fewer & (since < -self._down_s))
        self._wished_s = np.where(now, 0, since)
        return np.where(now, desired, current)
