"""Judging a model as it will be served: its ONNX file, run by onnxruntime, on rows it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skyriver.core.calibration import Calibration
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import MetricSpec
from skyriver.train import metrics as measure
from skyriver.train.split import Rows, Split

BLOCK_ROWS = 65_536
TRAIN_SCORED = 400_000
"""Of a longer training part as many rows, evenly spaced, tell how well it is known by heart."""


def open_model(onnx: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """`threads` 0: all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def run_blocks(onnx: bytes, x: NDArray[np.float32], block: int = BLOCK_ROWS) -> Iterator[NDArray[np.float32]]:
    """The first output for each `block` rows of `x` (n, F), in order."""
    session = open_model(onnx)
    name = session.get_inputs()[0].name
    for start in range(0, len(x), block):
        yield session.run(None, {name: np.ascontiguousarray(x[start : start + block])})[0]


def score(onnx: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores float32 (n,) of rows `x` (n, F)."""
    return np.concatenate([np.empty(0, dtype=np.float32), *(b.reshape(-1) for b in run_blocks(onnx, x))])


def calibration_of(onnx: bytes) -> Calibration | None:
    return Calibration.of_metadata(open_model(onnx).get_modelmeta().custom_metadata_map)


def take(column: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of a column or matrix; of a stretch without holes a view, for a split by time needs no copy."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return column[rows[0] : rows[-1] + 1]
    return column[rows]


def evaluate(
    onnx: bytes,
    rows: Rows,
    split: Split,
    own: Sequence[MetricSpec],
    scores: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """All metrics of a model: on the test rows, and `train_auc`, `train_average_precision` on the training part.
    `scores`: of the test rows, where they are known already."""
    said = score(onnx, take(rows.x, split.test)) if scores is None else scores
    found = judge(said, calibration_of(onnx), rows, split, own)
    sample = split.train[:: max(1, math.ceil(len(split.train) / TRAIN_SCORED))]
    labels, known = split.labels[sample], score(onnx, take(rows.x, sample))
    found["train_auc"] = measure.roc_auc(labels, known)
    found["train_average_precision"] = measure.average_precision(labels, known)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def judge(
    scores: NDArray[np.float32],
    calibration: Calibration | None,
    rows: Rows,
    split: Split,
    own: Sequence[MetricSpec],
) -> dict[str, float]:
    """The metrics of `scores` of the test rows, and of their probabilities by the model's `calibration`; what is not
    defined on them is left out."""
    labels = split.labels[split.test]
    found = rank_metrics(labels, scores, None if calibration is None else calibration.of(scores))
    for metric in own:
        found[metric.name] = _precision_at(metric, labels, scores, rows, split)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def rank_metrics(
    labels: NDArray[np.float32], scores: NDArray[np.float32], probabilities: NDArray[np.float32] | None
) -> dict[str, float]:
    """What can be said of any rows; what is not defined on these is left out."""
    found = {
        "auc": measure.roc_auc(labels, scores),
        "average_precision": measure.average_precision(labels, scores),
        "log_loss": measure.log_loss(labels, scores),
        "brier": measure.brier(labels, scores),
        "positives_share": float(labels.mean()) if len(labels) else math.nan,
    }
    if ((scores >= 0) & (scores <= 1)).all():
        found["calibration_error"] = measure.calibration_error(labels, scores)
    if probabilities is not None:
        found["brier_calibrated"] = measure.brier(labels, probabilities)
        found["calibration_error_calibrated"] = measure.calibration_error(labels, probabilities)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _precision_at(
    metric: MetricSpec, labels: NDArray[np.float32], scores: NDArray[np.float32], rows: Rows, split: Split
) -> float:
    keys = _keys(metric, rows.keys)
    positive = split.known[split.labels[split.known] == 1]
    return measure.precision_at(
        metric.k,
        labels,
        scores,
        keys[split.test],
        rows.time[split.test],
        start=split.start,
        end=split.end,
        per_us=metric.per_us,
        known_keys=keys[positive],
        known_from=rows.time[positive] + split.delay_us,
    )


def _keys(metric: MetricSpec, keys: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    if metric.by not in keys:
        raise InvalidInput(
            f"The metric {metric.name} is by {metric.by!r}, which the data does not have.",
            code="UNKNOWN_FIELD",
            next_action=f"It has {', '.join(keys) or 'no keys'}.",
        )
    return keys[metric.by]
