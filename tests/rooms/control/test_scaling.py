"""The number of replicas of elastic services: what holds whatever comes, and what is done with what nobody can mean."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.control.schedule.candidates import BASES, FACTORS, at_places, late_prices, places
from skyriver.control.schedule.explaining import at_place, explain, late_price_of, place_of
from skyriver.control.schedule.moments import Moment
from skyriver.control.schedule.scaling import Fleet, Rules, Terms, Ticks

TICK_S = 5.0
RULES = Rules(share=0.99, latency_s=10.0, least=1, most=1_000)


@dataclass
class Service:
    """One, that does what its fleet says: replicas start within `start_s`, work is a fluid."""

    rules: Rules = RULES
    start_s: float = 20.0
    fleet: Fleet = field(default_factory=lambda: Fleet(TICK_S))
    second: float = 0.0
    ready: int = 1
    backlog: float = 0.0
    starting: list[float] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fleet.add("a", self.rules)

    def tick(self, demand: float, **told: float | bool) -> int:
        self.second += TICK_S
        self.ready += sum(at <= self.second for at in self.starting)
        self.starting = [at for at in self.starting if at > self.second]
        work = demand * TICK_S
        self.backlog = max(0.0, self.backlog + work - self.ready * TICK_S)
        late = max(0.0, min(work, self.backlog - self.ready * self.rules.latency_s))
        ticks = ticks_of(
            work=work,
            requests=work,
            judged=work,
            late=late,
            backlog=self.backlog,
            ready=self.ready,
            pending=len(self.starting),
            start_s=self.start_s,
            service_s=1.0,
            **told,
        )
        wanted = int(self.fleet.decide(ticks, self.second, self.second + 1e6)[0])
        there = self.ready + len(self.starting)
        self.starting += [self.second + self.start_s] * max(0, wanted - there)
        for _ in range(max(0, there - wanted)):
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
        self.wanted.append(wanted)
        return wanted


def ticks_of(**told: float | bool) -> Ticks:
    names = ("work", "requests", "judged", "late", "backlog", "ready", "pending", "start_s", "service_s")
    numbers = {name: np.array([float(told.get(name, 0.0))]) for name in names}
    return Ticks(**numbers, fresh=np.array([bool(told.get("fresh", True))]))


def run(service: Service, demand: Callable[[int], float], ticks: int) -> list[int]:
    for tick in range(ticks):
        service.tick(demand(tick))
    return service.wanted


def changes(wanted: Sequence[int]) -> int:
    return sum(one != two for one, two in itertools.pairwise(wanted))


@pytest.mark.parametrize("level", [0.3, 2.0, 7.5, 40.0])
def test_a_constant_load_is_settled_on(level: float) -> None:
    wanted = run(Service(), lambda tick: level, 720)
    assert changes(wanted[360:]) <= 1
    assert level <= wanted[-1] <= math.ceil(1.35 * level + 0.5)


def test_noise_around_a_constant_load_is_not_followed() -> None:
    rng = np.random.default_rng(4)
    noise = rng.poisson(50, 1_440) / 5.0
    wanted = run(Service(), lambda tick: float(noise[tick]), 1_440)
    assert changes(wanted[720:]) <= 12, "one a minute at most would be 60"
    assert max(wanted[720:]) - min(wanted[720:]) <= 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 60), st.integers(1, 20)), min_size=1, max_size=12),
    st.sampled_from([0.0, 5.0, 120.0]),
    st.sampled_from([0.9, 0.99, 0.999]),
)
def test_whatever_comes(stretches: list[tuple[float, int]], start_s: float, share: float) -> None:
    service = Service(rules=replace(RULES, share=share), start_s=start_s)
    there, recent = 1, []
    for level, ticks in stretches:
        for _ in range(ticks):
            recent = [*recent[-23:], level]
            wanted = service.tick(level)
            assert 1 <= wanted <= 1_000
            assert wanted <= 2 * there + 4, "bounded steps"
            assert wanted >= min(math.ceil(np.mean(recent) - 1e-3), 2 * there + 4), "never below the floor"
            there = service.ready + len(service.starting)


def test_the_same_history_gives_the_same_decisions() -> None:
    rng = np.random.default_rng(7)
    demand = rng.gamma(2, 4, 300)
    one, two = (run(Service(), lambda tick: float(demand[tick]), 300) for _ in range(2))
    assert one == two


def test_services_do_not_change_each_other() -> None:
    rng = np.random.default_rng(8)
    demand = rng.gamma(2, 4, (120, 3))
    alone = []
    for i in range(3):
        fleet = Fleet(TICK_S)
        fleet.add("a", RULES)
        alone.append([_decided(fleet, [row[i]], tick) for tick, row in enumerate(demand)])
    fleet = Fleet(TICK_S)
    for name in ("gone", "a", "b", "c"):
        fleet.add(name, RULES)
    fleet.remove("gone")
    together = [_decided(fleet, list(row), tick) for tick, row in enumerate(demand)]
    # The shape of days is looked at in turn, and nothing is known of it here.
    assert [[row[i] for row in together] for i in range(3)] == [[one for (one,) in own] for own in alone]


def _decided(fleet: Fleet, demand: list[float], tick: int) -> list[int]:
    n = len(demand)
    zeros, work = np.zeros(n), np.array(demand) * TICK_S
    ticks = Ticks(work, work, work, zeros, zeros, zeros + 3, zeros, zeros + 20, zeros + 1, zeros == 0)
    return [int(w) for w in fleet.decide(ticks, TICK_S * (tick + 1), 1e6 + TICK_S * tick)]


def test_it_goes_down_only_after_the_hold() -> None:
    service = Service(rules=replace(RULES, hold_s=60.0))
    run(service, lambda tick: 8.0, 120)
    high = service.wanted[-1]
    run(service, lambda tick: 1.0, 60)
    fell = next(i for i, wanted in enumerate(service.wanted[120:]) if wanted < high)
    assert 60.0 <= (fell + 1) * TICK_S <= 120.0
    assert service.wanted[-1] <= 3


@pytest.mark.parametrize(
    "told",
    [
        {"fresh": False},
        {"work": math.nan},
        {"requests": -3.0},
        {"work": 1e12},
        {"backlog": math.inf},
        {"backlog": 1e12},
        {"service_s": math.nan},
        {"judged": -1.0},
        {"late": 50.0, "judged": 1.0},
    ],
    ids=[
        "stale",
        "not a number",
        "negative",
        "more than anything could do",
        "infinite",
        "more waits than anything could do",
        "no service",
        "less than none",
        "more late than asked",
    ],
)
def test_measurements_that_stop_or_lie_hold(told: dict[str, float | bool]) -> None:
    service = Service()
    run(service, lambda tick: 6.0, 120)
    before, learnt = service.wanted[-1], service.fleet.remember("a")["accounts"]
    lying = {"ready": float(service.ready), "start_s": 20.0, "work": 30.0, "requests": 30.0, "judged": 30.0} | told
    for tick in range(30):
        second = service.second + TICK_S * (tick + 1)
        assert int(service.fleet.decide(ticks_of(**lying), second, second + 1e6)[0]) == before
    assert service.fleet.remember("a")["accounts"] == learnt
    decided = service.fleet.decided("a")
    assert decided is not None
    assert dict(explain(decided).lines)["stale"]


def test_the_highest_of_a_hold_are_what_a_look_at_all_of_it_finds() -> None:
    rng = np.random.default_rng(5)
    n, second = 12, 0.0
    fleet = Fleet(TICK_S)
    for i in range(n):
        fleet.add(str(i), replace(RULES, hold_s=(None, 7.0, 100.0, 290.0)[i % 4]))
    start_s = rng.choice([2.0, 149.0, 300.0], n)
    for tick in range(400):
        second += TICK_S * (1 if rng.random() < 0.98 else int(rng.integers(2, 50)))  # nobody looked for a while
        if tick % 30 == 29:
            start_s = start_s * rng.uniform(0.9, 1.1, n)
            fleet.change("2", replace(RULES, hold_s=float(rng.uniform(80, 100))))
        work = np.where(rng.random(n) < 0.7, rng.gamma(1, 2, n), 0.0) * TICK_S
        zeros = np.zeros(n)
        fleet.decide(
            Ticks(work, work, work, zeros, zeros, zeros + 3, zeros, start_s, zeros + 1, zeros == 0), second, 1e6
        )
        for row, name in enumerate(fleet.names):
            hold_s = fleet.decided(name).hold_s  # type: ignore[union-attr]
            length_s = math.ceil(hold_s / 20 / TICK_S) * TICK_S
            newest, blocks = math.floor(second / length_s), math.ceil(hold_s / length_s)
            all_of = fleet.demand.blocks[row]
            held, recent, long = (
                all_of[:, (newest - np.arange(reach + 1)) % 64].max(1) for reach in (blocks, 4, 3 * blocks)
            )
            if (tick + 1) % 30 > 3:  # a hold that is another one counts from the next block on
                assert fleet.demand.recent[row].tolist() == recent.tolist()
                assert fleet.demand.held[row].tolist() == held.tolist(), (tick, row)
                assert fleet.demand.long[row] == long[0]


def test_what_was_learnt_is_remembered() -> None:
    service = Service()
    rng = np.random.default_rng(3)
    run(service, lambda tick: float(rng.gamma(2, 3)), 720)
    remembered = json.loads(json.dumps(service.fleet.remember("a")))
    again = Fleet(TICK_S)
    again.add("a", RULES, remembered)
    assert again.remember("a") == service.fleet.remember("a")
    assert len(json.dumps(remembered)) < 40_000


@pytest.mark.parametrize(
    ("second", "wall", "recent"),
    [
        (30.0, 30.0, True),
        (30.0, 35.0, True),  # the clock on the wall was set a little
        (30.0, 7_200.0, False),  # the machine was started anew two hours later, and is up for as long
        (900.0, 900.0, False),
        (-30.0, 400.0, False),
        (30.0, -3_600.0, False),
    ],
)
def test_what_was_recent_is_believed_while_both_clocks_say_so(second: float, wall: float, recent: bool) -> None:
    service = Service()
    run(service, lambda tick: 6.0, 120)
    then = Moment(service.second, service.second + 1e6)
    remembered = json.loads(json.dumps(service.fleet.remember("a", then)))
    now = Moment(then.second + second, then.wall + wall)
    again = Fleet(TICK_S)
    again.add("a", RULES, remembered, now)
    assert (again.remember("a", then)["recent"] == remembered["recent"]) == recent
    old = {key: value for key, value in remembered.items() if key != "wall"}  # of a release that kept none
    again = Fleet(TICK_S)
    again.add("a", RULES, old, now)
    assert again.remember("a", then)["recent"] != remembered["recent"]


@pytest.mark.parametrize("broken", [{}, {"tick_s": 5.0}, {"tick_s": 5.0, "demand": {"slots": "?"}}, {"tick_s": 1.0}])
def test_what_cannot_be_read_is_learnt_anew(broken: dict[str, object]) -> None:
    fleet, plain = Fleet(TICK_S), Fleet(TICK_S)
    fleet.add("a", RULES, broken)
    plain.add("a", RULES)
    assert fleet.remember("a") == plain.remember("a")


def test_a_day_that_repeats_is_forecast() -> None:
    """With a start of ten minutes, replicas are there when the morning comes, on the third day."""
    day = 86_400

    def demand(second: float) -> float:
        return 20.0 if 8 * 3_600 <= second % day < 18 * 3_600 else 2.0

    fleet = Fleet(TICK_S)
    fleet.add("a", RULES)
    slots = fleet.demand.slots
    now = 20 * day + 7 * 3_600 + 3_000.0  # ten to eight
    known = np.arange(slots.shape[1])
    slots[0, :] = [demand(300.0 * slot) for slot in known]
    fleet.demand.slot[:] = int(now // 300) - 1
    grew = []
    for tick in range(100):
        work = demand(now) * TICK_S
        ticks = ticks_of(work=work, requests=work, judged=work, ready=3, start_s=600.0, service_s=1.0)
        fleet.decide(ticks, TICK_S * (tick + 1), now)
        decided = fleet.decided("a")
        assert decided is not None
        grew.append(decided.growth)
        now += TICK_S
    assert max(grew) == pytest.approx(2.0), "at most twice as much"
    without = Fleet(TICK_S, Terms(forecast=False))
    without.add("a", RULES)
    without.decide(ticks_of(work=10.0, ready=3, start_s=600.0), TICK_S, now)
    decided = without.decided("a")
    assert decided is not None
    assert decided.growth == 1.0


def test_a_candidate_says_whose_demand_it_was_chosen_by() -> None:
    service, told = Service(), []
    for ticks in (3, 80, 720):
        run(service, lambda _: 2.0, ticks)
        decided = service.fleet.decided("a")
        assert decided is not None
        told.append(dict(explain(decided).lines)["candidate"])
    assert "of its own demand nothing is replayed yet" in told[0]
    assert "of what that goes by is its own demand" in told[1]
    assert "on its own demand" in told[2]


def test_the_sum_of_the_chosen_number_is_explained() -> None:
    service = Service(rules=replace(RULES, price=0.36))
    rng = np.random.default_rng(5)
    run(service, lambda tick: float(rng.gamma(4, 2)), 720)
    decided = service.fleet.decided("a")
    assert decided is not None
    told = explain(decided)
    assert told.unit == "money"
    fewer, chosen, more = told.choices
    assert (fewer.replicas, chosen.replicas, more.replicas) == tuple(decided.wanted + by for by in (-1, 0, 1))
    assert fewer.late_share > chosen.late_share > more.late_share
    assert fewer.cost < chosen.cost < more.cost
    late = told.late_price * chosen.late_share * decided.requests * 3_600
    assert chosen.late_cost >= late > 0, "more comes now than on the mean of what was replayed"
    assert chosen.late_cost / fewer.late_cost == pytest.approx(chosen.late_share / fewer.late_share)
    if decided.wanted == decided.wish:
        assert chosen.total <= min(fewer.total, more.total) + 1e-9
    assert [choice.cost for choice in told.choices] == pytest.approx(
        [0.36 * choice.replicas for choice in told.choices], rel=0.01
    )


def test_one_service_is_explained_as_all_are_reckoned() -> None:
    rng = np.random.default_rng(6)
    late, costs = np.sort(rng.random((50, FACTORS)))[:, ::-1], np.sort(rng.random((50, FACTORS)) * 9)
    late[::7, 5:20] = late[::7, 5:6]  # where nothing is spared
    factor, base = rng.integers(0, FACTORS, 50), rng.integers(0, BASES, 50)
    one = [late_price_of(*of) for of in zip(late.tolist(), costs.tolist(), factor.tolist(), strict=True)]
    assert one == late_prices(late, costs, factor).tolist()
    ratio = np.exp(rng.uniform(-3, 5, 50))
    found = [place_of(*of) for of in zip(base.tolist(), ratio.tolist(), strict=True)]
    np.testing.assert_allclose(found, places(base, ratio), rtol=1e-5, atol=1e-5)
    means = [at_place(*of) for of in zip(costs.tolist(), found, strict=True)]
    np.testing.assert_allclose(means, at_places(costs, np.arange(50), np.array(found)))


def test_where_nobody_asks_any_more_one_replica_more_costs_one_more() -> None:
    service = Service(rules=replace(RULES, price=0.5, hold_s=10.0))
    run(service, lambda tick: 2.0 if tick < 60 else 0.0, 120)
    decided = service.fleet.decided("a")
    assert decided is not None
    start = 0.5 * decided.start_s / 3_600
    assert [(choice.replicas, choice.cost, choice.total) for choice in explain(decided).choices] == [
        (1, 0.5, 0.5),
        (2, 1.0 + start, 1.0 + start),
    ]


def test_what_is_there_after_a_burst_costs_no_more_than_it_does() -> None:
    """What it needs falls to next to nothing, and what it had on the mean does not."""
    service = Service(rules=replace(RULES, price=0.5, hold_s=10.0))
    run(service, lambda tick: 2.0 if tick < 60 else 0.01, 64)
    decided = service.fleet.decided("a")
    assert decided is not None
    for choice in explain(decided).choices:
        assert choice.cost == pytest.approx(0.5 * choice.replicas, rel=0.01)


def test_a_short_latency_leaves_room_for_chance() -> None:
    """A server alone that is 30% free keeps 3.5% waiting for more than ten service times (M/M/1: 0.7 exp(-3))."""
    wanted = []
    for latency in (0.0, 0.05):
        service = Service(rules=replace(RULES, latency_s=latency))
        for _ in range(200):
            ticks = ticks_of(work=3.5, requests=600, judged=600, ready=3, start_s=1.0, service_s=0.005)
            service.second += TICK_S
            wanted.append(int(service.fleet.decide(ticks, service.second, 1e6 + service.second)[0]))
    assert wanted[-1] > wanted[199]


def test_room_for_chance_is_what_erlang_says() -> None:
    """1.5 replicas' work of 50 ms each, all but 1% within 150 ms: three replicas, and not as many as are allowed."""
    service = Service(rules=replace(RULES, latency_s=0.15))
    for _ in range(300):
        ticks = ticks_of(work=7.5, requests=150, judged=150, ready=3, start_s=1.0, service_s=0.05)
        service.second += TICK_S
        wanted = int(service.fleet.decide(ticks, service.second, 1e6 + service.second)[0])
    assert wanted == 3


