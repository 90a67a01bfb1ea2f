"""Each metric against a case worked out by hand, and against its definition written out slowly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.train.metrics import average_precision, brier, log_loss, precision_at, roc_auc

DAY = 86_400_000_000


def _auc_by_pairs(labels: list[int], scores: list[float]) -> float:
    pairs = [
        (1.0 if p > n else 0.5 if p == n else 0.0)
        for p, positive in zip(scores, labels, strict=True)
        if positive
        for n, other in zip(scores, labels, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs)


def _average_precision_by_thresholds(labels: list[int], scores: list[float]) -> float:
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [y for y, s in zip(labels, scores, strict=True) if s >= threshold]
        now = sum(flagged) / sum(labels)
        total += (now - recall) * sum(flagged) / len(flagged)
        recall = now
    return total


_ranked = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda i: i / 8)), min_size=2, max_size=40
).filter(lambda rows: 0 < sum(y for y, _ in rows) < len(rows))


@given(_ranked)
def test_ranking_metrics_are_their_definitions(rows: list[tuple[int, float]]) -> None:
    labels, scores = [y for y, _ in rows], [s for _, s in rows]
    assert roc_auc(np.array(labels), np.array(scores)) == pytest.approx(_auc_by_pairs(labels, scores), abs=1e-12)
    assert average_precision(np.array(labels), np.array(scores)) == pytest.approx(
        _average_precision_by_thresholds(labels, scores), abs=1e-12
    )


def test_by_hand() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert roc_auc(labels, scores) == 0.75
    assert average_precision(labels, scores) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)  # at .8: 1/1, at .35: 2/3
    assert log_loss(labels, scores) == pytest.approx(-(math.log(0.9 * 0.6 * 0.35 * 0.8)) / 4)
    assert brier(labels, scores) == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)


def test_all_scores_equal() -> None:
    labels, scores = np.array([1, 0, 0, 0]), np.full(4, 0.5)
    assert roc_auc(labels, scores) == 0.5
    assert average_precision(labels, scores) == 0.25


def test_a_certain_and_wrong_answer_costs_much_but_not_infinity() -> None:
    assert log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-math.log(1e-15))
    assert log_loss(np.array([0]), np.array([1.0], dtype=np.float32)) == pytest.approx(-math.log(1e-15), rel=0.01)


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_not_defined_is_nan(labels: list[int]) -> None:
    y, s = np.array(labels, dtype=np.float32), np.linspace(0, 1, len(labels))
    assert math.isnan(roc_auc(y, s))
    assert math.isnan(average_precision(y, s)) == (sum(labels) == 0)
    assert math.isnan(log_loss(y, s)) == (not labels)
    assert math.isnan(brier(y, s)) == (not labels)


def _precision(
    k: int,
    rows: list[tuple[int, int, int, float]],
    known: list[tuple[int, int]] | None = None,
    *,
    start: int = 0,
    end: int = 2 * DAY,
) -> float:
    """rows: (time, key, label, score) in order of time; known: (key, known from)."""
    times, keys, labels, scores = (np.array(c) for c in zip(*rows, strict=True))
    known_keys, known_from = np.array(known or np.empty((0, 2)), dtype=np.int64).T
    return precision_at(
        k, labels, scores, keys, times, start=start, end=end, per_us=DAY, known_keys=known_keys, known_from=known_from
    )


def test_precision_at_by_hand() -> None:
    rows = [
        (1, 7, 0, 0.9),  # key 7 ranks by 0.9 and is a hit by its other payment
        (2, 7, 1, 0.2),
        (3, 8, 0, 0.8),
        (4, 9, 1, 0.7),
        (DAY + 1, 7, 1, 0.99),  # found the day before: left out
        (DAY + 2, 9, 1, 0.5),
        (DAY + 3, 8, 0, 0.1),
    ]
    assert _precision(2, rows) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert _precision(1, rows) == pytest.approx((1 + 1) / 2)
    assert _precision(4, rows) == pytest.approx((2 / 4 + 0 / 4) / 2), "fewer keys than k count as misses"


def test_precision_at_leaves_out_keys_already_known() -> None:
    rows = [(1, 7, 1, 0.9), (2, 8, 1, 0.8), (3, 9, 0, 0.7), (DAY, 8, 1, 0.9), (DAY, 9, 1, 0.8)]
    assert _precision(1, rows) == 1.0  # 7, then 8
    assert _precision(2, rows, [(7, 0)]) == pytest.approx((1 / 2 + 1 / 2) / 2)  # 8 of {8, 9}, then 9
    assert _precision(1, rows, [(8, DAY)]) == 1.0, "known from the second day on: there 9 is looked at"
    assert _precision(1, rows, [(8, 0), (7, 0)]) == pytest.approx((0 + 1) / 2)


def test_precision_at_breaks_ties_by_the_lower_key() -> None:
    rows = [(1, 9, 1, 0.5), (2, 3, 0, 0.5)]
    assert _precision(1, rows, end=DAY) == 0.0


def test_periods_start_where_the_test_does_and_are_whole() -> None:
    start = DAY // 3
    rows = [(start, 1, 1, 0.9), (start + DAY - 1, 2, 0, 0.8), (start + DAY, 3, 1, 0.7), (start + 2 * DAY, 4, 0, 0.6)]
    assert _precision(1, rows, start=start, end=start + 2 * DAY + 5) == 1.0, "the five microseconds are no day"
    assert _precision(1, rows[:2], start=start, end=start + DAY - 5) == 1.0, "but the only period counts"


@given(
    st.lists(st.tuples(st.integers(0, 3 * DAY - 1), st.integers(0, 6), st.integers(0, 1), st.integers(0, 5))),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3 * DAY)), max_size=3),
    st.integers(1, 5),
)
def test_precision_at_is_its_definition(
    rows: list[tuple[int, int, int, int]], known: list[tuple[int, int]], k: int
) -> None:
    rows = sorted(rows) or [(0, 0, 0, 0)]
    found: set[int] = set()
    expected = []
    for day in range(3):
        gone = found | {key for key, since in known if since <= day * DAY}
        cards: dict[int, tuple[float, int]] = {}
        for time, key, label, score in rows:
            if time // DAY == day and key not in gone:
                best, positive = cards.get(key, (-1.0, 0))
                cards[key] = (max(best, score), max(positive, label))
        top = sorted(cards, key=lambda key: (-cards[key][0], key))[:k]
        hits = {key for key in top if cards[key][1]}
        expected.append(len(hits) / k)
        found |= hits
    assert _precision(k, [(t, key, y, float(s)) for t, key, y, s in rows], known, end=3 * DAY) == pytest.approx(
        sum(expected) / 3
    )
