"""Real processes: started, seen, adopted, ended; never by pid alone, and nothing stays."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyriver.adapters.processes.identity import Identity, boot_id, identify, readable
from skyriver.adapters.processes.logs import LOG_LIMIT
from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.adapters.processes.runs import RunFiles
from skyriver.core.resources import ProcessSpec, ProcessStatus

CHILD = """
import json, os, sys, time, pathlib
process = json.loads(pathlib.Path(sys.argv[1]).read_text())
def tell(**report):
    path = pathlib.Path(process["process"]["status_file"])
    path.with_suffix(".new").write_text(json.dumps({"token": process["process"]["token"], **report}))
    path.with_suffix(".new").replace(path)
if process["config"].get("stubborn"):
    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
tell(ready=True, config=process["config"])
if process["config"].get("ends"):
    sys.exit(process["config"]["ends"])
seen = None
while True:
    live = json.loads(pathlib.Path(process["process"]["live_file"]).read_text())
    if live != seen:
        seen = live
        tell(ready=True, live=live)
    time.sleep(0.01)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `skyriver.wiring.job` of the test's own stands in for the real one in the children."""
    package = tmp_path / "fake" / "skyriver" / "wiring"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "job.py").write_text(CHILD)
    (package / "replica.py").write_text(CHILD)
    yield tmp_path
    ChildProcesses(tmp_path, tmp_path / "s").stop_all()


def processes(home: Path) -> ChildProcesses:
    return ChildProcesses(home, home / "s", environment={"PYTHONPATH": str(home / "fake"), "PATH": os.environ["PATH"]})


def spec(
    name: str = "t.replica.x", *, once: bool = False, live: dict[str, int] | None = None, **config: object
) -> ProcessSpec:
    module = "job" if once else "replica"
    return ProcessSpec(name, module, "t", config, live=live or {}, once=once)  # type: ignore[arg-type]


def wait(seen: Callable[[], ProcessStatus | None], until: Callable[[ProcessStatus], bool]) -> ProcessStatus:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = seen()
        if status is not None and until(status):
            return status
        time.sleep(0.01)
    raise AssertionError(f"not seen within 300 s: {seen()}")


def ready(parts: ChildProcesses, name: str = "t.replica.x") -> ProcessStatus:
    return wait(lambda: parts.observe().get(name), lambda s: bool(s.report.get("ready")))


def test_a_killed_process_is_seen_and_started_again(home: Path) -> None:
    parts = processes(home)
    wanted = {"t.replica.x": spec()}
    parts.ensure(wanted)
    first = ready(parts)
    parts.ensure(wanted)
    assert parts.observe()["t.replica.x"].pid == first.pid  # saying it again changes nothing
    os.kill(first.pid, signal.SIGKILL)
    gone = wait(lambda: parts.observe()["t.replica.x"], lambda s: not s.alive)
    assert gone.exit_code == -9
    parts.ensure(wanted)
    assert ready(parts).pid != first.pid


def test_one_that_was_ready_is_not_kept_waiting_however_often_it_is_killed(home: Path) -> None:
    parts = processes(home)
    wanted = {"t.replica.x": spec()}
    parts.ensure(wanted)
    for _ in range(8):  # without an end, the last pauses would be of ten seconds
        pid = ready(parts).pid
        os.kill(pid, signal.SIGKILL)
        wait(lambda: parts.observe()["t.replica.x"], lambda s: not s.alive)
        begun = time.monotonic()
        while parts.observe()["t.replica.x"].pid == pid:
            parts.ensure(wanted)
            assert time.monotonic() - begun < 8, "it is kept waiting"
            time.sleep(0.01)


