"""Boosted trees as an ONNX graph that routes every row exactly as LightGBM does, and the reader of LightGBM's text.

Theory of operation. LightGBM compares float64 thresholds with the row, we serve float32 rows. For a float32 x and a
float64 t, `x <= t` holds exactly when `x <= f`, where f is the largest float32 not above t; so each threshold is
rounded *down*, not to nearest, and no row can take another branch (what LightGBM takes for zero is seen to in
`split_points`). What is left is the rounding of float32 leaf sums
(some 1e-7 of the score), which the training job measures on its test rows.

What is missing (NaN) goes, node by node, where LightGBM sends it: to the default side where the node was trained with
missing values, else where 0 goes. What this graph cannot say exactly is refused, not approximated: categorical
splits, zero-as-missing, linear leaves, several classes, and objectives with another output than a probability or
the raw sum (docs/decisions/0003-trees-to-onnx.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from skyriver.core.errors import InvalidInput

IR_VERSION: Final = 10
OPSET: Final = 21
ML_OPSET: Final = 3

_PROBABILITY: Final = frozenset({"binary", "cross_entropy"})
_RAW: Final = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})

# Bits of a node's decision_type in LightGBM's model text.
_CATEGORICAL: Final = 1
_DEFAULT_LEFT: Final = 2
_ZERO: Final = np.float32(1e-35)
_MISSING_NONE, _MISSING_ZERO, _MISSING_NAN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Tree:
    """Inner nodes 0..m-1 in columns, leaves 0..m. A child >= 0 is an inner node, else it is the leaf ~child."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    """Where NaN goes, the node's kind of missing values worked in."""
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    leaf: NDArray[np.float64]
    cover: NDArray[np.int64] | NDArray[np.float64] | None
    """How many training rows came through each inner node, then to each leaf, or what they weigh; None: not known."""


@dataclass(frozen=True, slots=True)
class Trees:
    """A boosted model: score = output(base + slope * sum of the trees' leaves), or of their mean where `average`."""

    features: int
    trees: tuple[Tree, ...]
    output: Literal["probability", "raw"]
    slope: float = 1.0
    average: bool = False
    base: float = 0.0
    zero_band: bool = True
    """LightGBM's own: all that is nearer to zero than 1e-35 is zero. Else a threshold is what it says."""

    def first(self, count: int) -> Trees:
        return replace(self, trees=self.trees[:count])


def read_lightgbm(text: str) -> Trees:
    """The model in LightGBM's text format (`Booster.model_to_string`).

    Raises InvalidInput: UNSUPPORTED_MODEL for what cannot be served exactly, BAD_MODEL for what is no such text.
    """
    head, *rest = text.split("\nTree=")
    header = _fields(head)
    if not head.startswith("tree\n") or "max_feature_idx" not in header:
        raise InvalidInput(
            "This is no LightGBM model text.",
            code="BAD_MODEL",
            next_action="Give what save_model or model_to_string of LightGBM writes.",
        )
    if header.get("num_class") != "1" or header.get("num_tree_per_iteration") != "1":
        _unsupported("several classes", "Train one model for one class against the rest.")
    objective, *options = header.get("objective", "").split()
    output: Literal["probability", "raw"]
    slope = 1.0
    if objective in _PROBABILITY:
        output = "probability"
        slope = float(dict(o.split(":") for o in options if ":" in o).get("sigmoid", "1"))
    elif objective in _RAW and "sqrt" not in options:
        output = "raw"
    else:
        _unsupported(f"the objective {objective or '(none)'}", 'Train with objective "binary" or "regression".')
    try:
        trees = tuple(_read_tree(body.split("\nend of trees")[0]) for body in rest)
        features = int(header["max_feature_idx"]) + 1
    except (KeyError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"The LightGBM model text is damaged: {error}",
            code="BAD_MODEL",
            next_action="Save the model again with LightGBM.",
        ) from None
    return Trees(features, trees, output, slope, average="average_output" in head.splitlines())


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _read_tree(text: str) -> Tree:
    fields = _fields(text)
    if fields.get("is_linear", "0") != "0":
        _unsupported("linear trees", "Train without linear_tree.")
    leaf = np.array(fields["leaf_value"].split(), dtype=np.float64)
    inner = {k: fields.get(k, "") if len(leaf) == 1 else fields[k] for k in _COLUMNS}
    decision = np.array(inner["decision_type"].split(), dtype=np.int64)
    threshold = np.array(inner["threshold"].split(), dtype=np.float64)
    left, right = (np.array(inner[side].split(), dtype=np.int64) for side in ("left_child", "right_child"))
    if len(leaf) == 1:  # a tree that found nothing to split
        decision, threshold, left, right = decision[:0], threshold[:0], left[:0], right[:0]
    if np.any(decision & _CATEGORICAL):
        _unsupported("categorical splits", "Give the feature as a number, or one yes/no feature for each value.")
    missing, default_left = (decision >> 2) & 3, (decision & _DEFAULT_LEFT) > 0
    if np.any(missing == _MISSING_ZERO):
        _unsupported("zero taken as missing", "Train without zero_as_missing; a missing value is NaN.")
    return Tree(
        feature=np.array(inner["split_feature"].split(), dtype=np.int64)[: len(decision)],
        threshold=threshold,
        missing_left=np.where(missing == _MISSING_NAN, default_left, threshold >= 0.0),
        left=left,
        right=right,
        leaf=leaf,
        cover=_read_cover(fields, len(decision)),
    )


