"""Processes are held to what they asked for, and it is told when that is why they ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from small_jobs import NAME, log, processes, run, spec, told, until

from skyriver.adapters.processes import groups
from skyriver.adapters.processes.groups import ControlGroups, Tree, find_trees, trees_of_this_machine
from skyriver.adapters.processes.identity import identify
from skyriver.core.resources import Limits, ProcessSpec

GREEDY = """
held = []
while True:
    held.append(bytearray(4_000_000))
    time.sleep(0.02)  # the watcher looks five times a second, and later where much else runs
"""
GREEDY_CHILD = f"""
code = "import time" + {GREEDY!r}
child = subprocess.Popen([sys.executable, "-c", code])
tell(child=child.pid)
time.sleep(600)
"""
SHARED = """
held = bytearray(60_000_000)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(600)
tell(ready=True)
time.sleep(1.5)
os._exit(0)
"""


@pytest.fixture(params=["control group", "watcher"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "watcher":
        monkeypatch.setattr(groups, "trees_of_this_machine", list)
    elif not any("memory" in tree.controllers for tree in trees_of_this_machine()):
        pytest.skip("no control group can be written here")
    return str(request.param)


@pytest.mark.parametrize("code", [GREEDY, GREEDY_CHILD], ids=["itself", "its child"])
def test_who_wants_more_memory_than_its_limit_is_ended(home: Path, way: str, code: str) -> None:
    ended = run(home, code, memory_mb=120)
    assert ended.held_by == f"memory: {way}"
    assert (ended.out_of_memory, ended.timed_out) == (True, False)
    assert ended.exit_code == -signal.SIGKILL
    assert 60 < ended.peak_mb < 400
    assert b"memory" in log(home)
    until("no group stays", lambda: processes(home).ensure({}) or not list_groups(home))


def test_memory_that_is_shared_is_counted_once(home: Path, way: str) -> None:
    ended = run(home, SHARED, memory_mb=150)
    assert (ended.exit_code, ended.out_of_memory) == (0, False)


def test_a_leap_far_over_the_limit_is_refused(home: Path, way: str) -> None:
    code = "bytearray(1_000_000)\ntry: bytearray(8_000_000_000)\nexcept MemoryError: sys.exit(9)"
    ended = run(home, code, memory_mb=120)
    if way == "watcher":
        assert ended.exit_code == 9
    else:
        assert ended.out_of_memory


def test_the_systems_own_want_of_memory_is_told(home: Path) -> None:
    """A group above the cloud's has no memory left: the kernel kills, and nobody here had set that limit."""
    tree = next((t for t in trees_of_this_machine() if "memory" in t.controllers), None)
    if tree is None:
        pytest.skip("no control group can be written here")
    above = tree.base / f"skyriver-test-{os.getpid()}"
    above.mkdir()
    try:
        limit = "memory.limit_in_bytes" if tree.version == 1 else "memory.max"
        (above / limit).write_text("100000000")
        code = f"pathlib.Path('{above}/cgroup.procs').write_text(str(os.getpid()))\n{GREEDY}"
        ended = run(home, code)
    finally:
        above.rmdir()
    assert (ended.exit_code, ended.out_of_memory, ended.held_by) == (-signal.SIGKILL, True, "")


def test_jobs_go_first_when_the_machine_has_no_memory_left(home: Path) -> None:
    code = "tell(score=int(pathlib.Path('/proc/self/oom_score_adj').read_text()))"
    assert run(home, code).report["score"] == 500


def test_cores_are_held(home: Path) -> None:
    if not any("cpu" in tree.controllers for tree in trees_of_this_machine()):
        pytest.skip("no control group can be written here")
    code = """
began = time.monotonic()
while time.monotonic() - began < 2: pass
tell(share=time.process_time() / 2, threads=os.environ["OMP_NUM_THREADS"])
"""
    ended = run(home, code, cpus=0.25)
    assert ended.held_by == "cores: control group"
    assert ended.report["threads"] == "1"
    assert 0.01 < ended.report["share"] < 0.5, "where others work too it gets less"


def test_threads_follow_the_cores(home: Path) -> None:
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")
    code = f"tell(**{{k: v for k, v in os.environ.items() if k.endswith('_THREADS')}}, of={names!r})"
    report = run(home, code, cpus=1.5).report
    assert {report[f"{name}_NUM_THREADS"] for name in names} == {"2"}
    assert report["POLARS_MAX_THREADS"] == "2"


def list_groups(home: Path) -> list[str]:
    return ControlGroups(home).all()


def tops(home: Path) -> list[Path]:
    return [Path(top) for top in json.loads((home / "run" / "groups.json").read_bytes())]


def test_no_group_stays(home: Path) -> None:
    if not trees_of_this_machine():
        pytest.skip("no control group can be written here")
    parts = processes(home)
    parts.ensure({NAME: spec("tell(pid=os.getpid()); time.sleep(600)", memory_mb=500, cpus=1)})
    pid = told(home)["pid"]
    assert list_groups(home)
    made = tops(home)
    parts.stop_all()
    assert identify(pid) is None
    assert not any(top.exists() for top in made)


