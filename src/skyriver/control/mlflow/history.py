"""The values that a run logged of a metric, step by step, in a space that does not grow with the steps (see
core/curves.py). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skyriver.core.curves import Curve, Point, unpacked

POINTS = 1_000
"""Kept of all metrics of a run together."""
LEAST = 5
"""Kept of each, however many metrics there are."""


def added(known: Mapping[str, Any] | None, points: Sequence[Point], most: int) -> dict[str, Any]:
    """A metric's record with more values, at least one; `most` are kept. The last one is that of the highest step."""
    curve = Curve.of(known) if known is not None else Curve()
    for point in points:
        last = curve.last
        if point == last:
            continue  # sent again, after its answer was lost
        curve.append(point, max(most, 2))
        if last is not None and (point.step, point.at_ms) < (last.step, last.at_ms):
            curve.last = last
    return curve.record()


def most_points(metrics: int) -> int:
    return max(LEAST, POINTS // max(1, metrics))


def last_of(known: Mapping[str, Any]) -> Point:
    return unpacked(known["last"])[0]


def points_of(known: Mapping[str, Any]) -> list[Point]:
    """In the order of steps."""
    return Curve.of(known).points()
