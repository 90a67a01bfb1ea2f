"""The control state in SQLite and in PostgreSQL, in the same run: commits a second, and what it costs to read changes.

    python bench/store.py [--quick]

PostgreSQL is the one of the tests: on this machine, over a socket, with its usual settings. Beside the commits stands
what the disk does: one small write and its sync. Prints one JSON document; progress goes to stderr. Exit code 1: a goal
does not hold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from _document import Document, Goal

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres_server import PostgresServer

from skyriver.adapters.postgres.store import PostgresStore
from skyriver.adapters.sql.store import SqlStore
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import AuditEntry, Put, Resource

ROWS = 20_000
THREADS = 4
GOALS = (
    Goal("sqlite_since_nothing_ms", "<=", 1, "ms"),
    Goal("postgres_since_nothing_ms", "<=", 5, "ms"),
    Goal("sqlite_since_one_ms", "<=", 5, "ms"),
    Goal("postgres_since_one_ms", "<=", 10, "ms"),
)


def job(name: str) -> Resource:
    return Resource("t", "job", name, {"kind": "train", "text": "x" * 200}, {"progress": [1, 2]}, "RUNNING")


def median_ms(call: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1e3


def commits_a_second(store: SqlStore, fence: int, threads: int, seconds: float) -> float:
    """Each writes one row and one audit row, as most do."""
    counts = [0] * threads

    def commit(number: int) -> None:
        (row,) = store.commit([Put(job(f"c{threads}-{number}"), 0)], audit=(), fence=fence, actor="b", now=1)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            entry = AuditEntry("t", "b", "jobs:run", "run", row.name)
            (row,) = store.commit([Put(row, row.revision)], audit=[entry], fence=fence, actor="b", now=1)
            counts[number] += 1

    workers = [threading.Thread(target=commit, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def syncs_a_second(folder: Path, seconds: float) -> float:
    descriptor = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT)
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        os.pwrite(descriptor, bytes(4096), count * 4096)
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    return count / seconds


def measure(document: Document, name: str, store: SqlStore, seconds: float) -> None:
    fence = store.acquire("bench")
    for begin in range(0, ROWS, 1000):
        puts = [Put(job(f"j{number:05}"), 0) for number in range(begin, begin + 1000)]
        store.commit(puts, audit=(), fence=fence, actor="b", now=1)
    newest = store.revision()
    nothing = median_ms(lambda: store.since(newest), 300)
    one = median_ms(lambda: store.since(newest - 1), 300)
    document.row(
        name,
        f"reading, {ROWS} rows",
        since_nothing_ms=round(nothing, 3),
        since_one_ms=round(one, 3),
        since_100_ms=round(median_ms(lambda: store.since(newest - 100), 50), 2),
        rows_ms=round(median_ms(store.rows, 3)),
        get_ms=round(median_ms(lambda: store.get("t", "job", "j00007"), 300), 3),
    )
    document.measured(f"{name}_since_nothing_ms", nothing)
    document.measured(f"{name}_since_one_ms", one)
    for threads in (1, THREADS):
        rate = commits_a_second(store, fence, threads, seconds)
        document.row(name, f"one row and its audit row, {threads} threads", commits_a_second=round(rate))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a second for each figure of commits instead of five")
    seconds = 1.0 if parser.parse_args().quick else 5.0
    document = Document("store", GOALS)
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rate = syncs_a_second(Path(folder), seconds)
            document.row("disk", "a write of 4 KiB and its sync", syncs_a_second=round(rate))
            with closing(SqliteStore(Path(folder) / "home" / "state.db")) as file:
                measure(document, "sqlite", file, seconds)
        with closing(PostgresStore(server.prepared())) as database:
            measure(document, "postgres", database, seconds)
    finally:
        server.close()
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
