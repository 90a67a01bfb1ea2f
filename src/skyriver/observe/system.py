"""The watching of the system: from looks at a cloud to incidents, which are rows. No clock, no disk, no network.

A sign that has held for as long as its kind needs is a condition; it stays one until it was not seen for CLEAR_S, so
that what comes and goes is one thing. Conditions with one root are one incident (`observe.incidents`). A person is told
that it began, got worse, and is over, a few times at most; one that comes back soon is the same one. What was told
stands in the rows, so a control plane that is killed goes on where the one before it was; what is usual of an hour is
kept in a file (`remember`), and how the last hour went is learnt anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from skyriver.core.resources import Change as RowChange
from skyriver.core.resources import Delete, Put, Resource
from skyriver.observe.changes import Changes
from skyriver.observe.dependencies import dependencies
from skyriver.observe.healing import Remedy, remedies
from skyriver.observe.incident_kind import INCIDENT, new_incident
from skyriver.observe.incidents import Change, Condition, Incident, incidents
from skyriver.observe.of_budgets import of_budgets
from skyriver.observe.of_cloud import of_cloud
from skyriver.observe.of_services import of_services
from skyriver.observe.of_streams import of_streams
from skyriver.observe.season import Season
from skyriver.observe.sight import Sight, row_of, subject_of, tenant_of
from skyriver.observe.signs import Seen, Sign
from skyriver.observe.standing import standing
from skyriver.observe.tracks import Tracks
from skyriver.trust.permissions import FIRST_TENANT

CLEAR_S: Final = 60.0
RELEARN_S: Final = 1_800.0
"""A control plane that has just begun knows no better for so long, of LEARNT kinds."""
LEARNT: Final = frozenset({"slow", "silence", "fewer", "decides otherwise", "unusual", "fills", "leaks"})
AGAIN_US: Final = 10 * 60_000_000
"""One that comes back within so long after its end is the same."""
NEW_US: Final = 120_000_000
"""What joins an incident so long after it began is news, and wakes who had taken it."""
REFRESH_US: Final = 60_000_000
"""Between two writes of a row of which only numbers changed."""
KEPT: Final = 200
"""Incidents of a tenant that are over."""
KEPT_CONDITIONS: Final = 20
KEPT_CAUSES: Final = 5
MOST_EVENTS: Final = 8
"""Of one incident, that are told: one that comes and goes all day says no more after that."""
KEPT_HEALED: Final = 50
LOAD_AGAIN_S: Final = 600.0
ASK: Final = "Who runs this cloud is told as well."


@dataclass(slots=True)
class _Held:
    sign: Sign
    first: float
    last: float
    is_condition: bool = False
    seen: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look came to."""

    changes: Sequence[RowChange]
    remedies: Sequence[Remedy]


