"""Runs of models in several threads."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyriver.decide.decision import stretches as module
from skyriver.decide.decision.model_run import ModelRun
from skyriver.decide.decision.scorer import Ended, OnnxScorer
from skyriver.decide.decision.stretches import ALIGNED, Stretches, Threads

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from worker_process import endless_model_bytes

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))  # nor is a bench
models = importlib.import_module("_threads")
Floats = NDArray[np.float32]
FEATURES = 6
MODELS = {
    "our kernel's trees": models.trees_of(30, 5, FEATURES),
    "the runtime's trees": models.trees_of(30, 7, FEATURES),
    "a network": models.network_of(FEATURES, 64, 32),
    "a wide network": models.network_of(FEATURES, 257, 130),
}


def sizes_of(scored: list[int]) -> Callable[[Floats], Floats]:
    def score(rows: Floats) -> Floats:
        scored.append(len(rows))
        return rows[:, 0] * 2

    return score


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> dict[str, tuple[OnnxScorer, OnnxScorer]]:
    found = {}
    for name, model in MODELS.items():
        path = tmp_path_factory.mktemp("models") / "model.onnx"
        path.write_bytes(model)
        one = OnnxScorer.load(path, FEATURES, kernels)
        found[name] = (one, OnnxScorer.load(path, FEATURES, kernels, Threads(2)))
    assert [one.sums_trees for one, _ in found.values()] == [True, False, False, False]
    return found


@pytest.mark.parametrize("name", MODELS)
@given(st.one_of(st.integers(1, 200), st.sampled_from([511, 512, 513, 1_024])), st.integers(1, 4), st.integers(0, 9))
def test_a_run_in_stretches_gives_the_same_bits(
    scorers: dict[str, tuple[OnnxScorer, OnnxScorer]], name: str, rows: int, count: int, seed: int
) -> None:
    one, more = scorers[name]
    assert more._stretches is not None
    more._stretches._threads.count = count
    more._stretches._row_us = 1e6  # whatever it takes here, it is to be cut
    features = np.random.default_rng(seed).normal(0, 2, (rows, FEATURES)).astype(np.float32)
    features[::7, seed % FEATURES] = np.nan
    assert np.array_equal(one.score(features), more.score(features), equal_nan=True)
    assert more._stretches._alike is not False
    assert len(more._stretches._others) <= 3


@given(st.integers(2 * ALIGNED, 5_000), st.integers(1, 16), st.floats(0, 1e4))
def test_stretches_are_aligned_and_large_enough(rows: int, count: int, row_us: float) -> None:
    cut = Stretches(Threads(count))
    cut._row_us = row_us
    starts = cut._starts(rows)
    sizes = np.diff([*starts, rows])
    assert 1 <= len(starts) <= count
    assert all(start % ALIGNED == 0 for start in starts)
    assert len(starts) == 1 or (min(sizes) >= ALIGNED / 2 and min(sizes[:-1]) >= ALIGNED)
    if len(starts) > 1:
        assert rows * row_us >= module.LEAST_US * len(starts)
        assert max(sizes) <= rows / len(starts) + 2 * ALIGNED


def test_runs_that_are_soon_done_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    ns = [0]
    monkeypatch.setattr(module.time, "perf_counter_ns", lambda: ns[0])
    scored: list[int] = []
    take = sizes_of(scored)

    def score(rows: Floats) -> Floats:
        if threading.current_thread() is threading.main_thread():
            ns[0] += 10_000 * len(rows)  # 10 us for each
        return take(rows)

    threads = Threads(2)
    cut = Stretches(threads)
    rows = np.arange(400, dtype=np.float32).reshape(200, 2)
    for most, expected in ((200, {200}), (99, {99}), (100, {41, 16, 25, 48, 52}), (200, {96, 104}), (99, {99})):
        scored.clear()
        assert np.array_equal(cut.score(score, rows[:most]), rows[:most, 0] * 2)
        assert {*scored} == expected
    threads.count = 1
    scored.clear()
    cut.score(score, rows)
    assert scored == [200]


def test_a_model_that_gives_stretches_other_bits_is_not_cut() -> None:
    cut = Stretches(Threads(2))
    cut._row_us = 1e3
    scored: list[int] = []

    def score(rows: Floats) -> Floats:
        scored.append(len(rows))
        return np.full(len(rows), len(rows), np.float32)

    for _ in range(2):
        assert cut.score(score, np.zeros((100, 1), np.float32)).tolist() == [100.0] * 100
    assert scored == [41, 16, 25, 100, 100], "tried once"


def test_what_a_stretch_raises_is_raised_when_none_is_under_way() -> None:
    cut = Stretches(Threads(2))
    cut._row_us, cut._alike = 1e3, True
    goes_on, done = threading.Event(), list[int]()

    def score(rows: Floats) -> Floats:
        if rows[0, 0] == 0:
            goes_on.set()
            raise ValueError("no such row")
        assert goes_on.wait(60)
        done.append(len(rows))
        return rows[:, 0]

    rows = np.arange(64, dtype=np.float32).reshape(64, 1)
    with pytest.raises(ValueError, match="no such row"):
        cut.score(score, rows)
    assert done == [32]
    assert cut.score(score, rows + 1).tolist() == (rows[:, 0] + 1).tolist()
    with pytest.raises(ValueError, match="no such row"):
        cut.score(score, rows - 32)


def test_all_stretches_of_a_run_without_end_are_ended_and_the_next_one_is_well(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(endless_model_bytes(3))
    scorer = OnnxScorer.load(path, 3, threads=Threads(3))
    assert scorer._stretches is not None
    rows = np.full((64, 3), 10, np.float32)
    assert scorer.score(rows).tolist() == [10.0] * 64
    scorer._stretches._row_us, scorer._stretches._alike = 1e6, True
    ending = threading.Timer(0.05, scorer.end)
    ending.start()
    with pytest.raises(Ended):
        scorer.score(rows * 1000)
    ending.join()
    assert scorer.score(rows).tolist() == [10.0] * 64
    assert len(scorer._stretches._others) == 2


def test_threads_end_with_their_scorer(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(MODELS["a network"])
    before = {*threading.enumerate()}
    run = ModelRun(OnnxScorer.load(path, FEATURES, threads=Threads(2)), 10_000_000, lambda: 0)
    cut = run._guard.scorer._stretches  # type: ignore[attr-defined]
    cut._row_us = 1e6
    assert np.isfinite(run.score(np.zeros((64, FEATURES), np.float32))).all()
    mine = [t for t in threading.enumerate() if t not in before and t.name == "model stretch"]
    assert len(mine) == 1
    del run, cut
    gc.collect()
    mine[0].join(60)
    assert not mine[0].is_alive()
