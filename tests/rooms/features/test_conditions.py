from typing import Any

import polars as pl
import pytest

import skyriver as sr
from skyriver.core.expr import Expression
from skyriver.features.conditions import fields_read, holds

HOUR = 3_600_000_000
FRAME = pl.DataFrame(
    {
        "at": [0, 5 * HOUR, 23 * HOUR + 59 * 60_000_000, None],
        "amount": [1.0, None, 250.0, 0.0],
        "shop": ["a", "b", None, "a"],
        "abroad": [True, False, None, True],
    },
    schema={"at": pl.Int64, "amount": pl.Float64, "shop": pl.String, "abroad": pl.Boolean},
)


class Order(sr.Event):
    order: int
    at: sr.Time
    amount: float | None
    shop: str | None
    abroad: bool | None


orders = sr.App("shop").stream("orders", Order, id="order", time="at", key="order")


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        (orders.at.hour() <= 6, [0, 1]),
        (orders.at.hour() == 23, [2]),
        (orders.at.weekday() == 3, [0, 1, 2]),  # 1 January 1970 was a Thursday
        ((orders.at.day() == 1) & (orders.at.month() == 1) & (orders.at.minute() == 59), [2]),
        (orders.amount >= 1, [0, 2]),
        (~(orders.amount >= 100), [0, 3]),
        (orders.amount.is_missing(), [1]),
        (orders.shop == "a", [0, 3]),
        (orders.shop != "a", [1]),
        (orders.shop.is_missing(), [2]),
        (orders.abroad, [0, 3]),
        ((orders.abroad) | (orders.amount > 100), [0, 3]),  # a missing operand makes it missing
        (100 / orders.amount > 1, [0]),  # a division by zero is missing
        (-orders.amount * 2 + 1 < orders.amount - 1, [0, 2]),
    ],
    ids=lambda value: "" if isinstance(value, list) else repr(value),
)
def test_where_it_is_true(condition: Any, rows: list[int]) -> None:
    assert isinstance(condition, Expression)
    assert holds(condition.node, FRAME).nonzero()[0].tolist() == rows
    assert holds(condition.node, FRAME[:0]).tolist() == []


def test_which_fields_it_reads() -> None:
    condition = (orders.at.hour() <= 6) & (orders.shop == "a") | (orders.at.hour() > 22)
    assert fields_read(condition.node) == ("at", "shop")
