"""How good a model in the making is on rows that it does not get, and whether that is enough of it.

A training function asks after each step (`data.enough`), or has LightGBM ask after its trees (`data.early_stopping`).
In a trial the answer comes of held-out rows; when the best parameters are fitted on all rows there are none, and the
training ends where it was best in the trial; without a search it is never enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TREES: Final = 10
"""Between two looks at boosted trees."""
PATIENCE: Final = 5
"""So many looks in a row without a better one end a trial."""
FEW: Final = 10_000
"""Of fewer rows threads cost more than they bring."""
_CLOSE: Final = 1e-6
_BOOSTING: Final = ("boosting", "boosting_type", "boost")
"""The names that LightGBM's parameter has,"""
_ADDS: Final = ("gbdt", "gbrt", "goss")
"""and the values of it with which a tree stays as it was added."""

Scores = NDArray[Any]
Predict = Callable[[NDArray[np.float32]], Any]
"""Rows float32 (m, F) -> scores (m,), higher is more suspicious."""


class Pruned(BaseException):
    """Ends a trial that is not worth going on with: what the function would do with its model is lost on nobody. No
    Exception, for functions that try again whatever went wrong."""


class Watch:
    """Of a training that is not searched: nobody looks."""

    def enough(self, step: int, predict: Predict) -> bool:
        """Whether `step` steps are enough; `predict` is what the model says by now."""
        return False

    def after_tree(self, env: Any) -> None:
        """A callback of `lightgbm.train`: after each tree, with its CallbackEnv."""


class Until(Watch):
    """Of the training with the best parameters: as many steps as were best."""

    def __init__(self, step: int) -> None:
        self.step = step

    def enough(self, step: int, predict: Predict) -> bool:
        return step >= self.step

    def after_tree(self, env: Any) -> None:
        if env.iteration + 1 >= self.step:
            _stop(env, self.step)


class Trying(Watch):
    """Of a trial: looks at `x` float32 (m, F). `judge`: how good scores of these rows are, higher is better;
    `goes_on(looks, value)`: whether a trial is worth going on with that had `value` at its look number `looks`."""

    def __init__(
        self,
        x: NDArray[np.float32],
        judge: Callable[[Scores], float],
        goes_on: Callable[[int, float], bool] = lambda looks, value: True,
    ) -> None:
        self._x, self._judge, self._goes_on = x, judge, goes_on
        self.looks: list[tuple[int, float]] = []
        """Steps, and how good it was."""
        self.pruned = False
        self._since_best = 0
        self._raw: NDArray[np.float64] | None = np.zeros(len(x))
        """Sums over the trees so far; None where they do not tell the scores."""

    @property
    def best(self) -> tuple[int, float] | None:
        """The step that was best together with the looks beside it, and the mean of the three: of many looks at few
        rows the best one alone is mostly luck. The first one of equals; of fewer than three looks the best one."""
        values = [value for _, value in self.looks]
        if len(values) < 3:
            return max(self.looks, key=lambda look: look[1], default=None)
        means = [sum(values[place - 1 : place + 2]) / 3 for place in range(1, len(values) - 1)]
        place = max(range(len(means)), key=means.__getitem__)
        return self.looks[place + 1][0], means[place]

    def enough(self, step: int, predict: Predict) -> bool:
        value = self._judge(np.asarray(predict(self._x), dtype=np.float64).reshape(-1))
        highest = max((seen for _, seen in self.looks), default=-math.inf)
        self._since_best = 0 if value > highest else self._since_best + 1
        self.looks.append((int(step), value))
        self.pruned = not self._goes_on(len(self.looks), value)
        return self.pruned or self._since_best >= PATIENCE

    def after_tree(self, env: Any) -> None:
        trees = env.iteration + 1
        if trees % TREES == 0 and self.enough(trees, lambda x: self._scores(env, trees)):
            if self.pruned:
                raise Pruned
            best = self.best
            assert best is not None
            _stop(env, best[0])

    def _scores(self, env: Any, trees: int) -> Scores:
        """Of the trees so far. Those of before are not walked again, where scores are a function of sums over trees."""
        threads = 1 if len(self._x) < FEW else 0
        if not all(str(env.params[name]).lower() in _ADDS for name in _BOOSTING if name in env.params):
            self._raw = None  # dart makes earlier trees weigh less, at any step
        if self._raw is not None:
            self._raw += env.model.predict(
                self._x, raw_score=True, start_iteration=trees - TREES, num_iteration=TREES, num_threads=threads
            ).reshape(-1)
            said = 1 / (1 + np.exp(-self._raw))
            if trees > 2 * TREES:
                return said
        whole: Scores = env.model.predict(self._x, num_iteration=trees, num_threads=threads)
        if self._raw is None or np.abs(said - whole).max(initial=0.0) > _CLOSE:
            self._raw = None  # another objective
        return whole


def _stop(env: Any, trees: int) -> None:
    """LightGBM's way to end: the model then counts its first `trees` trees."""
    from lightgbm.callback import EarlyStopException

    raise EarlyStopException(trees - 1, [])
