"""Whatever runs processes passes the exam of its port."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from small_jobs import add_environment

from skyriver.adapters.memory import compute as memory
from skyriver.adapters.memory.compute import MemoryCompute, MemoryProcess
from skyriver.adapters.processes import groups, processes
from skyriver.adapters.processes.identity import Identity, child_of
from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.control.compute_exam import COMPUTE_CHECKS, check_compute
from skyriver.control.compute_stage import PROGRAM, Stage
from skyriver.core.resources import ProcessSpec


@contextmanager
def child_stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="sky") as name:
        home = Path(name)
        package = home / "fake" / "skyriver" / "wiring"
        package.mkdir(parents=True)
        for folder in (package.parent, package):
            (folder / "__init__.py").touch()
        for module in ("job", "replica", "worker"):
            (package / f"{module}.py").write_text(PROGRAM)
        environment = {"PYTHONPATH": str(home / "fake"), "PATH": os.environ["PATH"]}

        def make() -> ChildProcesses:
            return ChildProcesses(home, home / "s", environment=environment)

        def kill(name: str) -> None:
            run = json.loads((home / "run" / f"{name}.run.json").read_bytes())
            identity = Identity(run["pid"], run["start_time"], run["boot"])
            os.kill(child_of(identity) if run["watched"] else identity.pid, signal.SIGKILL)

        try:
            yield Stage(make(), make, kill, partial(add_environment, home))
        finally:
            make().stop_all()


@contextmanager
def memory_stage() -> Iterator[Stage]:
    compute = MemoryCompute(play, time.monotonic)
    compute.environments = set()
    yield Stage(compute, lambda: compute, compute.kill, compute.environments.add)


def play(process: MemoryProcess) -> None:
    """The exam's words, as far as the process gets by itself; then it waits."""
    memory = process.memory
    if process.asked and not memory.get("deaf"):
        process.end(memory.get("listen", -15))
    for word, argument in process.spec.config["acts"][memory.get("next", 0) :]:
        if word == "wait":
            break
        memory["next"] = memory.get("next", 0) + 1
        act(process, word, argument)
        if not process.compute.running[process.spec.name].alive:
            return
    else:
        process.end(0)
    if memory.get("live", process.live) != process.live:
        act(process, "tell", memory["told"])


def act(process: MemoryProcess, word: str, argument: Any) -> None:
    match word:
        case "tell":
            process.memory |= {"live": dict(process.live), "told": argument}
            process.tell({**argument, "live": dict(process.live), "config": dict(process.spec.config)})
        case "print":
            process.print(f"{argument}\n")
        case "exit":
            process.end(argument)
        case "die":
            process.end(-argument)
        case "take":
            process.take(argument)
        case _:
            process.memory[word] = argument if word == "listen" else True


@pytest.fixture(params=["children", "children without groups", "memory"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(memory, "GRACE_SECONDS", 1.0)
    if request.param == "children without groups":
        monkeypatch.setattr(groups, "trees_of_this_machine", list)
    return memory_stage if request.param == "memory" else child_stage


@pytest.mark.parametrize("check", COMPUTE_CHECKS, ids=lambda check: check.__name__)
def test_exam(make: Any, check: Any) -> None:
    with make() as stage:
        check(stage)


class Forgetful(MemoryCompute):
    """Starts a job again that has ended."""

    def ensure(self, wanted: Any, **keep: Any) -> None:
        super().ensure({n: ProcessSpec(n, s.module, s.tenant, s.config, s.live) for n, s in wanted.items()}, **keep)


class Silent(MemoryCompute):
    """Does not tell why a process ended."""

    def observe(self) -> Any:
        return {n: replace(s, out_of_memory=False, timed_out=False) for n, s in super().observe().items()}


class Mixing(MemoryCompute):
    """Takes another configuration of a replica for the same process."""

    def ensure(self, wanted: Any, **keep: Any) -> None:
        first = getattr(self, "first", {})
        self.first = {n: s if s.once else first.get(n, s) for n, s in wanted.items()}
        super().ensure(self.first, **keep)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Forgetful, "what ran once is not started again"),
        (Silent, "past its time a process is ended, and that is told"),
        (Mixing, "it has the new configuration"),
    ],
)
def test_the_exam_finds_what_is_wrong(kind: type[MemoryCompute], law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.control.compute_stage.DEADLINE", 4.0)
    monkeypatch.setattr(memory, "GRACE_SECONDS", 0.2)

    @contextmanager
    def wrong() -> Iterator[Stage]:
        compute = kind(play, time.monotonic)
        yield Stage(compute, lambda: compute, compute.kill, lambda _: None)

    with pytest.raises(AssertionError, match=f"broken law: {law}"):
        check_compute(wrong)
