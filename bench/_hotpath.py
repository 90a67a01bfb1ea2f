"""CPU time per event of the worker's own path, in one process and without HTTP: where it goes, for batches of several
sizes.

    python bench/_hotpath.py [--profile N]

Five fields, twelve features (the handbook's, by customer and terminal), a LightGBM model of 100 trees, two rules,
decision records, a segment log at `process`. `--profile N` prints the profile of batches of N instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

import skyriver as sr
from skyriver.adapters.segments.log import SegmentLog, open_log
from skyriver.core.spec import AppSpec
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.scorer import OnnxScorer
from skyriver.decide.log.records import ModelInUse
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.partition.opening import PartitionFiles
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.worker.answers import DecisionWriter, Form
from skyriver.decide.worker.border import EventBorder
from skyriver.train.trees_onnx import read_lightgbm, to_onnx
from skyriver.wiring.process import SystemClock

EVENTS = 40_000


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    terminal: int
    amount: float | None = sr.field(ge=0, le=1_000_000)


def declare() -> AppSpec:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer", durability="process")
    frauds = app.labels("fraud", of=payments, delay="7d")
    spans = ("1d", "7d", "30d")
    features = app.features(
        "behaviour",
        payments,
        {
            **{f"customer_count_{d}": sr.count(by="customer", over=d) for d in spans},
            **{f"customer_mean_{d}": sr.mean("amount", by="customer", over=d) for d in spans},
            **{f"terminal_count_{d}": sr.count(by="terminal", over=d) for d in spans},
            **{f"terminal_mean_{d}": sr.mean("amount", by="terminal", over=d) for d in spans},
        },
    )

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9", "review": "score >= 0.3"}, otherwise="ok")
    return app.spec


def model_bytes(trees: int = 100, features: int = 12) -> bytes:
    rng = np.random.default_rng(1)
    x = rng.lognormal(2, 1, (20_000, features))
    y = (x[:, 0] * rng.random(20_000) > x[:, 3]).astype(int)
    settings = {"objective": "binary", "num_leaves": 31, "verbose": -1, "seed": 1, "num_threads": 1}
    return to_onnx(read_lightgbm(lightgbm.train(settings, lightgbm.Dataset(x, y), trees).model_to_string()))


def bodies(count: int, batch: int, first: int) -> list[bytes]:
    """Requests of `batch` payments each, ids from `first` on, two an ms."""
    rng = np.random.default_rng(first)
    customers, terminals = rng.integers(0, 5_000, count), rng.integers(0, 10_000, count)
    amounts = np.round(rng.lognormal(3, 1, count), 2)
    start = 1_700_000_000_000_000
    rows = [
        {"payment": first + i, "at": start + (first + i) * 500, "customer": c, "terminal": t, "amount": a}
        for i, (c, t, a) in enumerate(zip(customers.tolist(), terminals.tolist(), amounts.tolist(), strict=True))
    ]
    return [json.dumps(rows[at : at + batch]).encode() for at in range(0, count, batch)]


class Worker:
    """The worker's parts, joined as `skyriver.wiring.worker` does."""

    def __init__(self, directory: Path) -> None:
        app, clock = declare(), SystemClock()
        stream, features = app.streams[0], app.feature_sets[0]
        self.log: SegmentLog = open_log(directory / "log", durability="process", holder="bench")
        windows = WindowsFiles(stream, directory / "side", directory / "kernels")
        plan = windows.prepare(features).plan
        self.files = PartitionFiles(stream, directory, self.log, windows, clock, features)
        model = directory / "model.onnx"
        model.write_bytes(model_bytes())
        deciding = Deciding(
            rules_of(app.decides[0], stream, features),
            ModelInUse("fraud", 1, "digest"),
            OnnxScorer.load(model, len(plan.names), directory / "kernels"),
        )
        self.engine: Engine = self.files.open(lambda *_: deciding, lambda *_: None)
        self.border = EventBorder(stream, frozenset(v.field for v in plan.values))
        self.writer = DecisionWriter({plan.digest: plan.names})
        self.spent: dict[str, float] = {}

    def take(self, body: bytes, wants: bool = False) -> None:
        begin = time.thread_time()
        submission = self.border.read(body, Form.JSON, time.monotonic_ns() // 1000, wants)
        begin = self._spent("border", begin)
        receipts = self.engine.decide([submission])
        begin = self._spent("engine", begin)
        self.log.sync()
        begin = self._spent("sync", begin)
        self.writer.events(receipts[0], with_decisions=wants)
        self._spent("answer", begin)

    def _spent(self, stage: str, begin: float) -> float:
        now = time.thread_time()
        self.spent[stage] = self.spent.get(stage, 0.0) + now - begin
        return now


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, first = Worker(Path(folder)), 0

        def run(batch: int, events: int, call: Callable[[bytes], None]) -> None:
            nonlocal first
            for body in bodies(events, batch, first):
                call(body)
            first += events

        run(100, 5_000, path.take)
        if given.profile:
            profile = cProfile.Profile()
            run(given.profile, EVENTS, lambda body: profile.runcall(path.take, body))
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)
            return 0
        for batch in (1, 8, 64, 1000):
            events = EVENTS if batch > 1 else EVENTS // 8
            path.spent.clear()
            run(batch, events, path.take)
            spent = {stage: round(seconds / events * 1e6, 2) for stage, seconds in path.spent.items()}
            found[f"batch {batch}"] = spent | {"all_us": round(sum(spent.values()), 2)}
            if batch in (1, 1000):
                path.spent.clear()
                run(batch, events // 4, lambda body: path.take(body, True))
                answer = path.spent["answer"] / (events // 4) * 1e6
                found[f"batch {batch}"]["answer_with_decisions"] = round(answer, 2)
        path.log.close()
        path.files.close()
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
