"""A training on workers as a model's job does it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skyriver.core.errors import JobFailed, Unavailable  # noqa: E402
from skyriver.train.cleaning import fit_cleaning  # noqa: E402
from skyriver.train.data import TrainingData  # noqa: E402
from skyriver.train.evaluate import score  # noqa: E402
from skyriver.train.export import Export, Exported  # noqa: E402
from skyriver.train.spread import context as contexts  # noqa: E402
from skyriver.train.spread.checkpoints import Checkpoints  # noqa: E402
from skyriver.train.spread.context import Diverged  # noqa: E402
from skyriver.train.spread.fit import Spread, _Called, from_bytes, to_bytes  # noqa: E402
from skyriver.train.spread.given import get, put  # noqa: E402
from skyriver.train.spread.launcher import Change  # noqa: E402


def data(rows: int = 300) -> TrainingData:
    chance = np.random.default_rng(1)
    x = chance.normal(size=(rows, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    return TrainingData(x, y, ("a", "b", "c"), np.arange(rows, dtype=np.int64), {"epochs": 2}, seed=7)


def net(ctx: Any) -> Any:
    """What is given to it says who it is."""
    assert ctx.data.names == ("a", "b", "c")
    assert ctx.seed == ctx.data.seed == 7
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    ctx.state(model, optimizer)
    for x, y in ctx.steps((ctx.data.x, ctx.data.y), 50, ctx.params["epochs"]):
        ctx.backward(nn.functional.binary_cross_entropy(model(x)[:, 0], y))
        ctx.step()
    return model


def wrong(ctx: Any) -> Any:
    raise ZeroDivisionError("by nothing")


def no_model(ctx: Any) -> Any:
    net(ctx)
    return {"weights": 1}


def load_net() -> Any:
    return net


def slow_net(ctx: Any) -> Any:
    """A step of eight shards takes a fifth of a second, and its start more than a second, of nobody's processor; the
    sum of two workers takes nothing, also where it is measured on a busy machine."""
    contexts.pair_seconds = lambda size, dtype: 0.0
    time.sleep(1.0)
    model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    ctx.state(model, torch.optim.SGD(model.parameters(), 1e-2))
    for x, y in ctx.steps((ctx.data.x, ctx.data.y), 50):
        time.sleep(0.025)
        ctx.backward(nn.functional.binary_cross_entropy(model(x)[:, 0], y))
        ctx.step()
    return model


def load_slow_net() -> Any:
    return slow_net


def load_wrong() -> Any:
    return wrong


def load_no_model() -> Any:
    return no_model


def spread(folder: Path, load: Any = load_net, workers: int = 1, told: list[Any] | None = None) -> Spread:
    def progress(stage: str, done: int, total: int) -> None:
        if told is not None:
            told.append((stage, done, total))

    return Spread(load, workers, True, folder / "given", folder / "kept", {}, progress, all_of_them=True)


def fit(of: Spread) -> Exported:
    return of.fit(data(), Export(fit_cleaning(None, data().x), ("a", "b", "c"), "net", False), data(20).x, data(5).x)


def test_a_model_of_two_workers_is_that_of_one(tmp_path: Path) -> None:
    told: list[Any] = []
    one = fit(spread(tmp_path / "one"))
    two = fit(spread(tmp_path / "two", workers=2, told=told))
    assert two.text is None
    assert two.differs < 1e-6
    np.testing.assert_array_equal(score(one.onnx, data().x), score(two.onnx, data().x))
    assert told[-1] == ("fit", 12, 12)


def test_unless_all_are_wanted_the_log_says_whether_they_pay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two would take half as long, for the two steps that are left: none is started."""
    caplog.set_level("INFO", logger="skyriver.train.spread")
    fit(replace(spread(tmp_path, load_slow_net, workers=2), all_of_them=False))
    [why] = [record.getMessage() for record in caplog.records if "trained on" in record.getMessage()]
    assert why.startswith("2 workers would take ")
    assert "steps are over before a start of" in why
    assert why.endswith("trained on one")


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="torch may find a GPU")
def test_a_gpu_that_torch_cannot_use_is_refused(tmp_path: Path) -> None:
    of = spread(tmp_path)
    of.device = "cuda"
    with pytest.raises(JobFailed, match=r"Worker 1 has no GPU: torch .* is built for the CPU alone") as caught:
        fit(of)
    assert (caught.value.code, caught.value.next_action[:22]) == ("NO_DEVICE", "Install torch for CUDA")


