"""Rollouts as a kind: how a version comes to serve, and how it goes back. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from skyriver.core.declared import service_spec
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import Action, Kind, Put, Resource, Snapshot
from skyriver.core.spec import (
    BlueGreenSpec,
    CanarySpec,
    FeatureSetSpec,
    GuardsSpec,
    ShadowSpec,
    StreamSpec,
)
from skyriver.features.plan import plan_features
from skyriver.release.canary import LOOK_US
from skyriver.release.guards import rules_of
from skyriver.release.shadow import begin_shadow, judge_copies, look_at_copies, paired_of, shadow_page, told_of_copies
from skyriver.release.stepping import Verdict, answers, begin_step, judge, look_at, page, processes_of, seen_by, told

PROMOTE_LIMIT_US = 120_000_000
"""A version that does not serve within this time is rolled back."""

LAST_ANSWERS_US = 70_000_000
"""For so long it is waited for the last answers of a version that was taken back: replicas may drain for a minute."""

SHARED_US = 1_000_000
"""Within this time every replica knows of another share; half of it lies between their looks."""

REPORTED_US = 1_500_000
LAST_COPIES_US = 5_000_000
"""For so long it is waited for the end of copies: until all reports are of after it, and at most."""

REMOVED = {"reason": "MODEL_REMOVED", "message": "The model is no longer in the application."}

ROLLOUT_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("PENDING", "waits"): "PENDING",
    ("PENDING", "promote"): "PROMOTING",
    ("PENDING", "shadow"): "SHADOW",
    ("PENDING", "begin"): "CANARY",
    ("PENDING", "abort"): "ABORTED",
    ("SHADOW", "progress"): "SHADOW",
    ("SHADOW", "pause"): "PAUSED",
    ("SHADOW", "begin"): "CANARY",
    ("SHADOW", "promote"): "PROMOTING",
    ("SHADOW", "breach"): "ROLLING_BACK",
    ("SHADOW", "withdraw"): "ROLLING_BACK",
    ("SHADOW", "abort"): "ABORTED",
    ("CANARY", "progress"): "CANARY",
    ("CANARY", "pause"): "PAUSED",
    ("CANARY", "promote"): "PROMOTING",
    ("CANARY", "breach"): "ROLLING_BACK",
    ("CANARY", "withdraw"): "ROLLING_BACK",
    ("CANARY", "abort"): "ABORTED",
    ("PAUSED", "progress"): "PAUSED",
    ("PAUSED", "shadow"): "SHADOW",
    ("PAUSED", "resume"): "CANARY",
    ("PAUSED", "promote"): "PROMOTING",
    ("PAUSED", "breach"): "ROLLING_BACK",
    ("PAUSED", "withdraw"): "ROLLING_BACK",
    ("PAUSED", "abort"): "ABORTED",
    ("PROMOTING", "abort"): "ABORTED",
    ("ROLLING_BACK", "abort"): "ABORTED",
    ("PROMOTING", "progress"): "PROMOTING",
    ("PROMOTING", "done"): "DONE",
    ("PROMOTING", "breach"): "ROLLING_BACK",
    ("ROLLING_BACK", "progress"): "ROLLING_BACK",
    ("ROLLING_BACK", "rolled_back"): "ROLLED_BACK",
}
ROLLOUT_FINAL = frozenset({"DONE", "ROLLED_BACK", "ABORTED"})
STEERED: Final = ("SHADOW", "CANARY", "PAUSED")
"""States in which somebody may say how it goes on."""
WAITS: Final = "EARLIER_ROLLOUT"
"""Why it is PENDING."""


def new_rollout(
    snapshot: Snapshot, tenant: str, model: str, to: int, *, parent: str = "", cause: str = "release"
) -> Resource:
    """A rollout of version `to`, numbered after those of the model so far. `cause`: release or rollback, which is made
    at once."""
    taken = [r.name for r in snapshot.all(tenant, "rollout") if r.spec["model"] == model]
    number = max((int(n.rpartition("-")[2]) for n in taken), default=0) + 1
    declared = snapshot.find(tenant, "model", model)
    asked = declared.spec["model"].get("rollout") if declared is not None and cause == "release" else None
    strategy = "instant" if not asked else "canary" if "steps" in asked else "blue_green"
    how = {"strategy": strategy, **({strategy: asked} if asked else {})}
    return Resource(
        tenant=tenant,
        kind="rollout",
        name=f"{model}-{number}",
        spec={"model": model, "to": to, **how, "cause": cause},
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
        yield _put(rollout, "abort", snapshot.now, status=status, **REMOVED)
        return
    to = str(rollout.spec["to"])
    match rollout.state:
        case "PENDING":
            misfit = unfit(snapshot, rollout.tenant, str(rollout.spec["model"]), int(to))
            if misfit:
                status = {**rollout.status, "settled": "bad"}
                yield _put(rollout, "abort", snapshot.now, status=status, **misfit)
            elif before := _running_before(snapshot, rollout):
                yield from _wait_for(snapshot, rollout, before)
            else:
                status = {**rollout.status, "from": champion(model)}
                compared = champion(model) not in (0, int(to)) and not any(_building(snapshot, rollout, int(to)))
                yield _put(rollout, _first(rollout) if compared else "promote", snapshot.now, status=status)
        case "SHADOW":
            yield from _shadow(snapshot, rollout, service, to)
        case "CANARY":
            yield from _canary(snapshot, rollout, service, to)
        case "PAUSED":
            yield from (_shadow if in_shadow(rollout) else _canary)(snapshot, rollout, service, to)
        case "PROMOTING":
            yield from _promote(snapshot, rollout, model, service, to)
        case "ROLLING_BACK":
            yield from _roll_back(snapshot, rollout, service, to)


def _declared(rollout: Resource) -> Mapping[str, Any]:
    """Of its strategy."""
    found: Mapping[str, Any] = rollout.spec.get(rollout.spec.get("strategy", "")) or {}
    return found


def shadow_of(rollout: Resource) -> ShadowSpec | None:
    declared = _declared(rollout)
    return ShadowSpec.model_validate(declared["shadow"]) if declared.get("shadow") else None


def guards_of(rollout: Resource) -> GuardsSpec | None:
    declared = _declared(rollout)
    return GuardsSpec.model_validate(declared["guards"]) if declared.get("guards") else None


def in_shadow(rollout: Resource) -> bool:
    """Whether it is, or was when it paused, in the phase in which it answers copies."""
    return shadow_of(rollout) is not None and not rollout.status.get("canary")


def _first(rollout: Resource) -> str:
    """The event that begins one that is compared with a champion."""
    if shadow_of(rollout) is not None:
        return "shadow"
    return "begin" if rollout.spec["strategy"] == "canary" else "promote"


def _roll_back(snapshot: Snapshot, rollout: Resource, service: Resource, to: str) -> Iterator[Action]:
    """The version before has all requests again; of a canary it is then waited for the last answers, to tell how many
    requests saw it."""
    origin = str(rollout.status.get("from") or "")
    versions = {origin: {"weight": 100}} if origin else {}
    if service.spec.get("versions") != versions:
        yield _split(service, versions)
    about = {"reason": rollout.reason, "message": rollout.message, "next_action": rollout.next_action}
    status = {**rollout.status, "settled": "bad"}
    if canary := rollout.status.get("canary"):
        numbers = (int(origin), int(to))
        spec = CanarySpec.model_validate(rollout.spec["canary"])
        streams, rules = _deciding(snapshot, rollout), rules_of(spec.guards)
        waits = answers(snapshot, service, int(to)) and snapshot.elapsed(rollout.since) < LAST_ANSWERS_US
        pause = LOOK_US if waits else 0
        status["canary"] = look_at(
            snapshot, canary, service, streams, numbers, pause_us=pause, rules=rules, by_key=bool(spec.key)
        )
        if waits:
            if status["canary"] != canary:
                status.pop("settled")
                yield _put(rollout, "progress", snapshot.now, status=status, **about)
            return
        status["shown"] = page(status["canary"], spec)
        about["message"] = f"{rollout.message} {seen_by(status['canary'])}"
    event = "abort" if rollout.status.get("withdrawn") else "rolled_back"
    yield _put(rollout, event, snapshot.now, status=status, **about)


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


def _wait_for(snapshot: Snapshot, rollout: Resource, before: Sequence[Resource]) -> Iterator[Action]:
    """Rollouts of a model come one after the other. Who waits is told for which, and how that one is ended."""
    first = min(before, key=lambda r: int(r.name.rpartition("-")[2]))
    behind = f", and {len(before) - 1} behind it" if len(before) > 1 else ""
    ends = f"; `skyriver rollout promote {first.name}` or `abort` ends it" if first.state in STEERED else ""
    told = {
        "reason": WAITS,
        "message": f"It begins when the rollout {first.name} of version {first.spec['to']} has ended, which is"
        f" {first.state}{behind}: rollouts of a model come one after the other.",
        "next_action": f"`skyriver rollout get {first.name}` shows how far that one is{ends}.",
    }
    if (rollout.message, rollout.next_action) != (told["message"], told["next_action"]):
        yield _put(rollout, "waits", snapshot.now, status=rollout.status, **told)


def _canary(snapshot: Snapshot, rollout: Resource, service: Resource, to: str) -> Iterator[Action]:
    """Starts the version beside the champion, gives it its share step by step, and takes it back when it is worse: the
    share is gone in the same pass."""
    origin, canary = str(rollout.status["from"]), rollout.status.get("canary") or {}
    spec = CanarySpec.model_validate(rollout.spec["canary"])
    numbers = (int(origin), int(to))
    streams, rules, by_key = _deciding(snapshot, rollout), rules_of(spec.guards), bool(spec.key)
    if not canary or service.status.get("broken", {}).get(to):
        if not (waits := list(_beside(snapshot, rollout, service, to))) and not _copies_come(
            snapshot, rollout, service
        ):
            yield _split(service, _shares(snapshot, origin, to, spec.steps[0], spec.key))
            first = begin_step({}, 0, snapshot.now, rules)
            before = look_at(snapshot, first, service, streams, numbers, pause_us=0, rules=rules, by_key=by_key)
            yield _progress(snapshot, rollout, _compared(rollout, before, spec))
        yield from filter(None, waits)
        return
    after = look_at(snapshot, canary, service, streams, numbers, rules=rules, by_key=by_key)
    verdict = judge(after, spec, numbers, snapshot.now)
    if verdict.what == "take_back":
        yield _split(service, {origin: {"weight": 100}})
        yield _breach(snapshot, rollout, verdict.reason, verdict.message, _compared(rollout, after, spec))
    elif rollout.state == "PAUSED" or verdict.what == "wait":
        if after != canary:
            yield _progress(snapshot, rollout, _compared(rollout, after, spec))
    elif verdict.what == "pause":
        yield _pause(snapshot, rollout, verdict, _compared(rollout, after, spec))
    elif after["step"] + 1 < len(spec.steps):
        step = after["step"] + 1
        yield _split(service, _shares(snapshot, origin, to, spec.steps[step], spec.key))
        begun = begin_step(after, step, snapshot.now)
        yield _progress(snapshot, rollout, _compared(rollout, begun, spec))
    else:
        yield _put(rollout, "promote", snapshot.now, status=_compared(rollout, after, spec))


def _beside(snapshot: Snapshot, rollout: Resource, service: Resource, to: str) -> Iterator[Action | None]:
    """Starts the version beside the champion; it gets no request before it can answer. Nothing once it can; None: it is
    waited for."""
    wanted = _replicas(service)
    if broken := service.status.get("broken", {}).get(to):
        yield _breach(snapshot, rollout, "VERSION_FAILED", f"Version {to} does not serve: {broken}")
    elif to not in service.spec.get("versions", {}):
        yield _split(service, {str(rollout.status["from"]): {"weight": 100}, to: {"weight": 0}})
    elif int(service.status.get("ready", {}).get(to, 0)) < wanted:
        late = _elapsed(snapshot, rollout, int(to)) > PROMOTE_LIMIT_US
        yield _breach(snapshot, rollout, "TIMED_OUT", f"Version {to} did not serve within 120 s.") if late else None


def _shadow(snapshot: Snapshot, rollout: Resource, service: Resource, to: str) -> Iterator[Action]:
    """Starts the version beside the champion, whose replicas send it copies of requests, and takes it back when its
    answers are worse."""
    origin, shadow, spec = str(rollout.status["from"]), rollout.status.get("shadow") or {}, shadow_of(rollout)
    assert spec is not None
    guards = paired_of(guards_of(rollout))
    numbers = (int(origin), int(to))
    if not shadow or service.status.get("broken", {}).get(to):
        if not (waits := list(_beside(snapshot, rollout, service, to))):
            yield _split(service, {origin: {"weight": 100}, to: {"weight": 0, **_copies(rollout, spec)}})
            begun = begin_shadow({}, snapshot.now, guards)
            yield _progress(snapshot, rollout, _copied(rollout, begun, spec))
        yield from filter(None, waits)
        return
    after = look_at_copies(snapshot, shadow, service, numbers, guards, _deciding(snapshot, rollout))
    status, verdict = _copied(rollout, after, spec), judge_copies(after, spec, numbers, snapshot.now, guards)
    if verdict.what == "take_back":
        yield _split(service, {origin: {"weight": 100}})
        yield _breach(snapshot, rollout, verdict.reason, verdict.message, status)
    elif rollout.state == "PAUSED" or verdict.what == "wait":
        if after != shadow:
            yield _progress(snapshot, rollout, status)
    elif verdict.what == "pause":
        yield _pause(snapshot, rollout, verdict, status)
    else:
        yield _split(service, {origin: {"weight": 100}, to: {"weight": 0}})
        by_steps = rollout.spec["strategy"] == "canary"
        yield _put(rollout, "begin" if by_steps else "promote", snapshot.now, status=status)


def _copies_come(snapshot: Snapshot, rollout: Resource, service: Resource) -> bool:
    """Whether the version may answer copies yet, which are no requests that saw it. A replica that does not tell that
    it sends none is not waited for without an end."""
    if "shadow" not in rollout.status:
        return False
    sending = any(p.report.get("shadow") for p in processes_of(snapshot, service, int(rollout.status["from"])))
    return snapshot.elapsed(rollout.since) < (LAST_COPIES_US if sending else REPORTED_US)


def _copies(rollout: Resource, spec: ShadowSpec) -> dict[str, float]:
    """What the service's row says of the version, for the champion's replicas, and for streams."""
    return {"copies": spec.share, "slower": rules_of(guards_of(rollout)).slower, "shadow": 1}


def _pause(snapshot: Snapshot, rollout: Resource, verdict: Verdict, status: Mapping[str, Any]) -> Put:
    action = f"`skyriver rollout resume {rollout.name}` waits again, `promote` gives it all requests, `abort` none."
    about = {"reason": verdict.reason, "message": verdict.message, "next_action": action}
    return _put(rollout, "pause", snapshot.now, status=status, **about)


def _progress(snapshot: Snapshot, rollout: Resource, status: Mapping[str, Any]) -> Put:
    """A paused rollout goes on being compared, and keeps why it paused."""
    if rollout.state == "PAUSED":
        about = {"reason": rollout.reason, "message": rollout.message, "next_action": rollout.next_action}
    elif (shadow := shadow_of(rollout)) is not None and rollout.state == "SHADOW":
        about = {"message": told_of_copies(status["shown"], shadow, int(rollout.spec["to"]))}
    else:
        spec = CanarySpec.model_validate(rollout.spec["canary"])
        about = {"message": told(status["shown"], spec, int(rollout.spec["to"]))}
    return _put(rollout, "progress", snapshot.now, status=status, **about)


def _copied(rollout: Resource, shadow: Mapping[str, Any], spec: ShadowSpec) -> dict[str, Any]:
    """The rollout's status, with what the copies showed."""
    return {**rollout.status, "shadow": shadow, "shown": shadow_page(shadow, spec, paired_of(guards_of(rollout)))}


