"""The exam of `Compute`: what its docstring says, on whatever runs processes, the twin in memory and yours too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from skyriver.control.compute import Compute
from skyriver.control.compute_stage import DEADLINE, Stage, wait_for
from skyriver.core.exam import must
from skyriver.core.resources import Limits, ProcessSpec, ProcessStatus

Make = Callable[[], AbstractContextManager[Stage]]
Acts = tuple[tuple[str, Any], ...]

JOB, REPLICA, OTHER = "acme.job.one", "acme.replica.two", "acme.worker.three"
READY: Acts = (("tell", {"ready": True}), ("wait", None))
_CALL_SECONDS = 20.0
"""No call may take so long, on a busy machine either: a process that does not end takes longer."""
_GRACE_SECONDS = 0.5
"""Every stage gives a process that is asked to end at least so long."""


def check_compute(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a stage without any process each time."""
    for check in COMPUTE_CHECKS:
        with make() as stage:
            check(stage)


def _spec(
    name: str, *acts: tuple[str, Any], live: Mapping[str, Any] | None = None, attempt: int = 0, **more: Any
) -> Mapping[str, ProcessSpec]:
    kind = name.split(".")[1]
    config = {"acts": [list(act) for act in acts], "attempt": attempt}
    spec = ProcessSpec(name, kind, "acme", config, live or {}, once=kind == "job", **more)  # type: ignore[arg-type]
    return {name: spec}


def _reported(compute: Compute, name: str) -> ProcessStatus:
    wait_for(f"{name} writes its report", lambda: bool(_report(compute, name)))
    return compute.observe()[name]


def _report(compute: Compute, name: str) -> Mapping[str, Any]:
    status = compute.observe().get(name)
    return status.report if status is not None else {}


def _ended(compute: Compute, name: str) -> ProcessStatus:
    wait_for(f"{name} ends", lambda: not compute.observe()[name].alive)
    return compute.observe()[name]


def _ensure_until(law: str, compute: Compute, wanted: Mapping[str, ProcessSpec], holds: Callable[[], bool]) -> None:
    def said_again() -> bool:
        began = time.monotonic()
        compute.ensure(wanted)
        must(time.monotonic() - began < _CALL_SECONDS, "ensure waits for no process")
        return holds()

    wait_for(law, said_again)


def nothing_runs_at_first(stage: Stage) -> None:
    must(stage.compute.observe() == {}, "without a process nothing is seen")
    must(stage.compute.log(JOB) == (b"", 0), "a process that never ran has no log")
    must(stage.compute.stop_all() == [], "nothing was there to be stopped")


def what_is_wanted_runs_once(stage: Stage) -> None:
    compute, wanted = stage.compute, {**_spec(REPLICA, *READY), **_spec(OTHER, *READY)}
    compute.ensure(wanted)
    seen = {name: _reported(compute, name) for name in wanted}
    for _ in range(3):
        compute.ensure(wanted)
    for name, status in compute.observe().items():
        must(status.alive and status.name == name, "what is wanted runs")
        must(status.pid == seen[name].pid, "ensure is idempotent")
        must(status.report["config"] == dict(wanted[name].config), "a process gets its configuration")
        must(status.started_at > 0 and bool(status.socket), "it is told since when it runs, and where it listens")
    must(len({status.socket for status in seen.values()}) == 2, "each has a socket of its own")
    must(len({status.config_digest for status in seen.values()}) == 1, "the digest is that of the configuration alone")


def what_was_killed_is_started_again(stage: Stage) -> None:
    compute, wanted = stage.compute, _spec(REPLICA, *READY)
    compute.ensure(wanted)
    first = _reported(compute, REPLICA)
    stage.kill(REPLICA)
    wait_for("a killed process is seen as not alive", lambda: not compute.observe()[REPLICA].alive)
    _ensure_until("it is started again", compute, wanted, lambda: compute.observe()[REPLICA].pid != first.pid)
    must(_reported(compute, REPLICA).alive, "what was started again runs")


