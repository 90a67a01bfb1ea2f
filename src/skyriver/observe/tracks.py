"""What is remembered of a thing that is watched: counters as rings, what is usual of it. Bounded, whatever its age."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

from skyriver.observe.objectives import (
    FAST,
    JUMP_RATE,
    JUMP_SECONDS,
    LEAST_BAD,
    SUDDEN_SECONDS,
    Ring,
    burning,
    exhausted_in,
    jumped,
    sudden,
    sudden_share,
)

Severity = Literal["critical", "warning"]
"""critical: somebody's requests or events suffer now. warning: they will, or something needs a look."""
LOOK_S: Final = 5.0
"""Between two looks."""
STEP_S: Final = 10
HOUR_STEPS: Final = 360
"""Of STEP_S."""
SETTLED_STEPS: Final = 30
"""Before so many there is no usual."""
FRESH_STEPS: Final = 12
"""The last two minutes are not compared with themselves."""
NOW_STEPS: Final = 3
"""What is said of now must hold in each of them."""
SLOWER: Final = 5.0
SLOWER_US: Final = 20_000
"""Slower by less than that is nobody's business."""
POINT_S: Final = 30.0
LEAST_ANSWERS: Final = 20
MIX_NOW: Final = 6
MIX_LEAST: Final = 200
MIX_MOVED: Final = 0.25
"""Total variation distance (Levin, Peres: Markov Chains and Mixing Times, chapter 4)."""
SILENT_STEPS: Final = 3
STEADY_STEPS: Final = 180
FELL_STEPS: Final = 4
FELL_TO: Final = 0.65
FELL_LEAST: Final = 50
EVEN: Final = 0.75
EVEN_SHARE: Final = 0.95
LOAD_TIMES: Final = 2.0
LOAD_LEAST: Final = 600
"""Of a minute: less is no load."""


