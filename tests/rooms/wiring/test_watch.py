"""How the supervisor keeps one part running: whatever goes wrong with one start, there is another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.processes.identity import Identity, identify
from skyriver.wiring import supervisor
from skyriver.wiring.home import Home
from skyriver.wiring.supervisor import Stop, Watch
from skyriver.wiring.watched import ControlPlane, PartState

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


class Sleeper:
    """A part that does nothing; its first starts and its first words on an end fail as they are told to."""

    name = "sleeper"

    def __init__(self, failures: list[Exception], wordless: list[Exception]) -> None:
        self._failures = failures
        self._wordless = wordless
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self) -> Identity:
        if self._failures:
            raise self._failures.pop(0)
        self.children.append(subprocess.Popen(SLEEPER))
        found = identify(self.children[-1].pid)
        assert found is not None
        return found

    def answers(self) -> bool:
        return True

    def wanted(self) -> bool:
        return True

    def ended(self, identity: Identity) -> tuple[str, dict[str, Any] | None]:
        self.children[-1].wait(60)
        if self._wordless:
            raise self._wordless.pop(0)
        return "ended", None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def keep(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sleeper], PartState]]:
    """Watches a part in a thread until the end of the test."""
    monkeypatch.setattr(supervisor, "PROBLEM_PAUSE_SECONDS", 0.01)
    stop, state, running = Stop(), PartState(), []

    def begin(part: Sleeper) -> PartState:
        thread = threading.Thread(target=Watch(part, state, stop, home, lambda: None).run, daemon=True)
        running.append((part, thread))
        thread.start()
        return state

    yield begin
    stop.set()
    for part, thread in running:
        thread.join(60)
        for child in part.children:
            child.kill()
            child.wait(60)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_error_of_a_start_or_of_an_end_ends_the_watching(keep: Callable[[Sleeper], PartState]) -> None:
    part = Sleeper([ValueError("settings that no hand should have written"), OSError("no room")], [ValueError("40")])
    state = keep(part)
    until(lambda: state.pid != 0 and state.problem is None)
    first = part.children[0]
    first.kill()
    until(lambda: len(part.children) == 2 and state.pid == part.children[1].pid and state.problem is None)


@pytest.mark.parametrize(("number", "word"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 6, "signal 40")])
def test_any_signal_that_ended_the_control_plane_is_told(home: Home, number: int, word: str) -> None:
    control = ControlPlane(home)
    control._child = subprocess.Popen(SLEEPER)
    found = identify(control._child.pid)
    assert found is not None
    os.kill(found.pid, number)
    assert control.ended(found) == (f"ended by {word}", None)
