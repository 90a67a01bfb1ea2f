from __future__ import annotations

from skyriver.core.units import SECOND
from skyriver.decide.partition.clock import ReceivingClock


class HandClock:
    """Moved by hand."""

    def __init__(self, wall: int = 1_000 * SECOND) -> None:
        self.wall_us = wall
        self.steady_us = 77

    def wall(self) -> int:
        return self.wall_us

    def monotonic(self) -> int:
        return self.steady_us

    def pass_(self, us: int) -> None:
        self.wall_us += us
        self.steady_us += us


def test_a_clock_set_back_does_not_take_time_back() -> None:
    hand = HandClock()
    clock = ReceivingClock(hand, ahead_us=10)
    hand.pass_(5 * SECOND)
    assert clock.now() == 1_005 * SECOND
    hand.wall_us -= 100 * SECOND
    assert clock.now() == 1_005 * SECOND
    assert clock.step_us == -100 * SECOND
    hand.pass_(SECOND)
    assert clock.now() == 1_006 * SECOND


def test_a_clock_set_forward_is_followed_and_reported() -> None:
    hand = HandClock()
    clock = ReceivingClock(hand, ahead_us=10)
    hand.wall_us += 3 * SECOND
    assert clock.now() == 1_003 * SECOND
    assert clock.step_us == 3 * SECOND


def test_slow_drift_is_no_step() -> None:
    hand = HandClock()
    clock = ReceivingClock(hand, ahead_us=10)
    for _ in range(100):
        hand.pass_(SECOND)
        hand.wall_us += SECOND // 10
        clock.now()
    assert clock.step_us == 0


def test_after_a_restart_the_last_time_counts_too() -> None:
    behind = HandClock(wall=500 * SECOND)
    assert ReceivingClock(behind, ahead_us=10).limit(500 * SECOND) == 500 * SECOND + 10
    assert ReceivingClock(behind, ahead_us=10, last=900 * SECOND).limit(500 * SECOND) == 900 * SECOND + 10
    assert ReceivingClock(behind, ahead_us=10, last=100 * SECOND).limit(500 * SECOND) == 500 * SECOND + 10
