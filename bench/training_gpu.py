"""Trainings on GPUs: what of a card they use, and how long a killed worker is felt.

    python bench/training_gpu.py [--quick] [--parts throughput,scaling,kills]

throughput  a language model of 0.6 billion parameters on one card: operations a second as a share of what the card
            does in one product of bf16 matrices in the same run, of ours and of a plain loop; and in tf32 and float32
scaling     the same on two cards against one, sums overlapping with the backward pass
kills       two cards, NCCL, a small model: a worker is killed at a random moment, again and again; until the next step,
            until there are two again; and a training with the same bits that is killed as often, against one card
Prints one JSON document; progress goes to stderr. Needs as many cards as a part names. Exit code 1: a goal does not
hold.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from _document import Document, Goal, add_parts
from _training_gpu_work import digest, peak, plain, train
from training import Felt, Steps, felt

from skyriver.train.spread.launcher import Launcher, Stopped

GOALS = (
    Goal("share_of_peak", ">=", 0.4, "of the card's own product of bf16 matrices"),
    Goal("overhead_share", "<=", 0.03, "of a plain loop"),
    Goal("scaling_1_to_2", ">=", 1.8, "times the rows"),
    Goal("kill_to_step_p95_seconds", "<=", 1.0, "s"),
    Goal("full_size_p95_seconds", "<=", 5.0, "s"),
    Goal("steps_lost", "<=", 0, "steps"),
    Goal("bit_equal", ">=", 1, "of the trainings"),
)
PARTS = {
    "throughput": ("share_of_peak", "overhead_share"),
    "scaling": ("scaling_1_to_2",),
    "kills": ("kill_to_step_p95_seconds", "full_size_p95_seconds", "steps_lost", "bit_equal"),
}
SHARDS = 8
Result = TypeVar("Result")


def alone(work: Callable[..., Result], *given: Any) -> Result:
    """In a process of its own, whose memory on the card goes with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def step_seconds(size: str, precision: str, workers: int, steps: int, shards: int = 0) -> float:
    """The middle one, of ours."""
    with tempfile.TemporaryDirectory() as folder:
        params = {"size": size, "precision": precision, "told": folder, "batches": workers, "steps": steps}
        settings = {"context": {"shards": shards, "params": params, "device": "cuda"}}
        Launcher(train, digest, workers, settings).run()
        found = [(at, step) for at, step, world, *_ in Steps(Path(folder)).look() if world == workers]
    times = sorted({step: at for at, step in reversed(found)}.items())[5:]
    return median(b[1] - a[1] for a, b in pairwise(times))


def throughput(document: Document, quick: bool) -> None:
    steps = 10 if quick else 40
    most = alone(peak)
    document.row("card", torch.cuda.get_device_name(), bf16_product_tflops=round(most / 1e12, 1))
    shares, overheads = [], []
    for _ in range(1 if quick else 3):
        theirs, flops = alone(plain, "large", "bf16", steps)
        ours = step_seconds("large", "bf16", 1, steps)
        shares.append(flops / ours / most)
        overheads.append(ours / theirs - 1)
        document.row(
            "skyriver",
            "a step in bf16",
            milliseconds=round(ours * 1e3, 2),
            plain_milliseconds=round(theirs * 1e3, 2),
            tflops=round(flops / ours / 1e12, 1),
            share_of_peak=round(shares[-1], 3),
        )
    for precision in ("tf32", "float32"):
        seconds, _ = alone(plain, "large", precision, max(3, steps // 4))
        document.row("plain loop", f"a step in {precision}", milliseconds=round(seconds * 1e3, 2))
    document.measured("share_of_peak", round(median(shares), 3))
    document.measured("overhead_share", round(median(overheads), 4))


def scaling(document: Document, quick: bool) -> None:
    ratios = []
    for _ in range(1 if quick else 3):
        one, two = (step_seconds("large", "bf16", workers, 15 if quick else 40) for workers in (1, 2))
        ratios.append(2 * one / two)
        document.row("skyriver", "two cards to one", one_ms=round(one * 1e3, 2), two_ms=round(two * 1e3, 2))
    document.measured("scaling_1_to_2", round(median(ratios), 3))


def kills(document: Document, quick: bool) -> None:
    chance, times = random.Random(11), 4 if quick else 20
    found: list[Felt] = []
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Path(folder))
        launcher, thread, _ = begun(steps, 10_000_000, 0)
        for _ in range(times):
            steps.until(lambda seen: bool(seen) and seen[-1][2] == 2 and len(launcher.members) == 2)
            time.sleep(chance.uniform(0.3, 1.5))
            pid = launcher.pid(chance.choice(launcher.members))
            one = felt(steps, lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
            if one is None:
                raise RuntimeError("It hangs.")
            found.append(one)
        launcher.stop(2.0)
        thread.join(30.0)
    next_s, full_s = ([getattr(of, name) for of in found] for name in ("new_s", "full_s"))
    document.row("skyriver", "kills", times=times, next_p50=round(median(next_s), 3), full_p50=round(median(full_s), 3))
    document.measured("kill_to_step_p95_seconds", round(p95(next_s), 3))
    document.measured("full_size_p95_seconds", round(p95(full_s), 3))
    document.measured("steps_lost", sum(of.lost for of in found))
    steps_wanted = 200 if quick else 600
    whole = same_bits(steps_wanted, 1, None)
    disturbed = same_bits(steps_wanted, 2, chance)
    document.measured("bit_equal", float(whole == disturbed))


def begun(steps: Steps, wanted: int, shards: int, workers: int = 2) -> tuple[Launcher, threading.Thread, list[bytes]]:
    params = {"size": "small", "precision": "float32", "told": str(steps.folder), "batches": 2, "steps": wanted}
    settings = {"context": {"shards": shards, "params": params, "device": "cuda"}}
    launcher, found = Launcher(train, digest, workers, settings), list[bytes]()

    def run() -> None:
        with contextlib.suppress(Stopped):
            found.append(launcher.run())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return launcher, thread, found


def same_bits(wanted: int, workers: int, chance: random.Random | None) -> bytes:
    """What the parameters are in the end; with `chance` workers are killed meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        steps, killed = Steps(Path(folder)), 0.0
        launcher, thread, found = begun(steps, wanted, SHARDS, workers)
        while chance is not None and thread.is_alive():
            steps.until(lambda seen: not thread.is_alive() or any(at > killed and n == 2 for at, _, n, *_ in seen))  # noqa: B023
            time.sleep(chance.uniform(0.5, 1.5))
            killed = time.monotonic()
            try:
                os.kill(launcher.pid(chance.choice(launcher.members)), signal.SIGKILL)
            except (KeyError, IndexError, ProcessLookupError):
                continue
        thread.join(300.0)
        return found[0]


def p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few kills and short runs")
    add_parts(parser, PARTS)
    given = parser.parse_args()
    document = Document("training_gpu", GOALS)
    works = {"throughput": throughput, "scaling": scaling, "kills": kills}
    document.parts(PARTS, {n: lambda w=w: w(document, given.quick) for n, w in works.items()}, given.parts)  # type: ignore[misc]
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
