"""Why a score is what it is: against LightGBM's own contributions, against Shapley's definition, and for nets."""

from __future__ import annotations

import json
import math
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skyriver.core.calibration import MEANS
from skyriver.core.spec import CleanSpec
from skyriver.decide.decision.reasons import Explainer
from skyriver.decide.decision.scorer import OnnxScorer
from skyriver.train.calibrate import with_metadata
from skyriver.train.cleaning import fit_cleaning
from skyriver.train.trees_onnx import Trees, read_lightgbm, to_onnx

Floats = NDArray[np.float32]


def _rows(n: int, features: int, seed: int = 0) -> tuple[Floats, Floats]:
    luck = np.random.default_rng(seed)
    x = luck.normal(size=(n, features)).astype(np.float32)
    x[luck.random(x.shape) < 0.08] = np.nan
    x[luck.random(x.shape) < 0.05] = 0.0
    z = np.nan_to_num(x)
    y = z[:, 0] * z[:, 1] + np.sin(2 * z[:, 2]) + np.isnan(x[:, 3]) + 0.5 * luck.normal(size=n) > 1
    return x, y.astype(np.float32)


def _boosted(x: Floats, y: Floats, trees: int = 100, **settings: Any) -> lightgbm.Booster:
    given = {"objective": "binary", "verbose": -1, "num_leaves": 31, "num_threads": 1, "seed": 1, **settings}
    return lightgbm.train(given, lightgbm.Dataset(x, y), trees)


def _names(count: int) -> list[str]:
    return [f"f{n}" for n in range(count)]


@pytest.mark.parametrize(
    ("features", "trees", "settings"),
    [
        (12, 100, {}),
        (20, 60, {"num_leaves": 63}),
        (40, 10, {"num_leaves": 255, "min_data_in_leaf": 2}),
        (4, 30, {"num_leaves": 3, "max_depth": 2}),
        (6, 20, {"use_missing": False}),
        (6, 20, {"objective": "regression"}),
        (6, 20, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}),
        (6, 20, {"sigmoid": 2.0}),
        (6, 20, {"bagging_freq": 1, "bagging_fraction": 0.5, "is_unbalance": True}),
    ],
)
def test_contributions_are_those_of_lightgbm(
    kernels: Path, features: int, trees: int, settings: dict[str, Any]
) -> None:
    x, y = _rows(8_000, features)
    booster = _boosted(x, y, trees, **settings)
    model = read_lightgbm(booster.model_to_string())
    explainer = Explainer.load(to_onnx(model), _names(features), kernels)
    assert (explainer.method, explainer.why) == ("TreeSHAP", "")
    assert explainer.unit == ("score" if settings.get("objective") == "regression" else "log-odds")
    asked = np.concatenate([x[:300], np.full((1, features), np.nan, np.float32), np.zeros((1, features), np.float32)])
    # LightGBM sums up the contributions of a random forest, whose score is the mean of its trees.
    scale = model.slope / (len(model.trees) if model.average else 1)
    expected = np.asarray(booster.predict(asked, pred_contrib=True)) * scale
    for row, wanted in zip(asked, expected, strict=True):
        found = explainer.explain(row.tobytes())
        np.testing.assert_allclose(found.contributions, wanted[:-1], atol=1e-6, rtol=0)
        assert found.base == pytest.approx(wanted[-1], abs=1e-6)


@pytest.mark.parametrize(
    "clean", [CleanSpec(fill="median"), CleanSpec(clip=(0.05, 0.95), fill="mean", scale=True), CleanSpec(scale=True)]
)
def test_the_models_own_cleaning_comes_before_its_trees(kernels: Path, clean: CleanSpec) -> None:
    x, y = _rows(5_000, 6)
    cleaning = fit_cleaning(clean, x)
    booster = _boosted(cleaning.apply(x), y, 30)
    data = cleaning.before(to_onnx(read_lightgbm(booster.model_to_string())))
    explainer = Explainer.load(data, _names(6), kernels)
    expected = np.asarray(booster.predict(cleaning.apply(x[:200]), pred_contrib=True))
    for row, wanted in zip(x[:200], expected, strict=True):
        np.testing.assert_allclose(explainer.explain(row).contributions, wanted[:-1], atol=1e-6, rtol=0)


