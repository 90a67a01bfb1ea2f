"""Versions of a stream's rules as a kind: a candidate is tried beside those that decide, then decides or is dropped.

A version is a list of rules and nothing else: what decides where none fires, and all that rules look at, is as it is
declared now. The rules of the application's file are version 1, which has no row until another one follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyriver.core.resources import Action, Kind, Put, Resource, Snapshot

DEPLOYED, GIVEN, TUNED = "deploy", "hand", "tune"
"""Where a version comes from."""
_OPEN = ("CANDIDATE", "SHADOW", "CANARY")

RULES_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("CANDIDATE", "shadow"): "SHADOW",
    ("CANARY", "shadow"): "SHADOW",
    **{(state, "canary"): "CANARY" for state in _OPEN},
    **{(state, "promote"): "LIVE" for state in (*_OPEN, "REPLACED")},
    ("LIVE", "replaced"): "REPLACED",
    **{(state, "drop"): "DROPPED" for state in _OPEN},
}


def _step(snapshot: Snapshot, rules: Resource) -> Iterator[Action]:
    """They only move when somebody says so."""
    return iter(())


RULES = Kind("ruleset", "CANDIDATE", RULES_TRANSITIONS, frozenset({"DROPPED"}), _step)


def version_of(rules: Resource) -> int:
    return int(rules.spec["version"])


def new_version(
    stream: Resource, version: int, rules: Sequence[Any], *, origin: str, why: str, state: str, since: int
) -> Resource:
    spec = {"stream": stream.name, "version": version, "rules": list(rules), "origin": origin, "why": why, "gain": None}
    name = f"{stream.name}-r{version}"
    return Resource(stream.tenant, "ruleset", name, spec=spec, state=state, parent=stream.ref, since=since)


def versions_of(snapshot: Snapshot, stream: Resource) -> list[Resource]:
    """Of a stream that decides, by number; the first one may be none of the rows."""
    rows = sorted(snapshot.children(stream, "ruleset"), key=version_of)
    if rows or not stream.spec.get("decide"):
        return rows
    return [_deployed(stream, 1, stream.spec["decide"]["rules"], stream.created_at)]


def _deployed(stream: Resource, version: int, rules: Sequence[Any], since: int) -> Resource:
    return new_version(stream, version, rules, origin=DEPLOYED, why="", state="LIVE", since=since)


def live_of(versions: Sequence[Resource]) -> Resource | None:
    return next((v for v in versions if v.state == "LIVE"), None)


def tried_of(versions: Sequence[Resource]) -> Resource | None:
    return next((v for v in versions if v.state in ("SHADOW", "CANARY")), None)


def texts_of_rules(rules: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """As a worker is told them."""
    return [[r["decision"], r["when"], *([r["name"]] if r.get("name") else [])] for r in rules]


def rules_settings(snapshot: Snapshot, stream: Resource) -> dict[str, Any]:
    """Which rules a worker decides with, and which it tries beside them."""
    versions = versions_of(snapshot, stream)
    live, tried = live_of(versions), tried_of(versions)
    trial = None
    if tried is not None:
        texts = texts_of_rules(tried.spec["rules"])
        trial = {"number": version_of(tried), "percent": float(tried.status.get("percent", 0.0)), "rules": texts}
    rules = live.spec["rules"] if live is not None else stream.spec["decide"]["rules"]
    return {
        "rules": texts_of_rules(rules),
        "rules_version": version_of(live) if live is not None else 0,
        "trial": trial,
    }


@dataclass(frozen=True, slots=True)
class DeployedRules:
    """What a deployment does with the rules of one stream: `follows` as their next version on `live`, or finds others
    promoted, which `stays`."""

    live: Resource | None = None
    follows: Resource | None = None
    stays: bool = False

    def changes(self, now: int) -> Iterator[Put]:
        if self.follows is None:
            return
        if self.live is not None:
            why = f"The application was deployed with other rules, version {version_of(self.follows)}."
            replaced = RULES.move(self.live, "replaced", now, reason="DEPLOYED", message=why)
            yield Put(replaced, self.live.revision)
        yield Put(self.follows, 0)


def deployed_rules(snapshot: Snapshot, wanted: Resource) -> DeployedRules:
    """`wanted`: the stream as it is to be. Rules of the file that are those of the deployment before leave what was
    promoted since."""
    decide = wanted.spec.get("decide")
    current = snapshot.find(*wanted.key)
    versions = versions_of(snapshot, current if current is not None else wanted)
    live = live_of(versions)
    if not decide or not versions or (live is not None and live.spec["rules"] == decide["rules"]):
        return DeployedRules(live)
    if live is not None and current is not None and (current.spec.get("decide") or {}).get("rules") == decide["rules"]:
        return DeployedRules(live, stays=True)
    return DeployedRules(live, _deployed(wanted, version_of(versions[-1]) + 1, decide["rules"], snapshot.now))


def retired_rules(snapshot: Snapshot, stream: Resource) -> Iterator[Put]:
    """The versions of a stream that is removed stay: their numbers are in its log, and the next stream of its name goes
    on with that. None of them decides or is tried any more."""
    for version in snapshot.children(stream, "ruleset"):
        event = "replaced" if version.state == "LIVE" else "drop"
        if (version.state, event) in RULES_TRANSITIONS:
            message = f"The stream {stream.name} was removed."
            moved = RULES.move(version, event, snapshot.now, reason="STREAM_REMOVED", message=message)
            yield Put(moved, version.revision)
