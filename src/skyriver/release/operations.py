"""What a user can ask of models: a training run, taking in a ready file, going back to the version before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.jobs import ENDED, new_job, new_operation, next_number
from skyriver.core.resources import GPU, Limits, Resource, Snapshot, need
from skyriver.release.registered import app_of, is_registered
from skyriver.release.rollouts import (
    ROLLOUT,
    ROLLOUT_FINAL,
    ROLLOUT_TRANSITIONS,
    STEERED,
    champion,
    guards_of,
    in_shadow,
    new_rollout,
    unfit,
)
from skyriver.release.shadow import begin_shadow, paired_of
from skyriver.release.stepping import begin_step
from skyriver.trust.signing import proof_of


def plan_train(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Bring the data up to date, train, compress; the version that comes of it goes through gate and rollout."""
    model = need(snapshot.find(tenant, "model", target), "model", target)
    spec = model.spec["model"]
    if is_registered(model):
        raise InvalidInput(
            f"The versions of {target} come from outside, there is nothing to train.",
            code="NOT_TRAINABLE",
            next_action=f"`skyriver model import {target} FILE` brings one.",
        )
    app = app_of(snapshot, model)
    if not spec["train"]:
        raise InvalidInput(
            f"The model {target} is a ready file ({spec['onnx']}), there is nothing to train.",
            code="NOT_TRAINABLE",
            next_action="`skyriver deploy` takes a changed file in.",
        )
    source = str(model.spec["source"])
    run = f"{target}-run-{next_number(snapshot, tenant, 'operation', f'{target}-run')}"
    beside = [
        operation.name
        for operation in snapshot.all(tenant, "operation")
        if (operation.spec["action"], operation.spec["target"]) == ("train", target) and operation.state not in ENDED
    ]
    jobs: list[Resource] = []
    if model.spec["streams"]:
        jobs.append(
            new_job(
                snapshot,
                app,
                kind="materialise",
                target=source,
                name=f"{run}-materialise",
                lane=f"table/{source}",
                tables=(source,),
                parent=f"operation/{run}",
            )
        )
    known = champion(model)
    serving = snapshot.find(tenant, "version", f"{target}:{known}") if known else None
    searching = int((spec["train"].get("search") or {}).get("parallel", 1))
    first = [job.name for job in jobs]
    jobs += [
        new_job(
            snapshot,
            app,
            kind="search",
            target=target,
            name=f"{run}-search-{index}",
            lane=f"search/{run}-{index}",
            params=params,
            inputs={"study": run},
            needs=first,
            tables=(source,),
            parent=f"operation/{run}",
            index=index,
            runs_code=True,
        )
        for index in (range(searching) if searching > 1 else ())
    ]
    jobs.append(
        new_job(
            snapshot,
            app,
            kind="train",
            target=target,
            name=f"{run}-train",
            lane=f"model/{target}",
            params=params,
            inputs={
                "champion": dict(serving.spec) if serving is not None else None,
                "champion_proof": proof_of(serving) if serving is not None else None,
                "run": run,
                "beside": beside,  # runs that are not done, whose trials it is to leave alone
                **({"study": run} if searching > 1 else {}),
            },
            needs=[j.name for j in jobs],
            tables=(source,),
            parent=f"operation/{run}",
            runs_code=True,
            workers=int(spec["train"].get("workers", 0)),
            limits=Limits(accelerators={GPU: spec["train"]["gpus"]} if spec["train"].get("gpus") else {}),
        )
    )
    jobs.append(
        new_job(
            snapshot,
            app,
            kind="compress",
            target=target,
            name=f"{run}-compress",
            lane=f"model/{target}",
            needs=[jobs[-1].name],
            parent=f"operation/{run}",
        )
    )
    return [new_operation(snapshot, tenant, run, action="train", target=target, jobs=[j.name for j in jobs]), *jobs]


