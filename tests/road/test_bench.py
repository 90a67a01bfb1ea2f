"""The bench of streams with tiny sizes: its parts run, and what it says of right and wrong is right."""

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
        process_seconds=1.5,
        disk_seconds=1.5,
        nothing_seconds=0.5,
        volume_gb=0.01,
        day_events=2_000,
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
    assert (values["volume_not_decided"], values["day_events"]) == (0, 2_000)
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
