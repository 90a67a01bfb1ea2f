"""Services that sleep when keeping them costs more, in the real loop with played processes."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

import skyriver as sr
from skyriver.control.pricing import OWNED
from skyriver.control.schedule.sleeping import DAY_S, LOOK_S
from skyriver.core.prices import Prices
from skyriver.core.resources import Put, Resource
from skyriver.core.units import SECOND
from skyriver.serve.operations import plan_sleep
from skyriver.serve.scaling_kind import new_scaling
from skyriver.wiring.simulation import Simulation
from skyriver.wiring.sleepers import Sleepers

HOLDER = "t.activator.activator"
EURO = Prices("prices.toml", date(2026, 11, 1), "EUR", {"core_hour": Decimal("0.05"), "memory_gb_hour": Decimal(0)})
ONE = sr.Service(replicas=(0, 1), latency="50ms", share=0.9)


class Cloud(Simulation):
    """The model `price`, of which one replica answers at once."""

    def __init__(self, serve: sr.Service, prices: Prices = OWNED) -> None:
        super().__init__()
        self.sleepers, self.prices, self.puts = Sleepers(), prices, 0
        self.requests: dict[str, int] = {}
        spec = {"model": "price", "serve": serve.to_json(), "versions": {"1": {"weight": 100}}}
        version = {"model": "price", "version": 1, "artifact": "a" * 64}
        self.commit(
            [
                Put(Resource("t", "version", "price:1", spec=version, state="APPROVED"), 0),
                Put(Resource("t", "service", "price", spec=spec, state="PENDING"), 0),
            ]
        )
        self.compute.report(HOLDER, ready=True, waiting={})
        self.settle()
        self._start()

    @property
    def service(self) -> Resource:
        return self.store.get("t", "service", "price")

    @property
    def row(self) -> Resource:
        return self.store.get("t", "scaling", "price")

    @property
    def lines(self) -> dict[str, str]:
        return dict(self.row.status["sleep"])

    def ask(self, count: int = 1) -> None:
        """Held until there is a replica."""
        if not self._replicas():
            self.compute.report(HOLDER, ready=True, waiting={"price": count})
            self.settle()
            self.look()
        self._start()
        for name in self._replicas():
            self.requests[name] = self.requests.get(name, 0) + count
            self.compute.report(name, requests=self.requests[name], active_at=self.clock.wall())
        self.compute.report(HOLDER, ready=True, waiting={})
        self.settle()

    def pass_by(self, seconds: float, look_s: float = LOOK_S) -> None:
        end = self.clock.wall() + int(seconds * SECOND)
        while (left := end - self.clock.wall()) > 0:
            self.clock.advance(min(left, int(look_s * SECOND)))
            self.settle()
            self._start()
            self.look()

    def look(self) -> None:
        puts = self.sleepers.look(self.loop.snapshot(), self.prices)
        self.puts += len(puts)
        if puts:
            self.commit(puts)

    def at(self, of_day_s: float, look_s: float = 50.0) -> None:
        """Until that time of the day, or of the next one."""
        self.pass_by((of_day_s - self.clock.wall() / SECOND) % DAY_S, look_s)

    def change(self, serve: sr.Service) -> None:
        service = self.service
        spec = {**service.spec, "serve": serve.to_json()}
        changed = Resource("t", "service", "price", spec=spec, state=service.state, status=service.status)
        self.commit([Put(changed, service.revision)])

    def _replicas(self) -> list[str]:
        return sorted(name for name, p in self.compute.running.items() if ".replica." in name and p.alive)

    def _start(self) -> None:
        for name in self._replicas():
            if not self.compute.running[name].report.get("ready"):
                self.requests[name] = 0
                self.compute.report(name, ready=True, requests=0, active_at=self.clock.wall())
        self.settle()


def test_one_that_declares_nothing_sleeps_once_keeping_has_cost_what_waking_does() -> None:
    cloud = Cloud(ONE)
    cloud.ask()
    cloud.pass_by(60)
    assert (cloud.row.spec["sleep"]["rule"], cloud.service.state) == ("break-even", "READY")
    idle_s = cloud.row.spec["sleep"]["idle_us"] / SECOND
    assert 300 <= idle_s <= 304
    cloud.pass_by(idle_s - 70)
    assert cloud.service.state == "READY"
    cloud.pass_by(20)
    assert (cloud.service.state, cloud.service.message) == ("SCALED_TO_ZERO", "Asleep: nobody asked for 5 minutes.")
    assert cloud.lines["sleep"].startswith("After 5 minutes without a request: a waking costs what 5 minutes of")
    cloud.ask()
    assert cloud.service.state == "READY"


def test_what_is_declared_wins_and_says_so() -> None:
    cloud = Cloud(sr.Service(replicas=(0, 1), latency="50ms", idle="10m"))
    cloud.ask()
    cloud.pass_by(590)
    assert cloud.service.state == "READY"
    assert cloud.lines["sleep"].startswith("After 10m without a request, as declared with idle=;")
    cloud.pass_by(20)
    assert (cloud.service.state, cloud.service.message) == ("SCALED_TO_ZERO", "Asleep: nobody asked for 10m.")


def test_where_nobody_is_late_by_a_waking_it_sleeps_soon() -> None:
    cloud = Cloud(sr.Service(replicas=(0, 1), latency="50ms", wake="5s"), EURO)
    cloud.ask()
    cloud.pass_by(30)
    assert cloud.service.state == "SCALED_TO_ZERO"
    assert "nobody is late by it), at 0.05 EUR an hour" in cloud.lines["sleep"]


def test_without_an_objective_it_sleeps_after_five_minutes() -> None:
    cloud = Cloud(sr.Service(replicas=(0, 1)))
    cloud.ask()
    cloud.pass_by(280)
    assert cloud.service.state != "SCALED_TO_ZERO"
    cloud.pass_by(40)
    assert cloud.service.state == "SCALED_TO_ZERO"
    assert "neither latency= nor wake=" in cloud.lines["sleep"]


def test_few_rows_are_written() -> None:
    cloud = Cloud(ONE)
    for _ in range(30):
        cloud.ask()
        cloud.pass_by(40)
    assert cloud.row.spec["sleep"]["rule"] == "history"
    assert cloud.puts <= 4
    before = cloud.puts
    for _ in range(30):
        cloud.ask()
        cloud.pass_by(40)
    assert cloud.puts <= before + 1


def test_a_daily_job_finds_it_awake_on_the_fourth_day_whoever_was_killed() -> None:
    cloud = Cloud(ONE)
    for _ in range(3):
        cloud.at(9 * 3_600)
        assert cloud.service.state == "SCALED_TO_ZERO"
        cloud.ask(200)
        cloud.pass_by(1_200, look_s=50)
        assert cloud.service.state == "SCALED_TO_ZERO"
    assert "on 3 of the last 3 days somebody did" in cloud.lines["wake"]
    remembered = cloud.sleepers.remember()
    cloud.sleepers = Sleepers(remembered)
    cloud.start_control()
    cloud.at(8 * 3_600 + 58 * 60 + 30)
    assert cloud.service.state == "SCALED_TO_ZERO"
    revision = cloud.row.revision
    for _ in range(40):  # nobody decides meanwhile: the row stands
        cloud.run(seconds=1)
        cloud._start()
    assert cloud.row.revision == revision
    assert cloud.service.state == "READY"
    cloud.at(9 * 3_600, look_s=5)
    cloud.ask(200)
    cloud.pass_by(1_200, look_s=50)
    assert cloud.service.state == "SCALED_TO_ZERO"
    assert cloud.sleepers._of["t/price"].habits.wrong == 0


def test_while_somebody_is_expected_it_wakes_and_says_so_unless_it_was_put_to_sleep_then() -> None:
    cloud = Cloud(ONE)
    cloud.ask()
    cloud.look()
    cloud.pass_by(400)
    assert cloud.service.state == "SCALED_TO_ZERO"
    now = cloud.clock.wall()
    sleep = {**cloud.row.spec["sleep"], "at": now + 5 * SECOND, "until": now + 900 * SECOND}
    cloud.commit([Put(_with(cloud.row, sleep), cloud.row.revision)])
    cloud.run(seconds=4)
    assert cloud.service.state == "SCALED_TO_ZERO"
    cloud.run(seconds=2)
    assert (cloud.service.state, cloud.service.reason) == ("STARTING", "WAKING")
    assert cloud.service.message == "Waking: on most days before somebody asked at about this time."
    cloud._start()
    for _ in range(80):
        cloud.run(seconds=5)
        assert cloud.service.state == "READY"
    cloud.commit([Put(r, r.revision) for r in plan_sleep(cloud.loop.snapshot(), "t", "price", {}, {})])
    cloud.run(seconds=20)
    assert cloud.service.state == "SCALED_TO_ZERO"


def _with(row: Resource, sleep: dict[str, Any]) -> Resource:
    return Resource("t", "scaling", "price", spec={**row.spec, "sleep": sleep}, status=row.status, state=row.state)


def test_the_row_goes_when_it_sleeps_no_more() -> None:
    cloud = Cloud(ONE)
    cloud.pass_by(10)
    assert cloud.row
    cloud.change(sr.Service(replicas=1))
    assert cloud.loop.snapshot().find("t", "scaling", "price") is None
    cloud.pass_by(10)
    assert cloud.loop.snapshot().find("t", "scaling", "price") is None
    assert cloud.sleepers.remember() == {}


@pytest.mark.parametrize(
    ("told", "prices", "seconds"),
    [
        ({"late_price": 0.01, "unit": "replica-hours"}, OWNED, 36.0),
        ({"late_price": 0.001, "unit": "EUR"}, EURO, 72.0),
        ({"late_price": 0.0, "unit": "EUR"}, EURO, 0.0),
        ({"late_price": None, "unit": "EUR"}, EURO, 0.0),
    ],
)
def test_a_late_request_is_worth_what_those_are_worth_by_whom_replicas_are_counted(
    told: dict[str, Any], prices: Prices, seconds: float
) -> None:
    cloud = Cloud(sr.Service(replicas=(0, 3), latency="50ms", share=0.9), prices)
    cloud.pass_by(10)
    assert cloud.loop.snapshot().find("t", "scaling", "price") is None  # it is made with the first decision
    cloud.commit([Put(new_scaling(cloud.service, 2, {}, cloud.clock.wall()), 0)])
    for _ in range(300):
        cloud.clock.advance(SECOND)
        row = cloud.row
        status = {**row.status, "at": cloud.clock.wall(), **told}
        moved = Resource("t", "scaling", "price", spec=row.spec, status=status, state="ACTIVE")
        cloud.commit([Put(moved, row.revision)])
        cloud.look()
    habits = cloud.sleepers._of["t/price"].habits
    assert habits.worth_s == pytest.approx(seconds, rel=0.02)
    assert cloud.row.spec["replicas"] == 2
    assert cloud.row.status["unit"] == told["unit"]
