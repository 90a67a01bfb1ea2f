"""Chooses which part of a stream dies and when: mostly at the moments of `stream_aims`, else at random."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloud_process import Cloud

from kills.journal import Journal
from kills.killer import Killing
from kills.stream_aims import Moment, builder_moments, building_moments, job_moments, worker_moments
from kills.victims import Victim, below, living
from skyriver.adapters.processes.identity import identify

STREAM = "payments"
WAIT_SECONDS = 5.5
"""For a moment that is aimed at: a checkpoint comes every five seconds. Then the present one is taken."""
BUILDING_SECONDS = 12.0
"""The same while features are built: so long that takes."""
SUCCESSOR_SECONDS = 12.0
RECOVERING_SECONDS = 2.0
"""After its start, a worker is killed once more within so long: it recovers then, or has just done so."""


@dataclass(frozen=True, slots=True)
class StreamManner:
    """How it is killed. Shares are of all kills, but `again` and `stops`, which are of the workers'."""

    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "worker": 0.36,
            "builder": 0.04,
            "producer": 0.1,
            "job": 0.16,
            "control": 0.12,
            "supervisor": 0.04,
            "gateway": 0.06,
            "dispatcher": 0.12,
        }
    )
    pause: float = 2.0
    """Seconds between two kills, on average."""
    aimed: float = 0.75
    again: float = 0.25
    stops: float = 0.04


class StreamKiller(Killing):
    def __init__(
        self,
        cloud: Cloud,
        journal: Journal,
        producers: Callable[[], Sequence[Victim]],
        seed: int,
        manner: StreamManner,
    ) -> None:
        super().__init__(cloud, journal, seed, manner.pause)
        self._producers = producers
        self._manner = manner
        self._partition = cloud.home / "streams" / "default" / STREAM
        self._of_building = building_moments(self._partition)
        self._aims: Mapping[str, Sequence[Moment]] = {
            "worker": worker_moments(self._partition, cloud.home / "run"),
            "builder": builder_moments(self._partition),
            "job": job_moments(cloud.home / "tables" / "default", STREAM),
        }
        self._aiming = threading.Thread(target=lambda: None)
        self._aiming.start()

    def turn(self) -> None:
        """Waits, and kills one. Who dies at a moment of its own is aimed at by another thread, one at a time, and the
        others die meanwhile."""
        self._rest()
        victim = self._choose(self._weights())
        if victim is None:
            return
        if victim.kind in self._aims:
            self._aiming = threading.Thread(target=self._aim_at, args=(victim,), daemon=True)
            self._aiming.start()
        else:
            self._kill(victim, "at random")

    def end(self) -> None:
        """Nothing is killed after it."""
        self._aiming.join()

    def _aim_at(self, victim: Victim) -> None:
        """Kills it, or a worker and its successor."""
        stop = victim.kind == "worker" and self._luck.random() < self._manner.stops
        done = self._kill(victim, self._wait_for_moment(victim), stop=stop)
        if done and victim.kind == "worker" and not done.stopped and self._luck.random() < self._manner.again:
            self._kill_successor(victim)

    def _weights(self) -> Mapping[str, float]:
        aiming = self._aiming.is_alive()
        weights = {k: w for k, w in self._manner.weights.items() if not (aiming and k in self._aims)}
        for kind in ("job", "builder"):
            if kind in weights and self._living(kind):
                weights[kind] *= 6  # one lives for moments only
        return weights

    def _living(self, kind: str) -> Sequence[Victim]:
        if kind == "producer":
            return self._producers()
        if kind == "builder":
            workers = living(self._cloud, "worker")
            born = [(v, identify(pid)) for v in workers for pid in below(v.pid)]
            return [Victim(kind, v.name, identity, v.record) for v, identity in born if identity is not None]
        found = super()._living(kind)
        return [v for v in found if v.name.startswith(f"{STREAM}-")] if kind == "job" else found

    def _wait_for_moment(self, victim: Victim) -> str:
        moments, seconds = self._aims[victim.kind], WAIT_SECONDS
        if victim.kind == "worker" and (self._partition / "building").is_dir() and self._luck.random() < 0.5:
            moments, seconds = self._of_building, BUILDING_SECONDS
        if self._luck.random() >= self._manner.aimed:
            return "at random"
        moment = self._luck.choice(moments)
        if not moment.wait(victim.pid, seconds):
            return "at random"
        if moment.after:
            time.sleep(self._luck.random() * moment.after)
        return moment.name

    def _kill_successor(self, before: Victim) -> None:
        deadline = time.monotonic() + SUCCESSOR_SECONDS
        while time.monotonic() < deadline:
            if found := [v for v in living(self._cloud, "worker") if v.pid != before.pid and v.name == before.name]:
                time.sleep(self._luck.random() * RECOVERING_SECONDS)
                self._kill(found[0], "in recovery")
                return
            time.sleep(0.01)
