"""The work of taking in a ready model file: checked, measured by its size, proposed as a version."""

from __future__ import annotations

import time
from typing import Any

from skyriver.release.manifest import VersionManifest
from skyriver.release.model_file import take_model
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version as a proposed resource. Raises InvalidInput with what is wrong with the file."""
    model = job.app.model(job.target)
    job.progress("check", 0, 1)
    data, summary = take_model(job.unpack().parent / model.onnx, named=model.onnx)
    manifest = VersionManifest(
        model=model.name,
        version=1,  # the control plane gives it its number when it takes it in
        artifact=job.objects.put(data),
        bytes=len(data),
        features=None,
        source=None,
        code=job.code["bundle"],
        spec_digest=job.app.digest(),
        split=None,
        metrics={},
        champion_metrics=None,
        signature=summary.signature,
        trained_at=time.time_ns() // 1_000,
        job=job.name,
        about={k: v for k in ("description", "contact", "licence") if (v := getattr(model, k))},
    )
    spec = {**manifest.to_json(), "fields": None}
    return {"resources": [{"kind": "version", "name": model.name, "state": "CANDIDATE", "spec": spec}]}
