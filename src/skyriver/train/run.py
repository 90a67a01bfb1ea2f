"""Training one model: split, the user's function, ONNX, and what the model is worth on rows it has not seen."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.calibration import MEANS
from skyriver.core.curves import Tell, untold
from skyriver.core.errors import InvalidInput, JobFailed, SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import ModelSpec, TrainSpec
from skyriver.train.calibrate import Calibrated, calibrate, with_metadata
from skyriver.train.cleaning import Cleaning, by_column, fit_cleaning
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import calibration_of, evaluate, judge, score, take
from skyriver.train.examine import Examined, examine
from skyriver.train.prequential import faded
from skyriver.train.search.looking import Look
from skyriver.train.search.study import Found
from skyriver.train.search.watch import Predict, Watch
from skyriver.train.slices import Scored, scored
from skyriver.train.split import Rows, Split, split_rows, validates
from skyriver.train.trees_onnx import Trees, read_lightgbm, to_onnx

if TYPE_CHECKING:
    import lightgbm

MAX_DIFFERENCE: Final = 1e-5
"""By how much the ONNX model may differ from the trained one on any test row."""

PartSummary = tuple[int, int, int, int]
"""(first effective time, last effective time, rows, positives); times in microseconds, 0 for a table."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that serves now. `x` (n, F') float32 are its own features of the same rows, None where they cannot
    be computed any more; then it cannot be compared, and its metrics are empty."""

    onnx: bytes
    x: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it. `model_text` is the model in LightGBM's own text format, which compression starts from."""

    onnx: bytes
    model_text: bytes
    metrics: Mapping[str, float]
    champion_metrics: Mapping[str, float] | None
    champion: Scored | None
    """What the champion says of the test rows; None where there is none, or where it could not be scored."""
    train: PartSummary
    test: PartSummary
    calibrated: Calibrated
    fit_seconds: float
    params: Mapping[str, Any]
    """Those that the function got."""
    found: Found | None
    """By the search, where there was one."""
    examined: Examined | None


def train(
    spec: ModelSpec,
    rows: Rows,
    fit: Callable[[TrainingData], Any],
    *,
    delay_us: int | None,
    params: Mapping[str, Any],
    seed: int,
    champion: Champion | None,
    progress: Progress,
    tell: Tell = untold,
    look: Look | None = None,
) -> Trained:
    """Trains the model `spec` with the user's function `fit`; `delay_us` is the label's delay, None for a table; `tell`
    takes what the function reports by step. `look` finds parameters where the spec declares a search.

    Raises InvalidInput where the data does not allow it (see `split_rows`) or the model cannot be served exactly (see
    `read_lightgbm`), JobFailed with USER_ERROR where the function failed or returned no model, ONNX_DIFFERS where the
    ONNX model gives other scores than the trained one by more than 1e-5.
    """
    if spec.train is None:
        raise InvalidInput(
            f"The model {spec.name} is a ready file, there is nothing to train.",
            code="NOT_TRAINABLE",
            next_action="`skyriver deploy` takes a changed file in.",
        )
    progress("split", 0, 0)
    split = split_rows(spec.train, rows, delay_us, validate=validates(spec, delay_us))
    fitting = _Fitting(spec.train, rows, split, fit, seed)
    found = None if look is None else look(fitting, delay_us, params, progress)
    if found is not None:
        params, fitting.watch = {**params, **found.best.params}, found.watch
    progress("fit", 0, len(split.train))
    begun = time.monotonic()
    cleaning = fit_cleaning(spec.train.clean, take(rows.x, split.train))
    booster = _fit(spec.train, rows, split, fit, params, seed, cleaning, fitting.watch, tell)
    fit_seconds = time.monotonic() - begun
    progress("convert", 0, 0)
    text = booster.model_to_string()  # up to the best iteration, as `predict` does
    onnx, calibrated = finish(spec, read_lightgbm(text), cleaning, rows, split)
    progress("evaluate", 0, len(split.test))
    said = score(onnx, take(rows.x, split.test))
    metrics = evaluate(onnx, rows, split, spec.metrics, said)
    metrics["onnx_max_difference"] = difference(booster, onnx, take(rows.x, split.test), cleaning=cleaning)
    if metrics["onnx_max_difference"] > MAX_DIFFERENCE:
        raise JobFailed(
            f"The ONNX model differs from the trained one by {metrics['onnx_max_difference']:.2g} on the test rows.",
            code="ONNX_DIFFERS",
            next_action="Report it, with the parameters of the training.",
        )
    progress("examine", 0, 0)
    examined = examine(
        spec,
        rows,
        split,
        said,
        metrics,
        fit_on=lambda part: fitting(part, params, fitting.watch),
        fit_seconds=fit_seconds,
        seed=seed,
    )
    if examined is not None:
        metrics |= faded(examined.prequential)
    serving = None if champion is None or champion.x is None else scored(champion.onnx, take(champion.x, split.test))
    return Trained(
        onnx=onnx,
        model_text=text.encode(),
        metrics=metrics,
        champion_metrics=None if champion is None else _champion_metrics(champion, serving, spec, rows, split),
        champion=serving,
        train=summarise(rows, split, split.train),
        test=summarise(rows, split, split.test),
        calibrated=calibrated,
        fit_seconds=fit_seconds,
        params=params,
        found=found,
        examined=examined,
    )


