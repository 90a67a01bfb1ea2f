"""Chooses what dies and when: at random, and aimed at the moments at which most could go wrong."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloud_process import Cloud

from kills.changes import Operator
from kills.journal import Journal, Kill
from kills.load import Probe
from kills.victims import Victim, below, kill, living

WAIT_SECONDS = 4.0
"""For a moment that is aimed at; then the present one is taken."""
AT_ONCE = 4
"""So many kills may be open at a time."""
REST_SECONDS = 12.0
"""While something has been away for so long, nothing else is killed: who brings it back must live to do so."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How it is killed. Shares are of all kills."""

    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "supervisor": 0.12,
            "control": 0.2,
            "gateway": 0.12,
            "replica": 0.24,
            "worker": 0.14,
            "job": 0.18,
        }
    )
    pause: float = 0.8
    """Seconds between two kills, on average."""
    aimed: float = 0.3
    pairs: float = 0.08
    stops: float = 0.05


class Killing:
    """What every killer does: rests, chooses, kills. Those of before may still be away."""

    def __init__(self, cloud: Cloud, journal: Journal, seed: int, pause: float) -> None:
        self._cloud = cloud
        self._journal = journal
        self._luck = random.Random(seed)
        self._pause = pause

    def _rest(self) -> None:
        time.sleep(min(self._luck.expovariate(1 / self._pause), 4 * self._pause))
        while not self._may_kill():
            time.sleep(0.02)

    def _may_kill(self) -> bool:
        away = self._journal.open_kills()
        return len(away) < AT_ONCE and all(time.monotonic() - k.at < REST_SECONDS for k in away)

    def _living(self, kind: str) -> Sequence[Victim]:
        return living(self._cloud, kind)

    def _choose(self, weights: Mapping[str, float]) -> Victim | None:
        """One that lives and is not being waited for; where there is none of the first choice, of another kind."""
        away = {(k.kind, k.name) for k in self._journal.open_kills()}
        left = dict(weights)
        while left:
            kind = self._luck.choices(list(left), list(left.values()))[0]
            found = [v for v in self._living(kind) if (v.kind, v.name) not in away]
            if found:
                return self._luck.choice(found)
            del left[kind]
        return None

    def _kill(self, victim: Victim, moment: str, *, stop: bool = False) -> Kill | None:
        """None when it had ended by itself."""
        if not victim.identity.alive():
            return None
        pid = victim.pid
        if victim.kind == "job" and self._luck.random() < 0.5:
            pid = next(iter(below(pid)), pid)  # what works, and not the one that watches it
        number = len(self._journal.kills) + 1
        done = Kill(number, victim.kind, victim.name, victim.pid, stop, moment, time.monotonic())
        self._journal.add(done)  # before it: what fails in the very moment of the kill is the kill's
        with contextlib.suppress(ProcessLookupError):
            kill(pid, stop=stop)
            done.dead_at = time.monotonic()
            return done
        self._journal.kills.remove(done)
        return None


class Killer(Killing):
    def __init__(
        self, cloud: Cloud, journal: Journal, probe: Probe, operator: Operator, seed: int, manner: Manner
    ) -> None:
        super().__init__(cloud, journal, seed, manner.pause)
        self._probe = probe
        self._operator = operator
        self._manner = manner
        self._aims: Mapping[str, Callable[[], bool]] = {
            "right after a deploy": self._operator.deployed.is_set,
            "in the first 200 ms of a job": self._job_began,
            "in the middle of a rollout": self._rolls,
        }
        self._jobs: set[int] = set()

    def turn(self) -> list[Kill]:
        """Waits, and kills: one, or two at once."""
        self._rest()
        moment = self._wait_for_moment()
        weights = dict(self._manner.weights)
        if "job" in moment and "job" in weights:
            weights["job"] = 2.0
        done: list[Kill] = []
        for _ in range(2 if self._luck.random() < self._manner.pairs else 1):
            victim = self._choose(weights)
            if victim is not None:
                stop = victim.kind != "job" and self._luck.random() < self._manner.stops
                done += filter(None, [self._kill(victim, moment, stop=stop)])
        return done

    def _wait_for_moment(self) -> str:
        if self._luck.random() >= self._manner.aimed:
            return "at random"
        name = self._luck.choice(list(self._aims))
        self._operator.deployed.clear()
        self._job_began()
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._aims[name]():
            if time.monotonic() > deadline:
                return "at random"
            time.sleep(0.005)
        time.sleep(self._luck.random() * (0.2 if "job" in name else 0.05))  # the moment is the case
        return name

    def _job_began(self) -> bool:
        now = {v.pid for v in living(self._cloud, "job")}
        began = now - self._jobs
        self._jobs = now
        return bool(began)

    def _rolls(self) -> bool:
        versions = {name.rpartition("-")[0] for kind, name in self._probe.seen[1] if kind == "replica"}
        return len(versions) > 1
