"""By which framework an object was made, without importing any that is not loaded already."""

from __future__ import annotations

from typing import Any

from skyriver.core.errors import JobFailed
from skyriver.train.fitted.fitted import Fitted

KNOWN = "LightGBM, XGBoost, scikit-learn, PyTorch or Keras"


def recognise(model: Any, features: int) -> Fitted:
    """The `model` that a training function returned, of rows of `features` numbers.

    Raises JobFailed (USER_ERROR) for what is no model, is not fitted or takes other features, InvalidInput
    (UNSUPPORTED_MODEL, MISSING_PACKAGE) for what cannot be served, with the nearest thing that can.
    """
    found = _of_framework(model, features)
    if found.features != features:
        raise JobFailed(
            f"The training function returned a model of {found.features} features, the data has {features}.",
            code="USER_ERROR",
            next_action="Train on data.x with all its columns, in their order.",
        )
    return found


def _of_framework(model: Any, features: int) -> Fitted:
    # Keras on torch is a torch module too, and the boosters' estimators are scikit-learn's: these come first.
    roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "lightgbm" in roots:
        from skyriver.train.fitted.boosted import of_lightgbm

        return of_lightgbm(model)
    if "xgboost" in roots:
        from skyriver.train.fitted.boosted import of_xgboost

        return of_xgboost(model)
    if "keras" in roots:
        from skyriver.train.fitted.keras_model import of_keras

        return of_keras(model, features)
    if "torch" in roots:
        from skyriver.train.fitted.torch_module import of_torch

        return of_torch(model, features)
    if "sklearn" in roots:
        from skyriver.train.fitted.estimator import of_sklearn

        return of_sklearn(model, features)
    raise JobFailed(
        f"The training function returned {type(model).__name__}, not a model.",
        code="USER_ERROR",
        next_action=f"Return the fitted model, of {KNOWN}.",
    )


def not_a_model(model: Any, framework: str, wanted: str) -> JobFailed:
    return JobFailed(
        f"The training function returned {framework}'s {type(model).__name__}, not a model.",
        code="USER_ERROR",
        next_action=wanted,
    )


def not_fitted(model: Any) -> JobFailed:
    return JobFailed(
        f"The {type(model).__name__} that the training function returned is not fitted.",
        code="USER_ERROR",
        next_action="Call its fit(data.x, data.y) before you return it.",
    )
