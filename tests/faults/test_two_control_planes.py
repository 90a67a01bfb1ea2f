"""A control plane that outlived its term does what it does without looking at its fence: it is put right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_jobs import processes, until

from skyriver.adapters.processes.identity import identify
from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.core.resources import ProcessSpec, ProcessStatus

NAME = "t.replica.x"
LISTENS = """
import socket
path = process["process"]["socket"]
pathlib.Path(path).unlink(missing_ok=True)
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
tell(ready=True)
time.sleep(600)
"""


WAITS = "tell(ready=True); time.sleep(600)"


def wanted(code: str = WAITS) -> dict[str, ProcessSpec]:
    return {NAME: ProcessSpec(NAME, "replica", "t", {"code": code})}


def ready(parts: ChildProcesses) -> ProcessStatus:
    until("it is ready", lambda: bool(parts.observe()[NAME].report))
    return parts.observe()[NAME]


def recorded(home: Path) -> int:
    return int(json.loads((home / "run" / f"{NAME}.run.json").read_bytes())["pid"])


def start_late(old: ChildProcesses, code: str) -> None:
    """As one does that was stopped after it had looked and before it acted."""
    run = old._starter.start(wanted(code)[NAME], restarts=0, grace_s=1)
    old._runs[NAME] = run
    old._children.add(run.pid)


def again(parts: ChildProcesses, code: str, before: ProcessStatus) -> bool:
    """Whether it was started again, and is ready."""
    parts.ensure(wanted(code))
    status = parts.observe()[NAME]
    return status.pid != before.pid and bool(status.report.get("ready"))


def test_what_the_older_one_starts_is_ended_and_the_record_restored(home: Path) -> None:
    old, new = processes(home, 1), processes(home, 2)
    new.ensure(wanted())
    mine = ready(new)
    start_late(old, WAITS)
    stray = recorded(home)
    assert stray != mine.pid
    assert new.observe()[NAME].pid == mine.pid  # one pass; if the stray is gone by then, it is asked to end already
    assert recorded(home) == mine.pid
    until("the stray is ended", lambda: identify(stray) is None)
    until("who lost its report is started again", lambda: again(new, WAITS, mine))
    assert old.observe()[NAME].pid == recorded(home)  # the older one goes by the newer one's record
    old.ensure(wanted())
    assert new.observe()[NAME].pid == recorded(home)


def test_who_was_pushed_off_its_socket_is_started_again(home: Path) -> None:
    old, new = processes(home, 1), processes(home, 2)
    new.ensure(wanted(LISTENS))
    mine = ready(new)
    start_late(old, LISTENS)
    until("the stray listens", lambda: bool(old.observe()[NAME].report))
    assert recorded(home) != mine.pid
    until("it is started again", lambda: again(new, LISTENS, mine))


def test_who_looks_before_it_acts_goes_by_the_newer_record(home: Path) -> None:
    old, new = processes(home, 1), processes(home, 2)
    new.ensure(wanted())
    mine = ready(new)
    old.ensure(wanted())
    assert old.observe()[NAME].pid == recorded(home) == mine.pid
    assert ready(new).pid == mine.pid


def test_what_only_the_older_one_wanted_is_ended(home: Path) -> None:
    old, new = processes(home, 1), processes(home, 2)
    old.ensure(wanted())
    pid = recorded(home)
    until("it is noticed", lambda: NAME in new.observe())
    until("it is ended", lambda: new.ensure({}) or identify(pid) is None)


def test_what_the_older_one_started_meanwhile_is_adopted(home: Path) -> None:
    old, new = processes(home, 1), processes(home, 2)
    old.ensure(wanted())
    before = ready(old)
    new.ensure(wanted())  # it had not noticed the other yet
    assert new.observe()[NAME].pid == before.pid == recorded(home)


def test_a_record_that_was_removed_is_restored(home: Path) -> None:
    parts = processes(home)
    parts.ensure(wanted())
    pid = ready(parts).pid
    (home / "run" / f"{NAME}.run.json").unlink()
    parts.observe()
    assert recorded(home) == pid


CHILD = """
import sys, time
from skyriver.wiring import process
process.LOOK_SECONDS, process.STRAY_SECONDS, process.END_SECONDS = 0.05, 0.3, 0.1
context = process.read_config(sys.argv)
context.report({"ready": True})
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["another has its name", "its home is gone"])
def test_a_process_that_the_cloud_does_not_know_any_more_ends(tmp_path: Path, how: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    paths = {part: str(home / f"{part}.json") for part in ("status", "live", "run")}
    process = {
        "name": NAME,
        "tenant": "t",
        "home": str(home),
        "socket": "",
        "work_dir": str(home),
        "token": "mine",
        **{f"{part}_file": path for part, path in paths.items()},
    }
    Path(paths["run"]).write_text('{"token": "mine"}')
    config = home / "config.json"
    config.write_text(json.dumps({"process": process, "config": {}}))
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(config)], stderr=subprocess.PIPE, env={**os.environ}
    ) as child:
        until("it runs", Path(paths["status"]).exists)
        if how == "its home is gone":
            shutil.rmtree(home)
        else:
            Path(paths["run"]).write_text('{"token": "another"}')
        try:
            _, told = child.communicate(timeout=300)
        finally:
            child.kill()
    assert b"does not know" in told
    assert child.returncode != 0