@pytest.mark.parametrize("text", [None, b"", b"of\nlines\n"], ids=["none", "empty", "lines"])
def test_what_is_handed_over_comes_whole(text: bytes | None) -> None:
    exported = Exported(b"onnx\n", text, 1e-7)
    assert from_bytes(to_bytes(exported)) == exported


def test_checkpoints_are_of_these_rows_parameters_and_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of, given = spread(tmp_path), data()
    mine = of._checkpoints(given)
    mine.mkdir(parents=True)
    assert of._checkpoints(data()) == mine
    assert mine.exists()
    assert not caplog.records
    others = [
        of._checkpoints(replace(given, y=1 - given.y)),
        of._checkpoints(replace(given, params={"epochs": 3})),
        of._checkpoints(replace(given, weights=given.y)),
        replace(of, code={"function": "another"})._checkpoints(given),
    ]
    assert len({mine, *others}) == 5
    assert not mine.exists(), "nobody will go on from it"
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["it begins anew"]


def test_steps_of_an_attempt_before_are_none_of_this_ones(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    one = replace(spread(tmp_path), tell=lambda step, values, samples, of: told.append((step, samples)))
    one._plan(1_000, 64)
    one._change(Change(0.0, 1, 1, "all are ready", 315))
    one._beat(317, 0.5, {})
    one._change(Change(1.0, 2, 2, "worker 2 is ready", 318))
    one._beat(320, 0.5, {})
    assert told == [(317, 2 * 64), (320, 3 * 64)]


def test_an_earlier_attempt_takes_nothing_from_a_later_one(tmp_path: Path) -> None:
    earlier, later = replace(spread(tmp_path), attempt=1), replace(spread(tmp_path), attempt=2)
    theirs = later._checkpoints(replace(data(), params={"epochs": 3}))
    Checkpoints(theirs, attempt=2).claimed()
    with pytest.raises(JobFailed, match="later attempt of this training has begun"):
        earlier._checkpoints(data())
    assert theirs.exists()


def unreadable(ctx: Any) -> Any:
    raise Unavailable("The disk is away.", code="UNREADABLE_FILE", next_action="Look at it.")


def load_unreadable() -> Any:
    return unreadable


def test_what_may_pass_is_tried_again_and_nothing_is_stopped_that_is_over(tmp_path: Path) -> None:
    of = spread(tmp_path, load_unreadable)
    with pytest.raises(Unavailable, match="The disk is away") as error:
        fit(of)
    assert error.value.code == "UNREADABLE_FILE"
    assert not of.stop(1.0)


def test_what_a_worker_gets_is_what_was_put(tmp_path: Path) -> None:
    given = data(10)
    put(tmp_path, given)
    found = get(tmp_path)
    for name in ("x", "y", "time"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert (found.names, found.params, found.seed) == (given.names, given.params, given.seed)
    assert found.weights is None
    weights = np.ones(10, np.float32)
    put(tmp_path / "weighed", replace(given, weights=weights))
    again = get(tmp_path / "weighed").weights
    assert again is not None
    np.testing.assert_array_equal(again, weights)
    found.x[0] = 5.0  # its own copy
    np.testing.assert_array_equal(get(tmp_path).x, given.x)


@pytest.mark.parametrize(
    ("load", "said"), [(load_wrong, "ZeroDivisionError: by nothing"), (load_no_model, "returned dict, not a model")]
)
def test_what_is_wrong_with_a_function_is_told(tmp_path: Path, load: Any, said: str) -> None:
    with pytest.raises(JobFailed, match=said) as error:
        fit(spread(tmp_path, load))
    assert error.value.code == "USER_ERROR"
    assert error.value.next_action
    if load is load_wrong:
        assert error.value.where.startswith("test_spread_fit.py:")


def test_a_loss_that_is_no_number_is_told_with_the_columns_that_have_none(tmp_path: Path) -> None:
    def diverges(ctx: Any) -> Any:
        raise Diverged("The loss of step 1 is nan.", code="DIVERGED", next_action="Lower the learning rate.")

    given = data()
    put(tmp_path, given)
    with pytest.raises(Diverged) as failed:
        _Called(lambda: diverges, tmp_path, ())(SimpleNamespace())  # type: ignore[arg-type]
    assert failed.value.next_action == "Lower the learning rate."
    x = given.x.copy()
    x[::3, 1] = np.nan
    put(tmp_path, replace(given, x=x))
    with pytest.raises(Diverged) as failed:
        _Called(lambda: diverges, tmp_path, ())(SimpleNamespace())  # type: ignore[arg-type]
    assert "b has 100 missing of 300" in failed.value.next_action
    assert 'clean=sr.Clean(fill="median")' in failed.value.next_action
