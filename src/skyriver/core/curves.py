"""Values that a job told step by step, in a space that does not grow with the steps. Pure.

Of each curve the first value, the last one and `seen`, how many there were, are exact. Between them every `stride`-th
is kept: when there are more than may be, every second of those goes, and from then on only every second of what comes
is kept. So what is kept is spread evenly over all that came, whenever it is looked at.
"""

from __future__ import annotations

import base64
import math
import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, SupportsFloat

from skyriver.core.errors import InvalidInput

MOST_NAMES: Final = 32
LONGEST_NAME: Final = 64
POINTS: Final = 2_048
"""Kept of all curves of a job together."""
POINTS_EACH: Final = 256
SYSTEM_POINTS: Final = 64
"""Of each of those that the job does not tell: what its process takes."""
MOST_STEPS: Final = 1 << 62
_POINT = struct.Struct("<qdq")


Tell = Callable[[int, Mapping[str, Any], int, int], None]
"""Takes what is told: step, values by name, samples that the step took, steps there will be."""


def untold(step: int, values: Mapping[str, Any], samples: int, of: int) -> None:
    """Nobody listens, as in a test."""


class Point(NamedTuple):
    step: int
    value: float
    at_ms: int


class Curve:
    """One of them."""

    __slots__ = ("first_odd", "kept", "last", "odd", "seen", "stride")

    def __init__(self) -> None:
        self.kept: list[Point] = []
        self.last: Point | None = None
        self.seen, self.stride = 0, 1
        self.odd = 0
        """Values that were no finite number, of which the thinning keeps few; and the step of the first of them."""
        self.first_odd: int | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Curve:
        curve = cls()
        curve.kept, last = unpacked(record["kept"]), unpacked(record["last"])
        curve.last = last[0] if last else None
        curve.seen, curve.stride = int(record["seen"]), int(record["stride"])
        curve.odd, curve.first_odd = int(record.get("odd", 0)), record.get("first_odd")
        return curve

    def record(self) -> dict[str, Any]:
        """As JSON, for `of`."""
        record: dict[str, Any] = {
            "last": packed([self.last] if self.last is not None else []),
            "seen": self.seen,
            "stride": self.stride,
            "kept": packed(self.kept),
        }
        return record | ({"odd": self.odd, "first_odd": self.first_odd} if self.odd else {})

    def append(self, point: Point, most: int) -> None:
        if self.seen % self.stride == 0:
            self.kept.append(point)
            while len(self.kept) > most:
                self.kept, self.stride = self.kept[::2], self.stride * 2
        self.seen += 1
        self.last = point

    def put(self, point: Point, most: int) -> None:
        """`append`, but a step that was told before takes the place of the old one, with all that came behind it."""
        last, value = self.last, point[1]
        if last is not None and point[0] <= last[0]:
            self.cut(point[0])
        if value - value != 0.0:  # no finite number; the way that costs least
            self.first_odd = point[0] if not self.odd else self.first_odd
            self.odd += 1
        if self.seen % self.stride:
            self.seen += 1
            self.last = point
        else:
            self.append(point, most)

    def cut(self, step: int) -> None:
        """Forgets that step and all behind it."""
        if self.last is None or self.last.step < step:
            return
        if self.kept and self.kept[-1].step >= step:
            self.kept = [point for point in self.kept if point.step < step]
            self.stride = self.stride if self.kept else 1
            self.seen = len(self.kept) * self.stride
        else:  # only what was not kept
            self.seen = min(self.seen - 1, len(self.kept) * self.stride)
        self.last = self.kept[-1] if self.kept else None
        if self.first_odd is not None and self.first_odd >= step:
            self.odd, self.first_odd = 0, None

    def points(self) -> list[Point]:
        """In the order of steps."""
        found = [*self.kept, self.last] if self.last is not None else self.kept
        once = {_POINT.pack(*point): point for point in found}  # as bytes: a NaN is not equal to itself
        return sorted(once.values(), key=lambda p: (p.step, p.at_ms))

    def document(self) -> dict[str, Any]:
        """As people and programs read it."""
        return {
            "points": [[p.step, told_number(p.value), p.at_ms] for p in self.points()],
            "seen": self.seen,
            "not_finite": self.odd,
            "first_not_finite": self.first_odd,
        }


