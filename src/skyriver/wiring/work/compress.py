"""The work of a compression job: candidates on the rows of the training, and the version that is proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from skyriver.compress.run import Candidate as Measured
from skyriver.compress.run import compress
from skyriver.release.gate import evaluate_gate
from skyriver.release.manifest import CalibrationRecord, Candidate, parse_manifest, with_candidates
from skyriver.wiring.work.history import delay_of, history_at, rows_of
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version as a proposed resource, with all candidates and which was kept."""
    model = job.app.model(job.target)
    assert model.train is not None
    trained = job.inputs["train"]
    manifest = parse_manifest(trained["manifest"])
    assert manifest.source is not None
    source = job.app.source(manifest.source.name)
    history = history_at(job, source, manifest.source)

    def refused(metrics: Mapping[str, float]) -> str:
        return evaluate_gate(model.gate, metrics, manifest.champion_metrics).failures

    candidates = compress(
        model,
        rows_of(job, model, history),
        delay_us=delay_of(model.train, source),
        model_text=job.objects.get(trained["artifacts"]["model.txt"]),
        metrics=manifest.metrics,
        gate=refused,
        progress=job.progress,
    )
    version = with_candidates(manifest, [_record(job, c) for c in candidates])
    spec = {**version.to_json(), "fields": trained["fields"], "champion": trained["champion"]}
    return {"resources": [{"kind": "version", "name": model.name, "state": "CANDIDATE", "spec": spec}]}


def _record(job: Job, measured: Measured) -> Candidate:
    return Candidate(
        name=measured.name,
        artifact=job.objects.put(measured.onnx),
        bytes=len(measured.onnx),
        metrics=measured.metrics,
        row_us=measured.row_us,
        kept=measured.kept,
        why=measured.why,
        calibration=CalibrationRecord(**asdict(measured.calibrated)),
    )
