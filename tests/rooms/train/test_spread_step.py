"""A training function on one worker, with somebody at the other end of its line: what a step is, and what is
refused."""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import itertools
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

import skyriver as sr

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.distributed import HashStore  # noqa: E402

from skyriver.core.errors import Corrupt, InvalidInput, JobFailed, Unavailable  # noqa: E402
from skyriver.train.spread.checkpoints import Checkpoints, Written, copied, read, write  # noqa: E402
from skyriver.train.spread.context import Context, Diverged  # noqa: E402
from skyriver.train.spread.feeding import TOGETHER_BYTES, Feeder, as_rows, source  # noqa: E402
from skyriver.train.spread.gradients import Buckets, Shards, _in_buckets  # noqa: E402
from skyriver.train.spread.group import BrokenGroup, Group, NotHandedOver  # noqa: E402
from skyriver.train.spread.measuring import Stopwatch, pair_seconds  # noqa: E402
from skyriver.train.spread.member import Member  # noqa: E402
from skyriver.train.spread.pays import Timed  # noqa: E402
from skyriver.train.spread.printed import Named  # noqa: E402
from skyriver.train.spread.shards import rows_of_shard  # noqa: E402
from skyriver.train.spread.step import Said, packed, unpacked  # noqa: E402
from skyriver.train.spread.worker import _gpu  # noqa: E402

ALONE = {"generation": 1, "members": (1,), "lost": False}


class Line:
    """The launcher's end."""

    def __init__(self, **more: Any) -> None:
        self.ours, self.theirs = multiprocessing.Pipe()
        self.ours.send(("generation", {**ALONE, **more}))

    def said(self) -> list[tuple[Any, ...]]:
        found = []
        while self.ours.poll():
            found.append(self.ours.recv())
        return found

    def ctx(self, **given: Any) -> Context:
        return Context(self.theirs, HashStore(), 1, **given)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.ours.close()
    made.theirs.close()


def rows(n: int = 96) -> tuple[Any, Any]:
    chance = torch.Generator().manual_seed(5)
    x = torch.randn(n, 6, generator=chance)
    return x, (x[:, :1] - x[:, 1:2]).tanh()


def net() -> Any:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 1))


def sgd(model: Any) -> Any:
    return torch.optim.SGD(model.parameters(), 0.1)


def loop(ctx: Context, model: Any, optimizer: Any, data: Any = None, batch: int = 32, epochs: int = 2) -> list[float]:
    """The losses of its batches."""
    losses = []
    for x, y in ctx.steps(data or rows(), batch, epochs):
        loss = nn.functional.mse_loss(model(x), y)
        ctx.backward(loss)
        ctx.step(optimizer)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("shards", "cuts"), [(0, 1), (0, 3), (8, 1)], ids=["quick", "micro-batches", "exact"])
def test_the_gradient_of_the_parts_is_that_of_the_whole(shards: int, cuts: int) -> None:
    """Of sum over rows of L(theta; x_i): each part counts by its rows."""
    model, (x, y) = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1)).double(), rows(53)
    x, y = x.double(), y.double()
    whole = torch.autograd.grad(nn.functional.mse_loss(model(x), y), list(model.parameters()))
    parts = Shards([model], shards) if shards else Buckets([model])
    if isinstance(parts, Buckets):
        parts.cuts = cuts
    group = Group(1, (1,), 0)
    mine, of = parts.of(0, 1)
    parts.begin(group, mine)
    for part in mine:
        at = rows_of_shard(part, of, 53)
        parts.start(part)
        weight = (at.stop - at.start) / 53
        (nn.functional.mse_loss(model(x[at]), y[at]) * weight).backward()
        parts.collect(part, weight)
    parts.finish([0.0])
    for parameter, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


class Breaks(Group):
    def tree_sum(self, own: Any, blocks: int, like: Any) -> Any:
        raise BrokenGroup("a member was lost")


@pytest.mark.parametrize("seed", range(20))
def test_what_was_summed_when_a_step_was_broken_off_is_not_done_again(seed: int) -> None:
    """Twice, each time on another stretch of it, the second time anywhere within; some parts have no rows, and some use
    one layer only."""
    chance = random.Random(seed)
    layers = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))})
    x = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(seed))
    used = [chance.choice(["a", "b", "ab", "ab", ""]) for _ in range(8)]
    used[chance.randrange(8)] = "ab"  # a step has a row at least
    begun = {name: value.clone() for name, value in layers.state_dict().items()}

    def step(groups: list[Group], until: int = 8) -> list[Any]:
        """What came of it; `until`: parts of the second group."""
        layers.load_state_dict(begun)
        parts, done = Shards([layers], 8), set[int]()
        for number, group in enumerate(groups):
            mine = parts.of(group.rank, group.world)[0]
            todo = list(parts.begin(group, mine))
            known = set(mine) - set(todo)
            assert known <= done
            if group.is_alone:
                assert {part for part in done if used[part]} <= known, "nothing is done again"
            todo = todo[: until if number == 1 else None]
            done = known | set(todo)
            for part in todo:
                if not used[part]:
                    parts.nothing(part)
                    continue
                parts.start(part)
                sum(layers[name](x[part]).square().sum() for name in used[part]).backward()
                parts.collect(part, 0.125)
            if group.is_alone:
                parts.finish([0.0])
                break
            if number == 0:
                with pytest.raises(BrokenGroup):
                    parts.finish([0.0])
            parts.break_off()
            assert all(torch.equal(now, begun[name]) for name, now in layers.state_dict().items())
        return [*(p.grad for p in layers.parameters()), *layers.state_dict().values()]

    def some() -> Group:
        world = chance.choice([2, 2, 3, 4])
        return Breaks(1, tuple(range(1, world + 1)), chance.randrange(world), backend=object())

    alone = Group(2, (1,), 0)
    whole, found = step([alone]), step([some(), some(), alone], chance.randrange(5))
    assert all((a is b) if a is None or b is None else torch.equal(a, b) for a, b in zip(found, whole, strict=True))


