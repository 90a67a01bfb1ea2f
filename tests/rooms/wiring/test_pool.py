"""Services that share a machine of four cores, in the real loop with the real decisions; replicas and requests are
played."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

import skyriver as sr
from skyriver.control.pricing import OWNED
from skyriver.control.schedule.pool import Ask
from skyriver.control.schedule.scaling import Fleet, Rules
from skyriver.core.jobs import Capacity
from skyriver.core.prices import Prices
from skyriver.core.resources import Put, Resource
from skyriver.core.rows import Rows
from skyriver.core.units import SECOND
from skyriver.observe.demand import DemandMeter, fixed_services
from skyriver.wiring.pooling import MachinePool
from skyriver.wiring.scaling import Scaling
from skyriver.wiring.simulation import Simulation

EURO = Prices("prices.toml", date(2026, 11, 1), "EUR", {"core_hour": Decimal("0.05"), "memory_gb_hour": Decimal(0)})
START_S = 0.6
WORK_S = 0.1
ROOM = 2.0
"""Requests that one replica lets wait; it refuses what is more."""


def elastic(**given: Any) -> sr.Service:
    return sr.Service(**{"replicas": (1, 4), "latency": "1s", "share": 0.95, "hold": "30s", **given})


class Shared(Simulation):
    """A replica answers ten requests a second. Half a second at a time."""

    def __init__(self, services: Mapping[str, sr.Service], cores: float = 4.0, prices: Prices = OWNED) -> None:
        super().__init__()
        self.names, self.prices = sorted(services), prices
        self.pool = MachinePool(Capacity(cores, 16_000))
        self.scalings = [Scaling(look_s=look_s, pool=self.pool) for look_s in (1.0, 5.0)]
        self.fixed = DemandMeter(services=fixed_services)
        self.waiting: dict[str, float] = {}
        self.told: dict[str, list[float]] = {}
        self.counts: list[dict[str, int]] = []
        for name, serve in services.items():
            spec = {"model": name, "serve": serve.to_json(), "versions": {"1": {"weight": 100}}}
            version = {"model": name, "version": 1, "artifact": "a" * 64}
            self.commit(
                [
                    Put(Resource("t", "version", f"{name}:1", spec=version, state="APPROVED"), 0),
                    Put(Resource("t", "service", name, spec=spec, state="PENDING"), 0),
                ]
            )
        self.looks = 0

    def status(self, name: str) -> Mapping[str, Any]:
        row = self.loop.snapshot().find("t", "scaling", name)
        assert row is not None
        json.dumps(row.status, allow_nan=False)
        return row.status

    def lines(self, name: str) -> dict[str, str]:
        return dict(self.status(name)["lines"])

    def replicas(self, name: str) -> list[str]:
        return sorted(n for n, p in self.compute.running.items() if f".replica.{name}-" in n and p.alive)

    def play(self, seconds: float, rates: Mapping[str, float]) -> None:
        for _ in range(round(seconds / 0.5)):
            for name in self.names:
                self._half_a_second(name, rates.get(name, 0.0))
            self.run(0.5)
            self.looks += 1
            for scaling in self.scalings:
                if self.looks % round(2 * scaling.look_s) == 0:
                    puts = scaling.look(self.loop.snapshot(), self.clock.monotonic() / SECOND, self.prices)
                    self.pool.note(scaling.measured, self.clock.monotonic() / SECOND)
                    if puts:
                        self.commit(puts)
            if self.looks % 10 == 0:
                second = self.clock.monotonic() / SECOND
                self.pool.note(self.fixed.look(self.loop.snapshot(), second), second)
            self.counts.append({name: len(self.replicas(name)) for name in self.names})

    def _half_a_second(self, service: str, rate: float) -> None:
        now = self.clock.monotonic() / SECOND
        there = self.replicas(service)
        for name in there:
            if name not in self.told:
                self.told[name] = [now, 0.0, 0.0, 0.0]  # born, waiting, answered, refused
                self.compute.running[name] = replace(self.compute.running[name], started_at=self.clock.wall())
        servers = [name for name in self.gateway.servers(f"{service}:1") if name in there]
        for name in there:
            told = self.told[name]
            if now - told[0] < START_S:
                continue
            came = rate * 0.5 / len(servers) if name in servers else 0.0
            done = min(told[1] + came, 0.5 / WORK_S)
            refused = max(0.0, told[1] + came - done - ROOM)
            told[1] += came - done - refused
            told[2] += done
            told[3] += refused
            self.compute.running[name] = replace(self.compute.running[name], cpu_seconds=told[2] * WORK_S)
            self.compute.report(
                name,
                ready=True,
                told_at=self.clock.wall(),
                active_at=self.clock.wall(),
                requests=int(told[2]) + int(told[3]),
                waiting=int(told[1]),
                overloaded=int(told[3]),
                run_us=int(told[2] * WORK_S * SECOND),
                counted={"latency_us": [[98_304, int(told[2])]]},
            )


def test_one_that_gets_less_names_the_cheaper_version_that_would_do() -> None:
    cloud = Shared({"rent": elastic(priority=5), "sale": elastic()})
    slow, fast = ({"model": "sale", "artifact": "a" * 64, "speed": {"row": us}} for us in (100.0, 40.0))
    compared = {"version": 2, "champion": 1, "champion_metrics": {"auc": 0.9}}
    status = {"gate": {"passed": True}, "settled": "good"}
    first = cloud.store.get("t", "version", "sale:1")
    cloud.commit(
        [
            Put(Resource("t", "model", "sale", spec={"model": {"gate": {"against": "champion"}}}), 0),
            Put(replace(first, spec={**slow, "version": 1}), first.revision),
            Put(Resource("t", "version", "sale:2", {**fast, **compared}, status, state="APPROVED"), 0),
        ]
    )
    cloud.play(60, {"rent": 25, "sale": 25})
    assert cloud.lines("sale")["degraded"].endswith(
        "(503). `skyriver model alias sale champion 2` rolls a cheaper version out."
    )


def test_where_there_is_enough_nobody_hears_of_a_pool() -> None:
    cloud = Shared({"rent": elastic(), "sale": elastic()})
    cloud.play(120, {"rent": 8, "sale": 8})
    assert cloud.counts[-1] == {"rent": 2, "sale": 2} or sum(cloud.counts[-1].values()) <= 4
    assert all("pool" not in cloud.status(name) for name in cloud.names)


def test_the_one_of_higher_priority_gets_what_it_wants_and_the_other_keeps_its_least() -> None:
    cloud = Shared({"rent": elastic(priority=5), "sale": elastic()})
    cloud.play(60, {"rent": 3, "sale": 25})
    assert cloud.counts[-1]["sale"] >= 3
    cloud.play(120, {"rent": 25, "sale": 25})
    assert cloud.counts[-1] == {"rent": 3, "sale": 1}
    assert cloud.lines("sale")["pool"].endswith(" Cores are held by rent 3, sale 1.")
    told = cloud.status("sale")["pool"]
    assert told["asked"] > told["granted"] == 1
    assert (told["scarce"], told["higher_priority"]) == ("cores", 1)
    assert told["price"] > 0
    assert told["holders"] == " Cores are held by rent 3, sale 1."
    assert (told["ahead"], cloud.status("rent")["pool"]["ahead"]) == (1, 0), "a higher priority helps one of them"
    assert cloud.lines("sale")["degraded"].startswith("Until there is room requests wait longer")
    assert cloud.lines("sale")["degraded"].endswith("(503).")
    assert cloud.status("sale")["changes"][-1]["why"].startswith("pool: ")
    cloud.play(240, {"rent": 3, "sale": 25})
    assert cloud.counts[-1]["sale"] >= 3


def test_of_the_same_priority_they_share_and_do_not_take_turns() -> None:
    cloud = Shared({"rent": elastic(), "sale": elastic()})
    cloud.play(120, {"rent": 35, "sale": 35})
    cloud.counts.clear()
    cloud.play(300, {"rent": 35, "sale": 35})
    assert all(sum(count.values()) <= 4 for count in cloud.counts)
    assert sum(before != after for before, after in pairwise(cloud.counts)) <= 2
    assert cloud.counts[-1] in ({"rent": 2, "sale": 2}, {"rent": 1, "sale": 3}, {"rent": 3, "sale": 1})


def test_services_that_are_looked_at_at_another_pace_share_the_same_pool() -> None:
    cloud = Shared({"rent": elastic(hold="2m", priority=1), "sale": elastic()})
    cloud.play(180, {"rent": 25, "sale": 25})
    assert cloud.counts[-1] == {"rent": 3, "sale": 1}


def test_fixed_services_and_the_memory_of_jobs_are_taken_off_first() -> None:
    cloud = Shared({"rent": elastic(), "sale": sr.Service(replicas=2, cpus=0.99)})
    cloud.play(120, {"rent": 35, "sale": 1})
    assert cloud.counts[-1] == {"rent": 2, "sale": 2}
    job = Resource("t", "job", "train", spec={"limits": {"cpus": 1.0, "memory_mb": 100}}, state="RUNNING")
    fleet, asks = Fleet(), {"t/rent": (Ask(wish=4, least=1, cores=1.0, memory_mb=512), 0.0)}
    fleet.add("t/rent", Rules(share=0.95, latency_s=1.0, most=4))
    snapshot = cloud.loop.snapshot()
    assert cloud.pool.grant(snapshot, fleet, asks)[0] == {"t/rent": 2}
    rows = Rows([*snapshot.rows.values(), job])
    assert cloud.pool.grant(replace(snapshot, resources=rows), fleet, asks)[0] == {"t/rent": 2}, "no core is lost"
    large = replace(job, spec={"limits": {"cpus": 1.0, "memory_mb": 10_000_000}})
    rows = Rows([*snapshot.rows.values(), large])
    assert cloud.pool.grant(replace(snapshot, resources=rows), fleet, asks)[0] == {"t/rent": 1}
    spread = replace(job, spec={"limits": {"cpus": 1.0, "memory_mb": 4_000}, "workers": 3})
    rows = Rows([*snapshot.rows.values(), spread])
    assert cloud.pool.grant(replace(snapshot, resources=rows), fleet, asks)[0] == {"t/rent": 1}, "its workers count too"


@pytest.mark.parametrize("other", [sr.Service(replicas=2), elastic(replicas=(2, 4))], ids=["fixed", "its least"])
def test_replicas_that_are_there_anyway_hold_the_cores_that_they_take_where_nobody_declares_them(
    other: sr.Service,
) -> None:
    cloud = Shared({"rent": elastic(priority=1), "sale": other})
    cloud.play(120, {"rent": 25, "sale": 1})
    assert cloud.counts[-1]["rent"] >= 3, "both of the other together take a tenth of a core"
    assert cloud.counts[-1]["sale"] == 2
    cloud.play(180, {"rent": 35, "sale": 16})
    assert cloud.counts[-1] == {"rent": 2, "sale": 2}
    again = MachinePool(Capacity(4.0, 16_000), json.loads(json.dumps(cloud.pool.remember())))
    fleet, asks = Fleet(), {"t/rent": (Ask(wish=4, least=1, cores=1.0, memory_mb=512), 0.0)}
    fleet.add("t/rent", Rules(share=0.95, latency_s=1.0, most=4))
    if isinstance(other.replicas, int):
        assert again.grant(cloud.loop.snapshot(), fleet, asks)[0] == {"t/rent": 2}, "it goes on where it was"


@pytest.mark.parametrize(("rate", "cores", "replicas"), [(17, 2.0, 2), (36, 4.0, 4)], ids=["2 cores", "4 cores"])
def test_a_replica_is_not_taken_back_because_it_is_busy(rate: float, cores: float, replicas: int) -> None:
    cloud = Shared({"rent": elastic(), "one": sr.Service(), "two": sr.Service()}, cores=cores)
    cloud.play(60, {"rent": rate, "one": 0.2, "two": 0.2})
    cloud.counts.clear()
    cloud.play(300, {"rent": rate, "one": 0.2, "two": 0.2})
    assert {count["rent"] for count in cloud.counts} == {replicas}


def test_the_sum_is_told_at_the_price_of_the_pool() -> None:
    cloud = Shared({"rent": elastic(), "sale": elastic(priority=1)}, prices=EURO)
    cloud.play(180, {"rent": 35, "sale": 35})
    status = cloud.status("rent")
    assert status["unit"] == "EUR"
    assert status["pool"]["price"] > 0.02
    assert "EUR an hour and core" in cloud.lines("rent")["price"]
    one = status["choices"][0]
    assert one["replicas"] == 1
    assert one["sum"] == pytest.approx(one["cost"] + one["late_cost"])


def test_what_a_replica_costs_others_is_told_where_that_is_more_than_its_price() -> None:
    cloud = Shared({"rent": elastic()}, cores=2.0)
    fleets = [Fleet(), Fleet()]
    for fleet, name in zip(fleets, ("t/rent", "t/sale"), strict=True):
        fleet.add(name, Rules(share=0.95, latency_s=1.0, most=4, price=0.1))
    ask, snapshot = Ask(wish=3, least=1, cores=2.0, memory_mb=512), cloud.loop.snapshot()
    _, told = cloud.pool.grant(snapshot, fleets[0], {"t/rent": (ask, 0.1)})
    assert told["t/rent"].opportunity == 2.0 * told["t/rent"].price
    assert told["t/rent"].status() == {
        "asked": 3,
        "granted": 1,
        "scarce": "cores",
        "price": told["t/rent"].price,
        "higher_priority": 0,
        "ahead": 0,
        "holders": " Cores are held by rent 2.",
    }
    memory = replace(ask, cores=0.1, memory_mb=12_000)
    _, told = cloud.pool.grant(snapshot, fleets[0], {"t/rent": (memory, 0.1)})
    [pool, price, _] = told["t/rent"].lines("EUR")
    assert (
        pool[1] == "3 are wanted and 1 granted: the machine's memory does not do for all. MB are held by rent 12,000."
    )
    assert "EUR an hour and GB of memory" in price[1]


def test_a_priority_is_declared_and_changes_nothing_where_it_is_not() -> None:
    assert "priority" not in elastic().to_json()
    assert elastic(priority=-3).to_json()["priority"] == -3
    with pytest.raises(ValueError, match="100"):
        elastic(priority=101)
