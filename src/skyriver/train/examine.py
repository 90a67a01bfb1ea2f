"""What a training is worth beside others: baselines, how much more rows would bring, how it would have been before, and
a verdict in one sentence."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed, SkyriverError
from skyriver.core.spec import ModelSpec
from skyriver.core.spec_search import METRICS
from skyriver.train.baseline import baselines
from skyriver.train.evaluate import judge, rank_metrics, take
from skyriver.train.intervals import differences
from skyriver.train.prequential import Judged, stretches
from skyriver.train.split import Rows, Split
from skyriver.train.verdict import Point, Rival, better_by, verdict

CURVE: Final = (0.1, 0.3)
"""Shares of the training rows that are fitted beside all of them,"""
CURVE_SECONDS: Final = 10.0
"""if both fits would take no longer even if fewer rows took as long as all;"""
LEAST_ROWS: Final = 50
"""and of no fewer rows than these."""
COMPARED: Final = 50_000
"""Of more test rows as many, evenly spaced, tell the interval of a difference."""

Scores = NDArray[Any]
FitOn = Callable[[NDArray[np.int64]], Callable[[NDArray[np.float32]], Scores]]
"""The training function called on these rows, as it was for the model; gives what the result says of rows."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A baseline: its metrics of the test rows, and by how much the model is above it in the metric of the verdict."""

    name: str
    rows: int
    metrics: Mapping[str, float]
    difference: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class Examined:
    """`trained`: the metric of the training rows, None where that is not measured. `curve`: the metric of the test rows
    by the number of rows that were fitted, up to all of them; empty where fitting more often would take too long."""

    metric: str
    value: float
    trained: float | None
    baselines: tuple[Beside, ...]
    curve: tuple[Point, ...]
    prequential: tuple[Judged, ...]
    verdict: str


def metric_of(spec: ModelSpec) -> str:
    """By which a training is judged: that of its search, else the first that its gate has a rule on."""
    if spec.train is not None and spec.train.search is not None:
        return spec.train.search.metric
    return next((rule.metric for rule in spec.gate.rules if rule.metric in METRICS), METRICS[0])


def examine(
    spec: ModelSpec,
    rows: Rows,
    split: Split,
    scores: NDArray[np.float32],
    metrics: Mapping[str, float],
    *,
    fit_on: FitOn | None,
    fit_seconds: float,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
) -> Examined | None:
    """`scores` and `metrics`: of the model, of the test rows. `fit_on`: None where the function cannot be called again.
    None where the metric is not defined on the test rows."""
    metric = metric_of(spec)
    if metric not in metrics:
        return None
    value, trained = metrics[metric], metrics.get(f"train_{metric}")
    labels = split.labels[split.test]
    found = tuple(_baselines(spec, rows, split, metric, labels, scores, seed))
    curve: tuple[Point, ...] = ()
    judged: tuple[Judged, ...] = ()
    if fit_on is not None:
        curve = tuple(_curve(rows, split, metric, labels, scores, value, fit_on, fit_seconds, clock))
        if spec.train is not None and spec.train.prequential:
            judged = tuple(_before(spec, rows, split, fit_on, metrics))
    rivals = [
        Rival(b.name, b.metrics[metric], None if b.difference is None else better_by(metric, b.difference))
        for b in found
        if metric in b.metrics
    ]
    return Examined(metric, value, trained, found, curve, judged, verdict(metric, value, trained, rivals, curve))


def _baselines(
    spec: ModelSpec,
    rows: Rows,
    split: Split,
    metric: str,
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    seed: int,
) -> Iterator[Beside]:
    x, y = take(rows.x, split.train), take(split.labels, split.train)
    for other in baselines(x, y, take(rows.x, split.test), seed):
        measured = judge(other.scores, None, rows, split, spec.metrics)
        yield Beside(other.name, other.rows, measured, _difference(metric, labels, scores, other.scores))


