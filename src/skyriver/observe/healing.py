"""What the cloud does by itself about an incident: few things, each bounded, each recorded in the incident. Pure.

What mends more is done elsewhere and needs no incident: processes that end are started again, slow servers get no
requests, rollouts are taken back, what is too much is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from skyriver.core.resources import Resource
from skyriver.observe.incidents import Condition, Incident
from skyriver.observe.sight import DISK, MACHINE, MEMORY, Sight, row_of, tenant_of
from skyriver.release.rollouts import champion

AT_MOST: Final = 3
"""Of one thing, within WITHIN_US; then it is left to a person."""
WITHIN_US: Final = 3_600_000_000
PAUSE_US: Final = 60_000_000
"""Between two for the same thing: the first one may just need its time."""
SILENT_S: Final = 20.0
SLOW_S: Final = 60.0
ROLLED_OUT_US: Final = 3_600_000_000
"""A version that took over longer ago is not put down to its rollout."""

What = Literal["restart", "replace", "roll back"]


@dataclass(frozen=True, slots=True)
class Remedy:
    """restart: the process of a row is ended, and started again as one that died. replace: a replica is drained, and
    another one takes its place. roll back: the version before serves again."""

    what: What
    subject: str
    why: str
    of: str
    """The thing of which it is one of so many: replicas have their service's."""


def remedies(incident: Incident, sight: Sight, before: Sequence[Resource]) -> tuple[Remedy, ...]:
    """`before`: all incidents of the tenant, with what was done about them."""
    if any(condition.subject in (DISK, MEMORY, MACHINE) for condition in incident.conditions):
        return ()  # what is slow for that would be as slow again, and would have to catch up besides
    known = [one for row in before for one in row.status["healed"]]
    found: dict[tuple[str, str], Remedy] = {}
    for condition in incident.conditions:
        for remedy in _of(condition, sight, before) if condition.fresh else ():
            if _allowed(remedy, known, sight.snapshot.now):
                found.setdefault((remedy.what, remedy.of), remedy)  # one of several: the others serve meanwhile
    return tuple(found.values())


def _allowed(remedy: Remedy, known: Sequence[Mapping[str, Any]], now: int) -> bool:
    same = [abs(now - one["at"]) for one in known if (one["what"], one["of"]) == (remedy.what, remedy.of)]
    lately = [age for age in same if age < WITHIN_US]
    return len(lately) < (1 if remedy.what == "roll back" else AT_MOST) and not any(age < PAUSE_US for age in lately)


def _of(condition: Condition, sight: Sight, before: Sequence[Resource]) -> Iterator[Remedy]:
    tenant, kind, name = row_of(condition.subject)
    row = sight.snapshot.find(tenant, kind, name) if tenant_of(condition.subject) else None
    if row is None:
        return
    for_s, of = sight.seconds - condition.since, f"{tenant}:{row.parent}"
    match kind, condition.kind:
        case _, "silent" if for_s >= SILENT_S and row.process in sight.machine.unanswered:
            yield Remedy("restart", condition.subject, condition.told, of)
        case "replica", "slow" if for_s >= SLOW_S and _siblings(sight, row):
            yield Remedy("replace", condition.subject, condition.told, of)
        case "replica", "leaks" if _serves(row) and _siblings(sight, row):
            yield Remedy("replace", condition.subject, condition.told, of)
        case "version", "fails" if condition.severity == "critical" and _better_before(sight, row, before):
            service = f"{tenant}:service/{row.spec['model']}"
            yield Remedy("roll back", service, condition.told, service)


def _serves(row: Resource) -> bool:
    return row.state == "READY"


def _siblings(sight: Sight, replica: Resource) -> bool:
    service = sight.snapshot.find(replica.tenant, *replica.parent.split("/", 1))
    if service is None:
        return False
    others = (r for r in sight.snapshot.children(service, "replica") if r.spec["version"] == replica.spec["version"])
    return any(_serves(other) for other in others if other.name != replica.name)


def _better_before(sight: Sight, version: Resource, before: Sequence[Resource]) -> bool:
    """Whether the version serves, took over lately by a rollout that took no other one back, and the one before it was
    not ill itself: a version that mends something must not be taken back for what it mends."""
    model = sight.snapshot.find(version.tenant, "model", version.spec["model"])
    serving = champion(model) if model is not None else 0
    now = sight.snapshot.now
    for rollout in sight.snapshot.all(version.tenant, "rollout"):
        fits = (rollout.spec["model"], rollout.spec["to"]) == (version.spec["model"], serving)
        lately = 0 <= now - rollout.since < ROLLED_OUT_US
        if fits and lately and rollout.state == "DONE" and rollout.spec.get("cause") != "rollback":
            origin = f"{version.tenant}:version/{version.spec['model']}:{rollout.status.get('from')}"
            told = [c for row in before if now - row.updated_at < WITHIN_US for c in row.status["conditions"]]
            return version.name == f"{version.spec['model']}:{serving}" and not any(
                (c["subject"], c["kind"]) == (origin, "fails") for c in told
            )
    return False
