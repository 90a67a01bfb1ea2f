"""The routes of logged models: the files of a model with what is known of it, before the registry takes it in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyriver.control.mlflow import records, room, shown, trainings
from skyriver.control.mlflow.experiments import READ, WRITE
from skyriver.control.mlflow.filters import Value, paged, searched
from skyriver.control.mlflow.protocol import Asked, Board, bad
from skyriver.control.mlflow.records import LOGGED, RUN, put
from skyriver.core.resources import Change, Resource, Snapshot
from skyriver.core.tags import tagged

Document = dict[str, Any]
_FINAL = {
    "LOGGED_MODEL_READY": "READY",
    "LOGGED_MODEL_UPLOAD_FAILED": "UPLOAD_FAILED",
    "LOGGED_MODEL_PENDING": "PENDING",
}
_NUMBERS = {"2": "LOGGED_MODEL_READY", "3": "LOGGED_MODEL_UPLOAD_FAILED", "1": "LOGGED_MODEL_PENDING"}


def add_logged_models(board: Board) -> None:
    def create(asked: Asked) -> Document:
        who, ident = asked.who, f"m-{uuid.uuid4().hex}"
        into, run = asked.text("experiment_id", records.DEFAULT), asked.text("source_run_id", "", most=300)
        about = {"run": run, "type": asked.text("model_type", "", most=200)}
        name = asked.text("name", f"model-{ident[2:10]}", most=500)

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            trainings.check_not_ours(snapshot, who.tenant, into)
            if run:
                records.check_active(records.find(snapshot, who.tenant, RUN, run))
            given: Any = {"params": asked.pairs("params"), "tags": asked.pairs("tags")}
            return records.new_logged(snapshot, who.tenant, ident, into=into, name=name, about=about, **given)

        board.write(asked, WRITE, "create_logged_model", f"logged_model/{ident}", plan)
        return get_one(asked, ident)

    def get_one(asked: Asked, id: str) -> Document:
        return {"model": shown.logged_model(records.find(board.snapshot(), asked.who.tenant, LOGGED, id))}

    def get(asked: Asked) -> Document:
        return get_one(asked, asked.text("model_id"))

    def change(asked: Asked, action: str, edit: Callable[[Snapshot, Resource], Resource], *, audited: bool) -> Document:
        ident, tenant = asked.text("model_id"), asked.who.tenant

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            return [put(edit(snapshot, records.check_active(records.find(snapshot, tenant, LOGGED, ident))))]

        board.write(asked, WRITE, action, f"logged_model/{ident}", plan, audited=audited)
        return {}

    def finalize(asked: Asked) -> Document:
        told = asked.text("status")
        status = _FINAL.get(_NUMBERS.get(told, told))
        if status is None:
            raise bad(f"{told!r:.80} is no state of a logged model.", f"There are {', '.join(_FINAL)}.", "status")
        edit = lambda snapshot, row: _moved(row, status, snapshot.now)  # noqa: E731
        change(asked, "finalize_logged_model", edit, audited=True)
        return get(asked)

    def delete(asked: Asked) -> Document:
        edit = lambda snapshot, row: records.deleted(row, snapshot.now)  # noqa: E731
        return change(asked, "delete_logged_model", edit, audited=True)

    def log_params(asked: Asked) -> Document:
        params = asked.pairs("params")
        return change(asked, "log_model", lambda _, row: records.with_params(row, params), audited=False)

    def set_tags(asked: Asked) -> Document:
        tags = asked.pairs("tags")
        change(asked, "log_model", lambda _, row: tagged(row, tags), audited=False)
        return get(asked)

    def delete_tag(asked: Asked) -> Document:
        tag = {asked.text("tag_key", most=250): None}
        return change(asked, "log_model", lambda _, row: tagged(row, tag), audited=False)

    def listed(asked: Asked) -> Document:
        row = records.find(board.snapshot(), asked.who.tenant, LOGGED, asked.text("model_id"))
        under = asked.text("artifact_directory_path", "", most=records.LONGEST_PATH).strip("/")
        files = shown.listed(shown.sizes(row), under)
        told = [{**file, "path": f"{under}/{file['path']}" if under else file["path"]} for file in files]
        return {"root_uri": f"mlflow-artifacts:/models/{row.name}", "files": told}

    one = "logged-models/{model_id}"
    board.add("POST", "logged-models", WRITE, "audited", create)
    board.add("POST", "logged-models/search", READ, "nothing", lambda asked: _search(board, asked))
    board.add("GET", one, READ, "nothing", get)
    board.add("PATCH", one, WRITE, "audited", finalize)
    board.add("DELETE", one, WRITE, "audited", delete)
    board.add("POST", f"{one}/params", WRITE, "recorded", log_params)
    board.add("PATCH", f"{one}/tags", WRITE, "recorded", set_tags)
    board.add("DELETE", f"{one}/tags/{{tag_key}}", WRITE, "recorded", delete_tag)
    board.add("GET", f"{one}/artifacts/directories", READ, "nothing", listed)


def _moved(row: Resource, status: str, now: int) -> Resource:
    return replace(row, state=status, since=now)


def _search(board: Board, asked: Asked) -> Document:
    snapshot, tenant = board.snapshot(), asked.who.tenant
    if asked.fields.get("datasets"):
        raise bad("Logged models are not searched by data sets.", "Leave datasets out.", "datasets")
    wanted = set(asked.texts("experiment_ids"))
    rows = [
        r for r in snapshot.all(tenant, LOGGED) if r.spec["experiment"] in wanted and not records.is_gone(snapshot, r)
    ]
    rows.sort(key=lambda row: row.created_at, reverse=True)
    orders = [_order(given) for given in asked.objects("order_by", most=20)]
    page, token = searched(asked, rows, _look, default=50, most=1_000, order_by=orders, weigh=room.characters)
    return {"models": [shown.logged_model(row) for row in page], **paged(token)}


def _order(given: Mapping[str, Any]) -> str:
    name = given.get("field_name")
    if not isinstance(name, str):
        raise bad("An order has no field_name.", "Name it, as metrics.auc.", "order_by")
    return f"{name} {'ASC' if given.get('ascending', True) else 'DESC'}"


def _look(row: Resource, kind: str, name: str) -> Value:
    if kind:
        return shown.logged(row, kind, name)
    names = {"creation_timestamp": "creation_timestamp_ms", "last_updated_timestamp": "last_updated_timestamp_ms"}
    told: Value = shown.logged_model_info(row).get(names.get(name, name))
    return told
