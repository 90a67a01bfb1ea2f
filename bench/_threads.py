"""What a second thread brings to the scoring of a stream's worker: rows a second on one thread and on two.

    python bench/_threads.py [--rounds 15] [--quick]

Trees and networks of several sizes, batches of 64 to 4,096 rows; one thread and two take turns, the fastest run of each
counts (other work on the machine only makes runs slower). Trees are summed by the worker's own kernel where it takes
them, else by the runtime. A second thread takes a stretch of the rows, as the worker has it, or is the runtime's own.
Prints one JSON document. Two cores must be free, else it measures who else is there: `load` says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skyriver.decide.decision.scorer import OnnxScorer, open_session
from skyriver.decide.decision.stretches import Threads

Floats = NDArray[np.float32]
Score = Callable[[Floats], Floats]
BATCHES = (64, 256, 1_024, 4_096)
LEAST_S = 0.02
"""That a run takes, of as many batches as it needs."""
FEATURES = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    given = parser.parse_args()
    rounds = 5 if given.quick else given.rounds
    models = {
        "200 trees of 32 leaves": (FEATURES, trees_of(200, 5, FEATURES)),
        "1,000 trees of 64 leaves": (FEATURES, trees_of(1_000, 6, FEATURES)),
        "400 trees of 256 leaves": (FEATURES, trees_of(400, 8, FEATURES)),
        "network 30-64-32": (30, network_of(30, 64, 32)),
        "network 300-2048-2048": (300, network_of(300, 2_048, 2_048)),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (features, model) in models.items():
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            one = OnnxScorer.load(path, features, Path(folder))
            ways = {"stretches": OnnxScorer.load(path, features, Path(folder), Threads(2)).score}
            if not one.sums_trees:
                ways["runtime"] = runtime_on(model, 2)
            for way, two in ways.items():
                for rows in BATCHES:
                    line = compare(one.score, two, rows, features, rounds)
                    line = {
                        "model": name,
                        "by": "kernel" if one.sums_trees else "runtime",
                        "way": way,
                        "rows": rows,
                    } | line
                    print(json.dumps(line), file=sys.stderr)
                    found.append(line)
    print(
        json.dumps({"bench": "threads", "cores": os.cpu_count(), "load": os.getloadavg()[0], "found": found}, indent=1)
    )
    return 0


def compare(one: Score, two: Score, rows: int, features: int, rounds: int) -> dict[str, Any]:
    given = np.random.default_rng(rows).normal(size=(rows, features)).astype(np.float32)
    two(given)  # by this it knows whether to cut the next one
    same = np.array_equal(one(given), two(given))
    times = 1
    while timed(one, given, times) < LEAST_S:
        times *= 2
    took = [(timed(one, given, times), timed(two, given, times)) for _ in range(rounds)]
    first, second = (rows * times / min(each) for each in zip(*took, strict=True))
    return {"one": round(first), "two": round(second), "ratio": round(second / first, 2), "same_bits": same}


def timed(score: Score, given: Floats, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        score(given)
    return time.perf_counter() - began


def runtime_on(model: bytes, threads: int) -> Score:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert open_session(model).get_inputs()[0].name == "features"
    return lambda given: session.run(["score"], {"features": given})[0]  # type: ignore[no-any-return]


def trees_of(count: int, depth: int, features: int) -> bytes:
    """Full trees with thresholds by chance, and a sigmoid behind their sum."""
    luck = np.random.default_rng(count)
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    ids = np.tile(np.arange(nodes), count)
    branch = ids < inner
    trees = np.repeat(np.arange(count), nodes)
    leaf = ~branch
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["raw"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=trees.tolist(),
        nodes_nodeids=ids.tolist(),
        nodes_featureids=np.where(branch, luck.integers(0, features, len(ids)), 0).tolist(),
        nodes_modes=["BRANCH_LEQ" if inside else "LEAF" for inside in branch],
        nodes_values=np.where(branch, luck.normal(size=len(ids)), 0).astype(np.float32).tolist(),
        nodes_truenodeids=np.where(branch, 2 * ids + 1, 0).tolist(),
        nodes_falsenodeids=np.where(branch, 2 * ids + 2, 0).tolist(),
        nodes_missing_value_tracks_true=[0] * len(ids),
        target_ids=[0] * int(leaf.sum()),
        target_nodeids=ids[leaf].tolist(),
        target_treeids=trees[leaf].tolist(),
        target_weights=luck.normal(0, 0.05, int(leaf.sum())).astype(np.float32).tolist(),
    )
    rest = [helper.make_node("Sigmoid", ["raw"], ["p"]), helper.make_node("Squeeze", ["p", "axis"], ["score"])]
    return model_of([node, *rest], features, [helper.make_tensor("axis", TensorProto.INT64, [1], [1])])


def network_of(*widths: int) -> bytes:
    luck = np.random.default_rng(widths[-1])
    nodes, weights, last = [], [helper.make_tensor("axis", TensorProto.INT64, [1], [1])], "features"
    for place, (wide, next_wide) in enumerate(zip(widths, (*widths[1:], 1), strict=True)):
        weight = (luck.normal(size=(wide, next_wide)) / wide**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{place}"))
        nodes += [
            helper.make_node("MatMul", [last, f"w{place}"], [f"m{place}"]),
            helper.make_node("Relu" if next_wide > 1 else "Sigmoid", [f"m{place}"], [f"a{place}"]),
        ]
        last = f"a{place}"
    return model_of([*nodes, helper.make_node("Squeeze", [last, "axis"], ["score"])], widths[0], weights)


def model_of(nodes: list[Any], features: int, initializers: list[Any]) -> bytes:
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "bench", [given], [score], initializers)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


if __name__ == "__main__":
    raise SystemExit(main())
