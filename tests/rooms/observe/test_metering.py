"""What is used and by whom: from looks to amounts, over restarts, clocks that jump, control planes that were away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from skyriver.core.prices import CORE, EGRESS, MEMORY, STORAGE
from skyriver.core.resources import UNDECLARED_MB, ProcessStatus, Resource, Snapshot
from skyriver.core.usage import HOUR, PREDICTIONS, Subject
from skyriver.observe.metering import AWAY_MS, Counter, Look, Mark, meter, reserved, total

NOON = 495_000 * HOUR
SHOP = Subject("shop", "service", "comes_back")
ORDERS = Subject("shop", "stream", "orders")
FIT = Subject("shop", "job", "train-comes_back")


def service(cpus: float = 0.5, memory_mb: int = 200) -> list[Resource]:
    serve = {"replicas": 1, "cpus": cpus, "memory_mb": memory_mb}
    spec = {"model": "comes_back", "serve": serve, "versions": {}}
    return [
        Resource("default", "service", "comes_back", spec=spec, parent="app/shop", state="READY"),
        Resource("default", "replica", "comes_back-1-1", parent="service/comes_back", state="READY"),
        Resource("default", "stream", "orders", parent="app/shop", state="READY"),
        Resource("default", "worker", "orders-0", parent="stream/orders", state="READY"),
    ]


def job(state: str, *, began: int = 0, since: int = 0, revision: int = 1, **spec: Any) -> Resource:
    spec = {"kind": "train", "target": "comes_back", "app": {"name": "shop"}, **spec}
    status = {"start_time": began} if began else {}
    row = Resource("default", "job", "comes_back-run-1-train", spec=spec, status=status, state=state, since=since)
    return replace(row, revision=revision)


def alive(name: str, began: int, **report: Any) -> ProcessStatus:
    return ProcessStatus(f"default.{name}", alive=True, pid=7, started_at=began, report=report)


REPLICA, WORKER, TRAIN = "replica.comes_back-1-1", "worker.orders-0", "job.comes_back-run-1-train"


def test_a_replica_counts_with_what_was_measured_where_nobody_declared_its_memory() -> None:
    rows = service(memory_mb=UNDECLARED_MB)
    sizing = {"sizing": {"1": {"memory_mb": 144}}}
    for declared, of in ((rows[0], UNDECLARED_MB), (replace(rows[0], status=sizing), 144)):
        snapshot = Snapshot({row.key: row for row in (declared, *rows[1:2])}, {}, {}, NOON)
        assert [limits.memory_mb for _, _, limits in reserved(snapshot)] == [of]


class World:
    """Looks one after the other; time goes by on both clocks unless one is set."""

    def __init__(self, mark: Mark | None = None) -> None:
        self.wall, self.at_ms, self.boot, self.mark = NOON, 1_000_000, "boot 1", mark
        self.rows = service()
        self.processes: dict[str, ProcessStatus] = {}
        self.sent: list[tuple[Counter, str]] = []
        self.stored: dict[tuple[str, Subject], int] = {}
        self.last: Mapping[Any, Any] = {}
        self.look()

    def look(self, seconds: float = 0.0) -> Mapping[Subject, Mapping[str, int]]:
        """What was used within `seconds` that go by."""
        self.pass_by(seconds)
        rows = {row.key: row for row in self.rows}
        snapshot = Snapshot(rows, dict(self.processes), {}, self.wall)
        self.mark, self.last = meter(self.mark, Look(snapshot, self.boot, self.at_ms, self.sent, self.stored))
        return total(self.last)

    def pass_by(self, seconds: float) -> None:
        self.wall += round(seconds * 1e6)
        self.at_ms += round(seconds * 1e3)

    def run(self, name: str, *, ago: float = 0.0, **report: Any) -> None:
        self.processes[f"default.{name}"] = alive(name, self.wall - round(ago * 1e6), **report)

    def end(self, name: str) -> None:
        status = self.processes[f"default.{name}"]
        self.processes[f"default.{name}"] = replace(status, alive=False)


def test_a_replica_is_counted_from_its_start_whether_it_is_ready_or_not() -> None:
    world = World()
    world.pass_by(3.0)
    world.run(REPLICA)
    assert world.look(2.0)[SHOP] == {CORE: 500 * 2_000, MEMORY: 200 * 2_000}
    assert world.look(5.0)[SHOP] == {CORE: 500 * 5_000, MEMORY: 200 * 5_000}
    world.end(REPLICA)
    assert world.look(5.0) == {}


def test_a_worker_that_declares_nothing_counts_as_a_core_and_512_mb() -> None:
    world = World()
    world.run(WORKER)
    assert world.look(4.0)[ORDERS] == {CORE: 1_000 * 4_000, MEMORY: 512 * 4_000}


def test_a_process_that_was_started_again_counts_from_its_own_start() -> None:
    world = World()
    world.run(REPLICA)
    world.look(5.0)
    world.pass_by(4.0)
    world.run(REPLICA)  # the one before died meanwhile
    assert world.look(1.0)[SHOP][CORE] == 500 * 1_000


def test_what_ran_before_anything_was_counted_counts_from_then_on() -> None:
    world = World()
    world.mark = None
    world.run(REPLICA, ago=1_000.0, rows=10_000)
    assert world.look() == {}
    assert world.look(5.0)[SHOP] == {CORE: 500 * 5_000, MEMORY: 200 * 5_000}


# Control planes that end


def test_what_lived_on_while_the_control_plane_was_away_is_counted_once() -> None:
    world = World()
    world.run(REPLICA, rows=10)
    world.look(5.0)
    kept = Mark.of(world.mark.to_json()) if world.mark is not None else None
    world.look(5.0)  # not written: the control plane is killed
    world.mark = kept
    world.run(REPLICA, ago=3_600.0, rows=500)
    world.processes[f"default.{REPLICA}"] = replace(world.processes[f"default.{REPLICA}"], started_at=NOON)
    counted = world.look(3_590.0)[SHOP]
    assert counted[CORE] == 500 * 3_595_000
    assert counted[PREDICTIONS] == 490


def test_what_began_and_ended_while_it_was_away_is_not_made_up() -> None:
    world = World()
    world.run(REPLICA)
    world.look(5.0)
    world.end(REPLICA)
    world.rows.append(job("SUCCEEDED", began=world.wall, since=world.wall + 600_000_000, revision=9))
    assert world.look(AWAY_MS / 1e3 + 600.0) == {}


def test_after_the_machine_was_started_anew_nothing_is_older_than_that() -> None:
    world = World()
    world.run(REPLICA)
    world.look(5.0)
    world.boot, world.at_ms = "boot 2", 60_000  # a minute ago
    world.wall += 86_400_000_000
    world.run(REPLICA, ago=40.0)
    assert world.look()[SHOP][CORE] == 500 * 40_000
    world.run(WORKER, ago=86_000.0)  # a clock that was wrong when it began
    assert world.look(5.0)[ORDERS][CORE] == 1_000 * 5_000


# Clocks


@pytest.mark.parametrize("step_s", [-86_400, -61, 61, 86_400, 10 * 365 * 86_400])
def test_a_clock_that_is_set_counts_no_time_twice_and_invents_none(step_s: int) -> None:
    world = World()
    world.run(REPLICA)
    world.look(5.0)
    world.wall += step_s * 1_000_000
    assert world.look(5.0)[SHOP][CORE] == 500 * 5_000
    world.run(WORKER)
    assert world.look(5.0) == {
        SHOP: {CORE: 500 * 5_000, MEMORY: 200 * 5_000},
        ORDERS: {CORE: 1_000 * 5_000, MEMORY: 512 * 5_000},
    }


def test_a_process_that_begins_as_the_clock_is_set_counts_at_most_for_the_time_between_two_looks() -> None:
    for step_s in (-3_600, 3_600):
        world = World()
        world.run(REPLICA)
        world.wall += step_s * 1_000_000
        assert 0 <= world.look(5.0).get(SHOP, {}).get(CORE, 0) <= 500 * 5_000
        assert world.look(5.0)[SHOP][CORE] == 500 * 5_000


def test_time_goes_into_the_hours_that_it_was_in() -> None:
    world = World()
    world.run(REPLICA)
    world.look(3_595.0)
    world.look(7_210.0)  # 5 s of the first hour, two whole hours, 5 s
    by_hour = {hour: used[SHOP][CORE] // 500 for (_, hour), used in world.last.items()}
    assert by_hour == {NOON: 5_000, NOON + HOUR: 3_600_000, NOON + 2 * HOUR: 3_600_000, NOON + 3 * HOUR: 5_000}


# Jobs


def test_a_job_is_counted_while_it_runs_and_to_its_end() -> None:
    world = World()
    began = world.wall
    world.rows.append(job("RUNNING", began=began, limits={"cpus": 2.0, "memory_mb": 1_000}))
    world.run(TRAIN)
    assert world.look(5.0)[FIT] == {CORE: 2_000 * 5_000, MEMORY: 1_000 * 5_000}
    del world.processes[f"default.{TRAIN}"]
    world.rows[-1] = job("SUCCEEDED", began=began, since=world.wall + 3_000_000, revision=2, limits={"cpus": 2.0})
    assert world.look(5.0)[FIT][CORE] == 2_000 * 3_000
    assert world.look(5.0) == {}


def test_a_job_whose_work_is_spread_is_counted_with_the_cores_that_it_was_given() -> None:
    world = World()
    row = job("RUNNING", began=world.wall, workers=16)
    world.rows.append(replace(row, status={**row.status, "workers": 4}))
    world.run(TRAIN)
    assert world.look(5.0)[FIT] == {CORE: 4_000 * 5_000, MEMORY: 5 * 512 * 5_000}


def test_a_job_that_no_look_saw_alive_is_counted_by_its_row_and_once() -> None:
    world = World()
    began, ended = world.wall + 1_000_000, world.wall + 3_500_000
    world.rows.append(job("SUCCEEDED", began=began, since=ended, revision=5))
    assert world.look(5.0)[FIT] == {CORE: 1_000 * 2_500, MEMORY: 512 * 2_500}
    assert world.look(5.0) == {}
    world.rows[-1] = job("FAILED", revision=6)  # it never began
    assert world.look(5.0) == {}


def test_rows_of_a_prediction_of_many_are_counted_once_when_its_job_has_succeeded() -> None:
    world, began = World(), NOON
    scored = Subject("shop", "job", "predict-comes_back")
    world.rows.append(job("RUNNING", began=began, kind="predict"))
    world.look(1.0)
    told = {"outputs": {"counts": {"rows_read": 1_005, "rows_scored": 1_000, "rows_bad": 5}}}
    ended = job("SUCCEEDED", began=began, since=began + 2_000_000, revision=2, kind="predict")
    world.rows[-1] = replace(ended, status={**ended.status, **told})
    assert world.look(1.0)[scored][PREDICTIONS] == 1_000
    assert PREDICTIONS not in world.look(5.0).get(scored, {})
    failed = job("FAILED", began=began, revision=3, kind="predict")
    world.rows[-1] = replace(failed, status={**failed.status, **told})
    assert PREDICTIONS not in world.look(5.0).get(scored, {})


def test_declared_jobs_have_their_own_name_and_accelerators_count() -> None:
    world = World()
    limits = {"cpus": 1.0, "memory_mb": 1, "accelerators": {"h100": 2}}
    world.rows.append(job("RUNNING", kind="call", target="report", limits=limits))
    world.run(TRAIN)
    used = world.look(1.0)[Subject("shop", "job", "report")]
    assert used == {CORE: 1_000_000, MEMORY: 1_000, "accelerator_hour.h100": 2_000}
    spread = job("RUNNING", kind="call", target="spread", limits={"accelerators": {"gpu": 1}})
    world = World()
    world.rows.append(replace(spread, status={**spread.status, "workers": 2}))
    world.run(TRAIN)
    assert world.look(1.0)[Subject("shop", "job", "spread")]["accelerator_hour.gpu"] == 2_000, "one for each worker"


# Counters


def test_rows_of_a_replica_are_counted_over_its_restarts() -> None:
    world = World()
    world.run(REPLICA, rows=5)
    assert world.look(5.0)[SHOP][PREDICTIONS] == 5
    began = world.processes[f"default.{REPLICA}"].started_at
    for rows, grown in ((12, 7), (12, 0)):
        world.processes[f"default.{REPLICA}"] = alive(REPLICA, began, rows=rows)
        assert world.look(5.0)[SHOP].get(PREDICTIONS, 0) == grown
    world.processes[f"default.{REPLICA}"] = alive(REPLICA, began)  # its report is not there just now
    world.look(5.0)
    world.processes[f"default.{REPLICA}"] = alive(REPLICA, began, rows=13)
    assert world.look(5.0)[SHOP][PREDICTIONS] == 1
    world.run(REPLICA, rows=4)
    assert world.look(5.0)[SHOP][PREDICTIONS] == 4


def test_decisions_of_a_stream_are_counted_once_though_a_worker_tells_them_anew() -> None:
    world = World()
    counts = (100, 150, 0, 90, 150, 160)  # a worker that lost its checkpoint reads its log once more
    grown = []
    for decided in counts:
        world.run(WORKER, ready=True, decided=decided)
        grown.append(world.look(5.0)[ORDERS].get(PREDICTIONS, 0))
    assert grown == [0, 50, 0, 0, 0, 10]


def test_answered_bytes_are_whose_server_sent_them() -> None:
    world = World()
    name = f"default.{REPLICA}"

    def sent(count: int, gateway: str = "gateway 1") -> int:
        world.sent = [(Counter(gateway, "since it began", count), name)]
        return world.look(5.0).get(SHOP, {}).get(EGRESS, 0)

    assert [sent(100), sent(300), sent(50), sent(60), sent(20, "gateway 2")] == [100, 200, 50, 10, 20]
    world.sent = []  # the gateway is away
    world.look(5.0)
    assert sent(25, "gateway 2") == 5
    world.sent = [(Counter("gateway 3", "since it began", 9), "other.activator.x")]
    world.look(5.0)
    assert world.last[("other", NOON)] == {Subject("", "other", "gateway"): {EGRESS: 9}}


def test_storage_is_bytes_times_time() -> None:
    world = World()
    table = Subject("shop", "table", "orders")
    world.stored = {("default", table): 10**9}
    assert world.look(10.0)[table] == {STORAGE: 10**9 * 10_000}
