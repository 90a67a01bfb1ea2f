"""Boosted trees that go on from those which an attempt before had made.

LightGBM and XGBoost train as they always do; after every tenth tree the model is kept, if that costs little. The next
attempt begins with the model that was kept, and trains the rest. Callbacks are told anew what was measured after each
tree that is there, so early stopping, learning rates and curves are those of a training that was never interrupted;
only a callback of LightGBM that asks the model itself sees all trees that are there, also when told of the first.

The trees are the same bits as without an interruption, unless something is drawn for each (bagging_fraction,
feature_fraction, extra_trees, subsample, ...): a framework does not say how far its draws are, so what comes after the
interruption is drawn anew. What would give other trees without a word (`_lightgbm_whole`, `_xgboost_whole`) is trained
from its first tree in each attempt, and the log says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from skyriver.core.errors import InvalidInput
from skyriver.train.kept_trees import OneModel, Trees

if TYPE_CHECKING:
    from skyriver.train.data import TrainingData

EVERY: Final = 10
"""Trees, between two states that may be kept."""
_SEED: Final = ("seed", "random_seed", "random_state")
_SEEDS: Final = {
    "bagging_seed": ("bagging_seed", "bagging_fraction_seed"),
    "feature_fraction_seed": ("feature_fraction_seed",),
    "extra_seed": ("extra_seed",),
    "objective_seed": ("objective_seed",),
}
_REMEMBERS: Final = ("cegb_penalty_feature_coupled", "cegb_penalty_feature_lazy")
"""Settings by which a tree of LightGBM depends on more than what those before it say of the rows."""
_BOOSTING: Final = ("boosting", "boosting_type", "boost")
_CHANGES: Final = {"dart": "changes trees that it has made", "rf": "cannot begin with trees that are there"}
_ROUNDS: Final = (
    "num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds",
    "num_boost_round", "n_estimators", "max_iter",
)  # fmt: skip
_STOPPING: Final = ("early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change")
_EXAMPLE: Final = "data.boost(settings, lightgbm.Dataset(data.x, data.y), 1000)"


def boost(data: TrainingData, settings: Mapping[str, Any], rows: Any, rounds: int, more: dict[str, Any]) -> Any:
    """The Booster; see `TrainingData.boost`."""
    framework = type(rows).__module__.partition(".")[0]
    trains = {"lightgbm": _lightgbm, "xgboost": _xgboost}.get(framework)
    if trains is None:
        _refuse(f"got rows as {type(rows).__name__}", f"Give a lightgbm.Dataset or an xgboost.DMatrix: {_EXAMPLE}.")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        _refuse(f"got {rounds!r} as number of trees", f"Give a whole number of at least 1: {_EXAMPLE}.")
    _check(framework, settings, more)
    model = None
    if data.kept is not None:
        about = {"settings": settings, "rounds": rounds, "params": data.params, "seed": data.seed, "by": framework}
        model = data.kept.open(about, {"x": data.x, "y": data.y, "time": data.time, "weights": data.weights})
        why = (_lightgbm_whole if framework == "lightgbm" else _xgboost_whole)(settings, rows, more)
        if why is not None:
            _say(f"{why} cannot go on from trees that are there, so none are kept: each attempt begins anew")
            model = None
    return trains(dict(settings), rows, rounds, more, model)


def _check(framework: str, settings: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    name = "init_model" if framework == "lightgbm" else "xgb_model"
    if more.get(name) is not None:
        _refuse(f"got {name}=", "Leave it out: it begins with trees of its own. The framework's train takes it.")
    if framework != "lightgbm":
        return
    if given := [name for name in _ROUNDS if name in settings]:
        _refuse(f"got {given[0]} among the settings", f"Give the number of trees behind the rows: {_EXAMPLE}.")
    if given := [name for name in _STOPPING if name in settings]:
        _refuse(f"got {given[0]} among the settings", "Write callbacks=[lightgbm.early_stopping(rounds)].")
    for kind in (settings.get(key) for key in _BOOSTING):
        if kind in _CHANGES:
            _refuse(f'got boosting "{kind}", which {_CHANGES[kind]}', "Call lightgbm.train, which begins anew.")


def _refuse(what: str, next_action: str) -> NoReturn:
    raise InvalidInput(f"data.boost {what}.", code="BAD_BOOST", next_action=next_action)


def _goes_on(model: OneModel | None, rounds: int) -> Trees | None:
    found = model.newest() if model is not None else None
    if found is None or not 0 < found.rounds < rounds:
        return None
    return found


def _say(line: str) -> None:
    print(f"boosting: {line}", file=sys.stderr, flush=True)


def _seed(settings: Mapping[str, Any], names: Sequence[str], done: int) -> int:
    """Another one than that with which the trees that are there were drawn."""
    given = next((settings[name] for name in names if settings.get(name) is not None), 0)
    return (int(given) + done) % 2**31


# LightGBM


def _lightgbm(settings: dict[str, Any], rows: Any, rounds: int, more: dict[str, Any], model: OneModel | None) -> Any:
    import lightgbm

    given: list[Any] = list(more.pop("callbacks", None) or ())
    callbacks = [_as_of_all(each, place - len(given), rounds) for place, each in enumerate(given)]
    told: list[Any] = []
    found = _goes_on(model, rounds)
    again = _copies(rows, more) if found is not None else None
    if found is not None and again is None:
        _say(
            f"{found.rounds:,} trees are there, but rows that LightGBM was given before are not had again: begins anew"
        )
        found = None
    if found is not None:
        _say(f"goes on after {found.rounds:,} of {rounds:,} trees")
        rows = again
        told = found.told
        booster = lightgbm.Booster(model_str=found.model.decode())
        names = more.get("valid_names") or ()
        for each, name in zip(_valid_sets(more), [names] if isinstance(names, str) else names, strict=False):
            if each is rows:
                booster.set_train_data_name(name)  # early stopping does not go by these
        if _tell_again(booster, settings, callbacks, told, rounds):
            return booster
        settings |= {name: _seed(settings, (*also, *_SEED), found.rounds) for name, also in _SEEDS.items()}
        more["init_model"] = booster
    done = found.rounds if found is not None else 0
    if model is not None:
        callbacks.append(_keeping(model, told, rounds))
    return lightgbm.train(settings, rows, rounds - done, callbacks=callbacks, **more)


def _lightgbm_whole(settings: Mapping[str, Any], rows: Any, more: Mapping[str, Any]) -> str | None:
    """What of it does not let LightGBM go on with the same bits."""
    every = [rows, *_valid_sets(more)]
    for name in ("init_score", "position"):  # those of `init_model` take their place; it learns more than trees of them
        if any(getattr(each, name, None) is not None for each in every):
            return f"a Dataset with {name}"
    raw = [getattr(each, "data", None) for each in every]  # None: is told when trees are there
    if any(of is not None and len(getattr(of, "shape", ())) != 2 for of in raw):
        return "a Dataset of files or parts"
    return next((name for name in _REMEMBERS if settings.get(name) is not None), None)


def _valid_sets(more: Mapping[str, Any]) -> list[Any]:
    given = more.get("valid_sets")
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def _copies(rows: Any, more: dict[str, Any]) -> Any:
    """The rows as they were before LightGBM put them into bins, and in `more` the valid sets: a Dataset belongs to the
    model that it was begun with, and the function may train another one on it. None if they are not had any more."""
    import lightgbm

    valid = _valid_sets(more)
    if any(getattr(each, "data", None) is None for each in (rows, *valid)):
        return None
    copies: dict[int, Any] = {}
    for each in (rows, *valid):
        if id(each) not in copies:
            copies[id(each)] = lightgbm.Dataset(
                each.data, each.label, copies.get(id(each.reference), each.reference), each.weight, each.group,
                feature_name=each.feature_name, categorical_feature=each.categorical_feature, params=each.params,
                free_raw_data=each.free_raw_data,
            )  # fmt: skip
    if valid:
        more["valid_sets"] = [copies[id(each)] for each in valid]
    return copies[id(rows)]


def _as_of_all(callback: Callable[[Any], None], order: int, rounds: int) -> Callable[[Any], None]:
    """It is told that the training begins with the first tree, also where it goes on. `order`: if it has none."""

    def wrapped(env: Any) -> None:
        callback(type(env)(env.model, env.params, env.iteration, 0, rounds, env.evaluation_result_list))

    before = getattr(callback, "before_iteration", False)
    wrapped.__dict__.update(order=getattr(callback, "order", order), before_iteration=before)
    return wrapped


def _keeping(model: OneModel, told: list[Any], rounds: int) -> Callable[[Any], None]:
    def after_tree(env: Any) -> None:
        told.append([_plain(result) for result in env.evaluation_result_list or ()])
        done = env.iteration + 1
        if not (done % EVERY == 0 and done < rounds and model.due):
            return
        if env.model.current_iteration() == done:  # fewer where there was nothing to split, which counts on
            model.put(done, told, lambda: env.model.model_to_string(num_iteration=-1).encode())

    after_tree.__dict__["order"] = -1_000  # before one that ends it
    return after_tree


def _plain(result: Any) -> list[Any]:
    """An evaluation is a tuple: data, metric, number, whether more is better."""
    return [float(part) if hasattr(part, "dtype") else part for part in result]


def _tell_again(
    booster: Any, settings: Mapping[str, Any], callbacks: Sequence[Any], told: Sequence[Any], rounds: int
) -> bool:
    """Whether a callback ends the training with the trees that are there; the booster has the best of them then."""
    from lightgbm.callback import CallbackEnv, EarlyStopException

    after = sorted((each for each in callbacks if not each.before_iteration), key=lambda each: each.order)
    try:
        for iteration, results in enumerate(told):
            values = [_result(result) for result in results]
            for callback in after:
                callback(CallbackEnv(booster, dict(settings), iteration, 0, rounds, values))
    except EarlyStopException as stopped:
        booster.best_iteration = stopped.best_iteration + 1
        booster.best_score = {}
        for data, metric, value, *_ in stopped.best_score:
            booster.best_score.setdefault(data, {})[metric] = value
        return True
    return False


def _result(values: Sequence[Any]) -> Any:
    import lightgbm

    named = getattr(lightgbm, "EvalResult", None)  # from 4.7 on
    return tuple(values) if named is None else named(*values)


# XGBoost


def _xgboost(settings: dict[str, Any], rows: Any, rounds: int, more: dict[str, Any], model: OneModel | None) -> Any:
    import xgboost

    if model is None:
        return xgboost.train(settings, rows, rounds, **more)
    found = _goes_on(model, rounds)
    done = found.rounds if found is not None else 0
    if found is not None:
        _say(f"goes on after {done:,} of {rounds:,} trees")
        more["xgb_model"] = bytearray(found.model)
        settings["seed"] = _seed(settings, _SEED, done)
        settings.pop("random_state", None)
    given, evaluated = _own_callbacks(more), more.pop("evals_result", None)
    as_of_all = _AsOfAll(given, model, rounds, done, found.told if found is not None else [])

    class Callback(xgboost.callback.TrainingCallback):  # type: ignore[misc]  # it has no types
        def before_training(self, model: Any) -> Any:
            return as_of_all.begin(model)

        def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            return as_of_all.stopped

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            return as_of_all.after_tree(model, done + epoch, evals_log)

        def after_training(self, model: Any) -> Any:
            for callback in given:
                model = callback.after_training(model)
            return model

    booster = xgboost.train(settings, rows, rounds - done, callbacks=[Callback()], verbose_eval=False, **more)
    if evaluated is not None:
        evaluated.update(as_of_all.log)
    return booster


def _own_callbacks(more: dict[str, Any]) -> list[Any]:
    """Out of `more`, in the order in which xgboost.train has them."""
    from xgboost.callback import EarlyStopping, EvaluationMonitor

    callbacks = list(more.pop("callbacks", None) or ())
    verbose, stopping = more.pop("verbose_eval", True), more.pop("early_stopping_rounds", None)
    if verbose:
        callbacks.append(EvaluationMonitor(period=1 if verbose is True else verbose))
    if stopping:
        callbacks.append(EarlyStopping(rounds=stopping, maximize=more.pop("maximize", None)))
    return callbacks


def _xgboost_whole(settings: Mapping[str, Any], rows: Any, more: Mapping[str, Any]) -> str | None:
    """What of it does not let XGBoost go on with the same bits. Its own callbacks depend on numbers alone; of others
    it is not known what they see in a model that has more trees already."""
    from xgboost.callback import EarlyStopping, EvaluationMonitor, LearningRateScheduler

    own = (EarlyStopping, EvaluationMonitor, LearningRateScheduler)
    for callback in more.get("callbacks") or ():
        if type(callback) not in own:
            return f"the callback {type(callback).__qualname__}"
    if str(settings.get("lambdarank_unbiased", 0)).lower() not in ("0", "false", "none"):
        return "lambdarank_unbiased"  # it learns more than trees
    kind = settings.get("booster") or "gbtree"
    return None if kind == "gbtree" else f'the booster "{kind}"'


@dataclass(slots=True)
class _AsOfAll:
    """XGBoost's callbacks as of a training that was never interrupted: its first tree is 0, and `log` has all that was
    evaluated."""

    callbacks: Sequence[Any]
    kept: OneModel
    rounds: int
    done: int
    told: list[Any]
    log: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    stopped: bool = False

    def begin(self, model: Any) -> Any:
        from xgboost.callback import EarlyStopping, EvaluationMonitor

        for callback in self.callbacks:
            model = callback.before_training(model)
            if isinstance(callback, EarlyStopping):
                callback.starting_round = 0  # it adds the trees that are there to the number it is told
        silent = [each for each in self.callbacks if not isinstance(each, EvaluationMonitor)]
        for tree, results in enumerate(self.told):
            self._hear(results)
            self.stopped = any(callback.after_iteration(model, tree, self.log) for callback in silent)
            if self.stopped:  # it was killed between this tree and its end
                break
        return model

    def after_tree(self, model: Any, tree: int, evals_log: Mapping[str, Mapping[str, Sequence[float]]]) -> bool:
        results = [(data, metric, of[-1]) for data, metrics in evals_log.items() for metric, of in metrics.items()]
        self.told.append(results)
        self._hear(results)
        if (tree + 1) % EVERY == 0 and tree + 1 < self.rounds and self.kept.due:
            self.kept.put(tree + 1, self.told, lambda: bytes(model.save_raw("ubj")))
        return any(callback.after_iteration(model, tree, self.log) for callback in self.callbacks)

    def _hear(self, results: Sequence[Any]) -> None:
        for data, metric, value in results:
            self.log.setdefault(data, {}).setdefault(metric, []).append(value)
