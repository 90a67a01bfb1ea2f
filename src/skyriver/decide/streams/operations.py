"""What a user can ask of streams: proving that what was recorded equals what a backfill computes, and the thresholds by
which decisions cost least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.jobs import ENDED, new_job, new_operation, next_number
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.core.spec import AppSpec
from skyriver.decide.streams.rules_kind import live_of, version_of, versions_of
from skyriver.decide.streams.rules_release import with_rules
from skyriver.decide.streams.tune_request import TuneRequest
from skyriver.release.rollouts import champion
from skyriver.serve.predicted import predictions_about
from skyriver.trust.signing import proof_of


def plan_verify(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Recompute all recorded feature values of a stream from its log, and compare them bit for bit."""
    stream = need(snapshot.find(tenant, "stream", target), "stream", target)
    app = need(snapshot.find(tenant, *stream.parent.split("/", 1)), "app", stream.parent)
    if not stream.spec.get("features"):
        raise InvalidInput(
            f"{target} computes no features, so there is nothing to compare.",
            code="NO_FEATURES",
            next_action="Declare decisions with app.decide: the model's features are then computed on the stream.",
        )
    name = f"{target}-verify-{next_number(snapshot, tenant, 'job', f'{target}-verify')}"
    job = new_job(
        snapshot, app, kind="verify", target=target, name=name, lane=f"job/{name}", parent=f"operation/{name}"
    )
    return [new_operation(snapshot, tenant, name, action="verify", target=target, jobs=[name]), job]


def plan_tune(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Bring the tables up to date, and choose thresholds on what the released version was not trained on."""
    stream = need(snapshot.find(tenant, "stream", target), "stream", target)
    app = need(snapshot.find(tenant, *stream.parent.split("/", 1)), "app", stream.parent)
    spec, live = AppSpec.model_validate(app.spec["spec"]), live_of(versions_of(snapshot, stream))
    in_use = {"version": version_of(live), "rules": live.spec["rules"]} if live is not None else None
    if in_use is not None:
        spec = with_rules(spec, target, in_use["rules"])
    decide = TuneRequest.of(spec, target, params).decide
    model = need(snapshot.find(tenant, "model", decide.model), "model", decide.model)
    version = snapshot.find(tenant, "version", f"{decide.model}:{champion(model)}")
    if version is None:
        raise Conflict(
            f"No version of {decide.model} serves: there are no scores to choose thresholds by.",
            code="NO_VERSION",
            next_action=f"`skyriver run {decide.model}` trains one.",
        )
    name = f"{target}-tune-{next_number(snapshot, tenant, 'operation', f'{target}-tune')}"
    fresh = new_job(
        snapshot,
        app,
        kind="materialise",
        target=target,
        name=f"{name}-materialise",
        lane=f"table/{target}",
        tables=(target,),
        parent=f"operation/{name}",
    )
    job = new_job(
        snapshot,
        app,
        kind="tune",
        target=target,
        name=f"{name}-search",
        lane=f"job/{name}",
        params=params,
        inputs={"version": dict(version.spec), "proof": proof_of(version), "in_use": in_use},
        needs=[fresh.name],
        tables=(target,),
        parent=f"operation/{name}",
    )
    jobs = [fresh, job]
    return [new_operation(snapshot, tenant, name, action="tune", target=target, jobs=[j.name for j in jobs]), *jobs]


def plan_erase(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Erase a subject from a stream. `inputs["subject"]`: {"digest": of an object that says who}, so that neither rows
    nor the audit's know it; `params["dry_run"]`: only count what there is of it."""
    stream = need(snapshot.find(tenant, "stream", target), "stream", target)
    app = need(snapshot.find(tenant, *stream.parent.split("/", 1)), "app", stream.parent)
    digest = (inputs.get("subject") or {}).get("digest")
    if not isinstance(digest, str):
        raise InvalidInput(
            "It is not said who is to be erased.", code="NO_SUBJECT", next_action=f"`skyriver erase {target} KEY`."
        )
    if stream.spec["stream"].get("log"):
        raise InvalidInput(
            f"The log of {target} is in NATS: it cannot be written once more.",
            code="LOG_NOT_REWRITABLE",
            where=target,
            next_action="Purge its stream in NATS, and begin with a stream of another name.",
        )
    models = {str(m.name) for m in snapshot.all(tenant, "model") if m.parent == stream.parent}
    loads = [j for j in snapshot.all(tenant, "job") if j.spec.get("kind") == "load"]
    mine = {
        f["digest"] for j in loads if j.spec["target"] == target and j.state in ENDED for f in j.spec["inputs"]["files"]
    }
    others = {f["digest"] for j in loads if j.spec["target"] != target for f in j.spec["inputs"]["files"]}
    replays = [
        j for j in snapshot.all(tenant, "job") if (j.spec.get("kind"), j.spec.get("target")) == ("replay", target)
    ]
    if any(job.state not in ENDED for job in replays):
        raise Conflict(
            f"A replay of {target} goes on, and writes rows that are to be erased.",
            code="REPLAY_RUNS",
            next_action="Wait until it has ended, or cancel it: `skyriver job list`.",
        )
    rows = [kept for job in replays for kept in job.status.get("outputs", {}).get("artifacts", {}).values()]
    predictions = predictions_about(snapshot, stream)
    name = f"{target}-erase-{next_number(snapshot, tenant, 'operation', f'{target}-erase')}"
    job = new_job(
        snapshot,
        app,
        kind="erase",
        target=target,
        name=name,
        lane=f"table/{target}",
        params={"dry_run": bool(params.get("dry_run"))},
        inputs={
            "subject": {"digest": digest},
            "versions": sorted(v.name for v in snapshot.all(tenant, "version") if v.spec.get("model") in models),
            "files": sorted(mine - others),
            "replays": sorted({kept["digest"] for kept in rows}),
            "predictions": predictions,
            "dispatcher": snapshot.find(tenant, "dispatcher", target) is not None,
        },
        tables=(target, *predictions["tables"]),
        parent=f"operation/{name}",
    )
    return [new_operation(snapshot, tenant, name, action="erase", target=target, jobs=[name]), job]
