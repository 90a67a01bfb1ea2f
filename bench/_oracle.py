"""The features of examples/risk a second time: their definitions written down in SQL, straight from the raw files.

    python bench/_oracle.py HISTORY.parquet STREAM.parquet SENT.parquet LABELS.parquet TOLD.parquet DISORDER_US
        OUT.parquet [DAYS]

It shares no code with the product and runs where only DuckDB is installed. HISTORY and STREAM are what the simulator
wrote, unclean as it is. SENT (payment, place) says in which order the sent payments reached the stream's log, for that
is chance, and TOLD so of the labels; all else is worked out here: which rows count, their order, effective time,
lateness, every window. DAYS (as 2,14): windows that are computed besides those of examples/risk.

The laws: an event's effective time T is the latest time seen so far, and what is older than that by more than
DISORDER_US is late and left out. A window holds the same key's events in (T - over, T] up to the event itself. A
label's window holds subjects in (T - 7d - over, T - 7d], with the value known before the event's place in the log, else
0. An empty mean is 0, a quotient by 0 is missing (null).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import duckdb

DAY = 86_400_000_000
DELAY = 7 * DAY
DAYS = (1, 7, 30)
"""The ratios are of these; all else is of more, where more are named."""
TICKS = 4_096
"""Events of one customer at one effective time are told apart by ticks below the microsecond."""

CLEAN = """
CREATE TABLE history AS
SELECT DISTINCT payment, epoch_us("at") AS t, customer, terminal, amount, fraud FROM read_parquet('{history}')
WHERE payment IS NOT NULL AND "at" IS NOT NULL AND customer IS NOT NULL AND terminal IS NOT NULL
  AND (amount IS NULL OR amount BETWEEN 0 AND 1000000);

CREATE TABLE sent AS
SELECT s.payment, epoch_us(s."at") AS t, s.customer, s.terminal, s.amount, o.place
FROM read_parquet('{stream}') s JOIN read_parquet('{sent}') o USING (payment);

CREATE TABLE told AS
SELECT l.payment, l.fraud, o.place FROM read_parquet('{labels}') l JOIN read_parquet('{told}') o USING (payment);
"""

# History: events by (time, id), a label behind the events of the time at which it became known, seven days later.
LOG = f"""
CREATE TABLE log AS
WITH records AS (
    SELECT 0 AS part, t AS first, 0 AS kind, payment AS second, payment, t, customer, terminal, amount,
           NULL::DOUBLE AS value FROM history
    UNION ALL
    SELECT 0, t + {DELAY}, 1, payment, payment, NULL, NULL, NULL, NULL, fraud FROM history WHERE fraud IS NOT NULL
    UNION ALL
    SELECT 1, place, 0, payment, payment, t, customer, terminal, amount, NULL FROM sent
    UNION ALL
    SELECT 1, place, 1, payment, payment, NULL, NULL, NULL, NULL, fraud FROM told
)
SELECT row_number() OVER (ORDER BY part, first, kind, second) AS pos, kind, payment, t, customer, terminal, amount,
       value
