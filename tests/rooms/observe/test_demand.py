"""What is asked of an elastic service, as its replicas tell it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.units import SECOND
from skyriver.observe.demand import LOOK_S, START_S, DemandMeter, Measured

HOLDER = "t.activator.activator"


class Stage:
    """The service `price`, whose replicas tell what is said here, looked at every LOOK_S."""

    def __init__(self, **serve: Any) -> None:
        self.meter = DemandMeter()
        self.serve = sr.Service(**{"replicas": (0, 4), "latency": "50ms", **serve})
        self.second = 1000.0
        self.processes: dict[str, ProcessStatus] = {}
        self.replicas: dict[str, Resource] = {}
        self.sessions: dict[str, int] = {}

    @property
    def now(self) -> int:
        return int(self.second * SECOND)

    def replica(self, number: int = 1, *, pid: int = 0, state: str = "READY", took_s: float = 0.8, **kept: Any) -> str:
        name = f"price-1-{number}"
        made = self.now - int(took_s * SECOND)
        row = Resource("t", "replica", name, {"version": 1}, state=state, parent="service/price")
        row = Resource(**{**{f: getattr(row, f) for f in row.__slots__}, "since": self.now, "created_at": made, **kept})
        self.replicas[name] = row
        if state == "READY":
            status = ProcessStatus(row.process, True, pid=pid or number, started_at=made, report={"ready": True})
            self.processes[row.process] = status
            self.tell(number)
        return row.process

    def tell(self, number: int = 1, *, cpu: float = 0.0, told_at: int = 0, **grown: Any) -> None:
        """Numbers are added to what it told before."""
        name = f"t.replica.price-1-{number}"
        before = self.processes[name]
        counts = {"requests": 0, "overloaded": 0, "expired": 0, "run_us": 0, "waiting": 0, **before.report}
        for what, value in grown.items():
            is_count = what not in ("waiting", "counted", "row_us", "peak_mb") and isinstance(value, int | float)
            counts[what] = counts.get(what, 0) + value if is_count else value
        report = {**counts, "told_at": told_at or self.now}
        self.processes[name] = ProcessStatus(
            name,
            True,
            pid=before.pid,
            started_at=before.started_at,
            report=report,
            cpu_seconds=before.cpu_seconds + cpu,
        )

    def hold(self, waiting: int, **told: Any) -> None:
        report = {"ready": True, "waiting": {"price": waiting} if waiting else {}, "services": {"price": told}}
        self.processes[HOLDER] = ProcessStatus(HOLDER, True, pid=99, report=report)

    def snapshot(self) -> Snapshot:
        spec = {"serve": self.serve.to_json(), "versions": {"1": {"weight": 100}}}
        service = Resource("t", "service", "price", spec=spec, state="READY")
        rows = {row.key: row for row in (service, *self.replicas.values())}
        return Snapshot(rows, dict(self.processes), dict(self.sessions), self.now)

    def look(self, **more: float) -> Measured:
        found = self.meter.look(self.snapshot(), self.second, **more)
        self.second += LOOK_S
        return found["t/price"]


@pytest.fixture
def stage() -> Stage:
    """With one replica, looked at once."""
    stage = Stage()
    stage.replica()
    assert stage.look().stale == "It is looked at for the first time."
    stage.tell()
    return stage


def test_work_is_what_came_by_what_one_takes(stage: Stage) -> None:
    stage.tell(requests=100, run_us=2 * SECOND, cpu=0.5)
    seen = stage.look()
    assert (seen.stale, seen.ready, seen.pending) == ("", 1, 0)
    assert (seen.requests, seen.judged, seen.late) == (100, 100, 0)
    assert seen.work_s == pytest.approx(0.02)
    assert seen.work == pytest.approx(2.0)


def test_the_processor_s_time_counts_where_it_is_more(stage: Stage) -> None:
    stage.tell(requests=100, run_us=SECOND, cpu=3.0)
    assert stage.look().work_s == pytest.approx(0.03)


def test_what_an_idle_replica_takes_is_not_put_down_to_the_few_who_ask(stage: Stage) -> None:
    for _ in range(4):
        stage.tell(cpu=0.1)
        assert stage.look().work == 0
    stage.tell(requests=1, cpu=0.11)
    assert stage.look().work_s == pytest.approx(0.01)


def test_what_waits_has_come_and_is_not_counted_again_when_it_is_answered(stage: Stage) -> None:
    stage.tell(requests=100, run_us=SECOND, waiting=40)
    seen = stage.look()
    assert (seen.requests, seen.judged) == (140, 100)
    assert seen.backlog == pytest.approx(0.4)
    stage.tell(requests=40, run_us=400_000, waiting=0)
    seen = stage.look()
    assert (seen.requests, seen.judged, seen.backlog) == (0, 40, 0)


def test_what_the_gateway_has_under_way_waits_too(stage: Stage) -> None:
    stage.tell(requests=100, run_us=SECOND, waiting=2)
    stage.sessions = {"t.replica.price-1-1": 30}
    assert stage.look().backlog == pytest.approx(0.3)


def test_late_is_what_took_longer_found_no_room_or_was_given_up(stage: Stage) -> None:
    stage.tell(
        requests=100, overloaded=5, run_us=SECOND, counted={"latency_us": [[40_000, 80], [49_152, 8], [57_344, 12]]}
    )
    assert stage.look().late == 17


def test_without_an_objective_only_what_was_not_answered_is_late() -> None:
    stage = Stage(latency="")
    stage.replica()
    stage.look()
    stage.tell(requests=100, overloaded=3, expired=2, run_us=SECOND, counted={"latency_us": [[57_344, 100]]})
    assert stage.look().late == 5


def test_what_is_held_waits_and_is_late_once_it_is_held_longer_than_an_answer_may_take(stage: Stage) -> None:
    stage.hold(0)
    stage.look()
    stage.tell(requests=10, run_us=100_000)
    stage.hold(20, hold_us=[[900_000, 8]], expired=1, refused=2)
    seen = stage.look()
    assert seen.requests == 33
    assert seen.judged == 13
    assert seen.late == 11
    assert seen.backlog == pytest.approx(0.2)


def test_what_wakes_it_may_take_as_long_as_is_declared() -> None:
    stage = Stage(wake="2s")
    stage.replica()
    stage.hold(0)
    stage.look()
    stage.tell(requests=10, run_us=100_000)
    stage.hold(0, hold_us=[[900_000, 8], [2_097_152, 1]])
    assert stage.look().late == 1


def test_a_look_that_is_late_tells_of_as_long_as_any(stage: Stage) -> None:
    stage.second += LOOK_S
    stage.tell(requests=100, run_us=SECOND)
    seen = stage.look()
    assert (seen.requests, seen.judged) == (50, 50)
    assert (seen.answered, seen.missed) == (100, 0), "what came is counted whole"


def test_a_look_that_is_early_counts_a_request_once(stage: Stage) -> None:
    stage.second -= 0.8 * LOOK_S
    stage.tell(requests=1, overloaded=1, run_us=10_000)
    seen = stage.look()
    assert seen.judged == pytest.approx(5.0)
    assert (seen.answered, seen.missed) == (1, 1)


def test_a_process_that_began_anew_counts_from_nothing(stage: Stage) -> None:
    stage.tell(requests=1000, run_us=SECOND)
    stage.look()
    stage.replica(pid=7)
    stage.tell(requests=30, run_us=30_000)
    seen = stage.look()
    assert (seen.stale, seen.judged) == ("", 30)


def test_one_that_was_there_before_anybody_looked_is_compared_with_itself_only(stage: Stage) -> None:
    stage.replica(2)
    stage.processes["t.replica.price-1-2"] = ProcessStatus(
        "t.replica.price-1-2", True, pid=2, started_at=1, report=stage.processes["t.replica.price-1-2"].report
    )
    stage.tell(2, requests=5000)
    assert stage.look().judged == 0


def test_a_request_of_which_nothing_is_known_takes_what_the_model_alone_did() -> None:
    stage = Stage()
    stage.replica()
    stage.tell(row_us=4_000.0)
    stage.look()
    stage.tell(row_us=4_000.0)
    assert stage.look().work_s == pytest.approx(0.004)


def test_the_start_is_what_most_starts_took(stage: Stage) -> None:
    assert stage.look().start_s == pytest.approx(0.8)
    for number in range(2, 12):
        stage.replica(number, took_s=1.0 + number / 10)
    seen = stage.look()
    assert seen.start_s == pytest.approx(2.0)
    assert seen.ready == 11


def test_one_that_died_meanwhile_does_not_tell_how_long_a_start_takes() -> None:
    stage = Stage()
    stage.replica(took_s=300.0, status={"dead_pid": 3})
    assert stage.look().start_s == START_S


def test_what_starts_is_counted_on_until_it_is_overdue(stage: Stage) -> None:
    stage.replica(2, state="STARTING")
    stage.replica(3, state="FAILED")
    seen = stage.look()
    assert (seen.ready, seen.pending) == (1, 1)
    assert seen.notes == ("The replica price-1-3 failed: it is not counted on.",)
    stage.second += 10
    stage.tell()
    seen = stage.look()
    assert (seen.ready, seen.pending) == (1, 0)
    assert seen.notes[0].startswith("The replica price-1-2 is starting for 15 s, and a start takes 0.8 s")


def test_where_all_replicas_fail_nothing_is_decided() -> None:
    stage = Stage()
    stage.replica(state="FAILED")
    stage.look()
    assert stage.look().stale == "Its replicas fail, and more of them would fail too."


def test_one_that_tells_nothing_is_not_counted_on_and_when_none_does_nothing_is_known(stage: Stage) -> None:
    stage.replica(2)
    stage.look()
    for _ in range(4):
        stage.tell(1, requests=10, run_us=10_000)
        seen = stage.look()
    assert (seen.stale, seen.ready, seen.judged) == ("", 1, 10)
    assert seen.notes == ("The replica price-1-2 tells nothing: it is not counted on.",)
    for _ in range(4):
        seen = stage.look()
    assert seen.stale == "No replica has told anything for 8 s."


def test_one_whose_report_is_of_the_future_tells_nothing(stage: Stage) -> None:
    """A clock that was set back: else one that hangs would be believed until it is then."""
    stage.tell(requests=10, run_us=10_000, told_at=stage.now + 3_600 * SECOND)
    assert stage.look().stale == "No replica has told anything for 8 s."


def test_of_a_time_in_which_nobody_looked_nothing_is_known(stage: Stage) -> None:
    stage.second += 60
    stage.tell(requests=5_000)
    assert stage.look().stale == "Nobody looked for 65 s."
    stage.tell(requests=50, run_us=50_000)
    assert stage.look(unseen_s=30.0).stale == "Nobody looked for 30 s."
    stage.tell(requests=50, run_us=50_000)
    assert stage.look().stale == ""


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"requests": math.nan}, "price-1-1 tells requests=nan, which cannot be."),
        ({"run_us": math.inf}, "price-1-1 tells run_us=inf, which cannot be."),
        ({"waiting": -3}, "price-1-1 tells waiting=-3, which cannot be."),
        ({"waiting": "many"}, "price-1-1 tells waiting='many', which cannot be."),
        ({"requests": -60}, "price-1-1 tells requests=40, and told 100 before: a count does not fall."),
        ({"requests": 10**10}, "price-1-1 tells 10,000,000,000 requests within 5 s, which cannot be."),
        ({"requests": 10, "run_us": 200 * SECOND}, "price-1-1 tells 10 requests within 5 s, which cannot be."),
        ({"requests": 1, "counted": {"latency_us": [["x", 1]]}}, "price-1-1 tells latencies that cannot be read."),
        ({"requests": 1, "counted": {"latency_us": [[5, -1]]}}, "price-1-1 tells latencies that cannot be."),
        (
            {"requests": 1, "counted": {"latency_us": [[57_344, 50]]}},
            "price-1-1 tells fewer answers that are slow than before: a count does not fall.",
        ),
    ],
)
def test_what_cannot_be_is_not_used_and_is_said(stage: Stage, told: dict[str, Any], why: str) -> None:
    stage.tell(requests=100, run_us=SECOND, counted={"latency_us": [[57_344, 100]]})
    known = stage.look()
    stage.tell(**told)
    assert stage.look().stale == why
    stage.processes = {}
    stage.replica(pid=5)
    stage.look()
    stage.tell(requests=10, run_us=100_000)
    seen = stage.look()
    assert seen.stale == ""
    assert seen.work_s == pytest.approx(known.work_s)


def test_what_is_remembered_is_known_to_the_next(stage: Stage) -> None:
    stage.tell(requests=100, run_us=2 * SECOND)
    stage.look()
    stage.meter = DemandMeter(stage.meter.remember())
    stage.tell()
    seen = stage.look()
    assert seen.start_s == pytest.approx(0.8)
    assert seen.work_s == pytest.approx(0.02)


def test_what_is_remembered_of_services_that_are_gone_is_forgotten_also_where_there_is_none(stage: Stage) -> None:
    stage.look()
    later = DemandMeter(stage.meter.remember())
    assert later.look(Snapshot({}, {}, {}, 0), 5.0) == {}
    assert later.remember() == {}


def test_services_that_do_not_follow_the_load_are_not_looked_at() -> None:
    for replicas in (2, (2, 2), (0, 1)):
        stage = Stage(replicas=replicas)
        assert stage.meter.look(stage.snapshot(), 1.0) == {}


def test_what_the_fastest_took_is_known(stage: Stage) -> None:
    stage.tell(requests=3, run_us=900, counted={"latency_us": [[448, 2], [57_344, 1]]})
    assert stage.look().fastest_s == pytest.approx(448e-6)


def test_memory_is_the_most_that_was_ever_held_and_not_what_is_held_at_the_looks(stage: Stage) -> None:
    process = "t.replica.price-1-1"
    for held, told, most in (
        (100.0, 900.5, 900.5),
        (950.0, 900.5, 950.0),
        (100.0, "900", 100.0),
        (100.0, 1e300, 100.0),
    ):
        stage.tell(requests=1, peak_mb=told)
        stage.processes[process] = replace(stage.processes[process], rss_mb=held)
        assert stage.look().rss_mb == most


def test_a_larger_run_goes_before_another_replica(stage: Stage) -> None:
    """90 requests a second, each with a run of 11 ms for itself: almost all of a replica, and a tenth of it in runs of
    64 rows."""
    curve = {"max_batch": 64, "fixed_us": 10_000, "each_us": 1_000}
    busy = {"requests": 450, "runs": 450, "rows": 450, "run_us": 450 * 11_000}
    process = "t.replica.price-1-1"
    stage.processes[process] = replace(stage.processes[process], report={**stage.processes[process].report, **curve})
    stage.tell(**busy)
    seen = stage.look()
    assert seen.work_s == pytest.approx(0.001 + 0.010 / 64)
    assert seen.alone_s == pytest.approx(0.011)
    assert seen.work / LOOK_S == pytest.approx(90 * seen.work_s)
    assert seen.batch == 64


def test_without_an_objective_work_is_as_runs_are(stage: Stage) -> None:
    stage.serve = sr.Service(replicas=(1, 4))
    process = "t.replica.price-1-1"
    curve = {"max_batch": 64, "fixed_us": 10_000, "each_us": 1_000}
    stage.processes[process] = replace(stage.processes[process], report={**stage.processes[process].report, **curve})
    stage.tell(requests=100, runs=100, rows=100, run_us=100 * 11_000)
    seen = stage.look()
    assert (seen.work_s, seen.batch) == (pytest.approx(0.011), 0)


def test_how_runs_are_shared_is_remembered(stage: Stage) -> None:
    stage.tell(requests=100, runs=50, rows=200, run_us=SECOND)
    stage.look()
    told = stage.meter.remember()["t/price"]
    assert (told["runs"], told["rows"]) == (pytest.approx(0.5), pytest.approx(2.0))
    again = DemandMeter({"t/price": told})
    assert again.remember()["t/price"] == told
