"""What a declaration would have done: the same fleet, on what was asked."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from skyriver.control.schedule.replaying import Declared, Past, Played, replay
from skyriver.control.schedule.scaling import Rules
from skyriver.control.schedule.sleeping import Terms
from skyriver.control.schedule.tables import Floats

WORK_S = 0.05
SHARE, LATENCY_S = 0.99, 0.2


def fixed(replicas: int) -> Declared:
    return Declared(Rules(SHARE, LATENCY_S, replicas, replicas))


def elastic(least: int, most: int, **given: float) -> Declared:
    return Declared(Rules(SHARE, LATENCY_S, least, most, **given))


def past(requests: Floats, start_s: float = 0.6, tick_s: float = 5.0) -> Past:
    return Past(tick_s, 1e9, requests, WORK_S, start_s)


def bursts(rng: np.random.Generator, hours: int = 1) -> Floats:
    rates = np.where(np.arange(720 * hours) % 240 < 40, 60.0, 4.0)
    return rng.poisson(rates * 5.0).astype(np.float64)


def test_more_replicas_cost_more_and_are_late_less() -> None:
    found = replay(past(bursts(np.random.default_rng(1))), [fixed(n) for n in (1, 2, 4, 8)], LATENCY_S)
    assert [one.hours for one in found] == [1.0, 2.0, 4.0, 8.0]
    shares = [one.late_share for one in found]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5
    assert shares[-1] < 0.01
    assert all(one.changes == 0 for one in found)


def test_what_follows_the_load_costs_less_than_what_is_always_there() -> None:
    always, follows = replay(past(bursts(np.random.default_rng(2), 2)), [fixed(8), elastic(1, 8, hold_s=30)], LATENCY_S)
    assert follows.hours < always.hours
    assert follows.replicas.min() < follows.replicas.max()
    assert follows.late_price > 0


def test_what_sleeps_costs_next_to_nothing_and_wakes_for_who_asks() -> None:
    asked = np.zeros(720)
    asked[50::120] = 2.0
    serves = Rules(SHARE, LATENCY_S, 0, 4)
    kept, sleeps, late = replay(
        past(asked),
        [fixed(1), Declared(serves, Terms(SHARE, 2.0)), Declared(serves, Terms(SHARE, LATENCY_S))],
        LATENCY_S,
    )
    assert sleeps.hours < 0.1 * kept.hours
    assert sleeps.replicas.max() == 1
    assert sleeps.late_share < 0.05, "within wake= is in time"
    assert late.late_share > 0.2, "a start takes longer than the latency"


def test_declarations_do_not_change_each_other_nor_the_outcome() -> None:
    of, these = past(bursts(np.random.default_rng(3))), [fixed(2), elastic(1, 8), elastic(2, 5, hold_s=60)]
    together = replay(of, these, LATENCY_S)
    for one, alone in zip(together, (replay(of, [each], LATENCY_S)[0] for each in these), strict=True):
        _same(one, alone)
    _same(together[1], replay(of, these, LATENCY_S)[1])


def _same(one: Played, two: Played) -> None:
    assert one.replicas.tolist() == two.replicas.tolist()
    assert one.late.tolist() == pytest.approx(two.late.tolist())
    assert one.hours == two.hours


def test_what_is_not_known_counts_for_nothing() -> None:
    asked = bursts(np.random.default_rng(4))
    asked[200:400] = np.nan
    [one] = replay(past(asked), [fixed(2)], LATENCY_S)
    assert one.hours == pytest.approx(2 * 520 * 5 / 3600)
    assert one.requests == pytest.approx(np.nansum(asked))
    assert not one.late[200:400].any()
    [none] = replay(past(np.full(10, np.nan)), [elastic(1, 4)], LATENCY_S)
    assert (none.hours, none.requests, none.late_share) == (0.0, 0.0, 0.0)


def test_what_no_number_keeps_is_late_with_any() -> None:
    [one, eight] = replay(past(np.full(200, 10.0)), [fixed(1), fixed(8)], WORK_S / 2)
    assert one.late_share == eight.late_share == 1.0


@pytest.mark.parametrize(("replicas", "busy"), [(1, 0.5), (2, 0.7), (4, 0.8)])
def test_chance_is_as_requests_one_by_one_say(replicas: int, busy: float) -> None:
    """Requests that come by a Poisson process, whose work is exponential, to who is free first."""
    rng = np.random.default_rng(5)
    n, rate = 100_000, busy * replicas / WORK_S
    arrivals, work = np.cumsum(rng.exponential(1 / rate, n)), rng.exponential(WORK_S, n)
    free, late = [0.0] * replicas, 0
    for at, takes in zip(arrivals.tolist(), work.tolist(), strict=True):
        begins = max(heapq.heappop(free), at)
        heapq.heappush(free, begins + takes)
        late += begins - at > LATENCY_S - WORK_S
    [one] = replay(past(np.full(50, rate * 5.0)), [fixed(replicas)], LATENCY_S)
    assert one.late_share == pytest.approx(late / n, rel=0.15)