def test_what_a_loop_said_of_parts_that_stand_counts_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last parts of a step are another worker's, which is lost; then they are done here."""
    model, ctx = nn.Linear(6, 1), line.ctx(shards=4)
    ctx.state(model, sgd(model))
    twin, told, seen = copy.deepcopy(model), list[tuple[float, float]](), list[int]()
    backend = SimpleNamespace(abort=lambda: None)
    groups = [Breaks(1, (1, 2), 0, backend=backend), Group(2, (1,), 0)]
    monkeypatch.setattr(ctx._member, "meet", lambda agree: setattr(ctx._member, "group", groups.pop(0)))
    monkeypatch.setattr(ctx._member, "beat", lambda _, loss, values, *__, **___: told.append((loss, values["seen"])))
    x, y = rows(32)
    for xb, yb in ctx.steps((x, y), 32, 1):
        seen.append(len(xb))
        ctx.report(seen=xb.mean())
        ctx.backward(nn.functional.mse_loss(model(xb), yb))
        ctx.step(clip=0.01)
    assert seen == [8] * 4
    (loss, mean), whole = told[0], nn.functional.mse_loss(twin(x), y)
    assert (loss, mean) == (pytest.approx(float(whole.detach()), rel=1e-5), pytest.approx(float(x.mean()), rel=1e-5))
    whole.backward()
    nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
    sgd(twin).step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shards", [0, 4])
def test_a_step_that_is_to_be_the_last_is_done_though_it_was_broken_off(
    line: Line, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    model, ctx = nn.Linear(6, 1), line.ctx(shards=shards)
    ctx.state(model, sgd(model))
    lost = SimpleNamespace(abort=lambda: None, allreduce=Gone().allreduce)
    groups = [Breaks(1, (1, 2), 0, backend=lost), Group(2, (1,), 0)]
    monkeypatch.setattr(ctx._member, "meet", lambda agree: setattr(ctx._member, "group", groups.pop(0)))
    for number, (xb, yb) in enumerate(ctx.steps(rows(96), 32, 2)):
        if number == 0:
            ctx.end()
        ctx.backward(nn.functional.mse_loss(model(xb), yb))
        ctx.step()
    assert (groups, ctx.committed) == ([], 1)


def test_on_one_worker_the_quick_way_is_the_plain_loop(line: Line) -> None:
    model, ctx = net(), line.ctx()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    ctx.state(model, optimizer)
    seen: list[Any] = []
    (x, y), twin = rows(), net()
    for xb, yb in ctx.steps((x, y), 32, 2):
        seen.append((xb, yb))
        ctx.backward(nn.functional.mse_loss(model(xb), yb))
        ctx.step(optimizer)
    plain = torch.optim.Adam(twin.parameters(), 0.01)
    for xb, yb in seen:
        plain.zero_grad()
        nn.functional.mse_loss(twin(xb), yb).backward()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_statistics_of_batches_are_those_of_the_parts_by_their_rows(line: Line) -> None:
    model, ctx = nn.BatchNorm1d(6, momentum=1.0), line.ctx(shards=4)
    ctx.state(model, sgd(model))
    x, _ = rows(32)
    means = []
    for (xb,) in ctx.steps((x,), 32, 1):
        means.append(xb.mean(0))
        ctx.backward(model(xb).square().mean())
        ctx.step()
    assert len(means) == 4
    torch.testing.assert_close(model.running_mean, torch.stack(means).mean(0))
    assert int(model.num_batches_tracked) == 1


def test_schedulers_step_once_a_step_and_a_gradient_may_be_clipped(line: Line) -> None:
    model, ctx = net(), line.ctx(shards=8)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    ctx.state(model, optimizer, scheduler)
    before = torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])
    for x, y in ctx.steps(rows(), 32, 1):
        ctx.backward(100 * nn.functional.mse_loss(model(x), y))
        ctx.step(optimizer, clip=0.001)
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert scheduler.get_last_lr() == [1 / 8]
    assert float((after - before).norm()) <= 0.001 * (1 + 1 / 2 + 1 / 4) + 1e-6


def test_what_is_told_is_the_mean_over_all_rows_of_a_step(line: Line) -> None:
    model, ctx = nn.Linear(1, 1), line.ctx(shards=8)
    ctx.state(model, sgd(model))
    x = torch.arange(13.0)[:, None]
    for (xb,) in ctx.steps((x,), 13, 1):
        ctx.report(number=xb.mean())
        ctx.backward(model(xb).mean())
        ctx.step()
    [beat] = [said for said in line.said() if said[0] == "beat" and len(said) > 2]
    assert beat[3]["number"] == pytest.approx(6.0)


def test_what_is_told_of_some_parts_is_the_mean_over_their_rows(line: Line) -> None:
    model, ctx = nn.Linear(1, 1), line.ctx(shards=4)
    ctx.state(model, sgd(model))
    x = torch.arange(16.0)[:, None]
    for part, (xb,) in enumerate(ctx.steps((x,), 16, 1)):
        if part in (1, 3):
            ctx.report(number=len(xb) * part)
        ctx.backward(model(xb).mean())
        ctx.step()
    [beat] = [said for said in line.said() if said[0] == "beat" and len(said) > 2]
    assert beat[3]["number"] == pytest.approx(8.0)


def test_names_that_all_reported_are_told_from_others() -> None:
    def of(**told: float) -> list[float]:
        return packed(Said(told={name: (value / 2, 0.5) for name, value in told.items()}), is_some=True)

    def added(*all_of: list[float]) -> list[float]:
        return [sum(each) for each in zip(*all_of, strict=True)]

    none = packed(Said(), is_some=False)
    assert unpacked(added(of(b=1, a=2), of(a=4, b=2)), ["b", "a"]) == {"a": 3.0, "b": 1.5}
    assert unpacked(added(of(a=2), none), ["a"]) == {"a": 2.0}
    assert unpacked(added(of(a=2), none), ["b"]) is None
    assert unpacked(added(of(a=2), of(b=2)), ["a"]) is None
    assert unpacked(added(of(a=2), of(a=2, b=2)), ["a"]) is None
    assert unpacked(added(of(a=2), of()), ["a"]) is None
    assert unpacked(added(of(), of()), []) == {}


