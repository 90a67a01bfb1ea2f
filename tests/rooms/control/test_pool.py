"""How services share a machine that does not do for all: what holds whoever asks for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skyriver.control.schedule.explaining import explain
from skyriver.control.schedule.pool import STAY, Ask, Grants, concave, share
from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.control.schedule.tables import Floats

WORTH = st.lists(st.floats(0.0, 100.0), min_size=6, max_size=6)
ASKS = st.builds(
    lambda least, more, cores, memory, priority, has: Ask(least + more, least, cores, memory, priority, has),
    st.integers(0, 2),
    st.integers(0, 6),
    st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    st.sampled_from([100.0, 400.0]),
    st.integers(-1, 1),
    st.integers(0, 8),
)
MANY = st.lists(st.tuples(ASKS, WORTH), min_size=1, max_size=5)
CORES = st.sampled_from([0.0, 1.0, 2.5, 4.0, 8.0, 16.0])
MEMORY = st.sampled_from([300.0, 1_000.0, 4_000.0])


def granted(many: list[tuple[Ask, list[float]]], cores: float, memory: float) -> tuple[dict[str, Ask], Grants]:
    asks = {f"s{n}": ask for n, (ask, _) in enumerate(many)}
    worth = {f"s{n}": np.array(values) for n, (_, values) in enumerate(many)}

    def curves(services: Mapping[str, tuple[int, int]]) -> Mapping[str, Floats]:
        return {name: worth[name][: most - least] for name, (least, most) in services.items()}

    return asks, share(asks, cores, memory, curves)


def used(asks: Mapping[str, Ask], replicas: Mapping[str, int]) -> tuple[float, float]:
    return (
        sum(asks[name].cores * count for name, count in replicas.items()),
        sum(asks[name].memory_mb * count for name, count in replicas.items()),
    )


@given(MANY, CORES, MEMORY)
def test_what_is_over_the_least_fits_and_nobody_gets_more_than_is_wanted(
    many: list[tuple[Ask, list[float]]], cores: float, memory: float
) -> None:
    asks, grants = granted(many, cores, memory)
    least = used(asks, {name: ask.least for name, ask in asks.items()})
    for has, own, there in zip(used(asks, grants.replicas), least, (cores, memory), strict=True):
        assert has <= max(own, there) + 1e-6
    assert all(asks[name].least <= count <= asks[name].wish for name, count in grants.replicas.items())
    all_granted = all(count == asks[name].wish for name, count in grants.replicas.items())
    assert all_granted == (grants.scarce == "")
    assert grants.scarce or grants.price == 0.0


@given(MANY, CORES, MEMORY)
def test_no_replica_of_a_lower_priority_or_worth_stands_where_one_that_was_refused_would(
    many: list[tuple[Ask, list[float]]], cores: float, memory: float
) -> None:
    asks, grants = granted(many, cores, memory)
    assume(grants.scarce)
    free = np.array((cores, memory)) - used(asks, grants.replicas)
    size = {name: np.array((ask.cores, ask.memory_mb)) for name, ask in asks.items()}
    unit = 0 if grants.scarce == "cores" else 1

    def rank(name: str, number: int) -> tuple[float, float]:
        ask, over = asks[name], asks[name].wish - asks[name].least
        worth = concave([np.array(many[int(name[1:])][1])[:over]])[0][number - ask.least]
        return ask.priority, float(worth / size[name][unit] * (1 + STAY if number < ask.has else 1.0))

    best = 0.0
    for name, count in grants.replicas.items():
        if count == asks[name].wish:
            continue
        assert ((size[name] > free + 1e-6).any()) or (free < 0).any()  # nothing that fits is refused
        best = max(best, rank(name, count)[1])
        for other, has in grants.replicas.items():
            if other != name and has > asks[other].least and (size[name] <= free + size[other]).all():
                assert rank(other, has - 1) >= (rank(name, count)[0], rank(name, count)[1] - 1e-9)
    assert grants.price <= best + 1e-9


@given(MANY, CORES, MEMORY)
def test_what_was_granted_is_granted_again(many: list[tuple[Ask, list[float]]], cores: float, memory: float) -> None:
    _, first = granted(many, cores, memory)
    stands = [(replace(ask, has=first.replicas[f"s{n}"]), worth) for n, (ask, worth) in enumerate(many)]
    _, again = granted(stands, cores, memory)
    assert again.replicas == first.replicas


@given(MANY, st.integers(0, 20))
def test_with_one_core_more_nobody_gets_fewer(many: list[tuple[Ask, list[float]]], cores: int) -> None:
    """Where replicas are of one size; else a large one takes the place of small ones once it fits."""
    same = [(replace(ask, cores=1.0, memory_mb=1.0), worth) for ask, worth in many]
    _, fewer = granted(same, cores, 1_000.0)
    _, more = granted(same, cores + 1, 1_000.0)
    assert all(more.replicas[name] >= count for name, count in fewer.replicas.items())
    assert sum(more.replicas.values()) <= sum(fewer.replicas.values()) + 1
    assert more.price <= fewer.price * (1 + 1e-12)  # the last bit of a mean


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
def test_a_curve_that_is_made_concave_is_worth_as_much_in_all(worth: list[float]) -> None:
    _, made = concave([np.array([1.0, 2.0]), np.array(worth)])
    assert (np.diff(made) <= 1e-9).all()
    assert made.sum() == pytest.approx(sum(worth))
    assert (np.cumsum(made) >= np.cumsum(worth) - 1e-6).all()


def test_the_price_is_what_the_best_that_is_refused_is_worth_for_a_core() -> None:
    big, small = Ask(2, 1, cores=2.0, memory_mb=100.0), Ask(4, 1, cores=1.0, memory_mb=100.0)
    _, grants = granted([(big, [6.0]), (small, [5.0, 2.0, 1.0])], 5.0, 10_000.0)
    assert grants.replicas == {"s0": 1, "s1": 3} or grants.replicas == {"s0": 2, "s1": 2}
    _, grants = granted([(big, [6.0]), (small, [5.0, 2.0, 1.0])], 6.0, 10_000.0)
    assert (dict(grants.replicas), grants.scarce, grants.price) == ({"s0": 2, "s1": 2}, "cores", 2.0)
    urgent = replace(small, priority=1)
    _, grants = granted([(big, [6.0]), (urgent, [5.0, 2.0, 1.0])], 6.0, 10_000.0)
    assert (dict(grants.replicas), grants.price) == ({"s0": 1, "s1": 4}, 3.0)


def test_two_that_are_worth_about_the_same_do_not_take_turns() -> None:
    first, second = Ask(2, 1, 1.0, 1.0, has=2), Ask(2, 1, 1.0, 1.0, has=1)
    for worth in (0.95, 1.0, 1.05):
        _, grants = granted([(first, [1.0]), (second, [worth])], 3.0, 100.0)
        assert grants.replicas == {"s0": 2, "s1": 1}
    _, grants = granted([(first, [1.0]), (second, [1.2])], 3.0, 100.0)
    assert grants.replicas == {"s0": 1, "s1": 2}


def fleet_of(demands: Mapping[str, float], **rules: float) -> Fleet:
    fleet, n = Fleet(5.0), len(demands)
    for name in demands:
        fleet.add(name, replace(Rules(share=0.99, latency_s=1.0, least=1, most=50), **rules))
    rng = np.random.default_rng(1)
    for tick in range(120):
        work = np.array(list(demands.values())) * rng.uniform(0.7, 1.3, n) * 5
        zero = np.zeros(n)
        ready = np.ceil(1.4 * work / 5)
        ticks = Ticks(work, work, work, zero, zero, ready, zero, zero + 3, zero + 0.1, np.ones(n, bool))
        fleet.decide(ticks, 5.0 * tick, 1e6 + 5 * tick)
    return fleet


def test_a_fleet_tells_what_each_replica_spares() -> None:
    fleet = fleet_of({"small": 2.0, "large": 10.0})
    found = fleet.curves({"large": (8, 30), "small": (1, 10)})
    assert {name: len(worth) for name, worth in found.items()} == {"large": 22, "small": 9}
    for worth in found.values():
        assert (worth >= 0).all()
        assert worth[0] > 10 * worth[-1]
    again = fleet_of({"small": 2.0, "large": 10.0}, price=0.5).curves({"small": (1, 10)})["small"]
    assert again == pytest.approx(0.5 * found["small"])


def test_what_is_late_for_want_of_room_raises_no_headroom() -> None:
    fleet = fleet_of({"a": 4.0})
    headroom = fleet.steering.headroom.copy()
    for tick in range(120, 200):
        one = np.ones(1)
        ticks = Ticks(20 * one, 20 * one, 20 * one, 15 * one, 40 * one, one, 0 * one, 3 * one, 0.1 * one, one > 0)
        assert fleet.decide(ticks, 5.0 * tick, 1e6)[0] > 2
        fleet.limit(np.array([2]))
        decided = fleet.decided("a")
        assert decided is not None
        assert decided.wanted == 2 < decided.asked
    assert fleet.steering.headroom <= headroom


def test_a_service_that_was_limited_is_told_at_the_price_of_the_others() -> None:
    fleet = fleet_of({"a": 4.0})
    asked = int(fleet.steering.wanted[0])
    fleet.limit(np.array([asked - 1]))
    decided = fleet.decided("a")
    assert decided is not None
    own, dear = explain(decided), explain(decided, opportunity=3.0)
    assert own.replicas == dear.replicas == asked - 1
    assert [choice.cost for choice in dear.choices] == pytest.approx([3 * choice.cost for choice in own.choices])
    assert [choice.late_cost for choice in dear.choices] == [choice.late_cost for choice in own.choices]
