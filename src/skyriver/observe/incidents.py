"""From what is wrong to what a person is told: one incident for one root, and its likely causes. Pure.

What depends on something that is wrong is not told of by itself. A cause is what changed before: the nearer in time
and in the graph, and the more often such a change is one (PRIORS), the likelier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

HALF_LIFE: Final = 300.0
"""Seconds after which a change is half as likely a cause."""
HORIZON: Final = 6 * 3600.0
"""Older changes are no causes."""
SLACK: Final = 10.0
"""So much later a cause may be seen than what it caused: looks are seconds apart."""
FARTHER: Final = 0.5
"""Each step in the graph makes it so much less likely."""
PRIORS: Final[Mapping[str, float]] = {
    "death": 1.0,
    "rollout": 0.9,
    "deploy": 0.8,
    "rules": 0.8,
    "list": 0.8,
    "clock": 0.7,
    "config": 0.6,
    "limits": 0.7,
    "pool": 0.7,
    "most": 0.7,
    "sheds": 0.7,
    "cheaper": 0.5,
    "load": 0.4,
    "job": 0.5,
}
"""Judged; `bench/watch.py` measures how often the likeliest cause is the right one."""
OTHER: Final = 0.3
OWN: Final[Mapping[str, float]] = {
    "cannot be written": 1.0,
    "set": 1.0,
    "source": 0.9,
    "sink": 0.9,
    "certificate": 0.9,
    "silence": 0.7,
    "silent": 0.7,
    "fills": 0.6,
    "memory": 0.6,
    "leaks": 0.6,
    "fails": 0.2,
    "rejects": 0.2,
    "away": 0.3,
}
"""What comes from outside, or begins in the thing itself, is its own cause, unless something changed just before."""
OWN_OTHER: Final = 0.1
OWN_KIND: Final = "itself: "

Graph = Mapping[str, tuple[str, ...]]
"""What each thing depends on."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something is wrong with `subject` since `since` (seconds)."""

    subject: str
    kind: str
    since: float
    told: str
    next_action: str
    severity: str = "critical"
    fresh: bool = True
    """It was seen in this look, and not only lately."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to `subject` at `at` (seconds). `kind`: one of PRIORS, or another."""

    subject: str
    kind: str
    at: float
    told: str
    next_action: str
    owner: str = ""
    """The tenant whose it is, where `subject` is everybody's."""
    stands: bool = False
    """It is so now: as likely as when it began, whenever that was."""


@dataclass(frozen=True, slots=True)
class Cause:
    change: Change
    score: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Incident:
    """`conditions`: those of the root first. `causes`: the likeliest first; none is an answer too."""

    root: str
    since: float
    conditions: tuple[Condition, ...]
    causes: tuple[Cause, ...]

    @property
    def next_action(self) -> str:
        """Of what it is put down to, and of what is wrong."""
        own = self.conditions[0].next_action
        likely = self.causes[0].change.next_action if self.causes else own
        command = own.partition("`")[2].partition("`")[0]
        if likely == own or (command and f"`{command}`" in likely):  # nobody is sent to the same place twice
            return likely
        return f"{likely} {own}"

    @property
    def severity(self) -> str:
        return "critical" if any(one.severity == "critical" for one in self.conditions) else "warning"


def incidents(conditions: Iterable[Condition], graph: Graph, changes: Iterable[Change]) -> tuple[Incident, ...]:
    """One for each root. Where things depend on each other in a circle, the root is what was wrong first."""
    first: dict[str, float] = {}
    known = sorted(set(conditions), key=lambda one: (one.since, one.subject, one.kind))
    for one in known:
        first.setdefault(one.subject, one.since)
    below = {subject: distances(subject, graph) for subject in first}
    root_of = {subject: _root(subject, first, below) for subject in first}
    changed = tuple(changes)
    found = []
    for root in sorted(set(root_of.values()), key=lambda subject: (first[subject], subject)):
        of = [one for one in known if root_of[one.subject] == root]
        of.sort(key=lambda one: one.subject != root)
        own = [_own(one) for one in of if one.subject == root]
        likely = causes(first[root], below[root], _each_once(of[0], changed, own))
        found.append(Incident(root, first[root], tuple(of), likely))
    return tuple(found)


def _own(condition: Condition) -> Change:
    """A condition as its own cause."""
    return Change(condition.subject, OWN_KIND + condition.kind, condition.since, condition.told, condition.next_action)


def _each_once(told: Condition, changes: Iterable[Change], own: Iterable[Change]) -> Iterator[Change]:
    """What stands is often a condition as well: as a cause it is told of once, and not of itself."""
    stands = {(change.subject, change.kind) for change in changes if change.stands} - {(told.subject, told.kind)}
    for change in changes:
        if not change.stands or (change.subject, change.kind) in stands:
            yield change
    yield from (one for one in own if (one.subject, one.kind.removeprefix(OWN_KIND)) not in stands)


def causes(since: float, below: Mapping[str, int], changes: Iterable[Change]) -> tuple[Cause, ...]:
    """`below`: what the root depends on, and itself, by distance."""
    found = []
    for change in changes:
        before = 0.0 if change.stands else since - change.at
        if change.subject in below and -SLACK <= before <= HORIZON:
            score = _prior(change.kind) * 0.5 ** (max(0.0, before) / HALF_LIFE) * FARTHER ** below[change.subject]
            own = change.stands or change.kind.startswith(OWN_KIND)
            found.append(
                Cause(change, score, change.told if own else f"{change.told}, {max(0.0, before):,.0f} s before.")
            )
    found.sort(key=lambda cause: (-cause.score, cause.change.subject, cause.change.kind))
    once: dict[str, Cause] = {}
    for cause in found:
        once.setdefault(cause.evidence, cause)
    return tuple(once.values())


def _prior(kind: str) -> float:
    if kind.startswith(OWN_KIND):
        return OWN.get(kind.removeprefix(OWN_KIND), OWN_OTHER)
    return PRIORS.get(kind, OTHER)


def distances(subject: str, graph: Graph) -> dict[str, int]:
    """Steps from `subject` to all that it depends on; 0 to itself."""
    found, edge = {subject: 0}, [subject]
    while edge:
        edge = list(dict.fromkeys(to for at in edge for to in graph.get(at, ()) if to not in found))
        steps = max(found.values()) + 1
        found.update(dict.fromkeys(edge, steps))
    return found


def _root(subject: str, first: Mapping[str, float], below: Mapping[str, Mapping[str, int]]) -> str:
    ill = [other for other in below[subject] if other in first]
    last = [one for one in ill if all(one in below[other] for other in below[one] if other in first)]
    return min(last, key=lambda one: (first[one], one))
