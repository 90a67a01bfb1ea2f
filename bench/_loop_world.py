"""Payments of some months in which frauds and customers change their ways; the honest ones are the handbook's.

Frauds by week of the watched time (before it: what was always there):

- terminals that are taken over, all the time;
- cards that leak and are used for five times the usual amount: until week 20, then that fades over four weeks;
- from week 8: all payments at night of cards that leaked, for a tenth of the usual amount;
- from week 22: two of three payments at the weekend of cards that leaked, for 0.3 of the usual amount.

Without harm: from week 15 all prices are a quarter higher; in weeks 28 to 31 a fifth, for a season.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from _payments import FIRST_DAY, simulate

WARM_DAYS = 112
"""Of history before the first week."""
LEAK_DAYS = 14
LEAKS_A_DAY = 4


def payments(seed: int, weeks: int, customers: int) -> pl.DataFrame:
    """payment, at (microseconds), customer, terminal, amount, fraud; ordered by time."""
    terminals, days = 2 * customers, WARM_DAYS + 7 * weeks
    base = simulate(seed, customers, terminals, days, 5.0 * (10_000 / terminals) ** 0.5)
    luck = np.random.default_rng([seed, 7])
    amount = np.where(base.scenario == 3, base.amount / 5, base.amount)
    day, hour = base.second // 86_400, base.second % 86_400 / 3_600
    week = (day - WARM_DAYS) // 7
    amount *= np.where(week >= 15, 1.25, 1.0) * np.where((week >= 28) & (week <= 31), 1.2, 1.0)
    fraud = _taken_over(luck, day, base.terminal, terminals, days)

    # Each pattern has its own leaked cards, and takes those payments of theirs that suit it.
    weekend = (base.second // 86_400 + 6) % 7 >= 5  # FIRST_DAY is a Sunday
    large = _leaked(luck, day, base.customer, customers, days, LEAKS_A_DAY) & (luck.random(len(day)) < 1 / 3)
    large &= luck.random(len(day)) < np.clip(1 - (week - 20) / 4, 0, 1)
    night = _leaked(luck, day, base.customer, customers, days, 2 * LEAKS_A_DAY) & (week >= 8) & (hour <= 6.9)
    mild = _leaked(luck, day, base.customer, customers, days, LEAKS_A_DAY) & (week >= 22) & weekend
    mild &= luck.random(len(day)) < 2 / 3
    amount = np.where(large, amount * 5, np.where(night, amount * 0.1, np.where(mild, amount * 0.3, amount)))
    fraud |= large | night | mild

    nth = np.arange(len(day)) - np.searchsorted(base.second, base.second)
    at = (int(FIRST_DAY.astype("datetime64[ms]").astype(np.int64)) + base.second * 1000 + nth) * 1000
    columns = {"payment": base.payment, "at": at, "customer": base.customer, "terminal": base.terminal}
    return pl.DataFrame({**columns, "amount": np.round(amount, 2), "fraud": fraud.astype(np.int64)})


def _taken_over(
    luck: np.random.Generator, day: np.ndarray, terminal: np.ndarray, terminals: int, days: int
) -> np.ndarray:
    """A terminal or so a day, for 28 days: all payments there."""
    broken = np.zeros((terminals, days + 28), dtype=bool)
    for d in range(days):
        broken[luck.integers(terminals), d : d + 28] = True
    found: np.ndarray = broken[terminal, day]
    return found


def _leaked(
    luck: np.random.Generator, day: np.ndarray, customer: np.ndarray, customers: int, days: int, a_day: int
) -> np.ndarray:
    known = np.zeros((customers, days + LEAK_DAYS), dtype=bool)
    for d in range(days):
        known[luck.choice(customers, a_day, replace=False), d : d + LEAK_DAYS] = True
    found: np.ndarray = known[customer, day]
    return found
