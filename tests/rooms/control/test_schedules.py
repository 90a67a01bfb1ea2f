"""Jobs that begin by the clock, in the simulated cloud whose clock can be set."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.client.appfile import load_app
from skyriver.control.running import check_jobs, larger_than, plan_run
from skyriver.control.schedules import KEPT_RUNS, plan_pause, plan_resume
from skyriver.core.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from skyriver.core.jobs import Capacity
from skyriver.core.resources import Put, Resource
from skyriver.core.spec import AppSpec
from skyriver.wiring.deploy import plan_deploy, plan_removal
from skyriver.wiring.simulation import SimulatedClock, Simulation

HOUR = 3_600
DAY = 24 * HOUR
START = int(datetime(2026, 6, 1, 2, 30, tzinfo=UTC).timestamp())
THREE = START + HOUR // 2


class Cloud(Simulation):
    """It begins at half past two on the first of June 2026, UTC."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = SimulatedClock(START * 1_000_000)
        self.start_control()

    def deploy(self, spec: AppSpec, *, prune: bool = False) -> list[str]:
        code = {"bundle": "0" * 64, "main": "app.py"}
        plan = plan_deploy(self.loop.snapshot(), "t", spec, code, files={}, prune=prune)
        self.commit(list(plan.changes))
        return [f"{line.action} {line.kind}/{line.name}" for line in plan.lines]

    def ask(self, plan: Any, target: str, **params: Any) -> str:
        rows = plan(self.loop.snapshot(), "t", target, params, {})
        self.commit([Put(r, r.revision) for r in rows])
        return next(r.name for r in rows if r.kind == "operation")

    def get(self, kind: str, name: str) -> Resource:
        return self.store.get("t", kind, name)

    def jump(self, seconds: float) -> None:
        """Nobody was there in that time, or the clock was set."""
        self.clock.set(int(seconds * 1e6))
        self.settle(500)

    def go_to(self, second: float) -> None:
        self.jump(second - self.clock.wall() / 1e6)

    def runs(self) -> list[str]:
        jobs = sorted(self.store.rows("t", "job"), key=lambda j: int(j.name.rpartition("-")[2]))
        return [j.spec["slot"] for j in jobs]

    def finish(self, **report: Any) -> None:
        """Whatever runs succeeds."""
        for name, process in list(self.compute.running.items()):
            if process.alive:
                self.compute.report(name, **({"outcome": "succeeded"} | report))
        self.settle()


def nightly(expression: str = "0 3 * * *", **options: Any) -> AppSpec:
    app = sr.App("shop")
    settings = {"zone": "UTC"} | options

    @app.job(schedule=sr.Cron(expression, **settings))
    def clean(job: sr.Job) -> None: ...

    return app.spec


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def test_a_run_begins_at_its_time_and_once(cloud: Cloud) -> None:
    cloud.deploy(nightly())
    assert cloud.get("schedule", "clean").status["next_time"] == THREE * 1_000_000
    cloud.go_to(THREE - 1)
    assert cloud.runs() == []
    cloud.run(2)
    assert cloud.runs() == ["2026-06-01T03:00:00Z"]
    cloud.finish()
    cloud.run(100)
    schedule = cloud.get("schedule", "clean")
    assert cloud.runs() == ["2026-06-01T03:00:00Z"]
    assert schedule.status["next_time"] == (THREE + DAY) * 1_000_000
    assert schedule.status["runs"] == [{"slot": THREE * 1_000_000, "run": "clean-run-1"}]
    assert cloud.get("operation", "clean-run-1").state == "SUCCEEDED"
    assert cloud.get("operation", "clean-run-1").parent == "schedule/clean"


@pytest.mark.parametrize(
    ("missed", "days"), [("skip", []), ("once", [4]), ("all", [1, 2, 3, 4])], ids=lambda value: str(value)
)
def test_what_was_missed_goes_by_the_policy(cloud: Cloud, missed: str, days: list[int]) -> None:
    cloud.deploy(nightly(missed=missed))
    cloud.go_to(THREE + 3 * DAY + HOUR)
    for _ in range(6):
        cloud.finish()
    assert cloud.runs() == [f"2026-06-{day:02}T03:00:00Z" for day in days]
    assert cloud.get("schedule", "clean").status["next_time"] == (THREE + 4 * DAY) * 1_000_000
    if missed == "skip":
        assert cloud.get("schedule", "clean").reason == "MISSED"


def test_a_control_plane_that_comes_back_in_time_has_missed_nothing(cloud: Cloud) -> None:
    cloud.deploy(nightly(missed="skip"))
    cloud.go_to(THREE + 40)
    assert cloud.runs() == ["2026-06-01T03:00:00Z"]


