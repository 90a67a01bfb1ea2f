"""The values that a run logged of a metric, step by step, in a space that does not grow with the steps. Pure.

The first value, the last one and `seen`, how many there were, are always exact. Between them every `stride`-th is
kept: when there are more than `most`, every second of those goes, and from then on only every second of what comes is
kept. So what is kept is spread evenly over all that came, whenever it is looked at.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

POINTS = 1_000
"""Kept of all metrics of a run together."""
LEAST = 5
"""Kept of each, however many metrics there are."""
_POINT = struct.Struct("<qdq")


class Point(NamedTuple):
    step: int
    value: float
    at_ms: int


def added(known: Mapping[str, Any] | None, points: Sequence[Point], most: int) -> dict[str, Any]:
    """A metric's record with more values, at least one; `most` are kept. The last one is that of the highest step."""
    kept = _unpacked(known["kept"]) if known is not None else [points[0]]
    last = last_of(known) if known is not None else points[0]
    seen, stride = (int(known["seen"]), int(known["stride"])) if known is not None else (1, 1)
    for point in points if known is not None else points[1:]:
        if point == last:
            continue  # sent again, after its answer was lost
        if seen % stride == 0:
            kept.append(point)
        seen += 1
        while len(kept) > max(most, 2):
            kept, stride = kept[::2], stride * 2
        last = point if (point.step, point.at_ms) >= (last.step, last.at_ms) else last
    return {"last": _packed([last]), "seen": seen, "stride": stride, "kept": _packed(kept)}


def most_points(metrics: int) -> int:
    return max(LEAST, POINTS // max(1, metrics))


def last_of(known: Mapping[str, Any]) -> Point:
    return _unpacked(known["last"])[0]


def points_of(known: Mapping[str, Any]) -> list[Point]:
    """In the order of steps."""
    return sorted(dict.fromkeys([*_unpacked(known["kept"]), last_of(known)]), key=lambda p: (p.step, p.at_ms))


def _packed(points: list[Point]) -> str:
    return base64.b64encode(b"".join(_POINT.pack(*point) for point in points)).decode()


def _unpacked(text: str) -> list[Point]:
    return [Point(*fields) for fields in _POINT.iter_unpack(base64.b64decode(text))]
