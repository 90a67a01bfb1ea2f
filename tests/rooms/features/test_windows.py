"""The laws of windows (DESIGN 6.1, 6.2, 6.6), each with numbers computed by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

INT64_MIN = -(2**63)


def event(t: int, x: float = float("nan"), **more: Any) -> dict[str, Any]:
    return {"t": t, "x": x, **more}


def label(of: int, value: float, **more: Any) -> dict[str, Any]:
    return {"of": of, "value": value, **more}


def now(of: int, value: float) -> dict[str, Any]:
    return label(of, value, label=1)


def test_a_window_is_open_on_the_left_and_holds_the_event_itself(windows: Any) -> None:
    records = [event(0), event(9), event(10), event(19), event(20)]
    assert windows.column("count", records) == [1, 2, 2, 2, 2]


def test_events_of_the_same_time_see_themselves_and_those_before(windows: Any) -> None:
    assert windows.column("sum", [event(5, 1.0), event(5, 10.0), event(5, 100.0)]) == [1, 11, 111]


def test_keys_do_not_mix(windows: Any) -> None:
    records = [event(0, 1.0, k=0), event(1, 2.0, k=-1), event(2, 4.0, k=INT64_MIN), event(3, 8.0, k=0)]
    assert windows.column("sum", records) == [1, 2, 4, 9]


def test_missing_values_are_left_out_and_an_empty_mean_is_zero(windows: Any) -> None:
    records = [event(0, 1.0), event(1, 1.0, y=4.0), event(2, 1.0), event(3, 1.0, y=8.0), event(12, 1.0)]
    assert windows.column("sum_y", records) == [0, 4, 4, 12, 8]
    assert windows.column("mean_y", records) == [0, 4, 4, 6, 8]
    assert windows.column("mean_y", [event(0), event(50, y=2.0), event(100)]) == [0, 2, 0]
    assert windows.column("mean", records) == [1, 1, 1, 1, 1]


def test_a_long_silence_empties_every_window(windows: Any) -> None:
    records = [event(0, 1.0), label(0, 1.0), event(1_000_000, 2.0)]
    assert windows.exact(records)[1].tolist() == [1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_label_counts_once_its_delay_has_passed(windows: Any) -> None:
    # The subject at 0 is in the window of "late" from 5 (0 <= t - 5) until 14 (0 > t - 15).
    records = [event(0), label(0, 1.0), event(4), event(5), event(14), event(15)]
    assert windows.column("late_sum", records) == [0, 0, 1, 1, 0]
    assert windows.column("late_count", records) == [0, 0, 1, 3, 2]


def test_unlabelled_counts_as_zero(windows: Any) -> None:
    records = [event(0), event(1), label(1, 1.0), event(6)]
    assert windows.column("late_mean", records) == [0, 0, 0.5]


def test_a_label_that_comes_after_its_delay_counts_from_its_own_offset(windows: Any) -> None:
    records = [event(0), event(8), label(0, 1.0), event(8), event(9)]
    assert windows.column("late_sum", records) == [0, 0, 1, 1]
    assert windows.column("late_mean", records) == [0, 0, 1, 1]


def test_a_correction_replaces_the_value_from_its_own_offset(windows: Any) -> None:
    records = [event(0), label(0, 3.0), event(6), label(0, 1.0), event(7), event(30), event(31)]
    assert windows.column("late_sum", records) == [0, 3, 1, 0, 0]
    early = [event(0), label(0, 3.0), label(0, 2.0), event(6), event(15)]
    assert windows.column("late_sum", early) == [0, 2, 0]


def test_a_label_can_be_taken_back(windows: Any) -> None:
    records = [event(0), label(0, 3.0), event(6), label(0, float("nan")), event(7), event(40)]
    assert windows.column("late_sum", records) == [0, 3, 0, 0]


def test_a_label_of_a_subject_out_of_the_window_has_no_effect(windows: Any) -> None:
    # At 20 the subject has left the 10 us window (15) and not the one of 20 us (25).
    records = [event(0), event(20), label(0, 1.0), event(21), event(25), label(0, 5.0), event(26)]
    assert windows.column("late_sum", records) == [0, 0, 0, 0, 0]
    assert windows.column("late_sum_20", records) == [0, 0, 1, 0, 0]


def test_a_label_without_delay_counts_at_once(windows: Any) -> None:
    records = [event(0), now(0, 1.0), event(0), event(9), event(10), now(0, 7.0), event(11)]
    assert windows.column("now_sum", records) == [0, 1, 1, 0, 0]


def test_a_label_reaches_every_key_of_its_subject(windows: Any) -> None:
    records = [event(0, k=2), event(1, k=3), now(0, 1.0), event(2, k=3), event(3, k=2)]
    assert windows.column("now_sum", records) == [0, 0, 0, 1]
    assert windows.column("now_mean", records) == [0, 0, 1 / 3, 1 / 4]  # k2 is the same for 2 and 3


def test_labels_of_unknown_subjects_count_for_nothing(windows: Any) -> None:
    assert windows.column("late_sum", [event(0), label(-1, 1.0), event(6)]) == [0, 0]


def test_labels_do_not_move_time(windows: Any) -> None:
    records = [event(0, 1.0), label(0, 1.0, t=1_000_000), event(3, 1.0)]
    assert windows.column("sum", records) == [1, 2]


def test_sums_are_exact_whatever_came_before(windows: Any) -> None:
    # In floating point 0.1 would be lost beside the 4 million that came and went.
    records = [event(0, 0.1), event(1, 4_000_000.0), event(10, 0.2), event(11, 0.3)]
    grid = [Fraction(round(Fraction(x) * 2**40), 2**40) for x in (0.2, 0.3)]
    assert windows.column("sum", records)[2:] == [float(Fraction(4_000_000) + grid[0]), float(sum(grid))]


def test_negative_and_huge_sums_carry_between_the_words(windows: Any) -> None:
    many = [event(0, -(2.0**22)) for _ in range(9)] + [event(1, 2.0**22) for _ in range(20)] + [event(10, -1.0)]
    found = windows.column("sum", many)
    assert found[8] == -9 * 2.0**22
    assert found[28] == 11 * 2.0**22
    assert found[29] == 20 * 2.0**22 - 1


def test_a_value_outside_the_grid_is_missing_and_counted(windows: Any) -> None:
    state = windows.state()
    exact = windows.exact([event(0, 1e9), event(1, float("inf")), event(2, 3.0), label(0, 1e9)], state)
    assert exact[:, 1].tolist() == [0, 0, 3]
    assert state.off_grid == 3


def test_keys_whose_windows_are_empty_make_room(windows: Any) -> None:
    state = windows.state()
    records = [event(100 * i, 1.0, k=i) for i in range(20_000)]
    exact = windows.exact(records, state)
    assert (exact[:, 0] == 1).all()
    assert state.active_keys == {"k": 1, "k2": 1}
    assert state.memory_bytes < 1_000_000


@pytest.mark.parametrize("step", [1, 3])
def test_many_active_keys_grow_the_tables(windows: Any, step: int) -> None:
    keys = np.random.default_rng(0).permutation(5_000) * step - 7_000
    records = [event(0, float(i % 7), k=int(k)) for i, k in enumerate(keys)]
    again = [event(1, 1.0, k=int(k)) for k in keys]
    state = windows.state()
    exact = windows.exact(records + again, state)
    assert exact[5_000:, 0].tolist() == [2.0] * 5_000
    assert exact[5_000:, 1].tolist() == [1.0 + i % 7 for i in range(5_000)]
    assert state.active_keys["k"] == 5_000
