import numpy as np
import pytest

from skyriver.train import metrics
from skyriver.train.intervals import _metrics, _rank, differences, intervals


def _draw(luck: np.random.Generator, n: int, rate: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    labels = (luck.random(n) < rate).astype(np.float32)
    raw = luck.normal(size=n) + 1.5 * labels - 3
    return labels, (1 / (1 + np.exp(-raw))).astype(np.float32)


def test_with_a_weight_of_one_each_the_metrics_are_those_of_the_rows() -> None:
    luck = np.random.default_rng(0)
    for _ in range(100):
        n = int(luck.integers(5, 60))
        labels = (luck.random(n) < 0.4).astype(np.float32)
        scores = luck.random(n).round(1).astype(np.float32)  # many are equal
        if labels.sum() in (0, n):
            continue
        ranked = _rank(labels, scores)
        found = _metrics(ranked.positives[None].astype(float), ranked.negatives[None].astype(float))
        assert found["auc"][0] == pytest.approx(metrics.roc_auc(labels, scores), abs=1e-12)
        assert found["average_precision"][0] == pytest.approx(metrics.average_precision(labels, scores), abs=1e-12)


def test_is_as_wide_as_that_of_rows_drawn_one_by_one() -> None:
    luck = np.random.default_rng(1)
    labels, scores = _draw(luck, 2_000)
    found = intervals(labels, scores, None)
    naive = []
    for _ in range(400):
        rows = luck.integers(0, len(labels), len(labels))
        naive.append(metrics.average_precision(labels[rows], scores[rows]))
    low, high = np.quantile(naive, (0.025, 0.975))
    width = found["average_precision"][1] - found["average_precision"][0]
    assert width == pytest.approx(high - low, rel=0.2)


def test_holds_the_truth_about_as_often_as_it_says() -> None:
    luck = np.random.default_rng(2)
    labels, scores = _draw(luck, 400_000)
    truth = {"average_precision": metrics.average_precision(labels, scores), "brier": metrics.brier(labels, scores)}
    held = dict.fromkeys(truth, 0)
    for _ in range(100):
        found = intervals(*_draw(luck, 2_000), None)
        for name in truth:
            held[name] += found[name][0] <= truth[name] <= found[name][1]
    assert all(88 <= count <= 100 for count in held.values()), held


def test_the_difference_of_two_that_err_alike_is_surer_than_either() -> None:
    luck = np.random.default_rng(3)
    labels, scores = _draw(luck, 3_000)
    other = (scores * (1 + 0.02 * luck.normal(size=len(scores)))).clip(0, 1).astype(np.float32)
    low, high = differences(labels, (scores, None), (other, None))["average_precision"]
    alone = intervals(labels, scores, None)["average_precision"]
    assert low <= metrics.average_precision(labels, scores) - metrics.average_precision(labels, other) <= high
    assert high - low < 0.3 * (alone[1] - alone[0])
    same = differences(labels, (scores, None), (scores, None))
    assert same["average_precision"] == same["auc"] == same["brier"] == (0.0, 0.0)


def test_is_the_same_each_time() -> None:
    labels, scores = _draw(np.random.default_rng(4), 1_000)
    assert intervals(labels, scores, scores) == intervals(labels, scores, scores)


@pytest.mark.parametrize("positives", [0, 4, 996, 1_000])
def test_a_handful_of_rows_of_a_kind_tells_no_interval_of_an_order(positives: int) -> None:
    labels = (np.arange(1_000) < positives).astype(np.float32)
    scores = np.linspace(0, 1, 1_000, dtype=np.float32)
    found = intervals(labels, scores, None)
    assert set(found) == {"log_loss", "brier"}
    assert set(differences(labels, (scores, None), (scores, None))) == {"log_loss", "brier"}


def test_no_rows_tell_nothing() -> None:
    none = np.empty(0, np.float32)
    assert intervals(none, none, none) == {}
