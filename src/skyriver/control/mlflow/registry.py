"""The routes of registered models and their versions, which are those of this cloud: what a client registers is
checked, signed and judged as every other file from outside, and `champion` of a model that is served is a rollout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from skyriver.control.mlflow import shown, trainings
from skyriver.control.mlflow.experiments import READ, WRITE
from skyriver.control.mlflow.filters import Value, paged, searched
from skyriver.control.mlflow.protocol import API, ASKED, Asked, Board, add_route, bad, exists
from skyriver.control.mlflow.records import put
from skyriver.control.mlflow.sources import model_files, source_of
from skyriver.core.errors import Conflict, InvalidInput, NotFound
from skyriver.core.jobs import ENDED
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot, need
from skyriver.core.tags import RESERVED, tagged, tags_of

Document = dict[str, Any]
CHECKED_SECONDS: Final = 55.0
"""For so long a client that registers a file waits for what its check says: MLflow's clients wait for two minutes."""
_LOOK_SECONDS = 0.05
_PROMPT = "mlflow.prompt.is_prompt"
"""MLflow keeps its prompts as models with this tag, and each of its searches asks for those without."""


def add_registry(board: Board) -> None:
    _add_models(board)
    _add_versions(board)
    _add_aliases(board)


def _add_models(board: Board) -> None:
    def create(asked: Asked) -> Document:
        who, name = asked.who, asked.text("name", most=300)
        description = asked.text("description", "")

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            if snapshot.find(who.tenant, "model", name) is not None:
                raise exists("a model", name, "Make a version of it, or choose another name.")
            row = tagged(board.cloud.actions.register(snapshot, who.tenant, name), asked.pairs("tags"))
            return [put(_described(row, description))]

        board.write(asked, WRITE, "register", f"model/{name}", plan)
        return get(asked)

    def get(asked: Asked) -> Document:
        snapshot = board.snapshot()
        return {"registered_model": _model(snapshot, find_model(snapshot, asked))}

    def search(asked: Asked) -> Document:
        snapshot = board.snapshot()
        versions: dict[str, list[Resource]] = {}
        for row in snapshot.all(asked.who.tenant, "version"):
            versions.setdefault(str(row.spec["model"]), []).append(row)
        models = snapshot.all(asked.who.tenant, "model")
        page, token = searched(asked, models, _look, default=100, most=1_000)
        shown_ones = [shown.registered_model(model, versions.get(model.name, ())) for model in page]
        return {"registered_models": shown_ones, **paged(token)}

    def update(asked: Asked) -> Document:
        description = asked.text("description", "")
        _change(board, asked, "describe_model", find_model, lambda row: _described(row, description))
        return get(asked)

    def delete(asked: Asked) -> Document:
        def plan(snapshot: Snapshot) -> Sequence[Change]:
            gone = board.cloud.actions.delete_model(snapshot, asked.who.tenant, asked.text("name", most=300))
            return [Delete(*row.key, row.revision) for row in gone]

        board.write(asked, WRITE, "delete_model", f"model/{asked.text('name')}", plan)
        return {}

    def rename(asked: Asked) -> NoReturn:
        raise bad(
            "A model keeps its name: the signatures of its versions are over it.",
            "Register the files under the other name.",
        )

    def latest(asked: Asked) -> Document:
        """There are no stages: the newest version is the only one."""
        snapshot = board.snapshot()
        versions = _model(snapshot, find_model(snapshot, asked))["latest_versions"]
        stages = [stage.lower() for stage in asked.texts("stages")]
        return {"model_versions": versions if not stages or "none" in stages else []}

    board.add("POST", "registered-models/create", WRITE, "audited", create)
    board.add("GET", "registered-models/get", READ, "nothing", get)
    board.add("GET", "registered-models/search", READ, "nothing", search)
    board.add("PATCH", "registered-models/update", WRITE, "audited", update)
    board.add("DELETE", "registered-models/delete", WRITE, "audited", delete)
    board.add("POST", "registered-models/rename", WRITE, "nothing", rename)
    _add_tagging(board, "registered-models", "tag_model", find_model)
    board.add("GET", "registered-models/get-latest-versions", READ, "nothing", latest)
    board.add("POST", "registered-models/get-latest-versions", READ, "nothing", latest)


def _add_tagging(board: Board, path: str, action: str, find: Callable[[Snapshot, Asked], Resource]) -> None:
    def set_tag(asked: Asked) -> Document:
        tag = {asked.text("key", most=300): asked.text("value", "", most=100_000)}
        return _change(board, asked, action, find, lambda row: tagged(row, tag))

    def delete_tag(asked: Asked) -> Document:
        tag = {asked.text("key", most=300): None}
        return _change(board, asked, action, find, lambda row: tagged(row, tag))

    board.add("POST", f"{path}/set-tag", WRITE, "audited", set_tag)
    board.add("DELETE", f"{path}/delete-tag", WRITE, "audited", delete_tag)


