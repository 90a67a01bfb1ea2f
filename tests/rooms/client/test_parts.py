"""The cloud's own parts are asked about by the names that `ps` shows, without the cloud."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from skyriver.client import cli
from skyriver.core.errors import NotFound, Unavailable

ROW = {
    "kind": "part",
    "state": "FAILED",
    "reason": "PORT_IN_USE",
    "message": "Port [7470] is taken.",
    "next_action": "End that program.",
    "pid": 0,
    "started_at": 0,
    "rss_mb": 0.0,
    "ends": [],
}


class Machine:
    """One whose cloud answers nothing: a command that asked it would fail."""

    def __init__(self, *, runs: bool = True, log: bool = True) -> None:
        self._runs = runs
        self._log = log

    def parts(self, home: Path | None) -> list[dict[str, Any]]:
        ends = [{"at": (time.time_ns() // 1_000) - 10_800_000_000, "why": f"end {n}"} for n in range(7)]
        well = {"state": "READY", "reason": "", "message": "", "next_action": "", "pid": 7, "ends": ends}
        rows = [{**ROW, "name": "gateway"}, {**ROW, **well, "name": "control plane"}]
        return rows if self._runs else []

    def part_log(self, home: Path | None, part: str, lines: int) -> list[str]:
        if not self._log:
            raise NotFound("Nothing was printed.", code="NO_LOG")
        return [f"[{part}] {n}" for n in range(100)][-lines:]

    def address(self, home: Path | None) -> None:
        raise Unavailable("It is down.", code="CLOUD_AWAY", next_action="`skyriver up` starts it.")


def run(machine: Machine, *arguments: str) -> int:
    this: Any = machine
    return cli.main(this, arguments)


@pytest.mark.parametrize("name", ["control", "control plane", "part/control", "part/control plane"])
def test_the_log_of_a_part(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Machine(), "logs", name, "-n", "2") == 0
    assert (
        capsys.readouterr().out == "part/control plane | [control plane] 98\npart/control plane | [control plane] 99\n"
    )
    assert run(Machine(), "logs", name, "-n", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "part/control plane", "line": "[control plane] 99"}


def test_the_log_of_a_part_is_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Machine(), "logs", "control plane", "-f") == 2
    out, err = capsys.readouterr()
    assert (out, "NOT_FOLLOWED" in err, "`skyriver logs control`" in err) == ("", True, True)


def test_a_part_is_explained_with_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Machine(log=False), "explain", "gateway") == 0
    why = "  why   PORT_IN_USE: Port [7470] is taken.\n  next  End that program.\n"
    assert capsys.readouterr().out == f"part gateway is FAILED\n{why}"


def test_a_part_is_explained_with_how_it_ended_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Machine(), "explain", "control") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "part control plane is READY"
    assert [line.split(": ")[1] for line in lines if line.startswith("  ended 3 h ago")] == [
        f"end {n}" for n in range(2, 7)
    ]
    assert "  process control plane, pid 7, 0 MB" in lines
    assert lines[-1] == "    [control plane] 99"
    assert run(Machine(), "explain", "control", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], len(told["ends"]), len(told["log"])) == ("control plane", 7, 10)


def test_a_part_of_a_cloud_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Machine(runs=False), "explain", "supervisor") == Unavailable.exit_code
    assert "It is down." in capsys.readouterr().err
