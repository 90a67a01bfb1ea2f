"""The work of a training job: features of the whole history, the user's function, the artifacts and their measures."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.core.spec import FeatureSetSpec, ModelSpec, TrainSpec
from skyriver.features.plan import plan_features
from skyriver.release.inputs import input_fields
from skyriver.release.manifest import (
    CalibrationRecord,
    FeaturesRef,
    Part,
    SplitRecord,
    VersionManifest,
    parse_manifest,
    scoring_signature,
)
from skyriver.train.examine import lines
from skyriver.train.run import Champion, Trained, train
from skyriver.train.split import Rows
from skyriver.wiring.work.champion_scores import put_scores
from skyriver.wiring.work.examined import examination
from skyriver.wiring.work.history import History, delay_of, rows_of
from skyriver.wiring.work.job import CURVE_FILE, Job
from skyriver.wiring.work.kept import Kept
from skyriver.wiring.work.same_features import same_features
from skyriver.wiring.work.search import forget_others, history_of_run, look_of
from skyriver.wiring.work.spread import spread_of


def work(job: Job) -> dict[str, Any]:
    """Outputs: digests of `artifacts` by name, and the `manifest` of the version to be, without its candidates."""
    model = job.app.model(job.target)
    assert model.train is not None
    features = job.app.feature_set(model.train.features)
    source = job.app.source(features.source)
    fit = job.load_app().functions[model.train.function]
    kept = Kept.of(job)
    history = history_of_run(job, source) if "study" in job.inputs else kept.history(job, source)
    rows = rows_of(job, model, history)
    same = same_features(job, history, plan_features(features, source), rows) if model.gate.same_features else None
    look = look_of(job, model.train)
    with spread_of(job, model.train, kept.workers) as spread:
        trained = train(
            model,
            rows,
            fit,
            delay_us=delay_of(model.train, source),
            params=job.params,
            seed=int(job.params.get("seed", 0)),
            champion=_champion(job, model, history, rows),
            progress=job.progress,
            tell=job.curve,
            look=look,
            spread=spread,
            kept=kept.trees(job, model.train.function),
        )
    if trained.examined is not None:
        for line in lines(trained.examined):
            print(line, file=sys.stderr, flush=True)
    curve = job.kept_curve()
    artifact = job.objects.put(trained.onnx)
    artifacts = {"model.onnx": artifact}
    if trained.model_text is not None:
        artifacts["model.txt"] = job.objects.put(trained.model_text)
    if curve is not None:
        artifacts[CURVE_FILE] = curve
    outputs = {
        "artifacts": artifacts,
        **({"curve": curve} if curve is not None else {}),
        "manifest": _manifest(job, model, model.train, history, rows, trained, artifact)
        .model_copy(update={"same_features": same, "curve": curve})
        .to_json(),
        "fields": [f.to_json() for f in input_fields(features, source)],
        "champion": int((job.inputs.get("champion") or {}).get("version", 0)),
        "champion_scores": put_scores(job.objects, trained.champion),
        "fit_seconds": round(trained.fit_seconds, 3),
    }
    if look is not None:
        look.done()
    forget_others(job)
    if spread is not None:
        spread.forget()
    kept.done()
    return outputs


def _champion(job: Job, model: ModelSpec, history: History, rows: Rows) -> Champion | None:
    """The version that serves, with its own features of the same rows, where it is known how they are computed."""
    spec = job.inputs.get("champion")
    if spec is None:
        return None
    champion = parse_manifest({k: v for k, v in spec.items() if k in VersionManifest.model_fields})
    return Champion(
        job.model_files.get(champion.artifact, job.inputs.get("champion_proof")),
        _features_of(champion, job, model, history, rows),
    )


def _features_of(
    champion: VersionManifest, job: Job, model: ModelSpec, history: History, rows: Rows
) -> NDArray[np.float32] | None:
    assert model.train is not None
    if champion.features is None:
        return None
    if champion.features.digest == plan_features(job.app.feature_set(model.train.features), history.source).digest:
        return rows.x
    if champion.features.spec is None:
        return None
    features = FeatureSetSpec.model_validate(champion.features.spec)
    if plan_features(features, history.source).digest != champion.features.digest:
        return None  # computed otherwise than this release does
    return rows_of(job, model, history, features).x


def _manifest(
    job: Job, model: ModelSpec, spec: TrainSpec, history: History, rows: Rows, trained: Trained, artifact: str
) -> VersionManifest:
    features = job.app.feature_set(spec.features)
    plan = plan_features(features, history.source)
    return VersionManifest(
        model=model.name,
        version=1,  # the control plane gives it its number when it takes it in
        artifact=artifact,
        bytes=len(trained.onnx),
        features=FeaturesRef(features.name, plan.digest, features.names, features.to_json()),
        source=history.ref,
        code=job.code["bundle"],
        spec_digest=job.app.digest(),
        params={k: v for k, v in trained.params.items() if isinstance(v, str | int | float | bool | None)},
        prepared=spec.prepared,
        split=SplitRecord(train=Part(*trained.train), test=Part(*trained.test)),
        metrics=trained.metrics,
        champion_metrics=trained.champion_metrics,
        signature=scoring_signature(len(rows.names)),
        trained_at=time.time_ns() // 1_000,
        job=job.name,
        calibration=CalibrationRecord(**asdict(trained.calibrated)),
        examined=examination(trained),
        about={k: v for k in ("description", "contact", "licence") if (v := getattr(model, k))},
    )
