"""The kind `watch`: of a model that is trained again by itself, what was seen, and what holds a training back. Pure.

It looks by jobs (`looking`) at what a stream decided with the version that serves, or at what its replicas counted of
their requests, and begins a training when there is a cause (`policy`: drift, worse quality, what follows a change up,
the version's age) and no brake: not twice within `at_most`, no more than `budget` within 30 days, not beside another
training or rollout of the model. What comes of a training is told by gate and rollout; after `give_up_after` in a row
that came to nothing it is BROKEN, and trains no more until somebody says so. All it knows is in its row, so a control
plane that is killed goes on where the one before it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from skyriver.core.errors import SkyriverError
from skyriver.core.jobs import ENDED
from skyriver.core.resources import Action, Kind, Put, Resource, Snapshot
from skyriver.core.spec import RetrainSpec
from skyriver.core.spending import spent_budget
from skyriver.core.units import iso_seconds
from skyriver.observe.gathering import gathered, pause_of
from skyriver.observe.looking import LOOKS, deciding_stream, forget, is_due, plan_look, taken_over
from skyriver.observe.metering import app_of
from skyriver.observe.policy import (
    REASONS,
    Cause,
    Serving,
    begun,
    cause_of,
    ended,
    held_back,
    known_change,
    last_failed,
)
from skyriver.release.operations import plan_train
from skyriver.release.rollouts import ROLLOUT_FINAL, champion

NO_MONEY: Final = "It waits for money:"
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
    found = {look: taken_over(snapshot, watch, look) for look in LOOKS}
    status = dict(watch.status)
    for taken, _ in found.values():
        status |= taken
    yield from forget(snapshot, watch)
    version = _version(snapshot, model)
    status |= _asked(snapshot, watch, model, version, spec)
    cause = _cause(snapshot, watch, model, version, status, spec)
    held = _held_back(snapshot, watch, status, spec) if cause is not None else ""
    if cause is not None and not held:
        yield from _train(snapshot, watch, status, cause, spec)
        return
    for look, (_, under_way) in found.items():
        if not under_way and version is not None and is_due(snapshot, model, version, status, spec, look):
            operation, *jobs = plan_look(snapshot, watch, model, version, status, look)
            yield from (Put(row, 0) for row in (operation, *jobs))
            status |= {look.under_way: operation.name, look.asked: snapshot.now}
    about = (
        _about(watch, model, status, cause, held, spec)
        or _blind(model, version, spec)
        or _seen(status, champion(model), spec)
    )
    after = WATCH.move(watch, "seen", snapshot.now, status=status, **about)
    if after != watch:
        yield Put(after, watch.revision)


# What it sees.


def _asked(
    snapshot: Snapshot, watch: Resource, model: Resource, version: Resource | None, spec: RetrainSpec
) -> dict[str, Any]:
    """What it was asked over HTTP, where no stream decides with it."""
    service = snapshot.find(watch.tenant, "service", watch.name)
    if not spec.drift or version is None or service is None or deciding_stream(snapshot, model) is not None:
        return {}
    before, pause_us = watch.status.get("asked"), pause_of(spec.window_us, spec.look_us)
    return {"asked": gathered(snapshot, before, service, version, window_us=spec.window_us, pause_us=pause_us)}


# When it trains.


def _cause(
    snapshot: Snapshot,
    watch: Resource,
    model: Resource,
    version: Resource | None,
    status: Mapping[str, Any],
    spec: RetrainSpec,
) -> Cause | None:
    if version is None or watch.state != "WATCHING":
        return None  # the first version is somebody's to ask for
    number = int(version.spec["version"])
    serves = [int(entry["at"]) for entry in model.status.get("history", ())]
    trainings = status.get("trainings") or [{}]
    since = max(watch.since, trainings[-1].get("ended", 0), *serves[-1:])
    serving = Serving(number, version.name, int(version.spec["trained_at"]), since)
    return cause_of(status, serving, spec, snapshot.now)


def _held_back(snapshot: Snapshot, watch: Resource, status: Mapping[str, Any], spec: RetrainSpec) -> str:
    """What holds a training back; "" when nothing does."""
    if held := held_back(status, spec, snapshot.now):
        return held
    if (spent := spent_budget(snapshot, watch.tenant, [app_of(watch)])) is not None:
        return f"{NO_MONEY} {spent.message}"
    for kind in ("operation", "rollout"):
        for row in snapshot.all(watch.tenant, kind):
            mine = (row.spec.get("action"), row.spec.get("target")) == ("train", watch.name)
            if kind == "operation" and mine and row.state not in ENDED:
                return f"{row.name} is under way."
            if kind == "rollout" and row.spec["model"] == watch.name and row.state not in ROLLOUT_FINAL:
                return f"The rollout {row.name} is under way."
    return ""


def _train(
    snapshot: Snapshot, watch: Resource, status: Mapping[str, Any], cause: Cause, spec: RetrainSpec
) -> Iterator[Action]:
    try:
        made = plan_train(snapshot, watch.tenant, watch.name, {}, {})
    except SkyriverError as error:  # what was deployed meanwhile does not allow it
        about = {"reason": error.code, "message": error.message, "next_action": error.next_action}
        after = WATCH.move(watch, "seen", snapshot.now, status=status, **about)
        if after != watch:
            yield Put(after, watch.revision)
        return
    run = made[0].name
    yield from (Put(row, 0) for row in made)
    yield Put(
        WATCH.move(
            watch,
            "train",
            snapshot.now,
            status=begun(status, cause, spec, run, snapshot.now),
            reason=REASONS[cause.what],
            message=f"{run} trains it again. {cause.message}",
        ),
        watch.revision,
    )


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
    status = ended(watch.status, good=good, told=told, now=snapshot.now)
    failures = status["failures"]
    if good:
        yield Put(WATCH.move(watch, "trained", snapshot.now, status=status, message=told), watch.revision)
    elif failures >= spec.give_up_after:
        times = "once" if failures == 1 else f"{failures} times in a row"
        message = f"Training it again came to nothing {times}; it is left to you. The last time: {told}"
        action = f"`skyriver explain {watch.name}` tells the story; `skyriver watch resume {watch.name}` lets it go on."
        about = {"reason": "RETRAINING_FAILS", "message": message, "next_action": action}
        yield Put(WATCH.move(watch, "give_up", snapshot.now, status=status, **about), watch.revision)
    else:
        about = _came_to_nothing(watch, status, spec)
        yield Put(WATCH.move(watch, "came_to_nothing", snapshot.now, status=status, **about), watch.revision)


def _outcome(snapshot: Snapshot, operation: Resource | None) -> tuple[bool | None, str]:
    """Whether it did what it was for, and what to tell; None: that is not known yet."""
    if operation is None:
        return False, "The training is no longer there."
    if operation.state != "SUCCEEDED":
        kind, _, made = str(operation.status.get("failed", "")).partition("/")
        if kind == "version":
            return False, f"{operation.name} made {made}, which does not take over. {operation.message}"
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


def _about(
    watch: Resource, model: Resource, status: Mapping[str, Any], cause: Cause | None, held: str, spec: RetrainSpec
) -> dict[str, str]:
    if watch.state == "BROKEN":
        return {"reason": watch.reason, "message": watch.message, "next_action": watch.next_action}
    nothing = _came_to_nothing(watch, status, spec) if last_failed(model.status, status) else {}
    if cause is not None:
        message = f"{cause.message} {held}"
        if nothing:
            message = f"{message} The last training came to nothing: {status['trainings'][-1]['outcome']}"
        spends = held.startswith(NO_MONEY)  # then to train it by hand is refused as well
        action = "`skyriver budget list` shows what is spent." if spends else nothing.get("next_action", "")
        return {"reason": REASONS[cause.what], "message": message, "next_action": action}
    for look in LOOKS:
        if unseen := status.get(look.unseen):
            told = f"{unseen['reason']}: {unseen['message']}"
            action = f"`skyriver explain {unseen.get('look', 'NAME')}` tells about it; the next look comes by itself."
            return {"reason": "CANNOT_LOOK", "message": told, "next_action": action}
    return nothing


def _came_to_nothing(watch: Resource, status: Mapping[str, Any], spec: RetrainSpec) -> dict[str, str]:
    """Of the last training: what it was for, what came of it, and when the next one is due."""
    training, known = status["trainings"][-1], known_change(status, spec)
    if known is not None:
        again = known.told()
    else:
        earliest = iso_seconds(training["at"] + spec.at_most_us)
        again = f"It is trained again when that is seen anew, at {earliest} at the earliest."
    return {
        "reason": "CAME_TO_NOTHING",
        "message": f"{training['why']} {training['outcome']} {again}",
        "next_action": f"`skyriver explain {training['run']}` tells more; `skyriver run {watch.name}` trains it now.",
    }


def _seen(status: Mapping[str, Any], serving: int, spec: RetrainSpec) -> dict[str, str]:
    seen, quality, known = status.get("seen"), status.get("quality"), known_change(status, spec)
    told = [seen["drift"]["message"]] if seen and spec.drift and seen["version"] == serving else []
    if quality and spec.quality and quality["version"] == serving:
        told.append(quality["message"])
    if known is not None:
        told.append(known.told())
    return {"message": " ".join(told)} if told else {}


def _blind(model: Resource, version: Resource | None, spec: RetrainSpec) -> dict[str, str]:
    """Why there is nothing to compare with."""
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
