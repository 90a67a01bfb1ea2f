"""What the bench of trainings makes of steps that were written down."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
SLOWLY = 200
"""Times as long as it says: what this process stands still is little against it."""


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path[:0] = [str(ROOT / "bench")]  # a bench is no package
    import training

    return training


def writes(folder: Path, **of: list[tuple[float, int, int]]) -> Callable[[], None]:
    """Steps as (seconds from now, divided by SLOWLY; steps done, workers), by process."""

    def write() -> None:
        now = time.monotonic()
        for process, steps in of.items():
            with (folder / process).open("a") as file:
                file.writelines(f"{now + SLOWLY * at} {done} {world}\n" for at, done, world in steps)

    return write


def test_of_survivors_no_step_is_done_again(bench: Any, tmp_path: Path) -> None:
    writes(tmp_path, a=[(-2.0, 41, 2), (-1.0, 42, 2)], b=[(-2.0, 41, 2), (-1.0, 42, 2)])()
    # the 43rd was begun before; the one that comes later has done the 45th with the survivor
    kill = writes(tmp_path, a=[(0.1, 43, 2), (0.2, 44, 1), (3.0, 45, 2)], c=[(3.0, 45, 2)])
    found = bench.felt(bench.Steps(tmp_path), kill)
    assert (found.any_s / SLOWLY, found.new_s / SLOWLY, found.full_s / SLOWLY) == pytest.approx(
        (0.2, 0.2, 3.0), abs=0.05
    )
    assert found.lost == 0


def test_a_survivor_that_goes_back_has_lost_steps(bench: Any, tmp_path: Path) -> None:
    writes(tmp_path, a=[(-1.0, 42, 2)], b=[(-1.0, 42, 2)])()
    kill = writes(tmp_path, a=[(0.2, 42, 1), (0.3, 43, 1), (0.4, 44, 1), (1.0, 45, 2)], c=[(1.0, 45, 2)])
    found = bench.felt(bench.Steps(tmp_path), kill)
    assert (found.any_s / SLOWLY, found.lost) == (pytest.approx(0.2, abs=0.05), 1)


def test_who_begins_from_a_checkpoint_does_steps_again_before_a_new_one(bench: Any, tmp_path: Path) -> None:
    writes(tmp_path, a=[(-1.0, 42, 2)], b=[(-1.5, 41, 2)])()
    again = [(9.0, 41, 2), (9.1, 42, 2), (9.2, 43, 2)]
    found = bench.felt(bench.Steps(tmp_path), writes(tmp_path, b=[(0.1, 42, 2)], c=again, d=again))
    assert (found.any_s / SLOWLY, found.new_s / SLOWLY, found.full_s / SLOWLY) == pytest.approx(
        (9.0, 9.2, 9.2), abs=0.05
    )
    assert found.lost == 2


def test_without_a_new_step_it_hangs(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "HANGS_S", 0.0)
    writes(tmp_path, a=[(-1.0, 42, 2)], b=[(-1.0, 42, 2)])()
    assert bench.felt(bench.Steps(tmp_path), writes(tmp_path, a=[(0.1, 43, 2)])) is None


def test_a_peer_that_is_not_given_is_told(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    document = bench.Document("training", bench.GOALS)
    assert bench.commands_of(document, "mlp", "").keys() == {"torchrun"}
    assert "not measured" in document.rows[-1]["reason"]
    assert "not measured" in capsys.readouterr().err
    peers = bench.commands_of(document, "mlp", "/there/python")
    assert peers["Ray Train"][0] == "/there/python"
    assert all(bench.KILLS[model].keys() == {"skyriver", *peers} for model in bench.MODELS)


def test_each_goal_can_be_missed(bench: Any) -> None:
    assert [goal.name for goal in bench.GOALS if goal.op == ">=" and goal.holds(0)] == []
    assert [goal.name for goal in bench.GOALS if goal.op == "<=" and goal.holds(1e9)] == []


def test_what_a_peer_said_last_is_told(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 5_000 + b"\xff the end")
    assert bench._end_of_log(tmp_path).endswith("\ufffd the end")
    assert len(bench._end_of_log(tmp_path)) == 2_000
