"""One ONNX model in onnxruntime: what it takes, what it gives, whether its rows may share a run.

Rows of different requests are run together only when that cannot change an answer. A first axis of any length is not
enough (it may be a sequence, or the model may look across rows, as a softmax over the batch does), so a model is
tried at start: rows run apart and together must give the same outputs. The last bits of floats may still depend
on how many rows share a run where a matrix product is involved, as they do between machines.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from skyriver.core.errors import DeadlineExceeded, Internal, InvalidInput, SkyriverError
from skyriver.release.signature import ANY, Signature, TensorSpec, cast_instead
from skyriver.serve.devices import CPU, check_device, providers_of
from skyriver.serve.watch import RunWatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = np.ndarray

Tensors = Mapping[str, Array]

RUNTIME = ort.__version__
OLDEST_RUNTIME = (1, 32)
"""Older releases read some hostile model files past their end (DESIGN section 9)."""
OLDEST_GPU_RUNTIME = (1, 31)
"""onnxruntime-gpu comes some weeks later: there is no newer one yet."""
RUN_LIMIT_S = 30.0
MOST_VALUES = 1 << 24
"""Of all outputs of a run: what a request has room for, too."""
_PROBE_LIMIT_S = 3.0
"""Of a run on made-up rows at the start; a row that takes longer is run once more, with the limit of all runs."""
_MOST_PROBED = 1 << 24
_PROBE_TOLERANCE = 1e-4
LONG_ROW_S = 0.25
"""A model that takes longer for a row does not batch."""
_ORT_ERRORS: tuple[type[Exception], ...] = (
    MemoryError,
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)

_ORT_ERROR = 3
_log = logging.getLogger(__name__)

NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "BYTES": np.dtype(np.object_),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    **{f"{kind.upper()}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    **{f"tensor({kind}{bits})": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


class Runner:
    """A loaded model. One thread unless told otherwise, no spinning: a replica is one core's work, and more cores are
    more replicas. A run that takes longer than `limit_s` is ended.

    Raises InvalidInput (MODEL_UNREADABLE, MODEL_UNSUPPORTED) when the bytes are no model that can be served, or
    (BAD_DEVICE, DEVICE_MISSING) when there is no such `device`; Unavailable (DEVICE_FAILED) when it cannot be used.
    """

    def __init__(
        self,
        model: bytes,
        *,
        device: str = CPU,
        limit_s: float = RUN_LIMIT_S,
        threads: int = 1,
        batching: bool | None = None,
    ) -> None:
        """`batching`: what was found of it before; None: it is tried."""
        oldest = OLDEST_RUNTIME if device == CPU else OLDEST_GPU_RUNTIME
        if tuple(int(part) for part in RUNTIME.split(".")[:2]) < oldest:
            raise Internal(
                f"onnxruntime {ort.__version__} is older than {'.'.join(map(str, oldest))}.",
                code="ONNXRUNTIME_TOO_OLD",
                next_action="pip install --upgrade onnxruntime",
            )
        self.device = device
        self.threads = threads
        self._session = _open(model, device, threads)
        self._watch = RunWatch(min(limit_s, _PROBE_LIMIT_S))
        self.signature = Signature(
            tuple(_spec(node, "input") for node in self._session.get_inputs()),
            tuple(_spec(node, "output") for node in self._session.get_outputs()),
        )
        self.output_names = tuple(t.name for t in self.signature.outputs)
        self._output_list = list(self.output_names)
        self._row_us = 0.0
        self._least_us = 0.0
        self.slow_us = 0.0
        """One made-up row took so long, where that was longer than a start tries again; else 0."""
        self.ended_us = 0.0
        """One made-up row was ended after so long; else 0."""
        self._tried_in_vain = False
        """One made-up row took longer than a start tries."""
        self.batching = bool(batching)
        """Whether rows of several requests may share a run."""
        if batching is None:
            self.try_batching()
        self.warm = False
        """It has run on made-up rows, and takes them."""
        self._watch.limit_s = self._limit_s = limit_s

    def try_batching(self) -> None:
        """Finds out `batching`, where one row does not take long."""
        self.batching = _first_axis_is_free(self._session) and self._rows_are_independent()

    def use_threads(self, model: bytes, threads: int) -> None:
        """Loads it anew, to run on so many threads."""
        self._session = _open(model, self.device, threads)
        self.threads = threads

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """All outputs by name. Raises InvalidInput (MODEL_REFUSED_INPUT) when the values do not fit the model,
        DeadlineExceeded (MODEL_TOO_SLOW) when it was ended, Internal (MODEL_FAILED) when it fails otherwise."""
        try:
            outputs = self._watch.run(lambda options: self._session.run(self._output_list, inputs, options))
        except _state.InvalidArgument as error:
            raise InvalidInput(
                "The model cannot take these values.",
                code="MODEL_REFUSED_INPUT",
                next_action="Check shapes and ranges, e.g. of indexes, against what the model was trained on.",
            ) from error
        except DeadlineExceeded as error:
            self.note(1, int(self._watch.limit_s * 1e9))  # the next one is not run on the loop
            raise self._never_answered() or error from None
        except _ORT_ERRORS as error:
            raise Internal(
                "The model failed on this input.",
                code="MODEL_FAILED",
                next_action="The replica's log has the reason.",
            ) from error
        values = sum([output.size for output in outputs])
        if values > MOST_VALUES:
            del outputs  # the error's traceback must not keep them
            raise InvalidInput(
                f"The model's answer has {values} values; at most {MOST_VALUES} are given.",
                code="ANSWER_TOO_LARGE",
                next_action="Ask for fewer rows.",
            )
        return dict(zip(self.output_names, outputs, strict=True))

    def warm_up(self) -> bool:
        """One timed run on made-up rows, after a first that pays for what is set up lazily, where that does not take
        long; False if the model does not take them (which says nothing about real ones), or not within the limit of a
        run."""
        self._watch.limit_s = min(self._limit_s, _PROBE_LIMIT_S)
        try:
            probe = self.probe(1, seed=0)
            if self._tried_in_vain:
                took_ns = self._timed_slowly_ns(probe)
            else:
                self.run(probe)
                took_ns = self._timed_ns(probe)
        except DeadlineExceeded:
            took_ns = self._timed_slowly_ns(probe)
        except SkyriverError:
            return False
        finally:
            self._watch.limit_s = self._limit_s
        if took_ns:
            self.note(1, took_ns)
        self.warm = took_ns > 0
        return self.warm

    def _timed_ns(self, inputs: Tensors) -> int:
        started = time.perf_counter_ns()
        self.run(inputs)
        return time.perf_counter_ns() - started

    def _timed_slowly_ns(self, probe: Tensors) -> int:
        """Of a row that takes longer than a start tries; 0: than any run may."""
        self._row_us = self._least_us = 0.0
        try:
            if self._watch.limit_s < self._limit_s:
                self._watch.limit_s = self._limit_s
                took_ns = self._timed_ns(probe)
                self.slow_us = took_ns / 1000
                return took_ns
        except DeadlineExceeded:
            pass
        except SkyriverError:
            return 0
        self.ended_us = self._limit_s * 1e6
        self.note(1, int(self._limit_s * 1e9))
        return 0

    def _never_answered(self) -> DeadlineExceeded | None:
        """What is said of a run that was ended, where none was ever shorter."""
        if not self.ended_us or self._least_us < self.ended_us:
            return None
        return DeadlineExceeded(
            f"The model takes longer than {self._limit_s:g} s for one row, as when it was started, and was ended.",
            code="MODEL_TOO_SLOW",
            next_action="Sending it again does not help: who deploys the model must serve a faster one.",
        )

    def note(self, rows: int, nanoseconds: int) -> None:
        """Learns what a run costs: a mean per row (exponential, a tenth a run) and the least for any run, which
        is forgotten by 1% a run."""
        cost = nanoseconds / 1000
        self._row_us += (cost / rows - self._row_us) * (0.1 if self._row_us else 1.0)
        self._least_us = min(cost, self._least_us * 1.01) if self._least_us else cost

    def expected_us(self, rows: int) -> float:
        """What a run of so many rows will cost, in microseconds, by what was seen so far (0: nothing yet)."""
        cost = self._row_us * rows
        return cost if cost > self._least_us else self._least_us

    def probe(self, rows: int, *, seed: int) -> dict[str, Array]:
        """Made-up inputs: floats on several scales, whole numbers of 0 and 1 (which index anything). Raises
        InvalidInput (PROBE_TOO_LARGE) where a file says that its inputs are larger than what a request can hold."""
        largest = max((math.prod(max(axis, 1) for axis in t.shape) for t in self.signature.inputs), default=0)
        if largest * rows > _MOST_PROBED:
            raise InvalidInput(
                f"A made-up input would have {largest * rows} values.",
                code="PROBE_TOO_LARGE",
                next_action="Export the model with inputs that a request can hold, or with axes of any length.",
            )
        source = np.random.default_rng(seed)
        return {t.name: _made_up(t, rows, source) for t in self.signature.inputs}

    def _rows_are_independent(self) -> bool:
        """Runs made-up rows apart and together. A model that takes long for one row is not tried, and does not share
        runs: there is little to gain, and its start would take long."""
        apart: list[dict[str, Array]] = []
        try:
            parts = [self.probe(rows, seed=seed) for seed, rows in enumerate((1, 2, 1, 3))]
            together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            started = time.perf_counter()
            apart.append(self.run(parts[0]))
            if time.perf_counter() - started > LONG_ROW_S:
                return False
            apart += [self.run(part) for part in parts[1:]]
            merged = self.run(together)
        except SkyriverError as error:
            self._tried_in_vain = error.code == "MODEL_TOO_SLOW" and not apart
            return False
        return all(
            all(
                part[name].ndim > 0 and part[name].shape[0] == _rows(given)
                for part, given in zip(apart, parts, strict=True)
            )
            and _equal(np.concatenate([part[name] for part in apart]), merged[name])
            for name in self.output_names
        )


def log_plainly() -> None:
    """What onnxruntime logs goes where all else goes, without the colours of a terminal."""
    if (follow := getattr(ort, "set_default_logger_callback", None)) is not None:  # 1.31 has none
        follow(_logged)


def _logged(severity: int, category: str, of: str, place: str, message: str) -> None:
    _log.log(logging.ERROR if severity >= _ORT_ERROR else logging.WARNING, "onnxruntime, %s: %s", place, message)


def load_runner(path: Path) -> Runner:
    return Runner(path.read_bytes())


def _open(model: bytes, device: str, threads: int) -> Any:
    providers = providers_of(device, ort.get_available_providers())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # it never gives memory back, and measured saves no time
    options.enable_mem_pattern = False  # one pattern is kept per input shape, and batches come in all sizes
    options.log_severity_level = 3  # errors; its warnings are about graph optimisation
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except _ORT_ERRORS as error:
        raise InvalidInput(
            f"onnxruntime {ort.__version__} cannot load the model: {str(error)[:300]}",
            code="MODEL_UNREADABLE",
            next_action="Export it again as ONNX, with an opset that this onnxruntime knows.",
        ) from error
    session.disable_fallback()
    check_device(device, session.get_providers())
    return session


def _spec(node: Any, side: str) -> TensorSpec:
    if node.type not in _DATATYPES:
        raise InvalidInput(
            f"The {side} {node.name!r} of the model is a {node.type}, which is not served.",
            code="MODEL_UNSUPPORTED",
            next_action="A scikit-learn classifier is converted with options={'zipmap': False}."
            if node.type.startswith("seq")
            else cast_instead(side, node.type),
        )
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else ANY for axis in node.shape)
    return TensorSpec(node.name, _DATATYPES[node.type], shape)


def _first_axis_is_free(session: Any) -> bool:
    """Every input and output has a first axis without a fixed length, and all inputs the same one by name."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    if any(not node.shape or isinstance(node.shape[0], int) for node in nodes):
        return False
    return len({node.shape[0] for node in session.get_inputs() if node.shape[0] is not None}) <= 1


def _made_up(tensor: TensorSpec, rows: int, source: np.random.Generator) -> Array:
    shape = tuple(1 if axis == ANY else axis for axis in tensor.shape)
    if tensor.shape and tensor.shape[0] == ANY:
        shape = (rows, *shape[1:])
    kind = NUMPY_TYPES[tensor.datatype]
    match kind.kind:
        case "f":
            return (source.normal(size=shape) * 10.0 ** source.integers(-1, 3, size=shape)).astype(kind)
        case "O":
            return source.integers(0, 2, size=shape).astype(str).astype(np.object_)
        case _:
            return source.integers(0, 2, size=shape).astype(kind)


def _rows(inputs: Tensors) -> int:
    return int(next(iter(inputs.values())).shape[0])


def _equal(apart: Array, merged: Array) -> bool:
    if apart.shape != merged.shape:
        return False
    if apart.dtype.kind == "f":
        return bool(np.allclose(apart, merged, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE, equal_nan=True))
    return bool(np.array_equal(apart, merged))
