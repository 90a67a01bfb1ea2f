"""The work of taking in a ready model file: checked, measured by its size, proposed as a version."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyriver.core.errors import InvalidInput
from skyriver.release.manifest import VersionManifest
from skyriver.release.model_file import take_model
from skyriver.release.onnx_check import Limits
from skyriver.release.onnx_weights import whole
from skyriver.wiring.work.job import Job


@dataclass(frozen=True, slots=True)
class _Brought:
    """A file, and what its version's record says of where it comes from."""

    path: Path
    named: str
    told: Mapping[str, Any]


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version as a proposed resource. Raises InvalidInput with what is wrong with the file."""
    job.progress("check", 0, 1)
    outside = job.inputs.get("files")
    brought = _from_outside(job, outside) if outside else _of_the_application(job)
    try:
        data, summary = take_model(brought.path, named=brought.named)
    except InvalidInput as error:
        if outside and error.code == "ONNX_EXTERNAL_DATA":
            error.next_action = f"Bring it along, with `--weights FILE`. Or: {error.next_action}"
        raise
    manifest = VersionManifest(
        model=job.target,
        version=1,  # the control plane gives it its number when it takes it in
        artifact=job.objects.put(data),
        bytes=len(data),
        features=None,
        source=None,
        split=None,
        metrics={},
        champion_metrics=None,
        signature=summary.signature,
        trained_at=time.time_ns() // 1_000,
        job=job.name,
        **brought.told,
    )
    spec = {**manifest.to_json(), "fields": None}
    return {"resources": [{"kind": "version", "name": job.target, "state": "CANDIDATE", "spec": spec}]}


def _of_the_application(job: Job) -> _Brought:
    """The file that its bundle carries."""
    model = job.app.model(job.target)
    about = {k: v for k in ("description", "contact", "licence") if (v := getattr(model, k))}
    told = {"code": job.code["bundle"], "spec_digest": job.app.digest(), "about": about}
    return _Brought(job.unpack().parent / model.onnx, model.onnx, told)


def _from_outside(job: Job, files: Sequence[Mapping[str, str]]) -> _Brought:
    """An uploaded file, of a model that no application trains."""
    named, description = files[0]["name"], job.params.get("description")
    about = {"description": description} if description else {}
    origin = {**job.params.get("origin", {}), "file": named}
    return _Brought(_in_one(job, files), named, {"code": "", "spec_digest": "", "about": about, "origin": origin})


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
