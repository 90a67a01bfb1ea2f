"""One training on workers that come and go: how long a killed one is felt, whether anything is lost, and what it costs.

    python bench/training.py [--quick] [--parts kills,storm,scaling,overhead] [--ray PYTHON]
                             [--models mlp transformer]

Trains an MLP of 1.1 million parameters and a transformer of four layers on two processes of this machine.

kills     a worker is killed at a random moment, again and again: until any step is done, until one is that was not done
          before, until there are two workers again, and how many steps were done again; the same of torchrun with its
          own restarts and, where --ray names the Python of an environment with `ray[train]` and torch, of Ray Train.
          Checkpoints every ten steps, of all
storm     a hundred kills, joins and leaves (20 of the transformer), each of which changes who is there, in one
          training, whose parameters are to be those of one worker alone after as many steps
scaling   rows a second of two workers against one with one thread and with two: of twice the rows a step (weak) and
          of as many (strong); and of two processes that know nothing of each other
overhead  one worker against a plain loop, a step each in turns, by CPU time: without shards, and with them against a
          loop with the same micro-batches and against one that cuts nothing; and what the sum in a tree takes by itself
Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from _document import Document, Goal, add_parts, tell
from _training_work import BATCH, digest, our_steps, plain, plain_steps, train

from skyriver.train.spread.context import Context
from skyriver.train.spread.launcher import Change, Launcher, Stopped
from skyriver.train.spread.worker import keep_memory

MODELS = ("mlp", "transformer")
GOALS = (
    Goal("kill_to_step_p95_seconds", "<=", 1.0, "s"),
    Goal("full_size_p95_seconds", "<=", 5.0, "s"),
    Goal("steps_lost", "<=", 0, "steps"),
    Goal("hangs", "<=", 0, "trainings"),
    Goal("bit_equal", ">=", 1, "of the trainings"),
    Goal("scaling_1_to_2", ">=", 1.7, "times the rows"),
    Goal("overhead_share", "<=", 0.03, "of a plain loop"),
)
PARTS = {
    "kills": ("kill_to_step_p95_seconds", "full_size_p95_seconds", "steps_lost"),
    "storm": ("hangs", "bit_equal"),
    "scaling": ("scaling_1_to_2",),
    "overhead": ("overhead_share",),
}
SHARDS = 8
COMPARED = {
    "fast": ("fast", "plain"),
    "exact": ("exact", "plain_cut"),
    "exact_to_uncut": ("exact", "plain"),
    "tree_sum_alone": ("plain_tree", "plain_cut"),
    "cut_to_uncut": ("plain_cut", "plain"),
}
"""Which of the loops of a process is over which."""
PROCESSES = {"mlp": (5, 7), "transformer": (1, 3)}
"""Whose overhead is measured: quickly, and well."""
KILLS = {
    "mlp": {"skyriver": 20, "torchrun": 5, "Ray Train": 3},
    "transformer": {"skyriver": 12, "torchrun": 3, "Ray Train": 3},
}
"""Unless it is to be quick."""
EVENTS = {"mlp": (12, 100), "transformer": (6, 20)}
"""Of a storm: quickly, and well. A step of the transformer takes twenty times as long, and one worker does all of them
again."""
WARM_UP = 5
"""Steps that a figure of scaling leaves out."""
QUICK = {"kills": ("mlp",), "storm": ("mlp",), "scaling": ("transformer",), "overhead": MODELS}
WHOLE = {**dict.fromkeys(PARTS, MODELS), "scaling": ("transformer",)}
"""What is trained in each part, unless it is said."""
TORCHRUN = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "100")
OF_PEERS = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""torchrun's workers otherwise look for each other where those before a restart were, and some restarts come to nothing
for half an hour (pytorch/pytorch#135712)."""
HANGS_S = 60.0
"""Without a step."""


class Step(NamedTuple):
    """That a process did."""

    at: float
    done: int
    """Steps, with this one."""
    world: int
    process: str


