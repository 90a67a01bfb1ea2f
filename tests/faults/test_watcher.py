"""How a job ended is known, whoever was there to see it; and nothing that it started outlives it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_jobs import NAME, add_environment, log, processes, run, spec, told, until

from skyriver.adapters.processes import watcher
from skyriver.adapters.processes.identity import identify, look_at, resident_mb
from skyriver.core.resources import ProcessSpec

DIGEST = "0" * 64
"""Of an environment."""


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("sys.exit(3)", 3), ("pass", 0), ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6), ("1 / 0", 1)],
)
def test_an_ending_that_nobody_saw_is_known(home: Path, code: str, exit_code: int) -> None:
    ended = run(home, code)
    assert (ended.exit_code, ended.timed_out, ended.out_of_memory) == (exit_code, False, False)
    assert ended.peak_mb > 1


def test_a_job_that_runs_too_long_is_ended(home: Path) -> None:
    started = time.monotonic()
    ended = run(home, "time.sleep(600)", seconds=0.5)
    assert time.monotonic() - started < 30
    assert (ended.exit_code, ended.timed_out) == (-signal.SIGTERM, True)
    assert b"its limit" in processes(home).log(NAME)[0]


def test_a_job_that_does_not_listen_is_killed_past_its_grace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.adapters.processes.processes.GRACE_SECONDS", 0.3)
    add_environment(home, DIGEST, "trap '' TERM")  # before Python is there, for its time may be over by then
    ended = run(home, "time.sleep(600)", DIGEST, seconds=3.0)
    assert (ended.exit_code, ended.timed_out) == (-signal.SIGKILL, True)


def test_a_stopped_job_is_ended_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.adapters.processes.processes.GRACE_SECONDS", 0.3)
    add_environment(home, DIGEST, "kill -STOP $$")
    ended = run(home, "time.sleep(600)", DIGEST, seconds=3.0)
    assert (ended.exit_code, ended.timed_out) == (-signal.SIGKILL, True)


def test_a_request_to_end_reaches_the_job(home: Path) -> None:
    parts = processes(home)
    code = "signal.signal(15, lambda *_: sys.exit(7)); tell(pid=os.getpid()); time.sleep(600)"
    parts.ensure({NAME: spec(code)})
    told(home)
    os.kill(parts.observe()[NAME].pid, signal.SIGTERM)
    until("it ends", lambda: not parts.observe()[NAME].alive)
    assert parts.observe()[NAME].exit_code == 7


def left_behind(end: str) -> str:
    """A job with a child in a session of its own, and one whose parent has ended."""
    return f"""