class Curves:
    """All that one job tells."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.system: dict[str, Curve] = {}
        self.step = self.of = self.samples = 0
        """The last step; of how many, 0 where nobody said; samples that were taken in all."""
        self.began_ms = self.at_ms = 0

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Curves:
        curves = cls()
        curves.curves = {name: Curve.of(each) for name, each in record["curves"].items()}
        curves.system = {name: Curve.of(each) for name, each in record["system"].items()}
        for name in ("step", "of", "samples", "began_ms", "at_ms"):
            setattr(curves, name, int(record[name]))
        return curves

    def record(self) -> dict[str, Any]:
        return {
            **self._head(),
            "curves": {name: each.record() for name, each in self.curves.items()},
            "system": {name: each.record() for name, each in self.system.items()},
        }

    def document(self) -> dict[str, Any]:
        return {
            **self._head(),
            "curves": {name: each.document() for name, each in self.curves.items()},
            "system": {name: each.document() for name, each in self.system.items()},
        }

    def _head(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("step", "of", "samples", "began_ms", "at_ms")}

    @property
    def latest(self) -> dict[str, float]:
        """Of each curve."""
        return {name: each.last.value for name, each in self.curves.items() if each.last is not None}

    def tell(self, step: int, values: Mapping[str, Any], at_ms: int, *, samples: int = 0, of: int = 0) -> None:
        """Takes values of a step, which took `samples`. What a name had told of it, or behind it, is forgotten.

        Raises InvalidInput (BAD_METRIC, TOO_MANY_METRICS), then nothing is taken.
        """
        step = _whole(step, "step")
        samples, of = _whole(samples, "samples"), _whole(of, "of")
        told = [(name, number(name, value)) for name, value in values.items()]
        new = [name for name, _ in told if name not in self.curves]
        if new:
            self._check(new)
        for name in new:
            self.curves[name] = Curve()
        most = min(POINTS_EACH, POINTS // max(1, len(self.curves)))
        for name, value in told:
            self.curves[name].put(Point(step, value, at_ms), most)
        self.step, self.at_ms, self.of = step, at_ms, of or self.of
        self.samples += samples
        self.began_ms = self.began_ms or at_ms

    def take(self, values: Mapping[str, float]) -> None:
        """What the process takes at this step."""
        for name, value in values.items():
            self.system.setdefault(name, Curve()).put(Point(self.step, value, self.at_ms), SYSTEM_POINTS)

    def cut(self, step: int) -> None:
        """Who tells begins again at that step: an attempt that goes on from a checkpoint."""
        for each in (*self.curves.values(), *self.system.values()):
            each.cut(step)
        self.curves = {name: each for name, each in self.curves.items() if each.last is not None}
        if self.step:
            self.samples = self.samples * min(max(step - 1, 0), self.step) // self.step

    def _check(self, new: Sequence[str]) -> None:
        for name in new:
            if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
                raise InvalidInput(
                    f"{name!r:.100} cannot name a metric.",
                    code="BAD_METRIC",
                    next_action=f"Take 1 to {LONGEST_NAME} characters that can be seen, as in loss or valid auc.",
                )
        if len(self.curves) + len(new) > MOST_NAMES:
            raise InvalidInput(
                f"{new[-1]!r} would be metric number {len(self.curves) + len(new)} of this job; {MOST_NAMES} are kept.",
                code="TOO_MANY_METRICS",
                next_action="Report fewer: the step belongs into step=..., not into the name.",
            )


def number(name: str, value: object) -> float:
    """As it is kept; NaN and infinities are, a whole number that no float can be is an infinity. Raises InvalidInput
    (BAD_METRIC)."""
    if value.__class__ is float:
        return value
    try:
        if isinstance(value, str | bytes) or not isinstance(value, SupportsFloat):
            raise TypeError
        return float(value)
    except OverflowError:
        return -math.inf if value < 0 else math.inf  # type: ignore[operator]
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(
            f"The metric {name!r:.100} is {value!r:.60}, of the type {type(value).__name__}: it is no number.",
            code="BAD_METRIC",
            next_action="Report one number a name, as in loss=float(loss).",
        ) from None


def _whole(value: object, what: str) -> int:
    if value.__class__ is int and 0 <= value < MOST_STEPS:
        return value
    try:
        found = operator.index(value)  # type: ignore[arg-type]
        if 0 <= found < MOST_STEPS:
            return found
    except TypeError:
        pass
    raise InvalidInput(
        f"{what}={value!r:.60} is no whole number from 0 to 2^62.",
        code="BAD_METRIC",
        next_action="Count steps and samples in whole numbers, as in report(step=step, loss=loss).",
    )


def told_number(value: float) -> float | str:
    """JSON has no NaN and no infinity; protobuf's JSON writes them as these texts."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def packed(points: Iterable[Point]) -> str:
    return base64.b64encode(b"".join(_POINT.pack(*point) for point in points)).decode()


def unpacked(text: str) -> list[Point]:
    return [Point(*fields) for fields in _POINT.iter_unpack(base64.b64decode(text))]
