"""The bench of elastic services: its world's bound, the rules of its peers by hand, and the traces that it takes."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyriver.control.schedule.scaling import Rules

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))  # a bench is no package
bound, peers, replay, traces, world = (
    importlib.import_module(f"_elastic_{name}") for name in ("bound", "peers", "replay", "traces", "world")
)
elastic = importlib.import_module("elastic")


class Plan:
    """(L, T) replicas that are wished for after each second, whatever is seen."""

    def __init__(self, plans: Any) -> None:
        self.lanes, self._plans = len(plans), plans

    def second(self, seen: Any) -> Any:
        return self._plans[:, seen.second]


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_at_all_is_cheaper_than_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seconds, most = 6, 6
    delay_s, deadline_s, lead_s = int(rng.integers(0, 3)), int(rng.integers(1, 3)), int(rng.integers(0, 2))
    requests = rng.poisson(1.5, seconds).astype(float)
    trace = world.Trace("tiny", requests * rng.uniform(0.3, 1.5, seconds), requests, lead_s=lead_s)
    share = float(rng.choice([0.5, 0.8, 0.99]))
    plans = np.array(list(itertools.product(range(most), repeat=seconds - 1)))
    plans = np.hstack([plans, plans[:, -1:]])  # nothing follows the last wish
    found = world.replay(trace, Plan(plans), delay_s=delay_s, deadline_s=deadline_s)
    kept = found.attained >= share
    assert kept.any()
    for block_s in (1, 2, 3):
        lowest = bound.lowest_cost(trace, share=share, delay_s=delay_s, deadline_s=deadline_s, block_s=block_s)
        assert lowest <= found.cost[kept].min() + 1e-6


def test_no_peer_is_cheaper_than_the_bound_and_coarser_blocks_bound_less() -> None:
    trace = traces.bursty(3, seconds=900)
    trace = world.Trace("short", trace.work[-900:], trace.requests[-900:])
    scalers = (peers.Fixed(range(1, 40)), peers.Hpa(), peers.Keda(), peers.Kpa(), peers.RayServe())
    share, how = 0.9, {"delay_s": 20, "deadline_s": 5}
    lowest = [bound.lowest_cost(trace, share=share, block_s=block_s, **how) for block_s in (1, 5, 15)]
    assert lowest == sorted(lowest, reverse=True)
    for scaler in scalers:
        found = world.replay(trace, scaler, **how)
        assert (found.cost[found.attained >= share] >= lowest[0]).all()


def test_what_the_bound_costs_where_it_can_be_said() -> None:
    steady = world.Trace("steady", np.full(100, 2.0), np.full(100, 2.0))  # begins with three replicas
    assert bound.lowest_cost(steady, share=1.0, delay_s=10, deadline_s=0) == pytest.approx(200)
    jumps = world.Trace("jumps", np.repeat([1.0, 4.0], 400), np.repeat([1.0, 4.0], 400))  # with two, gives one back
    assert bound.lowest_cost(jumps, share=1.0, delay_s=10, deadline_s=0) == pytest.approx(400 + 4 * 400 + 3 * 10)


def _wish(scaler: Any, **given: Any) -> list[int]:
    return [int(each) for each in scaler.wish(**{k: np.array(v) if k != "now" else v for k, v in given.items()})]


@pytest.mark.parametrize(
    ("usage", "counted", "current", "wish"),
    [
        (1.0, 4, 4, 5),  # 125% of the target
        (0.87, 4, 4, 4),  # within the tolerance
        (0.73, 4, 4, 4),
        (0.4, 4, 4, 2),
        (0.41, 4, 4, 3),
        (1.0, 4, 8, 8),  # the four that start count as using nothing
        (1.0, 8, 9, 10),
        (0.4, 4, 6, 2),
        (1.0, 0, 3, 3),  # nobody to measure
    ],
)
def test_the_wish_of_an_hpa(usage: float, counted: int, current: int, wish: int) -> None:
    assert _wish(peers.Hpa(), usage=[usage], counted=[counted], current=[current]) == [wish]


def test_an_hpa_doubles_at_most_or_adds_four_and_holds_before_it_goes_down() -> None:
    behavior = peers.HpaBehavior(np.array([300]))

    def of(wish: int, current: int) -> int:
        return int(behavior.of(np.array([wish]), np.array([current]))[0])

    assert [of(20, 2), of(20, 6), of(20, 12), of(20, 20)] == [6, 12, 20, 20]
    held = [of(3, 20) for _ in range(20)]
    assert held == [20] * 20  # 300 s of syncs
    assert of(3, 20) == 3


def test_the_wish_of_keda_is_the_rate_over_the_threshold() -> None:
    assert _wish(peers.Keda(), rate=[8.0], current=[5]) == [10]
    assert _wish(peers.Keda(), rate=[8.0], current=[10]) == [10]
    assert _wish(peers.Keda(), rate=[8.5], current=[10]) == [10]
    assert _wish(peers.Keda(), rate=[9.0], current=[10]) == [12]
    assert _wish(peers.Keda(), rate=[2.0], current=[10]) == [3]


def test_keda_sleeps_after_its_cooldown_and_wakes_when_it_is_polled() -> None:
    asked = np.zeros(900)
    asked[[10, 700]] = 1.0
    trace = world.Trace("rare", asked, asked)
    seen: list[int] = []

    class Watched(peers.Keda):  # type: ignore[misc, name-defined]
        def second(self, told: Any) -> Any:
            seen.append(int(told.ready[0]))
            return super().second(told)

    world.replay(trace, Watched(), delay_s=0, deadline_s=5)
    assert (seen[300], seen[600], seen[760]) == (1, 0, 1)


def test_knative_is_stable_by_a_minute_and_panics_by_six_seconds() -> None:
    concurrency = world.CONCURRENCY
    kpa = peers.Kpa()
    calm = {"stable": [7.0 * concurrency], "panic": [7.0 * concurrency], "ready": [10]}
    assert _wish(kpa, **calm, now=100) == [10]
    assert _wish(kpa, stable=[1.0 * concurrency], panic=[1.0 * concurrency], ready=[10], now=102) == [
        5
    ]  # a half at once
    assert _wish(kpa, stable=[7.0 * concurrency], panic=[14.0 * concurrency], ready=[10], now=104) == [20]
    assert _wish(kpa, stable=[2.0 * concurrency], panic=[1.0 * concurrency], ready=[20], now=164) == [
        20
    ]  # still in panic
    assert _wish(kpa, stable=[7.0 * concurrency], panic=[1.0 * concurrency], ready=[20], now=166) == [10]


def test_ray_serve_wants_what_it_wished_for_long_enough() -> None:
    serve = peers.RayServe()

    def wishes(ongoing: float, current: int, seconds: int) -> list[int]:
        return [_wish(serve, ongoing=[ongoing], current=[current])[0] for _ in range(seconds)]

    assert wishes(12.0, 4, 31) == [4] * 30 + [6]
    assert wishes(7.0, 6, 100) == [6] * 100
    assert wishes(12.0, 6, 1) == [6]  # and begins anew
    assert wishes(7.0, 6, 601) == [6] * 600 + [4]


HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FIRST = "2023-11-16 18:17:03.9799600,100,10\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TIMESTAMP,Tokens\n", "line 1: there is no column ContextTokens"),
        ("", "line 1: there is no column TIMESTAMP"),
        (HEAD, "there is no work in it"),
        (HEAD + FIRST + "yesterday,1,2\n", "line 3: TIMESTAMP is 'yesterday'"),
        (HEAD + FIRST + "2023-11-16 18:18:03,many,2\n", "line 3: ContextTokens is 'many'"),
        (HEAD + FIRST + "2023-11-16 18:18:03,1,-2\n", "line 3: GeneratedTokens is -2"),
        (HEAD + FIRST + "2023-11-16 18:18:03,1,nan\n", "line 3: GeneratedTokens is nan"),
        (HEAD + FIRST + "2023-11-16 18:18:03,1\n", "line 3: it has 2 fields"),
        (HEAD + FIRST, "it spans 1 s"),
        (HEAD + FIRST + "2033-11-16 18:18:03,1,1\n", "can be replayed"),
        (b"\xff\xfe\x00\x01".decode("latin-1"), "cannot be read as CSV in UTF-8"),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_trace_is_refused_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(HEAD + FIRST + "2023-11-16 18:30:00,1,1\n")
    (tmp_path / "odd.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(traces.BadTraces, match=r"odd\.csv") as refused:
        traces.read_folder(tmp_path)
    assert told in str(refused.value)


def test_a_folder_without_traces_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(traces.BadTraces, match="no folder with traces"):
            traces.read_folder(folder)


def test_a_folder_is_cut_to_seconds_and_pooled(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        HEAD + "2023-11-16 18:00:00.5,100,10\n2023-11-16 18:00:01.4,0,20\n2023-11-16 18:05:00,300,30\n"
    )
    (tmp_path / "b.csv").write_text(HEAD + "2024-01-01 00:00:01+00:00,0,7\n2024-01-01 00:10:00+00:00,0,7\n")
    a, b, pooled = traces.read_folder(tmp_path)
    assert (a.name, a.seconds, a.requests[:2].tolist(), a.requests[299]) == ("a", 300, [2, 0], 1)
    assert a.work[0] == pytest.approx(3 * 40 / 100)
    assert a.work.sum() == pytest.approx(3)
    assert (b.seconds, pooled.seconds, pooled.requests[0]) == (600, 300, 3)


def test_made_traces_are_of_the_seed_alone() -> None:
    day, again, other = traces.seasonal(1), traces.seasonal(1), traces.seasonal(2)
    assert (day.work == again.work).all()
    assert (day.before == again.before).all()
    assert day.work.sum() != other.work.sum()
    hours = day.work[day.lead_s :].reshape(24, -1).mean(1)
    assert 3 < hours.max() / hours.min() < 8
    assert hours.mean() == pytest.approx(12, rel=0.05)
    assert day.work.sum() == pytest.approx(day.requests.sum(), rel=0.02)
    days = day.before[: 13 * 288].reshape(13, -1).mean(1)  # the first is a Wednesday
    weekend = days[[3, 4, 10, 11]]
    assert weekend.mean() < 0.8 * days.mean()


def _run(attained: float, cost: float) -> Any:
    return elastic.Run(attained, cost, 1)


def test_costs_are_compared_where_a_peer_keeps_the_objective() -> None:
    def cell(ours: Any, **defaults: Any) -> Any:
        return elastic.Cell("hour", 30, 0.99, 100.0, ours, defaults, {})

    cells = [
        cell(_run(0.995, 120), hpa=_run(0.98, 50), keda=_run(0.99, 100), knative=_run(1.0, 200)),
        cell(_run(0.98, 90), hpa=_run(1.0, 90)),
        cell(_run(0.995, 400), hpa=_run(0.5, 90)),
    ]
    document = elastic.Document("elastic", elastic.goals(15))
    elastic._ratio(document, "cost_ratio_to_cheapest_default", cells, lambda each: each.cheapest(each.defaults))
    found = document._found["cost_ratio_to_cheapest_default"]
    assert found["value"] == pytest.approx(1.2**0.5, abs=1e-4)
    assert "of 2 cells; where ours keeps the objective too (1): 1.200" in found["note"]
    assert found["note"].endswith("left out: hour, 30 s, 99.0%")


def test_goals_are_of_as_many_cells_as_there_are() -> None:
    assert [elastic.goals(cells)[0].target for cells in (15, 6, 30)] == [13, 5, 26]


def test_a_cell_has_both_objectives_and_all_systems() -> None:
    trace = traces.bursty(4, seconds=600)
    first, second = elastic.measure_cell(trace, 5, 30)
    assert (first.share, second.share) == elastic.SHARES
    assert set(first.defaults) == {"fixed peak", "hpa", "keda", "knative", "ray serve"}
    assert all(first.meets(run) for run in first.tuned.values())
    assert "fixed peak" in first.tuned
    assert min(run.cost for run in second.tuned.values()) >= second.bound
    assert first.ours.attained > 0.9


LIVE = {"service_s": 0.1, "starts_s": (1.0,), "end_s": 0.5, "tick_s": 1.0, "phase_s": 0.5, "told_s": 0.3}


def rules(least: int, most: int) -> Rules:
    return Rules(share=0.99, latency_s=2.0, least=least, most=most, hold_s=5.0)


def test_requests_wait_for_their_turn_at_the_replica_with_fewest() -> None:
    simulated = replay.replay_requests([0.0] * 5, 10.0, rules(2, 2), replay.Measured(**LIVE), 2)
    assert simulated.latency == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3])
    assert replay.replica_seconds(simulated.lived, 0.0, 10.0) == pytest.approx(20.0)


def test_a_step_of_the_load_is_followed_up_and_down_and_starts_cost() -> None:
    arrivals = replay.arrivals_of_steps(np.random.default_rng(1), (0.5, 3.0, 0.5, 0.5), 20.0, 0.1)
    measured = replay.Measured(**LIVE)
    simulated = replay.replay_requests(arrivals.tolist(), 80.0, rules(1, 8), measured, 1)
    wanted = dict(simulated.wanted)
    assert wanted[18.5] == 1
    assert wanted[38.5] >= 4
    assert wanted[78.5] < wanted[38.5]
    late = simulated.latency > 2.0
    assert late.any()
    assert arrivals[late].min() >= 20.0
    assert not late[arrivals > 35.0].any()
    started = [each for each in simulated.lived if each.asked > 0]
    assert all(each.asked > 20.0 and each.gone > each.asked + measured.starts_s[0] for each in started)
    slow = replay.replay_requests(
        arrivals.tolist(), 80.0, rules(1, 8), replay.Measured(**LIVE | {"starts_s": (1.0, 4.0)}), 1
    )
    assert (slow.latency > 2.0).sum() > late.sum()


def test_replicas_cost_what_of_their_lives_is_within() -> None:
    lived = [replay.Lived(-5.0, 3.0), replay.Lived(2.0, 4.0), replay.Lived(9.0, float("inf")), replay.Lived(11.0, 12.0)]
    assert replay.replica_seconds(lived, 0.0, 10.0) == pytest.approx(3.0 + 2.0 + 1.0)


def test_an_hour_is_replayed_sixty_times_as_fast_with_its_shape() -> None:
    requests = np.repeat([1.0, 0.0, 7.0], 1_200)
    trace = world.Trace("three", requests, requests)
    arrivals = replay.arrivals_of_trace(np.random.default_rng(1), trace, 3.0, 0.08)
    assert (np.diff(arrivals) >= 0).all()
    assert len(arrivals) * 0.08 / 60.0 == pytest.approx(3.0, rel=0.1)
    thirds = np.histogram(arrivals, [0.0, 20.0, 40.0, 60.0])[0]
    assert thirds[1] == 0
    assert thirds[2] / thirds[0] == pytest.approx(7.0, rel=0.2)
    again = replay.arrivals_of_trace(np.random.default_rng(1), trace, 3.0, 0.08)
    assert (again == arrivals).all()