def test_a_training_that_is_soon_over_has_a_curve(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("skyriver.train.spread.member.time", SimpleNamespace(monotonic=lambda: clock[0]))
    member = line.ctx()._member
    for step in range(1, 201):
        member.beat(step, 1 / step, {}, 0.003, last=step == 200)
        clock[0] += 0.003
    told = line.said()
    assert [said[0] for said in told] == ["beat", "points", "beat", "points", "beat"]
    steps = [step for kind, *what in told for step in ([what[0]] if kind == "beat" else [one[0] for one in what[0]])]
    assert steps[0] == 1
    assert steps[-1] == 200
    assert 30 <= len(steps) <= 40, "one in 16 ms"
    assert all(0 < after - before <= 6 for before, after in itertools.pairwise(steps))


def test_random_numbers_are_those_of_the_step_whoever_does_it(line: Line) -> None:
    drawn: list[list[Any]] = []
    for _ in range(2):
        other = Line()
        model, ctx = nn.Linear(6, 1), other.ctx(shards=4, seed=3)
        ctx.state(model, sgd(model))
        drawn.append([])
        for x, _y in ctx.steps(rows(16), 16, 2):
            drawn[-1].append((float(torch.rand(())), float(np.random.random())))
            ctx.backward(model(x).mean())
            ctx.step()
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 8


def test_a_loss_that_is_no_number_ends_it_with_the_state_before_kept(line: Line, tmp_path: Path) -> None:
    model, ctx = net(), line.ctx(shards=2, checkpoints=str(tmp_path), every_s=1_000.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ctx.state(model, optimizer)
    x, y = rows()
    y[7] = float("nan")
    with pytest.raises(Diverged, match=r"The loss of step \d+ is nan") as diverged:
        loop(ctx, model, optimizer, (x, y), 8)
    assert all(bool(t.isfinite().all()) for t in model.state_dict().values())
    ctx.tell_noted()
    told = line.said()
    [written] = [what for kind, *what in told if kind == "checkpoint"]
    assert f"step {written[0].step + 1} is" in diverged.value.message, "of the step before it"
    kept = Checkpoints(tmp_path).publish(written[0])
    assert diverged.value.message.endswith(f"is kept: {kept}")
    assert told[-1][0] == "points"
    step, loss, _ = told[-1][1][-1]
    assert step == written[0].step + 1, "the curve shows it"
    assert loss != loss


def test_weights_that_are_no_numbers_are_not_kept(line: Line, tmp_path: Path) -> None:
    model, ctx = nn.Linear(6, 1), line.ctx(checkpoints=str(tmp_path), every_s=1_000.0)
    ctx.state(model, sgd(model))
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    with pytest.raises(Diverged, match="before it are none either") as diverged:
        loop(ctx, model, None, rows(), 1)
    assert str(tmp_path) in diverged.value.message
    assert not [said for said in line.said() if said[0] == "checkpoint"]


def given_no_step(ctx: Context, model: Any) -> None:
    for x, _ in ctx.steps(rows(), 32):
        ctx.backward(model(x).mean())


def given_backward_outside(ctx: Context, model: Any) -> None:
    ctx.backward(torch.zeros(()))


def given_many_values(ctx: Context, model: Any) -> None:
    for _ in ctx.steps(rows(), 32):
        ctx.report(**{f"value_{n}": 1.0 for n in range(9)})


def given_another_optimizer(ctx: Context, model: Any) -> None:
    for x, _ in ctx.steps(rows(), 32):
        ctx.backward(model(x).mean())
        ctx.step(sgd(model))


def given_two_passes(ctx: Context, model: Any) -> None:
    for x, _ in ctx.steps(rows(), 32):
        ctx.backward(model(x).mean())
        ctx.backward(model(x).mean())


def given_two_steps(ctx: Context, model: Any) -> None:
    for x, _ in ctx.steps(rows(), 32):
        ctx.backward(model(x).mean())
        ctx.step()
        ctx.step()


def backward_of(loss_of: Callable[[Any, Any], Any]) -> Callable[[Context, Any], None]:
    def given(ctx: Context, model: Any) -> None:
        for x, _ in ctx.steps(rows(), 32):
            ctx.backward(loss_of(model, x))
            ctx.step()

    return given


def report_of(value: Any) -> Callable[[Context, Any], None]:
    def given(ctx: Context, model: Any) -> None:
        for _ in ctx.steps(rows(), 32):
            ctx.report(found=value)

    return given


def given_its_own_pass(ctx: Context, model: Any) -> None:
    for x, _ in ctx.steps(rows(), 32):
        model(x).mean().backward()
        ctx.step()


def given_frozen_later(ctx: Context, model: Any) -> None:
    model[0].weight.requires_grad = False
    next(ctx.steps(rows(), 32))


def given_steps_twice(ctx: Context, model: Any) -> None:
    for _ in range(2):
        for x, _y in ctx.steps(rows(), 32):
            ctx.backward(model(x).mean())
            ctx.step()


WRONG: dict[str, tuple[str, Callable[[Context, Any], Any]]] = {
    "no step": ("NO_STEP", given_no_step),
    "backward outside": ("NO_STEP", given_backward_outside),
    "values": ("TOO_MANY_VALUES", given_many_values),
    "state twice": ("NO_STATE", lambda ctx, model: ctx.state(model, sgd(model))),
    "another optimizer": ("NO_STATE", given_another_optimizer),
    "two passes": ("BACKWARD_TWICE", given_two_passes),
    "two steps": ("STEP_TWICE", given_two_steps),
    "losses": ("BAD_LOSS", backward_of(lambda model, x: model(x)[:, 0])),
    "plain number": ("BAD_LOSS", backward_of(lambda model, x: model(x).mean().item())),
    "loss of no weight": ("BAD_LOSS", backward_of(lambda model, x: model(x).mean().detach())),
    "text reported": ("BAD_METRIC", report_of("good")),
    "vector reported": ("BAD_METRIC", report_of(torch.zeros(3))),
    "its own pass": ("NO_STEP", given_its_own_pass),
    "frozen later": ("FROZEN_LATER", given_frozen_later),
    "steps twice": ("BAD_STEPS", given_steps_twice),
    "one row of statistics": ("BAD_STEPS", lambda ctx, model: next(ctx.steps(rows(33), 32))),
    "batch": ("BAD_STEPS", lambda ctx, model: next(ctx.steps(rows(), 0))),
    "epochs": ("BAD_STEPS", lambda ctx, model: next(ctx.steps(rows(), 32, True))),
    "number": ("BAD_DATASET", lambda ctx, model: next(ctx.steps(7, 32))),
    "nothing": ("BAD_DATASET", lambda ctx, model: next(ctx.steps([], 32))),
    "columns": ("BAD_DATASET", lambda ctx, model: next(ctx.steps({"x": 1}, 32))),
    "lengths": ("BAD_DATASET", lambda ctx, model: next(ctx.steps((torch.zeros(3, 1), torch.zeros(4, 1)), 32))),
    "no rows": ("BAD_DATASET", lambda ctx, model: next(ctx.steps(torch.zeros(0, 4), 32))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(line: Line, wrong: str) -> None:
    code, does = WRONG[wrong]
    model, ctx = net(), line.ctx(shards=2)
    ctx.state(model, sgd(model))
    with pytest.raises(InvalidInput) as refused:
        does(ctx, model)
    assert refused.value.code == code
    assert refused.value.next_action


def test_steps_before_a_state_and_things_without_one_are_refused(line: Line) -> None:
    with pytest.raises(InvalidInput, match="before ctx"):
        next(line.ctx().steps(rows(), 32))
    with pytest.raises(InvalidInput, match="no module"):
        line.ctx().state(torch.optim.SGD(net().parameters(), 0.1))
    with pytest.raises(InvalidInput, match="no optimizer"):
        line.ctx().state(net())
    with pytest.raises(InvalidInput, match="float16"):
        line.ctx().state(half := nn.Linear(1, 1).half(), sgd(half))
    with pytest.raises(InvalidInput, match="int has no state_dict"):
        line.ctx().state(net(), 3)
    with pytest.raises(InvalidInput, match="model is on cpu, and this worker's device is meta"):
        line.ctx(device="meta").state(model := net(), sgd(model))
    with pytest.raises(InvalidInput, match="power of two"):
        line.ctx(shards=6)
    with pytest.raises(JobFailed, match="without a single step"):
        line.ctx().stay(bytes)


class Remembers:
    def __init__(self, value: Any) -> None:
        self._value = value

    def state_dict(self) -> dict[str, Any]:
        return {"best": [self._value]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._value = state["best"][0]


class Pair(NamedTuple):
    first: int
    second: int


KEPT_NOWHERE = {
    "numpy": (np.float64(0.5), "numpy.float64"),
    "array": (np.ones(2), "ndarray"),
    "pair": (Pair(1, 2), "Pair"),
}


@pytest.mark.parametrize("which", KEPT_NOWHERE)
def test_a_state_that_cannot_be_kept_is_refused_before_the_first_step(line: Line, which: str) -> None:
    """And not when the first checkpoint is due, or somebody joins."""
    ctx, model, (value, called) = line.ctx(), net(), KEPT_NOWHERE[which]
    ctx.state(model, sgd(model), Remembers(value))
    with pytest.raises(InvalidInput, match=rf"{called} at more/2/best/0") as refused:
        next(ctx.steps(rows(), 32))
    assert refused.value.code == "BAD_STATE"


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "many": lambda of: torch.optim.lr_scheduler.MultiStepLR(of, [1, 2]),
    "cycle": lambda of: torch.optim.lr_scheduler.OneCycleLR(of, 0.1, 20),
    "cosine": lambda of: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(of, 2),
    "lambda": lambda of: torch.optim.lr_scheduler.LambdaLR(of, lambda step: 1 / (1 + step)),
    "one after another": lambda of: torch.optim.lr_scheduler.SequentialLR(
        of, [torch.optim.lr_scheduler.ConstantLR(of), torch.optim.lr_scheduler.ExponentialLR(of, 0.5)], [2]
    ),
}


@pytest.mark.parametrize("which", SCHEDULERS)
def test_schedulers_and_their_optimizers_are_kept_and_read_back(line: Line, which: str, tmp_path: Path) -> None:
    def made() -> tuple[Any, Any, Any]:
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), 0.1)
        return model, optimizer, SCHEDULERS[which](optimizer)

    model, optimizer, scheduler = made()
    ctx = line.ctx()
    ctx.state(model, optimizer, scheduler)
    loop(ctx, model, optimizer)
    told = io.BytesIO()
    torch.save(ctx.snapshot(), told)
    found = read(Checkpoints(tmp_path).publish(write(tmp_path, copied(ctx.snapshot()), worker=1)))
    for state in (found, torch.load(io.BytesIO(told.getvalue()), weights_only=True)):
        _, other, again = made()
        other.load_state_dict(state["optimizers"]["1"])
        again.load_state_dict(state["schedulers"]["2"])
        again.step()
        assert again.last_epoch == scheduler.last_epoch + 1
    scheduler.step()
    assert again.get_last_lr() == scheduler.get_last_lr()


def test_two_backward_passes_of_a_batch_are_refused_where_sums_begin_in_the_first() -> None:
    model = nn.Linear(2, 1)
    parts = Buckets([model])
    begun: list[Any] = []

    class Pretends(Group):
        def begin_sum(self, vector: Any) -> None:
            begun.append(vector)

    parts.begin(Pretends(1, (1, 2), 0, backend=object()), range(1))
    model(torch.ones(1, 2)).sum().backward()
    assert len(begun) == 1
    with pytest.raises(InvalidInput, match="two backward passes"):
        model(torch.ones(1, 2)).sum().backward()


class Gone:
    """A backend with which nothing can be begun."""

    def allreduce(self, vectors: Any) -> Any:
        raise RuntimeError("a remote process exited")


def test_a_sum_that_cannot_be_begun_breaks_the_step_and_not_the_backward_pass() -> None:
    group = Group(1, (1, 2), 0, Gone())
    group.begin_sum(torch.zeros(2))
    group.begin_sum(torch.zeros(2))
    with pytest.raises(BrokenGroup, match="a remote process exited"):
        group.finish_sums()


def test_one_says_that_it_lives_and_for_how_long_it_will_say_nothing(line: Line) -> None:
    ctx = line.ctx()
    ctx.alive()
    ctx.alive()
    ctx.alive(600)
    assert line.said() == [("beat",), ("busy", 600)], "not more often than twice a second"
    for wrong in (-1, float("nan"), 1e6, True, "600"):
        with pytest.raises(InvalidInput, match=r"is no number of seconds from 0 to 86,400"):
            ctx.alive(wrong)


def among(line: Line, group: Group) -> Member:
    made = Member(line.theirs, HashStore(), 1)
    made.group = group
    line.theirs.recv()  # who goes on at first is of no interest here
    return made


def test_who_was_lost_is_not_worked_for_until_the_end_of_a_step(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    every = "skyriver.train.spread.member.LOOK_S"
    member = among(line, Group(1, (1, 2), 0, backend=object()))
    monkeypatch.setattr(every, 0.0)
    line.ours.send(("generation", {"generation": 2, "members": (1, 2, 3), "lost": False}))
    member.look(3, 4)  # who joins waits for the end of the step
    line.ours.send(("generation", {"generation": 3, "members": (1, 3), "lost": True}))
    monkeypatch.setattr(every, 1e9)
    member.look(2, 4)  # a look is not worth it so soon
    monkeypatch.setattr(every, 0.0)
    with pytest.raises(BrokenGroup, match=r"^A member was lost\.$"):
        member.look(1, 4)


def test_one_alone_begins_again_where_a_step_is_sooner_done_by_all(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.train.spread.member.LOOK_S", 0.0)
    member = among(line, Group(1, (1,), 0))
    line.ours.send(("generation", {"generation": 2, "members": (1, 2), "lost": True}))
    member.look(4, 8)  # two would need as long for the whole of it
    with pytest.raises(BrokenGroup, match=r"^Others are there\.$"):
        member.look(5, 8)


class Wire:
    """A backend that gives the size of what comes, and then nothing."""

    def __init__(self, size: int) -> None:
        self.size = size

    def broadcast(self, tensor: Any, root: int) -> Any:
        if len(tensor) == 1:
            tensor[0] = max(int(tensor[0]), self.size)
            return self
        return Wire(0)

    def is_completed(self) -> bool:
        return False

    def wait(self, patience: Any) -> None:
        if not self.size:
            raise RuntimeError("it timed out")


def test_what_a_joining_member_is_given_is_bounded_and_comes_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"a": torch.zeros(300, dtype=torch.float64), "b": [torch.zeros(100)], "step": 1}
    monkeypatch.setattr("skyriver.train.spread.group.STATE_BYTES", 2_799)
    for rank in (0, 1):
        with pytest.raises(JobFailed, match=r"would be given 2,800 bytes of ctx.state; there may be 2,799\.") as caught:
            Group(1, (1, 2), rank, Wire(2_800)).broadcast(state if rank == 0 else None, 0)
        assert caught.value.code == "TOO_LARGE"
    monkeypatch.setattr("skyriver.train.spread.group.STATE_BYTES", 1 << 20)
    monkeypatch.setattr("skyriver.train.spread.group.PIECE_S", -1.0)
    waited: list[int] = []
    with pytest.raises(NotHandedOver, match="did not come to all"):
        Group(1, (1, 2), 1, Wire(9_000), waits=lambda: waited.append(1)).broadcast(None, 0)
    assert waited == [1]


def test_who_writes_down_what_another_one_needs_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    lives, save = threading.Event(), torch.save

    def long(state: Any, to: Any) -> None:
        assert lives.wait(60.0), "it said nothing"
        save(state, to)

    monkeypatch.setattr("skyriver.train.spread.group.torch.save", long)
    group = Group(1, (1, 2), 0, Copied([]), waits=lives.set)
    assert group.broadcast({"a": torch.ones(3)}, 0).keys() == {"a"}


class Copied:
    """A backend over which the pieces of a state come, its size after a turn of waiting."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.at, self.late = pieces, list[int](), len(pieces)

    def broadcast(self, tensor: Any, root: int) -> Any:
        if self.pieces:
            tensor.numpy().view(np.uint8)[:] = np.frombuffer(self.pieces.pop(0), np.uint8)
            self.at.append(tensor.data_ptr())
        return self

    def wait(self, patience: Any) -> None:
        if self.late:
            self.late = 0
            raise RuntimeError("it timed out")


def test_a_state_is_waited_for_while_it_is_written_and_read_where_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.arange(5)}, made := io.BytesIO())
    data, load, at = made.getvalue(), torch.load, list[int]()

    def seen(buffer: Any, **given: Any) -> Any:
        at.append(np.frombuffer(buffer.getbuffer(), np.uint8).ctypes.data)
        return load(buffer, **given)

    monkeypatch.setattr("skyriver.train.spread.group.torch.load", seen)
    monkeypatch.setattr("skyriver.train.spread.group.PIECE_S", -1.0)  # no piece may be waited for
    backend = Copied([len(data).to_bytes(8, "little"), data])
    got = Group(1, (1, 2), 1, backend).broadcast(None, 0)
    assert got["a"].tolist() == [0, 1, 2, 3, 4]
    assert at == backend.at[1:], "it was copied"


def test_what_came_of_it_is_told_in_parts_and_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    member = line.ctx()._member
    member._hand(whole := bytes(range(256)) * 100)
    parts = line.said()
    assert b"".join(part for kind, *said in parts[:-1] for part in said) == whole
    assert parts[-1] == ("result",)
    assert {kind for kind, *_ in parts[:-1]} == {"part"}
    monkeypatch.setattr("skyriver.train.spread.member.MOST_HANDED", 99)
    with pytest.raises(JobFailed, match="has 100 bytes; 99 at most are handed over"):
        member._hand(bytes(100))


def test_what_a_worker_prints_has_its_number_and_goes_out_by_lines(tmp_path: Path) -> None:
    seen = tmp_path / "log"
    with seen.open("wb") as file:
        told = Named(file.fileno(), "worker 2")
        print("one", "line", end="", file=told)
        assert seen.read_bytes() == b""
        print(" of two writes\n\nand more", file=told)
        print("cut \udcff", file=told)
    lines = ["one line of two writes", "", "and more", r"cut \udcff", ""]
    assert seen.read_text().split("\n") == [f"worker 2 | {line}" for line in lines[:-1]] + [""]


def test_each_worker_has_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ENABLE_MONITORING"):
        monkeypatch.setenv(name, "")  # and as it was, afterwards
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    assert [_gpu(slot) for slot in (0, 1)] == ["cuda:0", "cuda:1"]
    with pytest.raises(InvalidInput, match=r"Worker 3 has no GPU: of those it may use torch finds 2\.") as caught:
        _gpu(2)
    assert caught.value.code == "NO_DEVICE"
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(InvalidInput, match="built for the CPU alone") as caught:
        _gpu(0)
    assert "Install torch for CUDA" in caught.value.next_action


def test_a_batch_goes_to_the_device_of_its_worker(line: Line) -> None:
    ctx = line.ctx(device="meta")
    x, (y, words), named = ctx._there([torch.zeros(2), (torch.ones(1), ["a"]), {"z": torch.zeros(3)}])
    assert {t.device.type for t in (x, y, named["z"])} == {"meta"}
    assert words == ["a"]


def test_buckets_are_of_one_type_and_size() -> None:
    half = [torch.zeros(3 << 20, dtype=torch.float16) for _ in range(9)]
    whole = [torch.zeros(3 << 20) for _ in range(5)]
    assert [len(bucket) for bucket in _in_buckets([*half, *whole])] == [5, 4, 3, 2]


def test_a_data_set_of_items_is_made_in_turn() -> None:
    class Squares:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, at: int) -> Any:
            return torch.tensor(float(at)), at * at

    of = as_rows(Squares())
    x, y = of.take(np.array([3, 1]))
    assert (x.tolist(), y.tolist(), getattr(of, "by_turns", False)) == ([3.0, 1.0], [9, 1], True)


@pytest.mark.parametrize("columns", [4, TOGETHER_BYTES // 16], ids=["small", "large"])
def test_parts_of_a_step_are_fetched_together_where_they_are_small(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyriver.train.spread.feeding.WORTH_S", 1e9)  # no other thread, however slow the machine is
    x = torch.arange(16.0)[:, None].expand(16, columns).contiguous()
    fed = source((x,), 8, 1, seed=1)
    parts = [(step, part, 2 * part, 2 * part + 2) for step in (0, 1) for part in range(4)]
    alone = [fed.take(part)[0] for part in parts]
    feeder, asked = Feeder(fed), list[Any]()
    taken = feeder._take
    feeder._take = lambda part: asked.append(part) or taken(part)  # type: ignore[method-assign,func-returns-value]
    assert torch.equal(feeder.get(parts[0], None, parts[:4])[0], alone[0])
    assert asked == (parts[:4] if columns == 4 else parts[:1])
    # two others joined: of the first step only the third part is left to this one
    assert torch.equal(feeder.get(parts[2], None, parts[2:3])[0], alone[2])
    for at in (4, 5, 6, 7):
        assert torch.equal(feeder.get(parts[at], None, parts[4:])[0], alone[at])
    feeder.close()


def state(step: int = 7) -> dict[str, Any]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model(rows()[0]).mean().backward()
    optimizer.step()
    return {
        "step": step,
        "modules": {"0": model.state_dict()},
        "optimizers": {"1": optimizer.state_dict()},
        "schedulers": {},
        "of": {"rows": 96, "global_batch": 32, "seed": 0, "shards": 0},
        "more": {"x": {"counts": [1, 2], "pair": (1.5, None), "text": "t"}},
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_checkpoint_is_what_was_written(tmp_path: Path) -> None:
    made, kept = state(), Checkpoints(tmp_path, kept=2)
    path = kept.publish(write(tmp_path, copied(made), worker=1))
    assert same(read(path), made)
    for step in (8, 9):
        kept.publish(write(tmp_path, copied(state(step)), worker=1))
    assert [int(p.stem[5:]) for p in kept.newest()] == [9, 8]
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.name != "lock") == [
        ".json",
        ".json",
        ".safetensors",
        ".safetensors",
    ]


def test_a_later_attempt_fences_the_one_before_it(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path).claimed()
    first.publish(write(tmp_path, copied(state(7)), worker=1))
    orphan = write(tmp_path, copied(state(8)), worker=1)
    late = write(tmp_path, copied(state(9)), worker=2)
    second = Checkpoints(tmp_path).claimed()
    assert not orphan.path.exists(), "what was not published is gone"
    late.path.touch()  # an orphan goes on writing
    with pytest.raises(JobFailed, match="later attempt of this training has begun") as caught:
        first.publish(late)
    assert caught.value.code == "FENCED"
    first.clear()
    first.remove()
    assert late.path.exists(), "nor does it take anything away"
    second.publish(write(tmp_path, copied(state(8)), worker=1))
    assert [int(path.stem[5:]) for path in second.newest()] == [8, 7]
    second.publish(write(tmp_path, copied(state(9)), worker=1))
    assert late.path.exists(), "who writes of the same step may be one of its own"
    second.publish(write(tmp_path, copied(state(10)), worker=1))
    assert not late.path.exists(), "what an orphan left does not stay for as long as it trains"
    second.remove()
    assert not tmp_path.exists()


def test_an_attempt_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    """It stood still before it claimed them."""
    second = Checkpoints(tmp_path, attempt=2).claimed()
    for refused in (Checkpoints(tmp_path, attempt=1).claimed, Checkpoints(tmp_path, attempt=1).supersede):
        with pytest.raises(JobFailed, match="later attempt of this training has begun") as caught:
            refused()
        assert caught.value.code == "FENCED"
    second.publish(write(tmp_path, copied(state(8)), worker=1))
    again = Checkpoints(tmp_path, attempt=2).claimed()  # begun once more
    Checkpoints(tmp_path, attempt=10).claimed()
    with pytest.raises(JobFailed, match="later attempt"):
        again.check_owned()
    Checkpoints(tmp_path, attempt=11).supersede()
    assert not tmp_path.exists()


def test_who_waits_for_what_is_being_removed_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    first, claimed = Checkpoints(folder, attempt=1).claimed(), list[Checkpoints]()
    waiter = threading.Thread(target=lambda: claimed.append(Checkpoints(folder, attempt=2).claimed()))
    with first._owned():
        waiter.start()
        while not _is_open_twice(folder / "lock"):
            assert waiter.is_alive()
        first._remove()
    waiter.join(60.0)
    claimed[0].publish(write(folder, copied(state(8)), worker=1))
    first.remove()
    assert [int(path.stem[5:]) for path in claimed[0].newest()] == [8]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def _is_open_twice(path: Path) -> bool:
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += each.readlink() == path
    return found == 2


def test_one_whose_checkpoints_a_later_one_has_removed_is_fenced(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path).claimed()
    Checkpoints(tmp_path).claimed().remove()
    for _ in ("removed", "there again, of nobody"):
        with pytest.raises(JobFailed, match="later attempt") as caught:
            first.publish(Written(tmp_path / "step-0000000007.worker-1.1.new", 7, ""))
        assert caught.value.code == "FENCED"
        tmp_path.mkdir(exist_ok=True)


def test_a_disk_that_is_full_when_they_are_claimed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skyriver.train.spread.checkpoints.replace_file", full)
    with pytest.raises(Unavailable, match="checkpoints cannot be kept: No space left") as caught:
        Checkpoints(tmp_path).claimed()
    assert caught.value.code == "DISK_FULL"


def test_who_stands_still_with_the_lock_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.train.spread.checkpoints.LOCKED_S", -1.0)
    with Checkpoints(tmp_path)._locked(), pytest.raises(Unavailable, match="has locked the checkpoints") as caught:
        Checkpoints(tmp_path).claimed()
    assert caught.value.code == "LOCKED"


def test_one_that_is_damaged_takes_nothing_from_those_that_come(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, kept=2)
    for step in (100, 101, 102):
        kept.publish(write(tmp_path, copied(state(step)), worker=1)).write_bytes(b"")
    assert kept.usable()[0] is None
    path = kept.publish(write(tmp_path, copied(state(5)), worker=1))
    assert kept.usable()[0] == path


@pytest.mark.parametrize("how", ["cut", "flipped", "no line", "bad line", "empty"])
def test_one_that_is_not_is_passed_over(tmp_path: Path, how: str) -> None:
    kept = Checkpoints(tmp_path)
    first, last = (kept.publish(write(tmp_path, copied(state(step)), worker=1)) for step in (1, 2))
    data = last.read_bytes()
    if how in ("cut", "empty"):
        last.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    elif how == "flipped":
        last.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        last.with_suffix(".json").write_text("{}") if how == "bad line" else last.with_suffix(".json").unlink()
    with pytest.raises(Corrupt, match="not what was written"):
        read(last)
    found, wrong = kept.usable()
    assert (found, len(wrong)) == (first, 1)


def test_one_of_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).publish(write(tmp_path, copied(state()), worker=1))
    first, second = Line(checkpoint=str(path)), Line(checkpoint=str(path))
    ctx = first.ctx()
    model = nn.Sequential(nn.Linear(6, 13), nn.BatchNorm1d(13), nn.ReLU(), nn.Linear(13, 1))
    ctx.state(model, named=torch.optim.Adam(model.parameters()))
    with pytest.raises(InvalidInput, match="global_batch was 32 there and is 16 here"):
        next(ctx.steps(rows(), 16))
    ctx = second.ctx()
    ctx.state(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(InvalidInput, match=r"0\.bias has \(12,\) there and \(13,\) here"):
        next(ctx.steps(rows(), 32))


def test_one_of_other_files_is_refused(tmp_path: Path) -> None:
    for folder, sign in (("a", 1.0), ("b", -1.0)):
        (tmp_path / folder).mkdir()
        pl.DataFrame({"x": [sign * n for n in range(64)]}).write_parquet(tmp_path / folder / "0.parquet")
    first = Line()
    ctx, model = first.ctx(), nn.Linear(1, 1)
    ctx.state(model, sgd(model))
    steps = ctx.steps(sr.rows(tmp_path / "a", x=["x"]), 32)
    next(steps)
    path = Checkpoints(tmp_path).publish(write(tmp_path, ctx.snapshot(), worker=1))
    steps.close()
    second = Line(checkpoint=str(path))
    ctx = second.ctx()
    ctx.state(model, sgd(model))
    with pytest.raises(InvalidInput, match="data was"):
        next(ctx.steps(sr.rows(tmp_path / "b", x=["x"]), 32))


def test_a_batch_that_is_wrong_ends_the_loop_with_what_is_wrong(tmp_path: Path, line: Line) -> None:
    pl.DataFrame({"x": [None if n == 40 else float(n) for n in range(64)]}).write_parquet(tmp_path / "0.parquet")
    ctx = line.ctx()
    model = nn.Linear(1, 1)
    ctx.state(model, sgd(model))
    with pytest.raises(InvalidInput, match=r"Row 41 of 0\.parquet has no value in 'x'"):
        next(ctx.steps(sr.rows(tmp_path, x=["x"]), 16))


def test_a_state_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a set at more"):
        write(tmp_path, {"step": 1, "more": {1}}, worker=1)
    with pytest.raises(InvalidInput, match="a dict at more"):
        write(tmp_path, {"step": 1, "more": {(1, 2): 3}}, worker=1)


class Masked(nn.Module):
    """With a mask that has infinities, truths, and a statistic that is put in place anew."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)
        self.unused = nn.Linear(6, 1)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))
        self.register_buffer("truths", torch.ones(3, 3).tril().bool())
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Any) -> Any:
        self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return self.head(x)


