"""Compression as a gated step: the smallest model that keeps the quality, with its price.

One recipe so far: fewer trees. Boosting adds trees in order of their worth, so every prefix of the trees is a whole
model. How many are enough is chosen on the validation part, rows that neither training nor test has seen, where all
prefixes are scored in one walk. Whether the loss is bearable is then judged on the test rows, which chose nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skyriver.compress.speed import Speed, measure_speed
from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import Progress
from skyriver.core.spec import ModelSpec
from skyriver.train.calibrate import Calibrated, calibrate
from skyriver.train.cleaning import Cleaning, fit_cleaning
from skyriver.train.evaluate import evaluate, run_blocks, take
from skyriver.train.metrics import average_precision
from skyriver.train.parity import MAX_DIFFERENCE, difference
from skyriver.train.run import finish
from skyriver.train.slices import Evidence, Scored, Slice, gather, scored
from skyriver.train.split import Rows, Split, split_rows, validates
from skyriver.train.trees_onnx import Trees, read_lightgbm, steps_to_onnx, to_onnx

MAX_CHOICES: Final = 64
"""Of more trees, this many prefix lengths are tried, evenly spaced."""
VALIDATION_SCORED: Final = 100_000
"""Of a longer validation part as many rows, evenly spaced, choose."""
BLOCK_NUMBERS: Final = 4_000_000
"""Rows x trees at a time: 16 MB from onnxruntime, 32 MB of running sums."""
METRIC: Final = "average_precision"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One form of the model; `metrics`, `speed` and `evidence` are of the test rows."""

    name: str
    onnx: bytes
    trees: int
    """0 of a model whose trees are not known."""
    metrics: Mapping[str, float]
    calibrated: Calibrated
    speed: Speed
    evidence: Evidence
    kept: bool
    why: str


def compress(
    spec: ModelSpec,
    rows: Rows,
    *,
    delay_us: int | None,
    onnx: bytes,
    model_text: bytes | None,
    metrics: Mapping[str, float],
    gate: Callable[[Candidate], str],
    progress: Progress,
    champion: Scored | None = None,
    slices: Sequence[Slice] = (),
) -> tuple[Candidate, ...]:
    """The model as trained and what compression made of it, in this order; the last one kept is to be released.

    `rows`, `delay_us`, `onnx`, `model_text` and `metrics` are those of the training; `champion` is what the version
    that serves says of the test rows, of which `slices` are parts. `gate` says why a candidate does not pass, "" when
    it does. Without `spec.compress`, and where every tree is needed, only the model as trained comes back. Raises
    InvalidInput (NOT_TRAINABLE, NOT_COMPRESSIBLE).
    """
    if spec.train is None:
        raise InvalidInput(
            f"The model {spec.name} is a ready file, it has no trees to cut.",
            code="NOT_TRAINABLE",
            next_action="`skyriver deploy` takes a changed file in.",
        )
    split = split_rows(spec.train, rows, delay_us, validate=validates(spec, delay_us))
    test = take(rows.x, split.test)
    whole, calibrated = calibrate(spec.calibrate, onnx, rows, split)  # the same rows as the training: the same
    model = read_lightgbm(model_text.decode()) if model_text is not None else None
    progress("measure", 0, 0)
    speed = measure_speed(whole, test)
    progress("slices", 0, 0)
    labels = split.labels[split.test]
    evidence = gather(labels, scored(whole, test), champion, slices)
    trained = Candidate(
        name="trained",
        onnx=whole,
        trees=len(model.trees) if model is not None else 0,
        metrics=dict(metrics),
        calibrated=calibrated,
        speed=speed,
        evidence=evidence,
        kept=True,
        why="the model as trained",
    )
    if spec.compress is None:
        return (trained,)
    if model is None or model_text is None:
        raise InvalidInput(
            f"The model {spec.name} is none of LightGBM: compress= cuts its trees.",
            code="NOT_COMPRESSIBLE",
            next_action="Leave out compress=, or train with LightGBM.",
        )
    cleaning = fit_cleaning(spec.train.clean, take(rows.x, split.train))
    progress("choose", 0, len(split.validation))
    positives = int(split.labels[split.validation].sum())
    if positives * spec.compress.max_loss < 1:
        # One positive found or missed moves average precision by up to 1 / positives: noise would choose.
        needed = math.ceil(1 / spec.compress.max_loss)
        print(f"compress: all trees kept: {positives} validation positives, {needed} are needed", file=sys.stderr)
        return (trained,)
    enough = fewest_trees(model, cleaning.apply(take(rows.x, split.validation)), split, spec.compress.max_loss)
    if enough == len(model.trees):
        print(f"compress: all {enough} trees are needed", file=sys.stderr)
        return (trained,)
    progress("judge", 0, len(split.test))
    smaller = _candidate(spec, rows, split, model.first(enough), model_text.decode(), cleaning, champion, slices)
    judged = _judge(trained, smaller, spec.compress.max_loss, gate)
    print(f"compress: {judged.name} {'kept' if judged.kept else 'not kept'}: {judged.why}", file=sys.stderr)
    return (trained, judged)


