"""What is learned of a queue, and who still has time in it."""

from __future__ import annotations

from skyriver.serve.pace import Pace


def test_without_a_run_everybody_has_time() -> None:
    assert Pace().leaves_time(10_000, 1)


def test_a_fifth_of_the_time_is_for_the_way_back() -> None:
    pace = Pace(row_ns=1_000)
    assert pace.leaves_time(8, 10_000)
    assert not pace.leaves_time(9, 10_000)
    assert pace.leaves_time(0, 1)


def test_one_slow_turn_is_forgotten_after_some_thirty() -> None:
    pace = Pace()
    pace.note(10, 10_000)
    assert pace.row_ns == 1_000
    pace.note(1, 1_000_000)
    assert pace.row_ns > 50_000
    for _ in range(60):
        pace.note(10, 10_000)
    assert 1_000 < pace.row_ns < 1_250
