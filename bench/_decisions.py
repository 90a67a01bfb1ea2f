"""End to end: events over HTTP into a worker process, decisions with scores in its log; and the log beside DuckDB."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _payments
import numpy as np
import polars as pl
from _document import Document, tell
from _load import write_requests
from _peers import DUCKDB, NAMES, Files, differences, measure_peer
from _processes import Failed
from _stream_worker import StreamWorker, running, sender, server_of_nothing

from skyriver.adapters.segments.log import SegmentReader
from skyriver.decide.log.blocks import decisions_of

if TYPE_CHECKING:
    from streams import Bench

FORM = "msgpack"
"""The binary form of a batch; lines of JSON cost more."""
ROWS = 1_000
"""Events of one request."""
DEPTH = 2
"""Requests on their way: one is worked on, one waits in the socket."""
AFTER_KILL = 20_000
"""Events that follow once the worker was killed."""
FLOAT32 = 1e-6
"""Features are rounded to float32."""


def measure_decisions(bench: Bench) -> None:
    history, live = split(bench.payments)
    live = live[: bench.sizes.live + AFTER_KILL]
    _send_to_nothing(bench, live[:100_000])
    last = live[-AFTER_KILL:]
    with running(bench.folder / "process", bench.kernels, _payments.declare(), bench.model) as worker:
        worker.load(_payments.blocks(worker.app, history))
        worker.settle()
        figures = send(bench.folder, worker, live[:-AFTER_KILL])
        bench.document.row("skyriver", "end to end, durability process, scored, decisions in the log", **figures)
        bench.document.measured(
            "events_per_second_core",
            figures["events_per_cpu_second"],
            note=f"by CPU seconds of the worker; {figures['events_per_second']} by the clock",
        )
        worker.processes[-1].send_signal(signal.SIGKILL)
        worker.processes[-1].wait(60)
        worker.start()
        send(bench.folder, worker, last)
        worker.stop()
        _examine(bench, worker, pl.concat([history, live]))
    with running(bench.folder / "disk", bench.kernels, _payments.declare(durability="disk"), bench.model) as worker:
        worker.load(_payments.blocks(worker.app, history))
        worker.settle()
        figures = send(bench.folder, worker, live[: bench.sizes.live_disk])
        bench.document.row("skyriver", "end to end, durability disk, scored, decisions in the log", **figures)


def split(payments: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What fills the windows, and what comes then."""
    full = int(payments["at"][0]) + _payments.FULL_WINDOWS_DAYS * _payments.DAY_MS * 1000
    return payments.filter(pl.col("at") < full), payments.filter(pl.col("at") >= full)


def send(folder: Path, worker: StreamWorker, payments: pl.DataFrame) -> dict[str, Any]:
    """Sends them and waits for the answers; rates by the clock and by the CPU seconds of the worker."""
    file = folder / "requests"
    write_requests(file, _payments.requests(payments, ROWS, FORM))
    decided = worker.report()["decided"]
    before = worker.usage()
    found = sender("batches", worker.socket, str(file), "--depth", str(DEPTH), timeout=1_800)
    used = worker.usage()
    file.unlink()
    if found["wrong"]:
        raise Failed(f"the worker has answered {found['statuses']}: {found['wrong']}")
    worker.wait_for(lambda report: report.get("decided") == decided + found["events"])
    seconds = used.since(before)
    return {
        "events": found["events"],
        "events_per_second": round(found["events"] / found["wall_seconds"]),
        "events_per_cpu_second": round(found["events"] / seconds),
        "cpu_seconds": round(seconds, 2),
        "of_which_system": round(used.system - before.system, 2),
        "sender_cpu_seconds": round(found["cpu_seconds"], 2),
        "rows_a_request": ROWS,
        "rss": round(used.rss, 1),
    }


def _send_to_nothing(bench: Bench, payments: pl.DataFrame) -> None:
    file = bench.folder / "nothing-requests"
    write_requests(file, _payments.requests(payments, ROWS, FORM))
    with server_of_nothing(bench.folder) as (socket, _):
        found = sender("batches", socket, str(file), "--depth", str(DEPTH), timeout=300)
    file.unlink()
    bench.document.row(
        "control",
        "the same requests to a server that does nothing",
        events=found["events"],
        events_per_second=round(found["events"] / found["wall_seconds"]),
        sender_cpu_seconds=round(found["cpu_seconds"], 3),
    )