def fewest_trees(model: Trees, x: NDArray[np.float32], split: Split, max_loss: float) -> int:
    """The shortest prefix of the trees from which on average precision on the validation rows `x` stays within half of
    `max_loss` below that of the whole model: half, so that other rows find no more than all of it."""
    total = len(model.trees)
    every = max(1, math.ceil(len(split.validation) / VALIDATION_SCORED))
    labels = split.labels[split.validation[::every]]
    lengths = np.unique(np.ceil(np.linspace(1, total, min(MAX_CHOICES, total))).astype(np.int64))
    # Per block the running sums over all trees, of which only the lengths in question are kept.
    raw = np.empty((len(labels), len(lengths)))
    done = 0
    for steps in run_blocks(steps_to_onnx(model), x[::every], block=max(1, BLOCK_NUMBERS // total)):
        raw[done : done + len(steps)] = np.cumsum(steps, axis=1, dtype=np.float64)[:, lengths - 1]
        done += len(steps)
    reached = np.array([average_precision(labels, raw[:, i]) for i in range(len(lengths))])
    bad = np.flatnonzero(~(reached >= reached[-1] - max_loss / 2))
    return int(lengths[min(bad[-1] + 1, len(lengths) - 1)]) if len(bad) else int(lengths[0])


def _candidate(
    spec: ModelSpec,
    rows: Rows,
    split: Split,
    model: Trees,
    text: str,
    cleaning: Cleaning,
    champion: Scored | None,
    slices: Sequence[Slice],
) -> Candidate:
    import lightgbm  # 0.4 s and 60 MB that the other jobs of this process kind do not need

    # Other trees give other scores. The rows are those that chose how many: by a few numbers, so it costs little.
    onnx, calibrated = finish(spec, to_onnx(model), cleaning, rows, split)
    test = take(rows.x, split.test)
    said = scored(onnx, test)
    metrics = evaluate(onnx, rows, split, spec.metrics, said.scores)
    count = len(model.trees)
    booster = lightgbm.Booster(model_str=text)
    metrics["onnx_max_difference"] = difference(
        lambda x: np.asarray(booster.predict(x, num_iteration=count), np.float64), onnx, test, cleaning=cleaning
    )
    evidence = gather(split.labels[split.test], said, champion, slices)
    return Candidate("fewer-trees", onnx, count, metrics, calibrated, measure_speed(onnx, test), evidence, False, "")


def _judge(trained: Candidate, smaller: Candidate, max_loss: float, gate: Callable[[Candidate], str]) -> Candidate:
    """`smaller` with whether it is kept and why, the price told either way."""
    loss = trained.metrics[METRIC] - smaller.metrics[METRIC]
    price = (
        f"{trained.trees} -> {smaller.trees} trees, average precision {-loss:+.4f},"
        f" {len(trained.onnx) / len(smaller.onnx):.1f}x smaller, {trained.speed.row / smaller.speed.row:.1f}x faster"
    )
    refused = gate(smaller)
    differs = smaller.metrics["onnx_max_difference"]
    if loss > max_loss:
        return replace(smaller, why=f"{price}; it may fall by at most {max_loss:g}")
    if refused:
        return replace(smaller, why=f"{price}; the gate: {refused}")
    if differs > MAX_DIFFERENCE:
        return replace(smaller, why=f"{price}; its ONNX form differs by {differs:.2g}")
    return replace(smaller, kept=True, why=price)
