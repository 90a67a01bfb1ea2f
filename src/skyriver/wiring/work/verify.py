"""The work of a verification: the features of every decision, computed again from the log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from skyriver.core.errors import InvalidInput
from skyriver.decide.replay.verify import verify_stream
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    stream = job.app.stream(job.target)
    decide = next((d for d in job.app.decides if d.stream == stream.name), None)
    train = job.app.model(decide.model).train if decide is not None else None
    if train is None:
        raise InvalidInput(
            f"{stream.name} computes no features.",
            code="NO_FEATURES",
            next_action="Declare a model with features for it with app.decide, and deploy.",
        )
    features = job.app.feature_set(train.features)
    with log_reader(
        stream, job.stream_directory(stream.name), job.home.root, job.tenant, open_tier(job.home)
    ) as reader:
        return asdict(verify_stream(reader, stream, features, job.home.kernels, job.progress, begin=reader.begin()))
