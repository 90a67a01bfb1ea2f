"""Versions and rollouts as kinds: how a candidate becomes what serves, and how it goes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skyriver.core.errors import SkyriverError
from skyriver.core.resources import Action, Kind, Put, Resource, Snapshot
from skyriver.core.spec import FeatureSetSpec, ModelSpec, ServiceSpec, StreamSpec
from skyriver.features.plan import plan_features
from skyriver.release.gate import evaluate_gate

PROMOTE_LIMIT_US = 120_000_000
"""A version that does not serve within this time is rolled back."""

_REMOVED = {"reason": "MODEL_REMOVED", "message": "The model is no longer in the application."}

VERSION_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("CANDIDATE", "gate_passed"): "APPROVED",
    ("CANDIDATE", "gate_failed"): "REJECTED",
    ("APPROVED", "noted"): "APPROVED",
    ("APPROVED", "retire"): "RETIRED",
}

ROLLOUT_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("PENDING", "promote"): "PROMOTING",
    ("PENDING", "abort"): "ABORTED",
    ("PROMOTING", "abort"): "ABORTED",
    ("ROLLING_BACK", "abort"): "ABORTED",
    ("PROMOTING", "progress"): "PROMOTING",
    ("PROMOTING", "done"): "DONE",
    ("PROMOTING", "breach"): "ROLLING_BACK",
    ("ROLLING_BACK", "rolled_back"): "ROLLED_BACK",
}
ROLLOUT_FINAL = frozenset({"DONE", "ROLLED_BACK", "ABORTED"})


def _step_version(snapshot: Snapshot, version: Resource) -> Iterator[Action]:
    match version.state:
        case "CANDIDATE":
            yield from _judge(snapshot, version)
        case "APPROVED" if not version.status.get("settled"):
            yield from _release(snapshot, version)


def _judge(snapshot: Snapshot, version: Resource) -> Iterator[Action]:
    model = snapshot.find(version.tenant, "model", str(version.spec["model"]))
    if model is None:
        status = {**version.status, "settled": "bad"}
        yield _put(VERSION, version, "gate_failed", snapshot.now, status=status, **_REMOVED)
        return
    gate = ModelSpec.model_validate(model.spec["model"]).gate
    if gate.against == "champion" and version.spec.get("champion", 0) != champion(model):
        status = {**version.status, "settled": "bad"}
        message = (
            f"It was compared with {_named(version.spec.get('champion', 0))}, and now {_named(champion(model))} serves."
        )
        told = {"reason": "CHAMPION_CHANGED", "message": message, "next_action": "`skyriver run` compares anew."}
        yield _put(VERSION, version, "gate_failed", snapshot.now, status=status, **told)
        return
    result = evaluate_gate(gate, version.spec.get("metrics", {}), version.spec.get("champion_metrics"))
    checks = [
        {"rule": c.rule, "value": c.value, "target": c.target, "passed": c.passed, "why": c.why} for c in result.checks
    ]
    status = {**version.status, "gate": {"passed": result.passed, "checks": checks}}
    if result.passed:
        yield _put(VERSION, version, "gate_passed", snapshot.now, status=status)
        return
    failed = "; ".join(f"{c.rule}: {c.why}" for c in result.checks if not c.passed)
    yield _put(
        VERSION,
        version,
        "gate_failed",
        snapshot.now,
        status={**status, "settled": "bad"},
        reason="GATE_FAILED",
        message=f"The gate refused it: {failed}.",
        next_action="Improve the training or lower the gate in the application file; what served before still serves.",
    )


def _named(version: int) -> str:
    return f"version {version}" if version else "no version"


def _release(snapshot: Snapshot, version: Resource) -> Iterator[Action]:
    rollout = next(iter(snapshot.children(version, "rollout")), None)
    if rollout is None:
        model = str(version.spec["model"])
        yield Put(new_rollout(snapshot, version.tenant, model, int(version.spec["version"]), parent=version.ref), 0)
    elif rollout.state in ROLLOUT_FINAL:
        good = rollout.state == "DONE"
        told: dict[str, Any] = {} if good else {"reason": rollout.reason, "message": rollout.message}
        status = {**version.status, "settled": "good" if good else "bad"}
        yield _put(VERSION, version, "noted", snapshot.now, status=status, **told)


def new_rollout(
    snapshot: Snapshot, tenant: str, model: str, to: int, *, parent: str = "", cause: str = "release"
) -> Resource:
    """A rollout of version `to`, numbered after those of the model so far. `cause`: release or rollback."""
    taken = [r.name for r in snapshot.all(tenant, "rollout") if r.spec["model"] == model]
    number = max((int(n.rpartition("-")[2]) for n in taken), default=0) + 1
    return Resource(
        tenant=tenant,
        kind="rollout",
        name=f"{model}-{number}",
        spec={"model": model, "to": to, "strategy": "instant", "cause": cause},
        state="PENDING",
        parent=parent,
        since=snapshot.now,
    )


def champion(model: Resource) -> int:
    """The version that the alias `champion` names; 0 for none."""
    return int(model.status.get("aliases", {}).get("champion", 0))


def _step_rollout(snapshot: Snapshot, rollout: Resource) -> Iterator[Action]:
    model = snapshot.find(rollout.tenant, "model", str(rollout.spec["model"]))
    service = snapshot.find(rollout.tenant, "service", str(rollout.spec["model"]))
    if rollout.state in ROLLOUT_FINAL:
        return
    if model is None or service is None:
        status = {**rollout.status, "settled": "bad"}
        yield _put(ROLLOUT, rollout, "abort", snapshot.now, status=status, **_REMOVED)
        return
    to = str(rollout.spec["to"])
    match rollout.state:
        case "PENDING":
            misfit = unfit(snapshot, rollout.tenant, str(rollout.spec["model"]), int(to))
            if misfit:
                status = {**rollout.status, "settled": "bad"}
                yield _put(ROLLOUT, rollout, "abort", snapshot.now, status=status, **misfit)
            elif not _running_before(snapshot, rollout):
                status = {**rollout.status, "from": champion(model)}
                yield _put(ROLLOUT, rollout, "promote", snapshot.now, status=status)
        case "PROMOTING":
            yield from _promote(snapshot, rollout, model, service, to)
        case "ROLLING_BACK":
            origin = str(rollout.status.get("from") or "")
            versions = {origin: {"weight": 100}} if origin else {}
            if service.spec.get("versions") != versions:
                yield Put(replace(service, spec={**service.spec, "versions": versions}), service.revision)
            told = {"reason": rollout.reason, "message": rollout.message, "next_action": rollout.next_action}
            status = {**rollout.status, "settled": "bad"}
            yield _put(ROLLOUT, rollout, "rolled_back", snapshot.now, status=status, **told)


def _running_before(snapshot: Snapshot, rollout: Resource) -> list[Resource]:
    """Rollouts of the same model that were asked for earlier and have not ended."""
    number = int(rollout.name.rpartition("-")[2])
    return [
        r
        for r in snapshot.all(rollout.tenant, "rollout")
        if r.spec["model"] == rollout.spec["model"]
        and r.state not in ROLLOUT_FINAL
        and int(r.name.rpartition("-")[2]) < number
    ]


def _promote(snapshot: Snapshot, rollout: Resource, model: Resource, service: Resource, to: str) -> Iterator[Action]:
    """Instant: start the new version beside the old, send all traffic to it once it is ready, then let the old go."""
    versions: Mapping[str, Any] = service.spec.get("versions", {})
    origin = str(rollout.status.get("from") or "")
    ready = service.status.get("ready", {})
    wanted = ServiceSpec.model_validate(service.spec["serve"]).most
    beside = {to: {"weight": 0}} | ({origin: {"weight": 100}} if origin and origin != to else {})
    taken_over = {to: {"weight": 100}} | ({origin: {"weight": 0}} if origin and origin != to else {})
    broken = service.status.get("broken", {}).get(to)
    if broken:
        yield _breach(snapshot, rollout, "VERSION_FAILED", f"Version {to} does not serve: {broken}")
    elif to not in versions:
        yield Put(replace(service, spec={**service.spec, "versions": beside}), service.revision)
    elif versions[to]["weight"] == 0 and int(ready.get(to, 0)) >= wanted:
        yield Put(replace(service, spec={**service.spec, "versions": taken_over}), service.revision)
    elif versions[to]["weight"] and service.status.get("routed") == to and _streams_follow(snapshot, rollout, int(to)):
        # The alias moves in the transaction in which the rollout is done (DESIGN 6.10).
        yield Put(replace(service, spec={**service.spec, "versions": {to: {"weight": 100}}}), service.revision)
        aliases = {**model.status.get("aliases", {}), "champion": int(to)}
        history = [
            *model.status.get("history", ()),
            {"version": int(to), "at": snapshot.now, "cause": rollout.spec["cause"]},
        ]
        yield Put(
            replace(model, status={**model.status, "aliases": aliases, "history": history[-100:]}), model.revision
        )
        status = {**rollout.status, "settled": "good"}
        yield _put(ROLLOUT, rollout, "done", snapshot.now, status=status)
    elif _elapsed(snapshot, rollout, int(to)) > PROMOTE_LIMIT_US:
        yield _breach(snapshot, rollout, "TIMED_OUT", f"Version {to} did not serve within 120 s.")


def _streams_follow(snapshot: Snapshot, rollout: Resource, to: int) -> bool:
    """Whether every stream that decides with this model uses the version already."""
    return all(_follows(stream, to) for stream in _deciding(snapshot, rollout))


def _deciding(snapshot: Snapshot, rollout: Resource) -> list[Resource]:
    """The streams that decide with the model of `rollout`."""
    return _streams_of(snapshot, rollout.tenant, str(rollout.spec["model"]))


def _streams_of(snapshot: Snapshot, tenant: str, model: str) -> list[Resource]:
    return [s for s in snapshot.all(tenant, "stream") if (s.spec.get("decide") or {}).get("model") == model]


def unfit(snapshot: Snapshot, tenant: str, model: str, number: int) -> dict[str, str]:
    """Why a version cannot decide in a stream that decides with its model, and what to do; empty where it can: the
    stream computes the features that it was trained on, or can build them."""
    version = snapshot.find(tenant, "version", f"{model}:{number}")
    trained_on = version.spec.get("features") if version is not None else None
    if not trained_on:
        return {}
    for stream in _streams_of(snapshot, tenant, model):
        source = StreamSpec.model_validate(stream.spec["stream"])
        known = [spec for spec in (trained_on.get("spec"), stream.spec.get("features")) if spec]
        try:
            digests = [plan_features(FeatureSetSpec.model_validate(spec), source).digest for spec in known]
        except (SkyriverError, ValueError):
            digests = []  # a feature set of before that this release does not know any more
        if trained_on["digest"] not in digests:
            return {
                "reason": "MODEL_OF_OTHER_FEATURES",
                "message": f"Version {number} of {model} was trained on features ({trained_on['digest'][:12]}) that"
                f" {stream.name} neither computes nor can build.",
                "next_action": f"`skyriver run {model}` trains one on those that are declared now.",
            }
    return {}


def _elapsed(snapshot: Snapshot, rollout: Resource, to: int) -> int:
    """Since the new version could serve: no time counts while a stream builds the features that it reads."""
    version = snapshot.find(rollout.tenant, "version", f"{rollout.spec['model']}:{to}")
    trained_on = (version.spec.get("features") or {}).get("digest") if version is not None else None
    since = rollout.since
    for stream in _deciding(snapshot, rollout):
        changing = stream.status.get("features") or {}
        if trained_on and changing.get("digest") == trained_on and not _follows(stream, to):
            since = max(since, int(changing["since"]) if changing["state"] == "ready" else snapshot.now)
    return snapshot.elapsed(since)


def _follows(stream: Resource, version: int) -> bool:
    return bool(stream.status.get("model_version") == version)


def _breach(snapshot: Snapshot, rollout: Resource, reason: str, message: str) -> Put:
    action = f"`skyriver logs {rollout.spec['model']}` shows its replicas' last lines; the version before still serves."
    return _put(ROLLOUT, rollout, "breach", snapshot.now, reason=reason, message=message, next_action=action)


def _put(kind: Kind, resource: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(kind.move(resource, event, now, **changes), resource.revision)


def _version_waits(snapshot: Snapshot, version: Resource) -> Iterator[str]:
    yield from (r.ref for r in snapshot.children(version, "rollout") if r.state not in ROLLOUT_FINAL)


def _rollout_waits(snapshot: Snapshot, rollout: Resource) -> Iterator[str]:
    """PENDING: earlier rollouts of the model; then the service, and the streams that do not use the version yet."""
    model = rollout.spec["model"]
    match rollout.state:
        case "PENDING":
            yield from (r.ref for r in _running_before(snapshot, rollout))
        case "PROMOTING":
            service = snapshot.find(rollout.tenant, "service", str(model))
            if service is not None and service.status.get("routed") != str(rollout.spec["to"]):
                yield service.ref
            else:
                yield from (s.ref for s in _deciding(snapshot, rollout) if not _follows(s, int(rollout.spec["to"])))


VERSION = Kind(
    "version", "CANDIDATE", VERSION_TRANSITIONS, frozenset({"REJECTED", "RETIRED"}), _step_version, _version_waits
)
ROLLOUT = Kind("rollout", "PENDING", ROLLOUT_TRANSITIONS, ROLLOUT_FINAL, _step_rollout, _rollout_waits)
