import numpy as np
import pytest

from skyriver.train import metrics
from skyriver.train.slices import Scored, Slice, gather

LUCK = np.random.default_rng(0)
LABELS = (LUCK.random(4_000) < 0.1).astype(np.float32)
GOOD = (0.3 * LABELS + 0.7 * LUCK.random(4_000)).astype(np.float32)
WEAK = (0.1 * LABELS + 0.9 * LUCK.random(4_000)).astype(np.float32)
HALF = Slice("half", "half", np.arange(0, 4_000, 2), least=10)


def test_of_all_rows_and_of_each_part() -> None:
    found = gather(LABELS, Scored(GOOD, None), None, [HALF, Slice("none", "none", np.empty(0, np.int64))])
    assert found.whole.rows == 4_000
    assert found.whole.champion is None
    assert found.whole.differences == {}
    (part, seen), (_, none) = found.slices
    assert part is HALF
    assert (seen.rows, seen.positives) == (2_000, int(LABELS[::2].sum()))
    assert seen.metrics["auc"] == metrics.roc_auc(LABELS[::2], GOOD[::2])
    assert seen.intervals["auc"][0] < seen.metrics["auc"] < seen.intervals["auc"][1]
    assert (none.rows, dict(none.metrics), dict(none.intervals)) == (0, {}, {})


def test_the_champion_is_judged_on_the_same_rows() -> None:
    found = gather(LABELS, Scored(GOOD, GOOD), Scored(WEAK, None), [HALF])
    for seen, rows in ((found.whole, slice(None)), (found.slices[0][1], HALF.rows)):
        assert seen.champion is not None
        assert seen.champion["auc"] == metrics.roc_auc(LABELS[rows], WEAK[rows])
        by, low, high = seen.differences["auc"]
        assert by == pytest.approx(seen.metrics["auc"] - seen.champion["auc"])
        assert 0 < low < by < high
        assert "brier_calibrated" in seen.differences, "without a calibration its scores are what it says"
