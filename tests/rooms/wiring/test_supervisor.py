"""What a supervisor knows of its parts outlives it: since when each runs, and how often one ended."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.processes.identity import Identity, age_seconds, identify
from skyriver.wiring import doctor_cloud
from skyriver.wiring.home import Home
from skyriver.wiring.supervisor import UNSEEN, Stop, Supervisor, Watch
from skyriver.wiring.watched import PartState, read_parts


class Adopted:
    """A control plane that runs already: this very process, which is older than its supervisor."""

    name = "control"

    def start(self) -> Identity:
        found = identify(os.getpid())
        assert found is not None
        return found

    def answers(self) -> bool:
        return True

    def ended(self, identity: Identity) -> tuple[str, dict[str, Any] | None]:
        return "ended", None


def adopt(home: Home, known: int) -> PartState:
    """What is known of the control plane once a supervisor has found it that followed one which knew pid `known`."""
    control = PartState(pid=known, since=1, restarts=1, ends=[{"at": time.time_ns() // 1_000, "why": "exited with 3"}])
    home.supervisor_run.write_text(json.dumps({"parts": {"control": asdict(control), "gateway": asdict(PartState())}}))
    supervisor = Supervisor(home, foreground=False)
    stop = Stop()
    stop.set()  # it looks once
    Watch(Adopted(), supervisor._states["control"], stop, home, supervisor._tell)._keep_running()
    return read_parts(home)["control"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    found.make()
    return found


def test_a_part_that_is_adopted_is_as_old_as_its_process(home: Home) -> None:
    identity = identify(os.getpid())
    assert identity is not None
    found = adopt(home, os.getpid())
    assert found.pid == os.getpid()
    assert abs(time.time() - found.since / 1e6 - age_seconds(identity)) < 1.0
    assert (found.restarts, [end["why"] for end in found.ends]) == (1, ["exited with 3"])
    assert doctor_cloud.restarts(home).seen == "in the last hour: control 1, gateway 0"


def test_an_end_that_no_supervisor_saw_is_counted(home: Home) -> None:
    found = adopt(home, 4_000_000)
    assert (found.restarts, [end["why"] for end in found.ends]) == (2, ["exited with 3", UNSEEN])
    assert doctor_cloud.restarts(home).seen == "in the last hour: control 2, gateway 0"


def test_an_end_that_was_counted_is_not_counted_again(home: Home) -> None:
    assert adopt(home, 0).restarts == 1
