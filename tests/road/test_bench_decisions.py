"""The bench of decisions with tiny sizes: its parts run, and what they compute is right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]  # a bench is no package, nor are tests
    import decisions

    return decisions


def test_thresholds_by_costs(bench: Any) -> None:
    """On payments too few to say whether they cost less: what is told equals DuckDB's computation all the same."""
    document = bench.Document("decisions", bench.GOALS)
    bench.measure(document, bench.Sizes(days=115, customers=300, many=20_000), ["tuned"])
    assert [row for row in document.rows if "reason" in row or "wrong" in row] == []
    assert document.value("tuned_equal_to_duckdb") == 1
    ratio = document.value("cost_ratio_tuned_to_default")
    assert ratio is not None
    assert 0 < ratio < 1.5


def test_a_month_decided_again(bench: Any) -> None:
    document = bench.Document("decisions", bench.GOALS)
    bench.measure(document, bench.Sizes(days=75, customers=100, many=20_000), ["replay"])
    assert [row for row in document.rows if "reason" in row or "wrong" in row] == []
    assert (document.value("replay_differences"), document.value("replay_equal_to_duckdb")) == (0, 1)
    assert [row["different"] for row in document.rows] == [0, 0]
    assert all(row["events"] > 100 for row in document.rows)


def test_rules_reasons_and_probabilities(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few events to time anything; what is computed is right all the same."""
    import _reasons

    monkeypatch.setattr(_reasons, "EVENTS", 2_000)
    monkeypatch.setattr(_reasons, "EXPLAINED", 200)
    document = bench.Document("decisions", bench.GOALS)
    sizes = bench.Sizes(days=90, customers=500)
    bench.measure(document, sizes, ["rules", "reasons", "calibration"])
    assert document.value("rules_us_50") is not None
    assert (document.value("reasons_difference") or 1.0) < 1e-6
    ratio = document.value("calibration_error_ratio")
    assert ratio is not None
    assert ratio < 0.5
