"""A search: trials until the budget is spent, the best of which is fitted on all rows."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed, SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import ParameterSpec, SearchSpec
from skyriver.core.spec_search import LOWER_IS_BETTER, Value
from skyriver.train import metrics as measure
from skyriver.train.search.budget import Budget, Spent
from skyriver.train.search.halving import goes_on
from skyriver.train.search.journal import Begun, Journal
from skyriver.train.search.sampling import Sampler
from skyriver.train.search.trial import Trial, best_of
from skyriver.train.search.watch import Predict, Pruned, Trying, Until, Watch

FAILURES: Final = 5
"""Where nothing but failures came of so many trials, more of them would hardly come to anything else."""
WAIT_S: Final = 0.1
"""Between two looks whether others are done."""
LEAST_PATIENCE_S: Final = 600.0
TIMES_THE_LONGEST: Final = 20
"""Times the longest trial: who takes longer for one hangs, and is not waited for."""
_MEASURES: Final = {
    "average_precision": measure.average_precision,
    "auc": measure.roc_auc,
    "log_loss": measure.log_loss,
    "brier": measure.brier,
}

Fit = Callable[[Mapping[str, Value], Watch], Predict]
"""Calls the training function with these parameters on the rows of a trial. Raises SkyriverError where it fails."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows that judge trials: `x` float32 (m, F), as the training function would get them `cleaned`, and their labels;
    `learned` is on how many rows trials are fitted."""

    x: NDArray[np.float32]
    cleaned: NDArray[np.float32]
    labels: NDArray[np.float32]
    learned: int


@dataclass(frozen=True, slots=True)
class Found:
    """`best` is one of `trials`; `value` is its metric, as it is read (a loss is lower where it is better)."""

    metric: str
    best: Trial
    trials: tuple[Trial, ...]
    ended: str
    seconds: float
    learned: int
    judged: int

    @property
    def watch(self) -> Watch:
        """For the fit on all rows."""
        return Until(self.best.step) if self.best.step else Watch()

    def read(self, value: float) -> float:
        return -value if self.metric in LOWER_IS_BETTER else value

    def __str__(self) -> str:
        states: Counter[str] = Counter(trial.state for trial in self.trials)
        cut = ", ".join(
            f"{states[s]} {told}" for s, told in (("pruned", "cut short"), ("failed", "failed")) if states[s]
        )
        params = ", ".join(f"{name}={_shown(value)}" for name, value in self.best.params.items())
        value = self.read(self.best.value or 0.0)
        return (
            f"best of {len(self.trials)} trials{f' ({cut})' if cut else ''}: {params}, {self.metric} {value:.4f} on"
            f" {self.judged:,} held-out training rows; ended by {self.ended} after {self.seconds:.0f} s"
        )


def judge_of(metric: str, labels: NDArray[np.float32]) -> Callable[[NDArray[Any]], float]:
    """How good scores are, higher is better. Raises JobFailed (BAD_SCORES) for scores that are no numbers."""
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0

    def judge(scores: NDArray[Any]) -> float:
        if len(scores) != len(labels) or not np.isfinite(scores).all():
            raise JobFailed(
                f"The model gave {len(scores):,} scores for {len(labels):,} rows, or some that are no numbers.",
                code="BAD_SCORES",
                next_action="Return a model whose scores are finite, one for each row.",
            )
        return sign * _MEASURES[metric](labels, scores)

    return judge


def open_space(spec: SearchSpec, given: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """What is left to search where some parameters are given."""
    return tuple(each for each in spec.space if each.name not in given)


@dataclass
class Searching:
    """One who takes part in a search: trial after trial, each as soon as nobody else has it. Others do the same at the
    same time, in other processes, and hear of it by the journal.

    `at_once`: how many there may be. Trial k is proposed, and compared, by trials up to k - `back` alone, and begins
    when these are done: so the same come out, whoever does which and when, and whoever is killed meanwhile.
    """

    spec: SearchSpec
    space: Sequence[ParameterSpec]
    """What of the spec's is searched, at least one."""
    budget: Budget
    held_out: HeldOut
    fit: Fit
    journal: Journal
    seed: int
    clock: Callable[[], float]
    """Seconds since a time that is everybody's."""
    progress: Progress
    at_once: int = 1
    sleep: Callable[[float], None] = time.sleep
    since: float | None = None
    """When its work for the search began; None: with its first turn."""
    _told: int = 0
    """Trials that the sampler knows."""
    _stays: bool = False

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.space, self.seed)
        self._judge = judge_of(self.spec.metric, self.held_out.labels)

    @property
    def back(self) -> int:
        """Twice as many as there may be: who is ready sooner need not wait for who takes a little longer."""
        return 2 * self.at_once if self.at_once > 1 else 1

    def run(self) -> str:
        """Why it ended. Trials of the journal count, with the time that they took."""
        waits, signs = 0.0, self.journal.signs()
        while True:
            with self.journal.turn():
                found = self._turn()
            if isinstance(found, str):
                return found
            if found is not None:
                self._do(found)
                waits = 0.0
                continue
            before, signs = signs, self.journal.signs()
            waits = waits + WAIT_S if signs == before else 0.0
            if waits > self._patience():
                with self.journal.turn():
                    self._stay(self.clock())
                return "a trial of somebody who does not tell anything any more"
            self.sleep(WAIT_S)

    def found(self, ended: str) -> Found:
        """Raises JobFailed (TRIALS_FAILED) where every trial failed, with the last one's error."""
        trials = self.journal.trials
        best = best_of(trials)
        if best is None:
            raise JobFailed(
                f"Each of the {len(trials)} trials failed, the last one so: {trials[-1].error}"
                if any(trial.state == "failed" for trial in trials)
                else "No trial came to its end.",
                code="TRIALS_FAILED",
                next_action="Correct the function, or narrow the space; the log of the job has every trial.",
            )
        judged = len(self.held_out.labels)
        seconds = self._spent(own=None).seconds
        return Found(self.spec.metric, best, tuple(trials), ended, seconds, self.held_out.learned, judged)

    def _turn(self) -> Begun | str | None:
        """What `_next` gives, written down."""
        if not self._stays:
            self._stay(self.clock())
        found = self._next()
        if isinstance(found, str):
            self._stay(self.clock())
            if self.at_once > 1 and not self.journal.ended:
                self.journal.end(found)
        return found

    def _stay(self, until: float) -> None:
        self.since = until if self.since is None else self.since
        self.journal.stay(self.since, until)
        self._stays = True

    def _next(self) -> Begun | str | None:
        """A trial that is ours now, why there is none any more, or None: there will be one later. Within a turn."""
        journal = self.journal
        for begun in sorted(journal.begun.values(), key=lambda begun: begun.number):
            if journal.is_left(begun):
                journal.gone(begun, self.clock())
                journal.begin(begun.number, begun.params, self.clock())
                return journal.begun[begun.number]
        number = len(journal.trials) + len(journal.begun)
        known = self._known(number)
        if len(known) < number - self.back + 1:
            return self.budget.over(self._spent(own=None)) or None
        for trial in known[self._told :]:
            self._sampler.tell(trial)
        self._told = len(known)
        for params in [each.params for each in journal.trials] + [each.params for each in journal.begun.values()]:
            self._sampler.skip(params)
        if ended := self.budget.ended(number, known, self._spent(own=None)):
            return ended
        if self._sampler.exhausted:
            return "the space, every combination of which was tried"
        if len(known) >= FAILURES and all(trial.state == "failed" for trial in known):
            return f"{len(known)} trials that failed, and no other"
        journal.begin(number, self._sampler.ask(number), self.clock())
        return journal.begun[number]

    def _known(self, number: int) -> list[Trial]:
        """The trials that this one is proposed and compared by, as far as they are done."""
        return [trial for trial in self.journal.trials if trial.number <= number - self.back]

    def _do(self, begun: Begun) -> None:
        self.progress("search", len(self.journal.trials), self.budget.trials)
        known = self._known(begun.number)

        def worth(looks: int, value: float) -> bool:
            self.journal.touch()
            if self.budget.timed:
                self.journal.refresh()
                if best_of(self.journal.trials) is not None and self.budget.over(self._spent(own=begun)):
                    return False
            return goes_on(looks, value, [trial.looks for trial in known])

        watch = Trying(self.held_out.cleaned, self._judge, worth)
        trial = _try(begun, self.fit, watch, self.held_out.x, self._judge, self.clock)
        with self.journal.turn():
            self.journal.add(trial)
            self._stay(trial.at + trial.seconds)
        _tell(trial, self.spec.metric)

    def _spent(self, own: Begun | None) -> Spent:
        """`own`: a trial under way here. Those of others count as far as somebody goes on with them."""
        now = self.clock()
        begun = [each for each in self.journal.begun.values() if each.number != (own and own.number)]
        others = [each for each in begun if not self.journal.is_left(each)] if self.at_once > 1 else []
        under_way = [(each.at, now) for each in (*others, *((own,) if own is not None else ()))]
        done = [(trial.at, trial.at + trial.seconds) for trial in self.journal.trials]
        return Spent.of((*done, *under_way), self.journal.stays(now))

    def _patience(self) -> float:
        """How long somebody else's trial is waited for without a sign of life."""
        longest = max((trial.seconds for trial in self.journal.trials), default=0.0)
        return max(LEAST_PATIENCE_S, TIMES_THE_LONGEST * longest)