def _add_versions(board: Board) -> None:
    def get(asked: Asked) -> Document:
        snapshot = board.snapshot()
        return {"model_version": _version(snapshot, find_version(snapshot, asked))}

    def search(asked: Asked) -> Document:
        snapshot = board.snapshot()
        rows = sorted(snapshot.all(asked.who.tenant, "version"), key=lambda v: -v.updated_at)
        page, token = searched(asked, rows, _look, default=100, most=10_000)
        return {"model_versions": [_version(snapshot, row) for row in page], **paged(token)}

    def download_uri(asked: Asked) -> Document:
        return {"artifact_uri": shown.download_uri(find_version(board.snapshot(), asked))}

    def update(asked: Asked) -> Document:
        description = asked.text("description", "")
        _change(board, asked, "describe_version", find_version, lambda row: _described(row, description))
        return get(asked)

    def delete(asked: Asked) -> NoReturn:
        raise Conflict(
            f"{find_version(board.snapshot(), asked).name} stays: versions are what decisions rest on.",
            code="KEPT",
            next_action="Take its aliases away, or tag it, as in `skyriver model tag NAME:1 retired=yes`.",
        )

    def transition(asked: Asked) -> NoReturn:
        raise bad(
            "There are no stages here, which MLflow gave up too: versions have aliases.",
            "Call set_registered_model_alias; `champion` is the version that serves.",
        )

    async def create(asked: Asked = ASKED) -> JSONResponse:
        """Waits for the check of the file, and holds no thread meanwhile: what is wrong with it is said to who
        registers it."""
        operation, tags = await run_in_threadpool(_begin_version, board, asked)
        deadline = time.monotonic() + CHECKED_SECONDS
        while not (version := await run_in_threadpool(_checked, board, asked.who.tenant, operation)):
            if time.monotonic() > deadline:
                raise _not_finished(operation)
            await asyncio.sleep(_LOOK_SECONDS)
        return JSONResponse(await run_in_threadpool(_end_version, board, asked, version, tags))

    add_route(board.routes, "POST", f"{API}model-versions/create", WRITE, "audited", create)
    board.add("GET", "model-versions/get", READ, "nothing", get)
    board.add("GET", "model-versions/search", READ, "nothing", search)
    board.add("GET", "model-versions/get-download-uri", READ, "nothing", download_uri)
    board.add("PATCH", "model-versions/update", WRITE, "audited", update)
    board.add("DELETE", "model-versions/delete", WRITE, "nothing", delete)
    board.add("POST", "model-versions/transition-stage", WRITE, "nothing", transition)
    _add_tagging(board, "model-versions", "tag_version", find_version)


def _add_aliases(board: Board) -> None:
    def act(asked: Asked, action: str, params: Mapping[str, Any]) -> Document:
        permission, plan_action = board.cloud.actions.named[action]
        name = asked.text("name", most=300)

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            return [put(row) for row in plan_action(snapshot, asked.who.tenant, name, params, {})]

        board.write(asked, permission, action, name, plan)
        return {}

    def set_alias(asked: Asked) -> Document:
        return act(asked, "alias", {"alias": asked.text("alias"), "version": _number(asked)})

    def delete_alias(asked: Asked) -> Document:
        return act(asked, "unalias", {"alias": asked.text("alias")})

    def get(asked: Asked) -> Document:
        snapshot, alias = board.snapshot(), asked.text("alias")
        model = find_model(snapshot, asked)
        number = model.status.get("aliases", {}).get(alias)
        found = snapshot.find(model.tenant, "version", f"{model.name}:{number}") if number else None
        if found is None:
            raise NotFound(
                f"{model.name} has no alias {alias!r:.80}.",
                code="NO_ALIAS",
                where=model.ref,
                next_action="`set_registered_model_alias` sets it.",
            )
        return {"model_version": _version(snapshot, found)}

    board.add("POST", "registered-models/alias", WRITE, "audited", set_alias)
    board.add("DELETE", "registered-models/alias", WRITE, "audited", delete_alias)
    board.add("GET", "registered-models/alias", READ, "nothing", get)


# Versions that clients make


def _begin_version(board: Board, asked: Asked) -> tuple[str, dict[str, str]]:
    """The operation that checks the file, and the tags that the version gets then."""
    who, name, source = asked.who, asked.text("name", most=300), asked.text("source", most=1_000)
    # A client that copies a version gives its tags again, ours among them.
    tags = {key: value for key, value in asked.pairs("tags").items() if not key.startswith(RESERVED)}
    run, logged = asked.text("run_id", "", most=300), asked.text("model_id", "", most=100)
    tagged(Resource(who.tenant, "version", name), tags)  # what is wrong with them is said before anything is done
    permission, plan_import = board.cloud.actions.named["import"]
    made: list[str] = []

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        find_model(snapshot, asked)
        place = source_of(snapshot, who.tenant, source)
        own = place.row.spec.get("run", "") if place.row.kind == "logged_model" else ""
        of = place.row.name if place.row.kind == "run" else trainings.run_of(place.row) if place.is_version else own
        origin = {"source": source, "run": run or of, "logged_model": logged or _logged(place.row)}
        origin |= {"version": place.row.name} if place.is_version else {}
        params = {"description": asked.text("description", ""), "origin": {k: v for k, v in origin.items() if v}}
        rows = plan_import(snapshot, who.tenant, name, params, {"files": model_files(place)})
        made[:] = [row.name for row in rows if row.kind == "operation"]
        return [put(row) for row in rows]

    board.write(asked, permission, "import", name, plan)
    return made[0], tags


