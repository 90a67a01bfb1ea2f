"""Chooses which part of a stream dies and when: mostly at the moments of `stream_aims`, else at random."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloud_process import Cloud

from kills.journal import Journal, Kill
from kills.killer import AT_ONCE, REST_SECONDS
from kills.stream_aims import Moment, builder_moments, building_moments, job_moments, worker_moments
from kills.victims import Victim, below, kill, living
from skyriver.adapters.processes.identity import identify

STREAM = "payments"
WAIT_SECONDS = 5.5
"""For a moment that is aimed at: a checkpoint comes every five seconds. Then the present one is taken."""
SUCCESSOR_SECONDS = 12.0
RECOVERING_SECONDS = 2.0
"""After its start, a worker is killed once more within so long: it recovers then, or has just done so."""


@dataclass(frozen=True, slots=True)
class StreamManner:
    """How it is killed. Shares are of all kills, but `again` and `stops`, which are of the workers'."""

    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "worker": 0.42,
            "builder": 0.04,
            "producer": 0.16,
            "job": 0.16,
            "control": 0.12,
            "supervisor": 0.04,
            "gateway": 0.06,
        }
    )
    pause: float = 1.5
    """Seconds between two kills, on average."""
    aimed: float = 0.75
    again: float = 0.25
    stops: float = 0.04


class StreamKiller:
    def __init__(
        self,
        cloud: Cloud,
        journal: Journal,
        producers: Callable[[], Sequence[Victim]],
        seed: int,
        manner: StreamManner,
    ) -> None:
        self._cloud = cloud
        self._journal = journal
        self._producers = producers
        self._luck = random.Random(seed)
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
        time.sleep(min(self._luck.expovariate(1 / self._manner.pause), 4 * self._manner.pause))
        while not self._may_kill():
            time.sleep(0.02)
        victim = self._choose()
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
        done = self._kill(victim, self._wait_for_moment(victim))
        if done and victim.kind == "worker" and not done.stopped and self._luck.random() < self._manner.again:
            self._kill_successor(victim)

    def _may_kill(self) -> bool:
        away = self._journal.open_kills()
        return len(away) < AT_ONCE and all(time.monotonic() - k.at < REST_SECONDS for k in away)

    def _choose(self) -> Victim | None:
        away = {(k.kind, k.name) for k in self._journal.open_kills()}
        aiming = self._aiming.is_alive()
        weights = {k: w for k, w in self._manner.weights.items() if not (aiming and k in self._aims)}
        for kind in ("job", "builder"):
            if kind in weights and self._living(kind):
                weights[kind] *= 6  # one lives for moments only
        while weights:
            kind = self._luck.choices(list(weights), list(weights.values()))[0]
            found = [v for v in self._living(kind) if (v.kind, v.name) not in away]
            if found:
                return self._luck.choice(found)
            del weights[kind]
        return None

    def _living(self, kind: str) -> Sequence[Victim]:
        if kind == "producer":
            return self._producers()
        if kind == "builder":
            workers = living(self._cloud, "worker")
            born = [(v, identify(pid)) for v in workers for pid in below(v.pid)]
            return [Victim(kind, v.name, identity, v.record) for v, identity in born if identity is not None]
        found = living(self._cloud, kind)
        return [v for v in found if v.name.startswith(f"{STREAM}-")] if kind == "job" else found

    def _wait_for_moment(self, victim: Victim) -> str:
        moments = self._aims.get(victim.kind, ())
        if victim.kind == "worker" and (self._partition / "building").is_dir() and self._luck.random() < 0.5:
            moments = self._of_building
        if not moments or self._luck.random() >= self._manner.aimed:
            return "at random"
        moment = self._luck.choice(moments)
        if not moment.wait(victim.pid, WAIT_SECONDS):
            return "at random"
        if moment.after:
            time.sleep(self._luck.random() * moment.after)
        return moment.name

    def _kill_successor(self, before: Victim) -> None:
        deadline = time.monotonic() + SUCCESSOR_SECONDS
        while time.monotonic() < deadline:
            if found := [v for v in living(self._cloud, "worker") if v.pid != before.pid and v.name == before.name]:
                time.sleep(self._luck.random() * RECOVERING_SECONDS)
                self._kill(found[0], "in recovery", stop=False)
                return
            time.sleep(0.01)

    def _kill(self, victim: Victim, moment: str, *, stop: bool | None = None) -> Kill | None:
        if not victim.identity.alive():
            return None
        if stop is None:
            stop = victim.kind == "worker" and self._luck.random() < self._manner.stops
        pid = victim.pid
        if victim.kind == "job" and self._luck.random() < 0.6:
            pid = next(iter(below(pid)), pid)  # what works, and not the one that watches it
        number = len(self._journal.kills) + 1
        done = Kill(number, victim.kind, victim.name, victim.pid, stop, moment, time.monotonic())
        self._journal.add(done)
        with contextlib.suppress(ProcessLookupError):
            kill(pid, stop=stop)
            done.dead_at = time.monotonic()
            return done
        self._journal.kills.remove(done)
        return None
