"""Which rows a model is trained on and which it is judged by: never the same, and none that leaks the future.

A stream is split by effective time, the way the model will live. T is the newest effective time, d the label's delay:

    |<------------ train ------------->|<---- gap = d ---->|<------- test ------->|<- not yet known = d ->| T

Labels of the last d are not known yet. A model that starts work with the test could, the day before, only know labels
of events up to d earlier: hence the gap. A row without a label counts as 0 once its delay has passed (DESIGN 6.6).
A table has no time: a hash of the id decides, so that a row keeps its side when the table grows, or one of the `group`
of the row. Where the table has a column of times the last stretch of it can be held out; labels are known at once.

Compression chooses by a third, the validation part, which neither training nor test has seen: a model knows its
training rows by heart and looks perfect on them with a handful of trees. Probabilities are fitted on the same rows.
For a stream that is the gap, which costs nothing; a table, and a stream whose labels have no delay, give up a share of
their training part if one of the two is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import ModelSpec, TrainSpec
from skyriver.core.units import format_duration

VALIDATION_SHARE = 0.15
"""Of a training part without a gap behind it: what is kept back as validation part (a stream's: of its time)."""

_DAY = 86_400_000_000
_CLASSES = 4
"""So many values of a label are no mistakes of single rows."""


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows in log order (a table's in their order).

    `x` (n, F) float32, missing is NaN; `y` (n,) float32, 0 or 1, NaN where no label is known; `time` (n,) int64
    effective time in microseconds, ascending (zeros for a table); `ids` (n,) int64; `keys` the int64 columns (n,) that
    the model's metrics are `by`, and that the split of a table is.
    """

    names: tuple[str, ...]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    time: NDArray[np.int64]
    ids: NDArray[np.int64]
    keys: Mapping[str, NDArray[np.int64]]
    weights: NDArray[np.float32] | None = None
    """(n,), where a column of them is declared."""


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers, ascending. `labels` (n,) float32 is `y` with what counts as 0 filled in, NaN where not known.

    `validation`, in neither of the others, may be empty. For a stream, `known` are the rows whose labels are looked up
    when a metric asks which keys are known already: those of the test and of an equally long time before its gap, as
    in the handbook's protocol (older positives have been dealt with: a card was replaced). The test lies in
    [start, end).
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    labels: NDArray[np.float32]
    known: NDArray[np.int64]
    start: int
    end: int
    delay_us: int


def validates(model: ModelSpec, delay_us: int | None) -> bool:
    """Whether the model needs a validation part, or gets one for nothing."""
    costs_nothing = model.calibrate == "auto" and bool(delay_us)
    return model.compress is not None or model.calibrate in ("isotonic", "platt") or costs_nothing


def split_rows(spec: TrainSpec, rows: Rows, delay_us: int | None, *, validate: bool) -> Split:
    """`delay_us` is the label's delay, None for a table; `validate`: a validation part is wanted.

    Raises InvalidInput: BAD_LABEL for a label that is neither 0 nor 1, NOT_ENOUGH_DATA and ONE_CLASS saying what is
    there and what is needed.
    """
    _check_label(spec, rows, is_stream=delay_us is not None)
    if delay_us is not None:
        split = _by_time(spec, rows, delay_us, validate)
    else:
        split = _by_column(spec, rows, validate) if spec.time else _by_hash(spec, rows, validate)
    for part, numbers in (("training", split.train), ("test", split.test)):
        positives = int(split.labels[numbers].sum())
        if positives in (0, len(numbers)):
            value = int(positives > 0)
            others = int((split.labels == 1 - value).sum())
            rest = f" Of all {len(rows.y):,} rows {others:,} {'has' if others == 1 else 'have'} {1 - value}."
            raise InvalidInput(
                f"All {len(numbers):,} rows of the {part} part have {spec.label} = {value}.{rest}",
                code="ONE_CLASS",
                next_action="Load data with both outcomes, and labels that cover the whole period.",
            )
    return split


def settled(spec: TrainSpec, rows: Rows, delay_us: int) -> tuple[NDArray[np.float32], int]:
    """Of a stream: `y` with what counts as 0 filled in, and how many rows, the first ones, have labels that are known.
    Raises InvalidInput (BAD_LABEL)."""
    _check_label(spec, rows, is_stream=True)
    cut = int(rows.time[-1]) - delay_us if len(rows.time) else 0
    ended = int(np.searchsorted(rows.time, cut, side="right"))
    labels = rows.y.copy()
    known = labels[:ended]
    known[np.isnan(known)] = 0.0
    return labels, ended


def _check_label(spec: TrainSpec, rows: Rows, *, is_stream: bool) -> None:
    wrong = np.flatnonzero(~np.isnan(rows.y) & (rows.y != 0) & (rows.y != 1))
    if len(wrong):
        known = np.unique(rows.y[~np.isnan(rows.y)])
        again = "Send that label again: the last one counts. " if is_stream and len(known) < _CLASSES else ""
        ready = " One of several classes can be served as a ready file, app.model(NAME, onnx=FILE)."
        several = f", and has {len(known):,} different values" if len(known) >= _CLASSES else ""
        raise InvalidInput(
            f"The label {spec.label} must be 0 or 1{several}; {len(wrong):,} of {len(rows.y):,} rows have another"
            f" value, the first is {rows.y[wrong[0]]:g}, of the row {rows.ids[wrong[0]]} (its id, if that is a whole"
            " number).",
            code="BAD_LABEL",
            next_action=f"{again}A model tells one class from the rest: give it a label that is 1 for the one and 0 for"
            f" all others.{ready if several else ''} Features may sum labels of any numbers.",
        )


def _by_time(spec: TrainSpec, rows: Rows, delay_us: int, validate: bool) -> Split:
    last = int(rows.time[-1]) if len(rows.time) else 0
    cut, opens = last - delay_us, last - delay_us - spec.test_us
    learned, tested = np.searchsorted(rows.time, [opens - delay_us, opens], side="right")
    labels, ended = settled(spec, rows, delay_us)
    if learned == 0 or tested == ended:
        _too_short(spec, rows, delay_us)
    if validate and learned == tested:
        span = round(VALIDATION_SHARE * (opens - delay_us - int(rows.time[0])))
        learned = np.searchsorted(rows.time, opens - delay_us - span, side="right")
    before = np.searchsorted(rows.time, opens - delay_us - spec.test_us, side="right")
    return Split(
        train=np.arange(learned),
        validation=np.arange(learned, tested) if validate else np.empty(0, dtype=np.int64),
        test=np.arange(tested, ended),
        labels=labels,
        known=np.arange(before, ended),
        start=opens + 1,
        end=cut + 1,
        delay_us=delay_us,
    )


def _too_short(spec: TrainSpec, rows: Rows, delay_us: int) -> NoReturn:
    days = (int(rows.time[-1]) - int(rows.time[0])) / _DAY if len(rows.time) else 0.0
    needed = (2 * delay_us + spec.test_us) / _DAY
    raise InvalidInput(
        f"There are {days:.1f} days of events ({len(rows.time):,}), and more than {needed:g} are needed:"
        f" {format_duration(spec.test_us)} for the test, {format_duration(delay_us)} until the label {spec.label} is"
        f" known, as much between training and test, and what is left to train on.",
        code="NOT_ENOUGH_DATA",
        next_action="Load more history, or hold out less: @app.train(..., test=...).",
    )


def _by_hash(spec: TrainSpec, rows: Rows, validate: bool) -> Split:
    labelled = ~np.isnan(rows.y)
    place = hash_share(rows.keys[spec.group] if spec.group else rows.ids)
    border = spec.test_share + (VALIDATION_SHARE * (1 - spec.test_share) if validate else 0.0)
    test = np.flatnonzero(labelled & (place < spec.test_share))
    train = np.flatnonzero(labelled & (place >= border))
    if not len(test) or not len(train):
        raise InvalidInput(
            f"There are {int(labelled.sum()):,} rows with {spec.label}, of {len(rows.y):,}: too few for a training"
            " and a test part.",
            code="NOT_ENOUGH_DATA",
            next_action=f"Load more rows that have {spec.label}.",
        )
    return Split(
        train=train,
        validation=np.flatnonzero(labelled & (place >= spec.test_share) & (place < border)),
        test=test,
        labels=rows.y,
        known=np.empty(0, dtype=np.int64),
        start=0,
        end=1,
        delay_us=0,
    )


def _by_column(spec: TrainSpec, rows: Rows, validate: bool) -> Split:
    """Of a table by its own times, which are in no order. A group that is in the test is not trained on."""
    time = rows.keys[spec.time]
    labelled = ~np.isnan(rows.y)
    first, last = (int(time[labelled].min()), int(time[labelled].max())) if labelled.any() else (0, 0)
    opens = last - spec.test_us
    border = opens - round(VALIDATION_SHARE * (opens - first)) if validate else opens
    test = labelled & (time > opens)
    validation = labelled & (time > border) & ~test
    train = labelled & (time <= border)
    if spec.group:
        groups = rows.keys[spec.group]
        validation &= ~np.isin(groups, groups[test])
        train &= ~np.isin(groups, groups[test | validation])
    if not test.any() or not train.any() or (validate and not validation.any()):
        days = (last - first) / _DAY
        apart = f", of other {spec.group}s than those of the test" if spec.group else ""
        raise InvalidInput(
            f"There are {int(labelled.sum()):,} rows of {days:.1f} days with {spec.label}:"
            f" none is left to train on before the last {format_duration(spec.test_us)}{apart}.",
            code="NOT_ENOUGH_DATA",
            next_action="Load more history, or hold out less: @app.train(..., test=...).",
        )
    return Split(
        train=np.flatnonzero(train),
        validation=np.flatnonzero(validation),
        test=np.flatnonzero(test),
        labels=rows.y,
        known=np.empty(0, dtype=np.int64),
        start=0,
        end=1,
        delay_us=0,
    )


def hash_share(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """A fixed place in [0, 1) for each id (the finaliser of SplitMix64), even also for ids that count up."""
    z = ids.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