def _examine(bench: Bench, worker: StreamWorker, payments: pl.DataFrame) -> None:
    """The log: decided once, the same bits again by a replay, and DuckDB's features."""
    document = bench.document
    tell("replaying the log ...")
    reader = SegmentReader(worker.log_directory)
    report = worker.verify(reader)
    events = len(payments) - len(split(payments)[0])
    whole = (report.events, report.compared) == (events, events) and not report.undecided and not report.decided_twice
    document.row(
        "skyriver",
        "the log replayed, after a kill -9 in the middle",
        events=report.events,
        compared=report.compared,
        different=report.different,
        undecided=report.undecided,
        decided_twice=report.decided_twice,
    )
    document.measured(
        "replay_equal", int(whole and not report.different), broken="" if whole else "not each event has one decision"
    )
    found = _decided(reader)
    files = Files.write(bench.folder / "oracle", payments, payments[:1_000], bench.model)
    scratch = Document("oracle", ())
    reference = measure_peer(scratch, DUCKDB, files, None)
    if reference is None:
        document.missed("decided_equal_to_duckdb", str(scratch.rows[-1].get("reason")))
        return
    different = differences(found, reference.join(found.select("payment"), on="payment", how="semi"), FLOAT32)
    document.row("skyriver", "features of all decisions beside DuckDB's, rounded to float32", **different)
    missing = "" if len(found) == events else f"there are {len(found)} decisions of {events} events"
    document.measured("decided_equal_to_duckdb", int(different["equal_to_duckdb"]), broken=missing)


def _decided(reader: SegmentReader) -> pl.DataFrame:
    """Payment and features of each decision."""
    ids, vectors = [], []
    for record in reader.read(0):
        for decision in decisions_of(record):
            ids.append(decision.id)
            vectors.append(decision.features)
    values = np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), len(NAMES)).astype(np.float64)
    columns = {name: values[:, place] for place, name in enumerate(NAMES)}
    return pl.DataFrame({"payment": np.array(ids, np.float64), **columns}).sort("payment")


def measure_keys(bench: Bench) -> None:
    """What an event costs the worker when there are few keys and when there are many, with as much history: all workers
    stand ready, and each round sends as many events to one after another; the first one warms up. Their medians are
    compared: what else the machine does changes within a round."""
    sizes = bench.sizes
    rows, each = max(sizes.keys), sizes.keys_live // sizes.keys_rounds
    waiting: dict[int, pl.DataFrame] = {}
    workers: dict[int, StreamWorker] = {}
    rounds: list[dict[int, dict[str, Any]]] = []
    with ExitStack() as running_workers:
        for keys in sizes.keys:
            payments = _payments.spread(keys, rows + sizes.keys_live, days=37 * (rows + sizes.keys_live) / rows)
            folder = bench.folder / f"keys-{keys}"
            worker = running(folder, bench.kernels, _payments.declare(), bench.model)
            workers[keys] = running_workers.enter_context(worker)
            workers[keys].load(_payments.blocks(workers[keys].app, payments[:rows]))
            waiting[keys] = payments[rows:]
        for worker in workers.values():
            worker.settle()
        for start in range(0, each * sizes.keys_rounds, each):
            turn = list(workers)[:: 1 if start // each % 2 else -1]
            rounds.append({k: send(bench.folder, workers[k], waiting[k][start : start + each]) for k in turn})
    _compare_keys(bench.document, rounds[1:])


def _compare_keys(document: Document, rounds: list[dict[int, dict[str, Any]]]) -> None:
    few, many = min(rounds[0]), max(rounds[0])
    seconds = {keys: [found[keys]["cpu_seconds"] for found in rounds] for keys in sorted(rounds[0])}
    events = rounds[0][few]["events"]
    for keys, spent in seconds.items():
        document.row(
            "skyriver",
            f"end to end, {keys} customers and as many terminals",
            events=events * len(rounds),
            events_per_cpu_second=round(events * len(rounds) / sum(spent)),
            microseconds_an_event=[round(1e6 * s / events, 2) for s in spent],
            rss=max(found[keys]["rss"] for found in rounds),
        )
    growth = 100 * (float(np.median(seconds[many])) / float(np.median(seconds[few])) - 1)
    low, middle, high = np.percentile([b / a for a, b in zip(seconds[few], seconds[many], strict=True)], (25, 50, 75))
    together = 100 * (sum(seconds[many]) / sum(seconds[few]) - 1)
    document.measured(
        "cost_growth_10k_to_10m_keys",
        round(growth, 1),
        note=f"by CPU seconds; medians of {len(rounds)} rounds of {events} events; in one round {middle:.2f} times as"
        f" much (quartiles {low:.2f} and {high:.2f}); all rounds together, with the checkpoints that fell into them,"
        f" {together:.1f}%",
    )
