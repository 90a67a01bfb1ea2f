"""Whether the ONNX model scores as the trained one does, on rows that it will meet.

How far they may lie apart. Trees: 1e-5, for their jumps must be where they are. A net or a linear model is a continuous
function that both compute in float32, each with rounding errors of its own; what these make of the score no exporter
can help, and a net on unscaled numbers makes much of them. Computing a sum of products in floating point gives the
exact result for inputs that are off by a few units in their last bits (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, 3.1): so they may lie as far apart as the trained model's own scores do when its inputs are moved by
16 such units, at most 1e-3. Of scores beyond 1 the difference is relative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed
from skyriver.train.cleaning import Cleaning
from skyriver.train.evaluate import BLOCK_ROWS, run_blocks, score
from skyriver.train.fitted import Fitted
from skyriver.train.fitted.fitted import first_line

MAX_DIFFERENCE: Final = 1e-5
"""By how much the ONNX model may differ from the trained one on any test row."""
MAX_ROUNDING: Final = 1e-3
"""However much a net makes of rounding errors."""
_LIKE_ROUNDING: Final = 1e-2
"""What lies further apart, no scaling of features will mend."""
_MOVED: Final = 2.0**-20
"""16 units in the last place of a float32."""
_SINGLY: Final = 16
"""Rows that are also scored one by one."""
CLEAN: Final = (
    '@app.train(..., clean=sr.Clean(fill="median")) fills what is missing, clip=(0.001, 0.999) bounds the rest.'
)

_NO_NUMBERS: Final = (
    "Take smaller steps, if training has made its weights no numbers any more; else bound what it takes logarithms or"
    " roots of, or divides by."
)

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parity:
    """Of the model that `function` returned, which takes features `names` that `cleaning` has cleaned."""

    fitted: Fitted
    cleaning: Cleaning
    names: Sequence[str]
    function: str

    def check(self, onnx: bytes, x: NDArray[np.float32]) -> float:
        """The largest difference on the rows `x`, which the ONNX model cleans by itself. Raises JobFailed: BAD_SCORES,
        ONNX_DIFFERS, ROWS_DEPEND."""
        cleaned = self.cleaning.apply(x)
        expected = self.scores(cleaned)
        found = furthest(expected, score(onnx, x))
        allowed = MAX_DIFFERENCE
        if not found <= allowed and self.fitted.continuous:
            allowed = self._rounding(cleaned, expected)
        if not found <= allowed:
            raise self._failed(
                "ONNX_DIFFERS",
                f"The ONNX form of the {self.fitted.framework} model differs from the trained one by {found:.2g} on the"
                f" test rows ({allowed:.1g} is allowed).",
                self._remedy(cleaned, expected, found),
            )
        if self.fitted.continuous:  # trees know no batch
            self._check_alone(onnx, x[:_SINGLY], expected, allowed)
        return found

    def scores(self, x: NDArray[np.float32]) -> Scores:
        """What the trained model says of cleaned rows. Raises JobFailed (BAD_SCORES) where it does not score some."""
        columns = unusual(x, self.names)
        told = f" ({columns})" if columns else ""
        remedy = CLEAN if columns else _NO_NUMBERS
        try:
            found = self._predict(x)
        except Exception as error:  # whatever the framework throws
            raise self._failed(
                "BAD_SCORES",
                f"The {self.fitted.framework} model cannot score rows that it was not trained on{told}:"
                f" {first_line(error)}",
                remedy,
            ) from error
        if len(found) != len(x):
            what = f"gives {len(found):,} scores for {len(x):,} rows"
            raise self._failed(
                "BAD_SCORES", f"The {self.fitted.framework} model {what}.", "Return one that gives one each."
            )
        if wrong := int((~np.isfinite(found)).sum()):
            what = f"gives no number for {wrong:,} of {len(x):,} rows that it was not trained on{told}"
            raise self._failed("BAD_SCORES", f"The {self.fitted.framework} model {what}.", remedy)
        return found

    def _predict(self, x: NDArray[np.float32]) -> Scores:
        blocks = [self.fitted.predict(x[start : start + BLOCK_ROWS]) for start in range(0, len(x), BLOCK_ROWS)]
        return np.concatenate([np.empty(0), *blocks])

    def _rounding(self, x: NDArray[np.float32], expected: Scores) -> float:
        """What differs from one call to the next with the same rows is chance, and no rounding allows it."""
        if furthest(expected, self._predict(x)) > MAX_DIFFERENCE:
            return MAX_DIFFERENCE
        luck = np.random.default_rng(0)
        moved = np.where(luck.random(x.shape) < 0.5, x * np.float32(1 - _MOVED), x * np.float32(1 + _MOVED))
        return min(MAX_ROUNDING, max(MAX_DIFFERENCE, furthest(expected, self._predict(moved))))

    def _check_alone(self, onnx: bytes, x: NDArray[np.float32], expected: Scores, allowed: float) -> None:
        """A row's score must not depend on the rows beside it: it is served alone, and among others."""
        apart = furthest(expected[: len(x)], np.concatenate([np.empty(0), *run_blocks(onnx, x, block=1)]))
        if not apart <= allowed:
            raise self._failed(
                "ROWS_DEPEND",
                f"The {self.fitted.framework} model scores a row otherwise by {apart:.2g} when others stand beside it.",
                "Leave out what computes across the rows of a batch, as x - x.mean(0); clean= scales by training rows.",
            )

    def _remedy(self, x: NDArray[np.float32], expected: Scores, found: float) -> str:
        if self.fitted.framework in ("LightGBM", "XGBoost"):
            return "Report it, with the parameters of the training."
        if self.fitted.continuous and furthest(expected, self._predict(x)) > MAX_DIFFERENCE:
            return (
                "Its scores of the same rows differ from one call to the next: leave out what changes or draws random"
                " numbers when it infers, as dropout(training=True)."
            )
        if self.fitted.continuous and not found < _LIKE_ROUNDING:
            return "Its export is wrong: report it, with what the model is made of."
        if self.fitted.continuous:
            return (
                "Scale the features: @app.train(..., clean=sr.Clean(scale=True)). Else its export is wrong: report it."
            )
        return (
            "Leave out what scales in front of trees, which need none, or scale by clean=; LightGBM's trees are exact."
        )

    def _failed(self, code: str, message: str, next_action: str) -> JobFailed:
        return JobFailed(message, code=code, where=self.function, next_action=next_action)


