"""The model in the worker's process: ONNX Runtime on one thread, one run a batch, or one for each of its stretches
(`decide.decision.stretches`); its trees, if it has some, are summed before (`decide.decision.trees`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skyriver.core.calibration import Calibration
from skyriver.core.errors import InvalidInput
from skyriver.decide.decision.stretches import ALIGNED, Stretches, Threads
from skyriver.decide.decision.trees import TreeSums, TreeTable, sample, split_model

INPUT, OUTPUT = "features", "score"
BOUND_ROWS = 8
"""Up to so many rows have buffers of their own."""
LOAD_S = 30.0
"""So long the runs with which a model is tried may take."""


SINGLY = 16
"""Sample rows that are scored one by one too."""


class Ended(Exception):
    """A run was ended by `EndableScorer.end`."""


class Scorer(Protocol):
    """MUST score each row by itself: the rows beside it change nothing but the last bits. One thread at a time."""

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, F], missing NaN -> float32 [n]. May raise anything: it is a user's model."""
        ...


class EndableScorer(Scorer, Protocol):
    def end(self) -> None:
        """From another thread: has the run under way raise Ended soon, or, when it has just ended, the next one."""
        ...


class OnnxScorer:
    """A trained model (see the manifest of a version): input `features` float32 [n, F], output `score` float32 [n]."""

    __slots__ = ("_bound", "_given", "_options", "_outputs", "_run", "_stretches", "_trees", "calibration")

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        features: int,
        options: onnxruntime.RunOptions | None = None,
        trees: TreeSums | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """With `trees`, the session is of what follows them."""
        self.calibration = calibration
        self._run = session.run
        self._options = options if options is not None else _run_options()
        self._outputs = [OUTPUT]
        self._trees = trees
        self._stretches: Stretches | None = None
        self._given = session.get_inputs()[0].name
        width = features if trees is None else 1
        self._bound = [_Bound(session, self._given, rows, width) for rows in range(1, BOUND_ROWS + 1)]

    @classmethod
    def load(cls, path: Path, features: int, kernels: Path | None = None, threads: Threads | None = None) -> OnnxScorer:
        """Loads, checks against the number of features, and runs once, so that the first event waits for nothing.
        `kernels`: where what is compiled is kept; None: the runtime sums trees too. `threads`: that a run may take;
        None: the caller's alone.

        Raises InvalidInput (MODEL_REFUSED) for a file that is no model or does not fit these features, and
        (BAD_CALIBRATION) for one whose calibration cannot be read.
        """
        data = path.read_bytes()  # from bytes: a path would let the model name files beside it
        try:
            session = open_session(data)
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise _refuse(f"it cannot be loaded: {_first_line(error)}") from error
        _check_signature(session, features)
        calibration = Calibration.of_metadata(session.get_modelmeta().custom_metadata_map)
        run_options = _run_options()
        with _tried(run_options):
            for rows in (1, 2):
                found = session.run([OUTPUT], {INPUT: np.zeros((rows, features), np.float32)}, run_options)[0]
                if found.shape != (rows,):
                    raise _refuse(f"for {rows} rows it gives scores of shape {list(found.shape)}")
            scorer = cls(session, features, run_options, calibration=calibration)
            scorer.score(np.zeros((1, features), np.float32))
        split = _split(data, features, run_options, kernels) if kernels is not None else None
        if split is not None:
            with _tried(run_options):
                if _same(split[0], scorer, sample(split[1], features)):
                    split[0].calibration = calibration
                    scorer = split[0]
        scorer._stretches = Stretches(threads) if threads is not None else None
        return scorer

    @property
    def sums_trees(self) -> bool:
        """Else the runtime does, if there are some."""
        return self._trees is not None

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            if self._stretches is None or len(features) < 2 * ALIGNED:
                return self._score(features)
            return self._stretches.score(self._score, features)
        except Exception as error:
            if self._options.terminate:  # of all stretches
                self._options.terminate = False
                raise Ended from error
            raise

    def _score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """By several threads at once, if at most one of them has BOUND_ROWS or fewer."""
        given = features if self._trees is None else self._trees(features)
        if 0 < len(given) <= BOUND_ROWS:
            return self._bound[len(given) - 1].score(given, self._options)
        scores: NDArray[np.float32] = self._run(self._outputs, {self._given: given}, self._options)[0]
        return scores

    def end(self) -> None:
        self._options.terminate = True


