"""What a request takes of a replica whose runs are full."""

from __future__ import annotations

import pytest

from skyriver.observe.full_runs import Batch, Ran, batch_of, in_full_runs

BATCH = Batch(rows=50, fixed_s=0.010, each_s=0.0001)
"""A run of 15 ms."""


def test_an_idle_replica_s_requests_share_what_a_run_costs() -> None:
    taken = in_full_runs(Ran(0.0111, 0.0101, 1.0, 1.0), BATCH, 0.05)  # 1 ms for reading and writing
    assert taken.full_s == pytest.approx(0.001 + 0.0001 + 0.010 / 50)
    assert taken.alone_s == pytest.approx(0.0111)
    assert taken.queue_s == pytest.approx(taken.full_s / 0.4)  # two runs are three fifths of 50 ms
    assert taken.batch == 50


def test_a_busy_one_s_do_so_already() -> None:
    taken = in_full_runs(Ran(0.0013, 0.0003, 1 / 50, 1.0), BATCH, 0.05)
    assert taken.full_s == pytest.approx(0.0013)
    assert taken.alone_s == pytest.approx(0.0111)


def test_requests_of_many_rows_have_no_more_to_share() -> None:
    taken = in_full_runs(Ran(0.02, 0.02, 1.0, 100.0), BATCH, 0.05)
    assert (taken.full_s, taken.alone_s) == (0.02, 0.02)


def test_nothing_is_shared_where_rows_cost_alike() -> None:
    taken = in_full_runs(Ran(0.01, 0.01, 1.0, 1.0), Batch(1, 0.0, 0.01), 0.05)
    assert (taken.full_s, taken.alone_s, taken.queue_s) == (0.01, 0.01, 0.01)


def test_what_cannot_be_is_not_gone_by() -> None:
    good = {"max_batch": 4, "fixed_us": 10.0, "each_us": 1}
    assert batch_of(good) == Batch(4, 1e-5, 1e-6)
    for wrong in ({"max_batch": 0}, {"max_batch": "4"}, {"fixed_us": -1}, {"each_us": float("nan")}, {"each_us": None}):
        assert batch_of({**good, **wrong}) is None
    assert batch_of({"max_batch": 256}) is None


def test_a_start_in_a_busy_moment_does_not_make_requests_free() -> None:
    """Its one row took 18 times as long as rows do now."""
    taken = in_full_runs(Ran(0.0011, 0.0006, 1.0, 1.0), BATCH, 0.05)
    assert taken.full_s > 0.0005
    assert taken.alone_s == pytest.approx(0.0011)
