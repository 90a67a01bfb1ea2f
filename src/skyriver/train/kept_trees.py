"""Boosted trees that are kept while more are made, each state of them a file that is whole or not there.

A file is a line of JSON, with the SHA-256 of what comes after it, and then the model as its framework writes it. Its
name has the number of trees. The last ones are kept; a damaged one is passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.data.folders import make_folder, replace_file

FORMAT: Final = "skyriver trees 2"
KEPT: Final = 3
SHARE: Final = 100
"""What keeping costs is at most this part of the time: a model of many trees takes a second to write down."""
FIRST_S: Final = 0.05
"""What the first one is taken to cost, as nothing is known yet."""


@dataclass(frozen=True, slots=True)
class Trees:
    """`rounds` that are done; `told`: what was measured after each of them."""

    rounds: int
    model: bytes
    told: list[Any]


@dataclass(slots=True)
class KeptTrees:
    """Of one training job, in a `folder` of its own that outlives an attempt. `of`: what trees depend on beside rows
    and parameters."""

    folder: Path
    of: Mapping[str, Any]
    share: int = SHARE
    _rows: str = ""
    _opened: int = 0

    def open(self, about: Mapping[str, Any], columns: Mapping[str, NDArray[Any] | None]) -> OneModel:
        """Of the next model that the function trains: it may train several, in the same order each time. They go on if
        `about` and the `columns` of the training rows are those of the attempt before."""
        if not self._rows:
            found = hashlib.sha256()
            for name, column in columns.items():
                if column is not None:
                    found.update(repr((name, column.shape, column.dtype.str)).encode())
                    found.update(np.ascontiguousarray(column).data)
            self._rows = found.hexdigest()
        self._opened += 1
        of = [dict(self.of), dict(about), self._rows, self._opened]
        digest = hashlib.sha256(json.dumps(of, sort_keys=True, default=_plain).encode()).hexdigest()
        return OneModel(self.folder, f"trees-{self._opened}", digest, self.share)


@dataclass(slots=True)
class OneModel:
    folder: Path
    name: str
    digest: str
    share: int
    _since: float = field(default_factory=time.monotonic)
    _took_s: float = FIRST_S

    def newest(self) -> Trees | None:
        """That can be gone on from."""
        for path in self._files():
            trees = self._read(path)
            if trees is not None:
                return trees
        return None

    @property
    def due(self) -> bool:
        return time.monotonic() - self._since >= self.share * self._took_s

    def put(self, rounds: int, told: list[Any], write: Callable[[], bytes]) -> None:
        """Durable when it returns. `write` gives the model: of many trees that takes longer than the disk does, so it
        counts too. A training needs no disk: it goes on without."""
        begun = time.monotonic()
        model = write()
        head = {
            "format": FORMAT,
            "of": self.digest,
            "rounds": rounds,
            "told": told,
            "sha256": hashlib.sha256(model).hexdigest(),
        }
        try:
            make_folder(self.folder)
            path = self.folder / f"{self.name}-{rounds:08d}"
            replace_file(path, json.dumps(head).encode() + b"\n" + model)
            for old in list(self._files())[KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _say(f"{rounds:,} trees could not be kept: {error.strerror or error}")
        self._since = time.monotonic()
        self._took_s = self._since - begun

    def _files(self) -> Iterator[Path]:
        """The one with most trees first."""
        yield from sorted(self.folder.glob(f"{self.name}-*"), reverse=True)

    def _read(self, path: Path) -> Trees | None:
        try:
            first, _, model = path.read_bytes().partition(b"\n")
            head = json.loads(first)
            whole = head["format"] == FORMAT and head["sha256"] == hashlib.sha256(model).hexdigest()
            found = Trees(int(head["rounds"]), model, list(head["told"])) if whole else None
            ours = whole and head["of"] == self.digest
        except (OSError, ValueError, KeyError, TypeError):
            found, ours = None, False
        if found is not None and ours:
            return found
        why = "is not what was written" if found is None else "is of other rows, parameters or code"
        _say(f"the checkpoint {path.name} {why}, and is passed over")
        with contextlib.suppress(OSError):  # it would be kept in place of one that is made now
            path.unlink()
        return None


def _plain(value: object) -> Any:
    """What JSON does not know, alike in each process: `repr` has addresses of functions, sets in any order, and not all
    of an array. The body of a function is in the digest of the code."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return repr(value)


def _say(line: str) -> None:
    print(f"boosting: {line}", file=sys.stderr, flush=True)