class _Bound:
    """Most events come alone or a few together. With rows bound once, a run finds its input and its output, and makes
    nothing."""

    __slots__ = ("_binding", "_rows", "_run", "_scores")

    def __init__(self, session: onnxruntime.InferenceSession, given: str, rows: int, width: int) -> None:
        self._rows = np.zeros((rows, width), np.float32)
        self._scores = np.zeros(rows, np.float32)
        self._binding = binding = session.io_binding()
        binding.bind_input(given, "cpu", 0, np.float32, self._rows.shape, self._rows.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, self._scores.shape, self._scores.ctypes.data)
        self._run = session.run_with_iobinding

    def score(self, features: NDArray[np.float32], options: onnxruntime.RunOptions) -> NDArray[np.float32]:
        self._rows[:] = features
        self._run(self._binding, options)
        return self._scores.copy()


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _split(
    model: bytes, features: int, options: onnxruntime.RunOptions, kernels: Path
) -> tuple[OnnxScorer, TreeTable] | None:
    """The model with its trees summed before it; None: it has none, or they are left to the runtime."""
    try:
        table, rest = split_model(model, features)
        return OnnxScorer(open_session(rest), features, options, TreeSums.load(table, kernels)), table
    except Exception:  # whatever stands in the way, the runtime can sum them
        return None


def _same(one: Scorer, other: Scorer, rows: NDArray[np.float32]) -> bool:
    """Whether both give these rows the same bits, one by one and together. Raises Ended."""
    parts = (rows, rows[:SINGLY], *(rows[place : place + 1] for place in range(SINGLY)))
    try:
        return all(np.array_equal(one.score(part), other.score(part), equal_nan=True) for part in parts)
    except Ended:
        raise
    except Exception:  # such values may be too much for a model; it can be used for others
        return False


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    # Python's side of a bound run looks for it, and an option that is not there costs ten times the run.
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


@contextmanager
def _tried(options: onnxruntime.RunOptions) -> Iterator[None]:
    """Runs under these options; raises InvalidInput (MODEL_REFUSED) when one fails, or they take longer than LOAD_S."""

    def end() -> None:
        options.terminate = True

    ending = threading.Timer(LOAD_S, end)
    ending.daemon = True
    ending.start()
    try:
        yield
    except InvalidInput:
        raise
    except Ended as error:
        raise _refuse(f"it was not done within {LOAD_S:g} s") from error
    except Exception as error:  # onnxruntime's errors share no base but Exception
        why = f"it was not done within {LOAD_S:g} s" if options.terminate else f"it cannot be run: {_first_line(error)}"
        raise _refuse(why) from error
    finally:
        ending.cancel()
        ending.join()
        options.terminate = False


def _check_signature(session: Any, features: int) -> None:
    inputs = {i.name: i for i in session.get_inputs()}
    outputs = {o.name: o for o in session.get_outputs()}
    if set(inputs) != {INPUT} or OUTPUT not in outputs:
        raise _refuse(f"it takes {sorted(inputs)} and gives {sorted(outputs)}, not {INPUT!r} and {OUTPUT!r}")
    for what in (inputs[INPUT], outputs[OUTPUT]):
        if what.type != "tensor(float)":
            raise _refuse(f"{what.name!r} is {what.type}, not float32")
    shape = inputs[INPUT].shape
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != features):
        raise _refuse(f"it takes features of shape {shape}, the stream computes {features} of them")


def _refuse(why: str) -> InvalidInput:
    return InvalidInput(
        f"The model is not used: {why}.",
        code="MODEL_REFUSED",
        next_action="Train it on the features that the stream computes now.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
