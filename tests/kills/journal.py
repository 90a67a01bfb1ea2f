"""What happened, with times of one clock: what was killed and when it was back, what was asked and what failed."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

What = Literal["prediction", "event", "api"]

SETTLE_SECONDS = 2.0
"""After what was killed is back, so long a failure still counts as its: the gateway's next check finds it then, one a
second, later on a busy machine."""
LOOK_BACK_SECONDS = 10.0
WAY: Mapping[What, frozenset[str]] = {
    "prediction": frozenset({"gateway", "replica"}),
    "event": frozenset({"gateway", "worker"}),
    "api": frozenset({"gateway", "control", "supervisor"}),
}
"""What a request goes through; the death of anything else excuses no failure."""


@dataclass
class Kill:
    """One process, killed or stopped."""

    number: int
    kind: str
    name: str
    pid: int
    stopped: bool
    """SIGSTOP: it lives and does nothing, which is worse."""
    moment: str
    at: float
    """Right before the signal."""
    dead_at: float | None = None
    """When the signal had done its work."""
    back_at: float | None = None
    over: str = ""
    """Why it does not come back: its job ended, its version was replaced."""
    lost: bool = False
    """Not back within the deadline."""

    def overlaps(self, start: float, end: float) -> bool:
        return self.at <= end and (self.back_at is None or start <= self.back_at + SETTLE_SECONDS)

    def when(self, zero: float) -> str:
        back = "never" if self.back_at is None else f"{self.over or 'back'} at {self.back_at - zero:+.1f} s"
        return f"{self} at {self.at - zero:+.1f} s, {back}"

    def __str__(self) -> str:
        how = "stopped" if self.stopped else "killed"
        return f"#{self.number} {self.kind} {self.name} (pid {self.pid}) {how} {self.moment}"


@dataclass(frozen=True, slots=True)
class Failure:
    what: What
    start: float
    end: float
    why: str


@dataclass
class Journal:
    """May be used from any thread."""

    kills: list[Kill] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    """How often by what; the failed ones too."""
    slowest: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """Acknowledged and not there."""
    twice: list[str] = field(default_factory=list)
    """Done twice."""
    decided_twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What else must not be."""
    _answers: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, what: What, start: float) -> None:
        end = time.monotonic()
        with self._lock:
            self.asked[what] += 1
            self.slowest[what] = max(self.slowest.get(what, 0.0), end - start)
            self._answers.setdefault(what, deque(maxlen=4_000)).append((start, end))

    def failed(self, what: What, start: float, why: str) -> None:
        with self._lock:
            self.asked[what] += 1
            self.failures.append(Failure(what, start, time.monotonic(), why))

    def first_answer(self, kinds: Iterable[What], after: float) -> float | None:
        """When the first request of these that was sent after `after` was answered well."""
        with self._lock:
            ends = [end for what in kinds for start, end in self._answers.get(what, ()) if start > after]
        return min(ends, default=None)

    def open_kills(self) -> list[Kill]:
        with self._lock:
            return [k for k in self.kills if k.back_at is None and not k.lost]

    def add(self, kill: Kill) -> None:
        with self._lock:
            self.kills.append(kill)

    def dead_during(self, start: float, end: float) -> frozenset[str]:
        """The kinds of which something was dead at some time in between."""
        with self._lock:
            return frozenset(k.kind for k in self.kills if k.overlaps(start, end))

    def blame(self, failure: Failure) -> str:
        """What on its way was dead when it failed: kinds, joined by "+"; else "control" when the control plane or its
        supervisor was, else "nothing"."""
        dead = self.dead_during(failure.start, failure.end)
        if excuses := dead & WAY[failure.what]:
            return "+".join(sorted(excuses))
        return "control" if dead & {"control", "supervisor"} else "nothing"

    def whys(self, what: What, blame: str) -> dict[str, int]:
        """The failures of `what` while `blame` was dead, by what was said and how many were dead."""
        found: Counter[str] = Counter()
        for failure in self.failures:
            if failure.what == what and self.blame(failure) == blame:
                dead = sum(k.kind in WAY[what] and k.overlaps(failure.start, failure.end) for k in self.kills)
                found[f"{failure.why[:60]} ({dead} dead)"] += 1
        return dict(found.most_common(8))

    def bursts(self, *blames: str) -> list[str]:
        """The failures of users' requests while `blames` were dead, those of one second as one; with what had been
        killed within LOOK_BACK_SECONDS before, in seconds before the first failure."""
        found: list[list[Failure]] = []
        for failure in sorted(self.failures, key=lambda f: f.start):
            if failure.what == "api" or self.blame(failure) not in blames:
                continue
            if not found or failure.start - found[-1][-1].end > 1.0:
                found.append([])
            found[-1].append(failure)
        return [self._burst(burst) for burst in found]

    def around(self, kill: Kill) -> list[str]:
        """What else was killed shortly before it and since, and when that was back."""
        near = [k for k in self.kills if k is not kill and k.overlaps(kill.at - LOOK_BACK_SECONDS, time.monotonic())]
        return [k.when(kill.at) for k in near]

    def _burst(self, burst: list[Failure]) -> str:
        start, end = burst[0].start, burst[-1].end
        asked = ", ".join(f"{n} {what}s" for what, n in Counter(f.what for f in burst).items())
        before = [k.when(start) for k in self.kills if k.overlaps(start - LOOK_BACK_SECONDS, end)]
        return f"{asked} within {end - start:.2f} s: {burst[0].why}; {'; '.join(before)}"

    def failed_by(self, *what: What) -> dict[str, int]:
        """How many failed, by what was dead."""
        return dict(Counter(self.blame(f) for f in self.failures if f.what in what))

    def recoveries(self, kind: str, *, alone: bool = False, stopped: bool = False) -> list[float]:
        """Seconds from the kill to being back, ascending; `alone`: nothing else was dead meanwhile."""
        with self._lock:
            kills = list(self.kills)
        found = [
            k.back_at - k.at
            for k in kills
            if k.kind == kind
            and k.back_at is not None
            and k.stopped == stopped
            and (not k.over or kind == "job")
            and not (alone and any(o is not k and o.overlaps(k.at, k.back_at) for o in kills))
        ]
        return sorted(found)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    return ascending[max(0, -(-len(ascending) * round(share * 100) // 100) - 1)]


def tell(text: str) -> None:
    """For people, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
