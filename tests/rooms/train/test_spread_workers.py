"""One training on processes that come and go: killed, stopped, hung, told to leave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import skyriver as sr

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.distributed import HashStore  # noqa: E402

from skyriver.core.errors import JobFailed  # noqa: E402
from skyriver.train.spread import context as contexts  # noqa: E402
from skyriver.train.spread import member as members  # noqa: E402
from skyriver.train.spread.checkpoints import Checkpoints, read, write  # noqa: E402
from skyriver.train.spread.context import Context  # noqa: E402
from skyriver.train.spread.group import form  # noqa: E402
from skyriver.train.spread.launcher import Change, Launcher, Stopped, _Worker  # noqa: E402
from skyriver.train.spread.pays import Choice  # noqa: E402
from skyriver.train.spread.worker import bound_arenas, keep_memory  # noqa: E402

STEPS = 48
DEADLINE_S = 120.0


def train(ctx: Context) -> Any:
    """Two epochs of 24 steps, with whatever depends on chance: batch statistics, dropout. Before a step that is in
    params["gates"] everybody waits until the test opens it."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    ctx.state(model, optimizer)
    chance = torch.Generator().manual_seed(3)
    x = torch.randn(1_500, 16, generator=chance)
    y = x[:, :1] * 2 + x[:, 1:2]
    for xb, yb in ctx.steps((x, y), 64, 2):
        if ctx.committed in ctx.params.get("gates", ()):
            wait_at(Path(ctx.params["folder"]), ctx.committed)
        loss = nn.functional.mse_loss(model(xb), yb)
        ctx.backward(loss)
        ctx.report(error=loss.detach().sqrt())
        ctx.step(optimizer)
    return model


