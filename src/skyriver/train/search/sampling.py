"""Which parameters are tried next: Optuna's tree-structured Parzen estimator, as a function of the seed, the trial's
number and the trials before it. So a search that goes on after its job was killed tries what it would have tried.

J. Bergstra, R. Bardenet, Y. Bengio, B. Kégl, Algorithms for Hyper-Parameter Optimization, NeurIPS 2011.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from skyriver.core.spec import ParameterSpec
from skyriver.core.spec_search import Value
from skyriver.train.packages import package
from skyriver.train.search.trial import Trial

DRAWS: Final = 20
"""So often it is drawn again where the same was tried before."""


class Sampler:
    """Raises InvalidInput (MISSING_PACKAGE) without Optuna."""

    def __init__(self, space: Sequence[ParameterSpec], seed: int, trials: Iterable[Trial] = ()) -> None:
        optuna = package("optuna", "search", "A search for parameters")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._seed = optuna, seed & 0xFFFF_FFFF
        self._space = {each.name: _distribution(optuna, each) for each in space}
        self._size = _combinations(space)
        self._tried: set[tuple[Any, ...]] = set()
        self._study = optuna.create_study(direction="maximize")
        for trial in trials:
            self.tell(trial)

    @property
    def exhausted(self) -> bool:
        """Whether every combination was tried."""
        return self._size is not None and len(self._tried) >= self._size

    def ask(self, number: int) -> dict[str, Value]:
        """Parameters for the trial of this number, which were not tried before as far as that is easy to have."""
        params: dict[str, Value] = {}
        for draw in range(DRAWS):
            seed = int(np.random.SeedSequence([self._seed, number, draw]).generate_state(1)[0])
            samplers = self._optuna.samplers
            self._study.sampler = samplers.TPESampler(seed=seed) if draw == 0 else samplers.RandomSampler(seed=seed)
            asked = self._study.ask(self._space)
            params = {name: asked.params[name] for name in self._space}
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)  # what it comes to is told as its own
            if self._key(params) not in self._tried:
                break
        return params

    def skip(self, params: Mapping[str, Value]) -> None:
        """These are tried by somebody: others are wanted."""
        self._tried.add(self._key(params))

    def tell(self, trial: Trial) -> None:
        self._tried.add(self._key(trial.params))
        if trial.value is None:
            return
        states = self._optuna.trial.TrialState
        complete = trial.state == "complete"
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=states.COMPLETE if complete else states.PRUNED,
                value=trial.value if complete else None,
                params=dict(trial.params),
                distributions=self._space,
                intermediate_values=dict(trial.looks),
            )
        )

    def _key(self, params: Mapping[str, Value]) -> tuple[Any, ...]:
        return tuple((type(params[name]).__name__, params[name]) for name in self._space)


def _distribution(optuna: Any, each: ParameterSpec) -> Any:
    kinds = optuna.distributions
    if each.kind == "choice":
        return kinds.CategoricalDistribution(each.choices)
    if each.kind == "int":
        return kinds.IntDistribution(int(each.low), int(each.high), log=each.log)
    return kinds.FloatDistribution(each.low, each.high, log=each.log)


def _combinations(space: Sequence[ParameterSpec]) -> int | None:
    """How many there are; None where there is no end of them."""
    count = 1
    for each in space:
        if each.kind == "float":
            return None
        count *= len(each.choices) if each.kind == "choice" else int(each.high) - int(each.low) + 1
    return count