@dataclass(slots=True)
class Steps:
    """What workers wrote down, read as it grows."""

    folder: Path
    _read: dict[Path, int] = field(default_factory=dict)
    found: list[Step] = field(default_factory=list)
    """In order of time."""

    def look(self) -> list[Step]:
        for path in self.folder.iterdir():
            with path.open() as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                at, step, world = line.split()
                self.found.append(Step(float(at), int(step), int(world), path.name))
        self.found.sort()
        return self.found

    def until(self, true: Callable[[list[Step]], bool]) -> bool:
        """Whether it came to be, while there are steps."""
        last = time.monotonic()
        seen = len(self.found)
        while not true(self.look()):
            if len(self.found) != seen:
                seen, last = len(self.found), time.monotonic()
            if time.monotonic() - last > HANGS_S:
                return False
            time.sleep(0.005)
        return True


@dataclass(frozen=True, slots=True)
class Felt:
    """Of one kill: seconds until any step was done, until one that was not done before, and until one was by two again;
    steps that were done again."""

    any_s: float
    new_s: float
    full_s: float
    lost: int


def felt(steps: Steps, kill: Callable[[], None]) -> Felt | None:
    """None: it hangs."""
    at = time.monotonic()
    kill()
    known = [step for step in steps.look() if step.at <= at]
    done, before = max(step.done for step in known), {step.process for step in known}

    def after() -> list[Step]:
        return [step for step in steps.found if step.at > at]

    def is_new(step: Step) -> bool:
        """What a survivor had begun may still be done: the step after the last one counts only of who came later."""
        return step.done > done + 1 or (step.done > done and step.process not in before)

    def is_full(step: Step) -> bool:
        return is_new(step) and step.world == 2 and len({s.process for s in after()} - before) > 0

    if not steps.until(lambda _: any(map(is_new, after()))) or not steps.until(lambda _: any(map(is_full, after()))):
        return None
    every = after()
    again = [step for step in every if step.done <= done and _is_again(step, known)]
    first = next(step for step in every if is_new(step) or step in again)
    new, full = next(filter(is_new, every)), next(filter(is_full, every))
    return Felt(first.at - at, new.at - at, full.at - at, len({step.done for step in again}))


def _is_again(step: Step, known: Sequence[Step]) -> bool:
    """Done before the kill already, by this process; or it is of one that came later."""
    own = [other.done for other in known if other.process == step.process]
    return not own or step.done <= max(own)


@contextmanager
def training(model: str, told: Path, **given: Any) -> Iterator[tuple[Launcher, threading.Thread, list[bytes]]]:
    """One of ours that runs beside this."""
    params = {"model": model, "told": str(told), "batches": 2, **given.pop("params")}
    workers, shards = given.pop("workers"), given.pop("shards", SHARDS)
    settings = {"context": {"shards": shards, "params": params}}
    launcher, found = Launcher(train, digest, workers, settings, **given), list[bytes]()

    def run() -> None:
        with suppress(Stopped):  # it is told to, where nobody waits for its end
            found.append(launcher.run())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield launcher, thread, found
    finally:
        launcher.stop(1.0)
        thread.join(30.0)


def kills(document: Document, models: Sequence[str], quick: bool, ray: str) -> None:
    chance = random.Random(11)
    all_of: list[Felt] = []
    for model in models:
        times = {"skyriver": 4, "torchrun": 1, "Ray Train": 1} if quick else KILLS[model]
        with tempfile.TemporaryDirectory() as folder:
            steps = Steps(Path(folder) / "steps")
            steps.folder.mkdir()
            step_s = 2 * _step_seconds(model)  # of a survivor alone, which has the rows of both
            every_s = 5 * step_s
            kept = {"checkpoints": Path(folder) / "kept", "every_s": every_s}
            with training(model, steps.folder, workers=2, params={"steps": 10_000_000}, **kept) as (launcher, _, _):
                ours = list(_kill_ours(steps, launcher, times["skyriver"], chance))
        all_of += ours
        document.row("skyriver", f"kills, {model}", **_told(ours, times["skyriver"]), step_of_one_s=round(step_s, 3))
        for system, command in commands_of(document, model, ray).items():
            theirs, hung = _kill_theirs(system, command, model, times[system], chance)
            document.row(system, f"kills, {model}", **_told(theirs, len(theirs) + hung), hangs=hung)
    document.measured("kill_to_step_p95_seconds", round(_p95([of.new_s for of in all_of]), 3))
    document.measured("full_size_p95_seconds", round(_p95([of.full_s for of in all_of]), 3))
    document.measured("steps_lost", sum(of.lost for of in all_of))


