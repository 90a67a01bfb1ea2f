from typing import Any

from skyriver.core.resources import Resource
from skyriver.release.card import card_of
from skyriver.release.manifest import (
    CalibrationRecord,
    FeaturesRef,
    Part,
    ReliabilityBin,
    SourceRef,
    SplitRecord,
    VersionManifest,
    scoring_signature,
)
from skyriver.release.measured import Difference, Interval, SliceRecord, SpeedRecord

DAY = 86_400_000_000
NIGHT = SliceRecord(
    name="night",
    of="night",
    rows=900,
    positives=12,
    metrics={"auc": 0.8123, "average_precision": 0.4},
    intervals={"auc": Interval(0.7, 0.9)},
    champion_metrics={"average_precision": 0.41},
    differences={},
)
RARE = NIGHT.model_copy(
    update={"name": "shop=x|y", "of": "shop", "rows": 3, "positives": 0, "least": 10, "metrics": {}}
)
SPEED = SpeedRecord(
    row=5, row_p99=9, row_p99_low=8, row_p99_high=12, batch=1_500, batch_rows=64, reference=50, reference_p99=60
)
CHECKS = (
    {"rule": "auc >= 0.8", "value": 0.87, "target": 0.8, "passed": True, "why": "it is", "measured": "0.87",
     "evidence": "95%: 0.85 to 0.89"},
    {"rule": "shop=x|y: auc >= 0.8", "value": None, "target": 0.8, "passed": True, "why": "not judged: 3 test rows",
     "judged": False},
    {"rule": "size <= 1 KB", "value": 2000, "target": 1000, "passed": False, "why": "too large"},
)  # fmt: skip


def _manifest(**changes: Any) -> VersionManifest:
    values: dict[str, Any] = {
        "model": "churn",
        "version": 3,
        "artifact": "a" * 64,
        "bytes": 200_000,
        "features": FeaturesRef(set="behaviour", digest="f" * 64, names=("amount", "night")),
        "source": SourceRef(
            name="orders", table_version=4, labels_version=2, rows=1_000, reference_versions={"shops": 7}
        ),
        "code": "c" * 64,
        "spec_digest": "d" * 64,
        "params": {"trees": 100},
        "split": SplitRecord(train=Part(DAY, 10 * DAY, 700, 70), test=Part(20 * DAY, 30 * DAY, 300, 30)),
        "metrics": {"auc": 0.87, "average_precision": 0.65, "train_auc": 0.9},
        "champion_metrics": {"auc": 0.86},
        "signature": scoring_signature(2),
        "trained_at": 40 * DAY,
        "job": "churn-run-1-train",
        "calibration": CalibrationRecord(
            method="isotonic", rows=100, positives=9, why="", reliability=(ReliabilityBin(20, 0.1, 0.12, 0.11),) * 12
        ),
        "intervals": {"auc": Interval(0.85, 0.89)},
        "differences": {"auc": Difference(0.01, -0.002, 0.02)},
        "slices": (NIGHT, RARE),
        "speed": SPEED,
        "about": {"description": "Who will leave.", "contact": "ann@example.org", "licence": "Apache-2.0"},
    }
    return VersionManifest(**(values | changes))


def _version(manifest: VersionManifest, **changes: Any) -> Resource:
    spec = {**manifest.to_json(), "fields": None, "champion": 2}
    return Resource(tenant="default", kind="version", name="churn:3", spec=spec, state="APPROVED", **changes)


def _sections(manifest: VersionManifest, **changes: Any) -> dict[str, Any]:
    return {section["title"]: section for section in card_of(_version(manifest, **changes))["sections"]}


