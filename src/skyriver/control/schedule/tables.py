"""Tables of arrays with a row for each service, so that a thousand of them are decided on at once. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Small = NDArray[np.float32]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Table:
    """A dataclass of arrays, (N, ...) each."""

    @classmethod
    def starting(cls, n: int, tick_s: float) -> Self:
        """`n` rows as they begin; `tick_s` seconds between two looks."""
        raise NotImplementedError

    def append(self, others: Table) -> None:
        """Rows of another table of the same kind."""
        for each in fields(self):
            setattr(self, each.name, np.concatenate((getattr(self, each.name), getattr(others, each.name))))

    def delete(self, rows: Sequence[int]) -> None:
        for each in fields(self):
            setattr(self, each.name, np.delete(getattr(self, each.name), rows, 0))

    def pack(self, row: int, names: Iterable[str]) -> dict[str, str]:
        """Of a row, for a file."""
        return {name: base64.b64encode(getattr(self, name)[row].tobytes()).decode() for name in names}

    def unpack(self, row: int, names: Iterable[str], packed: Mapping[str, Any]) -> None:
        """What was packed. Raises ValueError, KeyError or TypeError, and has then changed nothing, where it is not of
        this form."""
        found = {}
        for name in names:
            array = getattr(self, name)
            numbers = np.frombuffer(base64.b64decode(packed[name], validate=True), array.dtype)
            found[name] = numbers.reshape(array.shape[1:])
            if array.dtype.kind == "f" and np.isinf(found[name]).any():
                raise ValueError(f"{name} is not finite")
        for name, numbers in found.items():
            getattr(self, name)[row] = numbers
