"""Small jobs for tests: their code stands in their configuration, so that a test says what its process does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.core.resources import Limits, ProcessSpec, ProcessStatus

JOB = """
import json, os, signal, subprocess, sys, time, pathlib
process = json.loads(pathlib.Path(sys.argv[1]).read_text())
def tell(**report):
    path = pathlib.Path(process["process"]["status_file"])
    path.with_suffix(".new").write_text(json.dumps({"token": process["process"]["token"], **report}))
    path.with_suffix(".new").replace(path)
exec(process["config"]["code"])
"""
NAME = "t.job.x"


def make_home(root: Path) -> None:
    """A package `skyriver.wiring` of the test's own stands in for the real one in the children."""
    package = root / "fake" / "skyriver" / "wiring"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    for module in ("job", "replica"):
        (package / f"{module}.py").write_text(JOB)


def processes(home: Path, fence: int = 0) -> ChildProcesses:
    environment = {"PYTHONPATH": str(home / "fake"), "PATH": os.environ["PATH"]}
    return ChildProcesses(home, home / "s", environment=environment, fence=fence)


def spec(code: str, environment: str = "", **limits: float) -> ProcessSpec:
    held = Limits(**limits)  # type: ignore[arg-type]
    return ProcessSpec(NAME, "job", "t", {"code": code}, once=True, limits=held, environment=environment)


def until(law: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline, law
        time.sleep(0.01)


def run(home: Path, code: str, environment: str = "", **limits: float) -> ProcessStatus:
    """Starts it, and looks again only when it has ended, as a control plane that was away does."""
    processes(home).ensure({NAME: spec(code, environment, **limits)})
    later = processes(home)
    until("it ends", lambda: not later.observe()[NAME].alive)
    return later.observe()[NAME]


def told(home: Path) -> dict[str, int]:
    """What the job tells, once it does."""
    parts = processes(home)
    until("it tells something", lambda: bool(parts.observe()[NAME].report))
    return dict(parts.observe()[NAME].report)


def log(home: Path) -> bytes:
    return processes(home).log(NAME)[0]


def add_environment(home: Path, digest: str, first: str = ":") -> None:
    """One with the small jobs in it: the PYTHONPATH of others does not reach into an environment. `first`: what its
    shell does before Python is there, which takes a busy machine its time."""
    python = home / "environments" / digest / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n{first}\nPYTHONPATH={home}/fake exec {sys.executable} "$@"\n')
    python.chmod(0o755)
