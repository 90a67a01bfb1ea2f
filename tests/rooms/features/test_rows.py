"""Expressions of the event alone: missing propagates, true is 1, calendars are in UTC."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

NAN = float("nan")


def one(rows: Any, name: str, **record: Any) -> float:
    return float(rows.column(name, [{"t": 0, **record}])[0])


@pytest.mark.parametrize(
    ("name", "x", "y", "expected"),
    [
        ("add", 2.0, 0.5, 2.5),
        ("sub", 2.0, 0.5, 1.5),
        ("mul", 2.0, NAN, 4.0),
        ("div", 2.0, 0.5, 4.0),
        ("neg", 2.0, NAN, -2.0),
        ("lt", 1.0, 2.0, 1.0),
        ("lt", 2.0, 2.0, 0.0),
        ("le", 2.0, 2.0, 1.0),
        ("eq", 2.0, 2.0, 1.0),
        ("ne", 2.0, 2.0, 0.0),
        ("and", 1.0, 1.0, 1.0),
        ("and", 1.0, -1.0, 0.0),
        ("or", -1.0, 1.0, 1.0),
        ("or", -1.0, -1.0, 0.0),
        ("not", 1.0, NAN, 0.0),
        ("not", -1.0, NAN, 1.0),
        ("missing", NAN, 1.0, 0.0),
        ("missing", 1.0, NAN, 1.0),
    ],
)
def test_values(rows: Any, name: str, x: float, y: float, expected: float) -> None:
    assert one(rows, name, x=x, y=y) == expected


@pytest.mark.parametrize("name", ["add", "sub", "div", "lt", "le", "eq", "ne", "and", "or"])
@pytest.mark.parametrize(("x", "y"), [(NAN, 1.0), (1.0, NAN), (-1.0, NAN), (NAN, NAN)])
def test_an_operation_with_something_missing_is_missing(rows: Any, name: str, x: float, y: float) -> None:
    assert math.isnan(one(rows, name, x=x, y=y))


@pytest.mark.parametrize("name", ["mul", "neg", "not"])
def test_so_is_one_of_a_missing_value_alone(rows: Any, name: str) -> None:
    assert math.isnan(one(rows, name, x=NAN))


@pytest.mark.parametrize("x", [0.0, 1.0, -1.0])
def test_division_by_zero_is_missing(rows: Any, x: float) -> None:
    assert math.isnan(one(rows, "div", x=x, y=0.0))
    assert math.isnan(one(rows, "div", x=x, y=-0.0))


@pytest.mark.parametrize(
    "at",
    [
        "1970-01-01T00:00:00",
        "1969-12-31T23:59:59.999999",
        "1900-02-28T12:00:00",
        "2000-02-29T06:00:00",
        "2023-12-31T23:59:00",
        "2024-02-29T00:30:00",
        "2024-03-01T00:00:00",
        "2100-03-01T07:08:09",
    ],
)
def test_calendar(rows: Any, at: str) -> None:
    time = datetime.datetime.fromisoformat(at).replace(tzinfo=datetime.UTC)
    us = (time - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)
    found = [one(rows, name, at=us) for name in ("minute", "hour", "weekday", "day", "month", "time")]
    assert found == [time.minute, time.hour, time.weekday(), time.day, time.month, us / 1e6]


def test_a_missing_time_has_no_calendar(rows: Any) -> None:
    assert math.isnan(one(rows, "hour", at=-(2**63)))
    assert math.isnan(one(rows, "time", at=-(2**63)))
