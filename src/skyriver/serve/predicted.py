"""Where predictions of many rows may hold something of a stream's subjects: what an erasure has to look through.

What was predicted of a stream's table names its events by their id. What was predicted of files or of other tables
names rows by columns of their own: one that is called like a field of the stream, in the same application, is taken for
it. An id is taken for the stream's only where no other stream or table of the application has ids of that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from skyriver.core.errors import Conflict
from skyriver.core.jobs import ENDED
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import AppSpec, StreamSpec


def predictions_about(snapshot: Snapshot, stream: Resource) -> dict[str, Any]:
    """For the job that erases: `tables` with the columns that may name a subject, by name; `files` of answers alike,
    as {"digest", "columns"} by what people call them; `uploads` that were predicted of; `jobs` that have ended. Raises
    Conflict (PREDICTION_RUNS)."""
    tables: dict[str, list[str]] = {}
    files: dict[str, dict[str, Any]] = {}
    uploads: set[str] = set()
    jobs = list(_jobs_about(snapshot, stream))
    for job in jobs:
        if job.state not in ENDED:
            raise Conflict(
                f"{job.name} goes on, and writes predictions that may be of whom is to be erased.",
                code="PREDICTION_RUNS",
                where=job.ref,
                next_action="Wait until it has ended, or cancel it: `skyriver job list`.",
            )
        columns, params = _columns(snapshot, stream, job), job.spec["params"]
        if not params["format"]:
            tables[params["to"]] = sorted({*tables.get(params["to"], ()), *columns})
        for name, kept in job.status.get("outputs", {}).get("artifacts", {}).items():
            files[f"{name} of {job.name}"] = {"digest": kept["digest"], "columns": columns}
        uploads.update(file["digest"] for file in job.spec["inputs"].get("files", ()))
    return {
        "tables": tables,
        "files": files,
        "uploads": sorted(uploads - set(_needed(snapshot, stream.tenant, jobs))),
        "jobs": [job.name for job in jobs],
    }


def check_erasures(snapshot: Snapshot, model: Resource, table: str) -> None:
    """What is predicted while somebody is erased would be written after it was looked for. `table`: what is predicted
    of, "" for files. Raises Conflict (ERASURE_RUNS)."""
    for job in snapshot.all(model.tenant, "job"):
        if job.spec["kind"] != "erase" or job.state in ENDED or job.spec["params"].get("dry_run"):
            continue
        stream = snapshot.find(model.tenant, "stream", job.spec["target"])
        if job.spec["target"] == table or (stream is not None and stream.parent == model.parent):
            raise Conflict(
                f"{job.name} erases somebody, and predictions made meanwhile may be of whom it erases.",
                code="ERASURE_RUNS",
                where=job.ref,
                next_action="Ask again when it has ended: `skyriver job list`.",
            )


def _jobs_about(snapshot: Snapshot, stream: Resource) -> Iterator[Resource]:
    """Predictions of the stream's table, and by models of its application."""
    models = {m.name for m in snapshot.all(stream.tenant, "model") if m.parent == stream.parent}
    for job in snapshot.all(stream.tenant, "job"):
        if job.spec["kind"] == "predict" and (job.spec["target"] in models or _table(job) == stream.name):
            yield job


def _table(job: Resource) -> str:
    return str((job.spec["inputs"].get("table") or {}).get("name", ""))


def _columns(snapshot: Snapshot, stream: Resource, job: Resource) -> list[str]:
    """Of its key, those that may name a subject of the stream."""
    spec, key = StreamSpec.model_validate(stream.spec["stream"]), job.spec["params"]["key"]
    if _table(job) == spec.name:
        return [spec.id]
    fields = {field.name for field in spec.fields if field.type in ("int", "text")}
    if not _only_one_with(snapshot, stream, spec):
        fields.discard(spec.id)
    return [name for name in key if name in fields]


def _only_one_with(snapshot: Snapshot, stream: Resource, spec: StreamSpec) -> bool:
    """Whether its id is called as no other one of its application."""
    app = snapshot.find(stream.tenant, *stream.parent.split("/", 1))
    known = AppSpec.model_validate(app.spec["spec"]) if app is not None else None
    ids = [*(s.id for s in known.streams), *(t.id for t in known.tables)] if known is not None else []
    return ids.count(spec.id) <= 1


def _needed(snapshot: Snapshot, tenant: str, jobs: Sequence[Resource]) -> Iterator[str]:
    """Uploaded files that other jobs were given."""
    ours = {job.name for job in jobs}
    for job in snapshot.all(tenant, "job"):
        if job.spec["kind"] in ("load", "predict") and job.name not in ours:
            yield from (str(file["digest"]) for file in job.spec["inputs"].get("files", ()))