@pytest.mark.parametrize("shards", [0, 4], ids=["quick", "exact"])
def test_buffers_of_all_kinds_are_kept_and_what_nobody_uses_is_left_alone(line: Line, shards: int) -> None:
    model = Masked()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ctx = line.ctx(shards=shards)
    ctx.state(model, torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5))
    x, y = rows(32)
    for xb, yb in ctx.steps((x, y), 32, 1):
        ctx.backward(nn.functional.mse_loss(model(xb), yb))
        ctx.step()
    after = model.state_dict()
    for name in ("mask", "truths", "unused.weight", "unused.bias"):
        assert torch.equal(after[name], before[name]), name
    torch.testing.assert_close(after["mean"], 0.5 * x.mean(0))
    assert not torch.equal(after["head.weight"], before["head.weight"])


def test_micro_batches_are_of_one_step_and_their_times_are_told_once() -> None:
    """Four of a part, of which a step at the end has no rows for one."""
    line = Line(cuts=4, threads=1, measure="steps")
    model, ctx = nn.Linear(6, 1), line.ctx()
    optimizer = sgd(model)
    ctx.state(model, optimizer)
    told = iter((None, Timed(1.0, 2.0, 0.0, 0.0), Timed(3.0, 4.0, 0.0, 0.0)))
    ctx._watch = Watch(lambda: next(told))
    assert len(loop(ctx, model, optimizer, rows(67), 32, 1)) == 4 + 4 + 3
    assert ctx.committed == 3
    [(_, generation, timed, about)] = [said for said in line.said() if said[0] == "timed"]
    assert (generation, timed.passes, about.rows, about.left) == (1, 1.0, 32, 1)
    assert about.can_cut
    assert about.last == 1.0
    assert about.pair_s == 0.0