def test_tells_of_use_data_quality_and_cost() -> None:
    found = _sections(_manifest(), status={"gate": {"passed": True, "checks": CHECKS}})
    assert list(found) == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses: slices",
        "Quantitative analyses: calibration",
        "Size and latency",
        "Gate",
        "Caveats and limits",
    ]
    details = dict(found["Model details"]["rows"])
    assert (details["licence"], details["contact"]) == ("Apache-2.0", "ann@example.org")
    assert details["parameters"] == "trees=100"
    assert found["Intended use"]["text"] == ["Who will leave."]
    assert found["Metrics"]["rows"][0] == [
        "auc", "0.8700", "0.8500 to 0.8900", "0.9000", "0.8600", "+0.0100 (-0.0020 to +0.0200)"
    ]  # fmt: skip
    assert [row[0] for row in found["Metrics"]["rows"]] == ["auc", "average_precision"]
    assert "300 rows, 30 of them positive (10.00%), from 1970-01-21" in found["Evaluation data"]["text"][0]
    assert (
        "orders at version 4 (1,000 rows), labels at version 2, shops at version 7" in found["Training data"]["text"][0]
    )
    assert found["Quantitative analyses: slices"]["rows"][0] == [
        "night", "900", "12", "0.8123 (0.7000 to 0.9000)", "0.4000", "0.4100"
    ]  # fmt: skip
    assert len(found["Quantitative analyses: calibration"]["rows"]) == 10
    assert "The 2 bins of the lowest scores" in found["Quantitative analyses: calibration"]["text"][1]
    assert ["64 rows together, median", "1.5 ms"] in found["Size and latency"]["rows"]
    assert [row[3] for row in found["Gate"]["rows"]] == ["passed", "not judged", "failed"]


def test_its_limits_are_named() -> None:
    found = _sections(_manifest(champion_metrics={}), status={"gate": {"passed": True, "checks": CHECKS}})
    limits = "\n".join(found["Caveats and limits"]["text"])
    assert "up to 1970-01-11 00:00:00 UTC, and was tested on what happened up to 1970-01-31" in limits
    assert "With 30 positive test rows" in limits
    assert "night: 900 test rows, 12 of them positive, tell little." in limits
    assert "shop=x|y: too few rows to judge it there: 3 test rows, and at least 10 are declared." in limits
    assert "Not judged: shop=x|y: auc >= 0.8: not judged: 3 test rows." in limits
    assert "could not be scored on the same rows" in limits


def test_what_is_not_known_is_said_and_not_made_up() -> None:
    bare = VersionManifest.model_validate(
        {
            **_manifest().to_json(),
            **dict.fromkeys(("features", "source", "split", "champion_metrics", "calibration", "speed")),
            **{name: {} for name in ("metrics", "about", "intervals", "differences")},
            "slices": [],
        }
    )
    found = _sections(bare)
    assert "was not declared" in found["Intended use"]["text"][0]
    assert "no slices are declared" in found["Factors"]["text"][0]
    assert "ready file" in found["Metrics"]["text"][0]
    assert "ready file" in found["Training data"]["text"][0]
    assert found["Size and latency"]["text"][1] == "Its latency was not measured."
    assert found["Gate"]["text"] == ["No rule was judged."]
    assert {"licence", "contact"}.isdisjoint(dict(found["Model details"]["rows"]))
    assert "- What it gives is a score, not a probability." in found["Caveats and limits"]["text"]


def test_the_document_is_markdown_whose_tables_hold() -> None:
    text = card_of(_version(_manifest(), status={"gate": {"passed": True, "checks": CHECKS}}))["markdown"]
    assert text.startswith("# Model card: churn:3\n\n## Model details\n\n|")
    tables = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert "shop=x\\|y" in text
    widths = [line.count("|") for line in tables]
    heads = [place for place, line in enumerate(tables) if set(line) <= set("| -") and "---" in line]
    for head, following in zip(heads, [*heads[1:], len(tables) + 1], strict=True):
        assert len(set(widths[head - 1 : following - 1])) == 1


def test_it_tells_how_it_compares() -> None:
    told = {
        "metric": "auc",
        "value": 0.8,
        "trained": 0.9,
        "verdict": "loses to x",
        "baselines": [{"name": "x", "rows": 1000, "metrics": {"auc": 0.9}, "difference": None}],
        "curve": [[100, 0.7], [1000, 0.8]],
    }
    manifest = VersionManifest.model_validate({**_manifest().to_json(), "examined": told})
    assert VersionManifest.model_validate(manifest.to_json()) == manifest
    found = _sections(manifest)["Comparison with baselines"]
    assert found["text"] == [
        "In auc, of the test rows: loses to x.",
        "Fitted on fewer training rows: 0.7000 with 100, 0.8000 with 1,000.",
    ]
    assert found["rows"] == [["x", "0.9000", "1,000"]]
    assert "examined" not in _manifest().to_json()
