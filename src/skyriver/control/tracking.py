"""What a run told step by step, wherever it is now: in the report of the process that works, in the row of a job that
ended without its outcome, or in the object that the version's record names, which stays when the job's row is gone."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from skyriver.control.mlflow.trainings import Training, run_named, run_of
from skyriver.core.contract_curves import Tracked
from skyriver.core.curves import Curves
from skyriver.core.errors import Corrupt, NotFound
from skyriver.core.resources import Resource, Snapshot, need

NOTHING: Mapping[str, Any] = {"step": 0, "of": 0, "samples": 0, "now": {}, "curves": {}, "system": {}}


def tracked(snapshot: Snapshot, tenant: str, name: str, read: Callable[[str], bytes]) -> Tracked:
    """Of a run, one of its jobs, or MODEL:VERSION; `read` gives objects. Raises NotFound."""
    run = _run(snapshot, tenant, name)
    told, artifact = curves_of(snapshot, run, read)
    job, spec = run.job, run.version.spec if run.version is not None else {}
    code = spec.get("code") or ((job.spec.get("code") or {}).get("bundle", "") if job is not None else "")
    return {
        "name": run.id,
        "job": job.name if job is not None else "",
        "model": run.model,
        "version": run.version.name if run.version is not None else "",
        "state": job.state if job is not None else "SUCCEEDED",
        "params": run.params,
        "metrics": run.metrics,
        "data": _data(run),
        "code": code,
        "started_at": run.start_us,
        "ended_at": run.end_us,
        "artifact": artifact,
        "step": told["step"],
        "of": told["of"],
        "samples": told["samples"],
        "now": told.get("now", {}),
        "curves": told["curves"],
        "system": told["system"],
    }


def curves_of(snapshot: Snapshot, run: Training, read: Callable[[str], bytes]) -> tuple[Mapping[str, Any], str]:
    """What was told, and the digest of the object that holds it for good, "" where none does."""
    digest = str((run.version.spec.get("curve") if run.version is not None else "") or "")
    if run.job is not None and not digest:
        digest = str((run.job.status.get("outputs") or {}).get("curve") or "")
    if digest:
        return _document(read(digest), run), digest
    if run.job is None:
        return NOTHING, ""
    process = snapshot.processes.get(run.job.process)
    record = (process.report.get("curve") if process is not None else None) or run.job.status.get("curve")
    record = record or (run.job.status.get("config") or {}).get("curve")
    if not record:
        return NOTHING, ""
    try:
        return {**Curves.of_record(record).document(), "now": record.get("now", {})}, ""
    except (KeyError, TypeError, ValueError, AttributeError, struct.error):
        raise _unreadable(run) from None


def _document(data: bytes, run: Training) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not NOTHING.keys() <= found.keys():
        raise _unreadable(run)
    return found


def _unreadable(run: Training) -> Corrupt:
    """It comes from a process that runs users' code."""
    return Corrupt(
        f"What {run.id} told by step cannot be read: it was not written by the product.",
        code="BAD_CURVE",
        where=run.id,
        next_action="Report with data.report(...) alone, and run it again.",
    )


def _run(snapshot: Snapshot, tenant: str, name: str) -> Training:
    version = snapshot.find(tenant, "version", name)
    ident = (run_of(version) or str(version.spec.get("job"))) if version is not None else run_named(name)
    names = (f"{ident}-train", name, ident)
    job = next((row for each in names if (row := snapshot.find(tenant, "job", each)) is not None), None)
    if version is None:
        version = next((row for row in snapshot.all(tenant, "version") if run_of(row) == ident), None)
    job = job or (_first(snapshot, tenant, name) if version is None else None)
    if job is None and version is None:
        raise NotFound(
            f"There is no run, job or version {name!r:.100}.",
            where=name,
            next_action="`skyriver job list` shows the jobs that ran, `skyriver version list` what they made.",
        )
    model = version.spec["model"] if version is not None else job.spec["target"] if job is not None else ""
    return Training(ident, str(model), job, version)


def _first(snapshot: Snapshot, tenant: str, name: str) -> Resource | None:
    """Of the run of a declared job the one that was asked for."""
    operation = snapshot.find(tenant, "operation", name)
    jobs = operation.spec.get("jobs", ()) if operation is not None else ()
    return need(snapshot.find(tenant, "job", jobs[-1]), "job", jobs[-1]) if jobs else None


def _data(run: Training) -> dict[str, Any]:
    """Versions by the names of tables."""
    if run.version is not None and (source := run.version.spec.get("source")):
        found = {source["name"]: source["table_version"]}
        if source.get("labels_version") is not None:
            found[f"{source['name']}.labels"] = source["labels_version"]
        return found | dict(source.get("reference_versions") or {})
    known = (run.job.status.get("config") or {}).get("tables") if run.job is not None else None
    return {name: table.get("version") for name, table in (known or {}).items()}
