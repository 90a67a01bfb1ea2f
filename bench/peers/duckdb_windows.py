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
from _windows import query as windows_of


def query(source: str) -> str:
    return windows_of(f"(SELECT *, \"at\" // 1000 AS t FROM read_parquet('{source}'))")


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
