"""The search of one training: its rows, its budget, and where its trials are kept."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed
from skyriver.core.jobs import Progress
from skyriver.core.spec import TrainSpec
from skyriver.train.cleaning import fit_cleaning
from skyriver.train.evaluate import take
from skyriver.train.holdout import hold_out
from skyriver.train.search.budget import Budget
from skyriver.train.search.journal import Journal
from skyriver.train.search.study import Found, HeldOut, open_space, search
from skyriver.train.search.watch import Predict, Watch
from skyriver.train.split import Rows, Split

_PIECE: Final = 65_536
"""Rows that are digested at once."""


class Fitting(Protocol):
    """The training function on some of the rows; gives what the model says of raw rows. Raises SkyriverError."""

    spec: TrainSpec
    rows: Rows
    split: Split
    seed: int

    def __call__(self, part: NDArray[np.int64], params: Mapping[str, Any], watch: Watch) -> Predict: ...


@dataclass(frozen=True, slots=True)
class Look:
    """Trials are kept in the file `journal` until `done`; `of`: what they depend on beside rows, space and seed."""

    budget: Budget
    journal: Path
    of: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def __call__(
        self, fitting: Fitting, delay_us: int | None, params: Mapping[str, Any], progress: Progress
    ) -> Found | None:
        """None where nothing is left to search, for all parameters are given. Raises InvalidInput (see `hold_out`),
        JobFailed (TRIALS_FAILED)."""
        spec, rows, split = fitting.spec.search, fitting.rows, fitting.split
        if spec is None or not (space := open_space(spec, params)):
            return None
        learned, judging = hold_out(fitting.spec, rows, split, delay_us)
        x, labels = take(rows.x, judging), take(split.labels, judging)
        cleaned = fit_cleaning(fitting.spec.clean, take(rows.x, learned)).apply(x)
        journal = Journal(
            self.journal,
            {
                **self.of,
                "space": [each.to_json() for each in space],
                "metric": spec.metric,
                "parameters": dict(params),
                "seed": fitting.seed,
                "rows": [_digest(rows, split.labels, part) for part in (learned, judging)],
            },
        )
        if journal.begun_anew:
            print(f"search: begins anew, for these are not those of before: {journal.begun_anew}", file=sys.stderr)
        elif journal.trials:
            print(f"search: goes on after {len(journal.trials)} trials that are done", file=sys.stderr)
        try:
            found = search(
                spec,
                space,
                self.budget,
                HeldOut(x, cleaned, labels, len(learned)),
                lambda chosen, watch: fitting(learned, {**params, **chosen}, watch),
                journal,
                seed=fitting.seed,
                clock=self.clock,
                progress=progress,
            )
        except JobFailed:  # nothing came of them: the next run is not to go on with that
            self.done()
            raise
        print(f"search: {found}", file=sys.stderr, flush=True)
        return found

    def done(self) -> None:
        """What came of the trials is kept elsewhere."""
        self.journal.unlink(missing_ok=True)


def _digest(rows: Rows, labels: NDArray[np.float32], part: NDArray[np.int64]) -> str:
    """Of all that a training function may get of these rows, piece by piece: `x` may be larger than the memory."""
    columns: list[NDArray[Any]] = [rows.x, labels, rows.time]
    if rows.weights is not None:
        columns.append(rows.weights)
    found = hashlib.sha256(repr((rows.names, part.shape, [column.dtype.str for column in columns])).encode())
    for start in range(0, len(part), _PIECE):
        for column in columns:
            found.update(np.ascontiguousarray(column[part[start : start + _PIECE]]).data)
    return found.hexdigest()
