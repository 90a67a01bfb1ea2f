"""A whole cloud whose control state is in PostgreSQL, with a second control plane that stands by."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import pytest
from cloud_process import COMMAND, Cloud, wait_for
from postgres_server import PostgresServer

from skyriver.adapters.postgres.store import PostgresStore

DEADLINE_S = 120.0
TAKEOVER_S = 10.0


@pytest.fixture
def cloud(tmp_path: Path, kernels: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path, kernels=kernels)
    yield made
    made.close()


def start_standby(cloud: Cloud, address: str) -> subprocess.Popen[bytes]:
    """As an init system would: beside the one that the supervisor looks after."""
    with (cloud.home / "logs" / "standby.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "skyriver.wiring.control", str(cloud.home)],
            env=os.environ | {"SKYRIVER_STORE": address},
            cwd=cloud.home,
            stdout=log,
            stderr=log,
        )


def answers(cloud: Cloud) -> bool:
    with contextlib.suppress(OSError, HTTPException, ValueError):
        return cloud.ask("GET", "/api/v1/whoami")[0] == 200
    return False


def stands_by(cloud: Cloud) -> bool:
    return "standing by: The lease 'control' is held by" in (cloud.home / "logs" / "standby.log").read_text()


def test_the_one_that_stands_by_takes_over_and_down_ends_both(cloud: Cloud, postgres: PostgresServer) -> None:
    address = postgres.prepared()
    begun = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKYRIVER_")}
    up = subprocess.run(
        [COMMAND, "--home", cloud.home, "up", "--port", str(cloud.port)],
        env=environment | {"SKYRIVER_STORE": address},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert up.returncode == 0, up.stderr
    starting = time.monotonic() - begun  # some three seconds, unless the machine does much else
    assert answers(cloud)
    assert not (cloud.home / "state.db").exists()
    fences: list[int] = []
    standbys: list[subprocess.Popen[bytes]] = []
    with closing(PostgresStore(address)) as store:
        for how in (signal.SIGKILL, signal.SIGSTOP):
            before = cloud.control_pid()
            fences.append(newest_fence(postgres, address))
            standby = start_standby(cloud, address)
            standbys.append(standby)
            wait_for(lambda: stands_by(cloud), "it stands by", DEADLINE_S)
            assert cloud.control_pid() == before, "one that stands by is in no run file and serves nothing"
            moment = time.monotonic()
            os.kill(before, how)
            wait_for(lambda b=before: cloud.control_pid() != b, "another one is active", DEADLINE_S)
            active_s = time.monotonic() - moment
            wait_for(lambda: answers(cloud), "it serves", DEADLINE_S)
            print(
                f"{how.name}: another is active after {active_s:.1f} s, serves after {time.monotonic() - moment:.1f} s"
            )
            assert active_s < max(TAKEOVER_S, 3 * starting)
            assert newest_fence(postgres, address) > fences[-1]
            wait_for(lambda b=before: has_ended(b), "the one before is ended", DEADLINE_S)
            if cloud.control_pid() != standby.pid:
                standby.kill()  # the supervisor's own was the faster one
                standby.wait(DEADLINE_S)
            (cloud.home / "logs" / "standby.log").write_text("")
        assert [row.name for row in store.rows("default", "token")] == ["admin"]
        standing_by = start_standby(cloud, address)
        wait_for(lambda: stands_by(cloud), "it stands by", DEADLINE_S)
    cloud.command("down").succeeded()
    assert standing_by.wait(DEADLINE_S) != 0
    for standby in standbys:  # one of them may have been the active one
        standby.wait(DEADLINE_S)
    wait_for(lambda: not cloud.living(), "nothing stays", DEADLINE_S)


def newest_fence(postgres: PostgresServer, address: str) -> int:
    database = address.partition("@/")[2].partition("?")[0]
    return int(postgres.sql("SELECT max(fence) FROM skyriver.fences", database))


def has_ended(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_database_that_is_not_prepared_is_said(cloud: Cloud, postgres: PostgresServer) -> None:
    unprepared = postgres.address(postgres.new_database(), "postgres")
    (cloud.home / "logs").mkdir()
    control = start_standby(cloud, unprepared)
    assert control.wait(DEADLINE_S) != 0
    log = (cloud.home / "logs" / "standby.log").read_text()
    assert "The database is not prepared for this Skyriver." in log
    assert "Traceback" not in log