def difference(
    predict: Callable[[NDArray[np.float32]], Scores], onnx: bytes, x: NDArray[np.float32], *, cleaning: Cleaning
) -> float:
    """The largest distance between the scores of the ONNX model, which cleans by itself, and what `predict` says of
    cleaned rows."""
    return furthest(predict(cleaning.apply(x)), score(onnx, x))


def furthest(expected: Scores, found: NDArray[Any]) -> float:
    """NaN on both sides is the same, on one of them infinitely far."""
    same = (np.isnan(expected) & np.isnan(found)) | (expected == found)
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.max(np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart)), initial=0.0))


def unusual(x: NDArray[np.float32], names: Sequence[str]) -> str:
    """Which columns of the rows have missing values or infinities, the worst ones first; "" where none has."""
    missing, infinite = np.isnan(x).sum(axis=0), np.isinf(x).sum(axis=0)
    places = [
        place for place in np.argsort(-(missing + infinite), kind="stable").tolist() if missing[place] + infinite[place]
    ]
    told = []
    for place in places[:3]:
        what = [f"{n:,} {word}" for n, word in ((missing[place], "missing"), (infinite[place], "infinite")) if n]
        told.append(f"{names[place]} has {' and '.join(what)} of {len(x):,}")
    more = [f"{len(places) - 3} more columns"] if len(places) > 3 else []
    return "; ".join([*told, *more])
