"""The twelve features as a Bytewax dataflow: keyed by customer, then by terminal, with and without recovery.

    python bytewax_features.py SAMPLE.csv PAYMENTS.csv --out FOLDER
                               [--recovery FOLDER [--epoch SECONDS]] [--model MODEL.onnx]

One worker. The rows are in memory before the clock starts, so reading and parsing cost nothing here. The state of a
key is the times of its events and running sums, searched by bisection, as one writes it in Python for speed. The
label stands in the event, where the product takes it from a record of its own. --recovery snapshots the state into
SQLite at the end of each epoch (ten seconds are Bytewax's default); what the sink got in an epoch is then taken again
after a crash, so its effect is not exactly once. With --model each event is scored by ONNX Runtime. SAMPLE is run
first, in the same process, not counted and with its result in the folder --out. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import resource
import time
from bisect import bisect_right
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

DAY = 86_400_000_000
SPANS = (DAY, 7 * DAY, 30 * DAY)
DELAY = 7 * DAY
BATCH = 1_000
TRIM = 64
"""So many events that no window holds any more are dropped together."""

Row = tuple[int, int, str, str, float, int]
"""payment, at (microseconds), customer, terminal, amount, fraud."""


def read(path: str) -> list[Row]:
    with Path(path).open(newline="") as file:
        rows = csv.reader(file)
        return [(int(p), int(t), c, m, float(a), int(f)) for p, t, c, m, a, f in rows]


class Rows(StatefulSourcePartition[Row, int]):
    def __init__(self, rows: list[Row], at: int) -> None:
        self.rows, self.at = rows, at

    def next_batch(self) -> list[Row]:
        if self.at >= len(self.rows):
            raise StopIteration
        self.at += BATCH
        return self.rows[self.at - BATCH : self.at]

    def snapshot(self) -> int:
        return self.at


class Source(FixedPartitionedSource[Row, int]):
    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Rows:
        return Rows(self.rows, resume_state or 0)


class Kept(StatelessSinkPartition[Any]):
    def __init__(self, found: list[Any] | None) -> None:
        self.found = found

    def write_batch(self, items: list[Any]) -> None:
        if self.found is not None:
            self.found.extend(items)


class Sink(DynamicSink[Any]):
    def __init__(self, found: list[Any] | None) -> None:
        self.found = found

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Kept:
        return Kept(self.found)


def customer(state: Any, row: Row) -> tuple[Any, Any]:
    """State: times of the events and running sums, one longer. Amounts in whole cents: the sums stay exact."""
    times, sums = state = state or ([], [0])
    now = row[1]
    times.append(now)
    sums.append(sums[-1] + round(row[4] * 100))
    count, total, found = len(times), sums[-1], []
    for span in SPANS:
        first = bisect_right(times, now - span)
        found += (count - first, (total - sums[first]) / (count - first) / 100)
    if first > TRIM:
        del times[:first], sums[:first]
    return state, (row, found)


def terminal(state: Any, item: tuple[Row, list[float]]) -> tuple[Any, Any]:
    """State as above. A stateful step hands its batch on in the order of its keys, so events of a terminal may come
    a little out of order: they are sorted in."""
    row, found = item
    times, sums = state = state or ([], [0])
    now, at = row[1], len(times)
    while at and times[at - 1] > now:
        at -= 1
    times.insert(at, now)
    sums.insert(at + 1, sums[at] + row[5])
    for later in range(at + 2, len(sums)):
        sums[later] += row[5]
    known = bisect_right(times, now - DELAY)
    for span in SPANS:
        first = bisect_right(times, now - DELAY - span)
        count = known - first
        found += (count, (sums[known] - sums[first]) / count if count else 0.0)
    if first > TRIM:
        del times[: first - 16], sums[: first - 16]
    return state, (row[0], found)


def flow(rows: list[Row], model: str, out: list[Any] | None) -> Dataflow:
    made = Dataflow("features")
    events = op.input("in", made, Source(rows))
    by_customer = op.key_on("customer", events, lambda row: row[2])
    with_customer = op.stateful_map("of_customer", by_customer, customer)
    by_terminal = op.map("terminal", with_customer, lambda item: (item[1][0][3], item[1]))
    found = op.map("plain", op.stateful_map("of_terminal", by_terminal, terminal), lambda item: item[1])
    if model:
        found = op.map("score", found, scorer(model))
    op.output("out", found, Sink(out))
    return made


def scorer(path: str) -> Any:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def score(item: tuple[int, list[float]]) -> tuple[int, str]:
        value = session.run(["score"], {"features": np.array([item[1]], np.float32)})[0][0]
        return item[0], "block" if value >= 0.9 else "review" if value >= 0.3 else "approve"

    return score


def run(rows: list[Row], given: argparse.Namespace, name: str, out: list[Any] | None = None) -> tuple[float, float]:
    """Wall and CPU seconds."""
    recovery = None
    if given.recovery:
        folder = Path(given.recovery) / name
        folder.mkdir(parents=True)
        init_db_dir(folder, 1)
        recovery = RecoveryConfig(folder)
    made = flow(rows, given.model, out)
    gc.collect()
    gc.freeze()  # the rows are ours, not Bytewax's: its collections shall not walk them
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run_main(made, epoch_interval=timedelta(seconds=given.epoch), recovery_config=recovery)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sample")
    parser.add_argument("source")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--recovery", default="")
    parser.add_argument("--epoch", type=float, default=10.0)
    parser.add_argument("--model", default="")
    given = parser.parse_args()
    found: list[Any] = []
    run(read(given.sample), given, "sample", found)
    if not given.model:
        given.out.mkdir(parents=True)
        with (given.out / "features").open("w", newline="") as file:
            csv.writer(file).writerows([payment, *values] for payment, values in found)
    rows = read(given.source)
    wall, cpu = run(rows, given, "payments")
    print(json.dumps({"version": version("bytewax"), "events": len(rows), "wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main()
