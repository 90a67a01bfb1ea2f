"""When a missed objective is an alarm, and when something is full."""

from __future__ import annotations

import random

import pytest

from skyriver.observe.objectives import FAST, RING, SLOW, Ring, Windows, burning, exhausted_in, sudden


def fed(bad_of: dict[range, int], minutes: int = RING) -> Ring:
    ring = Ring()
    for minute in range(minutes):
        ring.add(minute * 60, 1000, next((bad for within, bad in bad_of.items() if minute in within), 0))
    return ring


@pytest.mark.parametrize(
    ("bad_of", "said"),
    [
        pytest.param({}, None, id="nothing-fails"),
        pytest.param({range(360): 10}, None, id="as-much-as-allowed"),
        pytest.param({range(300, 360): 150}, FAST, id="an-hour-at-15-times"),
        pytest.param({range(360): 70}, SLOW, id="six-hours-at-7-times"),
        pytest.param({range(300, 350): 600}, SLOW, id="fast-one-over-for-ten-minutes"),
        pytest.param({range(200, 320): 500}, None, id="over-for-forty-minutes"),
        pytest.param({range(355, 360): 500}, None, id="five-minutes-are-too-short-for-an-objective-of-99"),
    ],
)
def test_an_alarm_needs_both_windows(bad_of: dict[range, int], said: Windows | None) -> None:
    assert burning(fed(bad_of), 359 * 60, 0.01) == said


def test_few_failures_are_none() -> None:
    ring = Ring()
    ring.add(0, 9, 9)
    assert burning(ring, 0, 0.01) is None
    ring.add(0, 1, 1)
    assert burning(ring, 0, 0.01) == FAST


def test_a_ring_forgets_and_a_clock_set_back_does_not_count_as_now() -> None:
    ring = Ring()
    ring.add(0, 5, 5)
    assert ring.over(RING * 60, RING) == (0, 0)
    ring.add(0, 7, 7)
    assert ring.over(RING * 60, RING) == (0, 0)
    ring.add(10**9, 3, 1)
    assert (ring.over(10**9, RING), len(ring.answers)) == ((3, 1), RING)


def test_time_to_exhaustion() -> None:
    grows = [(float(at), 100.0 + 2 * at) for at in range(100)]
    assert exhausted_in(grows, 498.0) == pytest.approx(100)
    came_and_went = [(at, used + (5_000 if at == 40 else 0)) for at, used in grows]
    assert exhausted_in(came_and_went, 10_000.0) == pytest.approx(exhausted_in(grows, 10_000.0), rel=0.01)
    assert exhausted_in(grows, 200.0) == 0.0


@pytest.mark.parametrize("used", [[5.0] * 50, [5.0, 6.0] * 25, [50.0 - at for at in range(50)], [1.0, 2.0]])
def test_what_does_not_grow_is_never_full(used: list[float]) -> None:
    assert exhausted_in(list(enumerate(used)), 1000.0) is None


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        pytest.param(0, 100, True, id="all-of-a-sudden"),
        pytest.param(0, 21, True, id="a-fifth"),
        pytest.param(0, 9, False, id="less-than-a-tenth"),
        pytest.param(60, 100, False, id="it-was-so-before"),
        pytest.param(20, 60, True, id="three-times-as-much-as-before"),
    ],
)
def test_what_fails_at_once_does_not_wait_for_the_windows(before: int, now: int, said: bool) -> None:
    fine, minutes = Ring(5, 24), Ring()
    for second in range(0, 1200, 5):
        bad = now if second >= 1200 - 30 else before
        fine.add(second, 100, bad)
        minutes.add(second, 100, bad)
    assert sudden(fine, minutes, 1199, 0.01) is said


def test_what_a_ring_holds_is_what_was_added_in_its_last_steps() -> None:
    chance = random.Random(7)
    ring, told = Ring(5, 24), [(0, 0)] * 200
    for step in range(200):
        if chance.random() < 0.8:
            told[step] = (chance.randrange(9), chance.randrange(3))
            ring.add(step * 5.0, *told[step])
        steps, before = chance.randrange(30), chance.randrange(12)
        of = [told[at] for at in range(max(0, step + 1 - min(steps, 24)), max(0, step + 1 - before))]
        assert ring.over(step * 5.0, steps, before=before) == (sum(a for a, _ in of), sum(b for _, b in of))
