"""What versions were whose commits are gone (see `compacting`): rows, bytes and offset of each, in `.versions`.

magic, SHA-256 of the rest, [versions, 3] int64 little endian
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyriver.adapters.delta.ledger import NotWhole
from skyriver.data.folders import replace_file
from skyriver.data.tables import TableVersion

_NAME = ".versions"
_MAGIC = b"SKYRTV1\n"
_START = len(_MAGIC) + 32


@dataclass(frozen=True, slots=True)
class Past:
    """What the versions below `end` were, whose commits are gone."""

    figures: NDArray[np.int64]
    """[end, 3]: rows, bytes, offset."""

    @property
    def end(self) -> int:
        return len(self.figures)

    def describe(self, version: int) -> TableVersion:
        rows, size, offset = self.figures[version].tolist()
        return TableVersion(version, rows, size, offset)


NO_PAST = Past(np.empty((0, 3), np.int64))


def read_past(table: Path) -> Past:
    """Raises NotWhole when the file is not what was written."""
    try:
        data = (table / _NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return NO_PAST
    body = data[_START:]
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : _START] or len(body) % 24:
        raise NotWhole(f"{_NAME} has other bytes than were written")
    return Past(np.frombuffer(body, "<i8").reshape(-1, 3))


def write_past(table: Path, figures: NDArray[np.int64]) -> None:
    """Durable when it returns."""
    body = figures.astype("<i8").tobytes()
    replace_file(table / _NAME, _MAGIC + hashlib.sha256(body).digest() + body)
