"""Elastic services in the real loop, with the real decisions, and replicas and requests that are played."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

import skyriver as sr
from skyriver.client.scaling_page import with_rests
from skyriver.control.pricing import OWNED
from skyriver.core.prices import Prices
from skyriver.core.resources import ProcessStatus, Put, Resource, Snapshot
from skyriver.core.rows import Rows
from skyriver.core.units import SECOND
from skyriver.observe.demand import look_s_of
from skyriver.wiring.scaling import CHANGES, LEAST_REFRESHES, Scaling, changes_after
from skyriver.wiring.simulation import Simulation

HOLDER = "t.activator.activator"
START_S = 0.6
WORK_S = 0.1
EURO = Prices("prices.toml", date(2026, 11, 1), "EUR", {"core_hour": Decimal("0.05"), "memory_gb_hour": Decimal(0)})


@dataclass
class Played:
    """One replica: it answers ten a second, and queues the rest."""

    born: float
    waiting: float = 0.0
    requests: float = 0.0
    busy_s: float = 0.0
    late: float = 0.0
    runs: float = 0.0


class Cloud(Simulation):
    """The elastic service `price`: a request takes WORK_S, a start START_S. Half a second at a time."""

    def __init__(self, serve: sr.Service, prices: Prices = OWNED) -> None:
        super().__init__()
        self.look_s = look_s_of(serve)
        self.scaling, self.prices = Scaling(look_s=self.look_s), prices
        self.played: dict[str, Played] = {}
        self.frozen = False
        self.work_s = WORK_S
        self.lost_work = 0.0
        self.counts: list[int] = []
        spec = {"model": "price", "serve": serve.to_json(), "versions": {"1": {"weight": 100}}}
        version = {"model": "price", "version": 1, "artifact": "a" * 64}
        self.commit(
            [
                Put(Resource("t", "version", "price:1", spec=version, state="APPROVED"), 0),
                Put(Resource("t", "service", "price", spec=spec, state="PENDING"), 0),
            ]
        )
        self.due = self.clock.monotonic() + int(self.look_s * SECOND)

    @property
    def service(self) -> Resource:
        return self.store.get("t", "service", "price")

    @property
    def row(self) -> Resource | None:
        return self.loop.snapshot().find("t", "scaling", "price")

    @property
    def replicas(self) -> list[str]:
        return sorted(name for name, p in self.compute.running.items() if ".replica." in name and p.alive)

    @property
    def why(self) -> str:
        assert self.row is not None
        return str(self.row.status["changes"][-1]["why"])

    def play(self, seconds: float, rate: float) -> None:
        """`rate` requests a second come to the gateway's servers evenly."""
        for _ in range(round(seconds / 0.5)):
            self._half_a_second(rate)
            self.run(0.5)
            if self.clock.monotonic() >= self.due:
                self.due += int(self.look_s * SECOND)
                self.look()
            self.counts.append(len(self.replicas))

    def look(self, **more: float) -> None:
        puts = self.scaling.look(self.loop.snapshot(), self.clock.monotonic() / SECOND, self.prices, **more)
        if puts:
            self.commit(puts)

    def _half_a_second(self, rate: float) -> None:
        now = self.clock.monotonic() / SECOND
        for name in self.replicas:
            if name not in self.played:
                self.compute.running[name] = replace(self.compute.running[name], started_at=self.clock.wall())
        there = {name: self.played.get(name) or Played(now) for name in self.replicas}
        self.played = there
        servers = [s for s in self.gateway.servers("price:1") if s in there]
        self.lost_work += 0.0 if servers else rate * 0.5
        for name, replica in there.items():
            if now - replica.born < START_S:
                continue
            came = rate * 0.5 / len(servers) if name in servers else 0.0
            done = min(replica.waiting + came, 0.5 / self.work_s)
            replica.waiting += came - done
            replica.requests += done
            replica.busy_s += done * self.work_s
            replica.late += done if replica.waiting > 2 else 0.0
            told = self.runs_of(replica, done)
            if not self.frozen:
                slow, quick = int(replica.late), int(replica.requests) - int(replica.late)
                self.compute.report(
                    name,
                    ready=True,
                    told_at=self.clock.wall(),
                    active_at=self.clock.wall() if came else self.compute.running[name].report.get("active_at", 0),
                    requests=int(replica.requests),
                    waiting=int(replica.waiting),
                    run_us=int(replica.busy_s * SECOND),
                    counted={"latency_us": [[98_304, quick], [917_504, slow]]},
                    **told,
                )

    def runs_of(self, replica: Played, done: float) -> dict[str, int]:
        """What it tells of its runs, with so many more requests done."""
        return {}