def _read_cover(fields: Mapping[str, str], inner: int) -> NDArray[np.int64] | None:
    found = np.array([*fields.get("internal_count", "").split(), *fields.get("leaf_count", "").split()], np.float64)
    if inner == 0:
        return np.ones(1, np.int64)
    return found.astype(np.int64) if len(found) == 2 * inner + 1 else None


_COLUMNS: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")


def _unsupported(what: str, next_action: str) -> NoReturn:
    raise InvalidInput(
        f"The trained model cannot be served exactly: it has {what}.", code="UNSUPPORTED_MODEL", next_action=next_action
    )


def round_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each value."""
    with np.errstate(over="ignore"):  # beyond float32: infinity, then the largest float32 below it
        nearest = values.astype(np.float32)
        below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > values, below, nearest)


def split_points(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each threshold t the float32 f with: LightGBM sends a float32 x left exactly when x <= f.

    LightGBM takes all of [-1e-35, 1e-35] for zero, so those values stay together on the side where zero goes.
    """
    beside_zero = np.where(thresholds >= 0, _ZERO, np.nextafter(-_ZERO, np.float32(-np.inf)))
    return np.where(np.abs(thresholds) <= float(_ZERO), beside_zero, round_down(thresholds))


def to_onnx(model: Trees) -> bytes:
    """One graph: `features` float32 [n, features] -> `score` float32 [n]."""
    nodes = [
        _ensemble(model, "raw", targets=np.zeros(len(model.trees), dtype=np.int64), count=1),
        helper.make_node("Squeeze", ["raw", "axis"], ["score" if model.output == "raw" else "sum"]),
    ]
    if model.output == "probability":
        nodes.append(helper.make_node("Sigmoid", ["sum"], ["score"]))
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    return _graph(nodes, model.features, helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]), [axis])


def steps_to_onnx(model: Trees) -> bytes:
    """What each tree adds to the raw sum: `features` float32 [n, features] -> `steps` float32 [n, trees].

    A running sum along the second axis is the raw score of every shorter model, for one walk over the trees.
    """
    count = len(model.trees)
    node = _ensemble(model, "steps", targets=np.arange(count), count=count)
    return _graph([node], model.features, helper.make_tensor_value_info("steps", TensorProto.FLOAT, ["n", count]), [])


def _graph(nodes: list[Any], features: int, output: Any, constants: list[Any]) -> bytes:
    source = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])
    graph = helper.make_graph(nodes, "trees", [source], [output], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="skyriver")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _ensemble(model: Trees, output: str, *, targets: NDArray[np.int64], count: int) -> Any:
    """The trees as one TreeEnsembleRegressor; tree i adds to target targets[i]."""
    scale = model.slope / (len(model.trees) if model.average else 1)
    columns: dict[str, list[Any]] = {}
    for i, tree in enumerate(model.trees):
        for name, values in _tree_columns(tree, i, int(targets[i]), scale, zero_band=model.zero_band).items():
            columns.setdefault(name, []).append(values)
    if all(tree.cover is not None for tree in model.trees):
        # What the operator has a place for, and the runtime passes over: contributions of features are computed by it.
        columns["nodes_hitrates"] = [np.asarray(tree.cover, np.float32) for tree in model.trees]
    attributes: dict[str, Any] = {n: np.concatenate(parts).tolist() for n, parts in columns.items()}
    if model.base:
        attributes["base_values"] = [model.base] * count
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        [output],
        domain="ai.onnx.ml",
        n_targets=count,
        aggregate_function="SUM",
        post_transform="NONE",
        **attributes,
    )


def _tree_columns(tree: Tree, number: int, target: int, scale: float, *, zero_band: bool) -> Mapping[str, NDArray[Any]]:
    """The operator's attribute columns for one tree: inner nodes keep their numbers, leaf j becomes m + j."""
    m, leaves = len(tree.feature), len(tree.leaf)
    empty = np.zeros(leaves, dtype=np.int64)
    points = split_points(tree.threshold) if zero_band else round_down(tree.threshold)

    def child(side: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([np.where(side >= 0, side, m + ~side), empty])

    return {
        "nodes_treeids": np.full(m + leaves, number),
        "nodes_nodeids": np.arange(m + leaves),
        "nodes_featureids": np.concatenate([tree.feature, empty]),
        "nodes_values": np.concatenate([points, empty.astype(np.float32)]),
        "nodes_modes": np.array(["BRANCH_LEQ"] * m + ["LEAF"] * leaves),
        "nodes_truenodeids": child(tree.left),
        "nodes_falsenodeids": child(tree.right),
        "nodes_missing_value_tracks_true": np.concatenate([tree.missing_left.astype(np.int64), empty]),
        "target_treeids": np.full(leaves, number),
        "target_nodeids": np.arange(m, m + leaves),
        "target_ids": np.full(leaves, target),
        "target_weights": (tree.leaf * scale).astype(np.float32),
    }