def commands_of(document: Document, model: str, ray: str) -> dict[str, list[str]]:
    """What starts each peer that there is."""
    found = {"torchrun": [sys.executable, "-m", "torch.distributed.run", *TORCHRUN, _beside("torchrun")]}
    if ray:
        found["Ray Train"] = [ray, _beside("ray")]
    else:
        document.row("Ray Train", f"kills, {model}", reason="not measured: --ray names no Python that has it")
    return found


def _step_seconds(model: str) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return median(pool.submit(_plain_alone, model, 12).result()[2:])


def _beside(name: str) -> str:
    return str(Path(__file__).with_name(f"_training_{name}.py"))


def _kill_ours(steps: Steps, launcher: Launcher, times: int, chance: random.Random) -> Iterator[Felt]:
    for _ in range(times):
        steps.until(lambda found: bool(found) and found[-1].world == 2 and len(launcher.members) == 2)
        time.sleep(chance.uniform(0.3, 1.5))
        pid = launcher.pid(chance.choice(launcher.members))
        found = felt(steps, lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
        if found is None:
            raise RuntimeError("A training of ours hangs.")
        yield found


def _kill_theirs(
    system: str, command: Sequence[str], model: str, times: int, chance: random.Random
) -> tuple[list[Felt], int]:
    """(what was felt, how often it hung)."""
    found: list[Felt] = []
    hung = 0
    while len(found) + hung < times:
        with _theirs(system, command, model) as steps:
            while len(found) + hung < times:
                if not steps.until(lambda seen: len({step.process for step in seen}) > 1):
                    raise RuntimeError(f"{system} comes to no step.")
                time.sleep(chance.uniform(1.0, 2.0))
                newest = sorted(steps.folder.iterdir(), key=lambda path: path.stat().st_ctime)[-2:]
                pid = int(chance.choice(newest).name)
                one = felt(steps, lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
                if one is None:
                    hung += 1
                    tell(f"{system}, {model}: no step for {HANGS_S:.0f} s: {_end_of_log(steps.folder.parent)}")
                    break
                found.append(one)
                told = f"{one.any_s:.1f} s until any step, {one.new_s:.1f} s until a new one"
                tell(f"{system}, {model}: {told}, {one.lost} steps done again")
    return found, hung


@contextmanager
def _theirs(system: str, command: Sequence[str], model: str) -> Iterator[Steps]:
    """A training of a peer, whose processes are all gone in the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        steps = Steps(Path(folder) / "steps")
        steps.folder.mkdir()
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, model, folder, "10000000"], stdout=log, stderr=log, env={**os.environ, **OF_PEERS}
            )
            try:
                yield steps
            except BaseException:
                tell(f"{system}: {_end_of_log(Path(folder))}")
                raise
            finally:
                for pid in _of_tree(process.pid, folder):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()


def _end_of_log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-2_000:]


def _of_tree(root: int, folder: str) -> list[int]:
    """The processes that descend from this one, and those that name its folder: a peer's may have left it."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if folder.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    tree = {root, *found} - {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sorted(tree)


def storm(document: Document, models: Sequence[str], quick: bool) -> None:
    """Kills, joins and leaves until there were enough; against one worker alone that does as many steps."""
    equal, hangs = [], 0
    for model in models:
        events, chance = EVENTS[model][not quick], random.Random(5)
        with tempfile.TemporaryDirectory() as folder:
            steps, changes = Steps(Path(folder) / "steps"), list[Change]()
            steps.folder.mkdir()
            enough = Path(folder) / "enough"
            params = {"steps": 10_000_000, "enough": str(enough)}
            given = {"workers": 2, "params": params, "on_change": changes.append}
            given |= {"checkpoints": Path(folder) / "kept", "every_s": 1.0}  # where all are gone
            done: Counter[str] = Counter()
            with training(model, steps.folder, **given) as (launcher, thread, found):
                while done.total() < events and thread.is_alive():
                    since = time.monotonic()
                    if not steps.until(partial(_has_gone_on, since)):
                        hangs += 1
                        break
                    time.sleep(chance.uniform(0.05, 0.5))
                    done[_disturb(launcher, changes, chance)] += 1
                    del done[""]
                enough.touch()
                thread.join(HANGS_S)
                hangs += thread.is_alive()
                came = int(found[0].split()[0]) if found else 0
            equal.append(float(bool(found) and found[0] == _whole(model, came)))
        most = max(change.workers for change in changes)
        row = {"events": done.total(), **done, "generations": len(changes), "steps": came, "most": most}
        document.row("skyriver", f"storm, {model}", **row, equal=equal[-1])
    document.measured("hangs", hangs)
    document.measured("bit_equal", min(equal))


def _has_gone_on(since: float, seen: Sequence[Step]) -> bool:
    """Between two events there are some steps."""
    return len({step.done for step in seen if step.at > since}) >= 3


def _disturb(launcher: Launcher, changes: Sequence[Change], chance: random.Random) -> str:
    """What changed who is there; "": nothing did."""
    what, before, was = chance.choice(("kill", "leave", "size")), len(changes), launcher.members
    if what == "size":
        size = chance.choice([n for n in (1, 2, 3) if n != len(was)])
        what = "join" if size > len(was) else "fewer"
        launcher.resize(size)
    else:
        try:
            pid = launcher.pid(chance.choice(was))
            os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGTERM)
        except (KeyError, IndexError, ProcessLookupError):
            return ""
    deadline = time.monotonic() + HANGS_S
    while time.monotonic() < deadline:
        if len(changes) > before and launcher.members != was:
            return what
        time.sleep(0.002)
    return ""


def _whole(model: str, steps: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        params = {"model": model, "told": folder, "batches": 2, "steps": steps + 1, "end_at": steps}
        return Launcher(train, digest, 1, {"context": {"shards": SHARDS, "params": params}}).run()


def scaling(document: Document, models: Sequence[str], quick: bool) -> None:
    rounds, seconds = (1, 5.0) if quick else (3, 6.0)
    for model in models:
        found: dict[str, list[float]] = {}
        steps = WARM_UP + max(5, round(seconds / _step_seconds(model)))
        for _ in range(rounds):
            for name, ratio in _scaled(model, steps):
                found.setdefault(name, []).append(ratio)
        told = {name: round(median(of), 3) for name, of in found.items()}
        document.row("skyriver", f"rows a second, to those of one worker with one thread, {model}", **told)
    note = ", ".join(f"{name} {ratio}" for name, ratio in told.items() if name != "two_weak")
    document.measured("scaling_1_to_2", told["two_weak"], note=f"of the {model}; {note}")


def _scaled(model: str, steps: int) -> Iterator[tuple[str, float]]:
    """Of one round: what is compared is measured one after the other."""
    one = _rows_per_second(model, 1, 0, steps)
    yield "two_weak", _rows_per_second(model, 2, 0, steps, batches=2) / one
    yield "two_strong", _rows_per_second(model, 2, 0, steps) / one
    yield "two_weak_same_bits", _rows_per_second(model, 2, SHARDS, steps, batches=2) / one
    yield "one_with_two_threads", _rows_per_second(model, 1, 0, steps, threads=2) / one
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        alone = median(pool.submit(_plain_alone, model, steps).result())
        both = [median(f.result()) for f in [pool.submit(_plain_alone, model, steps) for _ in range(2)]]
    yield "two_that_know_nothing_of_each_other", sum(alone / each for each in both)


def _plain_alone(model: str, steps: int) -> list[float]:
    import torch

    torch.set_num_threads(1)
    return plain(model, steps)


def _rows_per_second(model: str, workers: int, shards: int, steps: int, *, batches: int = 1, threads: int = 1) -> float:
    """`batches`: the rows of a step, in BATCH."""
    with tempfile.TemporaryDirectory() as folder:
        params = {"model": model, "told": folder, "batches": batches, "steps": steps, "end_at": steps}
        settings = {"threads": threads, "context": {"shards": shards, "params": params}}
        Launcher(train, digest, workers, settings).run()
        found = [step for step in Steps(Path(folder)).look() if step.world == workers]
    times = sorted({step.done: step.at for step in reversed(found)}.items())[WARM_UP:]
    each = [b[1] - a[1] for a, b in pairwise(times)]
    return batches * BATCH[model] / median(each)


def overhead(document: Document, models: Sequence[str], quick: bool) -> None:
    """CPU time of the thread, of loops that take a step each in turns: medians of the ratios of neighbours, and of
    these over some processes: where a process has its memory makes each of its loops some percent quicker or slower,
    from its first step to its last."""
    worst = 0.0
    for model in models:
        found = [_in_process(model, 4.0 if quick else 10.0, keep=True) for _ in range(PROCESSES[model][not quick])]
        given_back = _in_process(model, 3.0, keep=False)
        told: dict[str, float] = {}
        for name, (ours, theirs) in COMPARED.items():
            each = [_over(of, ours, theirs) for of in found]
            told |= {name: round(median(each), 4), f"{name}_least": min(each), f"{name}_most": max(each)}
        steps = {f"{name}_ms": round(1e3 * median(median(of[name]) for of in found), 2) for name in found[0]}
        steps["plain_cut_without_kept_memory_ms"] = round(1e3 * median(given_back["plain_cut"]), 2)
        counted = sum(len(of["plain"]) for of in found)
        document.row("skyriver", f"one worker over a plain loop, {model}", **told, **steps, steps=counted)
        worst = max(worst, told["fast"], told["exact"])
    note = "of loops with the same micro-batches, which keep their memory as ours does"
    document.measured("overhead_share", worst, note=note)


def _in_process(model: str, seconds: float, *, keep: bool) -> dict[str, list[float]]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_in_turns, model, seconds, keep=keep).result()


def _over(found: Mapping[str, Sequence[float]], ours: str, theirs: str) -> float:
    return round(median(a / b for a, b in zip(found[ours], found[theirs], strict=True)) - 1, 4)


def _in_turns(model: str, seconds: float, *, keep: bool) -> dict[str, list[float]]:
    """Seconds of each step, without the first three. `keep`: memory, as a worker does."""
    import torch

    torch.set_num_threads(1)
    if keep:
        keep_memory()
    loops = {
        "plain": plain_steps(model),
        "fast": _alone(model, 0),
        "exact": _alone(model, SHARDS),
        "plain_cut": plain_steps(model, SHARDS),
        "plain_tree": plain_steps(model, SHARDS, tree=True),
    }
    found: dict[str, list[float]] = {name: [] for name in loops}
    order, end = list(loops), time.monotonic() + seconds
    while time.monotonic() < end or len(found["plain"]) < 6:
        order = [*order[1:], order[0]]
        for name in order:
            begun = time.thread_time()
            next(loops[name])
            found[name].append(time.thread_time() - begun)
    return {name: of[3:] for name, of in found.items()}


def _alone(model: str, shards: int) -> Iterator[None]:
    """Our loop on one worker, without its process."""
    import multiprocessing

    from torch.distributed import HashStore

    there, here = multiprocessing.Pipe()
    there.send(("generation", {"generation": 1, "members": (1,), "lost": False}))
    yield from our_steps(Context(here, HashStore(), 1, shards=shards, params={}), model)


def _told(of: Sequence[Felt], times: int) -> dict[str, Any]:
    if not of:
        return {"kills": times}
    return {
        "kills": times,
        "any_step_p50_s": round(median(each.any_s for each in of), 3),
        "any_step_p95_s": round(_p95([each.any_s for each in of]), 3),
        "new_step_p50_s": round(median(each.new_s for each in of), 3),
        "new_step_p95_s": round(_p95([each.new_s for each in of]), 3),
        "full_size_p95_s": round(_p95([each.full_s for each in of]), 3),
        "steps_lost": sum(each.lost for each in of),
    }


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few kills and short runs")
    parser.add_argument("--ray", default="", help="the Python of an environment that has `ray[train]` and torch")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="for all parts; each has its own unless given")
    add_parts(parser, PARTS)
    given = parser.parse_args()
    document = Document("training", GOALS)
    models = dict.fromkeys(PARTS, given.models) if given.models else QUICK if given.quick else WHOLE
    works: dict[str, Callable[[], None]] = {
        "kills": lambda: kills(document, models["kills"], given.quick, given.ray),
        "storm": lambda: storm(document, models["storm"], given.quick),
        "scaling": lambda: scaling(document, models["scaling"], given.quick),
        "overhead": lambda: overhead(document, models["overhead"], given.quick),
    }
    document.parts(PARTS, works, given.parts)
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
