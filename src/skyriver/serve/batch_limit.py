"""How many rows may share a run, by the time in which answers are wanted.

Who comes while a run is under way waits for its end and is then in the next one, so two runs are what an answer takes
at the worst, while no more wait than share a run: the limit is a number of rows of which two runs take no longer than
the objective, less what reading and writing take (Shen et al., "Nexus", SOSP 2019). A run is never held to less than a
quarter over one row alone: where that is not much faster than the objective, runs of one row each would be the worst
that can be done about a queue. Of what is allowed it is the smallest number near the best rate, as at calibration.
"""

from __future__ import annotations

import math
from typing import Final

from skyriver.serve.calibration import NEAR, Calibration
from skyriver.serve.curve import QUICKER

RUN_SHARE: Final = 0.4
"""Of the objective, that a run may take."""
LONGER: Final = 1.25
"""Times one row alone, that a run may always take."""
_KEPT: Final = 0.95
"""Of what was seen of runs, at each look."""
_NOTHING_US: Final = 0.01
_ENOUGH: Final = 20.0
"""Runs, before what they took is held against what was measured on made-up rows."""


def rows_of_a_run(calibration: Calibration, latency_us: float, most: int, times: float = 1.0) -> int:
    """At most `most`; what was calibrated where no `latency_us` is declared, nothing was measured, or one row alone
    takes longer, calibrated and now. `times` as long as calibrated do runs take now."""
    each, fixed = calibration.each_us * times, calibration.fixed_us * times
    one = fixed + each
    if not (calibration.measured and latency_us and one > _NOTHING_US) or one > max(times, 1.0) * latency_us:
        return calibration.max_batch
    within = max(RUN_SHARE * latency_us, LONGER * one)
    greatest = most if within >= fixed + each * most else max(1, int((within - fixed) / each + 1e-9))
    rate = NEAR * greatest / (fixed + each * greatest)
    return min(greatest, max(1, math.ceil(rate * fixed / (1 - rate * each) - 1e-6)))


class BatchLimit:
    """Of one replica: `rows` follows the objective, and what runs take on the rows that are really asked for."""

    def __init__(self, calibration: Calibration, most: int) -> None:
        self._calibration, self._most = calibration, most
        self.rows = calibration.max_batch
        self.latency_us = 0
        self._counted = (0, 0, 0)
        self._runs = self._took_us = self._foreseen_us = 0.0

    def follow(self, latency_us: int) -> None:
        """From now on answers are wanted within that; 0: there is no objective."""
        self.latency_us = latency_us
        self._set()

    def note(self, runs: int, rows: int, took_us: int) -> None:
        """All that ran since the start."""
        before, self._counted = self._counted, (runs, rows, took_us)
        new_runs, new_rows, new_us = (now - then for now, then in zip(self._counted, before, strict=True))
        if new_runs and self._calibration.measured:
            foreseen = self._calibration.fixed_us * new_runs + self._calibration.each_us * new_rows
            self._runs = self._runs * _KEPT + new_runs
            self._took_us = self._took_us * _KEPT + new_us
            self._foreseen_us = self._foreseen_us * _KEPT + foreseen
            self._set()

    @property
    def times(self) -> float:
        """As long as calibrated do runs take: real rows are not made up, and a start is a busy moment."""
        if self._runs < _ENOUGH or not self._foreseen_us:
            return 1.0
        return self._took_us / self._foreseen_us

    @property
    def curve(self) -> Calibration:
        """What was calibrated; where runs are clearly faster, what they take: that was a busy moment."""
        return self._calibration.times(self.times) if self.times < QUICKER else self._calibration

    def _set(self) -> None:
        self.rows = rows_of_a_run(self._calibration, self.latency_us, self._most, self.times)
