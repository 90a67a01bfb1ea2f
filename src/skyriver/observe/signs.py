"""What is wrong with a cloud as it looks at one moment: the signs that incidents are made of. Pure but for its tracks.

A sign becomes a condition once it has held for a while (`Sign.hold_s`), so that what mends itself at once, as a replica
that is started again, wakes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from skyriver.core.resources import Resource
from skyriver.observe.sight import Problem, Sight, subject_of
from skyriver.observe.tracks import Severity, Track, Tracks

HOLD_S: Final = 10.0
"""A restart is over sooner."""
SOON_S: Final = 1800.0
LATER_S: Final = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Sign:
    subject: str
    kind: str
    told: str
    """One sentence."""
    next_action: str
    severity: Severity = "critical"
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One look, with what is remembered of those before it."""

    sight: Sight
    tracks: Tracks

    @property
    def seconds(self) -> float:
        return self.sight.seconds

    def track(self, row: Resource) -> Track:
        return self.tracks.get(subject_of(row))


def guarded(of: Callable[[Seen, Resource], Iterator[Sign]], seen: Seen, rows: Iterable[Resource]) -> Iterator[Sign]:
    """Of each row; one that cannot be understood is a sign itself, and keeps nobody from the others."""
    for row in rows:
        try:
            yield from list(of(seen, row))
        except Exception as error:  # a row of another release, a report of another shape
            told = f"The {row.kind} {row.name} cannot be watched: {type(error).__name__}: {error}"[:500]
            yield Sign(subject_of(row), "cannot be watched", told, explains(row.name), "warning")


def explains(name: str) -> str:
    return f"`skyriver explain {name}` tells why."


def of_row(row: Resource, kind: str, severity: Severity, hold_s: float, *, what: str = "") -> Sign:
    """What a row says of itself."""
    said = f"{row.reason}: {row.message}" if row.reason else row.message
    told = f"The {row.kind} {row.name} is {what or row.state}. {said}".strip()
    return Sign(subject_of(row), kind, told, row.next_action or explains(row.name), severity, hold_s)


def of_problem(subject: str, kind: str, problem: Problem, severity: Severity, hold_s: float = HOLD_S) -> Sign:
    return Sign(subject, kind, f"{problem.code}: {problem.message}", problem.next_action, severity, hold_s)


def fills(seen: Seen, subject: str, what: str, used: float, total: float, action: str) -> Iterator[Sign]:
    """What grows towards its end."""
    left = seen.tracks.get(subject).left(seen.seconds, used, total)
    if left is not None and left < LATER_S:
        severity: Severity = "critical" if left < SOON_S else "warning"
        yield Sign(subject, "fills", f"{what} is full in {span(left)} if it goes on so.", action, severity)


def span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