def test_what_outlived_its_watcher_is_ended(home: Path) -> None:
    """Also in a session of its own, with or without a group."""
    parts = processes(home)
    code = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
tell(pid=child.pid)
time.sleep(600)
"""
    parts.ensure({NAME: spec(code, memory_mb=500)})
    pid = told(home)["pid"]
    made = list_groups(home)
    os.kill(parts.observe()[NAME].pid, signal.SIGKILL)
    until("its end is seen", lambda: not parts.observe()[NAME].alive)
    later = processes(home)  # as after a kill -9 of everything
    until("it is forgotten", lambda: later.ensure({}) or not later.observe())
    until("what it left behind is gone", lambda: later.ensure({}) or identify(pid) is None)
    until("its groups are gone", lambda: later.ensure({}) or not any(Path(group).exists() for group in made))


def test_a_group_without_a_run_file_is_removed_at_the_next_start(home: Path) -> None:
    if not trees_of_this_machine():
        pytest.skip("no control group can be written here")
    processes(home)
    assert ControlGroups(home).hold("t.job.lost", Limits(memory_mb=100)).groups
    processes(home).ensure({})
    assert not list_groups(home)


def test_a_process_without_a_run_file_is_ended_at_the_next_start(home: Path) -> None:
    parts = processes(home)
    parts.ensure({"t.replica.x": ProcessSpec("t.replica.x", "replica", "t", {"code": "time.sleep(600)"}), **other()})
    first, second = parts.observe()["t.replica.x"].pid, parts.observe()[NAME].pid
    (home / "run" / "t.replica.x.run.json").unlink()
    processes(home).ensure(other())
    until("it is ended", lambda: identify(first) is None)
    assert identify(second) is not None


def other() -> dict[str, ProcessSpec]:
    return {NAME: spec("time.sleep(600)")}


def test_a_replica_is_held_too(home: Path, way: str) -> None:
    name = "t.replica.x"
    code = {"code": "tell(pid=os.getpid())\n" + GREEDY}
    wanted = {name: ProcessSpec(name, "replica", "t", code, limits=Limits(memory_mb=120))}
    parts = processes(home)
    parts.ensure(wanted)
    until("it is ended", lambda: parts.observe()[name].out_of_memory)
    first = parts.observe()[name].pid
    until("it is started again", lambda: parts.ensure(wanted) or parts.observe()[name].pid != first)


# Version 2, which not every machine has: on a tree of plain files.


def v2(root: Path, *, handed_on: str) -> tuple[str, str]:
    own = root / "user.slice" / "me.scope"
    own.mkdir(parents=True)
    for group in (root, root / "user.slice", own):
        (group / "cgroup.controllers").write_text("cpu io memory pids\n")
        (group / "cgroup.procs").write_text("")
        (group / "cgroup.subtree_control").write_text(handed_on if group != own else "\n")
    return f"30 23 0:26 / {root} rw - cgroup2 cgroup2 rw", "0::/user.slice/me.scope"


def test_version_2_is_used_where_its_controllers_are_handed_on(tmp_path: Path) -> None:
    texts = v2(tmp_path / "cg", handed_on="cpu memory\n")
    (tmp_path / "cg" / "user.slice" / "me.scope" / "cgroup.subtree_control").unlink()
    assert find_trees(*texts) == [Tree(2, ("memory", "cpu"), tmp_path / "cg" / "user.slice")]
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    held = ControlGroups(home, lambda: find_trees(*texts))
    assert "version 2" in held.told()["memory"]
    made = held.hold("t.job.x", Limits(memory_mb=100, cpus=1.5))
    (group,) = map(Path, made.groups)
    assert group.parent.parent == tmp_path / "cg" / "user.slice"
    assert (group / "memory.max").read_text() == "100000000"
    assert (group / "cpu.max").read_text() == "150000 100000"
    assert made.oom_counter == str(group / "memory.events")
    assert made.cores


def test_where_nothing_can_be_written_nothing_is_held_by_groups(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert find_trees("30 23 0:26 / /nowhere rw - cgroup2 cgroup2 rw", "0::/") == []
    held = ControlGroups(tmp_path, list)
    assert held.hold("x", Limits(memory_mb=100)).groups == ()
    assert "watcher" in held.told()["memory"]


def test_a_full_tree_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    held = ControlGroups(tmp_path, lambda: [Tree(1, ("memory",), tmp_path / "gone")])
    assert held.hold("x", Limits(memory_mb=100)).groups == ()


def test_a_process_that_cannot_be_seen_from_here_is_no_number_to_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells it as 0, and a signal to 0 goes to all of one's own process group."""
    killed: list[int] = []
    monkeypatch.setattr(groups.os, "kill", lambda pid, number: killed.append(pid))
    (tmp_path / "cgroup.procs").write_text("0\n17\n")
    assert ControlGroups(tmp_path).remove([str(tmp_path)]) == {str(tmp_path)}
    assert killed == [17]
