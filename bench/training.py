"""One training on workers that come and go: how long a killed one is felt, whether anything is lost, and what it costs.

    python bench/training.py [--quick] [--parts kills,storm,scaling,overhead]

Trains an MLP of 1.1 million parameters and a transformer of four layers on two processes of this machine.

kills     a worker is killed at a random moment, again and again: until the next step, until there are two again; the
          same of torchrun with its own restarts and a checkpoint every ten steps
storm     a hundred kills, joins and leaves in one training, whose parameters are to be those of one worker alone
scaling   rows a second of two workers against one, and of two processes that know nothing of each other
overhead  one worker against a plain loop with the same batches, in turns; and what the same bits cost on two
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from _document import Document, Goal, add_parts, tell
from _training_work import BATCH, digest, plain, train

from skyriver.train.spread.launcher import Change, Launcher

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
HANGS_S = 90.0
"""Without a step."""


@dataclass(slots=True)
class Steps:
    """What workers wrote down, read as it grows."""

    folder: Path
    _read: dict[Path, int] = field(default_factory=dict)
    found: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds, steps done, workers), in order of time."""

    def look(self) -> list[tuple[float, int, int]]:
        for path in self.folder.iterdir():
            with path.open() as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                at, step, world = line.split()
                self.found.append((float(at), int(step), int(world)))
        self.found.sort()
        return self.found

    def until(self, true: Callable[[list[tuple[float, int, int]]], bool]) -> bool:
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
    """Of one kill: seconds until another step was done, and until one was by two again; steps that were done again."""

    next_s: float
    full_s: float
    lost: int


def felt(steps: Steps, kill: Callable[[], None]) -> Felt | None:
    """None: it hangs."""
    known = steps.look()
    done, at = max(step for _, step, _ in known), time.monotonic()
    kill()
    after: list[tuple[float, int, int]] = []

    def again(found: list[tuple[float, int, int]]) -> bool:
        # what a survivor had begun may still be done; a step after it was not
        after[:] = [of for of in found if of[0] > at and of[1] > done + 1]
        return bool(after)

    if not steps.until(again):
        return None
    next_s = after[0][0] - at
    before = max(step for seconds, step, _ in steps.found if seconds <= at)
    first = min((step for seconds, step, _ in steps.found if seconds > at), default=before)
    if not steps.until(lambda found: any(of[0] > after[0][0] and of[2] == 2 for of in found)):
        return None
    full_s = next(of[0] for of in steps.found if of[0] > after[0][0] and of[2] == 2) - at
    return Felt(next_s, full_s, max(0, before - first))


@contextmanager
def training(model: str, told: Path, **given: Any) -> Iterator[tuple[Launcher, threading.Thread, list[bytes]]]:
    """One of ours that runs beside this."""
    params = {"model": model, "told": str(told), "batches": 2, **given.pop("params")}
    workers, shards = given.pop("workers"), given.pop("shards", SHARDS)
    settings = {"context": {"shards": shards, "params": params}}
    launcher, found = Launcher(train, digest, workers, settings, **given), []
    thread = threading.Thread(target=lambda: found.append(launcher.run()), daemon=True)
    thread.start()
    try:
        yield launcher, thread, found
    finally:
        launcher.stop(1.0)
        thread.join(30.0)


def kills(document: Document, quick: bool) -> None:
    chance = random.Random(11)
    all_of: list[Felt] = []
    for model in MODELS:
        times = 4 if quick else 20
        with tempfile.TemporaryDirectory() as folder:
            steps = Steps(Path(folder))
            with training(model, steps.folder, workers=2, params={"steps": 10_000_000}) as (launcher, _, _):
                ours = list(_kill_ours(steps, launcher, times, chance))
        all_of += ours
        document.row("skyriver", f"kills, {model}", **_told(ours, times))
        theirs, hung = _kill_torchrun(model, 2 if quick else 6, chance)
        document.row("torchrun", f"kills, {model}", **_told(theirs, len(theirs) + hung), hangs=hung)
    document.measured("kill_to_step_p95_seconds", round(_p95([of.next_s for of in all_of]), 3))
    document.measured("full_size_p95_seconds", round(_p95([of.full_s for of in all_of]), 3))
    document.measured("steps_lost", sum(of.lost for of in all_of))