FROM records;
"""

KEPT = """
CREATE TABLE kept AS
WITH before AS (
    SELECT pos, payment, t, customer, terminal, amount,
           max(t) OVER (ORDER BY pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM log WHERE kind = 0
)
SELECT pos, payment, t, customer, terminal, amount, greatest(t, coalesce(reached, t)) AS eff
FROM before WHERE reached IS NULL OR t >= reached - {disorder};
"""

SUBJECTS = """
CREATE TABLE subjects AS
SELECT k.pos, k.terminal, k.eff, l.pos AS known_pos, l.value
FROM kept k LEFT JOIN (SELECT pos, payment, value FROM log WHERE kind = 1) l USING (payment);
"""


def customer_sql(windowed: Sequence[int]) -> str:
    """Counts and means by window, for every event; RANGE over ticks keeps events of the same time apart."""
    windows = ", ".join(
        f"w{d} AS (PARTITION BY customer ORDER BY tick "
        f"RANGE BETWEEN ({d * DAY} - 1) * {TICKS} + nth PRECEDING AND CURRENT ROW)"
        for d in windowed
    )
    columns = ", ".join(
        f"count(*) OVER w{d} AS count_{d}, coalesce(avg(amount) OVER w{d}, 0) AS mean_{d}" for d in windowed
    )
    return f"""
CREATE TABLE customers AS
WITH ranked AS (
    SELECT *, row_number() OVER (PARTITION BY customer, eff ORDER BY pos) AS nth FROM kept
), ticking AS (
    SELECT *, (eff - (SELECT min(eff) FROM kept)) * {TICKS} + nth AS tick FROM ranked
)
SELECT pos, nth, {columns} FROM ticking WINDOW {windows}
"""


def terminal_sql(windowed: Sequence[int]) -> str:
    """Every event beside every subject that its longest window holds; the shorter ones count those they hold."""
    value = "CASE WHEN j.known_pos < i.pos THEN j.value ELSE 0 END"
    inside = {d: f"j.eff > i.eff - {DELAY + d * DAY}" for d in windowed}
    columns = ", ".join(
        f"count(*) FILTER ({inside[d]}) AS count_{d}, coalesce(avg({value}) FILTER ({inside[d]}), 0) AS fraud_{d}"
        for d in windowed
    )
    return f"""
CREATE TABLE terminals AS
SELECT i.pos, {columns}
FROM kept i JOIN subjects j ON j.terminal = i.terminal AND {inside[max(windowed)]} AND j.eff <= i.eff - {DELAY}
GROUP BY i.pos
"""


def features_sql(out: str, windowed: Sequence[int]) -> str:
    counts = ", ".join(f"c.count_{d} AS customer_count_{d}d, c.mean_{d} AS customer_mean_{d}d" for d in windowed)
    frauds = ", ".join(
        f"coalesce(f.count_{d}, 0) AS terminal_count_{d}d, coalesce(f.fraud_{d}, 0) AS terminal_fraud_{d}d"
        for d in windowed
    )
    return f"""
COPY (
    SELECT k.payment, k.eff AS effective, k.amount,
           (isodow(make_timestamp(k.t)) >= 6)::INT AS weekend, (hour(make_timestamp(k.t)) <= 6)::INT AS night,
           {counts}, {frauds},
           k.amount / nullif(c.mean_7, 0) AS amount_to_mean_7d, k.amount / nullif(c.mean_30, 0) AS amount_to_mean_30d,
           c.mean_1 / nullif(c.mean_30, 0) AS mean_1d_to_30d, c.mean_7 / nullif(c.mean_30, 0) AS mean_7d_to_30d
    FROM kept k JOIN customers c USING (pos) LEFT JOIN terminals f USING (pos) ORDER BY k.pos
) TO '{out}' (FORMAT parquet)
"""


def main() -> None:
    history, stream, sent, labels, told, disorder, out, *days = sys.argv[1:]
    windowed = sorted({*DAYS, *(int(d) for text in days for d in text.split(","))})
    with duckdb.connect() as db:
        db.execute("SET memory_limit = '6GB'")
        db.execute(CLEAN.format(history=history, stream=stream, sent=sent, labels=labels, told=told))
        db.execute(LOG)
        db.execute(KEPT.format(disorder=int(disorder)))
        db.execute(SUBJECTS)
        db.execute(customer_sql(windowed))
        nth = db.execute("SELECT max(nth) FROM customers").fetchone()
        if nth is None or nth[0] is None or nth[0] >= TICKS:
            raise SystemExit(f"{nth}: no events, or too many of one customer at one time to tell apart")
        db.execute(terminal_sql(windowed))
        db.execute(features_sql(out, windowed))
    print(duckdb.__version__)


if __name__ == "__main__":
    main()