class SharingCloud(Cloud):
    """The same, of which 95 ms are a run's and 5 ms a row's; 50 rows may share one. What waits grows a run."""

    def _half_a_second(self, rate: float) -> None:
        self.work_s = max(0.005 + 0.095 / 50, min(WORK_S, 1 / max(rate / max(len(self.replicas), 1), 1e-9)))
        super()._half_a_second(rate)

    def runs_of(self, replica: Played, done: float) -> dict[str, int]:
        rows = int(replica.requests)
        replica.runs += done * (self.work_s - 0.005) / 0.095
        return {"rows": rows, "runs": int(replica.runs), "max_batch": 50, "fixed_us": 95_000, "each_us": 5_000}


def elastic(**given: Any) -> sr.Service:
    return sr.Service(**{"replicas": (1, 8), "latency": "1s", "share": 0.95, "hold": "30s", **given})


def test_it_follows_the_load_up_and_down() -> None:
    cloud = Cloud(elastic())
    cloud.play(60, rate=2)
    assert len(cloud.replicas) == 1
    cloud.lost_work = 0.0  # of when there was none yet
    cloud.play(60, rate=35)
    assert 4 <= len(cloud.replicas) <= 8
    assert cloud.service.state == "READY"
    cloud.play(480, rate=2)
    assert len(cloud.replicas) == 1
    assert cloud.lost_work == 0
    assert cloud.row is not None
    changes = cloud.row.status["changes"]
    assert changes[0]["from"] == 1
    assert changes[-1]["to"] == 1
    assert changes[-1]["why"].startswith("hold: ")


def test_under_a_steady_load_it_stays_as_it_is() -> None:
    cloud = Cloud(elastic())
    cloud.play(300, rate=25)
    cloud.counts.clear()
    cloud.play(900, rate=25)
    assert sum(a != b for a, b in zip(cloud.counts, cloud.counts[1:], strict=False)) <= 1
    assert min(cloud.counts) >= 3


def test_without_measurements_it_stays_and_says_so() -> None:
    cloud = Cloud(elastic(hold="2m"))
    cloud.play(60, rate=25)
    before = len(cloud.replicas)
    cloud.frozen = True
    cloud.play(60, rate=0)
    assert len(cloud.replicas) == before
    assert cloud.row is not None
    assert (cloud.row.state, cloud.row.reason) == ("HOLDING", "NO_MEASUREMENTS")
    assert "No replica has told anything for 8 s." in cloud.row.message
    cloud.frozen = False
    cloud.play(15, rate=25)
    assert cloud.row.state == "ACTIVE"


def test_a_control_plane_that_is_away_or_another_one_changes_nothing_by_that() -> None:
    cloud = Cloud(elastic())
    cloud.play(60, rate=25)
    before = cloud.replicas
    remembered = cloud.scaling.remember()
    cloud.start_control()
    cloud.scaling = Scaling(remembered, cloud.look_s)
    cloud.play(5, rate=25)
    cloud.look(unseen_s=60.0)
    assert cloud.replicas == before
    cloud.play(30, rate=25)
    assert len(cloud.replicas) >= 3
    again = Scaling({"measured": {}, "learnt": {"t/price": {"tick_s": "no"}}}, cloud.look_s)
    cloud.scaling = again
    cloud.play(30, rate=25)
    assert len(cloud.replicas) >= 3


def test_the_same_history_gives_the_same_decisions() -> None:
    def told() -> list[int]:
        cloud = Cloud(elastic())
        for rate in (5, 40, 10, 60, 3):
            cloud.play(40, rate)
        return cloud.counts

    assert told() == told()


def test_a_decision_is_told_with_its_sum_and_its_price() -> None:
    cloud = Cloud(elastic(), EURO)
    cloud.play(60, rate=5)
    cloud.play(60, rate=25)
    assert cloud.row is not None
    status = cloud.row.status
    assert status["unit"] == "EUR"
    assert status["prices"] == "prices.toml, as of 2026-11-01"
    chosen = next(c for c in status["choices"] if c["replicas"] == status["chosen"])
    assert chosen["sum"] == pytest.approx(chosen["cost"] + chosen["late_cost"])
    assert {c["replicas"] - status["chosen"] for c in status["choices"]} == {-1, 0, 1}
    change = status["changes"][-1]
    assert {"at", "from", "to", "why", "cost", "late_cost", "sum", "unit", "cores"} == change.keys()
    assert [rule for rule, _ in status["lines"]][:2] == ["objective", "demand"]


def test_where_nobody_asks_it_says_that() -> None:
    cloud = Cloud(elastic(latency="150ms"))
    cloud.play(30, rate=0)
    assert cloud.row is not None
    assert cloud.row.status["why"] == "demand: nobody asks now, and 1 is the least."