def test_runs_do_not_overlap_unless_they_may(cloud: Cloud) -> None:
    cloud.deploy(nightly("*/10 * * * *"))
    cloud.go_to(START + 10 * 60 + 1)
    cloud.go_to(START + 20 * 60 + 1)
    assert len(cloud.runs()) == 1
    schedule = cloud.get("schedule", "clean")
    assert (schedule.reason, schedule.message.split()[0]) == ("OVERLAP", "clean-run-1")
    cloud.finish()
    assert cloud.runs() == ["2026-06-01T02:40:00Z", "2026-06-01T02:50:00Z"]
    cloud.deploy(nightly("*/10 * * * *", overlap=True))
    cloud.go_to(START + 30 * 60 + 1)
    assert len(cloud.runs()) == 3


def test_a_clock_that_jumps_a_year_forward_starts_few_runs_and_back_again_it_goes_on(cloud: Cloud) -> None:
    cloud.deploy(nightly("* * * * *", missed="all", overlap=True))
    cloud.jump(365 * DAY)
    for _ in range(120):
        cloud.settle()
        cloud.finish()
    assert len(cloud.store.rows("t", "operation")) <= 101
    before = len(cloud.runs())
    cloud.jump(-365 * DAY)
    cloud.run(1)
    assert len(cloud.runs()) == before
    cloud.go_to(START + 300)
    assert "2026-06-01T02:35:00Z" in cloud.runs(), "it does not rest for a year"


def test_a_clock_that_is_set_back_a_day_runs_nothing_twice(cloud: Cloud) -> None:
    cloud.deploy(nightly(missed="all"))
    cloud.go_to(THREE + DAY + 1)
    for _ in range(3):
        cloud.finish()
    assert len(cloud.runs()) == 2
    cloud.jump(-DAY - 60)
    cloud.run(120)
    cloud.finish()
    assert len(cloud.runs()) == 2
    cloud.go_to(THREE + 2 * DAY + 1)
    assert cloud.runs()[-1] == "2026-06-03T03:00:00Z"
    assert len(cloud.runs()) == 3


def test_a_schedule_is_paused_and_goes_on_with_its_next_time(cloud: Cloud) -> None:
    cloud.deploy(nightly(missed="all"))
    cloud.ask(plan_pause, "clean")
    assert (cloud.get("schedule", "clean").state, cloud.get("schedule", "clean").reason) == ("PAUSED", "ON_REQUEST")
    with pytest.raises(Conflict) as caught:
        cloud.ask(plan_pause, "clean")
    assert caught.value.code == "ALREADY_PAUSED"
    cloud.go_to(THREE + 3 * DAY + 60)
    assert cloud.runs() == []
    cloud.ask(plan_resume, "clean")
    cloud.run(1)
    assert cloud.runs() == []
    assert cloud.get("schedule", "clean").status["next_time"] == (THREE + 4 * DAY) * 1_000_000
    with pytest.raises(NotFound):
        cloud.ask(plan_pause, "nothing")


def test_a_changed_schedule_begins_anew_and_one_that_is_gone_begins_nothing(cloud: Cloud) -> None:
    cloud.deploy(nightly())
    assert "update schedule/clean" in cloud.deploy(nightly("0 5 * * *"))
    cloud.go_to(THREE + 60)
    assert cloud.runs() == []
    assert cloud.get("schedule", "clean").status["next_time"] == (THREE + 2 * HOUR) * 1_000_000
    app = sr.App("shop")

    @app.job()
    def clean(job: sr.Job) -> None: ...

    assert "remove schedule/clean" in cloud.deploy(app.spec)
    cloud.go_to(THREE + DAY)
    assert cloud.runs() == []
    assert "orphan task/clean" in cloud.deploy(sr.App("shop").spec)
    with pytest.raises(InvalidInput) as caught:
        cloud.ask(plan_run, "clean")
    assert caught.value.code == "NOT_DECLARED"
    assert "remove task/clean" in cloud.deploy(sr.App("shop").spec, prune=True)


def test_an_application_is_removed_with_its_jobs_and_schedules(cloud: Cloud) -> None:
    cloud.deploy(nightly())
    cloud.commit(plan_removal(cloud.loop.snapshot(), "t", "shop").changes)
    assert [r.ref for kind in ("app", "task", "schedule") for r in cloud.store.rows("t", kind)] == []
    cloud.go_to(THREE + DAY)
    assert cloud.runs() == []


def test_old_runs_are_forgotten_with_their_jobs(cloud: Cloud) -> None:
    cloud.deploy(nightly("* * * * *"))
    for minute in range(1, KEPT_RUNS + 20):
        cloud.go_to(START + 60 * minute + 1)
        cloud.finish()
    assert len(cloud.runs()) == len(cloud.store.rows("t", "operation")) == KEPT_RUNS + 1
    assert cloud.runs()[-1] == "2026-06-01T03:39:00Z"
    assert len(cloud.get("schedule", "clean").status["runs"]) == KEPT_RUNS


