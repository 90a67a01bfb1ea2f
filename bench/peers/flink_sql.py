"""The twelve features in Flink SQL, all of it in the JVM, parallelism 1: chained views of one OVER window each.

    python flink_sql.py SAMPLE.csv PAYMENTS.csv --out FOLDER [--no-delay]

Flink takes one OVER window a query, and none that ends before the current row: so the terminal's windows that are
seven days late are differences of those over 7, 8, 14 and 37 days, as the handbook computes them; with the customer's
three that makes seven queries in a chain. --no-delay leaves the delay out (six queries), which is less than the others
do. The rows are read from a CSV file, the result goes into a black hole. No checkpoints. SAMPLE.csv is run first, in
the same JVM, not counted and with its result in FOLDER. Prints one JSON document; CPU is that of the JVM.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyflink.version
from _jvm import timed
from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

DAYS = (1, 7, 30)
DELAY = 7
CUSTOMER = "customer"


def interval(days: int) -> str:
    """A millisecond less: times are whole milliseconds, and the window is (T - days, T]."""
    return f"INTERVAL '{days - 1} 23:59:59.999' DAY({len(str(max(days - 1, 1)))}) TO SECOND(3)"


def chain(source: str, delay: bool) -> tuple[list[str], str]:
    """Statements that make the views, and the query of the result."""
    late = [DELAY, *(DELAY + d for d in DAYS)] if delay else list(DAYS)
    steps = [(CUSTOMER, d, "amount") for d in DAYS] + [("terminal", d, "fraud") for d in late]
    views, view = [], source
    for key, days, value in steps:
        made = f"{source}_{key}_{days}"
        columns = f"COUNT(*) OVER w AS {key}_n{days}, SUM({value}) OVER w AS {key}_s{days}"
        window = f"PARTITION BY {key} ORDER BY ts RANGE BETWEEN {interval(days)} PRECEDING AND CURRENT ROW"
        views.append(f"CREATE TEMPORARY VIEW {made} AS SELECT *, {columns} FROM {view} WINDOW w AS ({window})")
        view = made
    columns = [f"customer_n{d}, customer_s{d} / customer_n{d}" for d in DAYS]
    for d in DAYS:
        if delay:
            count = f"(terminal_n{DELAY + d} - terminal_n{DELAY})"
            frauds = f"(terminal_s{DELAY + d} - terminal_s{DELAY})"
        else:
            count, frauds = f"terminal_n{d}", f"terminal_s{d}"
        columns.append(f"{count}, CASE WHEN {count} > 0 THEN CAST({frauds} AS DOUBLE) / {count} ELSE 0 END")
    return views, f"SELECT payment, {', '.join(columns)} FROM {view}"


def run(table: TableEnvironment, name: str, file: str, out: str, delay: bool) -> None:
    table.execute_sql(
        f"CREATE TEMPORARY TABLE {name} (payment BIGINT, `at` BIGINT, customer BIGINT, terminal BIGINT, amount DOUBLE,"
        " fraud BIGINT, ts AS TO_TIMESTAMP_LTZ(`at` / 1000, 3), WATERMARK FOR ts AS ts) WITH ('connector' ="
        f" 'filesystem', 'path' = 'file://{Path(file).resolve()}', 'format' = 'csv')"
    )
    columns = ["payment BIGINT"]
    columns += [f"{key}_{what}_{d} {kind}" for key in ("c", "t") for d in DAYS for what, kind in KINDS]
    sink = (
        f"'connector' = 'filesystem', 'path' = 'file://{out}', 'format' = 'csv'" if out else "'connector' = 'blackhole'"
    )
    table.execute_sql(f"CREATE TEMPORARY TABLE {name}_out ({', '.join(columns)}) WITH ({sink})")
    views, query = chain(name, delay)
    for view in views:
        table.execute_sql(view)
    table.execute_sql(f"INSERT INTO {name}_out {query}").wait()


KINDS = (("count", "BIGINT"), ("mean", "DOUBLE"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sample")
    parser.add_argument("source")
    parser.add_argument("--out", required=True)
    parser.add_argument("--no-delay", action="store_true")
    given = parser.parse_args()
    settings = Configuration()
    settings.set_string("parallelism.default", "1")
    settings.set_string("table.local-time-zone", "UTC")
    settings.set_string("taskmanager.numberOfTaskSlots", "1")
    settings.set_string("pipeline.object-reuse", "true")
    table = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(settings).build()
    )
    delay = not given.no_delay
    run(table, "sample", given.sample, given.out, delay)
    with Path(given.source).open() as file:
        events = sum(1 for _ in file)
    timed(lambda: run(table, "payments", given.source, "", delay), pyflink.version.__version__, events)


if __name__ == "__main__":
    main()