def _brute_force(model: Trees, row: Floats) -> list[float]:
    """Shapley's definition: a feature that is not known is asked as often either way as the training's rows went."""

    def expected(known: frozenset[int]) -> float:
        def below(tree: Any, node: int) -> float:
            inner = len(tree.feature)
            if node < 0:
                return float(tree.leaf[~node])
            left, right, feature = int(tree.left[node]), int(tree.right[node]), int(tree.feature[node])
            if feature in known:
                value = float(row[feature])
                goes = tree.missing_left[node] if math.isnan(value) else value <= tree.threshold[node]
                return below(tree, left if goes else right)
            covers = [float(tree.cover[c if c >= 0 else inner + ~c]) for c in (left, right)]
            parts = covers[0] * below(tree, left) + covers[1] * below(tree, right)
            return parts / sum(covers)

        return sum(below(tree, 0 if len(tree.feature) else ~0) for tree in model.trees)

    count = model.features
    found = []
    for own in range(count):
        others = [f for f in range(count) if f != own]
        total = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - 1 - size) / math.factorial(count)
            for some in combinations(others, size):
                total += weight * (expected(frozenset({*some, own})) - expected(frozenset(some)))
        found.append(total)
    return found


def test_contributions_are_shapleys(kernels: Path) -> None:
    x, y = _rows(2_000, 5)
    model = read_lightgbm(_boosted(x, y, 6, num_leaves=12).model_to_string())
    explainer = Explainer.load(to_onnx(model), _names(5), kernels)
    for row in x[:12]:
        np.testing.assert_allclose(explainer.explain(row).contributions, _brute_force(model, row), atol=1e-6)


def test_they_add_up_to_the_score_and_are_the_same_again(kernels: Path, tmp_path: Path) -> None:
    x, y = _rows(4_000, 8)
    data = to_onnx(read_lightgbm(_boosted(x, y, 50).model_to_string()))
    (tmp_path / "m.onnx").write_bytes(data)
    scores = OnnxScorer.load(tmp_path / "m.onnx", 8, kernels).score(x[:50])
    one, other = (Explainer.load(data, _names(8), kernels) for _ in range(2))
    for row, score in zip(x[:50], scores.tolist(), strict=True):
        found = one.explain(row)
        assert 1 / (1 + math.exp(-found.base - found.contributions.sum())) == pytest.approx(score, abs=1e-6)
        assert other.explain(row).contributions.tobytes() == found.contributions.tobytes()
        assert one.reasons(row) == other.reasons(row.tobytes())


def test_covers_change_no_score_and_the_fast_sum_still_takes_such_trees(kernels: Path, tmp_path: Path) -> None:
    x, y = _rows(3_000, 6)
    x = np.nan_to_num(x)  # where a tree asks for nothing but whether a value is missing, the runtime sums
    data = to_onnx(read_lightgbm(_boosted(x, y, 20).model_to_string()))
    (tmp_path / "with.onnx").write_bytes(data)
    (tmp_path / "without.onnx").write_bytes(_without_covers(data))
    one, other = (OnnxScorer.load(tmp_path / f"{name}.onnx", 6, kernels) for name in ("with", "without"))
    assert one.sums_trees
    assert other.sums_trees
    assert one.score(x).tobytes() == other.score(x).tobytes()


def _without_covers(data: bytes, value: float | None = None) -> bytes:
    model = onnx.load_from_string(data)
    node = next(n for n in model.graph.node if n.op_type == "TreeEnsembleRegressor")
    (covers,) = [a for a in node.attribute if a.name == "nodes_hitrates"]
    if value is None:
        node.attribute.remove(covers)
    else:
        covers.floats[:] = [value] * len(covers.floats)
    found: bytes = model.SerializeToString()
    return found


