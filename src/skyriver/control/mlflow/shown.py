"""Rows as the documents of MLflow's protobufs. Times there are milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from skyriver.control.mlflow.history import last_of
from skyriver.control.mlflow.records import DELETED, files_of
from skyriver.control.mlflow.trainings import PREFIX, Training
from skyriver.core.curves import Point, told_number
from skyriver.core.resources import Resource
from skyriver.core.tags import tags_of

Document = dict[str, Any]


def pairs(given: Mapping[str, str]) -> list[Document]:
    return [{"key": key, "value": value} for key, value in sorted(given.items())]


def metric(key: str, point: Point, **more: str) -> Document:
    return {"key": key, "value": told_number(point.value), "timestamp": point.at_ms, "step": point.step, **more}


def _stage(row: Resource) -> str:
    return "deleted" if row.state == DELETED else "active"


def experiment(row: Resource) -> Document:
    return {
        "experiment_id": row.name,
        "name": row.status["name"],
        "artifact_location": f"mlflow-artifacts:/experiments/{row.name}",
        "lifecycle_stage": _stage(row),
        "creation_time": row.created_at // 1_000,
        "last_update_time": row.updated_at // 1_000,
        "tags": pairs(tags_of(row)),
    }


def experiment_of(model: Resource) -> Document:
    """Of the trainings of a model."""
    ident = f"{PREFIX}{model.name}"
    return {
        "experiment_id": ident,
        "name": f"skyriver/{model.name}",
        "artifact_location": f"mlflow-artifacts:/experiments/{ident}",
        "lifecycle_stage": "active",
        "creation_time": model.created_at // 1_000,
        "last_update_time": model.updated_at // 1_000,
        "tags": pairs({"skyriver.application": model.parent.partition("/")[2]}),
    }


def run_info(row: Resource, *, gone: bool = False) -> Document:
    """`gone`: its experiment was deleted."""
    ends = {"end_time": row.status["end_ms"]} if "end_ms" in row.status else {}
    return {
        "run_id": row.name,
        "run_uuid": row.name,
        "run_name": row.status["name"],
        "experiment_id": row.spec["experiment"],
        "user_id": row.spec["user"],
        "status": row.status.get("was", "RUNNING") if row.state == DELETED else row.state,
        "start_time": row.status["start_ms"],
        **ends,
        "artifact_uri": f"mlflow-artifacts:/runs/{row.name}",
        "lifecycle_stage": "deleted" if gone else _stage(row),
    }


def run(row: Resource, *, gone: bool = False) -> Document:
    status = row.status
    return {
        "info": run_info(row, gone=gone),
        "data": {
            "metrics": [metric(key, last_of(known)) for key, known in sorted(status.get("metrics", {}).items())],
            "params": pairs(status.get("params", {})),
            "tags": pairs(tags_of(row)),
        },
        "inputs": {"dataset_inputs": status.get("datasets", []), "model_inputs": status.get("models_in", [])},
        "outputs": {"model_outputs": status.get("models", [])},
    }


def training_info(found: Training) -> Document:
    ends = {"end_time": found.end_us // 1_000} if found.end_us else {}
    return {
        "run_id": found.id,
        "run_uuid": found.id,
        "run_name": found.id,
        "experiment_id": f"{PREFIX}{found.model}",
        "user_id": found.user,
        "status": found.state,
        "start_time": found.start_us // 1_000,
        **ends,
        "artifact_uri": f"mlflow-artifacts:/runs/{found.id}",
        "lifecycle_stage": "active",
    }


def training_tags(found: Training) -> dict[str, str]:
    tags = {"mlflow.runName": found.id, "mlflow.user": found.user, "skyriver.model": found.model}
    if found.version is not None:
        tags |= {"skyriver.version": found.version.name, "skyriver.state": found.version.state}
    return tags


def run_of_training(found: Training, told: Mapping[str, Point] = MappingProxyType({})) -> Document:
    """`told`: the last value of each of its curves."""
    at = found.end_us // 1_000
    points = {**told, **{key: Point(0, value, at) for key, value in found.metrics.items()}}
    metrics = [metric(key, point) for key, point in sorted(points.items())]
    data = {"metrics": metrics, "params": pairs(found.params), "tags": pairs(training_tags(found))}
    return {"info": training_info(found), "data": data}


def logged(row: Resource, kind: str, name: str) -> float | str | None:
    """Of a run or a logged model: the last value of a metric, a parameter, a tag. None: it has none of that name."""
    if kind == "metrics":
        known = row.status.get("metrics", {}).get(name)
        return last_of(known).value if known is not None else None
    pair: str | None = (tags_of(row) if kind == "tags" else row.status.get("params", {})).get(name)
    return pair


def logged_model_info(row: Resource) -> Document:
    state = row.status.get("was", row.state) if row.state == DELETED else row.state
    return {
        "model_id": row.name,
        "experiment_id": row.spec["experiment"],
        "name": row.spec["name"],
        "creation_timestamp_ms": row.created_at // 1_000,
        "last_updated_timestamp_ms": row.updated_at // 1_000,
        "artifact_uri": f"mlflow-artifacts:/models/{row.name}",
        "status": f"LOGGED_MODEL_{state}",
        "model_type": row.spec.get("type", ""),
        "source_run_id": row.spec.get("run", ""),
    }


def logged_model(row: Resource) -> Document:
    metrics = [
        metric(key, last_of(known), model_id=row.name, run_id=row.spec.get("run", ""))
        for key, known in sorted(row.status.get("metrics", {}).items())
    ]
    data = {"params": pairs(row.status.get("params", {})), "metrics": metrics}
    return {"info": {**logged_model_info(row), "tags": pairs(tags_of(row))}, "data": data}


def registered_model(model: Resource, versions: Iterable[Resource]) -> Document:
    aliases = model.status.get("aliases", {})
    newest = max(versions, key=lambda v: int(v.spec["version"]), default=None)
    return {
        "name": model.name,
        "creation_timestamp": model.created_at // 1_000,
        "last_updated_timestamp": model.updated_at // 1_000,
        "user_id": model.created_by,
        "description": described(model),
        "latest_versions": [] if newest is None else [model_version(newest, model)],
        "tags": pairs(tags_of(model)),
        "aliases": [{"alias": alias, "version": str(number)} for alias, number in sorted(aliases.items())],
    }


def model_version(version: Resource, model: Resource | None, run_id: str = "") -> Document:
    spec = version.spec
    aliases = model.status.get("aliases", {}) if model is not None else {}
    at = version.created_at // 1_000
    told = f"{version.state}: {version.message} {version.next_action}" if version.message else version.state
    return {
        "name": spec["model"],
        "version": str(spec["version"]),
        "creation_timestamp": at,
        "last_updated_timestamp": version.updated_at // 1_000,
        "user_id": version.created_by,
        "current_stage": "None",
        "description": described(version),
        "source": download_uri(version),
        "run_id": run_id,
        "status": "READY",
        "status_message": told.strip(),
        "tags": pairs(version_tags(version)),
        "aliases": sorted(alias for alias, number in aliases.items() if number == spec["version"]),
        "model_id": logged_model_of(version),
        "model_params": [{"name": k, "value": str(v)} for k, v in sorted((spec.get("params") or {}).items())],
        "model_metrics": [metric(k, Point(0, v, at)) for k, v in sorted((spec.get("metrics") or {}).items())],
    }


def version_tags(version: Resource) -> dict[str, str]:
    return {**tags_of(version), "skyriver.state": version.state, "skyriver.sha256": version.spec["artifact"]}


def logged_model_of(version: Resource) -> str:
    return str((version.spec.get("origin") or {}).get("logged_model", ""))


def described(row: Resource) -> str:
    """What was said of it, else what its declaration says."""
    declared = row.spec.get("about") or row.spec.get("model")
    said = declared.get("description", "") if isinstance(declared, Mapping) else ""
    return str(row.status.get("description", said))


def download_uri(version: Resource) -> str:
    return f"mlflow-artifacts:/versions/{version.spec['model']}/{version.spec['version']}"


def listed(files: Mapping[str, int], under: str) -> list[Document]:
    """What is directly under a folder ("" is the top), of files with their sizes."""
    prefix = f"{under}/" if under else ""
    found: dict[str, Document] = {}
    for path, size in files.items():
        if path.startswith(prefix):
            head, deeper, _ = path[len(prefix) :].partition("/")
            found[head] = (
                {"path": head, "is_dir": True} if deeper else {"path": head, "is_dir": False, "file_size": size}
            )
    return [found[name] for name in sorted(found)]


def sizes(row: Resource) -> dict[str, int]:
    return {path: int(file["bytes"]) for path, file in files_of(row).items()}
