"""Models from outside: files that somebody brings, of models that no application trains.

Such a model is a row without a parent until an application declares it (`app.model(NAME, registered=True)`). Until then
nothing says by which gate its versions are judged: they are kept, named, tagged and read, and serve nobody. Once it is
declared each version is judged, and none takes over by itself: who names one `champion` begins its rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.jobs import ENDED, new_job, new_operation, next_number
from skyriver.core.names import check_name
from skyriver.core.resources import Limits, Resource, Snapshot, need
from skyriver.core.spec import AppSpec, ModelSpec

UNDECLARED = "REGISTERED"
"""State of a model that no application declares."""
CHECK_SECONDS = 600.0
"""For so long a file that somebody brought may be looked at."""
MOST_FILES = 101
MOST_ORIGIN = 10
LONGEST_ORIGIN = 1_000
_PARAMS = ("description", "origin")


def is_registered(model: Resource) -> bool:
    return bool(model.spec.get("model", {}).get("registered"))


def is_undeclared(model: Resource) -> bool:
    return is_registered(model) and not model.parent


def new_model(snapshot: Snapshot, tenant: str, name: str) -> Resource:
    """A model that no application declares. Raises InvalidInput (BAD_NAME)."""
    check_name(name, "a model")
    return released(snapshot, Resource(tenant, "model", name))


def declared(model: Resource, wanted: Resource) -> Resource:
    """A model from outside that an application declares from now on. `champion` named nobody who served: a rollout
    gives it, once the version was judged."""
    aliases = {alias: number for alias, number in model.status.get("aliases", {}).items() if alias != "champion"}
    status = {**model.status, "aliases": aliases}
    told: dict[str, Any] = {"reason": "", "message": "", "next_action": ""}
    return replace(model, spec=wanted.spec, parent=wanted.parent, state=wanted.state, status=status, **told)


def released(snapshot: Snapshot, model: Resource) -> Resource:
    """One that no application declares, or does any more: it stays, with its versions, names and tags."""
    spec = {
        "model": ModelSpec(name=model.name, registered=True).to_json(),
        "features": None,
        "source": "",
        "streams": False,
        "file": "",
    }
    return replace(
        model,
        spec=spec,
        parent="",
        state=UNDECLARED,
        since=snapshot.now,
        reason="UNDECLARED",
        message="No application declares it: it serves nobody, and has no gate.",
        next_action=f"Declare app.model({model.name!r}, registered=True) in an application, and deploy that.",
    )


def app_of(snapshot: Snapshot, model: Resource) -> Resource:
    """The application whose jobs are about a model; of one that none declares, an empty one. Raises NotFound."""
    if model.parent:
        return need(snapshot.find(model.tenant, *model.parent.split("/", 1)), "app", model.parent)
    code = {"bundle": "", "main": ""}
    return Resource(model.tenant, "app", model.name, spec={"spec": AppSpec(name=model.name).to_json(), "code": code})


def plan_take_in(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Check an uploaded model file (`inputs["files"]`: its `digest` and `name`; behind it files with its weights, by
    the names that it has for them) and make it a version of `target`, which is made where there is none. `params`:
    `description`, and `origin`, texts by name of where it comes from: both are in the version's record.

    Raises InvalidInput (BAD_NAME, BAD_PARAMETER), Conflict (TRAINED_HERE)."""
    known = snapshot.find(tenant, "model", target)
    model = known if known is not None else new_model(snapshot, tenant, target)
    check_registered(model)
    files = _files(inputs.get("files"))
    told = _params(params)
    run = f"{target}-import-{next_number(snapshot, tenant, 'operation', f'{target}-import')}"
    job = new_job(
        snapshot,
        app_of(snapshot, model),
        kind="import",
        target=target,
        name=run,
        lane=f"model/{target}",
        params=told,
        inputs={"files": files},
        limits=Limits(seconds=CHECK_SECONDS),
        parent=f"operation/{run}",
    )
    operation = new_operation(snapshot, tenant, run, action="import", target=target, jobs=[run])
    return [operation, job] if known is not None else [operation, job, model]


