"""The bench of the closed loop with a small world: the product's step, from a change to its last follow-up."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.core.units import DAY
from skyriver.observe.quality import Reference
from skyriver.release.profiled import ModelProfile, profile_model
from skyriver.train.intervals import intervals
from skyriver.train.metrics import average_precision

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))  # a bench is no package
from _loop_plane import WEEK, Plane

A_DAY, CHANGE = 300, 40
"""Rows; the day, counted from the first version on, from which the label follows the other column."""


@dataclass
class Model:
    column: int
    profile: ModelProfile
    reference: Reference

    def score(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x[:, self.column])


@dataclass
class World:
    """Two columns that look the same all the time; `moved`: the first one is greater from the change on instead."""

    moved: bool = False
    weeks: int = 16
    trained: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(8)
        days = 28 + self.weeks * 7
        self.at = np.arange(days * A_DAY, dtype=np.int64) * (DAY // A_DAY) + 20_000 * DAY
        self.start = int(self.at[0]) + 28 * DAY
        self.x = rng.normal(size=(len(self.at), 2)).astype(np.float32)
        self.keys = rng.integers(0, 500, len(self.at))
        new = self.at >= self.start + CHANGE * DAY
        by = self.x[:, 0] if self.moved else np.where(new, self.x[:, 1], self.x[:, 0])
        self.y = (by + rng.normal(0, 0.5, len(by)) > 1.8).astype(np.int64)
        if self.moved:
            self.x[new, 0] += 2

    def rows(self, start: int, end: int) -> slice:
        return slice(*np.searchsorted(self.at, [start, end]))

    def model(self, now: int) -> Model:
        """Of the two columns the one that tells more of the last three weeks with labels."""
        self.trained.append((now - self.start) // DAY)
        train, test = self.rows(now - 4 * WEEK, now - 2 * WEEK), self.rows(now - 2 * WEEK, now - WEEK)
        labels, both = self.y[test], [self.x[test, column] for column in (0, 1)]
        said = [average_precision(labels, scores) for scores in both]
        best = int(np.argmax(said))
        interval = intervals(labels, both[best], None)["average_precision"]
        of_test = Reference.of(said[best], interval, len(labels), int(labels.sum()))
        profile = profile_model(("a", "b"), self.x, np.arange(train.start, train.stop), both[best])
        return Model(best, profile, of_test)


def lived(world: World, **retrain: Any) -> tuple[Plane, list[str]]:
    plane = Plane(world, sr.Retrain(**retrain, look="1d"))
    plane.live(world.start, world.start + world.weeks * WEEK)
    return plane, [cause.split(": ")[1] for cause in plane.causes()]


def test_what_no_column_shows_is_found_once_labels_tell_and_followed_up() -> None:
    world = World()
    plane, causes = lived(world, on=["drift", "quality"], follow_up=("7d", "21d"))
    assert causes == ["quality", "follow_up", "follow_up"]
    first, found, again, last = world.trained
    assert first == 0
    assert CHANGE + 7 < found <= CHANGE + 14, "labels come a week later"
    assert (again - found, last - found) == (7, 21)
    late = world.rows(world.start + 12 * WEEK, world.start + 16 * WEEK)
    assert average_precision(world.y[late], plane.said[late]) > 0.6


def test_what_a_column_shows_is_found_without_labels() -> None:
    world = World(moved=True, weeks=9)
    _, causes = lived(world, on="drift", follow_up=("7d",), at_most="7d")
    assert causes[:2] == ["drift", "follow_up"]
    assert CHANGE < world.trained[1] <= CHANGE + 7


@pytest.mark.parametrize("on", ["drift", "quality"])
def test_where_nothing_changes_nothing_is_trained(on: str) -> None:
    world = World(weeks=5)
    assert lived(world, on=on)[1] == []