@pytest.mark.parametrize("value", [None, 1.0, 0.0])
def test_trees_without_covers_say_why_and_nothing_else(kernels: Path, value: float | None) -> None:
    """1.0 is what converters write that do not know them."""
    x, y = _rows(2_000, 5)
    data = _without_covers(to_onnx(read_lightgbm(_boosted(x, y, 5).model_to_string())), value)
    explainer = Explainer.load(data, _names(5), kernels)
    assert explainer.why == "its trees do not say how many training rows came through each node."
    assert explainer.reasons(x[0]) == ()
    assert explainer.explain(x[0]).why == explainer.why


def test_a_model_of_one_leaf_has_no_reasons(kernels: Path) -> None:
    x, _ = _rows(500, 4)
    y = np.zeros(500, np.float32)
    y[0] = 1
    booster = _boosted(x, y, 2, min_data_in_leaf=400)
    model = read_lightgbm(booster.model_to_string())
    explainer = Explainer.load(to_onnx(model), _names(4), kernels)
    assert explainer.why == ""
    assert explainer.reasons(x[0]) == ()
    assert explainer.explain(x[0]).base == pytest.approx(sum(float(t.leaf[0]) for t in model.trees), abs=1e-6)


def test_what_a_person_reads(kernels: Path) -> None:
    x, y = _rows(4_000, 5)
    plain = to_onnx(read_lightgbm(_boosted(x, y, 30).model_to_string()))
    data = with_metadata(plain, MEANS, json.dumps([0.5, None, 0.25, 0, 0]))
    explainer = Explainer.load(data, _names(5), kernels, {"f0": "unlike before"})
    for row in x[:100]:
        reasons = explainer.reasons(row, top=3)
        assert [abs(r.contribution) for r in reasons] == sorted((abs(r.contribution) for r in reasons), reverse=True)
        contributions = dict(zip(_names(5), explainer.explain(row).contributions, strict=True))
        for reason in reasons:
            value = float(row[int(reason.feature[1])])
            assert reason.contribution == contributions[reason.feature]
            assert reason.value == (None if math.isnan(value) else value)
            verb = "raises" if reason.contribution > 0 else "lowers"
            usual = {"f0": " (on average 0.5)", "f1": "", "f2": " (on average 0.25)"}.get(
                reason.feature, " (on average 0)"
            )
            shown = "missing" if math.isnan(value) else f"{value:.6g}"
            own = reason.feature == "f0" and reason.contribution > 0
            assert reason.text == (
                "unlike before" if own else f"{reason.feature} is {shown}{usual} and {verb} the score"
            )


@pytest.mark.parametrize("text", ["", "[1]", '["a",1,1,1,1]', "[" * 400, "7", "null"])
def test_means_that_cannot_be_read_are_passed_over(kernels: Path, text: str) -> None:
    x, y = _rows(1_000, 5)
    data = with_metadata(to_onnx(read_lightgbm(_boosted(x, y, 5).model_to_string())), MEANS, text)
    explainer = Explainer.load(data, _names(5), kernels)
    assert explainer.means is None
    assert explainer.reasons(x[0])


def test_other_features_than_the_models_are_told(kernels: Path) -> None:
    x, y = _rows(1_000, 5)
    data = to_onnx(read_lightgbm(_boosted(x, y, 5).model_to_string()))
    explainer = Explainer.load(data, _names(5), kernels)
    assert explainer.explain(b"").why == "the record has 0 features, the model takes 5."
    assert explainer.reasons(np.zeros(4, np.float32)) == ()
    assert "other features" in Explainer.load(data, _names(2), kernels).why


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x01"])
def test_what_is_no_model_says_so(kernels: Path, data: bytes) -> None:
    explainer = Explainer.load(data, _names(3), kernels)
    assert explainer.why
    assert explainer.reasons(np.zeros(3, np.float32)) == ()