def _kill_ours(steps: Steps, launcher: Launcher, times: int, chance: random.Random) -> Iterator[Felt]:
    for _ in range(times):
        steps.until(lambda found: bool(found) and found[-1][2] == 2 and len(launcher.members) == 2)
        time.sleep(chance.uniform(0.3, 1.5))
        pid = launcher.pid(chance.choice(launcher.members))
        found = felt(steps, lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
        if found is None:
            raise RuntimeError("A training of ours hangs.")
        yield found


def _kill_torchrun(model: str, times: int, chance: random.Random) -> tuple[list[Felt], int]:
    """(what was felt, how often it hung)."""
    found, hung = [], 0
    while len(found) + hung < times:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "steps").mkdir()
            steps = Steps(Path(folder) / "steps")
            arguments = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "100"]
            own = [str(Path(__file__).with_name("_training_torchrun.py")), model, folder, "10000000"]
            process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *arguments, *own],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                while len(found) + hung < times:
                    steps.until(lambda seen: bool(seen))
                    time.sleep(chance.uniform(1.0, 2.0))
                    newest = sorted(steps.folder.iterdir(), key=lambda path: path.stat().st_ctime)[-2:]
                    pid = int(chance.choice(newest).name)
                    one = felt(steps, lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
                    if one is None:
                        hung += 1
                        break
                    found.append(one)
                    tell(f"torchrun, {model}: {one.next_s:.1f} s until the next step, {one.lost} steps lost")
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return found, hung


def storm(document: Document, quick: bool) -> None:
    """Kills, joins and leaves until there were enough, then to the end; against one worker alone."""
    events, equal, hangs = (12 if quick else 100), [], 0
    steps_wanted = 400 if quick else 2_500
    for model in ("mlp",):
        alone = _whole(model, steps_wanted)
        chance = random.Random(5)
        with tempfile.TemporaryDirectory() as folder:
            steps, changes = Steps(Path(folder)), list[Change]()
            params = {"steps": steps_wanted}
            given = {"workers": 2, "params": params, "on_change": changes.append}
            with training(model, steps.folder, **given) as (launcher, thread, found):
                done = 0
                while done < events and thread.is_alive():
                    if not steps.until(lambda seen: bool(seen) and bool(launcher.members)):
                        hangs += 1
                        break
                    time.sleep(chance.uniform(0.05, 0.5))
                    done += _disturb(launcher, chance)
                launcher.resize(2)
                thread.join(900.0)
                hangs += thread.is_alive()
                equal.append(float(found == [alone]))
        sizes = [change.workers for change in changes]
        document.row("skyriver", f"storm, {model}", events=done, changes=len(changes), equal=equal[-1], most=max(sizes))
    document.measured("hangs", hangs)
    document.measured("bit_equal", min(equal))


def _disturb(launcher: Launcher, chance: random.Random) -> int:
    what = chance.choice(("kill", "leave", "size"))
    if what == "size":
        launcher.resize(chance.randrange(1, 4))
        return 1
    try:
        pid = launcher.pid(chance.choice(launcher.members))
        os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGTERM)
    except (KeyError, IndexError, ProcessLookupError):
        return 0
    return 1


