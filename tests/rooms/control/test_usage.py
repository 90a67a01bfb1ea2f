"""What is set aside for replicas that are there anyway."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.control.schedule.usage import MARGIN, STEP, UNDECLARED_CORES, Usage


def told(cores: list[float], each_s: float = 5.0) -> Usage:
    usage = Usage()
    for number, each in enumerate(cores):
        usage.note("t/risk", each, number * each_s)
    return usage


def test_a_core_until_it_is_measured_and_then_what_it_took_with_a_margin() -> None:
    assert Usage().held("t/risk") == UNDECLARED_CORES
    assert told([0.0]).held("t/risk") == STEP
    assert told([0.4] * 20).held("t/risk") == pytest.approx(0.5)


def test_a_burst_of_seconds_counts_little_and_one_of_minutes_for_long() -> None:
    assert told([0.0] * 12 + [1.0] + [0.0]).held("t/risk") <= 0.2
    busy = told([0.0] * 12 + [1.0] * 60)
    assert busy.held("t/risk") == pytest.approx(1.0)
    for number in range(120):  # ten minutes of rest
        busy.note("t/risk", 0.0, 360 + number * 5)
    assert busy.held("t/risk") == pytest.approx(MARGIN / 2, abs=STEP)


def test_another_one_goes_on_and_forgets_who_is_gone() -> None:
    usage = told([0.4] * 20)
    again = Usage(json.loads(json.dumps(usage.remember())))
    assert again.held("t/risk") == usage.held("t/risk")
    again.note("t/risk", 0.0, 3.0)
    assert again.held("t/risk") == usage.held("t/risk")
    again.keep(["t/other"])
    assert (again.held("t/risk"), again.remember()) == (UNDECLARED_CORES, {})


@given(st.lists(st.floats(0, 64), min_size=1, max_size=40), st.floats(0, 3_600))
def test_it_is_never_less_than_what_it_takes_for_long_nor_more_than_it_ever_took(cores: list[float], s: float) -> None:
    usage = told(cores, s)
    held = usage.held("t/risk")
    assert STEP <= held <= MARGIN * max(cores) + STEP + 1e-6
    assert math.isclose(held / STEP, round(held / STEP), abs_tol=1e-6)
    for number in range(100):
        usage.note("t/risk", cores[-1], len(cores) * s + number * 5.0)
    assert usage.held("t/risk") >= max(cores[-1], min(1.0, MARGIN * cores[-1])) * 0.99
