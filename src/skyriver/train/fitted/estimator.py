"""A scikit-learn estimator or pipeline: its trees by our own reader (`sklearn_trees`), all others by skl2onnx.

skl2onnx computes in float32 what scikit-learn computes in float64. Whether that matters is not guessed: the parity on
the test rows decides (docs/decisions/0061-frameworks.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed
from skyriver.train.fitted.fitted import Fitted, as_scores, first_line, refuse_model
from skyriver.train.fitted.graph import FEATURES, scoring_graph
from skyriver.train.fitted.recognise import not_a_model, not_fitted
from skyriver.train.fitted.sklearn_trees import read_sklearn
from skyriver.train.packages import package
from skyriver.train.trees_onnx import to_onnx as trees_to_onnx

_NAMES = "X does not have valid feature names"
"""Said where it was fitted on a data frame: its columns are those of data.x, in their order."""

_MOST_QUANTILES: Final = 100
"""skl2onnx takes 10 s to write down so many, and minutes for the 1,000 that are scikit-learn's default."""


@dataclass(frozen=True, slots=True)
class Sklearn:
    estimator: Any
    features: int
    classifies: bool
    continuous: bool
    framework: str = "scikit-learn"

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NAMES, UserWarning)
            if self.classifies:
                return as_scores(self.estimator.predict_proba(x)[:, 1])
            return as_scores(self.estimator.predict(x))

    def to_onnx(self) -> bytes:
        trees = read_sklearn(self.estimator, classifies=self.classifies)
        return trees_to_onnx(trees) if trees is not None else self._converted()

    def text(self) -> bytes | None:
        return None

    def _converted(self) -> bytes:
        skl2onnx = package("skl2onnx", "sklearn", "The ONNX form of a scikit-learn estimator")
        from skl2onnx.common.data_types import FloatTensorType

        options = {id(self.estimator): {"zipmap": False}} if self.classifies else None
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(skl2onnx|onnx)\b")
                made = skl2onnx.to_onnx(
                    self.estimator, initial_types=[(FEATURES, FloatTensorType([None, self.features]))], options=options
                )
        except Exception as error:  # the exporter's errors share no base but Exception
            refuse_model(
                f"skl2onnx cannot export it ({first_line(error)})",
                "Return an estimator that it knows (LogisticRegression, RandomForestClassifier, MLPClassifier,"
                " HistGradientBoostingClassifier, a Pipeline of those), or LightGBM's; clean= scales and fills.",
            )
        output = made.graph.output[-1].name  # of a classifier the label comes first
        return scoring_graph(made, self.features, output, column=1 if self.classifies else None)


def of_sklearn(model: Any, features: int) -> Fitted:
    """A classifier of two classes, whose score is the probability of label 1, or a regressor. Raises JobFailed
    (USER_ERROR), InvalidInput (UNSUPPORTED_MODEL)."""
    from sklearn.base import BaseEstimator, is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(model).__name__
    if not isinstance(model, BaseEstimator):
        raise not_a_model(model, "scikit-learn", "Return the fitted estimator.")
    if not (is_classifier(model) or is_regressor(model)):
        refuse_model(f"{name} is neither a classifier nor a regressor", "Return one, or a Pipeline that ends in one.")
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise not_fitted(model) from None
    _check_quantiles(model)
    own = int(getattr(model, "n_features_in_", features))
    if is_classifier(model):
        _check_classes(model, name)
    else:
        _check_one_output(model, own)
    return Sklearn(model, own, is_classifier(model), not _jumps(model))


def _check_classes(model: Any, name: str) -> None:
    classes = getattr(model, "classes_", None)
    if isinstance(classes, list) or getattr(model, "multilabel_", False):
        refuse_model("it has several outputs", "Train one model for one of them.")
    known = [] if classes is None else list(classes)
    if len(known) != 2:
        several = "only one class" if len(known) == 1 else f"{len(known)} classes"
        refuse_model(
            f"it knows {several}", "Train on data.y, which is 0 or 1; of several classes one against the rest."
        )
    if not (known[0] == 0 and known[1] == 1):
        refuse_model(f"its classes are {known[0]!r} and {known[1]!r}", "Train on data.y as it is: 0 or 1.")
    if not hasattr(model, "predict_proba"):
        refuse_model(
            f"{name} gives no probabilities",
            "Return CalibratedClassifierCV(estimator), fitted, or LogisticRegression.",
        )


def _check_quantiles(model: Any) -> None:
    for part in _parts(model):
        count = getattr(part, "n_quantiles_", 0)
        if type(part).__name__ == "QuantileTransformer" and count > _MOST_QUANTILES:
            refuse_model(
                f"it has a QuantileTransformer of {count:,} quantiles, which skl2onnx takes minutes to export",
                f"Give it n_quantiles={_MOST_QUANTILES} at most, or leave it out: clean= bounds and scales.",
            )


def _check_one_output(model: Any, features: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NAMES, UserWarning)
            shape = np.shape(model.predict(np.zeros((3, features), np.float32)))
    except Exception as error:  # whatever a user's estimator throws
        raise JobFailed(
            f"The {type(model).__name__} that the training function returned cannot predict: {first_line(error)}",
            code="USER_ERROR",
            next_action="Fit it on data.x, an array of float32.",
        ) from error
    if shape not in ((3,), (3, 1)):
        refuse_model("it has several outputs", "Train one model for one of them.")


def _jumps(model: Any) -> bool:
    """Whether there are trees or neighbours in it: a score may jump where a feature hardly moves."""
    jump = ("tree", "forest", "gb", "gradient_boosting", "neighbors", "discret")
    return any(word in type(part).__module__ for part in _parts(model) for word in jump)


def _parts(model: Any) -> Iterator[Any]:
    """It, and all estimators in it."""
    from sklearn.base import BaseEstimator

    seen: set[int] = set()
    left = [model]
    while left:
        value = left.pop()
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            value = value.ravel().tolist()
        if isinstance(value, list | tuple):
            left.extend(value)
        elif isinstance(value, BaseEstimator) and id(value) not in seen:
            seen.add(id(value))
            yield value
            left.extend(vars(value).values())
