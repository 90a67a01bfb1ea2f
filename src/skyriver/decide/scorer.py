"""The model in the worker's process: ONNX Runtime on one thread, one run a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput

INPUT, OUTPUT = "features", "score"


class Scorer(Protocol):
    """MUST score each row by itself: the rows beside it change nothing but the last bits. One thread at a time."""

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, F], missing NaN -> float32 [n]. May raise anything: it is a user's model."""
        ...


class OnnxScorer:
    """A trained model (see the manifest of a version): input `features` float32 [n, F], output `score` float32 [n]."""

    __slots__ = ("_bound", "_outputs", "_row", "_run", "_run_bound", "_score")

    def __init__(self, session: onnxruntime.InferenceSession, features: int) -> None:
        self._run = session.run
        self._outputs = [OUTPUT]
        # Most events come alone. With one row bound once, a run finds its input and its output, and makes nothing.
        self._row = np.zeros((1, features), np.float32)
        self._score = np.zeros(1, np.float32)
        self._bound = bound = session.io_binding()
        bound.bind_input(INPUT, "cpu", 0, np.float32, self._row.shape, self._row.ctypes.data)
        bound.bind_output(OUTPUT, "cpu", 0, np.float32, self._score.shape, self._score.ctypes.data)
        self._run_bound = session.run_with_iobinding

    @classmethod
    def load(cls, path: Path, features: int) -> OnnxScorer:
        """Loads, checks against the number of features, and runs once, so that the first event waits for nothing.

        Raises InvalidInput (MODEL_REFUSED) for a file that is no model or does not fit these features.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # From bytes: a path would let the model name files beside it.
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise _refuse(f"it cannot be loaded: {_first_line(error)}") from error
        _check_signature(session, features)
        for rows in (1, 2):
            try:
                found = session.run([OUTPUT], {INPUT: np.zeros((rows, features), np.float32)})[0]
            except Exception as error:  # as above
                raise _refuse(f"it cannot be run: {_first_line(error)}") from error
            if found.shape != (rows,):
                raise _refuse(f"for {rows} rows it gives scores of shape {list(found.shape)}")
        try:
            scorer = cls(session, features)
            scorer.score(np.zeros((1, features), np.float32))
        except Exception as error:  # as above
            raise _refuse(f"it cannot be run: {_first_line(error)}") from error
        return scorer

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(features) == 1:
            self._row[:] = features
            self._run_bound(self._bound)
            return self._score.copy()
        scores: NDArray[np.float32] = self._run(self._outputs, {INPUT: features})[0]
        return scores


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
