"""The routes of runs: parameters, metrics, tags of experiments that clients make outside of this cloud, and of the
trainings that it made itself, which are read only."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyriver.control.mlflow import history, records, room, shown, trainings
from skyriver.control.mlflow.experiments import READ, WRITE, is_seen
from skyriver.control.mlflow.filters import Value, paged, searched
from skyriver.control.mlflow.protocol import Asked, Board, bad, number_of
from skyriver.control.mlflow.records import LOGGED, RUN, put
from skyriver.control.mlflow.trainings import Training
from skyriver.control.tracking import curves_of
from skyriver.core.curves import Point
from skyriver.core.resources import Change, Resource, Snapshot
from skyriver.core.tags import tagged
from skyriver.trust.tokens import Identity

Document = dict[str, Any]
MOST_OF_A_BATCH = 1_000
MOST_INPUTS = 20
LONGEST_INPUTS = 20_000
Edit = Callable[[Snapshot, Resource], Resource]


def run_id(asked: Asked) -> str:
    return asked.text("run_id", "", most=300) or asked.text("run_uuid", most=300)


def add_runs(board: Board) -> None:
    _add_reading(board)
    _add_life(board)
    _add_logging(board)


def _add_reading(board: Board) -> None:
    def get(asked: Asked) -> Document:
        snapshot, ident = board.snapshot(), run_id(asked)
        if (own := trainings.training(snapshot, asked.who.tenant, ident)) is not None:
            last = {name: points[-1] for name, points in _curves(board, snapshot, own).items()}
            return {"run": shown.run_of_training(own, last)}
        return {"run": _found(snapshot, asked.who.tenant, ident)}

    def search(asked: Asked) -> Document:
        snapshot, view = board.snapshot(), asked.text("run_view_type", "ACTIVE_ONLY")
        rows = [
            row
            for ident in dict.fromkeys(asked.texts("experiment_ids"))
            for row in _of_experiment(snapshot, asked.who.tenant, ident)
            if is_seen(row.info["lifecycle_stage"], view)
        ]
        rows.sort(key=lambda row: (-row.info["start_time"], row.info["run_id"]))
        page, token = searched(asked, rows, _look, default=1_000, most=50_000, weigh=_weight)
        return {"runs": [row.document() for row in page], **paged(token)}

    def get_history(asked: Asked) -> Document:
        ident, key, snapshot = run_id(asked), asked.text("metric_key"), board.snapshot()
        if (own := trainings.training(snapshot, asked.who.tenant, ident)) is not None:
            known = [m for m in shown.run_of_training(own)["data"]["metrics"] if m["key"] == key]
            told = _curves(board, snapshot, own).get(key, [])
            return {"metrics": known or [shown.metric(key, point) for point in told]}
        known = records.find(snapshot, asked.who.tenant, RUN, ident).status.get("metrics", {}).get(key)
        points = history.points_of(known) if known is not None else []
        return {"metrics": [shown.metric(key, point) for point in points]}

    board.add("GET", "runs/get", READ, "nothing", get)
    board.add("POST", "runs/search", READ, "nothing", search)
    board.add("GET", "metrics/get-history", READ, "nothing", get_history)


def _add_life(board: Board) -> None:
    def create(asked: Asked) -> Document:
        who, ident = asked.who, uuid.uuid4().hex
        into = asked.text("experiment_id", records.DEFAULT)
        tags = asked.pairs("tags")
        name = asked.text("run_name", "", most=500) or tags.get("mlflow.runName") or f"run-{ident[:8]}"
        user = asked.text("user_id", "", most=200) or tags.get("mlflow.user") or who.name

        def plan(snapshot: Snapshot) -> Sequence[Change]:
            trainings.check_not_ours(snapshot, who.tenant, into)
            start = asked.whole("start_time", snapshot.now // 1_000)
            given = {"into": into, "name": name, "user": user, "start_ms": start, "tags": tags}
            return records.new_run(snapshot, who.tenant, ident, **given)  # type: ignore[arg-type]

        board.write(asked, WRITE, "create_run", f"run/{ident}", plan)
        return {"run": _found(board.snapshot(), who.tenant, ident)}

    def update(asked: Asked) -> Document:
        def edit(snapshot: Snapshot, row: Resource) -> Resource:
            records.check_active(row)
            if name := asked.text("run_name", "", most=500):
                row = tagged(records.updated(row, name=name), {"mlflow.runName": name})
            if status := asked.text("status", ""):
                row = records.moved(row, status, asked.whole("end_time", 0), snapshot.now)
            return row

        change(board, asked, "update_run", edit, audited=True)
        row = records.find(board.snapshot(), asked.who.tenant, RUN, run_id(asked))
        return {"run_info": shown.run_info(row)}

    def delete(asked: Asked) -> Document:
        edit: Edit = lambda snapshot, row: records.deleted(records.check_active(row), snapshot.now)  # noqa: E731
        return change(board, asked, "delete_run", edit, audited=True)

    def restore(asked: Asked) -> Document:
        edit: Edit = lambda snapshot, row: records.restored(row, snapshot.now)  # noqa: E731
        return change(board, asked, "restore_run", edit, audited=True)

    board.add("POST", "runs/create", WRITE, "audited", create)
    board.add("POST", "runs/update", WRITE, "audited", update)
    board.add("POST", "runs/delete", WRITE, "audited", delete)
    board.add("POST", "runs/restore", WRITE, "audited", restore)


def _add_logging(board: Board) -> None:
    def log_metric(asked: Asked) -> Document:
        return _log_metrics(board, asked, [asked.fields])

    def log_parameter(asked: Asked) -> Document:
        params = {asked.text("key", most=250): asked.text("value", "", most=6_000)}
        return change(board, asked, "log_run", lambda _, row: records.with_params(row, params))

    def set_tag(asked: Asked) -> Document:
        tag = {asked.text("key", most=250): asked.text("value", "")}
        return change(board, asked, "log_run", lambda _, row: _tagged(row, tag))

    def delete_tag(asked: Asked) -> Document:
        key = asked.text("key", most=250)
        return change(board, asked, "log_run", lambda _, row: tagged(row, {key: None}))

    def log_batch(asked: Asked) -> Document:
        metrics = asked.objects("metrics", most=MOST_OF_A_BATCH)
        params, tags = asked.pairs("params", most=MOST_OF_A_BATCH), asked.pairs("tags", most=MOST_OF_A_BATCH)
        return _log_metrics(board, asked, metrics, lambda row: _tagged(records.with_params(row, params), tags))

    def log_inputs(asked: Asked) -> Document:
        datasets = [_dataset(asked.who, given) for given in asked.objects("datasets", most=MOST_INPUTS)]
        models = [{"model_id": str(m.get("model_id", ""))[:100]} for m in asked.objects("models", most=MOST_INPUTS)]

        def edit(snapshot: Snapshot, row: Resource) -> Resource:
            known = [*row.status.get("datasets", []), *datasets]
            if len(known) > MOST_INPUTS or len(repr(known)) > LONGEST_INPUTS:
                raise bad(
                    f"The run would have {len(known)} inputs; {MOST_INPUTS} of {LONGEST_INPUTS:,} characters are kept.",
                    "Log what the data is as a tag, or as a file.",
                    "datasets",
                )
            return records.updated(row, datasets=known, models_in=_merged(row.status.get("models_in", []), models))

        return change(board, asked, "log_run", edit)

    def log_outputs(asked: Asked) -> Document:
        given = asked.objects("models", most=MOST_INPUTS)
        models = [{"model_id": str(m.get("model_id", ""))[:100], "step": _whole(m, "step", 0)} for m in given]
        edit: Edit = lambda _, row: records.updated(row, models=_merged(row.status.get("models", []), models))  # noqa: E731
        return change(board, asked, "log_run", edit)

    def log_model(asked: Asked) -> Document:
        raise bad(
            "Models are logged as MLflow 3 does it, as logged models: this is the call of an older client.",
            "Log it with a client of MLflow 3.",
        )

    for path, handler in (
        ("log-metric", log_metric),
        ("log-parameter", log_parameter),
        ("log-batch", log_batch),
        ("log-inputs", log_inputs),
        ("outputs", log_outputs),
        ("set-tag", set_tag),
        ("delete-tag", delete_tag),
    ):
        board.add("POST", f"runs/{path}", WRITE, "recorded", handler)
    board.add("POST", "runs/log-model", WRITE, "nothing", log_model)


def change(board: Board, asked: Asked, action: str, edit: Edit, *, audited: bool = False) -> Document:
    """Edits the run that is asked for, and nothing else."""
    ident, tenant = run_id(asked), asked.who.tenant

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        return [put(edit(snapshot, _writable(snapshot, tenant, ident, deleted=action == "restore_run")))]

    board.write(asked, WRITE, action, f"run/{ident}", plan, audited=audited)
    return {}


def _log_metrics(
    board: Board,
    asked: Asked,
    metrics: Sequence[Mapping[str, Any]],
    also: Callable[[Resource], Resource] = lambda row: row,
) -> Document:
    """Into the run, and into the logged models that they name."""
    ident, tenant = run_id(asked), asked.who.tenant
    values = [(str(m.get("key", "")), m) for m in metrics]

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        points = [(key, _point(m, snapshot.now)) for key, m in values]
        changes: list[Change] = [put(also(records.with_metrics(_writable(snapshot, tenant, ident), points)))]
        for model in dict.fromkeys(str(m["model_id"]) for _, m in values if m.get("model_id")):
            row = records.check_active(records.find(snapshot, tenant, LOGGED, model))
            own = [pair for pair, (_, m) in zip(points, values, strict=True) if m.get("model_id") == model]
            changes.append(put(records.with_metrics(row, own)))
        return changes

    board.write(asked, WRITE, "log_run", f"run/{ident}", plan, audited=False)
    return {}


def _point(metric: Mapping[str, Any], now: int) -> Point:
    return Point(_whole(metric, "step", 0), number_of(metric, "value"), _whole(metric, "timestamp", now // 1_000))


def _dataset(who: Identity, given: Mapping[str, Any]) -> Document:
    """A DatasetInput. All that it has are texts."""
    about = given.get("dataset")
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise bad("A data set is told by texts.", "Give its name, digest, source_type and source as such.", "datasets")
    return {"tags": shown.pairs(Asked(who, given).pairs("tags")), "dataset": about}


def _whole(metric: Mapping[str, Any], name: str, default: int) -> int:
    try:
        found = int(metric.get(name, default))
    except (TypeError, ValueError, OverflowError):
        found = 1 << 63
    if not -(1 << 62) <= found <= 1 << 62:
        raise bad(f"{name}={metric.get(name)!r:.80} is no whole number.", "Give such a number.", name)
    return found


def _curves(board: Board, snapshot: Snapshot, own: Training) -> dict[str, list[Point]]:
    """What a training of this cloud told by step; a metric of its version of the same name is another thing."""
    told, _ = curves_of(snapshot, own, board.cloud.objects.get)
    return {
        name: [Point(int(step), float(value), int(at_ms)) for step, value, at_ms in curve["points"]]
        for name, curve in told["curves"].items()
    }


def _writable(snapshot: Snapshot, tenant: str, id: str, *, deleted: bool = False) -> Resource:
    trainings.check_not_ours(snapshot, tenant, id)
    row = records.find(snapshot, tenant, RUN, id)
    if not deleted:
        records.check_active(records.experiment(snapshot, tenant, str(row.spec["experiment"])))
        records.check_active(row)
    return row


def _tagged(row: Resource, tags: Mapping[str, str]) -> Resource:
    name = tags.get("mlflow.runName")
    return tagged(records.updated(row, name=name) if name else row, tags)


def _merged(known: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    by_id = {str(one["model_id"]): one for one in (*known, *more)}
    return list(by_id.values())[-MOST_INPUTS:]


def _found(snapshot: Snapshot, tenant: str, id: str) -> Document:
    if (own := trainings.training(snapshot, tenant, id)) is not None:
        return shown.run_of_training(own)
    row = records.find(snapshot, tenant, RUN, id)
    return shown.run(row, gone=records.is_gone(snapshot, row))


@dataclass(frozen=True, slots=True)
class _Listed:
    """A run as a search looks at it; `info` is that of its document."""

    of: Resource | Training
    info: Document
    gone: bool = False

    def document(self) -> Document:
        of = self.of
        return shown.run_of_training(of) if isinstance(of, Training) else shown.run(of, gone=self.gone)


def _of_experiment(snapshot: Snapshot, tenant: str, id: str) -> Iterator[_Listed]:
    if id.startswith(trainings.PREFIX):
        model = trainings.model_of(snapshot, tenant, id)
        for found in trainings.trainings(snapshot, tenant, model):
            yield _Listed(found, shown.training_info(found))
    else:
        for row in snapshot.children(records.experiment(snapshot, tenant, id), RUN):
            gone = records.is_gone(snapshot, row)
            yield _Listed(row, shown.run_info(row, gone=gone), gone)


def _weight(listed: _Listed) -> int:
    return room.characters(listed.of) if isinstance(listed.of, Resource) else room.PIECE


def _look(listed: _Listed, kind: str, name: str) -> Value:
    if not kind:
        info: Mapping[str, Value] = listed.info
        return info.get({"Created": "start_time", "created": "start_time"}.get(name, name))
    of = listed.of
    if isinstance(of, Training):
        own: dict[str, Mapping[str, Value]] = {
            "metrics": of.metrics,
            "params": of.params,
            "tags": shown.training_tags(of),
        }
        return own[kind].get(name)
    return shown.logged(of, kind, name)
