"""What is kept of a calibration, for replicas of the version that start later. Pure; the control plane loads it too.

A curve is {"machine": its processor and cores, "runtime": the release of ONNX Runtime, "device", "most": rows that were
tried, "threads", "batching": whether rows may share a run, "max_batch": rows of a run, and the TIMES of one}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TIMES: Final = ("row_us", "batch_us", "fixed_us", "each_us")
MEASURED_FOR: Final = ("machine", "runtime", "device", "most", "threads")
QUICKER: Final = 0.8
"""Times what was measured, or less, is worth to be righted by: it was measured at a busy moment."""
DOUBTED: Final = 0.5
"""Times one row's, that one row takes at a start: all is measured anew. A single run tells no finer."""
_MOST_US: Final = 1e9


def is_curve(told: object) -> bool:
    """Whether it can be true."""
    if not isinstance(told, Mapping) or not isinstance(told.get("batching"), bool):
        return False
    rows, threads = told.get("max_batch"), told.get("threads")
    if not (isinstance(rows, int) and isinstance(threads, int) and rows > 0 and threads > 0):
        return False
    times = (told.get(what) for what in TIMES)
    return all(isinstance(time, int | float) and 0 <= time < _MOST_US for time in times)


def is_for_the_same(curve: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(curve.get(what) == other.get(what) for what in MEASURED_FOR)


def is_better(known: Mapping[str, Any] | None, told: Mapping[str, Any]) -> bool:
    """Whether it is the first one for what it is for, or clearly faster than what is known. Never one that is slower:
    replicas would take turns, and each sees by itself what its runs take. That rows may share a run was found out by
    trying; that they may not may have been a busy moment."""
    if not is_curve(told):
        return False
    if known is None or not is_curve(known) or not is_for_the_same(known, told):
        return True
    if told["batching"] != known["batching"]:
        return bool(told["batching"])
    return bool(told["row_us"] * told["batch_us"] <= QUICKER**2 * known["row_us"] * known["batch_us"])
