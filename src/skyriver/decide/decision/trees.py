"""The sum of boosted trees, faster than the runtime's and with the same bits.

Theory of operation. A tree is not walked. Its leaves stand in the order of their nodes, the left ones first, each with
a bit; a condition that does not hold rules out the leaves on its left, and the leaf of a row is the first that none has
ruled out ("QuickScorer", Lucchese and others, 2015). Which conditions on a feature do not hold depends only on where
its value lies among all thresholds on it, so a table has, for each feature and each place, what is left of every tree.
A row takes one line of the table for each feature, what is left by all of them is their conjunction, and its leaves'
values are added as the runtime adds them: in the order of the trees, as float32.

That is for the operator TreeEnsembleRegressor where it reads the model's input and is one sum; what follows it in the
graph is left to the runtime. Others, trees of more than 64 leaves and those that read many features (more than
32, or 16 with more than 32 leaves: `ROW_BYTES`) are the runtime's, and so is a model whose sample rows (`sample`) do
not get the same bits from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from skyriver.features.kernel import Function, Signatures, load_functions

Floats = NDArray[np.float32]

MOST_LEAVES: Final = 64
TABLE_BYTES: Final = 16 << 20
ROW_BYTES: Final = 128
"""Of what a row reads for each tree, over all its features: with 192 a walk costs as much."""
SAMPLE_ROWS: Final = 1_024
_SUPPORTED: Final = frozenset(
    {
        "aggregate_function", "base_values", "n_targets", "nodes_falsenodeids", "nodes_featureids", "nodes_hitrates",
        "nodes_missing_value_tracks_true", "nodes_modes", "nodes_nodeids", "nodes_treeids", "nodes_truenodeids",
        "nodes_values", "post_transform", "target_ids", "target_nodeids", "target_treeids", "target_weights",
    }
)  # fmt: skip


class Unfit(Exception):
    """These trees are left to the runtime."""


@dataclass(frozen=True, slots=True)
class TreeTable:
    """`places` int64 [features that are read, 5]: feature, from which to which cut are its own, its first line, and the
    line of a missing value. `lines` uint32 or uint64 [lines, trees]:
    what is left of each tree; `leaves` float32 [trees, bits of a line]."""

    places: NDArray[np.int64]
    cuts: Floats
    lines: NDArray[Any]
    leaves: Floats
    base: np.float32


class TreeSums:
    def __init__(self, table: TreeTable, function: Function) -> None:
        self.table = table
        self._function = function

    @classmethod
    def load(cls, table: TreeTable, kernels: Path) -> TreeSums:
        """Raises Unavailable (KERNEL_CACHE)."""
        return cls(table, _compiled(table.lines.itemsize, kernels))

    def __call__(self, features: Floats) -> Floats:
        """float32 [n, F] -> float32 [n, 1]."""
        table, found = self.table, np.empty((len(features), 1), np.float32)
        self._function(
            np.ascontiguousarray(features), table.places, table.cuts, table.lines, table.leaves, table.base, found
        )
        return found


def compile_sums(kernels: Path) -> None:
    """What models with trees need, into `kernels`: a second of compiling is not to fall into a stream's work. Raises
    Unavailable (KERNEL_CACHE)."""
    for line in (np.uint32, np.uint64):
        _compiled(np.dtype(line).itemsize, kernels)


def split_model(data: bytes, features: int) -> tuple[TreeTable, bytes]:
    """The trees of a model, and the model of what follows them. Raises Unfit."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    trees = [node for node in graph.node if node.op_type == "TreeEnsembleRegressor"]
    readers = [node for node in graph.node if "features" in node.input]
    inner = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    if len(trees) != 1 or readers != trees or inner or len(graph.node) < 2:
        raise Unfit("the graph is another")
    (node,) = trees
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    table = _table(given, features)
    raw = node.output[0]
    graph.node.remove(node)
    kept = [value for value in graph.input if value.name != "features"]
    del graph.input[:]
    del graph.value_info[:]
    graph.input.extend([onnx.helper.make_tensor_value_info(raw, onnx.TensorProto.FLOAT, ["n", 1]), *kept])
    return table, model.SerializeToString()


def sample(table: TreeTable, features: int) -> Floats:
    """Rows that fall on thresholds, just beside them, far from them, and have missing values."""
    luck = np.random.default_rng(0)
    rows = luck.normal(0.0, 100.0, (SAMPLE_ROWS, features)).astype(np.float32)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    for feature, first, last, _, _ in table.places.tolist():
        cuts = table.cuts[first:last]
        near = np.concatenate([cuts, np.nextafter(cuts, odd[1]), np.nextafter(cuts, odd[2])])
        chosen = luck.choice(near, SAMPLE_ROWS)
        rows[:, feature] = np.where(luck.random(SAMPLE_ROWS) < 0.1, luck.choice(odd, SAMPLE_ROWS), chosen)
    return rows


