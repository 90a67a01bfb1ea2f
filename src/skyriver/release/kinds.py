"""Versions as a kind: how a candidate of training comes past the gate, and is released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skyriver.core.resources import Action, Kind, Put, Resource, Snapshot
from skyriver.core.spec import ModelSpec
from skyriver.release.gate import Measures, evaluate_gate
from skyriver.release.registered import is_registered, is_undeclared
from skyriver.release.rollouts import REMOVED, ROLLOUT_FINAL, WAITS, champion, new_rollout

VERSION_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("CANDIDATE", "noted"): "CANDIDATE",
    ("CANDIDATE", "gate_passed"): "APPROVED",
    ("CANDIDATE", "gate_failed"): "REJECTED",
    ("APPROVED", "noted"): "APPROVED",
    ("APPROVED", "retire"): "RETIRED",
}


def _step_version(snapshot: Snapshot, version: Resource) -> Iterator[Action]:
    match version.state:
        case "CANDIDATE":
            yield from _judge(snapshot, version)
        case "APPROVED" if not version.status.get("settled") or version.status.get("by_steps"):
            yield from _release(snapshot, version)


def _judge(snapshot: Snapshot, version: Resource) -> Iterator[Action]:
    model = snapshot.find(version.tenant, "model", str(version.spec["model"]))
    if model is None:
        status = {**version.status, "settled": "bad"}
        yield _put(version, "gate_failed", snapshot.now, status=status, **REMOVED)
        return
    if is_undeclared(model):
        if not version.status.get("settled"):
            told = {"status": {**version.status, "settled": "good"}, "reason": "UNDECLARED", "message": _UNDECLARED}
            action = f"Declare app.model({model.name!r}, registered=True) in an application: its gate judges it then."
            yield _put(version, "noted", snapshot.now, **told, next_action=action)
        return
    gate = ModelSpec.model_validate(model.spec["model"]).gate
    if gate.against == "champion" and version.spec.get("champion", 0) != champion(model):
        status = {**version.status, "settled": "bad"}
        message = (
            f"It was compared with {_named(version.spec.get('champion', 0))}, and now {_named(champion(model))} serves."
        )
        told = {"reason": "CHAMPION_CHANGED", "message": message, "next_action": "`skyriver run` compares anew."}
        yield _put(version, "gate_failed", snapshot.now, status=status, **told)
        return
    result = evaluate_gate(gate, Measures.of(version.spec))
    status = {
        **version.status,
        "gate": {"passed": result.passed, "checks": [check.to_json() for check in result.checks]},
    }
    if result.passed:
        told = {}
        if is_registered(model):  # what comes from outside serves when somebody says so
            status["settled"] = "good"
            told["message"] = (
                f"`skyriver model alias {model.name} champion {version.spec['version']}` lets it take over."
            )
        yield _put(version, "gate_passed", snapshot.now, status=status, **told)
        return
    yield _put(
        version,
        "gate_failed",
        snapshot.now,
        status={**status, "settled": "bad"},
        reason="GATE_FAILED",
        message=f"The gate refused it: {result.failures}.",
        next_action="Improve the training or lower the gate in the application file; what served before still serves.",
    )


_UNDECLARED = "It is kept and not judged: no application declares the model, so it has no gate."


def _named(version: int) -> str:
    return f"version {version}" if version else "no version"


def _release(snapshot: Snapshot, version: Resource) -> Iterator[Action]:
    rollout = next(iter(snapshot.children(version, "rollout")), None)
    if rollout is None:
        model = str(version.spec["model"])
        yield Put(new_rollout(snapshot, version.tenant, model, int(version.spec["version"]), parent=version.ref), 0)
    elif rollout.state in ROLLOUT_FINAL:
        good = rollout.state == "DONE"
        about: dict[str, Any] = {} if good else {"reason": rollout.reason, "message": rollout.message}
        status = {**version.status, "settled": "good" if good else "bad"}
        status.pop("by_steps", None)
        yield _put(version, "noted", snapshot.now, status=status, **about)
    elif _takes_long(rollout) or version.status.get("by_steps"):
        # Who waits for it waits for its first requests, not for hours: how it ends is told by the rollout.
        message = _told_of(rollout)
        status = {**version.status, "settled": "good", "by_steps": rollout.name}
        if (version.status, version.message) != (status, message):
            yield _put(version, "noted", snapshot.now, status=status, message=message)


def _takes_long(rollout: Resource) -> bool:
    return rollout.reason == WAITS or bool(rollout.status.get("canary") or rollout.status.get("shadow"))


def _told_of(rollout: Resource) -> str:
    """What is said of a version that nobody waits for any longer."""
    shows = f"`skyriver rollout get {rollout.name}` shows how far it is"
    if rollout.reason == WAITS:
        return f"Its rollout {rollout.name} waits. {rollout.message} {rollout.next_action}"
    if rollout.status.get("canary") or rollout.status.get("shadow"):
        return f"It is compared with the version that serves: {shows}."
    return f"It takes over: {shows}."


def _put(resource: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(VERSION.move(resource, event, now, **changes), resource.revision)


def _version_waits(snapshot: Snapshot, version: Resource) -> Iterator[str]:
    yield from (r.ref for r in snapshot.children(version, "rollout") if r.state not in ROLLOUT_FINAL)


VERSION = Kind(
    "version", "CANDIDATE", VERSION_TRANSITIONS, frozenset({"REJECTED", "RETIRED"}), _step_version, _version_waits
)