def _try(
    of: Begun,
    fit: Fit,
    watch: Trying,
    x: NDArray[np.float32],
    judge: Callable[[NDArray[Any]], float],
    clock: Callable[[], float],
) -> Trial:
    number, params, at = of.number, of.params, of.at

    def seconds() -> float:
        return max(0.0, clock() - at)

    try:
        with suppress(Pruned):
            predict = fit(params, watch)
        looks = tuple(watch.looks)
        if watch.pruned:
            return Trial(number, params, "pruned", looks[-1][1], seconds(), looks=looks, at=at)
        step, value = watch.best or (0, 0.0)
        if not step:
            value = judge(np.asarray(predict(x), dtype=np.float64).reshape(-1))
        if not math.isfinite(value):
            raise JobFailed("Its metric is no number.", code="BAD_SCORES", next_action="Hold out more rows.")
    except SkyriverError as error:
        told = f"{error.where}: {error.message}" if error.where else error.message
        return Trial(number, params, "failed", None, seconds(), error=told, at=at)
    return Trial(number, params, "complete", value, seconds(), step, looks, at=at)


def _tell(trial: Trial, metric: str) -> None:
    params = ", ".join(f"{name}={_shown(value)}" for name, value in trial.params.items())
    if trial.value is None:
        came = f"failed: {trial.error}"
    else:
        came = f"{metric} {-trial.value if metric in LOWER_IS_BETTER else trial.value:.4f}"
    cut = f", cut short at {trial.looks[-1][0]}" if trial.state == "pruned" else ""
    at = f", best at {trial.step}" if trial.step else ""
    print(f"trial {trial.number}: {params}: {came}{cut}{at}, {trial.seconds:.1f} s", file=sys.stderr, flush=True)


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
