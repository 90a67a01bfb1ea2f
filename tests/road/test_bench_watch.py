"""The bench of watching: its simulated cloud is quiet when all is well, and what is planted is noticed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(ROOT / "bench"))  # a bench is no package
    import watch

    return watch


def test_fifty_faults_of_their_own_names(bench: Any) -> None:
    assert len({(fault.area, fault.name) for fault in bench.FAULTS}) == len(bench.FAULTS) == 50


@pytest.mark.parametrize("name", ["new version fails", "one hangs", "it is full", "broker away"])
def test_a_fault_is_noticed_and_put_down_to_what_it_is(bench: Any, name: str) -> None:
    world = bench.World(3)
    world.looks(900)
    assert world.incidents == []
    [fault] = [fault for fault in bench.FAULTS if fault.name == name]
    found = bench.examine(world, fault)
    assert found["noticed_s"] is not None
    assert (found["right"], found["incidents"]) == (True, 1), found


def test_an_ordinary_hour_has_no_alarm(bench: Any) -> None:
    assert bench.ordinary(bench.World(4), 1 / 24) == []
