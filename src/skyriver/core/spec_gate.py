"""Of an application's specification: what a version must reach before it may serve, and on which parts of the rows."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from skyriver.core.expr import Node
from skyriver.core.spec_base import FieldName, Spec

MEASURED = (
    "auc",
    "average_precision",
    "log_loss",
    "brier",
    "calibration_error",
    "brier_calibrated",
    "calibration_error_calibrated",
    "positives_share",
    "train_auc",
    "train_average_precision",
    "onnx_max_difference",
)
"""What is measured of every trained model, beside the metrics of its own."""
PREQUENTIAL = ("prequential_average_precision", "prequential_auc", "prequential_log_loss", "prequential_brier")
"""Where a training is validated so, too."""
SLICED = MEASURED[:8]
"""What is measured of slices too: what can be told of any test rows."""
MOST_VALUES = 50
"""Slices of one field; and of its values so many are the most frequent ones unless another number is given:"""
VALUES = 10


class GateRule(Spec):
    metric: str
    op: Literal[">=", "<=", ">", "<"]
    value: float


class SliceRule(GateRule):
    """A rule that holds on a slice; "": on each."""

    slice: str = ""


class SliceSpec(Spec):
    """A part of the test rows that is measured on its own: those of which `when` is true, or one part for each of the
    `most` most frequent values of the field `by`, and one for the rest."""

    name: FieldName
    when: Node | None = None
    by: str = ""
    most: int = Field(default=VALUES, ge=1, le=MOST_VALUES)
    least: int = Field(default=0, ge=0)
    least_positives: int = Field(default=0, ge=0)
    """With fewer test rows, or fewer positives among them, rules do not hold on it: it is named as not judged. Unless
    declared, rules hold on it however few there are, and what cannot be computed fails."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.when is None) == (not self.by):
            raise ValueError(f"the slice {self.name} is by a condition or by a field, one of the two")
        return self


class GateSpec(Spec):
    rules: tuple[GateRule, ...] = ()
    against: Literal["", "champion"] = ""
    """A candidate must not be worse than the champion on the gated metrics, on the same test rows."""
    tolerance: float = 0.0
    slices: tuple[SliceRule, ...] = Field(default=(), exclude_if=lambda value: not value)
    latency_us: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    """The most that 99 of 100 rows may take, each scored alone; 0: however long."""
    size_bytes: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    """Of the model's file, at most; 0: any."""
    beats_baseline: bool = Field(default=False, exclude_if=lambda value: not value)
    """It must not be worse, by more than the tolerance, than the best of the baselines on the gated metrics."""
    max_gap: float | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    """By how much it may be better on the training rows than on the test rows."""
    same_features: bool = Field(default=True, exclude_if=lambda value: value)
    """Where a stream has decided by these features, what it recorded must be what the training computes."""
