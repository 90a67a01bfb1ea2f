"""Trees of scikit-learn, read into our own, so that rows part at their thresholds to the last bit.

scikit-learn compares a float32 row with float64 thresholds by `<=`, as LightGBM does (`skyriver.train.trees_onnx`).
Read here are single trees and forests, and boosting on histograms, which skl2onnx 1.20 cannot write. All others are
left to skl2onnx. What is read is in part private to scikit-learn: the parity on the test rows says whether it still is
as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skyriver.train.trees_onnx import Tree, Trees


def read_sklearn(model: Any, *, classifies: bool) -> Trees | None:
    """None where it is no such model."""
    from sklearn import ensemble, tree

    single = tree.DecisionTreeClassifier | tree.DecisionTreeRegressor
    forest = ensemble.RandomForestClassifier | ensemble.RandomForestRegressor
    extra = ensemble.ExtraTreesClassifier | ensemble.ExtraTreesRegressor
    boosted = ensemble.HistGradientBoostingClassifier | ensemble.HistGradientBoostingRegressor
    features = int(model.n_features_in_) if hasattr(model, "n_features_in_") else 0
    if isinstance(model, single | forest | extra):
        parts = model.estimators_ if isinstance(model, forest | extra) else [model]
        trees = tuple(_tree(part.tree_, 1 if classifies else 0) for part in parts)
        return Trees(features, trees, "raw", average=True, zero_band=False)
    if isinstance(model, boosted) and (classifies or model.loss in ("squared_error", "absolute_error", "quantile")):
        nodes = [predictor.nodes for (predictor,) in model._predictors]
        if any(of["is_categorical"].any() for of in nodes):
            return None
        output = "probability" if classifies else "raw"
        base = float(np.ravel(model._baseline_prediction)[0])
        return Trees(features, tuple(map(_boosted, nodes)), output, base=base, zero_band=False)  # type: ignore[arg-type]
    return None


def _tree(tree: Any, column: int) -> Tree:
    left, right = tree.children_left.astype(np.int64), tree.children_right.astype(np.int64)
    return _columns(
        left,
        right,
        left == -1,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left,
        value=tree.value[:, 0, column],
        cover=tree.weighted_n_node_samples,
    )


def _boosted(nodes: Any) -> Tree:
    return _columns(
        nodes["left"].astype(np.int64),
        nodes["right"].astype(np.int64),
        nodes["is_leaf"] != 0,
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"],
        missing_left=nodes["missing_go_to_left"],
        value=nodes["value"],
        cover=nodes["count"],
    )


def _columns(left: Any, right: Any, is_leaf: Any, **of: Any) -> Tree:
    """Of all nodes in columns: the inner ones and the leaves numbered apart."""
    number = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    return Tree(
        feature=of["feature"][~is_leaf].astype(np.int64),
        threshold=of["threshold"][~is_leaf].astype(np.float64),
        missing_left=of["missing_left"][~is_leaf] != 0,
        left=number[left[~is_leaf]],
        right=number[right[~is_leaf]],
        leaf=of["value"][is_leaf].astype(np.float64),
        cover=np.concatenate([of["cover"][~is_leaf], of["cover"][is_leaf]]).astype(np.float64),
    )
