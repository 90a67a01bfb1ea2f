"""Training one model: split, the user's function, ONNX, and what the model is worth on rows it has not seen."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyriver.core.calibration import MEANS
from skyriver.core.curves import Tell, untold
from skyriver.core.environments import lacking
from skyriver.core.errors import InvalidInput, JobFailed, SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import ModelSpec, TrainSpec
from skyriver.train.calibrate import Calibrated, calibrate, with_metadata
from skyriver.train.cleaning import Cleaning, by_column, fit_cleaning
from skyriver.train.data import TrainingData, read_only
from skyriver.train.evaluate import calibration_of, evaluate, judge, score, take
from skyriver.train.examine import Examined, examine
from skyriver.train.export import Export
from skyriver.train.feed.balance import prepared
from skyriver.train.fitted.fitted import first_line
from skyriver.train.kept_trees import KeptTrees
from skyriver.train.memory import is_out_of_memory
from skyriver.train.parity import CLEAN, unusual
from skyriver.train.prequential import faded
from skyriver.train.search.looking import Look
from skyriver.train.search.study import Found
from skyriver.train.search.watch import Predict, Watch
from skyriver.train.slices import Scored, scored
from skyriver.train.split import Rows, Split, split_rows, validates

if TYPE_CHECKING:
    from skyriver.train.spread.fit import Spread

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
    """What came of it. `model_text` is the model in LightGBM's own text format, which compression starts from; None of
    another framework's."""

    onnx: bytes
    model_text: bytes | None
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
    spread: Spread | None = None,
    kept: KeptTrees | None = None,
) -> Trained:
    """Trains the model `spec` with the user's function `fit`, or with that of `spread` on its workers; `delay_us` is
    the label's delay, None for a table; `tell` takes what the function reports by step. `look` finds parameters where
    the spec declares a search. `kept`: where the trees of `data.boost` outlive this attempt.

    Raises InvalidInput where the data does not allow it (see `split_rows`) or the model cannot be served exactly (see
    `skyriver.train.fitted`), JobFailed with USER_ERROR where the function failed or returned no model, ONNX_DIFFERS and
    others where the ONNX model does not score as the trained one does (see `Parity`).
    """
    if spec.train is None:
        raise InvalidInput(
            f"The model {spec.name} is a ready file, there is nothing to train.",
            code="NOT_TRAINABLE",
            next_action="`skyriver deploy` takes a changed file in.",
        )
    fitting = _fitting(spec, spec.train, rows, fit, delay_us, seed, progress)
    split = fitting.split
    found = None if look is None else look(fitting, delay_us, params, progress)
    fitting.forget()
    if found is not None:
        params, fitting.watch = {**params, **found.best.params}, found.watch
    progress("fit", 0, len(split.train))
    begun = time.monotonic()
    cleaning = fit_cleaning(spec.train.clean, take(rows.x, split.train))
    data = replace(fitting.data(split.train, params, cleaning, fitting.watch, tell), kept=kept)
    export = Export(cleaning, rows.names, spec.train.function, compress=spec.compress is not None)
    unseen = take(rows.x, split.test), take(rows.x, split.validation)
    if spread is None:
        model = _call(spec.train, fit, data)
        fit_seconds = time.monotonic() - begun
        progress("convert", 0, 0)
        exported = export(model, *unseen)
    else:
        exported = spread.fit(data, export, *unseen)
        fit_seconds = time.monotonic() - begun
    onnx, calibrated = finish(spec, exported.onnx, cleaning, rows, split)
    progress("evaluate", 0, len(split.test))
    said = score(onnx, take(rows.x, split.test))
    metrics = evaluate(onnx, rows, split, spec.metrics, said)
    metrics["onnx_max_difference"] = exported.differs
    progress("examine", 0, 0)
    examined = examine(
        spec,
        rows,
        split,
        said,
        metrics,
        fit_on=None if spread is not None else lambda part: fitting(part, params, fitting.watch),
        fit_seconds=fit_seconds,
        seed=seed,
    )
    if examined is not None:
        metrics |= faded(examined.prequential)
    serving = None if champion is None or champion.x is None else scored(champion.onnx, take(champion.x, split.test))
    return Trained(
        onnx=onnx,
        model_text=exported.text,
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


def take_part(
    spec: ModelSpec,
    rows: Rows,
    fit: Callable[[TrainingData], Any],
    *,
    delay_us: int | None,
    params: Mapping[str, Any],
    seed: int,
    progress: Progress,
    look: Look,
) -> None:
    """Trials of the search of such a training, until there are none to do any more. Raises what `train` does."""
    assert spec.train is not None
    look.take_part(_fitting(spec, spec.train, rows, fit, delay_us, seed, progress), delay_us, params, progress)


def _fitting(
    spec: ModelSpec,
    training: TrainSpec,
    rows: Rows,
    fit: Callable[[TrainingData], Any],
    delay_us: int | None,
    seed: int,
    progress: Progress,
) -> _Fitting:
    progress("split", 0, 0)
    split = split_rows(training, rows, delay_us, validate=validates(spec, delay_us))
    return _Fitting(training, rows, split, fit, seed)


class _Fitting:
    """The user's function on some of the rows."""

    def __init__(
        self, spec: TrainSpec, rows: Rows, split: Split, fit: Callable[[TrainingData], Any], seed: int
    ) -> None:
        self.spec, self.rows, self.split, self.seed = spec, rows, split, seed
        self.watch = Watch()
        self._fit = fit
        self._kept: tuple[NDArray[np.int64], Cleaning, TrainingData] | None = None

    def __call__(self, part: NDArray[np.int64], params: Mapping[str, Any], watch: Watch) -> Predict:
        """What the model that it gives says of raw rows. The data of the part that was asked for last is kept."""
        if self._kept is None or self._kept[0] is not part:
            self._kept = None  # before the next ones are made
            made = fit_cleaning(self.spec.clean, take(self.rows.x, part))
            self._kept = part, made, self.data(part, {}, made, Watch())
        _, cleaning, data = self._kept
        model = _call(self.spec, self._fit, replace(data, params=dict(params), watch=watch))
        fitted = Export(cleaning, self.rows.names, self.spec.function, compress=False).recognised(model)

        def predict(x: NDArray[np.float32]) -> NDArray[np.float64]:
            try:
                return fitted.predict(cleaning.apply(x))
            except SkyriverError:
                raise
            except Exception as error:  # whatever the user's model throws
                raise JobFailed(
                    f"The model of {self.spec.function} failed on {len(x):,} rows: {error}",
                    code="USER_ERROR",
                    next_action=f"Return a model that scores any rows of these features. {CLEAN}",
                ) from error

        return predict

    def forget(self) -> None:
        """What it keeps of the rows."""
        self._kept = None

    def data(
        self, part: NDArray[np.int64], params: Mapping[str, Any], cleaning: Cleaning, watch: Watch, tell: Tell = untold
    ) -> TrainingData:
        data = TrainingData(
            x=read_only(cleaning.apply(take(self.rows.x, part))),
            y=read_only(take(self.split.labels, part)),
            names=self.rows.names,
            time=read_only(self.rows.time[part]),
            params=dict(params),
            seed=self.seed,
            watch=watch,
            tell=tell,
            weights=None if self.rows.weights is None else read_only(take(self.rows.weights, part)),
        )
        return prepared(self.spec, data)


def finish(spec: ModelSpec, onnx: bytes, cleaning: Cleaning, rows: Rows, split: Split) -> tuple[bytes, Calibrated]:
    """The model as the ONNX file that is released: with the cleaning before it, and in its metadata what the features
    are on average, which explains its scores, and the calibration."""
    means = by_column(take(rows.x, split.train), lambda c: np.mean(c), np.nan)
    known = [None if np.isnan(mean) else float(mean) for mean in means]
    onnx = with_metadata(cleaning.before(onnx), MEANS, json.dumps(known))
    return calibrate(spec.calibrate, onnx, rows, split)


def summarise(rows: Rows, split: Split, part: NDArray[np.int64]) -> PartSummary:
    times = rows.time[part]
    return int(times.min()), int(times.max()), len(part), int(split.labels[part].sum())


def _call(spec: TrainSpec, fit: Callable[[TrainingData], Any], data: TrainingData) -> object:
    try:
        model: object = fit(data)
    except SkyriverError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code throws is the user's to read
        if is_out_of_memory(error):
            raise JobFailed(
                f"There was not enough memory for {spec.function} with {len(data.x):,} rows of {len(data.names)}"
                f" features: {first_line(error)}.",
                code="OUT_OF_MEMORY",
                where=_place(error, fit),
                next_action="Let it take fewer rows at a time (half the batch size) or a smaller model, or train where"
                " there is more memory.",
            ) from error
        raise JobFailed(
            f"{spec.function} failed: {first_line(error)}.",
            code="USER_ERROR",
            where=_place(error, fit),
            next_action=lacking(error) or " ".join(_advice(data)),
        ) from error
    return model


def _advice(data: TrainingData) -> Iterator[str]:
    columns = unusual(data.x, data.names)
    if columns:
        yield f"If it takes no such values: {columns}. {CLEAN}"
    yield "Correct the function and deploy it; the log of the job has the traceback."


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
