"""What a declaration would have done with a service's own history."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest

from skyriver.control.pricing import OWNED
from skyriver.control.schedule.advising import Asked, advise
from skyriver.control.schedule.history import TICKS, Minute
from skyriver.control.schedule.past import History, history_of
from skyriver.control.schedule.trying import STRETCHES, try_out
from skyriver.core.contract_advice import Side
from skyriver.core.prices import Prices
from skyriver.core.spec import ServiceSpec

EURO = Prices("prices.toml", date(2026, 11, 1), "EUR", {"core_hour": Decimal("0.05"), "memory_gb_hour": Decimal(0)})
PRESENT = ServiceSpec(replicas=3, latency="150ms")


def asked(ticks: int = 1_440, serve: ServiceSpec = PRESENT) -> Asked:
    """Two hours: a burst of ten minutes every half hour."""
    rng = np.random.default_rng(1)
    work = rng.poisson(np.where(np.arange(ticks) % 360 < 120, 60.0, 5.0) * 5.0) * 0.03 / 5.0
    work[200:260] = np.nan
    return Asked("quote", "pricing", serve, History(1_764_000_000, work, 0.0, 0.03, 0.6, 1.0, 100.0))


def test_both_are_told_with_their_sum_and_how_they_went() -> None:
    found = try_out(asked(), ServiceSpec(replicas=(1, 8), latency="150ms", hold="30s"), EURO)
    assert found["proposed"] is not None
    assert found["proposed"]["line"] == 'sr.Service(replicas=(1, 8), latency="150ms", hold="30s")'
    trace = found["trace"]
    now, then = trace["now"], trace["then"]
    assert trace["unit"] == "EUR"
    assert now["cost"] == pytest.approx(3 * 0.05)
    assert now["most"] == 3
    for side in (now, then):
        assert side["late_cost"] is not None
        assert side["sum"] == pytest.approx(side["cost"] + side["late_cost"])
        assert len(side["replicas"]) == len(side["late"]) == len(trace["demand"]) <= STRETCHES
    assert [one is None for one in trace["demand"]] == [one is None for one in now["replicas"]]
    assert None in trace["demand"], "where nobody looked nothing is told"
    assert {one for one in now["replicas"] if one is not None} == {3.0}
    known = [one for one in then["replicas"] if one is not None]
    assert min(known) < max(known), "it follows the load"
    assert found["now"]["late"] == pytest.approx(_late(now, trace["demand"]), rel=0.05)


def _late(side: Side, demand: object) -> float:
    assert isinstance(demand, list)
    told = [(late, came) for late, came in zip(side["late"], demand, strict=True) if late is not None]
    return sum(late * came for late, came in told) / sum(came for _, came in told)


def test_a_number_that_stays_is_priced_too_and_without_prices_all_is_in_core_hours() -> None:
    found = try_out(asked(), ServiceSpec(replicas=1, latency="150ms"), OWNED)
    trace = found["trace"]
    assert trace["unit"] == "core-hours"
    assert (trace["now"]["cost"], trace["then"]["cost"]) == (3.0, 1.0)
    now, then = trace["now"]["late_cost"], trace["then"]["late_cost"]
    assert now is not None
    assert then is not None
    assert then > now, "one is late in each burst"


def test_what_no_number_keeps_and_what_is_not_known_yet_are_said() -> None:
    found = try_out(asked(), ServiceSpec(replicas=(1, 8), latency="20ms"), OWNED)
    assert found["why"].startswith("latency='20ms' cannot be kept by any number of replicas")
    for few in (asked(20), Asked("quote", "pricing", PRESENT, None)):
        told = try_out(few, ServiceSpec(replicas=2), OWNED)
        assert told["proposed"] is None
        assert "trace" not in told
        assert "Too little is known" in told["why"]


def test_what_is_late_has_a_price_also_once_nobody_asks_any_more() -> None:
    ended = asked()
    assert ended.history is not None
    ended.history.work[900:] = 0.0
    trace = try_out(ended, ServiceSpec(replicas=(1, 8), latency="150ms", hold="10s"), OWNED)["trace"]
    assert 0 < trace["late_price"] < 1
    assert trace["now"]["late_cost"] is not None


def test_one_that_sleeps_costs_what_it_is_awake() -> None:
    quiet = asked(serve=ServiceSpec())
    assert quiet.history is not None
    quiet.history.work[:] = 0.0
    quiet.history.work[::700] = 0.01
    found = try_out(quiet, ServiceSpec(replicas=(0, 1), latency="150ms", wake="2s"), OWNED)
    assert found["trace"]["then"]["cost"] < 0.2 * found["trace"]["now"]["cost"]


BUSY = ServiceSpec(replicas=(0, 2), cpus=0.5, latency="150ms", share=0.9, hold="10s", wake="5s")


def closed(minutes: int = 6, late: float = 0.89) -> Asked:
    """Twelve clients that ask again once they have an answer: two replicas are never idle, and no more comes than they
    do; requests wait with those who ask. Then nobody asks."""
    asked_for = [Minute(30_000_000 + n, [1.52] * TICKS, 25.0, 25.0 * late, 4.0, 0.5, 100.0) for n in range(3)]
    quiet = [Minute(30_000_003 + n, [0.0] * TICKS, 0.0, 0.0, 4.0, 0.0, 100.0) for n in range(minutes - 3)]
    return Asked("quote", "pricing", BUSY, history_of([*asked_for, *quiet]))


def test_what_was_really_late_is_told_and_why_the_replay_does_not_see_it() -> None:
    wished = BUSY.model_copy(update={"replicas": (0, 3)})
    found = try_out(closed(), wished, OWNED)
    trace = found["trace"]
    assert found["late"] == pytest.approx(0.89, abs=0.01)
    assert trace["judged"] == pytest.approx(25 * 180, rel=0.01)
    assert [one for one in trace["measured"] if one is not None] == pytest.approx([0.89] * 18, abs=0.01)
    assert trace["measured"][-1] is None
    said = found["now"]["late"]
    assert said is not None
    assert said < 0.45
    assert found["doubt"].startswith("89% of 4,500 requests were really late, and the replay says ")
    assert "the queue was with those who asked" in found["doubt"]


def test_where_the_replay_says_what_was_measured_there_is_no_doubt() -> None:
    found = try_out(closed(late=0.0), ServiceSpec(replicas=3, latency="2s"), OWNED)
    calm = asked()
    assert calm.history is not None
    known = try_out(replace(calm, history=replace(calm.history, late=0.0, judged=9e4)), PRESENT, OWNED)
    assert "doubt" not in known
    assert "too low" not in found.get("doubt", "")


def test_the_same_declaration_has_the_same_numbers_whatever_else_is_asked_for() -> None:
    of = asked(720, serve=ServiceSpec(replicas=(1, 4), latency="150ms", hold="10s"))
    assert of.history is not None
    advised = advise(of, EURO, of.history.ends + 10)
    wishes = [
        ServiceSpec(replicas=(1, 8), latency="150ms", hold="10s"),
        ServiceSpec(replicas=2, latency="400ms"),
        of.serve,
    ]
    found = [try_out(of, wish, EURO) for wish in wishes]
    for one in found:
        assert one["now"]["late"] == found[0]["now"]["late"]
        assert one["trace"]["now"] == found[0]["trace"]["now"]
    assert advised["now"]["line"] == found[0]["now"]["line"]
    same = found[2]
    assert same["trace"]["now"] == same["trace"]["then"]
    assert "rejudged" not in same["trace"]
    assert found[1]["trace"]["rejudged"]["latency_ms"] == 400.0
    assert found[1]["trace"]["rejudged"]["late"] < (same["now"]["late"] or 0.0)


def test_a_minute_more_moves_the_price_of_a_late_request_little() -> None:
    of = asked(720, serve=ServiceSpec(replicas=(1, 4), latency="150ms", hold="10s"))
    assert of.history is not None
    prices = []
    for ticks in (696, 708, 720):
        cut = replace(of, history=replace(of.history, work=of.history.work[:ticks]))
        prices.append(try_out(cut, of.serve, OWNED)["trace"]["late_price"])
    assert min(prices) > 0
    assert all(max(pair) < 3 * min(pair) for pair in pairwise(prices)), prices


def test_a_replayed_service_sleeps_as_a_live_one_does_that_has_seen_few_starts() -> None:
    slow = closed(minutes=9)
    assert slow.history is not None
    slow = replace(slow, history=replace(slow.history, start_s=6.0))  # p90; the mean it goes by is still below `wake`
    trace = try_out(slow, BUSY, OWNED)["trace"]
    assert 0.0 in trace["then"]["replicas"]
