"""`skyriver doctor` on a machine without a cloud, with one, with a dead one, and with a home that cannot be used."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_process import Cloud, free_port, kill, run_command, unknown_commands, wait_for

from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.client import top
from skyriver.core.errors import Unavailable
from skyriver.release.signature import Signature, TensorSpec
from skyriver.wiring import doctor, doctor_cloud, doctor_machine
from skyriver.wiring.finding import Finding
from skyriver.wiring.home import Home

CHECKS = [
    *("versions", "sqlite", "haproxy", "port", "descriptors", "memory", "shared memory", "limits", "clock", "home"),
    *("disk", "disk writes", "file locks", "cloud", "restarts", "clock steps", "leftovers", "database", "deployed"),
    *("pictures", "keys", "prices"),
]


def checks(home: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    ended = run_command("--home", home, "doctor", "--json", *arguments)
    found: list[dict[str, Any]] = ended.json["checks"]
    assert [c["name"] for c in found] == CHECKS
    for check in found:
        assert check["seen"], check
        assert check["result"] == "ok" or (check["meaning"] and check["action"]), check
        assert unknown_commands(check["action"]) == []
    assert ended.code == (7 if any(c["result"] == "fail" for c in found) else 0)
    return {c["name"]: c for c in found}


@pytest.fixture(scope="module")
def up(cloud: Cloud) -> Iterator[Cloud]:
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "shop.py", "-y").succeeded()
    wait_for(lambda: cloud.rows("streams")[0]["state"] == "READY", "the stream is READY")
    return cloud


def test_without_a_cloud_it_looks_at_the_machine_and_makes_nothing(tmp_path: Path) -> None:
    found = checks(tmp_path / "none")
    assert found["cloud"]["seen"] == "none runs in this home"
    assert found["home"]["result"] == found["database"]["result"] == found["leftovers"]["result"] == "ok"
    assert not (tmp_path / "none").exists()


def test_a_cloud_that_is_well(up: Cloud) -> None:

    found = checks(up.home)
    wrong = {n: c for n, c in found.items() if c["result"] != "ok" and n not in ("clock", "limits", "disk writes")}
    assert wrong == {}
    for words in ("supervisor (pid", f"control plane (pid {up.control_pid()}", f"gateway (pid {up.gateway_pid()}"):
        assert words in found["cloud"]["seen"]
    assert "chain unbroken" in found["database"]["seen"]
    assert list(up.home.glob(".doctor*")) == []
    text = up.command("doctor")
    assert "ok    cloud  supervisor" in text.out
    assert "checks" in text.err


def test_top_and_ps_tell_a_stranger_what_runs(up: Cloud) -> None:
    document = up.json("top")
    found = {p["name"]: p for p in document["processes"]}
    assert {"supervisor", "control plane", "gateway", "orders-0"} <= found.keys()
    for process in found.values():
        assert process["state"] == "READY"
        assert process["pid"] in up.living()
        assert process["cpu_percent"] is not None
        assert process["memory_mb"] > 5
    assert found["orders-0"]["per_second"] == 0.0
    text = up.command("top").succeeded().out
    assert text.splitlines()[0].split() == ["PROCESS", "NAME", "STATE", "PID", "UP", "CPU", "MEMORY", *top._COLUMNS[7:]]
    assert "jobs at work" in text
    parts = {p["name"]: p["pid"] for p in up.json("ps")["parts"]}
    gateway, control = up.gateway_pid(), up.control_pid()
    assert parts == {"supervisor": up.supervisor_pid(), "control plane": control, "gateway": gateway}
    for name, pid in parts.items():
        assert up.json("explain", name)[0]["pid"] == pid
    assert "control plane ready" in up.command("logs", "control").succeeded().out


def test_top_counts_between_two_looks() -> None:
    def seen(requests: int, cpu: float) -> dict[str, Any]:
        report = {"requests": requests, "p50_us": 900, "p99_us": 2_500}
        words = {"kind": "replica", "name": "m-1-1", "state": "READY", "pid": 7, "started_at": 1}
        return {**words, "cpu_seconds": cpu, "rss_mb": 80.0, "report": report}

    job = {"name": "j", "state": "RUNNING", "since": 1, "message": "", "status": {"progress": {"done": 1, "total": 4}}}
    document = top.told(top.Look(10.0, [seen(100, 1.0)], []), top.Look(12.0, [seen(300, 2.0)], [job]))
    told = document["processes"][0]
    assert (told["per_second"], told["cpu_percent"], told["p99_us"]) == (100.0, 50.0, 2_500)
    assert document["jobs"][0]["percent"] == 25.0
    begun = top.told(top.Look(10.0, [], []), top.Look(12.0, [seen(300, 2.0)], []))
    assert begun["processes"][0]["per_second"] is None, "nothing to compare with"


def test_parts_that_are_dead_or_stopped_and_what_lives_on(up: Cloud) -> None:
    os.kill(up.supervisor_pid(), signal.SIGSTOP)
    kill(up.control_pid())
    found = checks(up.home)
    assert found["cloud"]["result"] == "fail"
    assert "the supervisor is DEGRADED (STOPPED)" in found["cloud"]["seen"]
    assert "skyriver up" in found["cloud"]["action"]
    kill(up.supervisor_pid())
    found = checks(up.home)
    assert "the control plane is LOST (AWAY)" in found["cloud"]["seen"]
    assert f"worker default.worker.orders-0 (pid {worker_of(up)}) runs on alone" in found["leftovers"]["seen"]
    assert checks(up.home, "--fix")["leftovers"]["result"] == "warn", "nothing is removed while something runs"
    up.command("up").succeeded()
    assert checks(up.home)["cloud"]["result"] == "ok"


def worker_of(cloud: Cloud) -> int:
    return next(pid for pid, line in cloud.living().items() if "wiring.worker" in line)


def test_what_an_unclean_end_left_is_told_and_removed(up: Cloud) -> None:
    while living := up.living():
        for pid in living:
            with contextlib.suppress(ProcessLookupError):  # some end with the one before
                os.kill(pid, signal.SIGKILL)
    found = checks(up.home)
    assert found["leftovers"]["result"] == "warn"
    for words in ("the run file of default.worker.orders-0", "control.json", "--fix"):
        assert words in found["leftovers"]["seen"] + found["leftovers"]["action"]
    assert checks(up.home, "--fix")["leftovers"]["result"] == "ok"
    assert up.sockets() == []


def test_a_damaged_database_and_a_port_that_another_has(up: Cloud) -> None:
    up.command("down").succeeded()
    whole = up.home.joinpath("state.db").read_bytes()
    with sqlite3.connect(up.home / "state.db") as connection:
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 1")
    connection.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", up.port))
        taken.listen()
        found = checks(up.home)
    assert found["database"]["result"] == "fail", found["database"]
    assert (found["port"]["result"], str(up.port) in found["port"]["seen"]) == ("fail", True)
    up.home.joinpath("state.db").write_bytes(b"no database at all" * 100)
    assert checks(up.home)["database"]["result"] == "fail"
    up.home.joinpath("state.db").write_bytes(whole)
    assert checks(up.home)["database"]["result"] == "ok"


# One check alone


def failing(error: Exception) -> Callable[[Home], Finding]:
    def check(home: Home) -> Finding:
        raise error

    return check


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Unavailable("It is away.")])
def test_a_check_that_fails_is_a_finding(error: Exception, tmp_path: Path) -> None:
    found = doctor._looked("thing", failing(error), Home(tmp_path))
    assert (found.name, found.result) == ("thing", "fail")
    assert found.meaning
    assert found.action


def test_a_database_that_cannot_be_opened_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("state.db")
        found = doctor_cloud.database(Home(tmp_path))
    assert (found.result, found.seen) == ("fail", "unable to open database file")


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "100% mine? #1")
    home.make()
    SqliteStore(home.state).close()
    assert doctor_cloud.database(home).result == "ok"


def test_pictures_that_nobody_here_can_read_are_told() -> None:
    def version(name: str, datatype: str) -> dict[str, Any]:
        photo = TensorSpec("photo", datatype, (-1, 8, 8, 3))
        return {"name": name, "spec": {"signature": Signature((photo,), ()).to_json()}}

    rows = [version("sums:1", "FP32"), version("cats:2", "UINT8"), {"name": "old:1", "spec": {}}]
    missing = doctor_cloud.pictures_of(rows, installed=False)
    assert (missing.result, missing.seen) == ("warn", "taken by cats:2")
    assert 'pip install "skyriver[images]"' in missing.action
    assert doctor_cloud.pictures_of(rows, installed=True).seen == "taken by cats:2; Pillow reads them"
    assert doctor_cloud.pictures_of(rows[::2], installed=False).seen == "no model takes any"


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor_machine.os, "fsync", full)
    found = doctor_machine.disk_writes(Home(tmp_path))
    assert (found.result, "No space left on device" in found.seen) == ("fail", True)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_others_may_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = doctor_machine.permissions(Home(tmp_path))
    assert (found.result, found.action) == ("fail", f"`chmod go= {tmp_path}`")
    tmp_path.chmod(0o700)
    assert doctor_machine.permissions(Home(tmp_path)).result == "ok"
    (tmp_path / "file").write_text("")
    assert doctor_machine.permissions(Home(tmp_path / "file")).result == "fail"


def test_the_port_is_the_one_that_up_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setenv("SKYRIVER_PORT", str(number))
        found = doctor_machine.listening(home)
        assert (found.result, str(number) in found.seen) == ("fail", True)
        free = free_port()
        home.write_settings({"port": free})
        assert doctor_machine.listening(home).result == "fail", "the environment's goes before that of the last start"
    monkeypatch.delenv("SKYRIVER_PORT")
    assert doctor_machine.listening(home).seen == f"{free} is free"
    monkeypatch.setenv("SKYRIVER_PORT", "none")
    assert doctor._looked("port", doctor_machine.listening, home).result == "fail"


def test_locks_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_machine.locks(Home(tmp_path)).result == "ok"
    monkeypatch.setattr(doctor_machine.fcntl, "flock", lambda descriptor, how: None)
    assert doctor_machine.locks(Home(tmp_path)).result == "fail"
    assert list(tmp_path.iterdir()) == []


def test_findings_are_json(tmp_path: Path) -> None:
    assert json.loads(run_command("--home", tmp_path / "none", "doctor", "-o", "json").out)["checks"]
