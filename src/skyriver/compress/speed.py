"""How long a model takes, as a replica runs it: in one thread, one row alone and a batch; beside it, in turns, a fixed
piece of work, which tells how much of it is the machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ROUNDS: Final = 24
ROWS: Final = 200
"""Each scored alone, in every round: the p99 is that of two of them."""
BATCH: Final = 64
BATCHES: Final = 5
"""In every round."""
REFERENCE_BYTES: Final = 65_536
REFERENCES: Final = 50


@dataclass(frozen=True, slots=True)
class Speed:
    """Microseconds. `row` is the median time of a row alone. `row_p99`: each round has its p99, this is their lower
    quartile, for what the machine does beside is in some rounds and not in all; `row_p99_low` is the least of the
    rounds', `row_p99_high` their upper quartile. `batch` is the median time of `batch_rows` rows together. `reference`
    is the median time of hashing 64 KiB with SHA-256, `reference_p99` its p99, the median of the same rounds."""

    row: float
    row_p99: float
    row_p99_low: float
    row_p99_high: float
    batch: float
    batch_rows: int
    reference: float
    reference_p99: float


def measure_speed(onnx: bytes, x: NDArray[np.float32]) -> Speed:
    """`x` float32 [n, F] are rows to score, n at least 1."""
    session = _open(onnx)
    name = session.get_inputs()[0].name
    single = [np.ascontiguousarray(x[i % len(x)][None, :]) for i in range(ROWS)]
    together = np.ascontiguousarray(np.resize(x[:BATCH], (BATCH, x.shape[1])))
    block = bytes(REFERENCE_BYTES)
    rows, batches, references = [], [], []
    for _ in range(ROUNDS + 1):
        rows.append([_taken(lambda row=row: session.run(None, {name: row})) for row in single])  # type: ignore[misc]
        batches.append([_taken(lambda: session.run(None, {name: together})) for _ in range(BATCHES)])
        references.append([_taken(lambda: hashlib.sha256(block)) for _ in range(REFERENCES)])
    own, common = np.array(rows[1:]), np.array(references[1:])  # the first round warms up
    p99 = np.quantile(own, 0.99, axis=1)
    return Speed(
        row=float(np.median(own)),
        row_p99=float(np.quantile(p99, 0.25)),
        row_p99_low=float(p99.min()),
        row_p99_high=float(np.quantile(p99, 0.75)),
        batch=float(np.median(batches[1:])),
        batch_rows=BATCH,
        reference=float(np.median(common)),
        reference_p99=float(np.median(np.quantile(common, 0.99, axis=1))),
    )


def _taken(work: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begun) / 1e3


def _open(onnx: bytes) -> onnxruntime.InferenceSession:
    """As a replica does (`skyriver.serve.runner`)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
