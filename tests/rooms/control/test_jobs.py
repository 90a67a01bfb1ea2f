"""Jobs in the real loop with nothing real around it: turns, attempts, endings, cancelling."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from skyriver.control.admission import admit
from skyriver.control.cancelling import plan_cancel
from skyriver.control.jobs import JOB, KEPT_ATTEMPTS, job_kind
from skyriver.control.operations import OPERATION
from skyriver.core.errors import Conflict, NotFound
from skyriver.core.jobs import FAULTS, Capacity, Ending, new_job, new_operation, pause_before_retry
from skyriver.core.resources import GPU, Limits, Put, Resource, Snapshot
from skyriver.wiring.simulation import Simulation

APP = Resource("t", "app", "shop", spec={"spec": {"name": "shop"}, "code": {"bundle": "0" * 64, "main": "shop.py"}})
EMPTY = Snapshot({}, {}, {}, 0)


class Cloud(Simulation):
    """Two cores and 4,000 MB."""

    def __init__(self, capacity: Capacity = Capacity(2.0, 4_000)) -> None:  # noqa: B008  # it is frozen
        super().__init__({"job": job_kind(capacity), "operation": OPERATION})

    def add(self, name: str, **options: Any) -> None:
        self.commit([Put(job(name, **options), 0)])

    def get(self, name: str, kind: str = "job") -> Resource:
        return self.store.get("t", kind, name)

    def states(self) -> dict[str, str]:
        return {row.name: row.state for row in self.store.rows("t", "job")}

    def say(self, name: str, **report: Any) -> None:
        self.compute.report(f"t.job.{name}", **report)
        self.settle()

    def end(self, name: str, exit_code: int | None = None, **seen: Any) -> None:
        """Its process ends, and this is seen of it."""
        process = f"t.job.{name}"
        ended = replace(self.compute.running[process], alive=False, exit_code=exit_code, **seen)
        self.compute.running[process] = ended
        self.settle()

    def cancel(self, target: str) -> str:
        rows = plan_cancel(self.loop.snapshot(), "t", target, {}, {})
        self.commit([Put(r, r.revision) for r in rows])
        return next(r.name for r in rows if r.kind == "operation")


def job(name: str, **options: Any) -> Resource:
    settings: dict[str, Any] = {"kind": "call", "target": "work", "lane": f"job/{name}", **options}
    return new_job(EMPTY, APP, name=name, **settings)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def test_first_in_first_out_within_a_priority_and_one_at_a_time_in_a_lane(cloud: Cloud) -> None:
    for name in ("a", "b"):
        cloud.add(name)
    cloud.add("c")
    cloud.add("urgent", priority=5)
    cloud.add("d", lane="x")
    cloud.add("e", lane="x")
    assert cloud.states() == {
        "a": "RUNNING",
        "b": "RUNNING",
        "c": "QUEUED",
        "urgent": "QUEUED",
        "d": "QUEUED",
        "e": "QUEUED",
    }
    order = []
    while waiting := {n for n, s in cloud.states().items() if s == "RUNNING"}:
        cloud.say(min(waiting), outcome="succeeded")
        order += sorted({n for n, s in cloud.states().items() if s == "RUNNING"} - waiting)
    assert order == ["urgent", "c", "d", "e"]


def test_jobs_together_never_take_more_than_the_machine_gives() -> None:
    cloud = Cloud(Capacity(4.0, 4_000))
    cloud.add("half", limits=Limits(cpus=1, memory_mb=2_000))
    cloud.add("large", limits=Limits(cpus=1, memory_mb=3_000))
    cloud.add("small", limits=Limits(cpus=1, memory_mb=500))
    assert cloud.states() == {"half": "RUNNING", "large": "QUEUED", "small": "QUEUED"}
    waits = cloud.get("large")
    assert waits.reason == "WAITS_FOR_ITS_TURN"
    assert waits.message == "It is the next one. It asks for 1 cores and 3,000 MB; free are 3 cores and 2,000 MB."
    assert cloud.get("small").message == "It is number 2 in the queue, behind large."
    cloud.say("half", outcome="succeeded")
    assert cloud.states() == {"half": "SUCCEEDED", "large": "RUNNING", "small": "RUNNING"}
    assert cloud.compute.specs["t.job.large"].limits == Limits(cpus=1, memory_mb=3_000)


def test_who_waits_for_another_tenants_job_is_not_told_its_name(cloud: Cloud) -> None:
    cloud.add("half", limits=Limits(cpus=1))
    cloud.add("large", limits=Limits(cpus=2))
    theirs = [replace(job(name, limits=Limits(cpus=2)), tenant="u") for name in ("first", "second")]
    cloud.commit([Put(row, 0) for row in theirs])
    waiting = cloud.store.get("u", "job", "second")
    assert waiting.message == "It is number 3 in the queue, behind another tenant's."
    decision = admit(cloud.loop.snapshot(), Capacity(2, 4_000))
    assert decision.waits["u", "job", "second"] == ()
    assert decision.waits["t", "job", "large"] == ("job/half",)


def test_a_job_proposes_versions_and_nothing_else(cloud: Cloud) -> None:
    cloud.add("a")
    token = {"kind": "token", "name": "mine", "state": "ACTIVE", "spec": {"sha256": "0" * 64, "role": "admin"}}
    cloud.say("a", outcome="succeeded", outputs={"resources": [token]})
    assert (cloud.get("a").state, cloud.get("a").reason) == ("FAILED", "USER_ERROR")
    assert "a token" in cloud.get("a").message
    assert cloud.store.rows(kind="token") == []
    assert cloud.loop.snapshot().aside == {}


@pytest.mark.parametrize(("memory_mb", "workers", "room"), [(4_000, 2, 2), (4_000, 16, 4), (2_000, 16, 2), (600, 2, 1)])
def test_work_that_is_spread_takes_a_core_and_memory_for_each_worker_as_many_as_there_is_room_for(
    memory_mb: int, workers: int, room: int
) -> None:
    cloud = Cloud(Capacity(4.0, max(memory_mb, 1_024)))
    cloud.add("spread", workers=workers)
    cloud.add("next", limits=Limits(cpus=4))
    assert cloud.states() == {"spread": "RUNNING", "next": "QUEUED"}
    left = max(memory_mb, 1_024) - 512 * (1 + room)
    assert cloud.get("next").message.endswith(f"free are {4 - room} cores and {left:,} MB.")
    assert cloud.compute.specs["t.job.spread"].config["workers"] == room
    assert cloud.compute.specs["t.job.spread"].limits == Limits(), "a core is what it counts as, and no limit"


def test_each_has_gpus_of_its_own_and_one_on_a_machine_without_is_refused() -> None:
    cloud, one = Cloud(Capacity(8.0, 16_000, 3)), Limits(accelerators={GPU: 1})
    cloud.add("none")
    assert "gpus" not in cloud.compute.specs["t.job.none"].config
    cloud.say("none", outcome="succeeded")
    cloud.add("first", limits=one)
    cloud.add("spread", limits=one, workers=4)
    cloud.add("next", limits=one, workers=2)
    assert cloud.states() == {"none": "SUCCEEDED", "first": "RUNNING", "spread": "QUEUED", "next": "QUEUED"}
    assert "It asks for 3 cores, 3 GPUs and 2,048 MB; free are 7 cores, 2 GPUs" in cloud.get("spread").message
    cloud.say("first", outcome="succeeded")
    config = cloud.compute.specs["t.job.spread"].config
    assert (config["workers"], config["gpus"]) == (3, [0, 1, 2]), "as many workers as GPUs"
    cloud.say("spread", outcome="succeeded")
    cloud.add("last", limits=one)
    assert [cloud.compute.specs[f"t.job.{name}"].config["gpus"] for name in ("next", "last")] == [[0, 1], [2]]
    cloud = Cloud()
    cloud.add("first", limits=one, workers=4)
    job = cloud.get("first")
    assert (job.state, job.reason) == ("FAILED", "NEVER_FITS")
    assert job.message == "It asks for 1 GPU, and this machine has none that it may use."
    assert job.next_action.startswith("Ask for fewer with gpus=, or leave it out to run on the CPU")


def test_who_waits_for_a_gpu_holds_up_nobody_who_needs_none_and_keeps_its_cores() -> None:
    cloud, gpu = Cloud(Capacity(4.0, 16_000, 1)), Limits(cpus=1, accelerators={GPU: 1})
    for name, limits in {
        "first": gpu,
        "second": gpu,
        "third": gpu,
        "small": Limits(cpus=2),
        "large": Limits(cpus=1),
    }.items():
        cloud.add(name, limits=limits)
    assert cloud.states() == {
        "first": "RUNNING",
        "second": "QUEUED",
        "third": "QUEUED",
        "small": "RUNNING",
        "large": "QUEUED",
    }
    assert cloud.get("second").message == (
        "It is the next one. It asks for 1 cores, 1 GPU and 512 MB; free are 1 cores and 14,976 MB."
    )
    cloud.say("first", outcome="succeeded")
    assert cloud.states()["second"] == "RUNNING", "its core was set aside"


def test_what_can_never_fit_is_refused_with_the_numbers(cloud: Cloud) -> None:
    cloud.add("huge", limits=Limits(cpus=64, memory_mb=1))
    huge = cloud.get("huge")
    assert (huge.state, huge.reason) == ("FAILED", "NEVER_FITS")
    assert "64 cores and 1 MB" in huge.message
    assert "2 cores and 4,000 MB" in huge.message


def test_a_queue_of_thousands_is_decided_in_one_look_and_writes_little() -> None:
    cloud = Cloud()
    ended = [replace(job(f"old-{n}"), state="SUCCEEDED") for n in range(9_900)]
    cloud.store.commit([Put(r, 0) for r in ended], audit=(), fence=cloud.fence, actor="t", now=1)
    cloud.commit([Put(job(f"new-{n}", index=n), 0) for n in range(100)])
    snapshot = cloud.loop.snapshot()
    begun = time.thread_time()
    decision = admit(snapshot, Capacity(2, 4_000))
    assert time.thread_time() - begun < 0.1
    assert len(decision.told) == 98
    assert cloud.get("new-99").message == "More than 10 jobs are before it in the queue."
    before = cloud.store.revision()
    cloud.say("new-0", outcome="succeeded")
    assert cloud.states()["new-2"] == "RUNNING"
    assert cloud.store.revision() - before <= 20, "only the head of the queue is told its place"


def test_a_job_that_is_killed_is_tried_again_with_growing_pauses_and_its_history_is_kept(cloud: Cloud) -> None:
    cloud.add("a")
    attempts = []
    for number in (1, 2, 3):
        assert cloud.get("a").attempts == number
        attempts.append(cloud.compute.specs["t.job.a"].config["attempt"])
        cloud.end("a", -9, peak_mb=120.04)
        row = cloud.get("a")
        assert (row.state, row.reason) == ("RECOVERING", "SIGNALLED")
        assert (
            f"Attempt {number} of at most 4: Its process was ended from outside by signal 9 (SIGKILL)." in row.message
        )
        assert row.next_action
        assert "t.job.a" not in cloud.compute.running
        cloud.run(2 ** (number - 1) - 0.3)
        assert cloud.get("a").state == "RECOVERING"
        cloud.run(0.6)
        assert cloud.get("a").state == "RUNNING"
    assert attempts == [1, 2, 3]
    cloud.end("a", -9)
    row = cloud.get("a")
    assert (row.state, row.reason) == ("FAILED", "SIGNALLED")
    assert row.message.endswith("This was attempt 4, the last one.")
    kept = row.status["attempts"]
    assert [(a["attempt"], a["reason"], a["exit_code"]) for a in kept] == [(n, "SIGNALLED", -9) for n in (1, 2, 3, 4)]
    assert kept[0]["peak_mb"] == 120.0
    assert kept[0]["started"] < kept[0]["ended"] < kept[1]["started"]
    assert "config" not in row.status


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        ({"exit_code": -15}, "SIGNALLED", "signal 15 (SIGTERM)"),
        ({"exit_code": None}, "ENDED_UNSEEN", "nobody saw how"),
        ({"exit_code": -11}, "CRASHED", "signal 11 (SIGSEGV)"),
        ({"exit_code": 3}, "EXITED", "exit status 3"),
        ({"exit_code": 0}, "EXITED", "exit status 0 before its work was done"),
        ({"exit_code": -9, "out_of_memory": True, "peak_mb": 210.0}, "OUT_OF_MEMORY", "200 MB that it asked for"),
        ({"exit_code": -15, "timed_out": True}, "TIMED_OUT", "time limit of 60 minutes"),
    ],
)
def test_how_a_process_ended_is_told(cloud: Cloud, seen: dict[str, Any], reason: str, words: str) -> None:
    cloud.add("a", limits=Limits(memory_mb=200, seconds=3_600))
    cloud.end("a", **seen)
    row = cloud.get("a")
    assert row.reason == reason
    assert words in row.message
    again = FAULTS[Ending(reason)] == "machine"
    assert row.state == ("RECOVERING" if again else "FAILED")


def test_a_job_that_knows_with_what_memory_ran_out_says_so(cloud: Cloud) -> None:
    told = {"message": "There was not enough memory for step 3, 64 rows of it.", "next_action": "Write 32."}
    for name, report, message in (
        ("a", told, told["message"]),
        ("b", {"message": "It wanted more."}, "It wanted more memory than the machine has left."),
    ):
        cloud.add(name)
        cloud.compute.report(f"t.job.{name}", outcome="failed", reason="OUT_OF_MEMORY", **report)
        cloud.end(name, exit_code=1, out_of_memory=True)  # as the adapter says of such a report
        row = cloud.get(name)
        assert (row.state, row.reason, row.message) == ("FAILED", "OUT_OF_MEMORY", message)


def test_a_job_that_was_taken_down_with_the_cloud_begins_again_and_nothing_is_counted(cloud: Cloud) -> None:
    cloud.add("a")
    cloud.add("once", repeatable=False)
    for attempt in range(1, 7):  # more often than a machine may fail
        assert (cloud.get("a").state, cloud.get("a").attempts) == ("RUNNING", attempt)
        cloud.end("a", exit_code=-15, stopped=True)
        assert "at most" not in cloud.get("a").message
        cloud.settle()
    cloud.end("once", exit_code=-15, stopped=True)
    assert (cloud.get("once").state, cloud.get("once").reason) == ("FAILED", "CLOUD_DOWN")


def test_a_process_that_is_gone_or_could_not_be_started_is_tried_again(cloud: Cloud) -> None:
    cloud.add("a")
    del cloud.compute.running["t.job.a"]
    cloud.settle()
    assert (cloud.get("a").state, cloud.get("a").reason) == ("RECOVERING", "LOST")
    cloud.run(1.5)
    cloud.compute.report("t.job.a", reason="START_FAILED", message="No room.")
    cloud.end("a")
    assert (cloud.get("a").reason, cloud.get("a").attempts) == ("START_FAILED", 2)


def test_errors_of_the_users_code_are_tried_again_only_as_often_as_declared(cloud: Cloud) -> None:
    cloud.add("never")
    cloud.add("twice", retries=2)
    failed = {"outcome": "failed", "reason": "USER_ERROR", "message": "app.py:3: ValueError: no"}
    for name in ("never", "twice"):
        cloud.say(name, **failed)
    assert cloud.states() == {"never": "FAILED", "twice": "RECOVERING"}
    assert cloud.get("never").message == "app.py:3: ValueError: no"
    cloud.run(1.5)
    cloud.end("twice", -9)  # somebody's kill -9 takes nothing of what the author declared
    cloud.run(2.5)
    cloud.say("twice", **failed)
    cloud.run(4.5)
    cloud.say("twice", **failed)
    assert (cloud.get("twice").state, cloud.get("twice").attempts) == ("FAILED", 4)


def test_codes_of_the_error_tree_are_final_but_those_of_a_part_that_is_away(cloud: Cloud) -> None:
    cloud.add("a", retries=5)
    cloud.add("b")
    cloud.say("a", outcome="failed", reason="SPEC_DRIFT", message="another specification")
    cloud.say("b", outcome="failed", reason="DISK_FULL", message="no room", fault="machine")
    assert cloud.states() == {"a": "FAILED", "b": "RECOVERING"}


def test_what_must_not_be_done_twice_is_not(cloud: Cloud) -> None:
    cloud.add("a", repeatable=False)
    cloud.end("a", -9)
    assert cloud.get("a").state == "FAILED"


def test_the_report_of_an_attempt_is_not_taken_for_that_of_the_next(cloud: Cloud) -> None:
    cloud.add("a", retries=1)
    cloud.compute.report("t.job.a", outcome="failed", reason="USER_ERROR", message="no")
    cloud.loop.run_pass()
    assert cloud.get("a").state == "RECOVERING"
    for _ in range(30):
        cloud.clock.advance(100_000)
        cloud.loop.run_pass()
        if cloud.get("a").state == "STARTING":
            break
    assert cloud.compute.running["t.job.a"].report == {}
    cloud.settle()
    assert (cloud.get("a").state, cloud.get("a").attempts) == ("RUNNING", 2)


def test_pauses_grow_and_are_bounded_and_so_is_the_history(cloud: Cloud) -> None:
    pauses = [pause_before_retry(n) for n in range(1, 2_000)]
    assert pauses[:4] == [1_000_000, 2_000_000, 4_000_000, 8_000_000]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300_000_000
    cloud.add("a", retries=100)
    for _ in range(KEPT_ATTEMPTS + 5):
        cloud.say("a", outcome="failed", reason="USER_ERROR", message="no")
        cloud.clock.advance(301_000_000)
        cloud.settle()
    kept = cloud.get("a").status["attempts"]
    assert [a["attempt"] for a in kept] == list(range(6, KEPT_ATTEMPTS + 6))


def test_one_that_is_tried_again_keeps_its_lane(cloud: Cloud) -> None:
    cloud.add("first", lane="table/t")
    cloud.add("second", lane="table/t")
    cloud.end("first", -9)
    assert cloud.states() == {"first": "RECOVERING", "second": "QUEUED"}
    assert cloud.get("second").message == "It waits for first, which writes to the same place."
    cloud.run(1.5)
    assert cloud.states() == {"first": "RUNNING", "second": "QUEUED"}


def test_a_clock_that_was_set_does_not_hold_up_a_retry(cloud: Cloud) -> None:
    cloud.add("a")
    cloud.end("a", -9)
    cloud.clock.set(-86_400_000_000)
    cloud.run(2)
    assert cloud.get("a").state == "RUNNING"


def test_an_environment_is_waited_for(cloud: Cloud) -> None:
    app = replace(APP, spec={**APP.spec, "environment": "e" * 64})
    row = new_job(EMPTY, app, name="a", kind="call", target="work", lane="a", runs_code=True)
    environment = Resource("t", "environment", "e" * 16, spec={"lock": "e" * 64}, state="BUILDING")
    cloud.commit([Put(environment, 0), Put(row, 0)])
    assert (cloud.get("a").state, cloud.get("a").reason) == ("PENDING", "BUILDING_ENVIRONMENT")
    found = cloud.store.get("t", "environment", "e" * 16)
    cloud.commit([Put(replace(found, state="READY"), found.revision)])
    assert cloud.compute.specs["t.job.a"].environment == "e" * 64
    found = cloud.store.get("t", "environment", "e" * 16)
    cloud.commit([Put(replace(found, state="FAILED", message="nothing==9 is not there"), found.revision)])
    cloud.commit([Put(replace(row, name="b"), 0)])
    assert cloud.get("b").reason == "ENVIRONMENT_FAILED"
    assert "nothing==9 is not there" in cloud.get("b").message


def chain(cloud: Cloud, array: int = 0) -> None:
    """`run`: `make` (or an array of it), and `use`, which needs it."""
    names = [f"run-make-{n}" for n in range(array)] or ["run-make"]
    options = [{"index": n} for n in range(array)] or [{}]
    jobs = [job(n, title="make", parent="operation/run", **o) for n, o in zip(names, options, strict=True)]
    jobs.append(job("run-use", title="use", needs=names, parent="operation/run"))
    operation = new_operation(EMPTY, "t", "run", action="run", target="use", jobs=[j.name for j in jobs])
    cloud.commit([Put(r, 0) for r in (operation, *jobs)])


def test_outputs_are_the_inputs_of_what_needs_them(cloud: Cloud) -> None:
    chain(cloud)
    cloud.say("run-make", outcome="succeeded", outputs={"result": 7})
    assert cloud.compute.specs["t.job.run-use"].config["inputs"] == {"make": {"result": 7}}
    cloud.say("run-use", outcome="succeeded", outputs={"result": 8})
    operation = cloud.get("run", "operation")
    assert (operation.state, operation.status["result"]) == (
        "SUCCEEDED",
        {"make": {"result": 7}, "use": {"result": 8}},
    )


def test_an_array_is_one_step_and_gives_a_list(cloud: Cloud) -> None:
    chain(cloud, array=12)
    for number in range(12):
        steps = cloud.get("run", "operation").status["steps"]
        assert [s["title"] for s in steps] == ["make", "use"]
        assert steps[0]["progress"] == {"stage": f"{number} of 12", "done": number, "total": 12}
        cloud.say(f"run-make-{number}", outcome="succeeded", outputs={"result": number})
    inputs = cloud.compute.specs["t.job.run-use"].config["inputs"]
    assert inputs == {"make": [{"result": n} for n in range(12)]}


def test_one_of_an_array_fails_the_others_go_on_and_what_needs_them_does_not_begin(cloud: Cloud) -> None:
    chain(cloud, array=3)
    cloud.say("run-make-0", outcome="failed", reason="USER_ERROR", message="no")
    assert cloud.states()["run-use"] == "FAILED"
    assert cloud.get("run", "operation").state == "RUNNING"
    for number in (1, 2):
        cloud.say(f"run-make-{number}", outcome="succeeded")
    operation = cloud.get("run", "operation")
    assert (operation.state, operation.reason, operation.status["failed"]) == ("FAILED", "USER_ERROR", "job/run-make-0")
    assert cloud.get("run-use").reason == "INPUT_FAILED"


def test_an_operation_is_cancelled_with_all_its_jobs(cloud: Cloud) -> None:
    chain(cloud, array=3)
    assert cloud.cancel("run") == "run"
    states = cloud.states()
    assert states == {
        "run-make-0": "CANCELLED",
        "run-make-1": "CANCELLED",
        "run-make-2": "CANCELLED",
        "run-use": "CANCELLED",
    }
    assert not cloud.compute.running
    operation = cloud.get("run", "operation")
    assert (operation.state, operation.reason) == ("CANCELLED", "CANCELLED")
    with pytest.raises(Conflict) as caught:
        cloud.cancel("run")
    assert caught.value.code == "ALREADY_ENDED"
    with pytest.raises(NotFound):
        cloud.cancel("nothing")


def test_one_job_is_cancelled_and_what_needs_it_fails(cloud: Cloud) -> None:
    chain(cloud)
    assert cloud.cancel("job/run-make") == "run"
    assert (cloud.get("run-make").state, cloud.get("run-use").reason) == ("CANCELLED", "INPUT_FAILED")
    assert cloud.get("run", "operation").state == "CANCELLED"


def test_a_job_of_no_operation_and_one_that_rests_are_cancelled_too(cloud: Cloud) -> None:
    cloud.add("a")
    cloud.end("a", -9)
    assert cloud.get("a").state == "RECOVERING"
    cloud.cancel("a")
    cloud.run(5)
    assert (cloud.get("a").state, cloud.get("a").reason) == ("CANCELLED", "CANCELLED")
    assert cloud.get("a-cancel-1", "operation").state == "SUCCEEDED"
    cloud.add("b")
    assert cloud.cancel("job/b") == "b-cancel-1", "a name that an address can hold"


def test_a_process_that_is_slow_to_end_is_waited_for(cloud: Cloud) -> None:
    cloud.add("a")
    row = cloud.get("a")
    cloud.commit([])
    cancelling = JOB.move(row, "cancel", 0)
    snapshot = replace(cloud.loop.snapshot(), resources={cancelling.key: cancelling})
    assert list(JOB.step(snapshot, cancelling)) == [], "while its process lives, nothing is wanted and nothing said"