def _compared(rollout: Resource, canary: Mapping[str, Any], spec: CanarySpec) -> dict[str, Any]:
    """The rollout's status, with the comparison and what is shown of it."""
    return {**rollout.status, "canary": canary, "shown": page(canary, spec)}


def _replicas(service: Resource) -> int:
    """Of each version, as the service's own step last had it: a version that takes over must be able to do as much."""
    serve = service_spec(service.spec["serve"])
    return max(serve.awake, int(service.status.get("wanted", 0))) if serve.elastic else serve.most


def _shares(snapshot: Snapshot, origin: str, to: str, percent: int, key: str) -> dict[str, dict[str, Any]]:
    """By key with a moment in which all replicas change, so that no key goes to and fro between them."""
    by_key = {"key": key, "at": snapshot.now + SHARED_US} if key else {}
    return {origin: {"weight": 100 - percent}, to: {"weight": percent, **by_key}}


def _split(service: Resource, versions: Mapping[str, Any]) -> Put:
    return Put(replace(service, spec={**service.spec, "versions": dict(versions)}), service.revision)


def _promote(snapshot: Snapshot, rollout: Resource, model: Resource, service: Resource, to: str) -> Iterator[Action]:
    """Instant: start the new version beside the old, send all traffic to it once it is ready, then let the old go."""
    versions: Mapping[str, Any] = service.spec.get("versions", {})
    origin = str(rollout.status.get("from") or "")
    ready = service.status.get("ready", {})
    wanted = _replicas(service)
    beside = {to: {"weight": 0}} | ({origin: {"weight": 100}} if origin and origin != to else {})
    taken_over = _taken_over(snapshot, versions, origin, to)
    broken = service.status.get("broken", {}).get(to)
    if broken:
        yield _breach(snapshot, rollout, "VERSION_FAILED", f"Version {to} does not serve: {broken}")
    elif to not in versions:
        yield _split(service, beside)
    elif versions[to]["weight"] < 100 and int(ready.get(to, 0)) >= wanted:
        yield _split(service, taken_over)
    elif versions[to]["weight"] and service.status.get("routed") == to and _streams_follow(snapshot, rollout, int(to)):
        # The alias moves in the transaction in which the rollout is done (DESIGN 6.10).
        yield _split(service, {to: {"weight": 100}, **_kept_ready(snapshot, rollout, origin)})
        aliases = {**model.status.get("aliases", {}), "champion": int(to)}
        history = [
            *model.status.get("history", ()),
            {"version": int(to), "at": snapshot.now, "cause": rollout.spec["cause"]},
        ]
        yield Put(
            replace(model, status={**model.status, "aliases": aliases, "history": history[-100:]}), model.revision
        )
        status = {**rollout.status, "settled": "good"}
        yield _put(rollout, "done", snapshot.now, status=status)
    elif _elapsed(snapshot, rollout, int(to)) > PROMOTE_LIMIT_US:
        yield _breach(snapshot, rollout, "TIMED_OUT", f"Version {to} did not serve within 120 s.")