def _net(last: str, layers: tuple[int, ...] = (5, 16, 1), fill: bool = False) -> bytes:
    """Some smooth layers, and what comes last."""
    luck = np.random.default_rng(2)
    nodes, constants, place = [], [], "features"
    if fill:
        constants.append(numpy_helper.from_array(np.full(layers[0], 0.5, np.float32), "fill"))
        nodes += [
            helper.make_node("IsNaN", [place], ["gone"]),
            helper.make_node("Where", ["gone", "fill", place], ["full"]),
        ]
        place = "full"
    for n, (a, b) in enumerate(pairwise(layers)):
        constants.append(numpy_helper.from_array(luck.normal(size=(a, b)).astype(np.float32) / math.sqrt(a), f"w{n}"))
        nodes.append(helper.make_node("MatMul", [place, f"w{n}"], [f"m{n}"]))
        place = f"m{n}"
        if b > 1:
            nodes.append(helper.make_node("Tanh", [place], [f"t{n}"]))
            place = f"t{n}"
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes += [helper.make_node("Squeeze", [place, "axis"], ["flat"]), helper.make_node(last, ["flat"], ["score"])]
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", layers[0]])
    output = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "net", [given], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found: bytes = model.SerializeToString()
    return found


@pytest.mark.parametrize(("last", "unit"), [("Sigmoid", "log-odds"), ("Identity", "score"), ("Softplus", "score")])
def test_integrated_gradients_add_up(kernels: Path, last: str, unit: str) -> None:
    data = with_metadata(_net(last), MEANS, json.dumps([0.1, 0.2, 0.3, 0.4, 0.5]))
    explainer = Explainer.load(data, _names(5), kernels)
    assert (explainer.method, explainer.unit) == ("integrated gradients", unit)
    for row in np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32):
        found = explainer.explain(row)
        assert found.why == ""
        assert abs(found.residual) < 2e-3
        assert explainer.reasons(row) == explainer.reasons(row)
        assert len(explainer.reasons(row, top=2)) == 2


def test_a_linear_model_is_explained_exactly(kernels: Path) -> None:
    data = _net("Identity", (5, 1))
    weights = numpy_helper.to_array(onnx.load_from_string(data).graph.initializer[0])[:, 0]
    row = np.array([1, -2, 0, 3, 4], np.float32)
    found = Explainer.load(data, _names(5), kernels).explain(row)
    np.testing.assert_allclose(found.contributions, weights * row, atol=1e-4)
    assert found.base == 0


def test_what_is_missing_adds_what_its_being_missing_changes(kernels: Path) -> None:
    data = _net("Identity", (5, 1), fill=True)
    weights = numpy_helper.to_array(onnx.load_from_string(data).graph.initializer[1])[:, 0]
    row = np.array([1, np.nan, 0, np.nan, 4], np.float32)
    found = Explainer.load(data, _names(5), kernels).explain(row)
    filled = np.array([1, 0.5, 0, 0.5, 4])
    np.testing.assert_allclose(found.contributions, weights * filled, atol=1e-4)
    assert abs(found.residual) < 1e-4


def test_a_net_that_gives_no_number_or_is_too_rough_says_why(kernels: Path) -> None:
    row = np.array([1, np.nan, 0, 3, 4], np.float32)
    assert Explainer.load(_net("Identity"), _names(5), kernels).explain(row).why
    rough = Explainer.load(_net("Round"), _names(5), kernels)
    asked = np.random.default_rng(0).normal(scale=3, size=(20, 5)).astype(np.float32)
    missed = [rough.explain(row) for row in asked]
    assert any(found.why for found in missed)
    assert all(rough.reasons(row) == () for row, found in zip(asked, missed, strict=True) if found.why)
