"""Which days thresholds are measured on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skyriver.core.errors import InvalidInput
from skyriver.data.columns import Columns
from skyriver.wiring.work.tune import _Events, _held_out, _spans

DAY = 86_400_000_000
FIRST, HOURS = 100, 24 * 20


def events(end: int = FIRST + 20) -> _Events:
    """One at the half of each hour of days that training has not seen."""
    times = np.array([FIRST * DAY + round((n + 0.5) * DAY / 24) for n in range(HOURS)])
    nothing = np.zeros(HOURS)
    return _Events(nothing, nothing, None, Columns((), HOURS), nothing > 0, times, (FIRST, end))


def held_out(days: int, *, test: float, end: int = FIRST + 20) -> tuple[int, list[str]]:
    """`test` begins that many days after training."""
    request: Any = SimpleNamespace(hold_out_us=days * DAY)
    split = SimpleNamespace(test=SimpleNamespace(from_us=round((FIRST + test) * DAY)))
    version: Any = SimpleNamespace(split=split, model="fraud", version=1)
    found, cautions = _held_out(events(end), request, version)
    return found, [caution.code for caution in cautions]


def test_no_event_of_the_gap_is_measured_on() -> None:
    assert held_out(14, test=5) == (14, []), "all of it lies behind the gap"
    assert held_out(15, test=5) == (15, [])
    assert held_out(16, test=5) == (15, ["HELD_OUT_LESS"])
    assert held_out(19, test=5.5) == (14, ["HELD_OUT_LESS"]), "the day in which the test begins has some of the gap"
    assert held_out(19, test=0) == (19, []), "there is no gap"
    assert held_out(0, test=5) == (10, []), "half of it"
    assert held_out(0, test=12) == (8, []), "and less where the gap is longer: nothing else was asked for"
    choose, later = _spans(events(), 8)
    assert (choose.start, choose.end, later.start, later.end) == tuple(
        day * DAY for day in (FIRST, FIRST + 12, FIRST + 12, FIRST + 20)
    )


@pytest.mark.parametrize(("days", "test", "why"), [(20, 5, "20d are to be held out"), (14, 19, "1 of them lie behind")])
def test_too_few_days_are_refused(days: int, test: float, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        held_out(days, test=test)
    assert caught.value.code == "NOT_ENOUGH_DATA"
