"""The bench of searches with few trials: its parts run, and what it compares is comparable."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path[:0] = [str(ROOT / "bench")]  # a bench is no package
    import search

    return search


def test_both_searches_of_a_data_set(bench: Any) -> None:
    document = bench.Document("search", bench.GOALS)
    bench.compare(document, "diabetes", argparse.Namespace(trials=3, splits=1, seeds=2, trees=40))
    ours, theirs = document.rows
    assert (ours["system"], theirs["system"]) == ("skyriver", "random search")
    assert theirs["trees"] == 4 * 40, "all trees of each trial, and those of the last fit"
    assert 0 < ours["trees"] <= theirs["trees"]
    assert min(ours["test"], theirs["test"]) > 0.3
    assert document.value("diabetes_compute") == pytest.approx(ours["trees"] / theirs["trees"], abs=0.01)
    assert document.value("diabetes_shortfall") is not None


def test_rows_that_judge_and_test_are_nobodys(bench: Any) -> None:
    work = bench.load("breast_cancer", 10, 0)
    together = np.concatenate(work.parts)
    assert len(np.unique(together)) == len(together) == len(work.y)
    assert not np.array_equal(work.parts[0], bench.load("breast_cancer", 10, 1).parts[0])
