"""What each feature of a row adds to the output of a model of which only its runs are known: integrated gradients by
differences (Sundararajan, Taly and Yan, 2017).

On the straight line from a baseline to the row, the derivative by each feature is taken at STEPS places, as the
difference between a little more and a little less of it, in one run. Their means, each times the way of its feature,
add up to what the row gives less what the baseline gives, but for a residual, which is told.

There is no line to a missing value. So what is missing is made so first, one feature after the other, each adding what
that changes; then it stays missing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STEPS: Final = 32
NEAR: Final = np.float32(0.01)
"""Of a feature's way: so much more and less. With less of it, float32 would be rounded away."""
ROWS: Final = 16_384
"""Of a run."""


class Gradients:
    """`session` has one input, float32 [n, F], and gives n numbers. `baseline` NaN, or None: zeros."""

    def __init__(self, session: onnxruntime.InferenceSession, baseline: Floats | None, features: int) -> None:
        self._session = session
        self._given = session.get_inputs()[0].name
        self._baseline = np.nan_to_num(baseline) if baseline is not None else np.zeros(features, np.float32)

    def of(self, row: Floats) -> tuple[Doubles, float, float]:
        """(what each feature adds, the output at the baseline, the residual); NaN where the model gives no number."""
        found = np.zeros(len(row))
        start = self._baseline.copy()
        steps = [start.copy()]
        gone = np.flatnonzero(np.isnan(row))
        for place in gone.tolist():
            start[place] = np.nan
            steps.append(start.copy())
        outputs = self._run(np.array([*steps, row]))
        found[gone] = np.diff(outputs[:-1])
        ways = row - start
        moved = np.flatnonzero(~np.isnan(ways) & (ways != 0))
        if len(moved):
            found[moved] = self._derivatives(start, ways, moved)
        base, end = float(outputs[0]), float(outputs[-1])
        return found, base, end - base - float(found.sum())

    def _derivatives(self, start: Floats, ways: Floats, moved: NDArray[np.int64]) -> Doubles:
        """Times the ways, as means over the line, of the features that are `moved`."""
        per = max(1, ROWS // (2 * STEPS))
        parts = [self._some(start, ways, moved[at : at + per]) for at in range(0, len(moved), per)]
        return np.concatenate(parts)

    def _some(self, start: Floats, ways: Floats, moved: NDArray[np.int64]) -> Doubles:
        shares = ((np.arange(STEPS) + 0.5) / STEPS).astype(np.float32)
        line = start + shares[:, None] * np.where(np.isnan(ways), np.float32(0), ways)
        rows = np.repeat(line[None, :, None, :], len(moved), axis=0).repeat(2, axis=2)
        for number, place in enumerate(moved.tolist()):
            rows[number, :, 0, place] += NEAR * ways[place]
            rows[number, :, 1, place] -= NEAR * ways[place]
        each = np.arange(len(moved))[:, None]
        apart = rows[each, :, 0, moved[:, None]] - rows[each, :, 1, moved[:, None]]
        apart = apart.reshape(len(moved), STEPS).astype(np.float64)
        outputs = self._run(rows.reshape(-1, len(start))).reshape(len(moved), STEPS, 2)
        differences = outputs[:, :, 0] - outputs[:, :, 1]
        slopes = np.divide(differences, apart, out=np.zeros_like(apart), where=apart != 0)
        found: Doubles = slopes.mean(axis=1) * ways[moved].astype(np.float64)
        return found

    def _run(self, rows: Floats) -> Doubles:
        found: Doubles = self._session.run(None, {self._given: rows})[0].reshape(len(rows)).astype(np.float64)
        return found