class Watch(Stopwatch):
    def __init__(self, told: Callable[[], Timed | None]) -> None:
        super().__init__()
        self.told = told

    def found(self, fetch_s: float, ahead: bool) -> Timed | None:
        return self.told()


def test_times_are_medians_of_what_is_enough_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("skyriver.train.spread.measuring.time.monotonic", lambda: now[0])
    watch = Stopwatch()

    def step(seconds: float) -> Timed | None:
        watch.start()
        for what, took in (("passes", seconds), ("load", 0.01), ("reduce", 0.02), ("update", 0.03)):
            now[0] += took
            watch.lap(what)
        watch.step()
        return watch.found(0.5, True)

    assert [step(each) for each in (1.0, 0.1, 0.1, 0.7)] == [None, None, None, watch.found(0.5, True)]
    found = watch.found(0.5, True)
    assert found is not None
    assert found.step == pytest.approx(0.16)
    assert (found.passes, found.load, found.reduce, found.update) == pytest.approx((0.1, 0.01, 0.02, 0.03))
    assert found.fetch == 0.5
    assert found.ahead
    watch.begin()
    long = step(40.0)
    assert long is not None, "one that is long is enough"
    assert long.passes == pytest.approx(40.0)


def test_the_sum_of_two_is_measured_in_one_process() -> None:
    small, large = pair_seconds(10, torch.float32), pair_seconds(2_000_000, torch.float64)
    assert 0 < small < 60.0
    assert 0 < large < 60.0