def _table(given: dict[str, Any], features: int) -> TreeTable:
    sums = given.get("aggregate_function", b"SUM") == b"SUM" and given.get("post_transform", b"NONE") == b"NONE"
    if not sums or given.get("n_targets") != 1 or any(given["target_ids"]) or given.keys() - _SUPPORTED:
        raise Unfit("it is no plain sum")
    trees = _trees(given)
    most = max(len(tree.leaves) for tree in trees)
    line = np.dtype(np.uint32 if most <= 32 else np.uint64)
    whole = (1 << 8 * line.itemsize) - 1
    read: dict[int, list[tuple[np.float32, int, int, bool]]] = {}
    for number, tree in enumerate(trees):
        for feature, cut, start, end, missing_left in tree.conditions:
            left = whole ^ (((1 << (end - start)) - 1) << start)
            read.setdefault(feature, []).append((cut, number, left, missing_left))
    cuts_of = {feature: np.unique(np.array([c[0] for c in found], np.float32)) for feature, found in read.items()}
    count = sum(len(cuts) + 2 for cuts in cuts_of.values())
    if not read or max(read) >= features or min(read) < 0:
        raise Unfit("its features are others")
    if len(read) * line.itemsize > ROW_BYTES or count * len(trees) * line.itemsize > TABLE_BYTES:
        raise Unfit("its table is too large")
    lines = np.full((count, len(trees)), whole, line)
    places, at, first = [], 0, 0
    for feature, cuts in sorted(cuts_of.items()):
        end, last = at + len(cuts) + 1, first + len(cuts)
        for cut, number, left, missing_left in read[feature]:
            lines[at + int(np.searchsorted(cuts, cut)) + 1, number] &= line.type(left)
            if not missing_left:
                lines[end, number] &= line.type(left)
        np.bitwise_and.accumulate(lines[at:end], axis=0, out=lines[at:end])
        places.append((feature, first, last, at, end))
        at, first = end + 1, last
    leaves = np.zeros((len(trees), 8 * line.itemsize), np.float32)
    for number, tree in enumerate(trees):
        leaves[number, : len(tree.leaves)] = tree.leaves
    base = np.float32(sum(given.get("base_values", ())))
    cuts = np.concatenate([cuts for _, cuts in sorted(cuts_of.items())])
    return TreeTable(np.array(places, np.int64), cuts, lines, leaves, base)


@dataclass(frozen=True, slots=True)
class _Tree:
    """`conditions`: feature, threshold, the leaves from which to which are on the left, and whether a missing value
    goes there."""

    leaves: list[float]
    conditions: list[tuple[int, np.float32, int, int, bool]]


def _trees(given: dict[str, Any]) -> list[_Tree]:
    """In the order in which they come."""
    count = len(given["nodes_nodeids"])
    missing = given.get("nodes_missing_value_tracks_true") or [0] * count
    columns = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    rows = zip(*(given[f"nodes_{column}"] for column in columns), missing, strict=True)
    nodes: dict[int, dict[int, tuple[Any, ...]]] = {}
    for tree, node, *rest in rows:
        nodes.setdefault(tree, {})[node] = tuple(rest)
    weights = zip(given["target_treeids"], given["target_nodeids"], given["target_weights"], strict=True)
    values = {(tree, node): weight for tree, node, weight in weights}
    leaves = sum(mode == b"LEAF" for mode in given["nodes_modes"])
    if len(values) != len(given["target_weights"]) or len(values) != leaves or sum(map(len, nodes.values())) != count:
        raise Unfit("a node is there twice, or a leaf without a value")
    return [_tree(own, {node: values.get((tree, node)) for node in own}) for tree, own in nodes.items()]


def _tree(nodes: dict[int, tuple[Any, ...]], values: dict[int, float | None]) -> _Tree:
    found = _Tree([], [])

    def add(node: int, above: int) -> None:
        mode, feature, cut, left, right, missing = nodes[node]
        value = values[node]
        if mode == b"LEAF" and value is not None and len(found.leaves) < MOST_LEAVES:
            found.leaves.append(value)
        elif mode == b"BRANCH_LEQ" and above < MOST_LEAVES and np.isfinite(cut):
            start = len(found.leaves)
            add(left, above + 1)
            found.conditions.append((feature, np.float32(cut), start, len(found.leaves), bool(missing)))
            add(right, above + 1)
        else:
            raise Unfit("it has other or more nodes")

    add(next(iter(nodes)), 0)
    if len(found.leaves) + len(found.conditions) != len(nodes):
        raise Unfit("it is no tree")
    return found


def _compiled(line_bytes: int, kernels: Path) -> Function:
    source = _SOURCE.replace("BITS", str(8 * line_bytes)).encode()
    functions, _ = load_functions(source, _signatures(8 * line_bytes), kernels / "trees")
    return functions["sums"]


def _signatures(bits: int) -> Signatures:
    def read(kind: Any, dimensions: int) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    line, single = getattr(types, f"uint{bits}"), types.float32
    given = (read(single, 2), read(types.int64, 2), read(single, 1), read(line, 2), read(single, 2), single)
    return {"sums": (*given, types.float32[:, ::1])}


_SOURCE = '''\
"""Made by skyriver.decide.decision.trees; made anew when it is lost or damaged."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LINE, U64 = np.uintBITS, np.uint64


@intrinsic
def first_bit(typing, line):
    def count(context, builder, signature, given):
        word, flag = ir.IntType(BITS), ir.IntType(1)
        zeros = builder.module.declare_intrinsic("llvm.cttz", [word], ir.FunctionType(word, [word, flag]))
        return builder.call(zeros, [given[0], flag(1)])

    return types.uintBITS(types.uintBITS), count


def sums(features, places, cuts, lines, leaves, base, found):
    trees = lines.shape[1]
    left = np.empty(trees, LINE)
    for row in range(U64(features.shape[0])):
        left[:] = ~LINE(0)
        for place in range(U64(places.shape[0])):
            value = features[row, U64(places[place, 0])]
            line = U64(places[place, 4])
            if value == value:
                # All of them: a search by halves branches by the value, which the processor cannot foresee.
                passed = np.int32(0)
                for cut in range(U64(places[place, 1]), U64(places[place, 2])):
                    passed += np.int32(cuts[cut] < value)
                line = U64(places[place, 3]) + U64(passed)
            for tree in range(U64(trees)):
                left[tree] &= lines[line, tree]
        total = np.float32(0)
        for tree in range(U64(trees)):
            total += leaves[tree, U64(first_bit(left[tree]))]
        found[row, 0] = total + base
    return 0
'''