def plan_delete(snapshot: Snapshot, tenant: str, name: str) -> list[Resource]:
    """A model that no application declares, and its versions, where nothing rests on them: what was a mistake can be
    taken back. Raises NotFound, Conflict (IN_USE), which says what can be done instead."""
    model = need(snapshot.find(tenant, "model", name), "model", name)
    versions = [v for v in snapshot.all(tenant, "version") if v.spec["model"] == name]
    jobs = [j for j in snapshot.all(tenant, "job") if j.spec.get("target") == name]
    scored = next((j.name for j in jobs if j.spec["kind"] == "predict"), "")
    goes_on = next((j.name for j in jobs if j.state not in ENDED), "")
    why, action = "", f"It can be marked as no longer used: `skyriver model tag {name} retired=yes`."
    if not is_undeclared(model):
        why, action = f"{model.parent} declares it", _how_it_goes(model)
    elif any(r.spec["model"] == name for r in snapshot.all(tenant, "rollout")):
        why = "it has served, and what it answered must stay traceable to it"
    elif scored:
        why = f"rows were scored by it ({scored}), and must stay traceable to it"
    elif goes_on:
        why = f"{goes_on} goes on"
        action = f"Wait for it, or end it: `skyriver job cancel {goes_on}`. Then delete the model."
    if why:
        raise Conflict(
            f"The model {name} cannot be deleted: {why}.", code="IN_USE", where=model.ref, next_action=action
        )
    return [model, *versions]


def _how_it_goes(model: Resource) -> str:
    """Of a model that an application declares: it ends with its declaration."""
    app = model.parent.partition("/")[2]
    how = f"Take it out of {app}'s file and `skyriver deploy APP.py --prune`, or `skyriver app delete {app}`"
    if is_registered(model):
        return f"{how}; then it can be deleted, unless it has served."
    return f"{how}: it goes with that. Its versions stay, and serve nobody."


def check_registered(model: Resource) -> None:
    """Returns if versions of it come from outside. Raises Conflict (TRAINED_HERE)."""
    if is_registered(model):
        return
    how = f"the file {file} in its folder" if (file := model.spec.get("model", {}).get("onnx")) else "its training"
    raise Conflict(
        f"{model.ref} is of {model.parent}, and its versions come of {how}.",
        code="TRAINED_HERE",
        where=model.ref,
        next_action=f"Take the file in under another name, or declare app.model({model.name!r}, registered=True).",
    )


def _files(given: object) -> list[dict[str, str]]:
    """The model, and files beside it that may hold its weights."""
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_FILES:
        raise _bad("A version is made of a model file, and of at most a hundred files beside it with its weights.")
    for file in given:
        if not isinstance(file, dict) or not isinstance(file.get("digest"), str):
            raise _bad(f"{file!r:.300} names no uploaded file.")
    names = [str(file.get("name") or "model.onnx")[:500] for file in given]
    return [{"digest": file["digest"], "name": name} for file, name in zip(given, names, strict=True)]


def _params(params: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := [name for name in params if name not in _PARAMS]:
        raise _bad(f"An import knows no parameter {unknown[0]!r}.")
    description, origin = params.get("description") or "", params.get("origin") or {}
    if not isinstance(description, str) or len(description) > 2_000:
        raise _bad("The description is no text of at most 2,000 characters.")
    fits = isinstance(origin, dict) and len(origin) <= MOST_ORIGIN
    if not fits or not all(isinstance(text, str) and len(text) <= LONGEST_ORIGIN for text in origin.values()):
        raise _bad(f"origin is at most {MOST_ORIGIN} texts by name, of {LONGEST_ORIGIN:,} characters each.")
    return {"description": description, "origin": dict(origin)}


def _bad(why: str) -> InvalidInput:
    return InvalidInput(why, code="BAD_PARAMETER", next_action="`skyriver model import --help` says what it takes.")