def diverging(ctx: Context) -> Any:
    """At the sixth step, on the second of two workers."""
    torch.manual_seed(1)
    model = nn.Linear(2, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    x = torch.ones(8, 2)
    for (xb,) in ctx.steps((x,), 8, 100):
        wrong = ctx.world == 2 and ctx.rank == 1 and ctx.committed >= int(ctx.params["gates"][0])
        ctx.backward(model(xb).mean() * (float("inf") if wrong else 1.0))
        ctx.step()
    return model


def train_of_files(ctx: Context) -> Any:
    """Three epochs of seven steps."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    ctx.state(model, torch.optim.Adam(model.parameters(), 3e-3))
    folder = Path(ctx.params["folder"])
    for x, y in ctx.steps(sr.rows(folder / "*.parquet", x=["a", "b"], y="label"), 96, 3):
        if ctx.committed in ctx.params["gates"]:
            wait_at(folder, ctx.committed)
        ctx.backward(nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y))
        ctx.step()
    assert 0 < ctx.waited < 1
    return model


def slowly(ctx: Context) -> Any:
    """Two steps of eight micro-batches, each of which is written down; before the second one of the first step whoever
    is alone waits for the test."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))
    ctx.state(model, torch.optim.Adam(model.parameters(), 0.1))
    folder, x = Path(ctx.params["folder"]), torch.arange(128.0).view(64, 2)
    for (xb,) in ctx.steps((x,), 32, 1):
        with (folder / f"did-{ctx.committed}-{ctx.world}").open("a") as file:
            file.write("x")
        if ctx.params["gates"] and len((folder / "did-0-1").read_text()) == 2:
            wait_at(folder, 0)
        ctx.backward(model(xb).square().mean())
        ctx.step()
    return model


def wait_at(folder: Path, gate: int) -> None:
    (folder / f"at-{gate}-{os.getpid()}").touch()
    deadline = time.monotonic() + DEADLINE_S
    while not (folder / f"open-{gate}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def digest(ctx: Context, model: Any) -> bytes:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return f"{ctx.committed} {found.hexdigest()}".encode()


def slow_digest(ctx: Context, model: Any) -> bytes:
    wait_at(Path(ctx.params["folder"]), STEPS)
    return digest(ctx, model)


class Watched:
    """A launcher in this process, and what it told; `meanwhile` runs beside it, in a thread."""

    def __init__(
        self,
        workers: int,
        function: Callable[[Context], Any] = train,
        *,
        gates: Sequence[int] = (),
        folder: Path = Path(),
        shards: int = 8,
        hand_over: Callable[[Context, Any], bytes] = digest,
        **given: Any,
    ) -> None:
        self.folder = folder
        self.changes: list[Change] = []
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.told: dict[int, Mapping[str, float]] = {}
        """What was reported, by steps."""
        self.begun: list[int] = []
        """Steps that were done when a generation began."""
        self._seen = 0
        context = {"shards": shards, "params": {"gates": gates, "folder": str(folder)}}
        self.launcher = Launcher(
            function,
            hand_over,
            workers,
            {"context": context},
            on_beat=self._beat,
            on_change=self._change,
            **given,
        )

    def _change(self, change: Change) -> None:
        self.changes.append(change)
        self.begun.append(change.step)

    def _beat(self, step: int, loss: float, told: Any) -> None:
        self.steps.append(step)
        self.losses.append(loss)
        self.told[step] = told

    def run(self, meanwhile: Callable[[Watched], None] | None = None) -> bytes:
        failed: list[BaseException] = []

        def aside() -> None:
            assert meanwhile is not None
            try:
                meanwhile(self)
            except BaseException as error:  # told below
                failed.append(error)

        thread = threading.Thread(target=aside, daemon=True) if meanwhile is not None else None
        if thread is not None:
            thread.start()
        try:
            return self.launcher.run()
        finally:
            if thread is not None:
                thread.join(DEADLINE_S + 10)
                assert not thread.is_alive()
            assert not failed, failed

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, (self.changes, self.steps[-3:])
            time.sleep(0.002)

    def at(self, gate: int, workers: int) -> None:
        """Waits until so many of the members are there."""
        self.until(lambda: sum((self.folder / f"at-{gate}-{pid}").exists() for pid in self.pids) == workers)

    def open(self, gate: int) -> None:
        (self.folder / f"open-{gate}").touch()

    def size(self, workers: int) -> None:
        """Waits until so many were there, after what was waited for before, and have heard of it: what comes next may
        be there already."""
        self.until(lambda: workers in self.sizes[self._seen :])
        self._seen = self.sizes.index(workers, self._seen) + 1

    @property
    def pids(self) -> list[int]:
        found = []
        for member in self.launcher.members:
            with contextlib.suppress(KeyError):
                found.append(self.launcher.pid(member))
        return found

    @property
    def sizes(self) -> list[int]:
        return [change.workers for change in self.changes]


@pytest.fixture(autouse=True)
def _together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin together, also where two processes that import torch need half a minute."""
    monkeypatch.setattr("skyriver.train.spread.launcher.TOGETHER_S", DEADLINE_S)


@pytest.fixture(scope="module")
def alone() -> bytes:
    """What one worker comes to."""
    watched = Watched(1)
    found = watched.run()
    assert found.startswith(b"48 ")
    assert watched.steps[-1] == STEPS
    assert watched.losses[-1] < 0.8 * watched.losses[0]
    return found


def test_two_workers_come_to_the_same_bits(alone: bytes) -> None:
    watched = Watched(2)
    assert watched.run() == alone
    assert watched.sizes == [2]


def test_killed_workers_are_replaced_and_the_bits_are_the_same(alone: bytes, tmp_path: Path) -> None:
    chance = random.Random(7)

    def kill(watched: Watched) -> None:
        for gate in (10, 20, 30):
            watched.at(gate, 3)
            os.kill(watched.pids[chance.randrange(3)], signal.SIGKILL)
            watched.size(2)
            watched.size(3)
            watched.open(gate)

    watched = Watched(3, gates=(10, 20, 30), folder=tmp_path)
    assert watched.run(kill) == alone
    assert watched.sizes == [3, 2, 3, 2, 3, 2, 3]
    assert sum("ended with -9" in change.why for change in watched.changes) == 3


def test_rows_of_files_are_the_same_for_any_number_of_workers_and_after_a_kill(tmp_path: Path) -> None:
    for part in range(3):
        at = [n / 100 for n in range(part * 200, part * 200 + 200)]
        made = pl.DataFrame({"a": at, "b": [-a * a for a in at], "label": [a > 3 for a in at]})
        made.write_parquet(tmp_path / f"{part}.parquet", row_group_size=30)
    alone = Watched(1, train_of_files, folder=tmp_path).run()

    def kill(watched: Watched) -> None:
        watched.at(9, 3)
        os.kill(watched.pids[1], signal.SIGKILL)
        watched.size(2)
        watched.size(3)
        watched.open(9)

    assert Watched(3, train_of_files, gates=(9,), folder=tmp_path).run(kill) == alone


def test_one_that_is_killed_in_the_midst_of_a_sum_is_not_waited_for(alone: bytes, tmp_path: Path) -> None:
    """One waits for the other in the sum of its step; the other dies on its way there."""

    def kill(watched: Watched) -> None:
        watched.at(10, 2)
        first, second = watched.pids
        os.kill(second, signal.SIGSTOP)
        watched.open(10)
        time.sleep(0.3)  # the first one comes to the sum
        os.kill(second, signal.SIGKILL)
        watched.size(1)
        assert watched.pids[0] == first

    watched = Watched(2, gates=(10,), folder=tmp_path)
    assert watched.run(kill) == alone


def test_all_killed_at_once_go_on_from_the_last_checkpoint(alone: bytes, tmp_path: Path) -> None:
    def kill(watched: Watched) -> None:
        watched.at(20, 2)
        watched.until(lambda: any(tmp_path.glob("*.json")))
        for pid in watched.pids:
            os.kill(pid, signal.SIGKILL)
        watched.open(20)

    watched = Watched(2, gates=(20,), folder=tmp_path, checkpoints=tmp_path, every_s=0.0)
    assert watched.run(kill) == alone
    assert "ended with -9" in watched.changes[1].why
    assert watched.begun[-1] > 0, "it began anew"


def test_the_state_before_a_loss_that_diverges_is_kept(tmp_path: Path) -> None:
    watched = Watched(2, diverging, gates=(5,), folder=tmp_path, checkpoints=tmp_path, every_s=1_000.0)
    with pytest.raises(JobFailed, match=r"The loss of step (\d+) is") as failed:
        watched.run()
    assert failed.value.code == "DIVERGED"
    kept = json.loads(next(tmp_path.glob("step-*.json")).read_text())["step"]
    assert f"step {kept + 1} is" in failed.value.message
    assert kept >= 5


def test_who_hangs_is_ended_and_who_waits_for_it_is_not(alone: bytes, tmp_path: Path) -> None:
    def hang(watched: Watched) -> None:
        watched.at(10, 2)
        os.kill(watched.pids[1], signal.SIGSTOP)
        watched.open(10)
        watched.size(1)

    watched = Watched(2, silent_s=8.0, gates=(10,), folder=tmp_path)
    assert watched.run(hang) == alone
    assert watched.sizes[:2] == [2, 1]
    assert "hung and was ended" in watched.changes[1].why


@pytest.mark.parametrize("workers", [1, 2])
def test_who_hands_over_may_take_its_time(
    alone: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def wait(watched: Watched) -> None:
        watched.at(STEPS, 1)
        monkeypatch.setattr("skyriver.train.spread.launcher.FIRST_STEP_S", 0.5)
        time.sleep(2.0)  # in which it would be ended
        watched.open(STEPS)

    watched = Watched(workers, hand_over=slow_digest, folder=tmp_path)
    assert watched.run(wait) == alone
    assert watched.sizes == [workers]


def test_one_more_and_one_fewer_at_the_end_of_a_step(alone: bytes, tmp_path: Path) -> None:
    def resize(watched: Watched) -> None:
        watched.at(10, 1)
        watched.launcher.resize(2)
        watched.size(2)
        watched.open(10)
        watched.at(20, 2)
        os.kill(watched.pids[0], signal.SIGTERM)  # it leaves by itself, and another one comes
        watched.open(20)
        watched.size(1)
        assert "leaves" in watched.changes[2].why
        watched.size(2)
        watched.launcher.resize(1)
        watched.size(1)
        watched.open(30)

    watched = Watched(1, gates=(10, 20, 30), folder=tmp_path)
    assert watched.run(resize) == alone
    assert watched.sizes == [1, 2, 1, 2, 1]


def test_one_that_comes_in_the_midst_of_a_long_step_helps_with_it(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    expected = Watched(1, slowly, folder=tmp_path / "alone").run()

    def join(watched: Watched) -> None:
        watched.at(0, 1)
        watched.launcher.resize(2)
        watched.size(2)
        watched.open(0)

    (tmp_path / "both").mkdir()
    watched = Watched(1, slowly, gates=(0,), folder=tmp_path / "both")
    assert watched.run(join) == expected
    assert len((tmp_path / "both" / "did-0-1").read_text()) == 2, "the rest of the first step is done by both"
    assert len((tmp_path / "both" / "did-0-2").read_text()) == 6, "what was done of it stands"


def test_it_stops_in_time_and_goes_on_with_another_number(alone: bytes, tmp_path: Path) -> None:
    def stop(watched: Watched) -> None:
        watched.at(20, 2)
        watched.launcher.stop(60.0)
        watched.until(lambda: watched.launcher._told_to_stop)
        watched.open(20)

    with pytest.raises(Stopped):
        Watched(2, gates=(20,), folder=tmp_path, checkpoints=tmp_path, every_s=1_000.0).run(stop)
    [checkpoint] = tmp_path.glob("*.safetensors")
    assert 20 < int(checkpoint.stem[5:]) < STEPS
    assert not list(tmp_path.glob("*.new"))
    watched = Watched(1, checkpoints=tmp_path)
    assert watched.run() == alone
    assert watched.steps[0] > 20


def test_the_quick_way_survives_too(tmp_path: Path) -> None:
    def kill(watched: Watched) -> None:
        watched.at(20, 2)
        os.kill(watched.pids[1], signal.SIGKILL)
        watched.size(1)
        watched.open(20)

    watched = Watched(2, gates=(20,), folder=tmp_path, shards=0)
    assert watched.run(kill).startswith(b"48 ")
    assert watched.sizes[:2] == [2, 1]
    assert watched.losses[-1] < 0.8 * watched.losses[0]


def begins_by_chance(ctx: Context) -> Any:
    """Each worker makes another model, by numbers that it draws from the machine."""
    model = nn.Linear(16, 1)
    with torch.no_grad():
        model.bias.fill_(float(int.from_bytes(os.urandom(2))))
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.01))
    folder = Path(ctx.params["folder"])
    for (x,) in ctx.steps((torch.ones(64, 16),), 16):
        ctx.backward(model(x).mean())
        ctx.step()
    (folder / f"model-{os.getpid()}").write_bytes(digest(ctx, model))
    return model


def test_all_begin_with_one_model(tmp_path: Path) -> None:
    Watched(3, begins_by_chance, folder=tmp_path).run()
    found = [path.read_bytes() for path in tmp_path.glob("model-*")]
    assert len(set(found)) == 1
    assert found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["dies", "leaves"])
def test_who_goes_before_one_that_comes_has_its_state_leaves_a_checkpoint(
    alone: bytes, tmp_path: Path, how: signal.Signals
) -> None:
    def go(watched: Watched) -> None:
        watched.at(20, 1)
        watched.until(lambda: any(tmp_path.glob("*.json")) or how == signal.SIGTERM)
        watched.launcher.resize(2)
        watched.size(2)
        os.kill(watched.pids[0], how)
        watched.open(20)

    every_s = 0.0 if how == signal.SIGKILL else 1_000.0
    watched = Watched(1, gates=(20,), folder=tmp_path, checkpoints=tmp_path, every_s=every_s)
    assert watched.run(go) == alone
    assert min(watched.begun[1:]) > 0, "it began anew"


def clips(ctx: Context) -> Any:
    """Each epoch ends with a step of a single row, of which only the last worker has something."""
    torch.manual_seed(1)
    model = nn.Linear(4, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.5))
    x = torch.randn(33, 4, generator=torch.Generator().manual_seed(3))
    for (xb,) in ctx.steps((x,), 32, 2):
        ctx.backward(100 * model(xb).mean())
        ctx.step(clip=0.1)
    (Path(ctx.params["folder"]) / f"model-{os.getpid()}").write_bytes(digest(ctx, model))
    return model


@pytest.mark.parametrize("shards", [0, 8], ids=["quick", "exact"])
def test_who_has_no_rows_of_a_step_clips_its_gradient_too(tmp_path: Path, shards: int) -> None:
    came = Watched(2, clips, folder=tmp_path, shards=shards).run()
    assert {path.read_bytes() for path in tmp_path.glob("model-*")} == {came}
    if shards:
        assert Watched(1, clips, folder=tmp_path).run() == came


def reports(ctx: Context) -> Any:
    """As `clips`; one of the workers reports something else now and then. Each step is told, however short."""
    members.POINT_S = -1.0  # type: ignore[misc]
    torch.manual_seed(1)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ctx.state(model, optimizer)
    x = torch.arange(99.0).reshape(33, 3)
    for (batch,) in ctx.steps((x,), 32, 2):
        ctx.report(rows=float(len(batch)), **({"more": 1.0} if ctx.committed == 2 and ctx.rank else {}))
        ctx.backward(model(batch).mean())
        ctx.step()
    return model


@pytest.mark.parametrize("shards", [0, 8], ids=["quick", "exact"])
def test_what_is_reported_is_that_of_all_workers_by_its_name(tmp_path: Path, shards: int) -> None:
    """The first of them has no rows of the last step of an epoch; of a step whose names differ nothing is told."""
    watched = Watched(2, reports, folder=tmp_path, shards=shards)
    watched.run()
    assert {step: told.get("rows") for step, told in watched.told.items()} == {
        1: 16.0 if not shards else 4.0,
        2: 1.0,
        3: None,
        4: 1.0,
    }


def the_first_is_late(ctx: Context) -> Any:
    """To say what came of the last step, which the second has done before."""
    model = nn.Linear(1, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    tell = ctx._member.beat

    def late(*what: Any, **more: Any) -> None:
        time.sleep(1.0)
        tell(*what, **more)

    for (x,) in ctx.steps((torch.ones(8, 1),), 8, 6):
        if ctx.committed == 5 and ctx.rank == 0:
            ctx._member.beat = late  # type: ignore[method-assign]
        ctx.report(weight=model.weight)
        ctx.backward(model(x).mean())
        ctx.step()
    return model


def test_what_came_of_the_last_step_is_told() -> None:
    watched = Watched(2, the_first_is_late)
    watched.run()
    assert watched.steps[-1] == 6
    assert "weight" in watched.told[6]


def one_dies_as_they_begin(ctx: Context) -> Any:
    """Once the launcher has said who begins, and before all are there."""

    def die() -> None:
        ctx._member._newer()
        os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.suppress(FileExistsError):
        (Path(ctx.params["folder"]) / "dies").touch(exist_ok=False)
        ctx._meet = die  # type: ignore[method-assign]
    return train(ctx)


def test_who_dies_as_they_begin_takes_no_checkpoint_along(alone: bytes, tmp_path: Path) -> None:
    Watched(1, checkpoints=tmp_path, every_s=0.0).run()
    kept = max(int(path.stem[5:]) for path in tmp_path.glob("step-*.safetensors"))
    watched = Watched(2, one_dies_as_they_begin, folder=tmp_path, checkpoints=tmp_path, every_s=1_000.0)
    assert watched.run() == alone
    assert "ended with -9" in watched.changes[1].why
    assert watched.begun[1] == kept
    assert min(watched.steps, default=STEPS) > kept


def test_the_last_one_leaves_with_a_checkpoint(alone: bytes, tmp_path: Path) -> None:
    def leave(watched: Watched) -> None:
        watched.at(20, 1)
        os.kill(watched.pids[0], signal.SIGTERM)
        watched.open(20)

    watched = Watched(1, gates=(20,), folder=tmp_path, checkpoints=tmp_path, every_s=1_000.0)
    assert watched.run(leave) == alone
    assert watched.begun[-1] >= 20


def test_who_wants_to_end_it_twice_or_after_its_end_does_no_harm() -> None:
    watched = Watched(1)
    watched.run()
    watched.launcher.stop()
    watched.launcher.resize(3)


def until_it_is_chosen(ctx: Context) -> Any:
    """As long as it is measured, and ten steps more."""
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    ctx.state(model, optimizer)
    x, chosen, at = torch.randn(512, 16), Path(ctx.params["folder"]) / "chosen", 0
    for (xb,) in ctx.steps((x,), 64, 100_000):
        at = at or (chosen.exists() and ctx.committed)
        if at and ctx.committed >= at + 10:
            ctx.end()
        ctx.backward(model(xb).square().mean())
        ctx.step(optimizer)
    return model


@pytest.mark.parametrize("shards", [0, 4], ids=["quick", "exact"])
def test_what_pays_is_measured_with_its_own_steps(tmp_path: Path, shards: int) -> None:
    choices: list[Choice] = []

    def settle(watched: Watched) -> None:
        launcher = watched.launcher
        watched.until(lambda: bool(choices) and launcher._setting == choices[0].setting)
        watched.until(lambda: launcher._told_how == launcher._how_they_work)
        watched.until(lambda: watched.sizes[-1] == choices[0].workers)
        (tmp_path / "chosen").touch()

    watched = Watched(2, until_it_is_chosen, folder=tmp_path, shards=shards, cores=2, on_choice=choices.append)
    done = int(watched.run(settle).split()[0])
    [choice] = choices
    assert watched.sizes[0] == 1, "it begins with one worker"
    assert watched.begun == sorted(watched.begun), "no step is done for it alone"
    assert done >= watched.begun[-1] + 10
    assert choice.workers in (1, 2)
    assert choice.micro_batch * choice.workers <= 64
    assert "all-reduce" in choice.why
    assert "trained on" in choice.why
    if shards:
        assert (choice.threads, choice.micro_batch) == (1, 16), "both would change bits"


def works_by_rows(ctx: Context) -> Any:
    """Five milliseconds a row, of nobody's processor: two workers take half as long, for what their sum takes is not
    measured before, on a machine that may be busy. With the file "one" no second worker comes to its first step."""
    contexts.pair_seconds = lambda size, dtype: 0.0
    folder = Path(ctx.params["folder"])
    if (folder / "one").exists():
        if (folder / "first").exists():
            os._exit(3)
        (folder / "first").touch()
    model = nn.Linear(1, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    for (x,) in ctx.steps((torch.zeros(640, 1),), 64, 10_000):
        time.sleep(0.005 * len(x))
        if (folder / "chosen").exists():
            ctx.end()
        ctx.backward(model(x).mean())
        ctx.step()
    return model


@pytest.mark.parametrize("can", [2, 1])
def test_a_second_worker_that_pays_is_kept_if_it_can_be_had(tmp_path: Path, can: int) -> None:
    choices: list[Choice] = []

    def chosen(choice: Choice) -> None:
        choices.append(choice)
        (tmp_path / "chosen").touch()

    if can == 1:
        (tmp_path / "one").touch()
    watched = Watched(2, works_by_rows, folder=tmp_path, shards=8, cores=2, on_choice=chosen)
    watched.run()
    assert watched.sizes == [1, 2][:can]
    assert [choice.workers for choice in choices] == [can]
    told = "2 workers take" if can == 2 else "(2 workers cannot be had: one ended with 3 before its first step)"
    assert told in choices[0].why


def fits_sixteen_rows(ctx: Context) -> Any:
    model = nn.Linear(1, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    for (x,) in ctx.steps((torch.zeros(256, 1),), 64):
        if len(x) > 16:
            raise MemoryError
        ctx.backward(model(x).mean())
        ctx.step()
    return model


def test_a_batch_that_does_not_fit_into_memory_is_cut() -> None:
    watched = Watched(1, fits_sixteen_rows, shards=0, cores=1)
    assert watched.run().startswith(b"4 ")
    assert watched.steps[-1] == 4


def raises(ctx: Context) -> Any:
    raise KeyError("amount")


def steps_not(ctx: Context) -> Any:
    return nn.Linear(1, 1)


def wants_all_memory(ctx: Context) -> Any:
    model = nn.Linear(1, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    for (x,) in ctx.steps((torch.zeros(64, 1),), 16):
        ctx.backward(model(x).sum() + torch.zeros(1 << 50).sum())
        ctx.step()


def ends(ctx: Context) -> Any:
    os._exit(3)


def ends_in_a_step(ctx: Context) -> Any:
    model = nn.Linear(1, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    for (x,) in ctx.steps((torch.zeros(64, 1),), 16):
        if ctx.committed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.backward(model(x).sum())
        ctx.step()


def leaves_its_loop(ctx: Context) -> Any:
    model = nn.Linear(1, 1)
    ctx.state(model, torch.optim.SGD(model.parameters(), 0.1))
    for (x,) in ctx.steps((torch.zeros(64, 1),), 16):
        ctx.backward(model(x).sum())
        ctx.step()
        if ctx.committed == 2:
            break
    return model


FAILS: dict[str, tuple[Callable[[Context], Any], str, str]] = {
    "raises": (raises, "USER_ERROR", "KeyError: 'amount'"),
    "no step": (steps_not, "NO_STEP", "without a single step"),
    "break": (leaves_its_loop, "NO_STEP", "left its loop after 2 of 4 steps"),
    "ends in a step": (ends_in_a_step, "WORKERS_END", "10 workers ended one after another, and no step after"),
    "memory": (wants_all_memory, "OUT_OF_MEMORY", "not enough memory for step 1, 2 rows of it"),
    "ends": (ends, "WORKERS_END", "3 workers ended one after another before their first step (ended with 3)"),
}


@pytest.mark.parametrize("how", FAILS)
def test_what_fails_says_so(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, code, message = FAILS[how]
    with pytest.raises(JobFailed) as failed:
        Watched(2 if how == "raises" else 1, function).run()
    assert failed.value.code == code
    assert message in failed.value.message
    assert failed.value.next_action
    if how in ("raises", "memory"):
        assert failed.value.where.startswith("test_spread_workers.py:")
    if how == "memory":
        assert "global_batch=8 in" in failed.value.next_action
    if how == "ends in a step":
        assert "(perhaps there is not enough memory for its 16 rows)" in failed.value.message
        assert "global_batch=8" in failed.value.next_action
    if how == "raises":
        assert capfd.readouterr().err.count("Traceback") == 1, "of the first of them alone"


class Seen:
    """A worker's process, as the launcher sees it."""

    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True


def test_who_said_that_it_takes_long_is_not_taken_for_hung() -> None:
    launcher, long_ago = Launcher(train, digest, 1), time.monotonic() - 100.0
    for busy, silent in ((False, True), (True, False)):
        worker = _Worker(1, Seen(), None, heard=long_ago)  # type: ignore[arg-type]
        launcher._workers, launcher._members, launcher._furthest = {1: worker}, (1,), 3
        if busy:
            launcher._on_busy(worker, 600.0)
        launcher._end_hung(100.0)  # a turn in which the machine stood still counts against nobody
        assert not worker.hung
        if not busy:
            worker.heard = long_ago
        launcher._end_hung(0.0)
        assert worker.hung is worker.process.killed is silent  # type: ignore[attr-defined]


def test_what_cannot_be_handed_to_who_joins_ends_it_with_why() -> None:
    launcher = Launcher(train, digest, 2)
    worker = _Worker(1, Seen(), None)  # type: ignore[arg-type]
    for generation in (1, 2):
        launcher._generation, launcher._broken = generation, None
        launcher._on_broken(worker, generation, "nothing came", True)
        launcher._on_broken(worker, generation, "nothing came", True)  # of the same
    launcher._broken = None
    with pytest.raises(JobFailed, match="could not be handed to it, 3 times in a row: nothing came") as failed:
        launcher._on_broken(worker, 2, "nothing came", True)
    assert failed.value.code == "NOT_HANDED_OVER"


class Ended:
    """A pipe to one that has just died."""

    exitcode = -9

    def send(self, said: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    def close(self) -> None: ...


def test_one_that_dies_while_it_hands_over_leaves_nothing_and_another_one_does() -> None:
    launcher = Launcher(train, digest, 2)
    ours, theirs = multiprocessing.Pipe()
    first = _Worker(1, Ended(), Ended(), ready=True)  # type: ignore[arg-type]
    second = _Worker(2, Ended(), theirs, ready=True)  # type: ignore[arg-type]
    launcher._workers, launcher._members = {1: first, 2: second}, (1, 2)
    launcher._on_done(second, STEPS)
    assert not ours.poll(), "the first, which tells what came of the last step, is not done"
    launcher._on_done(first, STEPS)
    launcher._on_part(first, bytes(100))
    launcher._gone(first)
    assert launcher._parts == {}
    said = [ours.recv()[0] for _ in range(2)]
    assert said == ["generation", "hand over"]


def test_a_checkpoint_is_read_once_however_often_they_begin_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Launcher(train, digest, 1, checkpoints=tmp_path)
    kept = launcher.checkpoints
    assert kept is not None
    assert launcher._newest() is None
    seen: list[Path] = []

    def counted(path: Path) -> Any:
        seen.append(path)
        return read(path)

    monkeypatch.setattr("skyriver.train.spread.checkpoints.read", counted)
    first, second = (kept.publish(write(tmp_path, {"step": step}, worker=1)) for step in (1, 2))
    assert launcher._newest() == launcher._newest() == second
    third = kept.publish(write(tmp_path, {"step": 3}, worker=1))
    assert launcher._newest() == third
    third.write_bytes(b"")
    launcher._verified = None  # as after a start
    assert launcher._newest() == launcher._newest() == second
    assert seen == [second, third, third, second]
    second.unlink()
    assert launcher._newest() == first


def test_an_attempt_whose_checkpoints_are_gone_does_not_go_on(tmp_path: Path) -> None:
    """The later one has removed them: a worker finds no folder to write into."""
    launcher = Launcher(train, digest, 1, checkpoints=tmp_path / "kept", attempt=1)
    Checkpoints(tmp_path / "kept", attempt=2).claimed().remove()
    with pytest.raises(JobFailed, match="later attempt of this training has begun") as failed:
        launcher._on_unwritten(_Worker(1, Ended(), Ended()), "No such file or directory")  # type: ignore[arg-type]
    assert failed.value.code == "FENCED"


GENERATIONS, NUMBERS = 32, 4_000_000


def generations(told: Any) -> None:
    """Both members are threads of this process, whose memory after each generation it tells."""
    torch.set_num_threads(1)
    bound_arenas()
    keep_memory()
    store, vectors = HashStore(), [torch.ones(NUMBERS) for _ in range(2)]

    def member(generation: int, rank: int) -> None:
        group = form(store, generation, (1, 2), rank + 1)
        group.broadcast({"a": vectors[0]} if rank == 0 else None, 0)
        group.begin_sum(vectors[rank])
        group.finish_sums()
        group.end()

    for generation in range(1, GENERATIONS + 1):
        threads = [threading.Thread(target=member, args=(generation, rank)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told.send(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def test_memory_does_not_grow_with_changes_of_generation() -> None:
    """Of two members that each sum 16 MB. The allocator's pieces make 120 to 170 MB within some forty generations, and
    no more then; one vector that each generation left behind would be 512 MB after these."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=generations, args=(theirs,))
    process.start()
    found = [ours.recv() for _ in range(GENERATIONS)]
    process.join()
    assert max(found) - found[0] < GENERATIONS // 2 * 4 * NUMBERS, [each >> 20 for each in found]


def attempt(folder: Path) -> None:
    """Of a process of its own, to be killed."""
    Watched(1, gates=(20,), folder=folder, checkpoints=folder / "kept", every_s=0.0).run()


def test_an_orphan_of_the_attempt_before_ends_and_changes_nothing(alone: bytes, tmp_path: Path) -> None:
    """Its launcher is killed while it stands still; the next attempt is over before it goes on. It may stand before the
    file that it was about to write."""
    first = multiprocessing.get_context("spawn").Process(target=attempt, args=(tmp_path,))
    first.start()
    deadline = time.monotonic() + DEADLINE_S
    while not (at := list(tmp_path.glob("at-20-*"))) or not any(tmp_path.glob("kept/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    orphan = int(at[0].name.rpartition("-")[2])
    os.kill(orphan, signal.SIGSTOP)
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    (tmp_path / "open-20").touch()
    watched = Watched(1, gates=(20,), folder=tmp_path, checkpoints=tmp_path / "kept", every_s=0.0)
    assert watched.run() == alone
    assert watched.begun[0] > 0, "it began anew"
    assert watched.launcher.checkpoints is not None
    watched.launcher.checkpoints.remove()  # as a job that is done does
    with contextlib.suppress(ProcessLookupError):
        os.kill(orphan, signal.SIGCONT)
    deadline = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{orphan}").exists() and b"Z" not in Path(f"/proc/{orphan}/stat").read_bytes().split()[2:3]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert not (tmp_path / "kept").exists()
