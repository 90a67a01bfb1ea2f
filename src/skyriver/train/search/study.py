"""A search: trials one after the other until the budget is spent, the best of which is fitted on all rows."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed, SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import ParameterSpec, SearchSpec
from skyriver.core.spec_search import LOWER_IS_BETTER, Value
from skyriver.train import metrics as measure
from skyriver.train.search.budget import Budget
from skyriver.train.search.halving import goes_on
from skyriver.train.search.journal import Journal
from skyriver.train.search.sampling import Sampler
from skyriver.train.search.trial import Trial, best_of
from skyriver.train.search.watch import Predict, Trying, Until, Watch

FAILURES: Final = 5
"""Where nothing but failures came of so many trials, more of them would hardly come to anything else."""
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


def search(
    spec: SearchSpec,
    space: Sequence[ParameterSpec],
    budget: Budget,
    held_out: HeldOut,
    fit: Fit,
    journal: Journal,
    *,
    seed: int,
    clock: Callable[[], float],
    progress: Progress,
) -> Found:
    """`space`: what of the spec's is searched, at least one; `clock`: seconds. Trials of the `journal` count, with the
    time that they took. Raises JobFailed (TRIALS_FAILED) where every trial failed, with the last one's error."""
    sampler, judge = Sampler(space, seed, journal.trials), judge_of(spec.metric, held_out.labels)
    before, begun = sum(trial.seconds for trial in journal.trials), clock()
    ended = ""
    while not (ended := budget.ended(journal.trials, before + clock() - begun)):
        if sampler.exhausted:
            ended = "the space, every combination of which was tried"
            break
        number = len(journal.trials)
        progress("search", number, budget.trials)

        def worth(looks: int, value: float) -> bool:
            spent = budget.ended(journal.trials, before + clock() - begun)
            if spent and best_of(journal.trials) is not None:
                return False
            return goes_on(looks, value, [trial.looks for trial in journal.trials])

        trial = _try(number, sampler.ask(number), fit, Trying(held_out.cleaned, judge, worth), held_out.x, judge, clock)
        journal.add(trial)
        sampler.tell(trial)
        _tell(trial, spec.metric)
        if all(t.state == "failed" for t in journal.trials) and len(journal.trials) >= FAILURES:
            break
    best = best_of(journal.trials)
    if best is None:
        error = journal.trials[-1].error
        raise JobFailed(
            f"Each of the {len(journal.trials)} trials failed, the last one so: {error}",
            code="TRIALS_FAILED",
            next_action="Correct the function, or narrow the space; the log of the job has every trial.",
        )
    seconds = before + clock() - begun
    return Found(spec.metric, best, tuple(journal.trials), ended, seconds, held_out.learned, len(held_out.labels))


def _try(
    number: int,
    params: Mapping[str, Value],
    fit: Fit,
    watch: Trying,
    x: NDArray[np.float32],
    judge: Callable[[NDArray[Any]], float],
    clock: Callable[[], float],
) -> Trial:
    begun = clock()
    try:
        predict = fit(params, watch)
        looks = tuple(watch.looks)
        if watch.pruned:
            return Trial(number, params, "pruned", looks[-1][1], clock() - begun, looks=looks)
        value = judge(np.asarray(predict(x), dtype=np.float64).reshape(-1))
        if not math.isfinite(value):
            raise JobFailed("Its metric is no number.", code="BAD_SCORES", next_action="Hold out more rows.")
    except SkyriverError as error:
        told = f"{error.where}: {error.message}" if error.where else error.message
        return Trial(number, params, "failed", None, clock() - begun, error=told)
    step, value = watch.best or (0, value)
    return Trial(number, params, "complete", value, clock() - begun, step, looks)


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
