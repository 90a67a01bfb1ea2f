"""Models that are trained again: never, every week, or when what the product watches says so.

    python bench/loop.py [--quick]

Simulated payments whose frauds change (`_loop_world.py`), their features by the product's backfill, the model and its
split as `examples/risk` trains it; a label is known seven days after its payment. Every Monday each way may train on
what is known by then, of the last ten weeks, and the model scores the week that follows. `watched` looks at the
profile of the rows it was trained on (`data.profile`, `observe.drift`) and at the average precision of the last week
with labels against its test's (`observe.quality`). A training for a cause is followed by others, for the first one
knows little of what is new: labels come a week late, and the split keeps its newest weeks back for gap and test. What
starts a training is this file's own rule, on top of the product's functions.
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
from _document import Document, Goal, tell
from _loop_world import WARM_DAYS, payments
from _payments import DAY_MS, features
from numpy.typing import NDArray

from skyriver.core.spec import AppSpec
from skyriver.data.profile import Profile, count, profile_of
from skyriver.observe.drift import compare
from skyriver.observe.quality import judge
from skyriver.train.metrics import average_precision
from skyriver.train.split import Rows, split_rows

GOALS = (
    Goal("average_precision_gain_over_frozen", ">=", 0.02, "average precision"),
    Goal("gap_to_weekly", "<=", 0.005, "average precision"),
    Goal("trainings_share_of_weekly", "<=", 0.99, "of weekly's"),
)
DAY = DAY_MS * 1000
WEEK = 7 * DAY
TRAINED_WEEKS = 10
FOLLOW_WEEKS = (1, 2, 3, 5)
"""After a training for a cause: trained again."""
TOLERANCE = 0.02
SETTINGS = {
    "objective": "binary", "num_leaves": 31, "min_data_in_leaf": 200, "lambda_l2": 10.0, "seed": 0, "verbose": -1,
    "num_threads": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    booster: lightgbm.Booster
    profile: Profile
    reference: float
    """Average precision of its test rows."""

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.booster.predict(x, num_threads=1), dtype=np.float32)


@dataclass
class World:
    """Rows in the order of their time, and the models of each week, made once whoever asks for them."""

    app: AppSpec
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    at: NDArray[np.int64]
    models: dict[int, Model] = field(default_factory=dict)

    def start(self, week: int) -> int:
        return int(self.at[0]) // DAY * DAY + WARM_DAYS * DAY + week * WEEK

    def rows(self, start: int, end: int) -> slice:
        return slice(*np.searchsorted(self.at, [start, end]))

    def model(self, week: int) -> Model:
        if week not in self.models:
            self.models[week] = self._train(week)
        return self.models[week]

    def _train(self, week: int) -> Model:
        now, names = self.start(week), self.app.feature_sets[0].names
        part = self.rows(now - TRAINED_WEEKS * WEEK, now)
        at = self.at[part]
        y = np.where((self.y[part] == 1) & (at < now - WEEK), 1.0, np.nan).astype(np.float32)
        rows = Rows(names, self.x[part], y, at, np.arange(len(at)), {})
        split = split_rows(self.app.models[0].train, rows, WEEK, validate=False)
        data = lightgbm.Dataset(rows.x[split.train], split.labels[split.train])
        booster = lightgbm.train(SETTINGS, data, 100)
        x = rows.x[split.train]
        scores = [np.asarray(booster.predict(of, num_threads=1), np.float32) for of in (x, rows.x[split.test])]
        profile = profile_of([*names, "score"], [*x.T, scores[0]])
        return Model(booster, profile, average_precision(split.labels[split.test], scores[1]))


@dataclass
class Watched:
    """When it is trained: for drift or worse quality, and some times after."""

    trained: int = 0
    due: tuple[int, ...] = ()
    causes: list[str] = field(default_factory=list)

    def look(self, world: World, week: int) -> bool:
        model, now = world.model(self.trained), world.start(week)
        cause = _quality(world, model, now) or _drift(world, model, now)
        if cause and not any(w >= week for w in self.due):
            self.due = tuple(week + w for w in FOLLOW_WEEKS)
        elif week in self.due:
            cause = "follows"
        else:
            return False
        self.trained = week
        self.causes.append(f"{week}: {cause}")
        return True


def _drift(world: World, model: Model, now: int) -> str:
    x = world.x[world.rows(now - WEEK, now)]
    columns = zip(model.profile.columns, [*x.T, model.score(x)], strict=True)
    found = compare(model.profile, {column.name: count(column, values) for column, values in columns})
    return f"drift of {', '.join(f.column for f in found.drifted[:3])}" if found.verdict == "drifted" else ""


def _quality(world: World, model: Model, now: int) -> str:
    known = world.rows(now - 2 * WEEK, now - WEEK)
    scores = model.score(world.x[known])
    found = judge(average_precision, world.y[known], scores, reference=model.reference, tolerance=TOLERANCE)
    return "quality" if found.worse else ""


def run(document: Document, seed: int, weeks: int, customers: int, kernels: Path) -> dict[str, float]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "risk"))
    import risk

    frame = payments(seed, weeks, customers)
    world = World(
        risk.app.spec, features(risk.app.spec, frame, kernels), frame["fraud"].to_numpy(), frame["at"].to_numpy()
    )
    watched = Watched()
    found: dict[str, list[float]] = {"frozen": [], "weekly": [], "watched": []}
    for week in range(weeks):
        if week:
            watched.look(world, week)
        part = world.rows(world.start(week), world.start(week + 1))
        for way, trained in (("frozen", 0), ("weekly", week), ("watched", watched.trained)):
            scores = world.model(trained).score(world.x[part])
            found[way].append(average_precision(world.y[part], scores))
        tell(f"week {week}: {', '.join(f'{way} {values[-1]:.3f}' for way, values in found.items())}")
    trainings = {"frozen": 1, "weekly": weeks, "watched": 1 + len(watched.causes)}
    for way, by_week in found.items():
        document.row(
            way,
            f"seed {seed}, {len(frame):,} payments, {frame['fraud'].mean():.2%} frauds",
            average_precision=round(fmean(by_week), 4),
            trainings=trainings[way],
            by_week=[round(value, 3) for value in by_week],
            **({"causes": watched.causes} if way == "watched" else {}),
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
    parser.add_argument("--seeds", type=int, nargs="+", help="these worlds instead of 0, 1 and 2 (quick: 0)")
    given = parser.parse_args()
    document = Document("loop", GOALS)
    seeds = given.seeds or ([0] if given.quick else [0, 1, 2])
    weeks, customers = (36, 600) if given.quick else (36, 800)

    def work() -> None:
        with tempfile.TemporaryDirectory() as kernels:
            found = [run(document, seed, weeks, customers, Path(kernels)) for seed in seeds]
        for goal, key in zip(GOALS, ("gain", "gap", "share"), strict=True):
            values = [f[key] for f in found]
            document.measured(goal.name, round(fmean(values), 4), note=_told(values))

    document.part([goal.name for goal in GOALS], work)
    sys.exit(0 if document.print() else 1)


if __name__ == "__main__":
    main()
