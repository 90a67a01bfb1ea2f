"""What a declaration would have done with a service's own history."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from skyriver.control.pricing import OWNED
from skyriver.control.schedule.advising import Asked
from skyriver.control.schedule.past import History
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


def test_a_number_that_stays_is_priced_too_and_without_prices_all_is_in_replica_hours() -> None:
    found = try_out(asked(), ServiceSpec(replicas=1, latency="150ms"), OWNED)
    trace = found["trace"]
    assert trace["unit"] == "replica-hours"
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
