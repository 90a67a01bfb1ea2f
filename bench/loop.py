"""Models that are trained again: never, every week, or when the product's own watch says so.

    python bench/loop.py [--quick] [--seeds N ...] [--on drift quality ...] [--follow-up 7d ...]

Simulated payments whose frauds change (`_loop_world.py`), their features by the product's backfill, the model and its
split as `examples/risk` trains it; a label is known seven days after its payment. A training takes what is known by
then, of the last ten weeks. `weekly` trains every Monday. `watched` is the kind `watch` itself: its pure step runs over
simulated rows every midnight, and what it asks for is done (`_loop_plane.py`): looks for drift, as their job counts and
compares, looks for quality, of what the model said then and whose labels are known by now, and trainings, on any day.
Gate and rollout let everything pass, at once. What is declared was chosen on the worlds 0 and 1; others are fresh.
Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import lightgbm
import numpy as np
from _document import Document, Goal
from _loop_plane import DAY, WEEK, Plane
from _loop_world import WARM_DAYS, payments
from _payments import features
from numpy.typing import NDArray

from skyriver import Retrain
from skyriver.core.spec import AppSpec
from skyriver.observe.quality import Reference
from skyriver.release.profiled import ModelProfile, profile_model
from skyriver.train.intervals import intervals
from skyriver.train.metrics import average_precision
from skyriver.train.split import Rows, split_rows

GOALS = (
    Goal("average_precision_gain_over_frozen", ">=", 0.02, "average precision"),
    Goal("gap_to_weekly", "<=", 0.005, "average precision"),
    Goal("trainings_share_of_weekly", "<=", 0.99, "of weekly's"),
)
TRAINED_WEEKS = 10
RETRAIN = {"on": ("drift", "quality"), "follow_up": ("7d", "14d", "21d", "35d")}
SETTINGS = {
    "objective": "binary", "num_leaves": 31, "min_data_in_leaf": 200, "lambda_l2": 10.0, "seed": 0, "verbose": -1,
    "num_threads": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    booster: lightgbm.Booster
    profile: ModelProfile
    reference: Reference
    """Of its test rows."""

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.booster.predict(x, num_threads=1), dtype=np.float32)


@dataclass
class World:
    """Rows in the order of their time, and the models of each day, made once whoever asks for them."""

    app: AppSpec
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    at: NDArray[np.int64]
    keys: NDArray[np.int64]
    models: dict[int, Model] = field(default_factory=dict)

    def start(self, week: int) -> int:
        return int(self.at[0]) // DAY * DAY + WARM_DAYS * DAY + week * WEEK

    def rows(self, start: int, end: int) -> slice:
        return slice(*np.searchsorted(self.at, [start, end]))

    def model(self, now: int) -> Model:
        if now not in self.models:
            self.models[now] = self._train(now)
        return self.models[now]

    def _train(self, now: int) -> Model:
        names = self.app.feature_sets[0].names
        part = self.rows(now - TRAINED_WEEKS * WEEK, now)
        at = self.at[part]
        y = np.where((self.y[part] == 1) & (at < now - WEEK), 1.0, np.nan).astype(np.float32)
        rows = Rows(names, self.x[part], y, at, np.arange(len(at)), {})
        split = split_rows(self.app.models[0].train, rows, WEEK, validate=False)
        booster = lightgbm.train(SETTINGS, lightgbm.Dataset(rows.x[split.train], split.labels[split.train]), 100)
        scores = np.asarray(booster.predict(rows.x[split.test], num_threads=1), np.float32)
        labels = split.labels[split.test]
        interval = intervals(labels, scores, None)["average_precision"]
        of_test = Reference.of(average_precision(labels, scores), interval, len(labels), int(labels.sum()))
        return Model(booster, profile_model(names, rows.x, split.train, scores), of_test)


def run(document: Document, seed: int, weeks: int, customers: int, kernels: Path, retrain: Retrain) -> dict[str, float]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "risk"))
    import risk

    frame = payments(seed, weeks, customers)
    columns = (frame[name].to_numpy() for name in ("fraud", "at", "customer"))
    world = World(risk.app.spec, features(risk.app.spec, frame, kernels), *columns)
    plane = Plane(world, retrain)
    plane.live(world.start(0), world.start(weeks))
    found: dict[str, list[float]] = {"frozen": [], "weekly": [], "watched": []}
    for week in range(weeks):
        part = world.rows(world.start(week), world.start(week + 1))
        said = {
            "frozen": world.model(world.start(0)).score(world.x[part]),
            "weekly": world.model(world.start(week)).score(world.x[part]),
            "watched": plane.said[part],
        }
        for way, scores in said.items():
            found[way].append(average_precision(world.y[part], scores))
    causes = plane.causes()
    trainings = {"frozen": 1, "weekly": weeks, "watched": 1 + len(causes)}
    for way, by_week in found.items():
        document.row(
            way,
            f"seed {seed}, {len(frame):,} payments, {frame['fraud'].mean():.2%} frauds",
            average_precision=round(fmean(by_week), 4),
            trainings=trainings[way],
            by_week=[round(value, 3) for value in by_week],
            **({"causes": causes} if way == "watched" else {}),
        )
    means = {way: fmean(by_week) for way, by_week in found.items()}
    return {
        "gain": means["watched"] - means["frozen"],
        "gap": means["weekly"] - means["watched"],
        "share": trainings["watched"] / trainings["weekly"],
    }


def _told(values: Sequence[float]) -> str:
    spread = f", deviation {stdev(values):.4f}" if len(values) > 1 else ""
    return f"by seed {', '.join(f'{v:.4f}' for v in values)}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer customers")
    parser.add_argument("--seeds", type=int, nargs="+", help="these worlds instead of 11, 12 and 13 (quick: 0)")
    parser.add_argument("--on", nargs="+", default=RETRAIN["on"], help="what a training is begun for")
    parser.add_argument("--follow-up", nargs="*", default=RETRAIN["follow_up"], help="when it is trained again")
    parser.add_argument("--at-most", default="1d")
    given = parser.parse_args()
    retrain = Retrain(given.on, follow_up=given.follow_up, at_most=given.at_most, look="1d")
    document = Document("loop", GOALS)
    seeds = given.seeds or ([0] if given.quick else [11, 12, 13])
    weeks, customers = (36, 600) if given.quick else (36, 800)

    def work() -> None:
        with tempfile.TemporaryDirectory() as kernels:
            found = [run(document, seed, weeks, customers, Path(kernels), retrain) for seed in seeds]
        for goal, key in zip(GOALS, ("gain", "gap", "share"), strict=True):
            values = [f[key] for f in found]
            document.measured(goal.name, round(fmean(values), 4), note=_told(values))

    document.part([goal.name for goal in GOALS], work)
    sys.exit(0 if document.print() else 1)


if __name__ == "__main__":
    main()
