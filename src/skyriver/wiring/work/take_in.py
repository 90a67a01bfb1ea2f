"""The work of taking in a ready model file: checked, measured by its size, proposed as a version."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skyriver.release.manifest import VersionManifest
from skyriver.release.model_file import take_model
from skyriver.release.onnx_check import Limits
from skyriver.release.onnx_weights import whole
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version as a proposed resource. Raises InvalidInput with what is wrong with the file."""
    job.progress("check", 0, 1)
    if files := job.inputs.get("files"):  # from outside
        named, path, code, spec_digest = files[0]["name"], _in_one(job, files), "", ""
        about = {"description": told} if (told := job.params.get("description")) else {}
        origin = {**job.params.get("origin", {}), "file": named}
    else:
        model = job.app.model(job.target)
        named, path, code, spec_digest = (
            model.onnx,
            job.unpack().parent / model.onnx,
            job.code["bundle"],
            job.app.digest(),
        )
        about = {k: v for k in ("description", "contact", "licence") if (v := getattr(model, k))}
        origin = {}
    data, summary = take_model(path, named=named)
    manifest = VersionManifest(
        model=job.target,
        version=1,  # the control plane gives it its number when it takes it in
        artifact=job.objects.put(data),
        bytes=len(data),
        features=None,
        source=None,
        code=code,
        spec_digest=spec_digest,
        split=None,
        metrics={},
        champion_metrics=None,
        signature=summary.signature,
        trained_at=time.time_ns() // 1_000,
        job=job.name,
        origin=origin,
        about=about,
    )
    spec = {**manifest.to_json(), "fields": None}
    return {"resources": [{"kind": "version", "name": job.target, "state": "CANDIDATE", "spec": spec}]}


def _in_one(job: Job, files: Sequence[Mapping[str, str]]) -> Path:
    """The model, the first of `files`, with the weights in it that are in the others."""
    path = job.objects.open_path(files[0]["digest"])
    if len(files) == 1 or path.stat().st_size > Limits().bytes:
        return path
    data = path.read_bytes()
    made = whole(data, {file["name"]: job.objects.open_path(file["digest"]) for file in files[1:]})
    if made is data:
        return path
    path = job.work_dir / "model.onnx"
    path.write_bytes(made)
    return path
