"""XGBoost's boosted trees, of its JSON model format, as our own `Trees`.

Theory of operation. XGBoost compares float32 with float32: a row goes left where `x < t`. That is `x <= f` with f the
float32 just below t, so no row can take another branch. What is missing goes to the node's default side. Its score is
the sum of the leaves and of `base_score`, which it keeps as a score: of a probability the log-odds are added.

Refused by name: linear boosters, DART (its trees have weights that only its own sum knows), categorical splits, several
classes or targets, and objectives with another output than a probability or the raw sum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from skyriver.core.errors import InvalidInput
from skyriver.train.fitted.fitted import refuse_model
from skyriver.train.trees_onnx import Tree, Trees

_PROBABILITY: Final = frozenset({"binary:logistic", "reg:logistic"})
_RAW: Final = frozenset(
    {"reg:squarederror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror", "binary:logitraw"}
)


def read_xgboost(text: bytes) -> Trees:
    """Of what `Booster.save_raw("json")` gives. Raises InvalidInput (UNSUPPORTED_MODEL, BAD_MODEL)."""
    try:
        learner = json.loads(text)["learner"]
        _check(learner)
        return _read(learner)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InvalidInput(
            f"The XGBoost model cannot be read: {type(error).__name__}: {error}",
            code="BAD_MODEL",
            next_action="Train it with XGBoost 2 or newer.",
        ) from None


def _check(learner: Mapping[str, Any]) -> None:
    booster = learner["gradient_booster"]["name"]
    if booster != "gbtree":
        refuse_model(f'it has the booster "{booster}"', 'Train with booster="gbtree", the default.')
    if not learner["gradient_booster"]["model"]["trees"]:
        refuse_model("it has no trees", "Train at least one round.")
    param = learner["learner_model_param"]
    classes, targets = int(param.get("num_class", 0)), int(param.get("num_target", 1))
    if classes > 1 or targets > 1:
        several = f"{classes} classes" if classes > 1 else f"{targets} targets"
        refuse_model(f"it has {several}", "Train one model for one class against the rest.")
    objective = learner["objective"]["name"]
    if objective not in _PROBABILITY | _RAW:
        refuse_model(
            f"it has the objective {objective}", 'Train with objective "binary:logistic" or "reg:squarederror".'
        )
    for tree in learner["gradient_booster"]["model"]["trees"]:
        if any(tree.get("split_type", ())) or tree.get("categories"):
            refuse_model(
                "it has categorical splits", "Give the feature as a number, or one yes/no feature for each value."
            )


def _read(learner: Mapping[str, Any]) -> Trees:
    output: Literal["probability", "raw"]
    output = "probability" if learner["objective"]["name"] in _PROBABILITY else "raw"
    base = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
    if output == "probability":
        base = math.log(base) - math.log1p(-base)
    return Trees(
        features=int(learner["learner_model_param"]["num_feature"]),
        trees=tuple(_tree(body) for body in learner["gradient_booster"]["model"]["trees"]),
        output=output,
        base=base,
        zero_band=False,
    )


def _tree(body: Mapping[str, Any]) -> Tree:
    """Its nodes in columns, the inner ones and the leaves numbered apart; what pruning left behind is left out."""
    left, right = np.array(body["left_children"], np.int64), np.array(body["right_children"], np.int64)
    reached, ahead = np.zeros(len(left), np.bool_), [0]
    while ahead:
        node = ahead.pop()
        reached[node] = True
        ahead += [int(child) for child in (left[node], right[node]) if child != -1]
    is_leaf, is_inner = reached & (left == -1), reached & (left != -1)
    number = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(is_inner) - 1)
    inner = np.flatnonzero(is_inner)
    value = np.array(body["split_conditions"], np.float32)
    cover = np.array(body["sum_hessian"], np.float64)
    return Tree(
        feature=np.array(body["split_indices"], np.int64)[inner],
        threshold=np.nextafter(value[inner], np.float32(-np.inf)).astype(np.float64),
        missing_left=np.array(body["default_left"], np.int64)[inner] != 0,
        left=number[left[inner]],
        right=number[right[inner]],
        leaf=value[is_leaf].astype(np.float64),
        cover=np.concatenate([cover[inner], cover[is_leaf]]),
    )
