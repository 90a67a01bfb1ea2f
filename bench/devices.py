"""A replica's model on a GPU beside the same model on the CPU: `python bench/devices.py`, on a machine with a GPU and
onnxruntime-gpu. Runs of both take turns; a ratio is of medians. The answers of both are compared."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _document import Document, Goal

ROWS = (1, 64, 1024)
ROUNDS = 30
NETWORKS = {"small": (32, 256, 256, 1), "large": (512, 2048, 2048, 2048, 1)}
TOLERANCE = 2e-3
"""Of the largest answer: a GPU may multiply in TF32, whose fraction has 10 bits."""

GOALS = (
    Goal("cuda_speedup_large_1024_rows", ">=", 1.0, "ratio"),
    Goal("cuda_largest_difference", "<=", TOLERANCE, "ratio"),
)


def network(widths: tuple[int, ...]) -> bytes:
    """Dense layers with ReLU between them, float32, any number of rows."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    source = np.random.default_rng(7)
    nodes, weights, last = [], [], "x"
    for n, (wide, narrow) in enumerate(pairwise(widths)):
        matrix = (source.normal(size=(wide, narrow)) / np.sqrt(wide)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{n}"))
        final = n == len(widths) - 2
        nodes.append(helper.make_node("MatMul", [last, f"w{n}"], ["y" if final else f"m{n}"]))
        if not final:
            nodes.append(helper.make_node("Relu", [f"m{n}"], [f"r{n}"]))
            last = f"r{n}"
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", widths[-1]])
    graph = helper.make_graph(nodes, "network", [given], [answer], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def measure(document: Document, name: str, widths: tuple[int, ...], cores: int) -> None:
    from skyriver.serve.calibration import calibrate
    from skyriver.serve.runner import Runner

    model = network(widths)
    runners: dict[str, Any] = {device: Runner(model, device=device) for device in ("cpu", "cuda")}
    threads = {}
    for device, runner in runners.items():
        runner.warm_up()
        threads[device] = calibrate(runner, model, max_batch=1024, cores=cores if device == "cpu" else 1).threads
    worst = document.value("cuda_largest_difference") or 0.0
    for rows in ROWS:
        given = {"x": np.random.default_rng(rows).normal(size=(rows, widths[0])).astype(np.float32)}
        answers = {device: runner.run(given)["y"] for device, runner in runners.items()}
        largest = float(np.abs(answers["cpu"]).max())
        worst = max(worst, float(np.abs(answers["cpu"] - answers["cuda"]).max()) / largest)
        took: dict[str, list[float]] = {device: [] for device in runners}
        for _ in range(ROUNDS):
            for device, runner in runners.items():
                began = time.perf_counter()
                runner.run(given)
                took[device].append(time.perf_counter() - began)
        cpu, cuda = (median(took[device]) for device in ("cpu", "cuda"))
        case = f"{name} network, {rows} rows"
        document.row("cpu", case, us=round(cpu * 1e6, 1), threads=threads["cpu"])
        document.row("cuda", case, us=round(cuda * 1e6, 1), ratio_to_cpu=round(cpu / cuda, 2))
        if name == "large" and rows == ROWS[-1]:
            document.measured("cuda_speedup_large_1024_rows", round(cpu / cuda, 2))
    document.measured("cuda_largest_difference", float(f"{worst:.2g}"))


def main() -> int:
    import os

    from skyriver.core.errors import SkyriverError
    from skyriver.serve.runner import Runner

    document = Document("devices", GOALS)
    try:
        Runner(network((2, 2)), device="cuda")
    except SkyriverError as error:
        for goal in GOALS:
            document.missed(goal.name, str(error), wanted=False)
        return 0 if document.print() else 1
    cores = len(os.sched_getaffinity(0))
    for name, widths in NETWORKS.items():
        measure(document, name, widths, cores)
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