def _difference(
    metric: str, labels: NDArray[np.float32], one: Scores, other: Scores
) -> tuple[float, float, float] | None:
    """Of `one` above `other` in the metric, with its interval."""
    every = max(1, -(-len(labels) // COMPARED))
    some, ours, theirs = labels[::every], one[::every], other[::every]
    ends = differences(some, (ours, None), (theirs, None)).get(metric)
    both = [rank_metrics(some, said, None).get(metric) for said in (ours, theirs)]
    if ends is None or both[0] is None or both[1] is None:
        return None
    return (both[0] - both[1], *ends)


def _curve(
    rows: Rows,
    split: Split,
    metric: str,
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    value: float,
    fit_on: FitOn,
    fit_seconds: float,
    clock: Callable[[], float],
) -> Iterator[Point]:
    if fit_seconds * len(CURVE) > CURVE_SECONDS:
        return
    begun, test, points = clock(), take(rows.x, split.test), 0
    for share in CURVE:
        part = split.train[:: round(1 / share)]
        positives = int(split.labels[part].sum())
        if len(part) < LEAST_ROWS or not 0 < positives < len(part) or clock() - begun > CURVE_SECONDS:
            continue
        print(f"learning curve: {len(part):,} of {len(split.train):,} rows", file=sys.stderr, flush=True)
        try:
            said = _said(fit_on, part, test)
        except SkyriverError as error:
            print(f"learning curve: left out, for it cannot be fitted on so few rows: {error.message}", file=sys.stderr)
            continue
        reached = rank_metrics(labels, said, None).get(metric)
        if reached is not None:
            longest = share == CURVE[-1]  # what the verdict asks
            difference = _difference(metric, labels, scores, said) if longest else None
            yield Point(len(part), reached, None if difference is None else better_by(metric, difference))
            points += 1
    if points:
        yield Point(len(split.train), value)


def _before(spec: ModelSpec, rows: Rows, split: Split, fit_on: FitOn, metrics: Mapping[str, float]) -> Iterator[Judged]:
    """From the oldest stretch on; the last one is the test."""
    assert spec.train is not None
    for each in stretches(spec.train, rows, split):
        learned = len(each.learned)
        print(f"prequential: {len(each.judged):,} rows by {learned:,} before them", file=sys.stderr, flush=True)
        try:
            said = _said(fit_on, each.learned, take(rows.x, each.judged))
        except SkyriverError as error:
            print(f"prequential: left out, for it cannot be fitted on them: {error.message}", file=sys.stderr)
            continue
        labels = split.labels[each.judged]
        told = rank_metrics(labels, said, None)
        yield Judged(each.from_us, each.to_us, learned, len(labels), int(labels.sum()), told)
    labels = split.labels[split.test]
    told = {name: metrics[name] for name in METRICS if name in metrics}
    yield Judged(split.start - 1, split.end - 1, len(split.train), len(labels), int(labels.sum()), told)


def _said(fit_on: FitOn, part: NDArray[np.int64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of `x`. Raises what `fit_on` does, and JobFailed (BAD_SCORES): a metric would make something of them."""
    with np.errstate(over="ignore"):
        said = np.asarray(fit_on(part)(x), dtype=np.float32).reshape(-1)
    wrong = "some that are no finite numbers" if len(said) == len(x) else f"{len(said):,} scores"
    if len(said) != len(x) or not np.isfinite(said).all():
        raise JobFailed(
            f"The model gave {wrong} for {len(x):,} rows.",
            code="BAD_SCORES",
            next_action="Return a model whose scores are finite, one for each row.",
        )
    return said


def lines(found: Examined) -> Iterator[str]:
    """For the log of the job."""
    word = found.metric
    if found.trained is not None:
        yield f"gap: {word} {found.trained:.4f} on training rows, {found.value:.4f} on test rows"
    for other in found.baselines:
        if word in other.metrics:
            yield f"baseline {other.name}: {word} {other.metrics[word]:.4f}"
    for point in found.curve:
        yield f"learning curve: {word} {point.value:.4f} with {point.rows:,} rows"
    for each in found.prequential:
        if word in each.metrics:
            yield f"prequential: {word} {each.metrics[word]:.4f} of {each.rows:,} rows"
    yield f"verdict: {found.verdict}"