def pipeline() -> AppSpec:
    app = sr.App("shop")

    @app.job(params={"day": "today"}, cpus=0.5, memory="200MB", timeout="1h", retries=2, priority=3)
    def extract(job: sr.Job) -> None: ...

    @app.job(array=3, needs=[extract])
    def work(job: sr.Job) -> None: ...

    @app.job(needs=[work, extract], name="report")
    def write_report(job: sr.Job) -> None: ...

    @app.job()
    def other(job: sr.Job) -> None: ...

    return app.spec


def test_a_run_brings_what_it_needs(cloud: Cloud) -> None:
    cloud.deploy(pipeline())
    assert cloud.ask(plan_run, "report", day="monday") == "report-run-1"
    jobs = {j.name: j for j in cloud.store.rows("t", "job")}
    works = [f"report-run-1-work-{n}" for n in range(3)]
    assert set(jobs) == {"report-run-1-extract", *works, "report-run-1-report"}
    extract, report = jobs["report-run-1-extract"], jobs["report-run-1-report"]
    assert extract.spec["params"] == {"day": "monday"}
    assert report.spec["params"] == {}
    assert report.spec["needs"] == [*works, "report-run-1-extract"]
    assert extract.spec["limits"] == {"cpus": 0.5, "memory_mb": 200, "accelerators": {}, "seconds": 3_600}
    assert (extract.spec["retries"], extract.spec["priority"]) == (2, 3)
    cloud.finish(outputs={"result": "rows", "artifacts": {}})
    configs = [cloud.compute.specs[f"t.job.{name}"].config for name in works[:2]]
    assert [c["index"] for c in configs] == [0, 1]
    assert configs[0]["inputs"] == {"extract": {"result": "rows", "artifacts": {}}}
    for _ in range(3):
        cloud.finish()
    assert cloud.get("operation", "report-run-1").state == "SUCCEEDED"
    assert cloud.ask(plan_run, "other") == "other-run-1"
    assert cloud.get("job", "other-run-1").state == "RUNNING"


def test_a_run_that_cannot_be_is_refused(cloud: Cloud) -> None:
    cloud.deploy(pipeline())
    with pytest.raises(NotFound, match="There is no task 'nothing'"):
        cloud.ask(plan_run, "nothing")
    for target in ("extract", "report"):
        with pytest.raises(InvalidInput, match=r"has no parameter 'dya'\. Is 'day' meant\?") as caught:
            cloud.ask(plan_run, target, dya="monday")
        assert (caught.value.code, caught.value.next_action) == ("UNKNOWN_PARAMETER", "There are day.")
    with pytest.raises(InvalidInput, match="other has no parameter 'day'") as caught:
        cloud.ask(plan_run, "other", day="monday")
    assert caught.value.code == "UNKNOWN_PARAMETER"
    with pytest.raises(InvalidInput):
        plan_run(cloud.loop.snapshot(), "t", "extract", {}, {"files": []})
    with pytest.raises(QuotaExceeded, match=r"0\.5 cores and 200 MB; this machine gives jobs 2 cores and 100 MB"):
        check_jobs(pipeline(), Capacity(2, 100))


def test_a_gpu_where_there_is_none_is_refused_at_the_deployment() -> None:
    app = sr.App("shop")

    @app.job(gpus=2)
    def extract(job: sr.Job) -> None: ...

    with pytest.raises(QuotaExceeded, match=r"The job extract asks for 2 GPUs, and this machine has 1\.") as caught:
        check_jobs(app.spec, Capacity(2, 8_000, 1))
    assert "gpus=" in caught.value.next_action
    check_jobs(app.spec, Capacity(2, 8_000, 2))

    class Row(sr.Event):
        row: int
        x: float
        y: bool

    table = app.table("rows", Row, id="row")
    declared = app.train(app.features("f", table, {"x": table.x}), label=table.y, test=0.3, workers=2, gpus=1)
    app.model("net", declared(lambda ctx: None))
    with pytest.raises(
        QuotaExceeded, match=r"training of net asks for 1 GPU, and this machine has none that it may us"
    ):
        check_jobs(app.spec.model_copy(update={"jobs": ()}), Capacity(2, 8_000))
    check_jobs(app.spec, Capacity(2, 8_000, 2))