def pauses_between_starts_grow(stage: Stage) -> None:
    compute, wanted = stage.compute, _spec(REPLICA, ("exit", 1))
    starts: set[int] = set()
    began = time.monotonic()
    while (took := time.monotonic() - began) < 2.0 or len(starts) < 3:  # where a start takes long, they are fewer
        must(took < DEADLINE, f"what ends at once is started again, and not {len(starts)} times in {took:.0f} s")
        compute.ensure(wanted)
        starts.add(compute.observe()[REPLICA].pid)
        time.sleep(0.005)
    must(len(starts) <= 8, f"what ends at once is started again with growing pauses: {len(starts)} times in 2 s")


def a_job_is_started_once(stage: Stage) -> None:
    compute, wanted = stage.compute, _spec(JOB, ("tell", {"outcome": "succeeded"}), ("exit", 3))
    compute.ensure(wanted)
    ended = _ended(compute, JOB)
    for _ in range(5):
        compute.ensure(wanted)
    again = compute.observe()[JOB]
    must((again.pid, again.alive) == (ended.pid, False), "what ran once is not started again")
    must(again.report["outcome"] == "succeeded", "the report of an ended process stays to be seen")
    must((again.exit_code, again.timed_out, again.out_of_memory) == (3, False, False), "it is known how it ended")
    _ensure_until("what ended and is not wanted is forgotten", compute, {}, lambda: compute.observe() == {})


def an_ending_that_nobody_saw_is_known(stage: Stage) -> None:
    for number, (act, code) in enumerate(((("exit", 0), 0), (("exit", 7), 7), (("die", 6), -6))):
        stage.compute.ensure(_spec(JOB, act, attempt=number))
        ended = _ended(stage.again(), JOB)
        must(ended.exit_code == code, f"the next control plane knows how it ended: {code}, not {ended.exit_code}")
        _ensure_until("it is forgotten", stage.compute, {}, lambda: stage.compute.observe() == {})


def a_job_that_was_killed_is_told_so(stage: Stage) -> None:
    stage.compute.ensure(_spec(JOB, *READY))
    _reported(stage.compute, JOB)
    stage.kill(JOB)
    ended = _ended(stage.compute, JOB)
    must(ended.exit_code == -9, "the signal that ended it is told")
    must(not ended.out_of_memory and not ended.timed_out, "it was neither its memory nor its time")


def the_next_control_plane_adopts(stage: Stage) -> None:
    wanted = {**_spec(REPLICA, *READY), **_spec(JOB, *READY)}
    stage.compute.ensure(wanted)
    seen = {name: _reported(stage.compute, name).pid for name in wanted}
    later = stage.again()
    later.ensure(wanted)
    must({n: s.pid for n, s in later.observe().items() if s.alive} == seen, "what runs is adopted as it is")
    must(all(s.report["ready"] for s in later.observe().values()), "with its report")


def time_is_held(stage: Stage) -> None:
    stage.compute.ensure(_spec(JOB, *READY, limits=Limits(seconds=0.5)))
    ended = _ended(stage.compute, JOB)
    must(ended.timed_out and not ended.out_of_memory, "past its time a process is ended, and that is told")
    must(ended.exit_code != 0, "it did not end well")


def memory_is_held(stage: Stage) -> None:
    stage.compute.ensure(_spec(JOB, ("take", 400), ("wait", None), limits=Limits(memory_mb=120)))
    must("memory" in stage.compute.observe()[JOB].held_by, "it is told how a limit is held")
    ended = _ended(stage.compute, JOB)
    must(ended.out_of_memory and not ended.timed_out, "beyond its memory a process is ended, and that is told")
    must(ended.exit_code != 0, "it did not end well")
    must(ended.peak_mb > 50, "it is told how much it held")
    within = _spec(JOB, ("take", 20), ("exit", 0), limits=Limits(memory_mb=200), attempt=1)
    _ensure_until("within its memory it ends well", stage.compute, within, lambda: _exit_code(stage.compute) == 0)
    must(not stage.compute.observe()[JOB].out_of_memory, "within its memory nothing is told")


