"""Small streams, folded record by record, with features by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.features.kernel import Kernel, load_kernel
from skyriver.features.plan import FeaturePlan, plan_features
from skyriver.features.side import Side, memory_side
from skyriver.features.state import EventBatch, FeatureState

Record = Mapping[str, Any]
"""An event {"t", "k", "x", "y", "at"} at effective time t, missing values NaN and own time t unless given; or a label
{"of", "value", "label"} of the `of`-th event (-1: unknown); label 0 "late" waits 5 us, label 1 "now" does not."""

NAN = float("nan")


class Event(sr.Event):
    id: int
    at: sr.Time
    k: int
    k2: int
    x: float
    y: float | None


def declare(features: Callable[[object, object, object], Mapping[str, object]]) -> tuple[FeatureSetSpec, StreamSpec]:
    """`features(stream, late, now)` over a stream with the labels "late" (5 us) and "now" (no delay)."""
    app = sr.App("test")
    stream = app.stream("events", Event, id="id", time="at", key="k")
    late = app.labels("late", of=stream, delay="5us")
    now = app.labels("now", of=stream, delay="0us")
    found = app.features("set", stream, features(stream, late, now))
    return found.spec, app.spec.stream("events")


def batch_of(records: Sequence[Record], first_offset: int = 0) -> EventBatch:
    def numbers(name: str, default: float, dtype: type) -> np.ndarray:
        return np.array([r.get(name, default) for r in records], dtype)

    k = numbers("k", 0, np.int64)
    return EventBatch(
        kind=np.array([2 if "of" in r else 1 for r in records], np.uint8),
        effective=numbers("t", 0, np.int64),
        offset=np.arange(first_offset, first_offset + len(records)),
        columns={
            "x": numbers("x", NAN, np.float64),
            "y": numbers("y", NAN, np.float64),
            "at": np.array([r.get("at", r.get("t", 0)) for r in records], np.int64),
        },
        keys={"k": k, "k2": k // 2},
        codes={"k": k},
        subject_row=numbers("of", -1, np.int64),
        label=numbers("label", 0, np.uint8),
        value=numbers("value", 0, np.float64),
    )


@dataclass
class Folder:
    """A plan with its kernel."""

    plan: FeaturePlan
    kernel: Kernel

    def state(self, side: Side | None = None) -> FeatureState:
        return FeatureState(self.plan, side or memory_side(self.plan), self.kernel)

    def exact(self, records: Sequence[Record], state: FeatureState | None = None, first_offset: int = 0) -> np.ndarray:
        """float64 [events, features]."""
        state = state or self.state()
        events = sum("of" not in r for r in records)
        out = np.empty((events, len(self.plan.names)), np.float32)
        exact = np.empty((events, len(self.plan.names)), np.float64)
        assert state.fold(batch_of(records, first_offset), out, exact) == events
        np.testing.assert_array_equal(out, exact.astype(np.float32))
        return exact

    def batch(self, records: Sequence[Record], first_offset: int = 0) -> EventBatch:
        return batch_of(records, first_offset)

    def column(self, name: str, records: Sequence[Record]) -> list[float]:
        """The feature of each event."""
        return self.exact(records)[:, self.plan.names.index(name)].tolist()


@pytest.fixture(scope="session")
def folder(kernels: Path) -> Callable[..., Folder]:
    def make(features: Callable[[object, object, object], Mapping[str, object]]) -> Folder:
        plan = plan_features(*declare(features))
        return Folder(plan, load_kernel(plan, kernels))

    return make


@pytest.fixture(scope="session")
def windows(folder: Callable[..., Folder]) -> Folder:
    """One window of 10 us of everything, by k; labels also over 20 us."""
    return folder(
        lambda s, late, now: {
            "count": sr.count(by="k", over="10us"),
            "sum": sr.sum("x", by="k", over="10us"),
            "mean": sr.mean("x", by="k", over="10us"),
            "sum_y": sr.sum("y", by="k", over="10us"),
            "mean_y": sr.mean("y", by="k", over="10us"),
            "late_count": sr.count(late, by="k", over="10us"),
            "late_sum": sr.sum(late, by="k", over="10us"),
            "late_mean": sr.mean(late, by="k", over="10us"),
            "late_sum_20": sr.sum(late, by="k", over="20us"),
            "now_sum": sr.sum(now, by="k", over="10us"),
            "now_mean": sr.mean(now, by="k2", over="10us"),
        }
    )


@pytest.fixture(scope="session")
def rows(folder: Callable[..., Folder]) -> Folder:
    """Expressions of the event alone."""
    return folder(
        lambda s, late, now: {
            "add": s.x + s.y,
            "sub": s.x - s.y,
            "mul": 2 * s.x,
            "div": s.x / s.y,
            "neg": -s.x,
            "lt": s.x < s.y,
            "le": s.x <= s.y,
            "eq": s.x == s.y,
            "ne": s.x != s.y,
            "and": (s.x > 0) & (s.y > 0),
            "or": (s.x > 0) | (s.y > 0),
            "not": ~(s.x > 0),
            "missing": s.y.is_missing(),
            "minute": s.at.minute(),
            "hour": s.at.hour(),
            "weekday": s.at.weekday(),
            "day": s.at.day(),
            "month": s.at.month(),
            "time": s.at / 1_000_000,
        }
    )