def _end_version(board: Board, asked: Asked, version: str, tags: Mapping[str, str]) -> Document:
    named = Asked(asked.who, {"name": asked.text("name"), "version": version.rpartition(":")[2]})
    if tags:
        _change(board, named, "tag_version", find_version, lambda row: tagged(row, tags))
    snapshot = board.snapshot()
    return {"model_version": _version(snapshot, find_version(snapshot, named))}


def _logged(row: Resource) -> str:
    return row.name if row.kind == "logged_model" else ""


def _checked(board: Board, tenant: str, operation: str) -> str:
    """The version that the import made, also one that its gate refused: it is registered, and says so. "" while it
    goes on. Raises InvalidInput with what is wrong with the file."""
    snapshot = board.snapshot()
    found = need(snapshot.find(tenant, "operation", operation), "operation", operation)
    if found.state not in ENDED:
        return ""
    jobs = (snapshot.find(tenant, "job", name) for name in found.spec["jobs"])
    made = [ref for job in jobs if job is not None for ref in job.status.get("created", ())]
    if not made:
        raise InvalidInput(found.message, code=found.reason or "FAILED", next_action=found.next_action)
    return str(made[0]).partition("/")[2]


def _not_finished(operation: str) -> Conflict:
    return Conflict(
        f"The file is still being checked, by {operation}.",
        code="NOT_FINISHED",
        where=f"operation/{operation}",
        next_action=f"`skyriver explain {operation}` shows how far it is; the version comes with its end.",
    )


# What the routes share


def find_model(snapshot: Snapshot, asked: Asked) -> Resource:
    name = asked.text("name", most=300)
    return need(snapshot.find(asked.who.tenant, "model", name), "model", name)


def find_version(snapshot: Snapshot, asked: Asked) -> Resource:
    name = f"{asked.text('name', most=300)}:{_number(asked)}"
    return need(snapshot.find(asked.who.tenant, "version", name), "version", name)


def _number(asked: Asked) -> int:
    return asked.whole("version", 0, least=1)


def _change(
    board: Board,
    asked: Asked,
    action: str,
    find: Callable[[Snapshot, Asked], Resource],
    edit: Callable[[Resource], Resource],
) -> Document:
    def plan(snapshot: Snapshot) -> Sequence[Change]:
        row = find(snapshot, asked)
        return [Put(edit(row), row.revision)]

    target = find(board.snapshot(), asked).ref
    board.write(asked, WRITE, action, target, plan)
    return {}


def _described(row: Resource, description: str) -> Resource:
    return replace(row, status={**row.status, "description": description}) if description or row.status else row


def _versions(snapshot: Snapshot, model: Resource) -> list[Resource]:
    return [v for v in snapshot.all(model.tenant, "version") if v.spec["model"] == model.name]


def _model(snapshot: Snapshot, model: Resource) -> Document:
    return shown.registered_model(model, _versions(snapshot, model))


def _version(snapshot: Snapshot, version: Resource) -> Document:
    model = snapshot.find(version.tenant, "model", str(version.spec["model"]))
    return shown.model_version(version, model, trainings.run_of(version))


_OF_MODELS: Mapping[str, Callable[[Resource], Value]] = {
    "name": lambda row: row.name,
    "creation_timestamp": lambda row: row.created_at // 1_000,
    "last_updated_timestamp": lambda row: row.updated_at // 1_000,
    "timestamp": lambda row: row.updated_at // 1_000,
    "user_id": lambda row: row.created_by,
    "description": shown.described,
}
_OF_VERSIONS: Mapping[str, Callable[[Resource], Value]] = {
    **_OF_MODELS,
    "name": lambda row: str(row.spec["model"]),
    "version": lambda row: str(row.spec["version"]),
    "version_number": lambda row: int(row.spec["version"]),
    "current_stage": lambda _: "None",
    "status": lambda _: "READY",
    "source": shown.download_uri,
    "source_path": shown.download_uri,
    "run_id": trainings.run_of,
    "model_id": shown.logged_model_of,
}


def _look(row: Resource, kind: str, name: str) -> Value:
    """Of a model or a version."""
    if kind == "tags":
        tags = shown.version_tags(row) if row.kind == "version" else tags_of(row)
        return tags.get(name, "false" if name == _PROMPT else None)
    known = _OF_VERSIONS if row.kind == "version" else _OF_MODELS
    return known[name](row) if not kind and name in known else None
