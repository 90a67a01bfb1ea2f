"""What a machine does to a cloud: a full disk, a locked database, removed directories, a clock that is set, a disk that
is mounted read-only. The cloud says what is wrong and what to do, goes on with what needs none of it, and is whole by
itself once the cause is gone.

The tests share one cloud and run in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from cloud_process import ROW, Cloud, history, kill, wait_for, write_csv
from kills.stream_disturbances import CLOCK

DISK_MB = 64
DAY = 86_400


def mounted(path: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(path)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What every Python process of the cloud begins with; its `offset` moves their clocks."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(CLOCK)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(folder), before) if p)
    yield folder
    if before:
        os.environ["PYTHONPATH"] = before
    else:
        del os.environ["PYTHONPATH"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, clock: Path, kernels: Path) -> Iterator[Cloud]:
    """With a home on a small disk of its own, a model that serves and a stream that decides."""
    home = Path(tempfile.mkdtemp(prefix="dist-"))
    try:
        mounted(home, "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "tmpfs")
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no disk of its own can be mounted here (it takes root): {error}")
    made = Cloud(tmp_path_factory.mktemp("shop"), home=home, kernels=kernels)
    try:
        made.command("up", "--port", made.port).succeeded()
        made.command("deploy", made.app, "-y").succeeded()
        made.command("table", "load", "orders", write_csv(made.folder / "history.csv", history())).succeeded()
        made.command("run", "comes_back").succeeded()
        made.wait_ready()
        yield made
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            mounted(home, "-o", "remount,rw")
        made.close()
        subprocess.run(["umount", "-l", str(home)], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def answers(cloud: Cloud) -> bool:
    return cloud.ask("POST", "/predict/comes_back", ROW)[0] == 200


def decides(cloud: Cloud) -> bool:
    status, answer = cloud.ask("POST", "/streams/orders/events?wait=decision", cloud.next_orders(2))
    return status == 200 and answer["accepted"] == 2


def replica(cloud: Cloud) -> tuple[str, int]:
    """One that is meant to stay: those of the version before have gone."""
    cloud.wait_ready()
    return next((name, pid) for name, pid in sorted(cloud.processes().items()) if name.startswith("comes_back-"))


def is_whole(cloud: Cloud) -> None:
    """Everything serves, and everything that can be asked for works."""
    wait_for(lambda: answers(cloud), "a prediction")
    wait_for(lambda: decides(cloud), "a decision")
    cloud.wait_ready()
    cloud.command("deploy", cloud.app, "-y").succeeded()
    cloud.command("run", "comes_back").succeeded()


def test_a_full_disk_stops_only_what_needs_it(cloud: Cloud) -> None:
    filler = cloud.home / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 65_536)
                file.flush()
        cloud.command("run", "comes_back").refused("DISK_FULL", 7, "full")
        cloud.command("deploy", cloud.app, "-y").refused("DISK_FULL", 7, "No space left")
        assert answers(cloud)
        assert cloud.ask("POST", "/streams/orders/events", cloud.next_orders(1))[0] in (200, 202, 503)
        assert all(p["alive"] for p in cloud.rows("processes") if p["kind"] != "job"), "a process died of it"
        doctor = cloud.command("doctor", "--json")
        assert doctor.code != 0
        assert "disk" in doctor.out
    finally:
        filler.unlink(missing_ok=True)
    is_whole(cloud)


def test_a_locked_database_keeps_nothing_from_being_started_again(cloud: Cloud) -> None:
    name, pid = replica(cloud)
    database = sqlite3.connect(cloud.home / "state.db", isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        kill(pid)
        # The control plane itself waits for that process, to start the replica: who of its threads comes first is told
        # of the process, the other one of the thread.
        cloud.command("run", "comes_back").refused("STORE_LOCKED", 7, "is writing")
        wait_for(lambda: "STORE_LOCKED" in cloud.command("doctor").out, "doctor tells of it")
        wait_for(lambda: cloud.processes().get(name) not in (None, pid), "the replica is started again")
        assert answers(cloud)
    finally:
        database.execute("ROLLBACK")
        database.close()
    is_whole(cloud)


def test_removed_logs_of_processes_are_made_again(cloud: Cloud) -> None:
    shutil.rmtree(cloud.home / "logs")
    kill(replica(cloud)[1])
    is_whole(cloud)
    assert list((cloud.home / "logs").glob("*.log"))
    wait_for((cloud.home / "logs" / "control.log").exists, "the control plane prints into a file again")


def test_a_removed_stream_log_is_told_and_never_begun_anew(cloud: Cloud) -> None:
    log, aside = cloud.home / "streams" / "default" / "orders" / "log", cloud.home / "aside"
    [order] = cloud.next_orders(1)
    first = cloud.ask("POST", "/streams/orders/events?wait=decision", [order])[1]["decisions"][0]
    log.rename(aside)
    kill(cloud.processes()["orders-0"])

    def told() -> bool:
        stream = next(s for s in cloud.rows("streams") if s["name"] == "orders")
        return stream["state"] != "READY" and stream["reason"] == "LOG_GONE" and "Put" in stream["next_action"]

    wait_for(told, "the stream says that its log is gone")
    assert cloud.ask("POST", "/streams/orders/events", cloud.next_orders(1))[0] == 503
    assert not list(log.glob("*.log")) if log.exists() else True
    assert "LOG_GONE" in cloud.command("explain", "orders").succeeded().out
    if log.exists():
        shutil.rmtree(log)
    aside.rename(log)
    wait_for(lambda: decides(cloud), "the stream is back")
    again = cloud.ask("POST", "/streams/orders/events?wait=decision", [order])[1]
    assert (again["duplicates"], again["decisions"][0]["decision"]) == (1, first["decision"])
    cloud.command("stream", "verify", "orders").succeeded()


@pytest.mark.parametrize("seconds", [-DAY, 365 * DAY, 0])
def test_a_clock_that_is_set_gives_nothing_up(cloud: Cloud, clock: Path, seconds: int) -> None:
    """Back a day, forward a year, and right again; a training runs all the while."""
    status, asked = cloud.ask("POST", "/api/v1/tenants/default/actions/train", {"target": "comes_back"})
    assert status == 202, asked
    started = asked["operation"]
    before = cloud.processes()
    log = cloud.home / "logs" / "control.log"
    told = log.read_text().count("clock was set by")
    (clock / "offset").write_text(str(seconds))
    wait_for(lambda: log.read_text().count("clock was set by") > told, "the step of the clock is told")
    wait_for(
        lambda: cloud.ask("GET", f"/api/v1/tenants/default/operations/{started}")[1]["state"] == "SUCCEEDED",
        "the training ends well",
    )
    wait_for(lambda: answers(cloud), "a prediction")
    cloud.wait_ready()
    worker = cloud.processes()["orders-0"]
    assert worker == before["orders-0"], "the worker was started again for a clock"
    assert [r for r in cloud.rows("rollouts") if r["state"] in ("ROLLED_BACK", "ABORTED")] == []


def test_an_upgrade_fails_no_request(cloud: Cloud) -> None:
    """The package was changed under a running cloud: `up` replaces supervisor and control plane, and nothing else."""
    cloud.wait_ready()
    run_file = cloud.home / "run" / "control.json"
    told = json.loads(run_file.read_bytes())
    run_file.write_text(json.dumps({**told, "version": "0.0.9"}))
    before, failed, done = cloud.processes(), [], threading.Event()

    def ask() -> None:
        with cloud.connected() as send:
            while not done.is_set():
                status, answer = send("POST", "/predict/comes_back", ROW)
                if status != 200:
                    failed.append(answer)

    traffic = threading.Thread(target=ask)
    traffic.start()
    try:
        said = cloud.command("up").succeeded().err
    finally:
        done.set()
        traffic.join()
    assert "Version 0.0.9 runs here and becomes" in said
    assert failed == []
    assert cloud.control_pid() != told["pid"]
    assert cloud.processes() == before
    assert "runs already" in cloud.command("up").succeeded().err
    is_whole(cloud)


def test_a_read_only_disk_is_told_and_nothing_is_needed_once_it_is_not(cloud: Cloud) -> None:
    cloud.command("down").succeeded()
    mounted(cloud.home, "-o", "remount,ro")
    try:
        cloud.command("up").refused("LEASES_AWAY", 7, "Read-only")
        assert cloud.command("doctor", "--json").code != 0
        assert cloud.living() == {}
    finally:
        mounted(cloud.home, "-o", "remount,rw")
    cloud.command("up").succeeded()
    is_whole(cloud)