def test_what_is_late_at_the_most_that_is_declared_raises_no_headroom() -> None:
    service = Service(rules=replace(RULES, latency_s=0.15, share=0.9, most=2, hold_s=3.0))
    for n in range(240):  # ten minutes at six replicas' work, ten of nothing
        busy = n < 120
        ticks = ticks_of(
            work=30.0 * busy,
            requests=600 * busy,
            judged=600 * busy,
            late=550 * busy,
            ready=2,
            start_s=0.4,
            service_s=0.05,
        )
        service.second += TICK_S
        wanted = int(service.fleet.decide(ticks, service.second, 1e6 + service.second)[0])
        assert busy <= (wanted == 2)
    assert service.fleet.steering.headroom[0] <= 1.1


def test_more_late_than_foreseen_raises_the_headroom_once_a_lead_time() -> None:
    service = Service(start_s=25.0)
    raised = []
    for _ in range(40):
        service.second += TICK_S
        ticks = ticks_of(work=10, requests=100, judged=100, late=30, ready=3, start_s=25.0, service_s=0.1)
        service.fleet.decide(ticks, service.second, 1e6 + service.second)
        raised.append(float(service.fleet.steering.headroom[0]))
    steps = [i for i, (one, two) in enumerate(itertools.pairwise(raised)) if two > one]
    assert steps, "it is raised"
    assert all(later - sooner >= 35 / TICK_S for sooner, later in itertools.pairwise(steps))
    assert raised[-1] <= 4.0