def plan_import(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Check the model file of the application's bundle and make it a version."""
    model = need(snapshot.find(tenant, "model", target), "model", target)
    app = app_of(snapshot, model)
    run = f"{target}-import-{next_number(snapshot, tenant, 'operation', f'{target}-import')}"
    job = new_job(
        snapshot, app, kind="import", target=target, name=run, lane=f"model/{target}", parent=f"operation/{run}"
    )
    return [new_operation(snapshot, tenant, run, action="import", target=target, jobs=[run]), job]


def plan_rollback(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Make the version that served before serve again (or `params["version"]`)."""
    model = need(snapshot.find(tenant, "model", target), "model", target)
    asked = params.get("version") or 0
    if not isinstance(asked, int):
        raise InvalidInput(
            f"{asked!r} is not the number of a version.",
            code="BAD_PARAMETER",
            next_action=f"`skyriver model history {target}` shows the versions that served.",
        )
    to = asked or _before(model)
    if not to:
        raise Conflict(
            f"{target} has no earlier version to go back to.",
            code="NO_EARLIER_VERSION",
            next_action=f"`skyriver model history {target}` shows what served when.",
        )
    check_takes_over(snapshot, model, to)
    run = f"{target}-rollback-{next_number(snapshot, tenant, 'operation', f'{target}-rollback')}"
    rollout = new_rollout(snapshot, tenant, target, to, parent=f"operation/{run}", cause="rollback")
    return [new_operation(snapshot, tenant, run, action="rollback", target=target, follow=[rollout.ref]), rollout]


def check_takes_over(snapshot: Snapshot, model: Resource, to: int) -> None:
    """Returns when the version `to` can begin to take over. Raises NotFound, Conflict (ROLLOUT_RUNNING, NOT_APPROVED,
    ALREADY_SERVES, and what `unfit` tells)."""
    tenant, target = model.tenant, model.name
    running = [r for r in snapshot.all(tenant, "rollout") if r.spec["model"] == target and r.state not in ROLLOUT_FINAL]
    if running:
        raise Conflict(
            f"{target} is in the middle of the rollout {running[0].name}.",
            code="ROLLOUT_RUNNING",
            next_action=f"`skyriver rollout get {running[0].name}` shows how far it is; `skyriver rollout abort"
            f" {running[0].name}` takes it back.",
        )
    version = need(snapshot.find(tenant, "version", f"{target}:{to}"), "version", f"{target}:{to}")
    if version.state != "APPROVED":
        raise Conflict(
            f"{target}:{to} is {version.state}: it never passed the gate.",
            code="NOT_APPROVED",
            next_action=f"`skyriver explain {target}:{to}` tells why; `skyriver model history {target}` what served.",
        )
    if to == champion(model):
        raise Conflict(
            f"{target}:{to} serves already.",
            code="ALREADY_SERVES",
            next_action=f"`skyriver model history {target}` shows which served before it.",
        )
    misfit = unfit(snapshot, tenant, target, to)
    if misfit:
        raise Conflict(misfit["message"], code=misfit["reason"], next_action=misfit["next_action"])


def plan_rollout_pause(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Keeps the shares as they are, until somebody says how it goes on. It is still taken back when it is worse."""
    why = _why(params)
    action = f"`skyriver rollout resume {target}` lets it go on, `promote` gives it all requests, `abort` none."
    message = f"It was paused by hand{f': {why}' if why else ''}."
    return _steer(snapshot, tenant, target, "pause", reason="BY_HAND", message=message, next_action=action)


def plan_rollout_resume(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Begins the step anew that it was paused in; what was seen so far still counts."""
    rollout = need(snapshot.find(tenant, "rollout", target), "rollout", target)
    status = dict(rollout.status)
    if in_shadow(rollout):
        if shadow := status.get("shadow"):
            status["shadow"] = begin_shadow(shadow, snapshot.now, paired_of(guards_of(rollout)))
        return _steer(snapshot, tenant, target, "shadow", status=status)
    if canary := status.get("canary"):
        status["canary"] = begin_step(canary, canary["step"], snapshot.now)
    return _steer(snapshot, tenant, target, "resume", status=status)


def plan_rollout_promote(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Gives it all requests now."""
    return _steer(snapshot, tenant, target, "promote")


def plan_rollout_abort(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Gives the version before all requests again."""
    rollout = need(snapshot.find(tenant, "rollout", target), "rollout", target)
    why, status = _why(params), {**rollout.status, "withdrawn": True}
    message = f"It was aborted by hand{f': {why}' if why else ''}."
    return _steer(snapshot, tenant, target, "withdraw", status=status, reason="BY_HAND", message=message)


_WORDS = {"pause": "pause", "resume": "resume", "shadow": "resume", "promote": "promote", "withdraw": "abort"}


def _steer(snapshot: Snapshot, tenant: str, target: str, event: str, **changes: Any) -> list[Resource]:
    """Raises NotFound, Conflict (REFUSED_TRANSITION)."""
    rollout = need(snapshot.find(tenant, "rollout", target), "rollout", target)
    word = _WORDS[event]
    if rollout.state not in STEERED or (rollout.state, event) not in ROLLOUT_TRANSITIONS:
        able = dict.fromkeys(w for e, w in _WORDS.items() if (rollout.state, e) in ROLLOUT_TRANSITIONS)
        steered = rollout.state in STEERED
        raise Conflict(
            f"The rollout {target} is {rollout.state}: it cannot {word} now.",
            code="REFUSED_TRANSITION",
            where=rollout.ref,
            next_action=f"It can {' or '.join(able)}."
            if steered
            else f"`skyriver rollout get {target}` shows what became of it.",
        )
    run = f"{target}-{word}-{next_number(snapshot, tenant, 'operation', f'{target}-{word}')}"
    operation = new_operation(snapshot, tenant, run, action=f"rollout_{word}", target=target)
    return [operation, ROLLOUT.move(rollout, event, snapshot.now, **changes)]


def _why(params: Mapping[str, Any]) -> str:
    why = params.get("why") or ""
    if not isinstance(why, str) or len(why) > 1_000:
        raise InvalidInput(
            f"why={why!r:.80} is no text of at most 1,000 characters.",
            code="BAD_PARAMETER",
            where="why",
            next_action="Say in a sentence why it is done.",
        )
    return why.strip().rstrip(".")


def _before(model: Resource) -> int:
    """The version that was champion before the present one, by the history of releases; rollbacks undo, so that
    going back twice goes back two releases rather than to and fro."""
    stack: list[int] = []
    for entry in model.status.get("history", ()):
        version = int(entry["version"])
        if entry["cause"] == "rollback" and version in stack:
            del stack[stack.index(version) + 1 :]
        else:
            stack.append(version)
    return stack[-2] if len(stack) > 1 else 0
