"""Boosted trees, of LightGBM and of XGBoost: read into our own trees, whose ONNX form routes every row as they do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.train.fitted.fitted import Fitted, as_scores, refuse_model
from skyriver.train.fitted.recognise import not_a_model, not_fitted
from skyriver.train.fitted.xgboost_trees import read_xgboost
from skyriver.train.trees_onnx import Trees, read_lightgbm, to_onnx


@dataclass(frozen=True, slots=True)
class LightGBM:
    booster: Any
    framework: str = "LightGBM"
    continuous: bool = False

    @property
    def features(self) -> int:
        return int(self.booster.num_feature())

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return as_scores(self.booster.predict(x))

    def to_onnx(self) -> bytes:
        return to_onnx(read_lightgbm(self._text()))

    def text(self) -> bytes | None:
        return self._text().encode()

    def _text(self) -> str:
        return str(self.booster.model_to_string())  # up to the best iteration, as `predict` does


@dataclass(frozen=True, slots=True)
class XGBoost:
    booster: Any
    trees: Trees
    framework: str = "XGBoost"
    continuous: bool = False

    @property
    def features(self) -> int:
        return self.trees.features

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        import xgboost

        return as_scores(self.booster.predict(xgboost.DMatrix(x, feature_names=self.booster.feature_names)))

    def to_onnx(self) -> bytes:
        return to_onnx(self.trees)

    def text(self) -> bytes | None:
        return None


def of_lightgbm(model: Any) -> Fitted:
    """A Booster or an estimator of LightGBM's scikit-learn interface. Raises JobFailed (USER_ERROR)."""
    import lightgbm  # 0.4 s and 60 MB that the other jobs of this process kind do not need

    if not isinstance(model, lightgbm.Booster):
        if not isinstance(model, lightgbm.LGBMModel):
            raise not_a_model(model, "LightGBM", "Return the Booster that lightgbm.train(...) gives.")
        if getattr(model, "fitted_", False) is not True:
            raise not_fitted(model)
        if getattr(model, "n_classes_", 2) > 2:
            refuse_model(f"it has {model.n_classes_} classes", "Train one model for one class against the rest.")
        model = model.booster_
    return LightGBM(model)


def of_xgboost(model: Any) -> Fitted:
    """A Booster or an estimator of XGBoost's scikit-learn interface. Raises JobFailed (USER_ERROR), InvalidInput
    (UNSUPPORTED_MODEL)."""
    import xgboost

    if not isinstance(model, xgboost.Booster):
        if not isinstance(model, xgboost.XGBModel):
            raise not_a_model(model, "XGBoost", "Return the Booster that xgboost.train(...) gives.")
        if not model.__sklearn_is_fitted__():
            raise not_fitted(model)
        if not (isinstance(model.missing, float) and math.isnan(model.missing)):
            refuse_model(f"it takes {model.missing!r} for missing", "Leave out missing=: a missing value is NaN.")
        model = model.get_booster()
        best = model.attributes().get("best_iteration")
        if best is not None:  # the estimator predicts by its best rounds, a Booster by all of them
            model = model[: int(best) + 1]
    return XGBoost(model, read_xgboost(bytes(model.save_raw("json"))))