class _Fitting:
    """The user's function on some of the rows."""

    def __init__(
        self, spec: TrainSpec, rows: Rows, split: Split, fit: Callable[[TrainingData], Any], seed: int
    ) -> None:
        self.spec, self.rows, self.split, self.seed = spec, rows, split, seed
        self.watch = Watch()
        self._fit = fit

    def __call__(self, part: NDArray[np.int64], params: Mapping[str, Any], watch: Watch) -> Predict:
        """What the model that it gives says of raw rows."""
        cleaning = fit_cleaning(self.spec.clean, take(self.rows.x, part))
        on_part = replace(self.split, train=part)
        model = _fit(self.spec, self.rows, on_part, self._fit, params, self.seed, cleaning, watch)
        return lambda x: model.predict(cleaning.apply(x))


def finish(spec: ModelSpec, trees: Trees, cleaning: Cleaning, rows: Rows, split: Split) -> tuple[bytes, Calibrated]:
    """The trees as the ONNX file that is released: with the cleaning before them, and in its metadata what the features
    are on average, which explains them, and the calibration."""
    means = by_column(take(rows.x, split.train), lambda c: np.mean(c), np.nan)
    known = [None if np.isnan(mean) else float(mean) for mean in means]
    onnx = with_metadata(cleaning.before(to_onnx(trees)), MEANS, json.dumps(known))
    return calibrate(spec.calibrate, onnx, rows, split)


def summarise(rows: Rows, split: Split, part: NDArray[np.int64]) -> PartSummary:
    times = rows.time[part]
    return int(times.min()), int(times.max()), len(part), int(split.labels[part].sum())


def difference(
    booster: lightgbm.Booster,
    onnx: bytes,
    x: NDArray[np.float32],
    trees: int | None = None,
    *,
    cleaning: Cleaning,
) -> float:
    """The largest distance between the scores of the ONNX model, which cleans by itself, and of LightGBM (of its first
    `trees` trees) on cleaned rows."""
    expected = np.asarray(booster.predict(cleaning.apply(x), num_iteration=trees), dtype=np.float64)
    return float(np.max(np.abs(score(onnx, x) - expected), initial=0.0))


def _fit(
    spec: TrainSpec,
    rows: Rows,
    split: Split,
    fit: Callable[[TrainingData], Any],
    params: Mapping[str, Any],
    seed: int,
    cleaning: Cleaning,
    watch: Watch,
    tell: Tell = untold,
) -> lightgbm.Booster:
    import lightgbm  # 0.4 s and 60 MB that the other jobs of this process kind do not need

    data = TrainingData(
        x=_read_only(cleaning.apply(take(rows.x, split.train))),
        y=_read_only(take(split.labels, split.train)),
        names=rows.names,
        time=rows.time[split.train],
        params=dict(params),
        seed=seed,
        watch=watch,
        tell=tell,
    )
    try:
        model = fit(data)
    except SkyriverError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code throws is the user's to read
        raise JobFailed(
            f"{spec.function} failed: {traceback.format_exception_only(error)[-1].strip()}",
            code="USER_ERROR",
            where=_place(error, fit),
            next_action="Correct the function and deploy it; the log of the job has the traceback.",
        ) from error
    if not isinstance(model, lightgbm.Booster):
        raise JobFailed(
            f"{spec.function} returned {type(model).__name__}, not a lightgbm.Booster.",
            code="USER_ERROR",
            next_action="Return what lightgbm.train(...) gives; of a scikit-learn estimator its `booster_`.",
        )
    if model.num_feature() != len(rows.names):
        raise JobFailed(
            f"{spec.function} returned a model of {model.num_feature()} features, the data has {len(rows.names)}.",
            code="USER_ERROR",
            next_action="Train on data.x with all its columns, in their order.",
        )
    return model


def _read_only(column: NDArray[np.float32]) -> NDArray[np.float32]:
    """A view: what the function writes into its data must not reach the rows it is judged by."""
    view = column[:]
    view.flags.writeable = False
    return view


def _place(error: BaseException, fit: Callable[[TrainingData], Any]) -> str:
    """The last line of the function's own file that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(fit), "__code__", None)
    own = [f for f in frames if code is not None and f.filename == code.co_filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def _champion_metrics(
    champion: Champion, found: Scored | None, spec: ModelSpec, rows: Rows, split: Split
) -> Mapping[str, float]:
    if found is None:
        return {}
    calibration = calibration_of(champion.onnx)
    metrics = judge(found.scores, calibration, rows, split, spec.metrics)
    if calibration is None:  # its scores are all that it says, and a gate may compare it by probabilities
        metrics |= {f"{name}_calibrated": metrics[name] for name in ("brier", "calibration_error") if name in metrics}
    return metrics
