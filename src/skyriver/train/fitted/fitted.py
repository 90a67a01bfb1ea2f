"""The port: a model that a training function returned, whatever made it."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput


class Fitted(Protocol):
    """MUST score each row by itself, and the same row always the same. One thread at a time.

    `predict` is the framework's own word, by which the ONNX model is judged: an implementation MUST NOT compute it from
    what it exports. A score is the probability of label 1, or, of a regressor, what it predicts.
    """

    @property
    def framework(self) -> str:
        """As people write it: "LightGBM", "PyTorch"."""
        ...

    @property
    def features(self) -> int: ...

    @property
    def continuous(self) -> bool:
        """Whether it is a continuous function that is computed in float32, so that two correct programs of it differ
        by its rounding (nets, linear models); False for trees, whose jumps must be where they are."""
        ...

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """float32 (n, features), missing NaN -> float64 (n,). May raise anything, and give NaN for NaN."""
        ...

    def to_onnx(self) -> bytes:
        """One graph: `features` float32 [n, features] -> `score` float32 [n]. Raises InvalidInput (UNSUPPORTED_MODEL,
        MISSING_PACKAGE) for what cannot be exported, with the nearest thing that can."""
        ...

    def text(self) -> bytes | None:
        """In LightGBM's text format, from which compression starts; None for all others."""
        ...


def refuse_model(what: str, next_action: str) -> NoReturn:
    raise InvalidInput(
        f"The trained model cannot be served exactly: {what}.", code="UNSUPPORTED_MODEL", next_action=next_action
    )


def first_line(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0].strip().rstrip(".")[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def as_scores(found: Any) -> NDArray[np.float64]:
    return np.asarray(found, dtype=np.float64).reshape(-1)