def test_a_replica_that_is_larger_than_the_machine_is_said() -> None:
    app = sr.App("shop")
    app.model("fits", onnx="a.onnx", serve=sr.Service(cpus=2, memory_mb=1_000))
    app.model("many", onnx="a.onnx", serve=sr.Service(cpus=500))
    app.model("much", onnx="a.onnx", serve=sr.Service(memory_mb=100_000))
    told = dict(larger_than(app.spec, Capacity(2, 8_000)))
    assert told.keys() == {"many", "much"}
    assert told["many"].startswith(
        "one replica declares 500 cores and 512 MB, and this machine has 2 cores and 8,000 MB"
    )


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("whole", 5, True),
        ("whole", 5.0, False),
        ("whole", "5", False),
        ("whole", True, False),
        ("whole", None, False),
        ("share", 1, True),
        ("share", 0.5, True),
        ("share", True, False),
        ("day", "monday", True),
        ("day", 2026, False),
        ("strict", False, True),
        ("strict", 0, False),
        ("rows", [3], True),
        ("rows", "3", False),
        ("open", None, True),
        ("open", 3, True),
    ],
)
def test_a_parameter_is_of_the_type_that_was_declared(cloud: Cloud, name: str, value: Any, taken: bool) -> None:
    app = sr.App("shop")

    @app.job(params={"whole": 3, "share": 0.1, "day": "today", "strict": True, "rows": [1], "open": None})
    def count(job: sr.Job) -> None: ...

    cloud.deploy(app.spec)
    if taken:
        cloud.ask(plan_run, "count", **{name: value})
        assert cloud.get("job", "count-run-1").spec["params"] == {name: value}
        return
    with pytest.raises(InvalidInput, match=f"The parameter {name} of count is") as caught:
        cloud.ask(plan_run, "count", **{name: value})
    assert (caught.value.code, caught.value.where) == ("BAD_PARAMETER", name)
    assert cloud.store.rows("t", "job") == []


def test_names_of_models_and_jobs_are_one_set() -> None:
    app = sr.App("shop")
    app.model("clean", onnx="clean.onnx")
    with pytest.raises(InvalidInput, match="job or model 'clean'"):
        app.job()(_named("clean"))
    app.job()(_named("tidy_up"))
    assert app.spec.jobs[0].name == "tidy-up"
    with pytest.raises(InvalidInput, match="model or job"):
        app.model("tidy-up", onnx="clean.onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "2 gigs"}, "'2 gigs' is not a size of memory"),
        ({"timeout": "soon"}, "'soon' is not a time limit"),
        ({"array": 1_001}, "array=1001"),
        ({"retries": -1}, "retries=-1"),
        ({"params": {"x": object()}}, "cannot be told as JSON"),
        ({"needs": [len]}, "is not a job"),
        ({"name": "Not A Name"}, "cannot name a job"),
        ({"schedule": "* * * * *"}, 'Write sr.Cron("* * * * *").'),
        ({"schedule": 3}, 'Write sr.Cron("0 3 * * *").'),
    ],
)
def test_a_declaration_that_is_wrong_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sr.App("shop").job(**options)(_named("clean"))
    assert words in str(caught.value)


def test_a_function_that_takes_no_job_is_refused_where_it_is_declared(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text("import skyriver as sr\n\napp = sr.App('shop')\n\n\n@app.job()\ndef tidy():\n    return 1\n")
    with pytest.raises(
        InvalidInput, match=r"tidy cannot be called with a job alone\..*def tidy\(job: sr\.Job\)"
    ) as caught:
        load_app(file)
    assert (caught.value.code, caught.value.where) == ("BAD_JOB", f"{file}:6")


@pytest.mark.parametrize("function", [lambda: 1, lambda job, day: day, lambda *, job: job])
def test_a_function_that_a_job_alone_cannot_call_is_refused(function: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be called with a job alone"):
        sr.App("shop").job(name="tidy")(function)


@pytest.mark.parametrize("function", [lambda job: job, lambda job, day="today": day, lambda *given: given])
def test_a_function_that_a_job_alone_can_call_is_taken(function: Any) -> None:
    app = sr.App("shop")
    app.job(name="tidy")(function)
    assert app.spec.jobs[0].name == "tidy"


def _named(name: str) -> Any:
    def function(job: sr.Job) -> None: ...

    function.__name__ = function.__qualname__ = name
    return function


def test_a_run_that_there_is_no_money_for_is_not_begun_and_says_so(cloud: Cloud) -> None:
    cloud.deploy(nightly())
    budget = Resource("t", "budget", "app-shop", spec={}, state="SPENT", message="All is spent.", next_action="Wait.")
    cloud.commit([Put(budget, 0)])
    cloud.go_to(THREE + 1)
    schedule = cloud.get("schedule", "clean")
    assert (cloud.runs(), schedule.state, schedule.reason) == ([], "ACTIVE", "BUDGET_SPENT")
    assert "All is spent." in schedule.message
    cloud.commit([Put(replace(budget, state="WITHIN"), cloud.get("budget", "app-shop").revision)])
    cloud.go_to(THREE + DAY + 1)
    assert cloud.runs() == ["2026-06-02T03:00:00Z"]
    assert cloud.get("schedule", "clean").reason == ""