def _taken_over(snapshot: Snapshot, versions: Mapping[str, Any], origin: str, to: str) -> dict[str, dict[str, Any]]:
    """What is still on its way to the version before is passed on, where keys stay with their version."""
    key = versions.get(to, {}).get("key")
    by_key = {"key": key, "at": snapshot.now} if key else {}
    return {to: {"weight": 100, **by_key}} | ({origin: {"weight": 0}} if origin and origin != to else {})


def _kept_ready(snapshot: Snapshot, rollout: Resource, origin: str) -> dict[str, dict[str, int]]:
    """The version before, where it stays for a while."""
    if rollout.spec["strategy"] != "blue_green" or origin in ("", str(rollout.spec["to"])):
        return {}
    keep = BlueGreenSpec.model_validate(rollout.spec["blue_green"]).keep_us
    return {origin: {"weight": 0, "until": snapshot.now + keep}}


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
    since = rollout.since
    for changing in _building(snapshot, rollout, to):
        since = max(since, int(changing["since"]) if changing["state"] == "ready" else snapshot.now)
    return snapshot.elapsed(since)


def _building(snapshot: Snapshot, rollout: Resource, to: int) -> Iterator[Mapping[str, Any]]:
    """The features that streams build for the version and do not decide by yet. A stream decides by one set, so such a
    version cannot have a share beside the one before."""
    version = snapshot.find(rollout.tenant, "version", f"{rollout.spec['model']}:{to}")
    trained_on = (version.spec.get("features") or {}).get("digest") if version is not None else None
    for stream in _deciding(snapshot, rollout):
        changing = stream.status.get("features") or {}
        if trained_on and changing.get("digest") == trained_on and not _follows(stream, to):
            yield changing


def _follows(stream: Resource, version: int) -> bool:
    return bool(stream.status.get("model_version") == version)


def _breach(
    snapshot: Snapshot, rollout: Resource, reason: str, message: str, status: Mapping[str, Any] | None = None
) -> Put:
    action = f"`skyriver logs {rollout.spec['model']}` shows its replicas' last lines; the version before still serves."
    known = rollout.status if status is None else status
    return _put(rollout, "breach", snapshot.now, status=known, reason=reason, message=message, next_action=action)


def _put(resource: Resource, event: str, now: int, **changes: Any) -> Put:
    return Put(ROLLOUT.move(resource, event, now, **changes), resource.revision)


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


ROLLOUT = Kind("rollout", "PENDING", ROLLOUT_TRANSITIONS, ROLLOUT_FINAL, _step_rollout, _rollout_waits)
