"""Rows of a run, by the time in which answers are wanted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.serve.batch_limit import LONGER, RUN_SHARE, BatchLimit, rows_of_a_run
from skyriver.serve.calibration import NEAR, Calibration


def measured(fixed_us: float, each_us: float, max_batch: int = 8) -> Calibration:
    one = fixed_us + each_us
    return Calibration(max_batch, 1, True, one, fixed_us + each_us * max_batch, fixed_us, each_us)


@pytest.mark.parametrize(
    ("fixed_us", "each_us", "latency_us", "rows"),
    [
        (10_000, 100, 50_000, 91),  # 100 rows are 20 ms, two such runs leave a fifth of 50; 91 are as good
        (10_000, 1_000, 50_000, 10),
        (10_000, 100, 30_000, 25),  # 12.6 ms are more than two fifths of it; one alone may become a quarter longer
        (0, 1_000, 50_000, 1),  # rows that cost alike are not gathered, however long one may wait
        (100, 0, 50_000, 244),  # nor more than is worth it
        (10_000, 100, 0, 8),  # no objective: what was calibrated
        (10_000, 100, 10_000, 8),  # which one row alone breaks
    ],
)
def test_two_runs_are_within_the_objective(fixed_us: float, each_us: float, latency_us: float, rows: int) -> None:
    assert rows_of_a_run(measured(fixed_us, each_us), latency_us, 256) == rows


@pytest.mark.parametrize(("took", "kept"), [(0.5, 0.5), (0.9, 1.0), (3.0, 1.0)])
def test_what_is_kept_for_a_later_start_is_righted_where_runs_are_clearly_faster(took: float, kept: float) -> None:
    limit = BatchLimit(measured(900, 100), 256)
    limit.note(19, 19, round(19_000 * took))
    assert limit.curve == measured(900, 100)  # of so few
    limit.note(100, 100, round(100_000 * took))
    assert limit.curve.row_us == pytest.approx(1_000 * kept, rel=0.01)
    assert limit.curve.max_batch == 8


def test_what_was_not_measured_stays_as_it_is() -> None:
    assert rows_of_a_run(Calibration(99), 50_000, 256) == 99


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(1, 1e7),
    st.integers(1, 1024),
    st.floats(0.1, 10),
)
def test_never_more_than_the_objective_leaves_nor_far_from_the_best_rate(
    fixed_us: float, each_us: float, latency_us: float, most: int, times: float
) -> None:
    found = rows_of_a_run(measured(fixed_us, each_us), latency_us, most, times)
    fixed, each = fixed_us * times, each_us * times
    one = fixed + each
    if one <= 0.01 or one > max(times, 1.0) * latency_us:
        assert found == 8
        return
    within = max(RUN_SHARE * latency_us, LONGER * one)
    assert 1 <= found <= most
    assert found == 1 or fixed + each * found <= within * (1 + 1e-6)
    allowed = [n for n in range(1, most + 1) if fixed + each * n <= within] or [1]
    best = max(n / (fixed + each * n) for n in allowed)
    assert found / (fixed + each * found) >= 0.999 * NEAR * best


def test_it_follows_what_runs_take() -> None:
    limit = BatchLimit(measured(1_000, 100), 256)
    assert (limit.rows, limit.times) == (8, 1.0)
    limit.follow(50_000)
    assert (quick := limit.rows) > 90
    limit.note(10, 100, 40_000)  # twice as long, but a few runs only
    assert limit.rows == quick
    limit.note(100, 1_000, 400_000)
    assert limit.times == pytest.approx(2.0, rel=0.1)
    assert limit.rows < quick
    for turn in range(1, 200):
        limit.note(100 + 100 * turn, 1_000 + 1_000 * turn, 400_000 + 100_000 * turn)
    assert limit.times == pytest.approx(0.5, rel=0.01)
    assert limit.rows > quick
    limit.follow(0)
    assert limit.rows == 8