def _exit_code(compute: Compute) -> int | None:
    status = compute.observe().get(JOB)
    return status.exit_code if status is not None else None


def another_configuration_is_another_process(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure(_spec(REPLICA, ("listen", 0), *READY))
    first = _reported(compute, REPLICA)
    wanted = _spec(REPLICA, *READY, attempt=2)
    compute.ensure(wanted)
    now = compute.observe().get(REPLICA, first)
    old = now.pid != first.pid and _attempt(compute, REPLICA) == 0 and bool(now.report)
    must(not old, "a report of before is not taken for the new one's")
    _ensure_until("it has the new configuration", compute, wanted, lambda: _attempt(compute, REPLICA) == 2)
    must(compute.observe()[REPLICA].pid != first.pid, "another configuration is another process")


def _attempt(compute: Compute, name: str) -> int:
    return int(_report(compute, name).get("config", {}).get("attempt", 0))


def another_attempt_of_a_job_is_another_process(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure(_spec(JOB, ("print", "first"), ("exit", 3), attempt=1))
    must(_ended(compute, JOB).exit_code == 3, "the first attempt ends")
    second = _spec(JOB, ("print", "second"), *READY, attempt=2)
    _ensure_until("the second attempt runs", compute, second, lambda: _attempt(compute, JOB) == 2)
    status = compute.observe()[JOB]
    must(status.alive and status.exit_code is None, "an ending of before is not taken for the new one's")
    text = compute.log(JOB)[0]
    must(0 <= text.find(b"first") < text.find(b"second"), "all attempts of a job are in one log")


def the_old_one_ends_before_the_new_one_starts(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure(_spec(REPLICA, ("deaf", None), *READY))
    first = _reported(compute, REPLICA)
    wanted = _spec(REPLICA, *READY, attempt=2)
    began = time.monotonic()
    for _ in range(5):
        compute.ensure(wanted)
        now = compute.observe().get(REPLICA)
        lives = now is not None and now.pid == first.pid and now.alive
        must(lives or time.monotonic() - began > _GRACE_SECONDS, "a deaf process has its grace")
    _ensure_until("it is killed past its grace", compute, wanted, lambda: _attempt(compute, REPLICA) == 2)


def live_settings_are_handed_over(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure(_spec(REPLICA, *READY, live={"model": 1}))
    first = _reported(compute, REPLICA)
    must(first.report["live"] == {"model": 1}, "a process starts with its live settings")
    compute.ensure(_spec(REPLICA, *READY, live={"model": 2}))
    wait_for("live settings reach it", lambda: _report(compute, REPLICA).get("live") == {"model": 2})
    must(compute.observe()[REPLICA].pid == first.pid, "while it runs")


def what_is_not_wanted_ends(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure({**_spec(REPLICA, ("listen", 0), *READY), **_spec(OTHER, *READY)})
    kept = _reported(compute, OTHER)
    _reported(compute, REPLICA)
    _ensure_until("it is forgotten", compute, _spec(OTHER, *READY), lambda: REPLICA not in compute.observe())
    must(compute.observe()[OTHER].pid == kept.pid, "the others run on")
    compute.ensure(_spec(JOB, ("deaf", None), *READY), keep={OTHER})
    _reported(compute, JOB)
    _ensure_until("a deaf one is killed past its grace", compute, {}, lambda: compute.observe() == {})


def what_is_kept_is_left_alone(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure({**_spec(REPLICA, *READY), **_spec(OTHER, *READY)})
    seen = {name: _reported(compute, name).pid for name in (REPLICA, OTHER)}
    for _ in range(3):
        compute.ensure(_spec(OTHER, *READY, attempt=9), keep={REPLICA, OTHER})
    must({n: s.pid for n, s in compute.observe().items() if s.alive} == seen, "what is kept is left as it is")


def logs_are_read_in_pieces(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure(_spec(JOB, ("print", "one"), ("print", "two"), ("exit", 0)))
    _ended(compute, JOB)
    must(compute.log(JOB) == (b"one\ntwo\n", 8), "what it printed is its log")
    must(compute.log(JOB, offset=4) == (b"two\n", 8), "from an offset")
    must(compute.log(JOB, offset=-4) == (b"two\n", 8), "from the end")
    must(compute.log(JOB, limit=3) == (b"one", 3), "up to a limit")
    must(compute.log(JOB, offset=8) == (b"", 8), "nothing after its end")
    must(compute.log(JOB, offset=99) == (b"", 8), "an offset after its end is its end")
    _ensure_until("it is forgotten", compute, {}, lambda: compute.observe() == {})
    must(compute.log(JOB)[0] == b"one\ntwo\n", "the log of a job stays")


def a_failed_start_is_told(stage: Stage) -> None:
    compute, digest = stage.compute, "0" * 64
    bad = _spec(JOB, ("exit", 0), environment=digest)
    wanted = {**bad, **_spec(REPLICA, *READY)}
    compute.ensure(wanted)
    refused = compute.observe()[JOB]
    must(not refused.alive and refused.report["reason"] == "START_FAILED", "a failed start is told")
    must(bool(refused.report["message"]), "with a message")
    must(_reported(compute, REPLICA).alive, "the others are started all the same")
    stage.add_environment(digest)
    _ensure_until("it is tried again", compute, wanted, lambda: _exit_code(compute) == 0)


def a_failed_start_is_forgotten(stage: Stage) -> None:
    stage.compute.ensure(_spec(JOB, ("exit", 0), environment="0" * 64))
    stage.compute.ensure({})
    must(stage.compute.observe() == {}, "what cannot be started and is not wanted is forgotten")


def everything_can_be_stopped(stage: Stage) -> None:
    compute = stage.compute
    compute.ensure({**_spec(REPLICA, *READY), **_spec(JOB, ("tell", {"done": 1}), ("exit", 4))})
    _reported(compute, REPLICA)
    _ended(compute, JOB)
    must(sorted(compute.stop_all()) == [JOB, REPLICA], "stop_all tells what it ended")
    left = stage.again().observe()
    must(REPLICA not in left, "nothing of a replica stays")
    must(not left[JOB].alive and left[JOB].report["done"] == 1, "what a job told is there for the next")
    must((left[JOB].exit_code, left[JOB].stopped) == (4, False), "and how it ended")


def what_is_stopped_with_everything_is_told_so(stage: Stage) -> None:
    stage.compute.ensure(_spec(JOB, *READY))
    _reported(stage.compute, JOB)
    stage.compute.stop_all()
    left = stage.again().observe()[JOB]
    must(
        (left.alive, left.stopped) == (False, True),
        "a job that was taken down with everything is told from a failed one",
    )
    stage.again().ensure(_spec(JOB, ("exit", 4), attempt=2))
    must(not _ended(stage.again(), JOB).stopped, "its next attempt is not")


COMPUTE_CHECKS: tuple[Callable[[Stage], None], ...] = (
    nothing_runs_at_first,
    what_is_wanted_runs_once,
    what_was_killed_is_started_again,
    pauses_between_starts_grow,
    a_job_is_started_once,
    an_ending_that_nobody_saw_is_known,
    a_job_that_was_killed_is_told_so,
    the_next_control_plane_adopts,
    time_is_held,
    memory_is_held,
    another_configuration_is_another_process,
    another_attempt_of_a_job_is_another_process,
    the_old_one_ends_before_the_new_one_starts,
    live_settings_are_handed_over,
    what_is_not_wanted_ends,
    what_is_kept_is_left_alone,
    logs_are_read_in_pieces,
    a_failed_start_is_told,
    a_failed_start_is_forgotten,
    everything_can_be_stopped,
    what_is_stopped_with_everything_is_told_so,
)
