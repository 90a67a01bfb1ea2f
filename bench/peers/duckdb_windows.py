"""The twelve features by DuckDB's window functions, over a whole file at once.

    python duckdb_windows.py SAMPLE.parquet PAYMENTS.parquet --out FOLDER

The features of SAMPLE go into FOLDER, those of PAYMENTS, which are timed, into a table in DuckDB's memory; one thread.
Times are whole milliseconds and differ, so (T - w, T] is RANGE BETWEEN w - 1 PRECEDING AND CURRENT ROW. Prints one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import duckdb

DAY = 86_400_000
DAYS = (1, 7, 30)
DELAY = 7 * DAY


def query(source: str) -> str:
    windows, columns = [], []
    for d in DAYS:
        windows.append(
            f"c{d} AS (PARTITION BY customer ORDER BY t RANGE BETWEEN {d * DAY - 1} PRECEDING AND CURRENT ROW)"
        )
        columns.append(f"count(*) OVER c{d} AS customer_count_{d}d, avg(amount) OVER c{d} AS customer_mean_{d}d")
    for d in DAYS:
        first, last = DELAY + d * DAY - 1, DELAY
        windows.append(
            f"t{d} AS (PARTITION BY terminal ORDER BY t RANGE BETWEEN {first} PRECEDING AND {last} PRECEDING)"
        )
        columns.append(
            f"count(*) OVER t{d} AS terminal_count_{d}d, coalesce(avg(fraud) OVER t{d}, 0) AS terminal_fraud_{d}d"
        )
    return (
        f"SELECT payment, {', '.join(columns)} FROM (SELECT *, \"at\" // 1000 AS t FROM read_parquet('{source}'))"
        f" WINDOW {', '.join(windows)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sample")
    parser.add_argument("source")
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    with duckdb.connect() as db:
        db.execute("SET threads = 1")
        db.execute("SET memory_limit = '6GB'")
        db.execute(f"COPY ({query(given.sample)}) TO '{given.out}/features' (FORMAT csv, HEADER false)")
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        db.execute(f"CREATE TEMP TABLE features AS {query(given.source)}")
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        counted = db.execute("SELECT count(*) FROM features").fetchone()
        assert counted is not None
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"version": duckdb.__version__, "events": counted[0], "wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main()
