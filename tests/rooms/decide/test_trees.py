"""Trees summed by table, beside ONNX Runtime: the same bits, or it is the runtime that sums them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skyriver.decide.decision import scorer as scorer_module
from skyriver.decide.decision import trees as module
from skyriver.decide.decision.scorer import OnnxScorer
from skyriver.decide.decision.trees import sample, split_model
from skyriver.train.trees_onnx import read_lightgbm, to_onnx

WIDE = 5


def both(path: Path, data: bytes, kernels: Path) -> tuple[OnnxScorer, OnnxScorer]:
    path.write_bytes(data)
    return OnnxScorer.load(path, WIDE, kernels), OnnxScorer.load(path, WIDE)


def trained(leaves: int, trees: int = 20, seed: int = 0) -> bytes:
    luck = np.random.default_rng(seed)
    rows = luck.normal(size=(4_000, WIDE)).round(2)
    rows[luck.random(rows.shape) < 0.1] = np.nan
    label = (np.nan_to_num(rows).sum(1) * luck.random(4_000) > 0.3).astype(int)
    settings = {"objective": "binary", "num_leaves": leaves, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    return to_onnx(read_lightgbm(lightgbm.train(settings, lightgbm.Dataset(rows, label), trees).model_to_string()))


def grown(seed: int, mode: str = "BRANCH_LEQ", targets: int = 1, **more: Any) -> bytes:
    """Trees of random shapes over numbers of very different size: each order of their sum has other bits."""
    luck = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_modes", "nodes_featureids", "nodes_values", "nodes_truenodeids",
            "nodes_falsenodeids", "nodes_missing_value_tracks_true", "target_treeids", "target_nodeids", "target_ids",
            "target_weights",
        )
    }  # fmt: skip

    def add(tree: int, node: int, kind: str, left: int = 0, right: int = 0) -> None:
        cut = float(np.float32(luck.choice([0.0, 1e-40, luck.normal(), luck.normal() * 1e30])))
        values = (tree, node, kind, int(luck.integers(WIDE)), cut, left, right, int(luck.integers(2)))
        for name, value in zip(list(columns)[:8], values, strict=True):
            columns[name].append(value)
        if kind == "LEAF":
            weight = float(np.float32(luck.normal() * 10.0 ** luck.integers(-8, 8)))
            for name, value in zip(list(columns)[8:], (tree, node, node % targets, weight), strict=True):
                columns[name].append(value)

    for tree in range(int(luck.integers(1, 40))):
        inner, free, following = int(luck.integers(0, 40)), [0], 1
        for _ in range(inner):
            node = free.pop(int(luck.integers(len(free))))
            add(tree, node, mode, following, following + 1)
            free += [following, following + 1]
            following += 2
        for node in free:
            add(tree, node, "LEAF")
        first = columns["nodes_treeids"].index(tree)
        assert columns["nodes_nodeids"][first] == 0  # the root comes first
    node = helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["sums"], domain="ai.onnx.ml", n_targets=targets, **columns, **more
    )
    total = helper.make_node("ReduceSum", ["sums", "axis"], ["total"], keepdims=0)
    nodes = [node, total, helper.make_node("Mul", ["total", "part"], ["score"])]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("part", TensorProto.FLOAT, [], [0.25]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def rows_of(data: bytes, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    luck = np.random.default_rng(seed)
    near = sample(split_model(data, WIDE)[0], WIDE)
    far = (luck.normal(size=near.shape) * 10.0 ** luck.integers(-40, 38, near.shape)).astype(np.float32)
    return np.where(luck.random(near.shape) < 0.7, luck.permutation(near), far)


@pytest.mark.parametrize("seed", range(40))
def test_random_trees_get_the_bits_of_the_runtime(tmp_path: Path, kernels: Path, seed: int) -> None:
    more = {"base_values": [0.37]} if seed % 3 == 0 else {}
    data = grown(seed, **more)
    ours, theirs = both(tmp_path / "m.onnx", data, kernels)
    assert ours.sums_trees
    assert not theirs.sums_trees
    rows = rows_of(data, seed)
    assert np.isnan(rows).any()
    for count in (1_024, 1_000, 513, 129, 17, 3, 2, 1):
        assert np.array_equal(ours.score(rows[:count]), theirs.score(rows[:count]), equal_nan=True)


@pytest.mark.parametrize("leaves", [31, 33, 63])
def test_trained_trees_get_the_bits_of_the_runtime(tmp_path: Path, kernels: Path, leaves: int) -> None:
    data = trained(leaves)
    ours, theirs = both(tmp_path / "m.onnx", data, kernels)
    assert ours.sums_trees
    rows = rows_of(data, leaves)
    scores = ours.score(rows)
    assert len(np.unique(scores)) > 100
    assert np.array_equal(scores, theirs.score(rows))
    assert np.array_equal(ours.score(rows[::2]), theirs.score(rows[::2]))  # not contiguous


def test_what_the_table_cannot_hold_is_left_to_the_runtime(
    tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (
        trained(100),
        grown(1, mode="BRANCH_GT"),
        grown(1, targets=2),
        grown(1, aggregate_function="AVERAGE"),
        grown(1, post_transform="LOGISTIC"),
    ):
        ours, theirs = both(tmp_path / "m.onnx", data, kernels)
        assert not ours.sums_trees
        rows = np.ones((3, WIDE), np.float32)
        assert np.array_equal(ours.score(rows), theirs.score(rows))
    for limit in ("TABLE_BYTES", "ROW_BYTES"):
        with monkeypatch.context() as lower:
            lower.setattr(module, limit, 4)
            assert not both(tmp_path / "m.onnx", trained(31), kernels)[0].sums_trees


def test_a_model_that_reads_its_features_elsewhere_too_is_left_to_the_runtime(tmp_path: Path, kernels: Path) -> None:
    model = onnx.load_from_string(grown(3))
    model.graph.node[1].output[0] = "sum"
    model.graph.node.insert(2, helper.make_node("ReduceMax", ["features"], ["most"], axes=[1], keepdims=0))
    model.graph.node.insert(3, helper.make_node("Add", ["sum", "most"], ["total"]))
    ours, _ = both(tmp_path / "m.onnx", model.SerializeToString(), kernels)
    assert not ours.sums_trees


def test_a_sum_with_other_bits_is_not_used(tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scorer_module.split_model

    def other(data: bytes, features: int) -> Any:
        table, rest = real(data, features)
        np.nextafter(table.leaves[:, :1], np.float32(np.inf), out=table.leaves[:, :1])
        return table, rest

    monkeypatch.setattr(scorer_module, "split_model", other)
    ours, theirs = both(tmp_path / "m.onnx", trained(31), kernels)
    assert not ours.sums_trees
    rows = np.ones((3, WIDE), np.float32)
    assert np.array_equal(ours.score(rows), theirs.score(rows))


def test_a_folder_that_cannot_be_written_leaves_the_trees_to_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    ours, _ = both(tmp_path / "m.onnx", trained(31), tmp_path / "file")
    assert not ours.sums_trees