def test_of_nothing_nothing_is_late() -> None:
    """The sum is of demand as it is now."""
    cloud = Cloud(elastic(hold="1m"))
    cloud.play(60, rate=25)
    assert cloud.row is not None
    assert any(choice["late_cost"] for choice in cloud.row.status["choices"])
    cloud.play(180, rate=0)
    assert cloud.row is not None
    assert cloud.row.status["came"] == 0
    assert {(c["late_share"], c["late_cost"]) for c in cloud.row.status["choices"]} == {(0.0, 0.0)}
    assert cloud.row.status["late_price"] > 0, "what sleeping goes by"


def test_what_is_wanted_and_not_had_is_kept_in_the_history_once() -> None:
    cloud = Cloud(elastic(replicas=(1, 2)))
    cloud.play(60, rate=2)
    cloud.play(60, rate=25)
    assert cloud.row is not None
    told = [(change["from"], change["to"], change["why"].partition(" ")[0]) for change in cloud.row.status["changes"]]
    assert [one for one in told if one[2] == "limits:"] == told[-1:]
    assert told[-1][1] == 2
    refused = cloud.row.status["refused"]
    assert (refused["by"], refused["had"]) == ("most", 2)
    assert refused["wish"] > 2
    cloud.play(120, rate=0)
    assert cloud.row is not None
    assert cloud.row.status["refused"]["at"] < cloud.row.status["at"] - 60 * SECOND, "it is known when that was"


def test_the_history_of_one_that_sleeps_has_no_gaps() -> None:
    """Each row begins with the number that the one before it ended with, sleeps and wakings among them."""
    cloud = Cloud(elastic(replicas=(0, 4), idle="15s", hold="1m"))
    cloud.compute.report(HOLDER, ready=True, waiting={})
    cloud.play(20, rate=2)
    cloud.play(40, rate=35)
    assert len(cloud.replicas) >= 3
    for waiting in (1, 30):
        cloud.play(40, rate=0)
        assert (cloud.service.state, cloud.replicas) == ("SCALED_TO_ZERO", [])
        cloud.compute.report(HOLDER, ready=True, waiting={"price": waiting})
        cloud.play(2, rate=0)
        cloud.compute.report(HOLDER, ready=True, waiting={})
        cloud.play(50, rate=2)
    assert cloud.row is not None
    story = with_rests(cloud.row.status["changes"], cloud.service.status["rests"])
    steps = [(one["from"], one["to"]) for one in story]
    assert sum(to == 0 for _, to in steps) == 2
    assert all(before[1] == after[0] for before, after in pairwise(steps)), steps
    assert all(one.get("rest") for one in story if 0 in (one["from"], one["to"]))
    cloud.play(10, rate=0)
    assert cloud.row.status["why"] == "demand: nobody asks now, and 1 is the least while it is awake."


def test_a_run_that_does_not_end_is_somebody_who_asks() -> None:
    cloud = Cloud(elastic(latency="150ms"))
    cloud.work_s = 1e9
    cloud.play(30, rate=1)
    assert cloud.row is not None
    assert re.fullmatch(
        r"demand: \d+ wait, what one takes is not known yet, and 1 is the least\.", cloud.row.status["why"]
    )


def test_few_rows_are_written_and_few_changes_kept() -> None:
    cloud = Cloud(elastic())
    cloud.play(360, rate=25)
    before = cloud.store.get("t", "scaling", "price").revision
    cloud.play(60, rate=25)
    assert cloud.store.get("t", "scaling", "price").revision - before <= 6, (
        "each ten seconds at most, where there are few"
    )
    status: dict[str, Any] = {"at": 1, "why": "", "unit": "EUR", "choices": []}
    for number in range(3 * CHANGES):
        status = {**status, "changes": changes_after(status, number, number + 1, status)}
    assert [change["to"] for change in status["changes"]] == list(range(2 * CHANGES + 1, 3 * CHANGES + 1))
    assert changes_after(status, 3, 3, status) == status["changes"]


def test_an_objective_that_no_number_keeps_is_said_and_buys_nothing() -> None:
    cloud = Cloud(elastic(latency="1ms"))
    cloud.play(240, rate=5)
    assert len(cloud.replicas) <= 2
    assert cloud.row is not None
    told = dict(cloud.row.status["lines"])["impossible"]
    assert told.startswith("latency='1ms' cannot be kept by any number of replicas: the fastest answer takes 98.3 ms;")
    assert elastic().cannot_keep(100_000.0) == elastic(latency="").cannot_keep(9e6) == ""