class SystemWatch:
    """One for a control plane; one thread."""

    def __init__(self, remembered: Mapping[str, Any] | None = None) -> None:
        self._tracks = Tracks()
        self._changes = Changes()
        self._held: dict[tuple[str, str], _Held] = {}
        self._began = False
        self._seasons: dict[str, Season] = {}
        self._loads: dict[str, float] = {}
        for subject, known in (remembered or {}).items():
            self._seasons[subject] = Season.of(known)

    def remember(self) -> Mapping[str, Any]:
        """What is usual, for `SystemWatch(remembered)` of the next control plane."""
        return {subject: season.to_json() for subject, season in self._seasons.items()}

    def look(self, sight: Sight) -> Outcome:
        seen = Seen(sight, self._tracks)
        self._changes.look(sight)
        signs = [*of_cloud(seen), *of_services(seen), *of_streams(seen), *of_budgets(seen), *self._unusual(seen)]
        self._tracks.sweep()
        if not self._began:
            self._began = True
            self._take_over(sight)
        conditions = self._conditions(signs, sight)
        graph = dependencies(sight.snapshot)
        known = (*self._changes.recent, *(standing(sight) if conditions else ()))
        changes: list[RowChange] = []
        healed: list[Remedy] = []
        tenants = {FIRST_TENANT, *(tenant_of(c.subject) or FIRST_TENANT for c in conditions), *_open(sight)}
        for tenant in sorted(tenants):
            found = incidents(_of_tenant(tenant, conditions), graph, _known_to(tenant, known))
            mine = [one for one in found if tenant == FIRST_TENANT or any(tenant_of(c.subject) for c in one.conditions)]
            before = sight.snapshot.all(tenant, "incident")
            due = {one.root: remedies(one, sight, before) for one in mine}
            healed += [remedy for each in due.values() for remedy in each]
            changes += _rows(sight, tenant, mine, due)
        return Outcome(changes, healed)

    def _conditions(self, signs: Iterable[Sign], sight: Sight) -> list[Condition]:
        seconds = sight.seconds
        for sign in signs:
            key = sign.subject, sign.kind
            held = self._held.get(key)
            if held is None or (not held.is_condition and seconds - held.last > 2 * sign.hold_s + 1.0):
                held = self._held[key] = _Held(sign, seconds, seconds)
            held.sign, held.last, held.seen = sign, max(seconds, held.last), seconds
            held.is_condition = held.is_condition or seconds - held.first >= sign.hold_s
        there = sight.snapshot.resources
        self._held = {
            key: held
            for key, held in self._held.items()
            if seconds - held.last < CLEAR_S and (not tenant_of(key[0]) or row_of(key[0]) in there)
        }
        return [
            Condition(s.subject, s.kind, held.first, s.told, s.next_action, s.severity, fresh=held.seen == seconds)
            for held in self._held.values()
            if held.is_condition and (s := held.sign)
        ]

    def _take_over(self, sight: Sight) -> None:
        """What a control plane before this one knew to be wrong: it is over when it was not seen for a while, and not
        for that who looks now has still to learn what is usual."""
        for row in sight.snapshot.rows.every("incident"):
            for known in row.status["conditions"] if row.state != "RESOLVED" else ():
                first = sight.seconds - (sight.snapshot.now - known["since"]) / 1e6
                sign = Sign(known["subject"], known["kind"], known["told"], known["next_action"], known["severity"])
                last = sight.seconds + (RELEARN_S if known["kind"] in LEARNT else 0.0)
                self._held.setdefault((sign.subject, sign.kind), _Held(sign, first, last, is_condition=True))

    def _unusual(self, seen: Seen) -> Iterator[Sign]:
        """Hours with much more or less than the same ones of the weeks before; and load, as a cause."""
        wall_s, there = seen.sight.snapshot.now / 1e6, set()
        for kind, what in (("service", "requests"), ("stream", "events")):
            for row in seen.sight.snapshot.rows.every(kind):
                subject = subject_of(row)
                there.add(subject)
                track = self._tracks.of.get(subject)
                if track is None:
                    continue
                season = self._seasons.setdefault(subject, Season())
                came = track.known.get("ever", 0.0)
                track.known["ever"] = ever = track.rate.total
                if unusual := season.add(wall_s, ever - came):
                    track.known |= {"unusual": seen.seconds, "came": unusual[0], "usual": unusual[1]}
                if seen.seconds - track.known.get("unusual", -1e9) < 2 * CLEAR_S:
                    told = f"{track.known['came']:,.0f} {what} came to {row.name} in the last hour; otherwise about"
                    action = f"Look at what sends them: `skyriver {kind} get {row.name}`."
                    yield Sign(subject, "unusual", f"{told} {track.known['usual']:,.0f} do.", action, "warning")
                times = track.rate.rose()
                if times and seen.seconds - self._loads.get(subject, -1e9) > LOAD_AGAIN_S:
                    self._loads[subject] = seen.seconds
                    told = f"{times:.1f} times as many {what} as usual came to {row.name}"
                    self._changes.note(
                        Change(subject, "load", seen.seconds - 60.0, told, f"`skyriver {kind} get {row.name}`.")
                    )
        for gone in self._seasons.keys() - there:
            del self._seasons[gone]
        self._loads = {subject: at for subject, at in self._loads.items() if subject in there}


def _of_tenant(tenant: str, conditions: Sequence[Condition]) -> list[Condition]:
    """A tenant's, and the cloud's; of these only who runs the cloud reads more than that there is something: they may
    name others."""
    mine = [c for c in conditions if tenant_of(c.subject) in ("", tenant)]
    return mine if tenant == FIRST_TENANT else [c if tenant_of(c.subject) else _veiled(c) for c in mine]


def _veiled(condition: Condition) -> Condition:
    what = condition.subject.partition(":")[2]
    return replace(condition, told=f"Something is wrong with the {what} of the cloud.", next_action=ASK)


def _known_to(tenant: str, changes: Sequence[Change]) -> list[Change]:
    """Without what other tenants did, but to who runs the cloud; that something was done is no secret."""
    if tenant == FIRST_TENANT:
        return [*changes]
    return [
        replace(change, told="Something else began or was changed on this cloud", next_action=ASK)
        if change.owner not in ("", tenant)
        else change
        for change in changes
    ]


def _open(sight: Sight) -> set[str]:
    return {row.tenant for row in sight.snapshot.rows.every("incident") if row.state != "RESOLVED"}


# Rows.


