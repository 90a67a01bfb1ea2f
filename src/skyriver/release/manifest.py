"""What is known of a version: from which data, code and parameters it came, how good it is, what it takes and gives.

It is the spec of the resource kind `version`; the record a person reads before a release and an auditor after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import Spec
from skyriver.release.measured import (
    Difference,
    Examination,
    Interval,
    Metrics,
    SameFeatures,
    SliceRecord,
    SpeedRecord,
)
from skyriver.release.signature import ANY, Signature, TensorSpec

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Parameter = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FeaturesRef:
    """The feature set a model reads, by the digest of its plan. `spec` is the FeatureSetSpec, as JSON; None in versions
    of before it was kept."""

    set: str
    digest: str
    names: tuple[str, ...]
    spec: Mapping[str, Any] | None = None


class SourceRef(Spec):
    """The table versions a model was trained on."""

    name: str
    table_version: int
    labels_version: int | None = None
    """None for a table, whose label is one of its columns."""
    rows: int
    reference_versions: Mapping[str, int] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Of the tables of the stream's references, by the references' names."""


class Part(NamedTuple):
    """A part of the split: rows with effective time in [from_us, to_us]; zeros for a table, which has no time."""

    from_us: int
    to_us: int
    rows: int
    positives: int


class SplitRecord(Spec):
    train: Part
    test: Part


class ReliabilityBin(NamedTuple):
    """Test rows of about the same score: how many, their mean score and probability, the share that was true."""

    rows: int
    score: float
    probability: float | None
    observed: float


class CalibrationRecord(Spec):
    """By what `method` scores are made probabilities, fitted on how many rows and positives; "" with `why` where they
    are not. `reliability` is of the test rows."""

    method: str
    rows: int
    positives: int
    why: str
    reliability: tuple[ReliabilityBin, ...]


class Candidate(Spec):
    """One form of the model, measured on the test rows; `row_us` is the median time of scoring one row alone."""

    name: str
    artifact: Digest
    bytes: int
    metrics: Metrics
    row_us: float
    kept: bool
    why: str
    calibration: CalibrationRecord | None = Field(default=None, exclude_if=lambda value: value is None)


class Measured(Spec):
    """What the test rows and the clock say of a candidate beside its metrics."""

    intervals: Mapping[str, Interval]
    differences: Mapping[str, Difference]
    slices: tuple[SliceRecord, ...]
    speed: SpeedRecord


class VersionManifest(Spec):
    model: str
    version: int = Field(ge=1)
    artifact: Digest
    bytes: int
    features: FeaturesRef | None
    source: SourceRef | None
    """None for a model that came as a ready file; so are `features` and `split`."""
    code: str
    """Digest of the source bundle; "" of a model from outside, as is `spec_digest`."""
    spec_digest: str
    params: Mapping[str, Parameter] = {}
    split: SplitRecord | None
    metrics: Metrics
    champion_metrics: Metrics | None
    """None: there was no champion; empty: there was one that could not be scored on these rows."""
    candidates: tuple[Candidate, ...] = ()
    signature: Signature
    trained_at: int
    job: str
    calibration: CalibrationRecord | None = Field(default=None, exclude_if=lambda value: value is None)
    """None in versions of before there were probabilities, and of ready files."""
    # Of the test rows, and of the candidate that was chosen; empty in versions of before they were measured.
    intervals: Mapping[str, Interval] = Field(default_factory=dict, exclude_if=lambda value: not value)
    differences: Mapping[str, Difference] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """From the champion."""
    slices: tuple[SliceRecord, ...] = Field(default=(), exclude_if=lambda value: not value)
    speed: SpeedRecord | None = Field(default=None, exclude_if=lambda value: value is None)
    same_features: SameFeatures | None = Field(default=None, exclude_if=lambda value: value is None)
    """None where the features are not of a stream, too."""
    examined: Examination | None = Field(default=None, exclude_if=lambda value: value is None)
    """None in versions of before there was one, and of ready files."""
    origin: Mapping[str, str] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Of a model from outside: where its file comes from, as who brought it says: `file`, `run`, `source`."""
    about: Mapping[str, str] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """What its declaration tells: `description`, `contact`, `licence`."""
    profile: Digest | None = Field(default=None, exclude_if=lambda value: value is None)
    """The object that holds its ModelProfile; None in versions of before there was one, and of ready files."""
    prepared: Mapping[str, Any] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """How its training rows were weighed and changed, as declared: `augment`, `minority`, `weights`, `weight`."""
    curve: Digest | None = Field(default=None, exclude_if=lambda value: value is None)
    """The object that holds what its training told step by step, as JSON; None where it told nothing."""


def scoring_signature(features: int) -> Signature:
    """Of a trained model: `features` numbers a row in, the probability of the positive class out."""
    return Signature((TensorSpec("features", "FP32", (ANY, features)),), (TensorSpec("score", "FP32", (ANY,)),))


def with_candidates(
    manifest: VersionManifest, candidates: Sequence[Candidate], measured: Sequence[Measured] = ()
) -> VersionManifest:
    """The manifest with its candidates, pointing at the last one that was kept: its artifact, its metrics and what else
    was `measured` of it, in the order of the candidates.

    Candidates are ordered from the model as trained to the most compressed one. Raises InvalidInput
    (NO_CANDIDATE) when none was kept.
    """
    kept = [place for place, candidate in enumerate(candidates) if candidate.kept]
    if not kept:
        raise InvalidInput(
            f"No candidate of {manifest.model}:{manifest.version} was kept.",
            code="NO_CANDIDATE",
            next_action="Keep the model as it was trained at least.",
        )
    chosen = candidates[kept[-1]]
    also = dict(measured[kept[-1]]) if measured else {}
    return manifest.model_copy(
        update={
            "candidates": tuple(candidates),
            "artifact": chosen.artifact,
            "bytes": chosen.bytes,
            "metrics": {**manifest.metrics, **chosen.metrics},
            "calibration": chosen.calibration,
            **also,
        }
    )


def parse_manifest(data: Mapping[str, Any]) -> VersionManifest:
    """A manifest as read from the store. Raises InvalidInput (BAD_MANIFEST) naming the field."""
    try:
        return VersionManifest.model_validate(data)
    except ValueError as error:
        raise InvalidInput(
            f"This is no version manifest: {error}",
            code="BAD_MANIFEST",
            next_action="Restore it from a copy of the cloud's folder, or train the version again.",
        ) from None