def _whole(model: str, steps: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        params = {"model": model, "told": folder, "batches": 2, "steps": steps}
        return Launcher(train, digest, 1, {"context": {"shards": SHARDS, "params": params}}).run()


def scaling(document: Document, quick: bool) -> None:
    rounds, steps = (2, 40) if quick else (5, 150)
    for model in MODELS:
        ratios: dict[str, list[float]] = {"quick": [], "exact": [], "apart": []}
        for _ in range(rounds):
            one = _rows_per_second(model, 1, 0, steps)
            ratios["quick"].append(_rows_per_second(model, 2, 0, steps) / one)
            ratios["exact"].append(_rows_per_second(model, 2, SHARDS, steps) / one)
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                alone = median(pool.submit(_plain_alone, model, steps).result())
                both = [median(f.result()) for f in [pool.submit(_plain_alone, model, steps) for _ in range(2)]]
            ratios["apart"].append(sum(alone / each for each in both))
        found = {name: round(median(of), 3) for name, of in ratios.items()}
        document.row("skyriver", f"rows a second of two workers to one, {model}", **found)
    note = f"two processes that know nothing of each other: {found['apart']}; the same bits: {found['exact']}"
    document.measured("scaling_1_to_2", found["quick"], note=note)


def _plain_alone(model: str, steps: int) -> list[float]:
    import torch

    torch.set_num_threads(1)
    return plain(model, steps)


def _rows_per_second(model: str, workers: int, shards: int, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        params = {"model": model, "told": folder, "batches": workers, "steps": steps}
        settings = {"context": {"shards": shards, "params": params}}
        Launcher(train, digest, workers, settings).run()
        found = [(at, step) for at, step, world in Steps(Path(folder)).look() if world == workers]
    times = sorted({step: at for at, step in reversed(found)}.items())[10:]
    each = [b[1] - a[1] for a, b in pairwise(times)]
    return workers * BATCH[model] / median(each)


def overhead(document: Document, quick: bool) -> None:
    """In one process, in turns; medians of each turn."""
    worst = 0.0
    for model in MODELS:
        for shards in (0, SHARDS):
            ratios = _in_turns(model, shards, 4 if quick else 12, 20 if quick else 40)
            share = round(median(ratios) - 1, 4)
            document.row("skyriver", f"one worker over a plain loop, {model}, {shards or 'no'} shards", share=share)
            worst = max(worst, share)
    document.measured("overhead_share", worst)


def _in_turns(model: str, shards: int, turns: int, steps: int) -> Sequence[float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_turns, model, shards, turns, steps).result()


def _turns(model: str, shards: int, turns: int, steps: int) -> list[float]:
    """Seconds of a step of ours to one of the plain loop."""
    import multiprocessing

    import torch
    from torch.distributed import HashStore

    from skyriver.train.spread.context import Context

    torch.set_num_threads(1)
    ratios = []
    for turn in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            there, here = multiprocessing.Pipe()
            there.send(("generation", {"generation": 1, "members": (1,), "lost": False}))
            params = {"model": model, "told": folder, "steps": steps}
            theirs = plain(model, steps, shards or 1) if turn % 2 else []
            train(Context(here, HashStore(), 1, shards=shards, params=params))
            theirs = theirs or plain(model, steps, shards or 1)
            at = [seconds for seconds, _, _ in Steps(Path(folder)).look()][: steps + 1]
        ours = median(b - a for a, b in pairwise(at[3:]))
        ratios.append(ours / median(theirs[3:]))
    return ratios


def _told(of: Sequence[Felt], times: int) -> dict[str, Any]:
    if not of:
        return {"kills": times}
    return {
        "kills": times,
        "next_step_p50_s": round(median(each.next_s for each in of), 3),
        "next_step_p95_s": round(_p95([each.next_s for each in of]), 3),
        "full_size_p95_s": round(_p95([each.full_s for each in of]), 3),
        "steps_lost": sum(each.lost for each in of),
    }


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few kills and short runs")
    add_parts(parser, PARTS)
    given = parser.parse_args()
    document = Document("training", GOALS)
    works = {"kills": kills, "storm": storm, "scaling": scaling, "overhead": overhead}
    document.parts(PARTS, {n: lambda w=w: w(document, given.quick) for n, w in works.items()}, given.parts)  # type: ignore[misc]
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
