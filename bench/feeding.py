"""Rows of files to a training: how fast they come, and how long a training waits for them.

    python bench/feeding.py [--quick] [--parts reading,waiting,augment]

reading  rows a second of `sr.rows` in shuffled batches, beside Polars reading the same files whole in their own order
         (the bare limit: no shuffling, all in memory), in turns; the memory of each, in processes of their own
waiting  the share of its time that a training of a small MLP waits for rows of files, on one worker and on two, and its
         rows a second beside the same of tensors in memory, in turns
augment  rows a second of each augmentation in batches, beside a plain loop over the rows that draws by a generator of
         each row, in turns
Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from _document import Document, Goal, add_parts

import skyriver as sr
from skyriver.train.feed.augment import augmented

GOALS = (
    Goal("rows_over_bare", ">=", 0.4, "of Polars' rows a second"),
    Goal("memory_over_bare", "<=", 0.5, "of Polars' additional memory"),
    Goal("waiting_share", "<=", 0.05, "of the time"),
    Goal("augment_over_loop", ">=", 1.0, "times the rows a second, the least of all"),
)
PARTS = {
    "reading": ("rows_over_bare", "memory_over_bare"),
    "waiting": ("waiting_share",),
    "augment": ("augment_over_loop",),
}
COLUMNS = [f"f{n}" for n in range(20)]
BATCH = 4_096
EPOCHS = 4


def write_files(folder: Path, rows: int, files: int) -> None:
    """With row groups as Polars makes them."""
    chance = np.random.default_rng(1)
    for n in range(files):
        x = chance.normal(size=(rows // files, len(COLUMNS))).astype(np.float32)
        made = pl.DataFrame({name: x[:, at] for at, name in enumerate(COLUMNS)})
        label = pl.Series("label", (x[:, 0] + x[:, 1] > 0).astype(np.int8))
        made.with_columns(label).write_parquet(folder / f"part-{n}.parquet")


def ours(folder: Path) -> int:
    found = sr.rows(folder, x=COLUMNS, y="label")
    order = found.order(BATCH, 1, 7)
    reader = found.reader(order)
    rows = 0
    for step in range(order.steps):
        x, _ = found.parts(reader.take(step, slice(0, order.count(step))))
        rows += len(x)
    reader.close()
    return rows


def bare(folder: Path) -> int:
    found = pl.read_parquet(folder / "*.parquet")
    return len(found.select(pl.all().cast(pl.Float32)).to_numpy(order="c"))


READERS: dict[str, Callable[[Path], int]] = {"ours": ours, "polars": bare}


def once(name: str, folder: Path) -> dict[str, Any]:
    """In a process of its own: its rows a second and CPU seconds, and the memory that it took on top."""
    pl.read_parquet(next(folder.glob("*.parquet")), n_rows=1).to_numpy()
    held = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # what was the most before does not count
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    rows = READERS[name](folder)
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    megabytes = _resident("VmHWM") - held
    return {"rows_per_s": rows / took, "rows_per_cpu_s": rows / cpu, "megabytes": megabytes}


def _resident(what: str) -> float:
    """Megabytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def reading(document: Document, quick: bool) -> None:
    rows, files, times = (2_000_000, 8, 3) if quick else (8_000_000, 16, 3)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_files(folder, rows, files)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in READERS}
        for _ in range(times):
            for name, measured in found.items():
                command = [sys.executable, __file__, "--once", name, str(folder)]
                measured.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    middle = {name: {k: median(each[k] for each in of) for k in of[0]} for name, of in found.items()}
    for name, figures in middle.items():
        document.row(name, f"{rows:,} rows of {len(COLUMNS)} columns", **{k: round(v) for k, v in figures.items()})
    document.measured("rows_over_bare", round(middle["ours"]["rows_per_s"] / middle["polars"]["rows_per_s"], 3))
    document.measured("memory_over_bare", round(middle["ours"]["megabytes"] / middle["polars"]["megabytes"], 3))


