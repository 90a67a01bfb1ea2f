"""The kind `watch`: of a model that is trained again by itself, what was seen, and what holds a training back. Pure.

It looks by jobs, one after the other, at what a stream decided with the version that serves, or at what its replicas
counted of their requests, and begins a training when there is a cause (drift, or the version's age) and no brake: not
twice within `at_most`, no more than `budget` within 30 days, not beside another training or rollout of the model. What
comes of a training is told by gate and rollout; after `give_up_after` in a row that came to nothing it is BROKEN, and
trains no more until somebody says so. All it knows is in its row, so a control plane that is killed goes on where the
one before it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from skyriver.core.errors import SkyriverError
from skyriver.core.jobs import ENDED, new_job, new_operation, next_number
from skyriver.core.resources import Action, Delete, Kind, Put, Resource, Snapshot
from skyriver.core.spec import RetrainSpec
from skyriver.core.units import DAY, iso_seconds
from skyriver.observe.gathering import GATHER_US, gathered
from skyriver.release.operations import plan_train
from skyriver.release.rollouts import ROLLOUT_FINAL, champion

WATCH_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("WATCHING", "seen"): "WATCHING",
    ("WATCHING", "train"): "RETRAINING",
    ("WATCHING", "pause"): "PAUSED",
    ("RETRAINING", "seen"): "RETRAINING",
    ("RETRAINING", "trained"): "WATCHING",
    ("RETRAINING", "came_to_nothing"): "WATCHING",
    ("RETRAINING", "give_up"): "BROKEN",
    ("RETRAINING", "pause"): "PAUSED",
    ("BROKEN", "seen"): "BROKEN",
    ("BROKEN", "resume"): "WATCHING",
    ("PAUSED", "resume"): "WATCHING",
    ("PAUSED", "follow"): "RETRAINING",
}

BUDGET_US: Final = 30 * DAY
KEPT_TRAININGS: Final = 100
KEPT_LOOKS: Final = 3


def new_watch(tenant: str, app: str, model: str, retrain: Mapping[str, Any]) -> Resource:
    return Resource(
        tenant=tenant,
        kind="watch",
        name=model,
        spec={"model": model, "retrain": dict(retrain)},
        state="WATCHING",
        parent=f"app/{app}",
    )


def _step_watch(snapshot: Snapshot, watch: Resource) -> Iterator[Action]:
    model = snapshot.find(watch.tenant, "model", watch.name)
    if model is None or watch.state == "PAUSED":
        return
    spec = RetrainSpec.model_validate(watch.spec["retrain"])
    if watch.state == "RETRAINING":
        yield from _follow(snapshot, watch, spec)
        return
    looked, looking = _looked(snapshot, watch)
    status = {**watch.status, **looked, **_asked(snapshot, watch, model, spec)}
    yield from _forget(snapshot, watch)
    cause = _cause(snapshot, model, status, spec) if watch.state == "WATCHING" else None
    held = _held_back(snapshot, watch, cause, spec) if cause is not None else ""
    if cause is not None and not held:
        yield from _train(snapshot, watch, status, cause)
        return
    if not looking and _look_is_due(snapshot, model, status, spec):
        operation, *jobs = _plan_look(snapshot, watch, model, status)
        for row in (operation, *jobs):
            yield Put(row, 0)
        status |= {"look": operation.name, "looked": snapshot.now}
    about = _about(watch, status, cause, held) or _blind(snapshot, model, spec) or _seen(status, champion(model))
    after = WATCH.move(watch, "seen", snapshot.now, status=status, **about)
    if after != watch:
        yield Put(after, watch.revision)


# What it sees.


def _looked(snapshot: Snapshot, watch: Resource) -> tuple[dict[str, Any], bool]:
    """What the last look gave, if that was not taken over yet; whether one is under way."""
    name = watch.status.get("look")
    look = snapshot.find(watch.tenant, "operation", name) if name else None
    if look is None:
        return {"look": ""} if name else {}, False
    if look.state not in ENDED:
        return {}, True
    if look.state != "SUCCEEDED":
        return {"look": "", "unseen": {"reason": look.reason, "message": look.message}}, False
    return {"look": "", "unseen": None, "seen": look.status["result"]["watch"]}, False


def _asked(snapshot: Snapshot, watch: Resource, model: Resource, spec: RetrainSpec) -> dict[str, Any]:
    """What it was asked over HTTP, where no stream decides with it."""
    version, service = _version(snapshot, model), snapshot.find(watch.tenant, "service", watch.name)
    if not spec.drift or version is None or service is None or _stream(snapshot, model) is not None:
        return {}
    before, pause_us = watch.status.get("asked"), min(GATHER_US, spec.look_us)
    return {"asked": gathered(snapshot, before, service, version, window_us=spec.window_us, pause_us=pause_us)}


def _look_is_due(snapshot: Snapshot, model: Resource, status: Mapping[str, Any], spec: RetrainSpec) -> bool:
    version = _version(snapshot, model)
    return (
        spec.drift
        and version is not None
        and bool(version.spec.get("profile"))
        and not 0 <= snapshot.now - int(status.get("looked", 0)) < spec.look_us
        and (_stream(snapshot, model) is not None or bool((status.get("asked") or {}).get("quarters")))
        and snapshot.find(model.tenant, *model.parent.split("/", 1)) is not None
    )


def _plan_look(snapshot: Snapshot, watch: Resource, model: Resource, status: Mapping[str, Any]) -> list[Resource]:
    version, stream = _version(snapshot, model), _stream(snapshot, model)
    app = snapshot.find(watch.tenant, *model.parent.split("/", 1))
    assert version is not None
    assert app is not None
    prefix = f"{watch.name}-watch"
    name = f"{prefix}-{next_number(snapshot, watch.tenant, 'operation', prefix)}"
    before = (status.get("seen") or {}).get("counted")
    asked = status.get("asked") or {}
    where = {"stream": stream.name} if stream is not None else {"since": asked["since"], "asked": asked["quarters"]}
    job = new_job(
        snapshot,
        app,
        kind="watch",
        target=watch.name,
        name=name,
        lane=f"watch/{watch.name}",
        inputs={
            "version": version.spec["version"],
            "profile": version.spec["profile"],
            "features": version.spec["features"]["digest"],
            **where,
            "window_us": RetrainSpec.model_validate(watch.spec["retrain"]).window_us,
            "before": before,
        },
        parent=f"operation/{name}",
    )
    return [
        new_operation(snapshot, watch.tenant, name, action="watch", target=watch.name, jobs=[name], parent=watch.ref),
        job,
    ]


def _forget(snapshot: Snapshot, watch: Resource) -> Iterator[Action]:
    """Looks are many, and each is told by the next one."""
    looks = [o for o in snapshot.children(watch, "operation") if o.spec["action"] == "watch" and o.state in ENDED]
    looks.sort(key=lambda o: int(o.name.rpartition("-")[2]))
    for look in looks[:-KEPT_LOOKS]:
        if look.name != watch.status.get("look"):
            yield from (Delete(*job.key, job.revision) for job in snapshot.children(look, "job"))
            yield Delete(*look.key, look.revision)


# When it trains.


@dataclass(frozen=True, slots=True)
class Cause:
    what: str
    message: str


def _cause(snapshot: Snapshot, model: Resource, status: Mapping[str, Any], spec: RetrainSpec) -> Cause | None:
    version = _version(snapshot, model)
    if version is None:
        return None  # the first one is somebody's to ask for
    seen = status.get("seen") or {}
    if spec.drift and seen.get("version") == version.spec["version"] and seen["drift"]["verdict"] == "drifted":
        return Cause("drift", seen["drift"]["message"])
    if spec.every_us and snapshot.now - int(version.spec["trained_at"]) >= spec.every_us:
        trained = iso_seconds(int(version.spec["trained_at"]))
        return Cause("age", f"{version.name} was trained at {trained}, {spec.every} ago or more.")
    return None


def _held_back(snapshot: Snapshot, watch: Resource, cause: Cause, spec: RetrainSpec) -> str:
    """What holds a training back; "" when nothing does."""
    trainings = watch.status.get("trainings") or []
    if trainings and abs(snapshot.now - trainings[-1]["at"]) < spec.at_most_us:
        following = iso_seconds(trainings[-1]["at"] + spec.at_most_us)
        return f"It is trained for that at most once in {spec.at_most}, so not before {following}."
    recent = sum(1 for training in trainings if abs(snapshot.now - training["at"]) < BUDGET_US)
    if spec.budget and recent >= spec.budget:
        return f"Its budget is spent: {recent} trainings within 30 days."
    for kind in ("operation", "rollout"):
        for row in snapshot.all(watch.tenant, kind):
            mine = (row.spec.get("action"), row.spec.get("target")) == ("train", watch.name)
            if kind == "operation" and mine and row.state not in ENDED:
                return f"{row.name} is under way."
            if kind == "rollout" and row.spec["model"] == watch.name and row.state not in ROLLOUT_FINAL:
                return f"The rollout {row.name} is under way."
    return ""


def _train(snapshot: Snapshot, watch: Resource, status: Mapping[str, Any], cause: Cause) -> Iterator[Action]:
    try:
        made = plan_train(snapshot, watch.tenant, watch.name, {}, {})
    except SkyriverError as error:  # what was deployed meanwhile does not allow it
        about = {"reason": error.code, "message": error.message, "next_action": error.next_action}
        after = WATCH.move(watch, "seen", snapshot.now, status=status, **about)
        if after != watch:
            yield Put(after, watch.revision)
        return
    yield from (Put(row, 0) for row in made)
    training = {"at": snapshot.now, "run": made[0].name, "cause": cause.what, "why": cause.message, "outcome": ""}
    trainings = [*(status.get("trainings") or []), training][-KEPT_TRAININGS:]
    yield Put(
        WATCH.move(
            watch,
            "train",
            snapshot.now,
            status={**status, "trainings": trainings},
            reason=_REASONS[cause.what],
            message=f"{made[0].name} trains it again. {cause.message}",
        ),
        watch.revision,
    )


_REASONS: Final = {"drift": "DRIFTED", "age": "TOO_OLD"}


def _follow(snapshot: Snapshot, watch: Resource, spec: RetrainSpec) -> Iterator[Action]:
    """What became of the training that it began."""
    training = watch.status["trainings"][-1]
    operation = snapshot.find(watch.tenant, "operation", training["run"])
    if operation is not None and operation.state not in ENDED:
        return
    good, told = _outcome(snapshot, operation)
    if good is None:
        if watch.message != told:
            about = {"reason": watch.reason, "message": told}
            yield Put(WATCH.move(watch, "seen", snapshot.now, **about), watch.revision)
        return
    failures = 0 if good else int(watch.status.get("failures", 0)) + 1
    ended = {**training, "outcome": told, "good": good, "ended": snapshot.now}
    status = {**watch.status, "trainings": [*watch.status["trainings"][:-1], ended], "failures": failures}
    if good:
        yield Put(WATCH.move(watch, "trained", snapshot.now, status=status, message=told), watch.revision)
    elif failures >= spec.give_up_after:
        times = "once" if failures == 1 else f"{failures} times in a row"
        message = f"Training it again came to nothing {times}; it is left to you. The last time: {told}"
        action = f"`skyriver explain {watch.name}` tells the story; `skyriver watch resume {watch.name}` lets it go on."
        about = {"reason": "RETRAINING_FAILS", "message": message, "next_action": action}
        yield Put(WATCH.move(watch, "give_up", snapshot.now, status=status, **about), watch.revision)
    else:
        message = f"{told} It is tried again {spec.at_most} after it began, at the earliest."
        about = {"reason": "CAME_TO_NOTHING", "message": message}
        yield Put(WATCH.move(watch, "came_to_nothing", snapshot.now, status=status, **about), watch.revision)


def _outcome(snapshot: Snapshot, operation: Resource | None) -> tuple[bool | None, str]:
    """Whether it did what it was for, and what to tell; None: that is not known yet."""
    if operation is None:
        return False, "The training is no longer there."
    if operation.state != "SUCCEEDED":
        return (
            False,
            f"{operation.name} is {operation.state}, {operation.reason or 'without a reason'}: {operation.message}",
        )
    for ref in operation.status.get("created", ()):
        version = snapshot.find(operation.tenant, *ref.split("/", 1))
        rollout = next(iter(snapshot.children(version, "rollout")), None) if version is not None else None
        if version is None or version.kind != "version" or rollout is None:
            continue
        if rollout.state not in ROLLOUT_FINAL:
            return None, f"{version.name} takes over by the rollout {rollout.name}."
        if rollout.state != "DONE":
            return False, f"The rollout of {version.name} is {rollout.state}: {rollout.message}"
        return True, f"{version.name} serves."
    return False, f"{operation.name} made no version that takes over."


# What it tells.


def _about(watch: Resource, status: Mapping[str, Any], cause: Cause | None, held: str) -> dict[str, str]:
    if watch.state == "BROKEN":
        return {"reason": watch.reason, "message": watch.message, "next_action": watch.next_action}
    if cause is not None:
        return {"reason": _REASONS[cause.what], "message": f"{cause.message} {held}"}
    if unseen := status.get("unseen"):
        action = f"`skyriver explain {watch.name}-watch-N` tells about a look; the next one comes by itself."
        return {"reason": "CANNOT_LOOK", "message": f"{unseen['reason']}: {unseen['message']}", "next_action": action}
    if watch.reason == "CAME_TO_NOTHING" and status.get("failures"):
        return {"reason": watch.reason, "message": watch.message}
    return {}


def _seen(status: Mapping[str, Any], serving: int) -> dict[str, str]:
    seen = status.get("seen")
    return {"message": seen["drift"]["message"]} if seen and seen["version"] == serving else {}


def _blind(snapshot: Snapshot, model: Resource, spec: RetrainSpec) -> dict[str, str]:
    """Why there is nothing to compare with."""
    version = _version(snapshot, model)
    if version is None:
        return {"message": "No version serves yet; the first one is yours to train."}
    if spec.drift and not version.spec.get("profile"):
        action = f"`skyriver run {model.name}` trains one that has it."
        why = f"{version.name} was made by an earlier release, which kept no profile of its training rows."
        return {"reason": "NO_PROFILE", "message": why, "next_action": action}
    return {}


def _version(snapshot: Snapshot, model: Resource) -> Resource | None:
    """The one that serves."""
    number = champion(model)
    return snapshot.find(model.tenant, "version", f"{model.name}:{number}") if number else None


def _stream(snapshot: Snapshot, model: Resource) -> Resource | None:
    """That decides with the model."""
    streams = snapshot.all(model.tenant, "stream")
    return next((s for s in streams if (s.spec.get("decide") or {}).get("model") == model.name), None)


def _watch_waits(snapshot: Snapshot, watch: Resource) -> Iterator[str]:
    if watch.state == "RETRAINING":
        operation = snapshot.find(watch.tenant, "operation", watch.status["trainings"][-1]["run"])
        if operation is not None and operation.state not in ENDED:
            yield operation.ref
        yield from (
            r.ref
            for r in snapshot.all(watch.tenant, "rollout")
            if r.spec["model"] == watch.name and r.state not in ROLLOUT_FINAL
        )


def update_watch(watch: Resource, retrain: Mapping[str, Any]) -> Resource:
    """With another declaration; what it has seen and done stays."""
    return replace(watch, spec={**watch.spec, "retrain": dict(retrain)})


WATCH = Kind("watch", "WATCHING", WATCH_TRANSITIONS, frozenset(), _step_watch, _watch_waits)