@dataclass(slots=True)
class Outcomes:
    """Of answers, how many are bad."""

    minutes: Ring = field(default_factory=Ring)
    fine: Ring = field(default_factory=lambda: Ring(5, 24))
    limit: float = 0.0
    """The share from which on it goes on, once it has begun; 0 while all is well."""
    severity: Severity = "warning"

    def add(self, seconds: float, answers: int, bad: int) -> None:
        if answers or bad:
            self.minutes.add(seconds, max(answers, bad), bad)
            self.fine.add(seconds, max(answers, bad), bad)

    def missed(self, seconds: float, allowed: float) -> Missed | None:
        """Where `allowed`, a share above 0, is missed, fast or for long; or much more is bad than before. It begins by
        a change, and ends by what is so now: what goes on as badly is not over because it was so for long."""
        found = self._begins(seconds, allowed)
        if found is not None:
            missed, limit = found
            self.limit = min(limit, self.limit or limit)
            self.severity = "critical" if "critical" in (missed.severity, self.severity) else "warning"
            return missed
        if self.limit:
            answers, bad = self.fine.over(seconds, JUMP_SECONDS // self.fine.step)
            if answers and bad >= self.limit * answers:
                return Missed("minute", answers, bad, self.severity)
            if answers or not self.minutes.over(seconds, FAST.short)[0]:
                self.limit, self.severity = 0.0, "warning"
        return None

    def is_quiet(self, seconds: float) -> bool:
        """Nothing was answered in the last minute."""
        return not self.fine.over(seconds, JUMP_SECONDS // self.fine.step)[0]

    def _begins(self, seconds: float, allowed: float) -> tuple[Missed, float] | None:
        """With the share at which it does."""
        if sudden(self.fine, self.minutes, seconds, allowed):
            missed = Missed("30 s", *self.fine.over(seconds, SUDDEN_SECONDS // self.fine.step), "critical")
            return missed, sudden_share(allowed)
        windows = burning(self.minutes, seconds, allowed)
        answers, bad = self.fine.over(seconds, self.fine.size)
        if windows is not None and (answers < LEAST_BAD or bad >= windows.rate * allowed * answers):  # and it goes on
            severity: Severity = "critical" if windows is FAST else "warning"
            missed = Missed(f"{windows.short} minutes", *self.minutes.over(seconds, windows.short), severity)
            return missed, windows.rate * allowed
        if jumped(self.fine, self.minutes, seconds, allowed):
            missed = Missed("minute", *self.fine.over(seconds, JUMP_SECONDS // self.fine.step), "warning")
            return missed, JUMP_RATE * allowed
        return None


@dataclass(frozen=True, slots=True)
class Missed:
    within: str
    answers: int
    bad: int
    severity: Severity

    @property
    def share(self) -> str:
        return f"{self.bad:,} of {self.answers:,}"


@dataclass(slots=True)
class Steps:
    """Sums by STEP_S, of the last hour; the one under way is not among them."""

    at: int = -1
    under_way: float = 0.0
    total: float = 0.0
    """Ever."""
    sums: deque[float] = field(default_factory=lambda: deque(maxlen=HOUR_STEPS))
    is_silent: bool = False
    fell_from: float = 0.0
    """What was usual before; 0 where as much comes as did."""
    fell_at: int = 0

    def add(self, seconds: float, amount: float) -> None:
        """Steps without a look count as 0."""
        at = int(seconds // STEP_S)
        if self.at >= 0 and at > self.at:
            self.sums.append(self.under_way)
            self.sums.extend(0.0 for _ in range(min(at - self.at - 1, HOUR_STEPS)))
            self.under_way = 0.0
        self.at = max(self.at, at)
        self.under_way += amount
        self.total += amount

    def silent(self) -> bool:
        """Nothing comes any more, of what came in every step of half an hour."""
        known = list(self.sums)
        steady = len(known) > STEADY_STEPS and all(known[-STEADY_STEPS:-SILENT_STEPS])
        self.is_silent = not any(known[-SILENT_STEPS:]) and (self.is_silent or steady)
        return self.is_silent

    def fell(self) -> tuple[float, float] | None:
        """(now, usual) of a step, where much less comes than in an hour in which it was even."""
        known = list(self.sums)
        if self.fell_from:
            now = median(known[-FELL_STEPS:])
            if now < EVEN * self.fell_from and self.at - self.fell_at < HOUR_STEPS:
                return now, self.fell_from
            self.fell_from = 0.0
        hour = median(known[:-FRESH_STEPS]) if len(known) > STEADY_STEPS else 0.0
        usual = min(hour, median(known[-60:-FRESH_STEPS])) if hour else 0.0
        if usual < FELL_LEAST or not all(now < FELL_TO * usual for now in known[-FELL_STEPS:]):
            return None
        even = sum(each > EVEN * usual for each in known[:-FRESH_STEPS]) >= EVEN_SHARE * (len(known) - FRESH_STEPS)
        if not even:
            return None
        self.fell_from, self.fell_at = usual, self.at
        return median(known[-FELL_STEPS:]), usual

    def rose(self) -> float:
        """How many times as much as usual came in the last minute; 0 where it is not more."""
        known = list(self.sums)
        if len(known) < SETTLED_STEPS:
            return 0.0
        now, usual = sum(known[-MIX_NOW:]), MIX_NOW * median(known[:-FRESH_STEPS])
        return now / usual if usual and now >= LOAD_LEAST and now >= LOAD_TIMES * usual else 0.0


@dataclass(slots=True)
class Usual:
    """A measure by STEP_S (a quantile, say), of the last hour."""

    at: int = -1
    values: deque[float] = field(default_factory=lambda: deque(maxlen=HOUR_STEPS))
    began: tuple[int, float] | None = None
    """(step, usual) when it rose; what has been so for an hour is what is usual."""

    def add(self, seconds: float, value: float) -> None:
        at = int(seconds // STEP_S)
        if at > self.at:
            self.values.append(value)
            self.at = at
        elif self.values:
            self.values[-1] = max(self.values[-1], value)

    def above(self, times: float, least: float) -> tuple[float, float] | None:
        """(now, usual) where each of the last steps is `times` the usual and `least` more, until it is less than half
        of that."""
        known = list(self.values)
        if len(known) < SETTLED_STEPS:
            return None
        if self.began is not None:
            at, before = self.began
            now = median(known[-NOW_STEPS:])
            if self.at - at < HOUR_STEPS and now >= times / 2 * before and now >= before + least / 2:
                return now, before
            self.began = None
        usual, now = median(known[:-FRESH_STEPS]), min(known[-NOW_STEPS:])
        if now < times * usual or now < usual + least:
            return None
        self.began = self.at, usual
        return now, usual


@dataclass(slots=True)
class Mix:
    """Counts by word (what was decided), by STEP_S, of the last hour."""

    at: int = -1
    steps: deque[dict[str, int]] = field(default_factory=lambda: deque(maxlen=HOUR_STEPS))
    began: tuple[int, dict[str, int]] | None = None
    """(step, usual counts) when it moved; what has been so for an hour is what is usual."""

    def add(self, seconds: float, counts: Mapping[str, int]) -> None:
        at = int(seconds // STEP_S)
        if at > self.at or not self.steps:
            self.steps.append({})
            self.at = max(at, self.at)
        step = self.steps[-1]
        for word, count in counts.items():
            step[word] = step.get(word, 0) + count

    def moved(self) -> tuple[str, float, float] | None:
        """(the word that moved most, its share now, its usual one)."""
        known = list(self.steps)
        now, usual, least = _sum(known[-MIX_NOW:]), _sum(known[:-FRESH_STEPS]), MIX_MOVED
        if self.began is not None and self.at - self.began[0] < HOUR_STEPS:
            usual, least = self.began[1], MIX_MOVED / 2
        have, had = sum(now.values()), sum(usual.values())
        if have < MIX_LEAST or had < 10 * MIX_LEAST:
            self.began = None
            return None
        shares = {word: (now.get(word, 0) / have, usual.get(word, 0) / had) for word in {*now, *usual}}
        if sum(abs(a - b) for a, b in shares.values()) / 2 < least:
            self.began = None
            return None
        self.began = self.began if least < MIX_MOVED else (self.at, usual)
        word = max(sorted(shares), key=lambda w: abs(shares[w][0] - shares[w][1]))
        return word, *shares[word]


def _sum(steps: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for step in steps:
        for word, count in step.items():
            total[word] = total.get(word, 0) + count
    return total


@dataclass(slots=True)
class Track:
    """Of one subject. What is not used is not made."""

    known: dict[str, float] = field(default_factory=dict)
    """Counters as they were at the last look."""
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    rate: Steps = field(default_factory=Steps)
    usual: dict[str, Usual] = field(default_factory=dict)
    mix: Mix | None = None
    points: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=120))
    """(seconds, used), for what fills up."""
    _left: float | None = None

    def step(self, name: str, value: float, *, restarts: bool = False) -> int:
        """What was added to a counter since the last look; 0 at the first one. `restarts`: one that fell began anew."""
        before = self.known.get(name)
        self.known[name] = value
        if before is None:
            return 0
        return int(value - before) if value >= before else int(value) if restarts else 0

    def of(self, name: str) -> Outcomes:
        return self.outcomes.setdefault(name, Outcomes())

    def usually(self, name: str) -> Usual:
        return self.usual.setdefault(name, Usual())

    def left(self, seconds: float, used: float, limit: float) -> float | None:
        """Seconds until `used` reaches `limit`, if it goes on as in the last hour."""
        if not self.points or seconds - self.points[-1][0] >= POINT_S:
            self.points.append((seconds, used))
            self._left = exhausted_in(tuple(self.points), limit)
        return self._left


@dataclass(slots=True)
class Tracks:
    """Of all subjects; one that was not seen in a look is forgotten with it."""

    of: dict[str, Track] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def get(self, subject: str) -> Track:
        self.seen.add(subject)
        return self.of.setdefault(subject, Track())

    def sweep(self) -> None:
        self.of = {subject: track for subject, track in self.of.items() if subject in self.seen}
        self.seen.clear()


def added_latency(track: Track, told: Any) -> dict[int, int]:
    """By lower bounds of buckets (microseconds): what `counted.latency_us` of a replica grew by since the last look."""
    first = "latency" not in track.known
    track.known["latency"] = 1
    added: dict[int, int] = {}
    for low, count in told or ():
        name = f"latency {low}"
        track.known.setdefault(name, count if first else 0)
        if grown := track.step(name, count, restarts=True):
            added[int(low)] = grown
    return added


def quantile(counts: Mapping[int, int], share: float) -> float:
    """The lower bound of the bucket in which it lies; 0 of nothing."""
    rest = share * sum(counts.values())
    for low in sorted(counts):
        rest -= counts[low]
        if rest <= 0:
            return float(low)
    return 0.0