def _rows(
    sight: Sight, tenant: str, found: Sequence[Incident], healed: Mapping[str, Sequence[Remedy]]
) -> Iterator[RowChange]:
    rows, now = sight.snapshot.all(tenant, "incident"), sight.snapshot.now
    still = {row.name: row for row in rows if row.state != "RESOLVED"}
    number = max((int(row.name.rpartition("-")[2]) for row in rows), default=0)
    for incident in found:
        own = [row for row in still.values() if _shares(row, incident)]
        own.sort(key=lambda row: row.created_at)
        done = [asdict(remedy) | {"at": now, "outcome": ""} for remedy in healed.get(incident.root, ())]
        if not own:
            own = [row for row in rows if _came_back(row, incident, now)][-1:]
        if own:
            row = own[0]
            still.pop(row.name, None)
            for other in own[1:]:
                still.pop(other.name)
                told = f"It is a part of {row.name}."
                yield Put(INCIDENT.move(other, "resolve", now, status=other.status, message=told), other.revision)
            after = _changed(sight, row, incident, done)
            if after is not None:
                yield Put(after, row.revision)
        else:
            number += 1
            about = _status(sight, incident)
            events = _and((), "opened", now, said(about), incident.severity)
            status = {**about, "healed": done, "events": events, "times": 1}
            yield Put(new_incident(tenant, f"incident-{number}", incident, status, said(about), now), 0)
    for row in still.values():
        events = _and(row.status["events"], "resolved", now, f"It is over. {row.message}", row.status["severity"])
        status = {**row.status, "ended": now, "events": events}
        about = {"reason": row.reason, "message": f"It is over. {row.message}", "next_action": ""}
        yield Put(INCIDENT.move(row, "resolve", now, status=status, **about), row.revision)
    over = sorted((row for row in rows if row.state == "RESOLVED"), key=lambda row: row.created_at)
    yield from (Delete(*row.key, row.revision) for row in over[:-KEPT])


def _and(events: Sequence[Mapping[str, Any]], what: str, now: int, text: str, severity: str) -> list[Mapping[str, Any]]:
    """What happened to an incident that people are told of. Places stay: by them is known who was told what."""
    known = {"event": what, "at": now, "text": text, "severity": severity}
    return [*events, known] if len(events) < MOST_EVENTS else [*events]


def _keys(conditions: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(one["subject"], one["kind"]) for one in conditions}


def _shares(row: Resource, incident: Incident) -> bool:
    known = _keys(row.status["conditions"])
    return row.status["root"] == incident.root or any((c.subject, c.kind) in known for c in incident.conditions)


def _came_back(row: Resource, incident: Incident, now: int) -> bool:
    return (
        row.state == "RESOLVED"
        and row.status["root"] == incident.root
        and 0 <= now - int(row.status.get("ended", 0)) < AGAIN_US
        and bool(_keys(row.status["conditions"]) & {(c.subject, c.kind) for c in incident.conditions})
    )


def _status(sight: Sight, incident: Incident) -> dict[str, Any]:
    def wall(seconds: float) -> int:
        return sight.snapshot.now - int((sight.seconds - seconds) * 1e6)

    conditions = [asdict(c) | {"since": wall(c.since)} for c in incident.conditions[:KEPT_CONDITIONS]]
    causes = [
        {
            **{name: getattr(cause.change, name) for name in ("subject", "kind", "next_action")},
            "at": wall(cause.change.at),
            "score": round(cause.score, 3),
            "told": cause.evidence,
        }
        for cause in incident.causes[:KEPT_CAUSES]
    ]
    return {
        "root": incident.root,
        "severity": incident.severity,
        "conditions": conditions,
        "more": max(0, len(incident.conditions) - KEPT_CONDITIONS),
        "causes": causes,
    }


def _changed(sight: Sight, row: Resource, incident: Incident, done: Sequence[Mapping[str, Any]]) -> Resource | None:
    """The row as it is now; None where that is nothing new."""
    now, before, after = sight.snapshot.now, row.status, _status(sight, incident)
    new = _keys(c for c in after["conditions"] if c["severity"] == "critical") - _keys(before["conditions"])
    aged = now - row.since > NEW_US
    worse = (before["severity"] == "warning" and after["severity"] == "critical") or bool(new and aged)
    back = row.state == "RESOLVED"
    same = (
        _keys(before["conditions"]) == _keys(after["conditions"])
        and before["root"] == after["root"]
        and _keys(before["causes"][:1]) == _keys(after["causes"][:1])
    )
    if same and not (back or worse or done) and 0 <= now - row.updated_at < REFRESH_US:
        return None
    since = {(c["subject"], c["kind"]): c["since"] for c in before["conditions"]}
    after["conditions"] = [c | {"since": since.get((c["subject"], c["kind"]), c["since"])} for c in after["conditions"]]
    if before["severity"] == "critical":
        after["severity"] = "critical"  # it was
    healed = [*before["healed"], *done][-KEPT_HEALED:]
    what = "again" if back else "worse" if worse else ""
    events = _and(before["events"], what, now, said(after), after["severity"]) if what else before["events"]
    status = {**before, **after, "healed": healed, "events": events, "times": before["times"] + back}
    return INCIDENT.move(
        replace(row, spec={**row.spec, "root": incident.root}),
        "reopen" if back else "worse" if worse else "changed",
        now,
        status=status,
        reason=row.reason,
        message=said(after),
        next_action=incident.next_action,
    )


def said(status: Mapping[str, Any]) -> str:
    """One sentence on what, one on why."""
    what, cause = status["conditions"][0], next(iter(status["causes"]), None)
    if cause is None or cause["told"] == what["told"]:
        return str(what["told"])
    if cause["kind"] == "death" and cause["subject"] == what["subject"]:  # that it ended is what is told of it
        return str(what["told"])
    return f"{what['told']} Likely because: {cause['told']}"
