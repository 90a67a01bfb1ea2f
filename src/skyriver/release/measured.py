"""What was measured of a version beside its metrics, as its manifest keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from skyriver.core.spec import Spec


def _finite(metrics: Mapping[str, float]) -> Mapping[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: leave out a metric that could not be computed")
    return metrics


Metrics = Annotated[Mapping[str, float], AfterValidator(_finite)]


class Interval(NamedTuple):
    """Of 95%."""

    low: float
    high: float


class Difference(NamedTuple):
    """By how much a metric is above the champion's on the same rows, with its interval of 95%."""

    by: float
    low: float
    high: float


class SliceRecord(Spec):
    """A part of the test rows, that came of the declared slice `of`; see `skyriver.core.spec.SliceSpec`."""

    name: str
    of: str
    rows: int
    positives: int
    metrics: Metrics
    intervals: Mapping[str, Interval]
    champion_metrics: Metrics | None
    """None where there is no champion, or where it could not be scored."""
    differences: Mapping[str, Difference]
    least: int = 0
    least_positives: int = 0

    @property
    def too_few(self) -> str:
        """Why no rule holds on it; "" where rules do."""
        if self.rows < self.least:
            return f"{self.rows:,} test rows, and at least {self.least:,} are declared"
        if self.positives < self.least_positives:
            return f"{self.positives:,} positive test rows, and at least {self.least_positives:,} are declared"
        return ""


class SpeedRecord(Spec):
    """Microseconds; see `skyriver.compress.speed.Speed`."""

    row: float
    row_p99: float
    row_p99_low: float
    row_p99_high: float
    batch: float
    batch_rows: int
    reference: float
    reference_p99: float


class FeatureDifference(NamedTuple):
    """A feature of one event, as it was recorded when the event was decided and as the training computed it; None is
    missing."""

    id: str
    feature: str
    recorded: float | None
    computed: float | None


class SameFeatures(Spec):
    """Of the stream's last decisions by the model's features `compared` were held against the training's rows, bit for
    bit; `first` are values of those that differ. `why` nothing was compared, else ""."""

    compared: int
    different: int
    first: tuple[FeatureDifference, ...]
    why: str = ""


class BaselineRecord(Spec):
    """A constant, a linear model, or LightGBM with its defaults, fitted on so many of the training rows; `difference`:
    by how much the model is above it in the metric of the verdict."""

    name: str
    rows: int
    metrics: Metrics
    difference: Difference | None


class CurvePoint(NamedTuple):
    """Of the learning curve: the metric of the test rows by what was fitted on so many rows."""

    rows: int
    value: float


class StretchRecord(NamedTuple):
    """Of a prequential validation: rows of (from_us, to_us] by what was learnt before them."""

    from_us: int
    to_us: int
    learned: int
    rows: int
    positives: int
    metrics: Mapping[str, float]


class TrialRecord(NamedTuple):
    """`value` is the metric as it is read; None of one that failed. `steps`: trees, epochs; 0 where nobody counted."""

    number: int
    state: str
    params: Mapping[str, str | int | float | bool]
    value: float | None
    steps: int
    seconds: float
    error: str


class SearchRecord(Spec):
    """`best` is the number of a trial. Judged on so many of the training rows, which trials did not get; `trials` are
    the first of them."""

    metric: str
    best: int
    value: float
    params: Mapping[str, str | int | float | bool]
    learned: int
    judged: int
    seconds: float
    ended: str
    counts: Mapping[str, int]
    trials: tuple[TrialRecord, ...]


class Examination(Spec):
    """How a training compares, in `metric`: `value` of the test rows, `trained` of the training rows."""

    metric: str
    value: float
    trained: float | None
    verdict: str
    baselines: tuple[BaselineRecord, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    prequential: tuple[StretchRecord, ...] = Field(default=(), exclude_if=lambda value: not value)
    search: SearchRecord | None = Field(default=None, exclude_if=lambda value: value is None)
