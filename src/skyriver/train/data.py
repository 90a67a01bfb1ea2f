"""What a training function gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skyriver.core.curves import Tell, untold
from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.kept_trees import KeptTrees
from skyriver.train.search.watch import Predict, Watch

if TYPE_CHECKING:
    import lightgbm

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training part of the data; the test part is never shown to the training function.

    `x` (n, f) float32, missing is NaN; `y` (n,) float32, the label; `names` the f feature names in the
    model's input order; `time` (n,) int64 effective time in microseconds, ascending (zeros for a table);
    `params` what `skyriver run --param name=value` gave, or a search tries; `seed` for whatever is random.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    names: tuple[str, ...]
    time: NDArray[np.int64]
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    tell: Tell = field(default=untold, repr=False, compare=False)
    watch: Watch = field(default_factory=Watch, repr=False, compare=False)
    """Of a search: who looks at the model while it is made."""
    weights: NDArray[np.float32] | None = None
    """(n,) float32, where `@app.train(..., weights=...)` says so."""
    augment: tuple[AugmentSpec, ...] = ()
    """As declared; `ctx.steps` does it by itself."""
    kept: KeptTrees | None = field(default=None, repr=False, compare=False)
    """Where `boost` keeps trees; None: nowhere."""

    datasets: dict[tuple[tuple[str, Any], ...], lightgbm.Dataset] = field(
        default_factory=dict, repr=False, compare=False
    )
    """LightGBM's, by their parameters: trials of the same rows have the same ones."""

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process nobody listens, and nobody looks."""
        alone: dict[str, Any] = {"tell": untold, "watch": Watch(), "datasets": {}, "kept": None}
        given = (alone.get(one.name, getattr(self, one.name)) for one in fields(self))
        return type(self), tuple(given)

    def augmented(self, epoch: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """x and y as `@app.train(..., augment=...)` changes them: in each epoch otherwise."""
        from skyriver.train.feed.augment import augmented

        x, y = augmented((self.x, self.y), np.arange(len(self.x)), self.augment, self.seed, epoch)
        return x, y

    def boost(self, settings: Mapping[str, Any], rows: Any, rounds: int, **more: Any) -> Any:
        """The Booster that `lightgbm.train(settings, rows, rounds, **more)` gives, or `xgboost.train` where `rows` is a
        DMatrix. While it trains its trees are kept: an attempt after one that was killed goes on from those. What would
        go on with other trees keeps none, and the log says why (`skyriver.train.boost`).

        Raises InvalidInput (BAD_BOOST) for what cannot go on: boosting dart and rf, `init_model=`, and settings that
        belong elsewhere."""
        from skyriver.train.boost import boost

        return boost(self, settings, rows, rounds, more)

    def report(self, step: int, *, samples: int = 0, of: int = 0, **values: Any) -> None:
        """Tells how the training goes: numbers by name at a step, as in `data.report(step, loss=0.3, auc=0.91)`. They
        become the curves of the run. As often as you like: it takes some microseconds, and a curve keeps 256 points.

        `samples`: how many this step took; `of`: how many steps there will be. A step that was reported before takes
        its place again, and what came behind it is forgotten. NaN and infinities are kept as such. Raises InvalidInput
        (BAD_METRIC; TOO_MANY_METRICS past 32 names).
        """
        self.tell(step, values, samples, of)

    def callback(self) -> Callable[[Any], None]:
        """For `lightgbm.train(..., valid_sets=..., callbacks=[data.callback()])`: reports what LightGBM evaluates after
        each tree, as `valid_0 auc`."""

        def after_tree(env: Any) -> None:
            values = {f"{name} {metric}": value for name, metric, value, *_ in env.evaluation_result_list or ()}
            if values:
                self.tell(env.iteration + 1, values, len(self.x), env.end_iteration)

        return after_tree

    def enough(self, step: int, predict: Predict) -> bool:
        """To be asked after each of the steps (epochs, say) of a training that is searched: whether so many are enough,
        because others are better, or it gets no better, or it was best there. `predict`: what the model says by now of
        rows float32 (m, f): scores (m,). Without a search it is never enough."""
        return self.watch.enough(step, predict)

    def dataset(self, **params: Any) -> lightgbm.Dataset:
        """x, y and the weights as `lightgbm.train` takes them, put into bins once for all trials of a search. `params`:
        LightGBM's that concern the bins, as max_bin. It has no values of its own any more, so it cannot be changed."""
        import lightgbm

        known = tuple(sorted(params.items()))
        if known not in self.datasets:
            terms = {"feature_pre_filter": False, "verbose": -1, **params}  # other trials have another min_data_in_leaf
            self.datasets[known] = lightgbm.Dataset(self.x, self.y, weight=self.weights, params=terms)
        return self.datasets[known]

    @property
    def early_stopping(self) -> Callable[[Any], None]:
        """The same for `lightgbm.train(..., callbacks=[data.early_stopping])`, which asks after its trees."""
        return self.watch.after_tree


def read_only(column: NDArray[_Number]) -> NDArray[_Number]:
    """A view: what a function writes into its data must not reach the rows it is judged by."""
    view = column[:]
    view.flags.writeable = False
    return view
