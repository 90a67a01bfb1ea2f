"""Searching parameters against plain random search: how good the best of n trials is, and what that took.

`python bench/search.py --trials 20`: on three data sets that come with scikit-learn. Both searches draw from the same
space, learn from the same rows, are judged by the same held-out rows, and fit the best parameters once more on both;
what they then say of test rows, which chose nothing, is compared. Random search builds all trees of each trial. The
noise is random search's own: the standard deviation of its result over seeds, on the same rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from _document import Document, Goal, add_parts, tell
from numpy.typing import NDArray

import skyriver as sr
from skyriver.core.resources import Limits
from skyriver.train.search.budget import Budget
from skyriver.train.search.journal import Journal
from skyriver.train.search.study import HeldOut, Searching, judge_of
from skyriver.train.search.watch import Predict, Watch

METRIC = "average_precision"
SPACE = {
    "num_leaves": sr.Int(3, 63, log=True),
    "learning_rate": sr.Float(0.02, 0.4, log=True),
    "min_data_in_leaf": sr.Int(3, 50, log=True),
    "feature_fraction": sr.Float(0.3, 1.0),
    "lambda_l2": sr.Float(0.001, 10.0, log=True),
}
SETS = ("breast_cancer", "digits", "diabetes")
PARTS = {name: (f"{name}_compute", f"{name}_cpu", f"{name}_shortfall") for name in SETS}
GOALS = [
    goal
    for name in SETS
    for goal in (
        Goal(f"{name}_compute", "<=", 0.5, "of random search's trees"),
        Goal(f"{name}_cpu", "<=", 0.5, "of random search's CPU time"),
        Goal(f"{name}_shortfall", "<=", 1.0, "standard deviations of random search's result"),
    )
]


@dataclass
class Work:
    """Rows of one data set, and what is built of them."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    trees: int
    split: int
    built: int = 0
    parts: list[NDArray[np.int64]] = field(default_factory=list)
    bins: dict[int, lightgbm.Dataset] = field(default_factory=dict)
    """By the number of rows: both searches put them into bins once, as `data.dataset()` does."""

    def __post_init__(self) -> None:
        order = np.random.default_rng(self.split).permutation(len(self.y))
        self.parts = np.split(order, [len(order) // 2, len(order) * 3 // 4])  # learn, judge, test

    def fit(self, rows: NDArray[np.int64], params: Mapping[str, Any], watch: Watch) -> lightgbm.Booster:
        settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": 1, **params}
        if len(rows) not in self.bins:
            terms = {"feature_pre_filter": False, "verbose": -1}
            self.bins[len(rows)] = lightgbm.Dataset(self.x[rows], self.y[rows], params=terms)
        return lightgbm.train(settings, self.bins[len(rows)], self.trees, callbacks=[_Counting(self), watch.after_tree])

    def judged(self, predict: Predict, part: int) -> float:
        rows = self.parts[part]
        return judge_of(METRIC, self.y[rows])(np.asarray(predict(self.x[rows])))

    def at_last(self, params: Mapping[str, Any], watch: Watch) -> float:
        """Of the test rows, by the best parameters on all others."""
        return self.judged(self.fit(np.concatenate(self.parts[:2]), params, watch).predict, 2)


class _Counting:
    """Counts the trees, also of a trial whose model is not kept."""

    before_iteration = True

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, env: Any) -> None:
        self._work.built += 1


def load(name: str, trees: int, split: int) -> Work:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    positive = {"breast_cancer": lambda: y == 0, "digits": lambda: y >= 5, "diabetes": lambda: y > np.quantile(y, 0.7)}
    return Work(x.astype(np.float32), positive[name]().astype(np.float32), trees, split)


Way = Callable[[Work, int, int], "Result"]


@dataclass(frozen=True)
class Result:
    chosen: float
    """By the rows that judge."""
    test: float
    built: int
    seconds: float


def ours(work: Work, trials: int, seed: int) -> Result:
    spec = sr.Search(SPACE, metric=METRIC, trials=trials).spec
    learn, judge, _ = work.parts
    held_out = HeldOut(work.x[judge], work.x[judge], work.y[judge], len(learn))

    def fit(params: Mapping[str, Any], watch: Watch) -> Predict:
        predict: Predict = work.fit(learn, params, watch).predict
        return predict

    with tempfile.TemporaryDirectory() as folder:
        searching = Searching(
            spec,
            spec.space,
            Budget.of(spec, None, Limits()),
            held_out,
            fit,
            Journal(Path(folder) / "trials.jsonl", {}),
            seed,
            time.time,
            lambda stage, done, total: None,
        )
        found = searching.found(searching.run())
    return Result(found.best.value or 0.0, work.at_last(found.best.params, found.watch), 0, 0.0)


def random_search(work: Work, trials: int, seed: int) -> Result:
    luck, best = np.random.default_rng(seed), (-np.inf, {})
    for _ in range(trials):
        params = {name: drawn(values, luck) for name, values in SPACE.items()}
        value = work.judged(work.fit(work.parts[0], params, Watch()).predict, 1)
        best = max(best, (value, params), key=lambda found: found[0])
    return Result(float(best[0]), work.at_last(best[1], Watch()), 0, 0.0)


def drawn(values: sr.Int | sr.Float, luck: np.random.Generator) -> int | float:
    if not values.log:
        return float(luck.uniform(values.low, values.high))
    number = float(np.exp(luck.uniform(np.log(values.low), np.log(values.high))))
    return round(number) if isinstance(values, sr.Int) else number


def measured(name: str, way: Way, asked: argparse.Namespace, split: int, seed: int) -> Result:
    work, begun = load(name, asked.trees, split), os.times()
    found = way(work, asked.trials, 100 * split + seed)
    ended = os.times()
    return Result(found.chosen, found.test, work.built, ended.user + ended.system - begun.user - begun.system)


def compare(document: Document, name: str, asked: argparse.Namespace) -> None:
    ways: dict[str, Way] = {"skyriver": ours, "random search": random_search}
    found: dict[str, list[list[Result]]] = {system: [[] for _ in range(asked.splits)] for system in ways}
    for split, seed in product(range(asked.splits), range(asked.seeds)):
        for system in sorted(ways, reverse=bool((split + seed) % 2)):  # neither has the machine's better moments
            found[system][split].append(measured(name, ways[system], asked, split, seed))
    for system in ways:
        flat = [result for of_split in found[system] for result in of_split]
        document.row(
            system,
            name,
            runs=len(flat),
            test=round(statistics.mean(r.test for r in flat), 4),
            noise=round(noise(found[system]), 4),
            judged=round(statistics.mean(r.chosen for r in flat), 4),
            trees=round(statistics.mean(r.built for r in flat)),
            cpu_s=round(statistics.mean(r.seconds for r in flat), 2),
        )
    means = {
        system: [statistics.mean(pick(r) for of_split in runs for r in of_split) for pick in (_test, _built, _cpu)]
        for system, runs in found.items()
    }
    (mine, my_trees, my_cpu), (theirs, their_trees, their_cpu) = means["skyriver"], means["random search"]
    document.measured(f"{name}_compute", round(my_trees / their_trees, 3))
    document.measured(f"{name}_cpu", round(my_cpu / their_cpu, 3))
    shortfall = (theirs - mine) / max(noise(found["random search"]), 1e-9)
    document.measured(f"{name}_shortfall", round(shortfall, 3), note=f"{theirs - mine:+.4f} {METRIC.replace('_', ' ')}")


def noise(runs: list[list[Result]]) -> float:
    """The standard deviation over seeds, the variances of the splits averaged."""
    return statistics.mean(statistics.variance(r.test for r in of_split) for of_split in runs) ** 0.5


def _test(result: Result) -> float:
    return result.test


def _built(result: Result) -> float:
    return float(result.built)


def _cpu(result: Result) -> float:
    return result.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--splits", type=int, default=4, help="other rows that learn, judge and test")
    parser.add_argument("--seeds", type=int, default=3, help="on each split, at least 2")
    parser.add_argument("--trees", type=int, default=200, help="of a trial that is not cut short")
    parser.add_argument("--quick", action="store_true", help="few runs: what they say of quality is noise")
    add_parts(parser, PARTS)
    asked = parser.parse_args()
    if asked.quick:
        asked.splits, asked.seeds = 2, 2
    document = Document("search", GOALS)
    ours(load(SETS[0], asked.trees, 0), 2, 0)  # what is imported then is no part of a trial
    tell(f"{asked.trials} trials of up to {asked.trees} trees, {asked.splits} splits with {asked.seeds} seeds each")
    document.parts(PARTS, {name: partial(compare, document, name, asked) for name in SETS}, asked.parts)
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