def test_a_process_that_prints_for_ever_does_not_fill_the_disk(home: Path) -> None:
    parts = processes(home)
    wanted = {"t.replica.x": spec()}
    parts.ensure(wanted)
    pid = ready(parts).pid
    log = home / "logs" / "t.replica.x.log"
    printed = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY | os.O_APPEND)  # as the process itself has it
    try:
        for _ in range(LOG_LIMIT // (1 << 20) + 1):
            os.write(printed, b"x" * ((1 << 20) - 1) + b"\n")
        deadline = time.monotonic() + 60
        while log.stat().st_size and time.monotonic() < deadline:
            parts.ensure(wanted)
            time.sleep(0.05)
        assert log.stat().st_size == 0
        assert log.with_suffix(".log.1").stat().st_size == LOG_LIMIT
        os.write(printed, b"and on\n")
        assert log.read_bytes() == b"and on\n"
        assert parts.log("t.replica.x", offset=1 << 30) == (b"", 7)
    finally:
        os.close(printed)


def test_a_clock_that_was_set_back_keeps_nothing_from_being_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = processes(home)
    wanted = {"t.replica.x": spec()}
    parts.ensure(wanted)
    first = ready(parts)
    now = time.time()
    monkeypatch.setattr("skyriver.adapters.processes.processes.time.time", lambda: now - 86_400)
    os.kill(first.pid, signal.SIGKILL)
    wait(lambda: parts.observe()["t.replica.x"], lambda s: not s.alive)
    parts.ensure(wanted)
    assert ready(parts).pid != first.pid


def test_a_stopped_process_is_killed_and_started_again_and_a_job_may_be_paused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyriver.adapters.processes.processes.STOPPED_SECONDS", 0.2)
    parts = processes(home)
    wanted = {"t.replica.x": spec(), "t.job.y": spec("t.job.y", once=True)}
    parts.ensure(wanted)
    replica, job = ready(parts), ready(parts, "t.job.y")
    for status in (replica, job):
        os.kill(status.pid, signal.SIGSTOP)

    def seen() -> ProcessStatus | None:
        parts.ensure(wanted)
        return parts.observe().get("t.replica.x")

    wait(seen, lambda s: s.pid != replica.pid and bool(s.report.get("ready")))
    assert parts.observe()["t.job.y"].pid == job.pid
    assert parts.observe()["t.job.y"].alive
    os.kill(job.pid, signal.SIGCONT)


def test_a_job_that_ended_is_not_started_again(home: Path) -> None:
    parts = processes(home)
    wanted = {"t.job.x": spec("t.job.x", once=True, ends=3)}
    parts.ensure(wanted)
    ended = wait(lambda: parts.observe()["t.job.x"], lambda s: not s.alive)
    assert ended.exit_code == 3
    parts.ensure(wanted)
    assert parts.observe()["t.job.x"].pid == ended.pid
    parts.ensure({})
    parts.ensure({})
    assert parts.observe() == {}


def test_live_settings_reach_a_running_process_and_a_new_config_restarts_it(home: Path) -> None:
    parts = processes(home)
    parts.ensure({"t.replica.x": spec(live={"model": 1})})
    first = ready(parts)
    parts.ensure({"t.replica.x": spec(live={"model": 2})})
    status = wait(lambda: parts.observe()["t.replica.x"], lambda s: s.report.get("live") == {"model": 2})
    assert status.pid == first.pid
    changed = {"t.replica.x": spec(other=1)}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and parts.observe().get("t.replica.x", first).pid == first.pid:
        parts.ensure(changed)
        time.sleep(0.01)
    assert ready(parts).pid != first.pid
    assert identify(first.pid) is None


def test_another_control_plane_adopts_what_runs(home: Path) -> None:
    first = processes(home)
    first.ensure({"t.replica.x": spec()})
    pid = ready(first).pid
    second = processes(home)
    second.ensure({"t.replica.x": spec()})
    status = second.observe()["t.replica.x"]
    assert (status.pid, status.alive) == (pid, True)
    assert second.stop_all() == ["t.replica.x"]
    wait(lambda: first.observe()["t.replica.x"], lambda s: not s.alive)
    assert not list((home / "run").glob("*.run.json"))


def test_a_process_that_does_not_listen_is_killed_past_its_grace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.adapters.processes.processes.GRACE_SECONDS", 0.2)
    parts = processes(home)
    parts.ensure({"t.replica.x": spec(stubborn=True)})
    pid = ready(parts).pid
    parts.stop_all()
    assert identify(pid) is None


def test_a_pid_that_belongs_to_somebody_else_is_left_alone(home: Path) -> None:
    parts = processes(home)
    parts.ensure({"t.replica.x": spec()})
    pid = ready(parts).pid
    os.kill(pid, signal.SIGKILL)
    wait(lambda: parts.observe()["t.replica.x"], lambda s: not s.alive)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        run = next((home / "run").glob("*.run.json"))
        run.write_text(run.read_text().replace(f'"pid": {pid}', f'"pid": {stranger.pid}'))
        adopted = processes(home)
        assert not adopted.observe()["t.replica.x"].alive
        adopted.stop_all()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_identity_of_another_boot_or_start_is_not_alive() -> None:
    mine = identify(os.getpid())
    assert mine is not None
    assert mine.alive()
    assert not Identity(mine.pid, mine.start_time + 1, boot_id()).alive()
    assert not Identity(mine.pid, mine.start_time, "another boot").alive()
    assert identify(2**22 - 1) is None


def test_a_report_is_what_a_store_can_keep(home: Path) -> None:
    parts = processes(home)
    parts.ensure({"t.replica.x": spec()})
    ready(parts)
    status = home / "run" / "t.replica.x.status.json"
    token = json.loads((home / "run" / "t.replica.x.run.json").read_text())["token"]
    written = '{"token": "TOKEN", "value": NaN, "message": "half \\ud800 a character", "list": [Infinity]}'
    status.write_text(written.replace("TOKEN", token))
    report = parts.observe()["t.replica.x"].report
    assert report == {"token": token, "value": None, "message": "half ? a character", "list": [None]}
    for unusable in ('["no", "object"]', "[" * 200_000, f'{{"token": "{token}"}}' + " " * 16_000_000):
        status.write_text(unusable)
        assert parts.observe()["t.replica.x"].report == {}


def test_a_writer_that_was_stopped_half_way_does_not_write_into_the_file_of_the_next(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    stopped = os.open(tmp_path / "t.replica.x.live.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    files.write("t.replica.x", "live", {"written": "by the next one"})
    os.write(stopped, b'{"written": "by the one before, which goes on"}')
    os.close(stopped)
    assert files.read("t.replica.x", "live") == {"written": "by the next one"}
    assert files.path("t.replica.x", "live").stat().st_mode & 0o777 == 0o600


def test_the_outcome_of_a_job_survives_the_end_of_the_cloud(home: Path) -> None:
    parts = processes(home)
    parts.ensure({"t.job.x": spec("t.job.x", once=True, ends=3)})
    wait(lambda: parts.observe()["t.job.x"], lambda s: not s.alive)
    parts.stop_all()
    found = processes(home).observe()["t.job.x"]
    assert not found.alive
    assert found.report["ready"]


def test_the_logs_of_old_jobs_are_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.adapters.processes.processes.KEPT_JOB_LOGS", 2)
    parts = processes(home)
    lasting = {"t.job.runs": spec("t.job.runs", once=True), "t.replica.x": spec()}
    parts.ensure(lasting)
    for name in lasting:
        ready(parts, name)
    jobs = home / "logs" / "jobs"
    for number in range(5):
        name = f"t.job.{number}"
        parts.ensure({**lasting, name: spec(name, once=True, ends=3)})
        wait(lambda name=name: parts.observe().get(name), lambda s: not s.alive)  # type: ignore[misc]
        (jobs / f"{name}.log").write_text(name)
        (jobs / f"{name}.log.1").touch()
        os.utime(jobs / f"{name}.log", (number, number))
        parts.ensure(lasting)
    assert {path.name for path in jobs.glob("*.log")} == {"t.job.3.log", "t.job.4.log", "t.job.runs.log"}
    assert {path.name for path in jobs.glob("*.log.1")} == {"t.job.3.log.1", "t.job.4.log.1"}
    assert (home / "logs" / "t.replica.x.log").exists()
    assert parts.log("t.job.4") == (b"t.job.4", 7)
    assert parts.log("t.job.0") == (b"", 0)


def test_descriptors_above_1023_can_be_waited_for() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 2_048), limit[1]))
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1_500)
    try:
        assert readable(0.0, high) == set()
        os.write(writing, b"x")
        assert readable(None, high, reading) == {high, reading}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for descriptor in (high, reading, writing):
            os.close(descriptor)
