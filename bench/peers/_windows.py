"""The twelve features as window functions of SQL, for the peers that speak it. `t` is the time in milliseconds."""

from __future__ import annotations

DAY = 86_400_000
DAYS = (1, 7, 30)
DELAY = 7 * DAY


def query(view: str, zero: str = "0") -> str:
    """`zero` as the peer writes a number of the type of an average."""
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
            f"count(*) OVER t{d} AS terminal_count_{d}d, coalesce(avg(fraud) OVER t{d}, {zero}) AS terminal_fraud_{d}d"
        )
    return f"SELECT payment, {', '.join(columns)} FROM {view} WINDOW {', '.join(windows)}"