def test_a_sum_that_cannot_be_measured_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("no interface")

    monkeypatch.setattr("skyriver.train.spread.measuring.ProcessGroupGloo", refused)
    assert pair_seconds(10, torch.float32) == 0.0


def test_what_two_modules_share_learns_once(line: Line) -> None:
    encoder = nn.Linear(6, 4)
    decoder = nn.Sequential(encoder, nn.Linear(4, 1))
    before, ctx = encoder.weight.detach().clone(), line.ctx(shards=2)
    ctx.state(encoder, decoder, sgd(decoder))
    for x, y in ctx.steps(rows(32), 32, 1):
        ctx.backward(100 * nn.functional.mse_loss(decoder(x), y))
        ctx.step(clip=0.5)
    assert 0 < float((encoder.weight.detach() - before).norm()) <= 0.05 + 1e-6


def test_it_may_end_early_and_leave_out_what_is_too_few_for_a_step(line: Line) -> None:
    model, ctx = nn.Linear(6, 1), line.ctx(shards=2)
    ctx.state(model, sgd(model))
    counts = []
    for x, _ in ctx.steps(rows(50), 16, 100, drop_last=True):
        counts.append(len(x))
        ctx.backward(model(x).mean())
        if ctx.epoch == 2:
            ctx.end()
        ctx.step()
    assert counts == [8] * 2 * 7
    assert ctx.committed == 7


def test_batches_are_changed_by_row_and_epoch_however_they_are_cut(line: Line) -> None:
    x, y = torch.zeros(40, 3), torch.arange(40.0)

    def seen(ctx: Context, batch: int, **more: Any) -> dict[tuple[int, int], Any]:
        model = nn.Linear(3, 1)
        ctx.state(model, sgd(model))
        found = {}
        for xb, yb in ctx.steps((x, y), batch, 2, **more):
            found |= {(ctx.epoch, int(row)): values.tolist() for row, values in zip(yb, xb, strict=True)}
            ctx.backward(model(xb).mean())
            ctx.step()
        return found

    noise = [sr.Noise(std=0.5)]
    by_seven = seen(line.ctx(seed=3), 7, augment=noise)
    other = Line()
    declared = other.ctx(seed=3, shards=8)
    declared.augment = tuple(noise)
    assert seen(declared, 16) == by_seven
    assert len({str(values) for values in by_seven.values()}) == 80
    last = Line()
    assert not any(any(values) for values in seen(last.ctx(seed=3), 7).values())