def test_where_all_replicas_fail_no_more_are_started() -> None:
    cloud = Cloud(elastic())
    cloud.play(30, rate=1)
    [name] = cloud.replicas
    cloud.compute.report(name, ready=False, failed=True, reason="BAD_MODEL", message="It cannot be read.")
    cloud.compute.kill(name, 3)
    cloud.play(50, rate=5)
    assert cloud.replicas == []
    assert len(cloud.store.rows("t", "replica")) == 1
    assert cloud.row is not None
    assert "Its replicas fail, and more of them would fail too." in cloud.row.message


def test_what_is_told_is_json_whatever_comes() -> None:
    cloud = Cloud(elastic())
    for rate in (0, 3, 0, 40, 0):
        cloud.play(20, rate)
        assert cloud.row is not None
        json.dumps(cloud.row.status, allow_nan=False)


def test_a_changed_declaration_is_followed() -> None:
    cloud = Cloud(elastic())
    cloud.play(60, rate=35)
    assert len(cloud.replicas) >= 4
    service = cloud.service
    spec = {**service.spec, "serve": elastic(replicas=(1, 2)).to_json()}
    changed = Resource("t", "service", "price", spec=spec, state=service.state, status=service.status)
    cloud.commit([Put(changed, service.revision)])
    cloud.play(20, rate=35)
    assert len(cloud.replicas) == 2
    assert cloud.row is not None
    assert dict(cloud.row.status["lines"])["limits"].endswith(" are wanted, and at most 2 are declared.")


def test_a_hold_of_seconds_is_one() -> None:
    cloud = Cloud(elastic(hold="3s"))
    cloud.play(30, rate=2)
    cloud.play(20, rate=35)
    assert len(cloud.replicas) >= 4
    cloud.play(40, rate=2)
    assert len(cloud.replicas) == 1


def test_runs_grow_before_another_replica_starts() -> None:
    """35 requests a second are four replicas' work where each has a run for itself; in runs of 50 they are a quarter of
    one's."""
    one_by_one, sharing = Cloud(elastic()), SharingCloud(elastic())
    for cloud in (one_by_one, sharing):
        cloud.play(120, rate=35)
    assert len(one_by_one.replicas) >= 4
    assert len(sharing.replicas) == 1
    assert sharing.row is not None
    measured = sharing.row.status["measured"]
    assert (measured["batch"], measured["work_s"], measured["alone_s"]) == (50, 0.0069, 0.1)
    assert sharing.row.status["came"] == pytest.approx(35 * 0.0069, rel=0.05)
    sharing.play(60, rate=400)  # and now runs are as large as they may be
    assert len(sharing.replicas) >= 3
    assert one_by_one.row is not None
    assert one_by_one.row.status["measured"]["batch"] <= 1


def test_rows_that_were_written_in_one_look_are_not_written_anew_in_one_look() -> None:
    scaling, rows, second, written = Scaling(), Rows(), 1_000.0, []
    of = elastic(hold="").to_json()
    for number in range(60):
        spec = {"model": f"s{number}", "serve": of, "versions": {"1": {"weight": 100}}}
        service = Resource("t", "service", f"s{number}", spec, state="READY")
        replica = Resource("t", "replica", f"s{number}-1-1", {"version": 1}, state="READY", parent=service.ref)
        rows = rows.changed([service, replica])
    for look in range(28):
        counts = {"requests": look * 10, "overloaded": 0, "expired": 0, "run_us": look * look * 10_000, "waiting": 0}
        report = {"ready": True, "told_at": int(second * SECOND), **counts, "counted": {"latency_us": []}}
        names = [row.process for row in rows.every("replica")]
        processes = {name: ProcessStatus(name, True, pid=1, report=report) for name in names}
        puts = scaling.look(Snapshot(rows, processes, {}, int(second * SECOND)), second, OWNED)
        rows = rows.changed([replace(put.resource, revision=put.expected + 1) for put in puts])
        written.append(len(puts))
        second += 5
    assert written[1] == 60, "all are new"
    assert max(written[2:]) == LEAST_REFRESHES
    assert sum(written[2:]) == 8 * 60, "a quarter of a minute for a quarter of as many as are written once a minute"


def test_a_changed_objective_is_told_with_the_next_look() -> None:
    cloud = Cloud(elastic())
    cloud.play(120, rate=5)
    service = cloud.store.get("t", "service", "price")
    spec = {**service.spec, "serve": elastic(latency="3s").to_json()}
    cloud.commit([Put(replace(service, spec=spec), service.revision)])
    assert cloud.row is not None
    cloud.play(6, rate=5)
    assert "within 3,000 ms" in dict(cloud.row.status["lines"])["objective"]
