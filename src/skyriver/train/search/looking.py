"""The search of one training: its rows, its budget, and where its trials are kept."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
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
from skyriver.train.search.study import Found, HeldOut, Searching, open_space
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
    """Trials are kept in the file `journal` until `done`; `of`: what they depend on beside rows, space and seed. With
    several at once each has a name, `member`, of its own; the last one, who comes when the others are done, concludes.
    """

    budget: Budget
    journal: Path
    of: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    member: str = "0"
    others: Callable[[], Iterable[Path]] = tuple
    """Journals of before: trials of one that is of the same are taken over."""
    since: float | None = None
    """When the work for the search began, by the clock; None: with the trials."""

    def __call__(
        self, fitting: Fitting, delay_us: int | None, params: Mapping[str, Any], progress: Progress
    ) -> Found | None:
        """None where nothing is left to search, for all parameters are given. Raises InvalidInput (see `hold_out`),
        JobFailed (TRIALS_FAILED)."""
        searching = self._searching(fitting, delay_us, params, progress)
        if searching is None:
            return None
        try:
            found = searching.found(searching.run())
        except JobFailed:  # nothing came of them: the next run is not to go on with that
            self.done()
            raise
        print(f"search: {found}", file=sys.stderr, flush=True)
        return found

    def take_part(
        self, fitting: Fitting, delay_us: int | None, params: Mapping[str, Any], progress: Progress
    ) -> str | None:
        """Why there is nothing more to do. Raises InvalidInput (see `hold_out`)."""
        searching = self._searching(fitting, delay_us, params, progress)
        if searching is None:
            return None
        ended = searching.run()
        searching.journal.close()
        done = len(searching.journal.trials)
        print(f"search: nothing more to begin: {ended}; {done} trials are done by now", file=sys.stderr, flush=True)
        return ended

    def _searching(
        self, fitting: Fitting, delay_us: int | None, params: Mapping[str, Any], progress: Progress
    ) -> Searching | None:
        spec, rows, split = fitting.spec.search, fitting.rows, fitting.split
        if spec is None or not (space := open_space(spec, params)):
            return None
        learned, judging = hold_out(fitting.spec, rows, split, delay_us)
        x, labels = take(rows.x, judging), take(split.labels, judging)
        cleaned = fit_cleaning(fitting.spec.clean, take(rows.x, learned)).apply(x)
        of = {
            **self.of,
            "space": [each.to_json() for each in space],
            "metric": spec.metric,
            "parameters": dict(params),
            "seed": fitting.seed,
            "rows": [_digest(rows, split.labels, part) for part in (learned, judging)],
            **({"at once": spec.parallel} if spec.parallel > 1 else {}),
        }
        journal = Journal(self.journal, of, self.member, before=self.others())
        if journal.begun_anew:
            print(f"search: begins anew, for these are not those of before: {journal.begun_anew}", file=sys.stderr)
        elif journal.trials:
            print(f"search: goes on after {len(journal.trials)} trials that are done", file=sys.stderr, flush=True)
        return Searching(
            spec,
            space,
            self.budget,
            HeldOut(x, cleaned, labels, len(learned)),
            lambda chosen, watch: fitting(learned, {**params, **chosen}, watch),
            journal,
            fitting.seed,
            self.clock,
            progress,
            spec.parallel,
            since=self.since,
        )

    def done(self) -> None:
        """What came of the trials is kept elsewhere."""
        for path in self.journal.parent.glob(f"{self.journal.name}*"):
            path.unlink(missing_ok=True)


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
