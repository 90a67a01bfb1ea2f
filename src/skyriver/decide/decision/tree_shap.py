"""What each feature adds to the sum of boosted trees: Shapley values by the trees' own covers, in one walk over the
nodes ("path-dependent TreeSHAP", Lundberg and others, 2018).

Theory of operation. Of a leaf and a row, a feature i that its path asks for has an o_i, 1 where the row goes the path's
way at all of i's nodes, else 0, and an r_i, the share of the training's rows that do so, the product of cover(child) /
cover(node) at i's nodes. The leaf with the value v adds to i

    v (o_i - r_i)  integral over t in [0, 1] of  product over the path's other features j of (o_j t + r_j (1 - t))

for the integral of t^k (1 - t)^(d - 1 - k) is Shapley's weight of k among d features. It is a polynomial in t of at
most d - 1 degrees, so sums over ceil(d / 2) places of Gauss and Legendre give it exactly ("Linear TreeSHAP", Yu and
others, 2022, does the same with other places). All factors are positive: nothing cancels out.

At one place t, the product of a whole path grows edge by edge on the way down, and what leaves give is summed on the
way up, where each edge takes its part: that of its feature by its own o and r, less that by those of the edge above it
that asks the same feature. Of an edge and the one above it these o can be (0, 0), (0, 1) and (1, 1), so what an edge
multiplies by (`down`) and takes (`up`) is a table of three, made once. A row costs two multiplications for each edge
and place; four places are computed at a time, which are enough for paths of eight features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numba import types
from numpy.typing import NDArray

from skyriver.features.kernel import Function, Signatures, load_functions

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

PLACES: Final = 4
"""Of t, at a time."""
MOST_PATH: Final = 64
"""Different features on a path; more are not computed."""
MOST_NODES: Final = 2_000_000
"""A node takes some 200 bytes for each four places."""
_COVER_DIFFERS: Final = 1e-5
"""Covers are float32: those of two children may miss their sum by so much of it."""


class NoShares(Exception):
    """What each feature adds to these trees cannot be said, and why."""


@dataclass(frozen=True, slots=True)
class PathTable:
    """Nodes of some trees, a parent before its children, one tree after the other. `nodes` int32 [n, 5]: parent (-1: a
    tree's first), the edge above that asks the same feature (-1: none), the feature that the parent asks, whether a
    missing value comes here, and whether this is the parent's left. `cuts` float32 [n], the parent's; `values` float64
    [n], 0 but of leaves; `down` and `up` float64 [times, n, 3, PLACES]."""

    nodes: NDArray[np.int32]
    cuts: Floats
    values: Doubles
    down: Doubles
    up: Doubles


class TreeShares:
    """MUST be called by one thread at a time. `base` is the sum that is expected of a row of which nothing is known."""

    def __init__(self, tables: Sequence[PathTable], base: float, function: Function) -> None:
        self.base = base
        self._function = function
        self._tables = [
            (t.nodes, t.cuts, t.values, t.down, t.up, np.empty(len(t.nodes), np.int8), *_room(t)) for t in tables
        ]

    @classmethod
    def load(cls, given: dict[str, Any], features: int, kernels: Path) -> TreeShares:
        """Of the attributes of a TreeEnsembleRegressor. Raises NoShares, Unavailable (KERNEL_CACHE)."""
        tables, base = path_tables(given, features)
        return cls(tables, base, compile_shares(kernels))

    def __call__(self, row: Floats) -> Doubles:
        """float32 [F] -> float64 [F]: what each feature adds to `base`."""
        found = np.zeros(len(row))
        for table in self._tables:
            self._function(row, *table, found)
        return found


def _room(table: PathTable) -> tuple[Doubles, Doubles]:
    shape = (len(table.nodes), PLACES)
    return np.empty(shape), np.empty(shape)


def compile_shares(kernels: Path) -> Function:
    """A second of compiling is not to fall into a stream's work. Raises Unavailable (KERNEL_CACHE)."""
    functions, _ = load_functions(_SOURCE, _signatures(), kernels / "shares")
    return functions["shares"]


def path_tables(given: dict[str, Any], features: int) -> tuple[list[PathTable], float]:
    """Those of the trees that take equally many places, and the base. Raises NoShares."""
    trees = _Ensemble(given, features)
    alike: dict[int, list[_Tree]] = {}
    for root in trees.roots.tolist():
        tree = _Tree.of(trees, root)
        if len(tree.order) > 1:
            alike.setdefault(tree.times, []).append(tree)
    expected = sum(float(trees.value[root]) if trees.is_leaf[root] else 0.0 for root in trees.roots.tolist())
    tables = []
    for times, own in sorted(alike.items()):
        table, part = _table(trees, own, times)
        tables.append(table)
        expected += part
    return tables, expected + trees.base


def _table(trees: _Ensemble, alike: Sequence[_Tree], times: int) -> tuple[PathTable, float]:
    """And what is expected of their sum."""
    starts = np.repeat(np.cumsum([0, *(len(tree.order) for tree in alike[:-1])]), [len(tree.order) for tree in alike])
    order, above, before, share, together = (
        np.concatenate(columns)
        for columns in zip(*((t.order, t.above, t.before, t.share, t.together) for t in alike), strict=True)
    )
    above, before = (np.where(column >= 0, column + starts, -1) for column in (above, before))
    parent = order[np.maximum(above, 0)]
    is_left = (above >= 0) & (trees.left[parent] == order)
    nodes = [above, before, trees.feature[parent], is_left == trees.missing_left[parent], is_left]
    reached = np.ones(len(order))
    for node, own in enumerate(above.tolist()):
        if own >= 0:
            reached[node] = reached[own] * share[node]
    values = trees.value[order]
    down, up = _factors(before, together, times)
    table = PathTable(np.column_stack(nodes).astype(np.int32), trees.cut[parent], values, down, up)
    return table, float(np.sum(values * reached))


def _factors(before: Ints, together: Doubles, times: int) -> tuple[Doubles, Doubles]:
    places, weights = np.polynomial.legendre.leggauss(times * PLACES)
    t, w = (places + 1) / 2, weights / 2
    own = together[:, None, None]
    # Where no edge above asks the same feature, o and r are 1, and only the last two cases come.
    last = np.where(before >= 0, together[before], 1.0)[:, None, None]
    goes, went = np.array([0.0, 0.0, 1.0])[None, :, None], np.array([0.0, 1.0, 1.0])[None, :, None]
    factor, factor_before = goes * t + own * (1 - t), went * t + last * (1 - t)
    down = factor / factor_before
    up = w * ((goes - own) / factor - (went - last) / factor_before)
    shape = (len(before), 3, times, PLACES)
    return (
        np.ascontiguousarray(down.reshape(shape).transpose(2, 0, 1, 3)),
        np.ascontiguousarray(up.reshape(shape).transpose(2, 0, 1, 3)),
    )


@dataclass(frozen=True, slots=True)
class _Tree:
    """Its nodes, a parent before its children. `order`: their places in the ensemble; of each in this order: `above`,
    its parent, `before`, the edge above of the same feature (-1: none), the `share` of its parent's rows that come
    here, and the product of the shares along the edges of the same feature. `times` for its longest path."""

    order: Ints
    above: Ints
    before: Ints
    share: Doubles
    together: Doubles
    times: int

    @classmethod
    def of(cls, trees: _Ensemble, root: int) -> Self:
        """Raises NoShares."""
        order, above, before, share, together = [root], [-1], [-1], [1.0], [1.0]
        asked: list[dict[int, int]] = [{}]
        longest, place = 1, 0
        while place < len(order):
            node = order[place]
            for child in () if trees.is_leaf[node] else (int(trees.left[node]), int(trees.right[node])):
                feature, last = int(trees.feature[node]), asked[place].get(int(trees.feature[node]), -1)
                own = trees.cover[child] / trees.cover[node]
                asked.append({**asked[place], feature: len(order)})
                order.append(child)
                above.append(place)
                before.append(last)
                share.append(own)
                together.append(own * (together[last] if last >= 0 else 1.0))
                longest = max(longest, len(asked[-1]))
            place += 1
            if len(order) > trees.count or longest > MOST_PATH:
                raise NoShares("its trees are not whole" if longest <= MOST_PATH else f"a path asks {longest} features")
        times = -(-longest // (2 * PLACES))
        return cls(np.array(order), np.array(above), np.array(before), np.array(share), np.array(together), times)


class _Ensemble:
    """Nodes in columns, children by their place. Raises NoShares."""

    def __init__(self, given: dict[str, Any], features: int) -> None:
        sums = given.get("aggregate_function", b"SUM") == b"SUM" and given.get("post_transform", b"NONE") == b"NONE"
        if not sums or given.get("n_targets", 1) != 1 or any(given["target_ids"]):
            raise NoShares("its trees are not summed up")
        self.count = len(given["nodes_nodeids"])
        if self.count > MOST_NODES:
            raise NoShares(f"its trees have {self.count:,} nodes, and {MOST_NODES:,} are looked at")
        modes = np.array(given["nodes_modes"])
        self.is_leaf = modes == b"LEAF"
        if not (self.is_leaf | (modes == b"BRANCH_LEQ")).all():
            raise NoShares("its trees have other conditions than <=")
        cover = given.get("nodes_hitrates") or ()
        if len(cover) != self.count:
            raise NoShares("its trees do not say how many training rows came through each node")
        self.cover = np.array(cover, np.float64)
        self.feature = np.array(given["nodes_featureids"], np.int64)
        self.cut = np.array(given["nodes_values"], np.float32)
        missing = given.get("nodes_missing_value_tracks_true") or np.zeros(self.count)
        self.missing_left = np.array(missing, np.int64) > 0
        tree, node = np.array(given["nodes_treeids"], np.int64), np.array(given["nodes_nodeids"], np.int64)
        places = {own: place for place, own in enumerate(zip(tree.tolist(), node.tolist(), strict=True))}
        try:
            children = [given["nodes_truenodeids"], given["nodes_falsenodeids"]]
            self.left, self.right = (
                np.array([places[t, c] if inner else -1 for t, c, inner in zip(tree, side, ~self.is_leaf, strict=True)])
                for side in children
            )
            leaves = [places[own] for own in zip(given["target_treeids"], given["target_nodeids"], strict=True)]
        except KeyError:
            raise NoShares("its trees are not whole") from None
        self.value = np.zeros(self.count)
        np.add.at(self.value, leaves, np.array(given["target_weights"], np.float64))
        self.roots = np.setdiff1d(np.arange(self.count), np.concatenate([self.left, self.right]))
        if len(self.roots) != len(set(tree.tolist())):
            raise NoShares("its trees are not whole")
        self.base = float(sum(given.get("base_values") or ()))
        self._check(features)

    def _check(self, features: int) -> None:
        inner = np.flatnonzero(~self.is_leaf)
        if len(inner) and (self.feature[inner].min() < 0 or self.feature[inner].max() >= features):
            raise NoShares("its trees ask other features")
        both = self.cover[self.left[inner]] + self.cover[self.right[inner]]
        if (self.cover <= 0).any() or (np.abs(both - self.cover[inner]) > _COVER_DIFFERS * both).any():
            raise NoShares("its trees do not say how many training rows came through each node")


def _signatures() -> Signatures:
    def read(kind: Any, dimensions: int) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    single, double = types.float32, types.float64
    given = (read(single, 1), read(types.int32, 2), read(single, 1), read(double, 1), read(double, 4), read(double, 4))
    return {"shares": (*given, types.int8[::1], double[:, ::1], double[:, ::1], double[::1])}


_SOURCE = b'''\
"""Made by skyriver.decide.decision.tree_shap; made anew when it is lost or damaged."""

import numpy as np

U64 = np.uint64


def shares(row, nodes, cuts, values, down, up, came, product, total, found):
    count = nodes.shape[0]
    for node in range(U64(count)):
        parent = nodes[node, 0]
        if parent < 0:
            came[node] = 1
            continue
        value = row[U64(nodes[node, 2])]
        if value == value:
            here = (value <= cuts[node]) == (nodes[node, 4] != 0)
        else:
            here = nodes[node, 3] != 0
        last = nodes[node, 1]
        before = np.int8(1) if last < 0 else np.int8(came[U64(last)] & 1)
        # Bit 0: it goes this way at all nodes of the feature; bits 1 and 2: which of the three cases.
        goes = np.int8(here) & before
        came[node] = goes | ((goes + before) << 1)
    for time in range(U64(down.shape[0])):
        for node in range(U64(count)):
            parent = nodes[node, 0]
            value = values[node]
            if parent < 0:
                for q in range(U64(4)):
                    product[node, q] = 1.0
                    total[node, q] = value
                continue
            case = U64(came[node] >> 1)
            above = U64(parent)
            for q in range(U64(4)):
                grown = product[above, q] * down[time, node, case, q]
                product[node, q] = grown
                total[node, q] = value * grown
        for back in range(U64(count)):
            node = U64(count - 1) - back
            parent = nodes[node, 0]
            if parent < 0:
                continue
            case = U64(came[node] >> 1)
            above = U64(parent)
            part = 0.0
            for q in range(U64(4)):
                part += total[node, q] * up[time, node, case, q]
                total[above, q] += total[node, q]
            found[U64(nodes[node, 2])] += part
    return 0
'''
