"""Whatever is asked of services, the number of their replicas keeps to these laws."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.control.schedule.moments import Moment
from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.control.schedule.tables import Floats

WALL = 1_800_000_000.0
FAST = settings(max_examples=10, deadline=None)

rules = st.builds(
    Rules,
    share=st.sampled_from([0.9, 0.99, 0.999]),
    latency_s=st.sampled_from([0.0, 0.05, 1.0, 30.0]),
    least=st.integers(0, 3),
    most=st.integers(4, 200),
    hold_s=st.sampled_from([None, 1.0, 30.0, 3_600.0]),
    price=st.sampled_from([0.0, 0.02]),
)
stretches = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 80)), st.integers(1, 25)), min_size=1, max_size=10
).map(lambda parts: np.concatenate([np.full(ticks, level) for level, ticks in parts]))
starts = st.sampled_from([0.5, 8.0, 120.0])
paces = st.sampled_from([1.0, 5.0])


def moment(second: float) -> Moment:
    return Moment(second, WALL + second)


class Played:
    """Services of a fleet, which have what it says one start later; (N,) each."""

    def __init__(self, declared: list[Rules], start_s: float, tick_s: float, names: list[str] | None = None) -> None:
        self.fleet, self.tick_s, self.start_s = Fleet(tick_s), tick_s, start_s
        self.names = names or [str(number) for number in range(len(declared))]
        self.fleet.add_all({name: (of, None) for name, of in zip(self.names, declared, strict=True)})
        self.second = 0.0
        self.ready = [max(1, of.least) for of in declared]
        self.starting: list[list[float]] = [[] for _ in declared]
        self.backlog = np.zeros(len(declared))
        self.latency = np.array([of.latency_s for of in declared])

    @property
    def there(self) -> list[int]:
        return [ready + len(starting) for ready, starting in zip(self.ready, self.starting, strict=True)]

    def tick(self, demand: Floats, **told: Any) -> list[int]:
        self.second += self.tick_s
        for row, starting in enumerate(self.starting):
            self.ready[row] += sum(at <= self.second for at in starting)
            starting[:] = [at for at in starting if at > self.second]
        one, ready = np.ones(len(self.ready)), np.array(self.ready, np.float64)
        work = demand * self.tick_s
        self.backlog = np.maximum(self.backlog + work - ready * self.tick_s, 0.0)
        late = np.clip(self.backlog - ready * self.latency, 0.0, work)
        pending = np.array([float(len(starting)) for starting in self.starting])
        ticks = Ticks(work, work, work, late, self.backlog, ready, pending, self.start_s * one, 0.02 * one, one > 0)
        wanted = self.fleet.decide(replace(ticks, **told), self.second, WALL + self.second).tolist()
        for row, (number, there) in enumerate(zip(wanted, self.there, strict=True)):
            self.starting[row] += [self.second + self.start_s] * max(0, number - there)
            for _ in range(there - number):
                if self.starting[row]:
                    self.starting[row].pop()
                elif self.ready[row]:
                    self.ready[row] -= 1
        return list(map(int, wanted))


@FAST
@given(rules, stretches, starts, paces)
def test_steps_are_bounded_limits_are_kept_and_the_floor_is_never_left(
    of: Rules, demand: Floats, start_s: float, tick_s: float
) -> None:
    played = Played([of], start_s, tick_s)
    hold_s = of.hold_s if of.hold_s is not None else max(300.0, 2 * start_s)
    window = next((seconds for seconds in (5, 15, 60) if hold_s < {5: 15, 15: 60, 60: 120}[seconds]), 120)
    recent = max(1, round(window / tick_s))
    for at, level in enumerate(demand.tolist()):
        [there] = played.there
        [wanted] = played.tick(np.array([level]))
        assert of.least <= wanted <= of.most
        most = max(of.least, min(of.most, 2 * there + 4))
        assert wanted <= most
        floor = math.ceil(float(np.mean(demand[max(0, at + 1 - recent) : at + 1])) - 1e-3)
        assert wanted >= min(floor, most)


@FAST
@given(rules, st.lists(stretches, min_size=2, max_size=3), starts, paces)
def test_the_same_history_gives_the_same_decisions_alone_and_among_others(
    of: Rules, demands: list[Floats], start_s: float, tick_s: float
) -> None:
    ticks = min(map(len, demands))
    declared = [replace(of, share=share) for share in (0.9, 0.99, 0.999)[: len(demands)]]
    together = Played(declared, start_s, tick_s)
    found = [together.tick(np.array([demand[tick] for demand in demands])) for tick in range(ticks)]
    for row, demand in enumerate(demands):
        alone = Played([declared[row]], start_s, tick_s, [str(row)])
        assert [alone.tick(demand[tick : tick + 1]) for tick in range(ticks)] == [[one[row]] for one in found]


@FAST
@given(rules, stretches, stretches, starts, paces)
def test_one_that_goes_on_from_what_was_remembered_decides_as_the_one_before_would_have(
    of: Rules, before: Floats, after: Floats, start_s: float, tick_s: float
) -> None:
    kept, again = Played([of], start_s, tick_s), Played([of], start_s, tick_s)
    for level in before:
        assert kept.tick(np.array([level])) == again.tick(np.array([level]))
    remembered = json.loads(json.dumps(again.fleet.remember("0", moment(again.second))))
    again.fleet = Fleet(tick_s)
    again.fleet.add("0", of, remembered, moment(again.second))
    for level in after:
        assert kept.tick(np.array([level])) == again.tick(np.array([level]))


@FAST
@given(rules, stretches, stretches, starts, st.sampled_from([-1e6, -5.0, 601.0, 1e6]))
def test_what_is_recent_is_not_after_a_reboot_or_a_long_time_and_the_replicas_stay_at_first(
    of: Rules, before: Floats, after: Floats, start_s: float, later_s: float
) -> None:
    played = Played([of], start_s, 5.0)
    for level in before:
        played.tick(np.array([level]))
    [there] = played.there
    fleet = Fleet(5.0)
    remembered = played.fleet.remember("0", moment(played.second))
    fleet.add("0", of, remembered, moment(played.second + later_s))
    played.fleet, played.second = fleet, max(0.0, played.second + later_s)
    [wanted] = played.tick(after[:1])
    assert wanted >= min(there, of.most)
    for level in after[1:]:
        assert of.least <= played.tick(np.array([level]))[0] <= of.most


@settings(max_examples=4, deadline=None)
@given(
    st.lists(st.floats(0.05, 60), min_size=6, max_size=6),
    st.sampled_from([0.9, 0.99, 0.999]),
    st.sampled_from([0.0, 1.0, 30.0]),
    starts,
)
def test_a_constant_load_never_makes_it_go_to_and_fro(
    levels: list[float], share: float, latency_s: float, start_s: float
) -> None:
    """From ten minutes on it only comes down, for as long as it learns that fewer do: one step up at most."""
    played = Played([Rules(share, latency_s, 1, 400, hold_s=30.0)] * len(levels), start_s, 5.0)
    wanted = np.array([played.tick(np.array(levels)) for _ in range(360)])
    assert ((np.diff(wanted[120:], axis=0) > 0).sum(0) <= 1).all()
    assert (wanted[-1] >= np.floor(levels)).all()


@settings(max_examples=4, deadline=None)
@given(st.floats(0.5, 40), st.integers(0, 2**32 - 1))
def test_chance_around_a_constant_load_is_hardly_followed(level: float, seed: int) -> None:
    """Poisson arrivals of a tenth of a replica-second each: a change at most each hold, and few replicas."""
    played = Played([Rules(0.99, 10.0, 1, 1_000)], 20.0, 5.0)
    came = np.random.default_rng(seed).poisson(level * 50.0, 1_200) / 50.0
    wanted = [played.tick(came[tick : tick + 1])[0] for tick in range(1_200)]
    settled = wanted[600:]
    assert sum(one != two for one, two in itertools.pairwise(settled)) <= 10
    assert max(settled) - min(settled) <= 1 + 0.2 * level


lies = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1e-9, 1e300, 1e15])
numbers = st.sampled_from(["work", "requests", "judged", "late", "backlog", "service_s"])


@FAST
@given(rules, stretches, starts, st.dictionaries(numbers, lies, min_size=1))
def test_a_measurement_that_lies_neither_moves_a_replica_nor_is_learnt(
    of: Rules, demand: Floats, start_s: float, told: dict[str, float]
) -> None:
    if set(told) <= {"requests", "judged", "service_s"} and all(value > 1 for value in told.values()):
        told = {**told, "work": math.nan}  # many that take next to nothing are possible
    played = Played([of], start_s, 5.0)
    for level in demand:
        played.tick(np.array([level]))
    [before], learnt = played.tick(demand[-1:]), _learnt(played.fleet)
    for _ in range(5):
        [wanted] = played.tick(demand[-1:], **{what: np.array([value]) for what, value in told.items()})
        assert wanted == max(before, 1, of.least)
    assert _learnt(played.fleet) == learnt


def _learnt(fleet: Fleet) -> list[Any]:
    """All but what the clock alone moves on: the slot of the day."""
    remembered = fleet.remember("0")
    return [remembered["accounts"], remembered["steering"], remembered["demand"]["mean"]]
