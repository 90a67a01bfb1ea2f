"""The work of a compression job: candidates on the rows of the training, and the version that is proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from skyriver.compress.run import Candidate as Found
from skyriver.compress.run import compress
from skyriver.release.gate import Measures, evaluate_gate
from skyriver.release.manifest import (
    CalibrationRecord,
    Candidate,
    Measured,
    VersionManifest,
    parse_manifest,
    with_candidates,
)
from skyriver.release.measured import Difference, Interval, SliceRecord, SpeedRecord
from skyriver.release.profiled import profile_model
from skyriver.train.slices import OnRows, Slice
from skyriver.train.split import split_rows, validates
from skyriver.wiring.work.champion_scores import get_scores
from skyriver.wiring.work.history import delay_of, history_at, rows_of
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.slices import slices_of


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version as a proposed resource, with all candidates and which was kept."""
    model = job.app.model(job.target)
    assert model.train is not None
    trained = job.inputs["train"]
    manifest = parse_manifest(trained["manifest"])
    assert manifest.source is not None
    source = job.app.source(manifest.source.name)
    history = history_at(job, source, manifest.source)
    rows, delay_us = rows_of(job, model, history), delay_of(model.train, source)
    features = job.app.feature_set(model.train.features).features
    split = split_rows(model.train, rows, delay_us, validate=validates(model, delay_us))

    def refused(candidate: Found) -> str:
        return evaluate_gate(model.gate, _as_the_gate_sees(manifest, candidate)).failures

    candidates = compress(
        model,
        rows,
        delay_us=delay_us,
        onnx=job.objects.get(trained["artifacts"]["model.onnx"]),
        model_text=job.objects.get(text) if (text := trained["artifacts"].get("model.txt")) else None,
        metrics=manifest.metrics,
        gate=refused,
        progress=job.progress,
        champion=get_scores(job.objects, trained.get("champion_scores")),
        slices=slices_of(job, model, history, split, features, rows.x),
    )
    version = with_candidates(manifest, [_record(job, c) for c in candidates], [_measured(c) for c in candidates])
    chosen = [candidate for candidate in candidates if candidate.kept][-1]
    profile = profile_model(rows.names, rows.x, split.train, chosen.evidence.scores)
    version = version.model_copy(update={"profile": job.objects.put(profile.model_dump_json().encode())})
    spec = {**version.to_json(), "fields": trained["fields"], "champion": trained["champion"]}
    return {"resources": [{"kind": "version", "name": model.name, "state": "CANDIDATE", "spec": spec}]}


def _as_the_gate_sees(manifest: VersionManifest, candidate: Found) -> Measures:
    """As the version would be, were it this candidate."""
    also = {"metrics": {**manifest.metrics, **candidate.metrics}, "bytes": len(candidate.onnx)}
    return Measures.of(manifest.model_copy(update={**dict(_measured(candidate)), **also}).to_json())


def _record(job: Job, found: Found) -> Candidate:
    return Candidate(
        name=found.name,
        artifact=job.objects.put(found.onnx),
        bytes=len(found.onnx),
        metrics=found.metrics,
        row_us=found.speed.row,
        kept=found.kept,
        why=found.why,
        calibration=CalibrationRecord(**asdict(found.calibrated)),
    )


def _measured(found: Found) -> Measured:
    whole = found.evidence.whole
    return Measured(
        intervals=_intervals(whole),
        differences=_differences(whole),
        slices=tuple(_slice(part, seen) for part, seen in found.evidence.slices),
        speed=SpeedRecord(**asdict(found.speed)),
    )


def _slice(part: Slice, seen: OnRows) -> SliceRecord:
    return SliceRecord(
        name=part.name,
        of=part.of,
        rows=seen.rows,
        positives=seen.positives,
        metrics=seen.metrics,
        intervals=_intervals(seen),
        champion_metrics=seen.champion,
        differences=_differences(seen),
        least=part.least,
        least_positives=part.least_positives,
    )


def _intervals(seen: OnRows) -> Mapping[str, Interval]:
    return {name: Interval(*ends) for name, ends in seen.intervals.items()}


def _differences(seen: OnRows) -> Mapping[str, Difference]:
    return {name: Difference(*ends) for name, ends in seen.differences.items()}