def train(ctx: Any) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(len(COLUMNS), 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
    ctx.state(model, torch.optim.Adam(model.parameters(), 1e-3))
    folder = Path(ctx.params["folder"])
    found: Any = sr.rows(folder, x=COLUMNS, y="label")
    if ctx.params["memory"]:
        table = pl.read_parquet(folder / "*.parquet").select(pl.all().cast(pl.Float32)).to_numpy(order="c")
        found = (torch.from_numpy(table[:, :-1].copy()), torch.from_numpy(table[:, -1].copy()))
    begun = time.monotonic()
    for x, y in ctx.steps(found, BATCH, EPOCHS):
        ctx.backward(nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y))
        ctx.step()
    rows = EPOCHS * len(found[1] if ctx.params["memory"] else found)
    return {
        "waited": ctx.waited,
        "rows_per_s": rows / (time.monotonic() - begun),
    }


def told(ctx: Any, came: Any) -> bytes:
    return json.dumps(came).encode()


def waiting(document: Document, quick: bool) -> None:
    from skyriver.train.spread.launcher import Launcher

    rows, times = (250_000, 1) if quick else (1_000_000, 2)
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place), rows, 4)
        most = 0.0
        for workers in (1, 2):
            found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
            for _ in range(times):
                for memory, measured in found.items():
                    context = {"shards": 8, "params": {"folder": place, "memory": memory}}
                    measured.append(json.loads(Launcher(train, told, workers, {"context": context}).run()))
            for memory, measured in found.items():
                figures = {k: round(median(each[k] for each in measured), 4) for k in measured[0]}
                document.row("in memory" if memory else "files", f"{workers} worker{'s' * (workers > 1)}", **figures)
            most = max(most, median(each["waited"] for each in found[False]))
    document.measured("waiting_share", round(most, 4))


def _loop_crop(x: Any, rng: Any, row: int) -> Any:
    padded = np.pad(x, ((4, 4), (4, 4), (0, 0)))
    down, right = rng.integers(0, 9, 2)
    return padded[down : down + x.shape[0], right : right + x.shape[1]]


def _loop_flip(x: Any, rng: Any, row: int) -> Any:
    return x[:, ::-1] if rng.random() < 0.5 else x


def _loop_jitter(x: Any, rng: Any, row: int) -> Any:
    brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    found = x.astype(np.float32) * brightness
    found = found * contrast + (1 - contrast) * found.mean()
    grey = (found @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.rint(np.clip(found * saturation + (1 - saturation) * grey, 0, 255)).astype(np.uint8)


def _loop_tokens(x: Any, rng: Any, row: int) -> Any:
    return np.where(rng.random(len(x)) < 0.1, 0, x)


def _loop_noise(x: Any, rng: Any, row: int) -> Any:
    return x + rng.normal(0, 0.05, len(x)).astype(np.float32)


def augment(document: Document, quick: bool) -> None:
    chance = np.random.default_rng(1)
    images = chance.integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    tokens = chance.integers(1, 30_000, (256, 128))
    table = chance.normal(size=(256, 20)).astype(np.float32)
    rows = np.arange(256)
    cases = {
        "crop": (sr.Crop(), images, _loop_crop),
        "flip": (sr.Flip(), images, _loop_flip),
        "jitter": (sr.Jitter(), images, _loop_jitter),
        "tokens": (sr.DropTokens(), tokens, _loop_tokens),
        "noise": (sr.Noise(), table, _loop_noise),
    }
    ratios = []
    for name, (spec, x, change) in cases.items():
        took: dict[str, list[float]] = {"ours": [], "loop": []}
        for epoch in range(5 if quick else 30):
            begun = time.perf_counter()
            augmented((x,), rows, [spec], 1, epoch)
            between = time.perf_counter()
            np.stack([change(x[row], np.random.default_rng((1, epoch, row)), row) for row in range(len(x))])
            took["ours"].append(between - begun)
            took["loop"].append(time.perf_counter() - between)
        figures = {who: round(len(x) / median(times)) for who, times in took.items()}
        document.row("ours and a loop", name, **figures)
        ratios.append(median(took["loop"]) / median(took["ours"]))
    document.measured("augment_over_loop", round(min(ratios), 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small files")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    add_parts(parser, PARTS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(once(given.once[0], Path(given.once[1]))))
        return 0
    document = Document("feeding", GOALS)
    works = {"reading": reading, "waiting": waiting, "augment": augment}
    document.parts(PARTS, {n: lambda w=w: w(document, given.quick) for n, w in works.items()}, given.parts)  # type: ignore[misc]
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
