from typing import Any

import pytest

from skyriver.core.errors import InvalidInput
from skyriver.core.names import digest
from skyriver.release.manifest import (
    Candidate,
    FeaturesRef,
    Part,
    SourceRef,
    SplitRecord,
    VersionManifest,
    parse_manifest,
    scoring_signature,
    with_candidates,
)

ARTIFACT, SMALLER = "a" * 64, "b" * 64


def _manifest(**changes: Any) -> VersionManifest:
    values: dict[str, Any] = {
        "model": "fraud",
        "version": 3,
        "artifact": ARTIFACT,
        "bytes": 200_000,
        "features": FeaturesRef(set="behaviour", digest="f" * 64, names=("amount", "night")),
        "source": SourceRef(name="payments", table_version=4, labels_version=2, rows=1000),
        "code": "c" * 64,
        "spec_digest": "d" * 64,
        "params": {"trees": 100, "rate": 0.1},
        "split": SplitRecord(train=Part(0, 10, 700, 7), test=Part(20, 30, 300, 3)),
        "metrics": {"auc": 0.87, "average_precision": 0.65, "train_auc": 0.9},
        "champion_metrics": None,
        "signature": scoring_signature(2),
        "trained_at": 1_700_000_000_000_000,
        "job": "fraud-run-1-train",
    }
    return VersionManifest(**(values | changes))


def _candidate(name: str, artifact: str, kept: bool) -> Candidate:
    return Candidate(
        name=name,
        artifact=artifact,
        bytes=50_000,
        metrics={"auc": 0.86, "average_precision": 0.648},
        row_us=3.5,
        kept=kept,
        why="average precision fell by 0.002",
    )


def test_goes_through_json_and_back() -> None:
    manifest = with_candidates(_manifest(), [_candidate("trained", ARTIFACT, True)])
    document = manifest.to_json()
    assert document["split"] == {"train": [0, 10, 700, 7], "test": [20, 30, 300, 3]}
    assert document["signature"]["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 2]}]
    assert document["signature"]["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]
    assert parse_manifest(document) == manifest
    assert digest(parse_manifest(document).to_json()) == digest(document)


def test_a_file_taken_in_has_no_features_source_or_split() -> None:
    manifest = _manifest(features=None, source=None, split=None, metrics={})
    assert parse_manifest(manifest.to_json()) == manifest


def test_points_at_the_last_candidate_kept() -> None:
    trained, smaller = _candidate("trained", ARTIFACT, True), _candidate("fewer-trees", SMALLER, True)
    chosen = with_candidates(_manifest(), [trained, smaller])
    assert (chosen.artifact, chosen.bytes) == (SMALLER, 50_000)
    assert chosen.metrics == {"auc": 0.86, "average_precision": 0.648, "train_auc": 0.9}
    refused = with_candidates(_manifest(), [trained, smaller.model_copy(update={"kept": False})])
    assert refused.artifact == ARTIFACT
    assert len(refused.candidates) == 2, "what was refused stays on record"


def test_none_kept_is_an_error() -> None:
    with pytest.raises(InvalidInput, match=r"fraud:3.*kept"):
        with_candidates(_manifest(), [_candidate("trained", ARTIFACT, False)])


def test_no_number_in_metrics_is_refused() -> None:
    with pytest.raises(InvalidInput, match="leave out a metric"):
        parse_manifest(_manifest().to_json() | {"metrics": {"auc": float("nan")}})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(InvalidInput, match="surprise"):
        parse_manifest(_manifest().to_json() | {"surprise": 1})
