"""The routes of experiments: those of clients, and one, read only, for the trainings of each model of this cloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skyriver.control.mlflow import records, shown, trainings
from skyriver.control.mlflow.filters import Value, paged, searched
from skyriver.control.mlflow.protocol import Asked, Board, bad
from skyriver.control.mlflow.records import put
from skyriver.core.errors import Conflict, NotFound
from skyriver.core.resources import Change, Put, Resource, Snapshot, need
from skyriver.core.tags import tagged
from skyriver.trust.permissions import Permission

READ, WRITE = Permission.MODELS_READ, Permission.MODELS_WRITE
Document = dict[str, Any]


def add_experiments(board: Board) -> None:
    def get(asked: Asked) -> Document:
        return {"experiment": _found(board.snapshot(), asked.who.tenant, asked.text("experiment_id"))}

    def by_name(asked: Asked) -> Document:
        name = asked.text("experiment_name")
        for document in _all(board.snapshot(), asked.who.tenant):
            if document["name"] == name:
                return {"experiment": document}
        raise NotFound(
            f"There is no experiment {name!r:.300}.",
            next_action="`create_experiment` makes it, as does set_experiment.",
        )

    def search(asked: Asked) -> Document:
        view = asked.text("view_type", "ACTIVE_ONLY")
        rows = [d for d in _all(board.snapshot(), asked.who.tenant) if is_seen(d["lifecycle_stage"], view)]
        page, token = searched(asked, rows, _look, default=1_000, most=50_000)
        return {"experiments": page, **paged(token)}

    def create(asked: Asked) -> Document:
        who, name = asked.who, asked.text("name", most=500)
        if asked.text("artifact_location", ""):
            raise bad(
                "This cloud keeps the files of runs itself, and writes to no other place.",
                "Leave artifact_location out.",
                "artifact_location",
            )
        made: list[str] = []

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            _check_name(snapshot, who.tenant, name)
            changes = records.new_experiment(snapshot, who.tenant, name, asked.pairs("tags"))
            made[:] = [change.resource.name for change in changes if isinstance(change, Put)]
            return changes

        board.write(asked, WRITE, "create_experiment", f"experiment/{name}", plan)
        return {"experiment_id": made[0]}

    def change(action: str, edit: Callable[[Snapshot, Resource], Resource], asked: Asked) -> Document:
        who, ident = asked.who, asked.text("experiment_id")

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            trainings.check_not_ours(snapshot, who.tenant, ident)
            return [put(edit(snapshot, records.experiment(snapshot, who.tenant, ident)))]

        board.write(asked, WRITE, action, f"experiment/{ident}", plan)
        return {}

    def delete(asked: Asked) -> Document:
        def edit(snapshot: Snapshot, row: Resource) -> Resource:
            if row.name == records.DEFAULT:
                raise Conflict(
                    "The default experiment stays.",
                    code="DEFAULT",
                    next_action="Delete its runs, if they are not needed.",
                )
            return records.deleted(records.check_active(row), snapshot.now)

        return change("delete_experiment", edit, asked)

    def restore(asked: Asked) -> Document:
        return change("restore_experiment", lambda snapshot, row: records.restored(row, snapshot.now), asked)

    def rename(asked: Asked) -> Document:
        name = asked.text("new_name", most=500)

        def edit(snapshot: Snapshot, row: Resource) -> Resource:
            _check_name(snapshot, row.tenant, name)
            others = [known for known in records.experiments(snapshot, row.tenant) if known.name != row.name]
            records.check_free(others, name)
            return records.updated(records.check_active(row), name=name)

        return change("rename_experiment", edit, asked)

    def set_tag(asked: Asked) -> Document:
        tag = {asked.text("key", most=250): asked.text("value", "")}
        return change("tag_experiment", lambda _, row: tagged(records.check_active(row), tag), asked)

    def delete_tag(asked: Asked) -> Document:
        tag = {asked.text("key", most=250): None}
        return change("tag_experiment", lambda _, row: tagged(records.check_active(row), tag), asked)

    board.add("GET", "experiments/get", READ, "nothing", get)
    board.add("GET", "experiments/get-by-name", READ, "nothing", by_name)
    board.add("GET", "experiments/search", READ, "nothing", search)
    board.add("POST", "experiments/search", READ, "nothing", search)
    board.add("POST", "experiments/create", WRITE, "audited", create)
    board.add("POST", "experiments/delete", WRITE, "audited", delete)
    board.add("POST", "experiments/restore", WRITE, "audited", restore)
    board.add("POST", "experiments/update", WRITE, "audited", rename)
    board.add("POST", "experiments/set-experiment-tag", WRITE, "audited", set_tag)
    board.add("POST", "experiments/delete-experiment-tag", WRITE, "audited", delete_tag)


def is_seen(stage: str, view: str) -> bool:
    """Raises InvalidInput (BAD_REQUEST) for a view that MLflow does not have."""
    wanted = {"ACTIVE_ONLY": ("active",), "DELETED_ONLY": ("deleted",), "ALL": ("active", "deleted")}.get(view)
    if wanted is None:
        raise bad(f"{view!r:.80} is no view.", "There are ACTIVE_ONLY, DELETED_ONLY and ALL.", "view_type")
    return stage in wanted


def _all(snapshot: Snapshot, tenant: str) -> list[Document]:
    ours = [shown.experiment_of(model) for model in trainings.trained_models(snapshot, tenant)]
    return [*(shown.experiment(row) for row in records.experiments(snapshot, tenant)), *ours]


def _found(snapshot: Snapshot, tenant: str, id: str) -> Document:
    if id.startswith(trainings.PREFIX):
        model = trainings.model_of(snapshot, tenant, id)
        return shown.experiment_of(need(snapshot.find(tenant, "model", model), "model", model))
    return shown.experiment(records.experiment(snapshot, tenant, id))


def _check_name(snapshot: Snapshot, tenant: str, name: str) -> None:
    if name in (shown.experiment_of(model)["name"] for model in trainings.trained_models(snapshot, tenant)):
        raise Conflict(
            f"{name!r} is the name of the trainings of a model.",
            code="READ_ONLY",
            where=name,
            next_action="Choose another name.",
        )


def _look(document: Document, kind: str, name: str) -> Value:
    if kind == "tags":
        return next((tag["value"] for tag in document["tags"] if tag["key"] == name), None)
    found: Value = document.get(name) if not kind else None
    return found
