"""Boosted trees that go on from those which an attempt before had made.

LightGBM and XGBoost train as they always do; after every tenth tree the model is kept, if that costs little. The next
attempt begins with the model that was kept, and trains the rest. LightGBM's callbacks are told anew what was measured
after each tree that is there, so early stopping and curves are those of a training that was never interrupted.

The trees are the same bits as without an interruption, unless each is made of rows or columns that were drawn
(bagging_fraction, feature_fraction, subsample, ...): a framework does not say how far its draws are, so what comes
after the interruption is drawn anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from skyriver.core.errors import InvalidInput
from skyriver.train.kept_trees import OneModel, Trees

if TYPE_CHECKING:
    from skyriver.train.data import TrainingData

EVERY: Final = 10
"""Trees, between two states that may be kept."""
_SEEDS: Final = ("bagging_seed", "feature_fraction_seed", "extra_seed", "objective_seed")
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
    print(f"boosting: goes on after {found.rounds:,} of {rounds:,} trees", file=sys.stderr, flush=True)
    return found


# LightGBM


def _lightgbm(settings: dict[str, Any], rows: Any, rounds: int, more: dict[str, Any], model: OneModel | None) -> Any:
    import lightgbm

    given: list[Any] = list(more.pop("callbacks", None) or ())
    callbacks = [_as_of_all(each, place - len(given), rounds) for place, each in enumerate(given)]
    told: list[Any] = []
    found = _goes_on(model, rounds)
    if found is not None:
        told = found.told
        booster = lightgbm.Booster(model_str=found.model.decode())
        stopped = _tell_again(booster, settings, callbacks, told, rounds)
        if stopped is not None:
            booster.best_iteration = stopped
            return booster
        settings |= {name: int(settings.get(name, settings.get("seed", 0))) + found.rounds for name in _SEEDS}
        more["init_model"] = booster
    done = found.rounds if found is not None else 0
    if model is not None:
        callbacks.append(_keeping(model, told, rounds))
    return lightgbm.train(settings, rows, rounds - done, callbacks=callbacks, **more)


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
        if done % EVERY == 0 and done < rounds and model.due:
            model.put(Trees(done, env.model.model_to_string(num_iteration=-1).encode(), told))

    after_tree.__dict__["order"] = -1_000  # before one that ends it
    return after_tree


def _plain(result: Any) -> list[Any]:
    """An evaluation is a tuple: data, metric, number, whether more is better."""
    return [float(part) if hasattr(part, "dtype") else part for part in result]


def _tell_again(
    booster: Any, settings: Mapping[str, Any], callbacks: Sequence[Any], told: Sequence[Any], rounds: int
) -> int | None:
    """The best number of trees where a callback ends the training with one of those that are there."""
    from lightgbm.callback import CallbackEnv, EarlyStopException

    after = sorted((each for each in callbacks if not each.before_iteration), key=lambda each: each.order)
    try:
        for iteration, results in enumerate(told):
            values = [_result(result) for result in results]
            for callback in after:
                callback(CallbackEnv(booster, dict(settings), iteration, 0, rounds, values))
    except EarlyStopException as stopped:
        return int(stopped.best_iteration) + 1
    return None


def _result(values: Sequence[Any]) -> Any:
    import lightgbm

    named = getattr(lightgbm, "EvalResult", None)  # from 4.7 on
    return tuple(values) if named is None else named(*values)


# XGBoost


def _xgboost(settings: dict[str, Any], rows: Any, rounds: int, more: dict[str, Any], model: OneModel | None) -> Any:
    import xgboost

    class Keeping(xgboost.callback.TrainingCallback):  # type: ignore[misc]  # it has no types
        def __init__(self, kept: OneModel, done: int) -> None:
            super().__init__()
            self._kept, self._done = kept, done

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            done = self._done + epoch + 1
            if done % EVERY == 0 and done < rounds and self._kept.due:
                self._kept.put(Trees(done, bytes(model.save_raw("ubj")), []))
            return False

    callbacks: list[Any] = list(more.pop("callbacks", None) or ())
    found = _goes_on(model, rounds)
    done = found.rounds if found is not None else 0
    if found is not None:
        booster = xgboost.Booster(settings, model_file=bytearray(found.model))
        more["xgb_model"] = booster
        settings["seed"] = int(settings.get("seed", 0)) + done
    if model is not None:
        callbacks.append(Keeping(model, done))
    return xgboost.train(settings, rows, rounds - done, callbacks=callbacks, **more)
