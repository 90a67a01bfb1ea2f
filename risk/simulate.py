"""Payments with frauds in them, made up: as much data as you like, and nobody's secrets.

It follows the published specification of the transaction simulator in Y.-A. Le Borgne, W. Siblini, B. Lebichot,
G. Bontempi: Reproducible Machine Learning for Credit Card Fraud Detection - Practical Handbook, Université Libre de
Bruxelles, 2022, chapter 3, "Transaction data simulator"
(https://fraud-detection-handbook.github.io/fraud-detection-handbook/). The code is our own and vectorised: the
handbook's whole set (5,000 customers, 10,000 terminals, 183 days, about 1.75 million payments) takes a second or two.

What files have that simulators lack is added on the way to disk: a few payments written twice, rows nobody can read,
amounts that are missing.

    python simulate.py --out data --scale small
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

FIRST_DAY: Final = np.datetime64("2018-04-01")
DAY_S: Final = 86_400
LABEL_DELAY_DAYS: Final = 7
"""How long after a payment it is known whether it was a fraud."""

SCALES: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "tiny": (42, 1, 500, 1_000),
    "small": (91, 1, 5_000, 10_000),
    "full": (183, 2, 5_000, 10_000),
}
"""Days of payments, how many of them, the last ones, are kept back to be streamed, customers and terminals. These are
the handbook's in small and full. Tiny is another world, to try the commands in seconds: with so few terminals two
broken ones a day make 6% of its payments frauds, and what a model reaches there says nothing of the others."""

DUPLICATES: Final = 0.002
"""Share of payments that stand in the history file twice."""
BROKEN: Final = 0.001
"""Rows added that break a rule of the border (a negative amount, no time, no customer), as a share of all."""
MISSING: Final = 0.001
"""Share of payments whose amount is not known; they are good rows."""


@dataclass(frozen=True, slots=True)
class Payments:
    """Columns of n payments ordered by time; `payment` counts them from 0, `second` is since midnight of FIRST_DAY.

    `scenario` is 0 for an honest payment, else 1-3 as numbered by the handbook; `fraud` is scenario > 0.
    """

    payment: NDArray[np.int64]
    second: NDArray[np.int64]
    customer: NDArray[np.int64]
    terminal: NDArray[np.int64]
    amount: NDArray[np.float64]
    scenario: NDArray[np.int8]

    @property
    def fraud(self) -> NDArray[np.int8]:
        return (self.scenario > 0).astype(np.int8)


def simulate(
    seed: int = 0, customers: int = 5_000, terminals: int = 10_000, days: int = 183, radius: float = 5.0
) -> Payments:
    """The handbook's payments: the same arguments always give the same ones."""
    luck = np.random.default_rng(seed)
    homes, shops = luck.uniform(0, 100, (customers, 2)), luck.uniform(0, 100, (terminals, 2))
    mean_amount = luck.uniform(5, 100, customers)
    payments_a_day = luck.uniform(0, 4, customers)
    first, reachable = _within(radius, homes, shops)

    # One row a payment: who and on which day, then when, how much and where.
    counts = luck.poisson(np.repeat(payments_a_day, days))
    customer, day = np.divmod(np.repeat(np.arange(customers * days), counts), days)
    of_day = luck.normal(DAY_S / 2, 20_000, len(customer)).astype(np.int64)
    kept = (of_day > 0) & (of_day < DAY_S) & (np.diff(first)[customer] > 0)
    customer, second = customer[kept], (day * DAY_S + of_day)[kept]
    mean = mean_amount[customer]
    drawn = luck.normal(mean, mean / 2)
    amount = np.round(np.where(drawn < 0, luck.uniform(0, 2 * mean), drawn), 2).astype(np.float64)
    choice = luck.random(len(customer)) * np.diff(first)[customer]
    terminal = reachable[first[customer] + choice.astype(np.int64)]

    order = np.argsort(second, kind="stable")
    customer, terminal, amount, second = customer[order], terminal[order], amount[order], second[order]
    scenario = _add_frauds(luck, second // DAY_S, customer, terminal, amount, customers, terminals)
    return Payments(np.arange(len(second)), second, customer, terminal, np.round(amount, 2), scenario)


def _within(
    radius: float, homes: NDArray[np.float64], shops: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shops within `radius` of home c are reachable[first[c] : first[c + 1]]."""
    near = []
    for block in np.array_split(homes, max(1, len(homes) // 500)):  # 500 x 10,000 distances at a time: 40 MB
        distance2 = ((block[:, None, :] - shops[None, :, :]) ** 2).sum(axis=2)
        near.append(distance2 < radius**2)
    close = np.concatenate(near)
    return np.concatenate([[0], np.cumsum(close.sum(axis=1))]), np.nonzero(close)[1]


def _add_frauds(
    luck: np.random.Generator,
    day: NDArray[np.int64],
    customer: NDArray[np.int64],
    terminal: NDArray[np.int64],
    amount: NDArray[np.float64],
    customers: int,
    terminals: int,
) -> NDArray[np.int8]:
    """The scenario of each payment; multiplies the amounts of scenario 3 in place. The last one that fits counts."""
    days = int(day.max()) + 1 if len(day) else 0
    scenario = np.zeros(len(day), dtype=np.int8)

    # 1. Every amount above 220: obvious, and there to see that a detector works at all.
    scenario[amount > 220] = 1

    # 2. Each day two terminals are taken over, for 28 days: all their payments. None on the last day, as published.
    broken = np.zeros((terminals, days + 28), dtype=bool)
    for d in range(days - 1):
        broken[luck.choice(terminals, min(2, terminals), replace=False), d : d + 28] = True
    scenario[broken[terminal, day]] = 2

    # 3. Each day three customers' cards leak, for 14 days: a third of their payments is five times as high.
    by_customer = np.argsort(customer, kind="stable")
    first = np.searchsorted(customer[by_customer], np.arange(customers + 1))
    for d in range(days - 1):
        leaked = luck.choice(customers, min(3, customers), replace=False)
        theirs = np.concatenate([by_customer[first[c] : first[c + 1]] for c in leaked])
        theirs = theirs[(day[theirs] >= d) & (day[theirs] < d + 14)]
        stolen = luck.choice(theirs, len(theirs) // 3, replace=False)
        amount[stolen] *= 5
        scenario[stolen] = 3
    return scenario


def to_frame(payments: Payments) -> pl.DataFrame:
    """payment, at (UTC), customer, terminal, amount, and the truth: fraud."""
    at = FIRST_DAY.astype("datetime64[us]") + payments.second.astype("timedelta64[s]")
    return pl.DataFrame(
        {
            "payment": payments.payment,
            "at": at,
            "customer": payments.customer,
            "terminal": payments.terminal,
            "amount": payments.amount,
            "fraud": payments.fraud,
        }
    )


def soil(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """`frame` as a real export has it: some rows twice, some unreadable, anywhere."""
    luck = np.random.default_rng([seed, 1])
    twice = frame[luck.choice(len(frame), round(DUPLICATES * len(frame)), replace=False)]
    broken = frame[np.sort(luck.choice(len(frame), round(BROKEN * len(frame)), replace=False))]
    kind = pl.Series("kind", np.arange(len(broken)) % 3)
    broken = broken.with_columns(
        payment=pl.col("payment") + 10**9,  # ids of their own: what they spoil is nobody's payment
        amount=pl.when(kind == 0).then(-pl.col("amount") - 1).otherwise("amount"),
        at=pl.when(kind == 1).then(None).otherwise("at"),
        customer=pl.when(kind == 2).then(None).otherwise("customer"),
    )
    extra = pl.concat([twice, broken])
    place = np.concatenate([np.arange(len(frame)), luck.integers(0, len(frame), len(extra))])
    return pl.concat([frame, extra])[np.argsort(place, kind="stable")]


def write(out: Path, frame: pl.DataFrame, seed: int, stream_days: int) -> dict[str, int]:
    """Writes the history, the stream that follows it and the labels that become known meanwhile; rows of each."""
    out.mkdir(parents=True, exist_ok=True)
    missing = pl.Series(np.random.default_rng([seed, 2]).random(len(frame)) < MISSING)
    frame = frame.with_columns(amount=pl.when(missing).then(None).otherwise("amount"))
    delay, newest = timedelta(days=LABEL_DELAY_DAYS), frame["at"][-1]
    starts = datetime.combine(newest.date(), time()) + timedelta(days=1 - stream_days)
    history, stream = frame.filter(pl.col("at") < starts), frame.filter(pl.col("at") >= starts)
    known = pl.when(pl.col("at") < starts - delay).then("fraud")
    labels = frame.filter((pl.col("at") >= starts - delay) & (pl.col("at") <= newest - delay))
    files = {
        "payments": soil(history.with_columns(fraud=known), seed),
        "stream": stream.drop("fraud"),
        "stream_labels": labels.select("payment", "fraud", known_at=pl.col("at") + delay),
    }
    for name, rows in files.items():
        rows.write_parquet(out / f"{name}.parquet")
    return {name: len(rows) for name, rows in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another world")
    parser.add_argument("--stream-days", type=int, help="days at the end that are streamed (full: 2, else 1)")
    given = parser.parse_args()
    days, last, customers, terminals = SCALES[given.scale]
    stream_days = last if given.stream_days is None else given.stream_days
    if not 0 <= stream_days < days:
        parser.error(f"--stream-days must be 0 to {days - 1}")
    radius = 5.0 * (10_000 / terminals) ** 0.5  # so that everybody reaches as many terminals as in the handbook
    payments = simulate(given.seed, customers, terminals, days, radius)
    rows = write(given.out, to_frame(payments), given.seed, stream_days)
    print(f"{days - stream_days} days of history: {rows['payments']:,} rows in {given.out / 'payments.parquet'}")
    print(f"{stream_days} days to stream: {rows['stream']:,} payments in {given.out / 'stream.parquet'}")
    print(f"{rows['stream_labels']:,} labels become known meanwhile: {given.out / 'stream_labels.parquet'}")
    print(f"frauds: {payments.fraud.mean():.2%} of {len(payments.payment):,} payments")


if __name__ == "__main__":
    main()
