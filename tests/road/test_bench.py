"""The bench of streams with tiny sizes: its parts run, and what it says of right and wrong is right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]  # a bench is no package, nor are tests
    import streams

    return streams


def test_the_parts_of_streams_without_peers(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = bench.Sizes(
        days=80,
        customers=600,
        live=20_000,
        live_disk=5_000,
        keys=(100, 10_000),
        kernel_key_events=200_000,
        keys_live=5_000,
        keys_rounds=3,
        process_seconds=2.0,
        disk_seconds=2.0,
        nothing_seconds=1.0,
        volume_gb=0.05,
        day_events=5_000,
        full=False,
    )
    document = bench.Document("streams", bench.GOALS)
    bench.measure(document, sizes, ["kernel", "decisions", "keys", "flagship", "volume", "day"])
    broken = [row for row in document.rows if "reason" in row or "wrong" in row]
    assert broken == []
    values = {goal.name: document.value(goal.name) for goal in bench.GOALS}
    assert (values["replay_equal"], values["decided_equal_to_duckdb"]) == (1, 1)
    assert [row["compared"] for row in document.rows if "compared" in row] == [40_000, 40_000]
    left_out = {name for name, value in values.items() if value is None}
    assert left_out == {"ratio_to_flink_sql", "ratio_to_bytewax_recovery", "flagship_rss_growth_percent"}
    assert (values["volume_not_decided"], values["day_events"]) == (0, 5_000)
    assert any(row["system"] == "control" and "fdatasync" in row["case"] for row in document.rows)
    assert "replay" in capsys.readouterr().err


def test_each_goal_can_be_missed(bench: Any) -> None:
    assert [goal.name for goal in bench.GOALS if goal.op == ">=" and goal.holds(0)] == []


def test_another_value_than_duckdbs_is_found(bench: Any) -> None:
    import _payments
    import _peers
    import polars as pl

    right = pl.DataFrame({"payment": [1.0, 2.0], **{name: [0.5, 3.0] for name in _payments.NAMES}})
    assert _peers.differences(right, right)["equal_to_duckdb"]
    wrong = right.with_columns(customer_mean_7d=pl.col("customer_mean_7d") + 1e-6)
    assert _peers.differences(wrong, right)["different"] == "customer_mean_7d"
    assert not _peers.differences(right[:1], right)["equal_to_duckdb"]


def test_thresholds_by_costs(bench: Any) -> None:
    """On payments too few to say whether they cost less: what is told equals DuckDB's computation all the same."""
    import decisions

    document = decisions.Document("decisions", decisions.GOALS)
    decisions.measure(document, decisions.Sizes(days=115, customers=300, many=20_000), ["tuned"])
    assert [row for row in document.rows if "reason" in row or "wrong" in row] == []
    assert document.value("tuned_equal_to_duckdb") == 1
    ratio = document.value("cost_ratio_tuned_to_default")
    assert ratio is not None
    assert 0 < ratio < 1.5


def test_a_month_decided_again(bench: Any) -> None:
    import decisions

    document = decisions.Document("decisions", decisions.GOALS)
    decisions.measure(document, decisions.Sizes(days=75, customers=100, many=20_000), ["replay"])
    assert [row for row in document.rows if "reason" in row or "wrong" in row] == []
    assert (document.value("replay_differences"), document.value("replay_equal_to_duckdb")) == (0, 1)
    assert [row["different"] for row in document.rows] == [0, 0]
    assert all(row["events"] > 100 for row in document.rows)


def test_rules_reasons_and_probabilities(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few events to time anything; what is computed is right all the same."""
    import _reasons
    import decisions

    monkeypatch.setattr(_reasons, "EVENTS", 2_000)
    monkeypatch.setattr(_reasons, "EXPLAINED", 200)
    document = decisions.Document("decisions", decisions.GOALS)
    sizes = decisions.Sizes(days=90, customers=500)
    decisions.measure(document, sizes, ["rules", "reasons", "calibration"])
    assert document.value("rules_us_50") is not None
    assert (document.value("reasons_difference") or 1.0) < 1e-6
    ratio = document.value("calibration_error_ratio")
    assert ratio is not None
    assert ratio < 0.5