gone = "import time; time.sleep(600)"
first = subprocess.Popen([sys.executable, "-c", gone], start_new_session=True)
words = ["setsid", "sh", "-c", f"{{sys.executable}} -c '{{gone}}' >/dev/null & echo $!"]
shell = subprocess.run(words, stdout=subprocess.PIPE)
tell(pid=os.getpid(), first=first.pid, second=int(shell.stdout))
{end}
"""


def test_what_a_job_leaves_behind_is_ended_with_it(home: Path) -> None:
    parts = processes(home)
    parts.ensure({NAME: spec(left_behind("time.sleep(600)"))})
    pids = told(home)
    assert all(identify(pids[name]) for name in ("pid", "first", "second"))
    os.kill(pids["pid"], signal.SIGKILL)
    until("it ends", lambda: not parts.observe()[NAME].alive)
    assert parts.observe()[NAME].exit_code == -signal.SIGKILL
    assert not any(identify(pids[name]) for name in ("pid", "first", "second"))


def test_a_job_whose_watcher_is_killed_ends_with_it(home: Path) -> None:
    parts = processes(home)
    parts.ensure({NAME: spec("tell(pid=os.getpid()); time.sleep(600)")})
    pid = told(home)["pid"]
    watching = parts.observe()[NAME].pid
    assert pid != watching
    os.kill(watching, signal.SIGKILL)
    until("the job ends too", lambda: identify(pid) is None)
    until("its end is seen", lambda: not parts.observe()[NAME].alive)
    assert parts.observe()[NAME].exit_code == -signal.SIGKILL  # of the watcher, which was this one's child
    assert processes(home).observe()[NAME].exit_code is None  # who was not there cannot know


def test_a_report_and_an_ending_do_not_overwrite_each_other(home: Path) -> None:
    ended = run(home, "tell(outcome='succeeded', n=1); sys.exit(5)")
    assert (ended.report["outcome"], ended.exit_code) == ("succeeded", 5)


def test_an_old_ending_is_not_taken_for_a_new_one(home: Path) -> None:
    assert run(home, "sys.exit(3)").exit_code == 3
    parts = processes(home)
    other = {NAME: spec("tell(pid=os.getpid()); time.sleep(600)")}
    until("the new one runs", lambda: parts.ensure(other) or parts.observe()[NAME].alive)
    told(home)
    os.kill(parts.observe()[NAME].pid, signal.SIGKILL)
    until("it ends", lambda: not parts.observe()[NAME].alive)
    assert processes(home).observe()[NAME].exit_code is None


def test_the_attempts_of_a_job_share_its_log(home: Path) -> None:
    run(home, "print('one', flush=True)")
    parts = processes(home)
    until("the second has ended", lambda: parts.ensure({NAME: spec("print('two', flush=True)")}) or b"two" in log(home))
    lines = log(home).decode().splitlines()
    assert (lines[0], lines[2]) == ("one", "two")
    assert lines[1].startswith("--- started again 2")


def test_a_watcher_whose_name_went_to_another_process_ends(home: Path) -> None:
    parts = processes(home)
    parts.ensure({NAME: spec("tell(pid=os.getpid()); time.sleep(600)")})
    pid = told(home)["pid"]
    record = home / "run" / f"{NAME}.run.json"
    mine = record.read_text()
    record.write_text(mine.replace(json.loads(mine)["token"], "another"))
    until("it ends", lambda: identify(pid) is None)
    assert not (home / "run" / f"{NAME}.ending.json").exists()


def test_a_missing_interpreter_is_told_and_keeps_nobody_else_from_starting(home: Path) -> None:
    parts = processes(home)
    bad = ProcessSpec("t.job.a", "job", "t", {"code": "pass"}, once=True, environment=DIGEST)
    parts.ensure({"t.job.a": bad, NAME: spec("sys.exit(3)")})
    refused = parts.observe()["t.job.a"]
    assert (refused.alive, refused.report["reason"]) == (False, "START_FAILED")
    assert "environments" in refused.report["message"]
    until("the other one ran", lambda: parts.observe()[NAME].exit_code == 3)
    add_environment(home, DIGEST)
    wanted = {"t.job.a": bad}
    until("it is tried again", lambda: parts.ensure(wanted) or parts.observe()["t.job.a"].exit_code == 0)
    parts.ensure({})
    assert "t.job.a" not in parts.observe()


def test_an_ending_is_written_where_the_disk_was_full_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = watcher.Ending(str(tmp_path / "ending.json"))
    assert (tmp_path / "ending.json.new").stat().st_size == watcher.ROOM  # taken before it is needed
    folder = tmp_path / "ending.json"
    folder.mkdir()
    (folder / "in the way").touch()
    monkeypatch.setattr(watcher, "WRITE_SECONDS", 0.1)
    assert not ending.write({"exit_code": 3})
    (folder / "in the way").unlink()
    folder.rmdir()
    assert ending.write({"exit_code": 3})
    assert json.loads((tmp_path / "ending.json").read_bytes()) == {"exit_code": 3}


def test_an_ending_that_cannot_be_written_is_told_by_the_watchers_own(home: Path) -> None:
    parts = processes(home)
    in_the_way = home / "run" / f"{NAME}.ending.json.new"
    in_the_way.mkdir()
    parts.ensure({NAME: spec("tell(pid=os.getpid()); time.sleep(600)")})
    os.kill(told(home)["pid"], signal.SIGUSR1)

    def ended() -> bool:
        status = parts.observe()[NAME]
        if status.alive:
            for told_to in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # who is told to end does not try for long
                os.kill(status.pid, told_to)
        return not status.alive

    until("it ends", ended)
    assert parts.observe()[NAME].exit_code == -signal.SIGUSR1
    in_the_way.rmdir()


@pytest.mark.parametrize(("gone_s", "told"), [(60.0, True), (-1.0, False)])
def test_a_kill_of_the_system_is_known_though_it_is_counted_before_the_process_is_gone(
    monkeypatch: pytest.MonkeyPatch, gone_s: float, told: bool
) -> None:
    """The watcher may look in between; of what was counted long ago another process died."""
    counted = 7
    monkeypatch.setattr(watcher, "_counter", lambda _: counted)
    monkeypatch.setattr(watcher, "GONE_SECONDS", gone_s)
    known: Any = SimpleNamespace(lost=lambda: False)
    watch = watcher.Watch({"memory_bytes": 0, "grace_s": 1.0, "oom_counter": ""}, known)
    counted = 8
    for _ in range(2):
        watch._look()
    watch.exit_code = -signal.SIGKILL
    watch._see_oom()
    assert watch.out_of_memory == told


def test_a_watcher_is_small(home: Path) -> None:
    parts = processes(home)
    parts.ensure({NAME: spec("tell(pid=os.getpid()); held = bytearray(50_000_000); time.sleep(600)")})
    told(home)
    until("the job holds its memory", lambda: parts.observe()[NAME].rss_mb > 50)
    assert resident_mb(parts.observe()[NAME].pid) < 16
    seen = look_at(told(home)["pid"])
    assert seen is not None
    assert seen.parent == parts.observe()[NAME].pid
