"""Kill or stop any of the cloud's own parts, and it goes on; end it in any state, and nothing stays."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_process import COMMAND, Cloud, kill, wait_for

from skyriver.adapters.flock.leases import FileLeases

SECONDS = 300.0
"""For what takes two on an idle machine."""


@pytest.fixture(scope="module")
def shop(cloud: Cloud) -> Iterator[Cloud]:
    """A stream with its worker; no model is trained."""
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "shop.py", "-y").succeeded()
    wait_for(lambda: cloud.rows("streams")[0]["state"] == "READY", "the stream is READY", SECONDS)
    return cloud


def running(cloud: Cloud) -> Cloud:
    """`cloud`, up and answering, whatever a test did to it."""
    cloud.command("up").succeeded()
    wait_for(lambda: answers(cloud), "it answers", SECONDS)
    return cloud


def answers(cloud: Cloud) -> bool:
    try:
        return cloud.ask("GET", "/api/v1/whoami")[0] == 200
    except OSError:
        return False


def parts(cloud: Cloud) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((cloud.home / "run" / "supervisor.json").read_bytes())["parts"]
    return found


def left_over(cloud: Cloud) -> list[object]:
    """What must not be there once a cloud has ended."""
    run = [p.name for p in (cloud.home / "run").iterdir() if p.name != "leases" and p.name != "s"]
    shared = [p for p in Path("/dev/shm").iterdir() if "skyriver" in p.name and p.stat().st_uid == os.getuid()]
    leases = FileLeases(cloud.home / "run" / "leases")
    held = [name for name in ("supervisor", "control", "command") if leases.holder(name) is not None]
    return [*cloud.living().values(), *cloud.sockets(), *run, *shared, *held]


def modules(cloud: Cloud) -> list[str]:
    """What runs, by its module, without the job processes that come and go."""
    words = [line.split() for line in cloud.living().values()]
    names = [w[2].removeprefix("skyriver.wiring.") if w[1:2] == ["-m"] else Path(w[0]).name for w in words if w]
    return sorted(name for name in names if name != "job")


ALL = ["control", "haproxy", "supervisor", "worker"]


def all_run_and_once(cloud: Cloud) -> None:
    """Soon: what is just being started has the name of who starts it for a moment."""
    wait_for(lambda: modules(cloud) == ALL, "all run, and once", SECONDS)


def test_a_killed_control_plane_is_back_and_nothing_else_noticed(shop: Cloud) -> None:
    running(shop)
    before, worker, known = shop.control_pid(), shop.processes(), parts(shop)["control"]["restarts"]
    kill(before)
    status, answer = shop.ask("POST", "/streams/orders/events", shop.next_orders(3))
    assert (status, answer["accepted"]) == (200, 3), "events are taken without it"
    wait_for(lambda: answers(shop), "it answers", SECONDS)
    assert shop.control_pid() != before
    assert shop.processes() == worker
    told = parts(shop)["control"]
    assert (told["restarts"], told["ends"][-1]["why"], told["pid"]) == (
        known + 1,
        "ended by SIGKILL",
        shop.control_pid(),
    )


def test_a_killed_gateway_is_back_with_its_routes(shop: Cloud) -> None:
    running(shop)
    before, control = shop.gateway_pid(), shop.control_pid()
    kill(before)
    wait_for(lambda: answers(shop), "it answers", SECONDS)
    wait_for(lambda: shop.gateway_pid() != before, "its run file", SECONDS)
    assert shop.control_pid() == control
    assert shop.ask("POST", "/streams/orders/events", shop.next_orders(1))[0] == 200


def test_a_killed_supervisor_is_back_and_knows_what_runs(shop: Cloud) -> None:
    running(shop)
    before, control, gateway = shop.supervisor_pid(), shop.control_pid(), shop.gateway_pid()
    kill(before)
    wait_for(lambda: shop.supervisor_pid() != before, "there is another", SECONDS)
    wait_for(lambda: {p["pid"] for p in parts(shop).values()} == {control, gateway}, "it adopted both", SECONDS)
    kill(control)
    wait_for(lambda: shop.control_pid() != control and answers(shop), "it starts another one", SECONDS)
    all_run_and_once(shop)


@pytest.mark.parametrize("part", ["control_pid", "gateway_pid"])
def test_a_stopped_part_is_ended_and_started(shop: Cloud, part: str) -> None:
    running(shop)
    before = getattr(shop, part)()
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: getattr(shop, part)() != before and answers(shop), "another one answers", SECONDS)
    all_run_and_once(shop)
    assert any(end["why"] == "did not answer, was ended" for end in parts(shop)[part.removesuffix("_pid")]["ends"])


def test_a_stopped_supervisor_is_ended_and_started(shop: Cloud) -> None:
    running(shop)
    before = shop.supervisor_pid()
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: shop.supervisor_pid() != before, "there is another", SECONDS)
    all_run_and_once(shop)


def test_a_part_that_was_stopped_before_its_supervisor_came_is_ended_as_soon(shop: Cloud) -> None:
    running(shop)
    supervisor, control = shop.supervisor_pid(), shop.control_pid()
    kill(supervisor)
    wait_for(lambda: shop.supervisor_pid() != supervisor, "there is another", SECONDS)
    os.kill(control, signal.SIGSTOP)  # it has hardly asked it whether it answers
    wait_for(lambda: parts(shop)["control"]["pid"] not in (0, control), "it is ended", 45.0)
    wait_for(lambda: shop.control_pid() != control and answers(shop), "another one answers", SECONDS)


def test_up_brings_back_all_that_was_killed_and_adopts_the_rest(shop: Cloud) -> None:
    running(shop)
    worker = shop.processes()
    for pid in (shop.supervisor_pid(), shop.control_pid(), shop.gateway_pid()):
        kill(pid)
    assert shop.json("up") == {"url": f"http://127.0.0.1:{shop.port}", "started": True}
    assert shop.processes() == worker
    all_run_and_once(shop)


def test_two_ups_at_once_start_one_cloud_and_down_ends_it(shop: Cloud) -> None:
    shop.command("down").succeeded()
    (shop.home / "run" / "stopping").touch()  # as a `down` that was cut off leaves it
    command = [str(COMMAND), "--home", str(shop.home), "up"]
    ups = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=shop.folder) for _ in range(3)]
    told = [up.communicate(timeout=SECONDS)[1] for up in ups]
    assert [up.returncode for up in ups] == [0, 0, 0], told
    assert sum("runs already at" in text for text in told) == 2, told
    assert sum("Waiting: " in text for text in told) >= 1, told
    all_run_and_once(shop)


def stop_worker(cloud: Cloud) -> None:
    os.kill(cloud.processes()["orders-0"], signal.SIGSTOP)


def kill_all_but_the_worker(cloud: Cloud) -> None:
    for pid in (cloud.supervisor_pid(), cloud.control_pid(), cloud.gateway_pid()):
        os.kill(pid, signal.SIGKILL)


STATES: dict[str, Callable[[Cloud], object]] = {
    "control killed": lambda cloud: os.kill(cloud.control_pid(), signal.SIGKILL),
    "supervisor killed": lambda cloud: os.kill(cloud.supervisor_pid(), signal.SIGKILL),
    "all killed": kill_all_but_the_worker,
    "control stopped": lambda cloud: os.kill(cloud.control_pid(), signal.SIGSTOP),
    "supervisor stopped": lambda cloud: os.kill(cloud.supervisor_pid(), signal.SIGSTOP),
    "worker stopped": stop_worker,
    "run files lost": lambda cloud: [p.unlink() for p in (cloud.home / "run").glob("*.json")],
}


@pytest.mark.parametrize("state", STATES)
def test_down_ends_everything(shop: Cloud, state: str) -> None:
    running(shop)
    all_run_and_once(shop)
    STATES[state](shop)
    shop.command("down").succeeded()
    assert left_over(shop) == []


def test_down_waits_for_an_up_and_ends_what_it_started(shop: Cloud) -> None:
    up = subprocess.Popen([str(COMMAND), "--home", str(shop.home), "up"], stderr=subprocess.DEVNULL, cwd=shop.folder)
    wait_for(lambda: "supervisor" in modules(shop), "it has begun", SECONDS)
    up.send_signal(signal.SIGSTOP)  # it is at it still when the other one comes
    command = [str(COMMAND), "--home", str(shop.home), "down"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=shop.folder) as down:
        assert down.stderr is not None
        told = down.stderr.readline()
        up.send_signal(signal.SIGCONT)
        told += down.communicate(timeout=SECONDS)[1]
    up.wait(SECONDS)
    assert down.returncode == 0, told
    assert told.startswith("Waiting: "), told
    assert "supervisor" in told
    assert left_over(shop) == []


def test_down_ends_what_a_killed_up_had_begun(shop: Cloud) -> None:
    up = subprocess.Popen([str(COMMAND), "--home", str(shop.home), "up"], stderr=subprocess.DEVNULL, cwd=shop.folder)
    wait_for(lambda: "control" in modules(shop), "it has begun", SECONDS)
    up.kill()
    up.wait(SECONDS)
    shop.command("down").succeeded()
    assert left_over(shop) == []
    assert shop.json("down") == {"ended": []}


def test_the_foreground_shows_the_log_and_ends_everything(shop: Cloud) -> None:
    command = [str(COMMAND), "--home", str(shop.home), "up", "--foreground"]
    up = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=shop.folder)
    try:
        lines: list[str] = []
        assert up.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(up.stderr), daemon=True)
        reader.start()
        wait_for(lambda: any("control plane ready" in line for line in lines), "the control plane's log", SECONDS)
        wait_for(lambda: answers(shop), "it answers", SECONDS)
        assert shop.supervisor_pid() == up.pid
        up.terminate()
        assert up.wait(SECONDS) == 0, lines
        reader.join(SECONDS)
        assert "Traceback" not in "".join(lines)
        assert left_over(shop) == []
    finally:
        up.kill()
        up.wait(SECONDS)
        assert up.stderr is not None
        up.stderr.close()


def test_what_cannot_be_mended_is_told_and_nothing_half_started_stays(shop: Cloud) -> None:
    shop.command("down").succeeded()
    with sqlite3.connect(shop.home / "state.db") as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    try:
        shop.command("up").refused("NEWER_STORE", 6, "9999", "Install the newer Skyriver")
        assert left_over(shop) == []
    finally:
        with sqlite3.connect(shop.home / "state.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.close()


def test_units_are_printed_and_nothing_is_started(shop: Cloud) -> None:
    units = shop.json("up", "--systemd")
    assert left_over(shop) == []
    assert [Path(path).name for path in units] == ["skyriver.service", "skyriver.service"]
    for text in units.values():
        assert f'--home "{shop.home}" up --foreground' in text
        assert "KillMode=process" in text
        assert "ExecStop" not in text
