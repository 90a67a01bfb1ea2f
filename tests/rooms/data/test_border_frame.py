"""Cleaning of frames: types of columns, row numbers, and what refused rows look like. Equality with rows
is a property (tests/properties/test_border.py)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import FieldSpec
from skyriver.data.border_frame import clean_frame

FIELDS = [
    FieldSpec(name="id", type="int"),
    FieldSpec(name="at", type="time", time_unit="s"),
    FieldSpec(name="kind", type="text", nullable=True),
    FieldSpec(name="amount", type="float", fill=0.0, ge=0),
]


def test_good_rows_keep_their_numbers_and_bad_ones_their_reason() -> None:
    df = pl.DataFrame(
        {
            "id": ["1", "x", "3", "4"],
            "at": ["10", "20", "1970-01-01T00:00:30Z", "40"],
            "kind": ["a", "b", "", "d"],
            "amount": ["1.5", "2", "", "-4"],
            "other": ["?", "?", "?", "?"],
        }
    )
    cleaned = clean_frame(df, FIELDS, text_numbers=True, first_row=101)
    assert cleaned.rows.to_list() == [101, 103]
    assert cleaned.good.rows() == [(1, 10_000_000, "a", 1.5), (3, 30_000_000, None, 0.0)]
    assert cleaned.bad.select("row", "reason", "field").rows() == [
        (102, "WRONG_TYPE", "id"),
        (104, "OUT_OF_RANGE", "amount"),
    ]
    assert cleaned.bad["raw"][1] == '{"id":"4","at":"40","kind":"d","amount":"-4"}'


def test_rare_types_of_columns() -> None:
    df = pl.DataFrame(
        {
            "id": pl.Series([1, 2], dtype=pl.UInt16),
            "at": [datetime(2024, 1, 1, tzinfo=UTC), None],
            "kind": pl.Series(["a", "b"], dtype=pl.Categorical),
            "amount": [Decimal("1.25"), Decimal("2.50")],
        }
    )
    cleaned = clean_frame(df, FIELDS)
    assert cleaned.good.rows() == [(1, 1_704_067_200_000_000, "a", 1.25)]
    assert cleaned.bad["reason"].to_list() == ["MISSING"]
    days = clean_frame(pl.DataFrame({"at": [date(1970, 1, 2)]}), [FIELDS[1]])
    assert days.good["at"].to_list() == [86_400_000_000]


def test_a_column_of_a_type_that_is_never_right_refuses_each_row() -> None:
    df = pl.DataFrame({"id": [1.0, None], "at": [1, 2], "kind": [[1], [2]], "amount": [1, 2]})
    cleaned = clean_frame(df, FIELDS)
    assert cleaned.good.height == 0
    assert cleaned.bad["reason"].to_list() == ["WRONG_TYPE", "MISSING"]
    assert cleaned.bad["raw"][0] == '{"id":1.0,"at":1,"kind":[1],"amount":1}'


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        clean_frame(pl.DataFrame({"id": [1]}), FIELDS)
    assert caught.value.code == "MISSING_COLUMN"
    assert caught.value.where == "at"


def test_an_empty_frame_is_clean() -> None:
    df = pl.DataFrame(schema=dict.fromkeys(("id", "at", "kind", "amount"), pl.String()))
    cleaned = clean_frame(df, FIELDS, text_numbers=True)
    assert (cleaned.good.height, cleaned.bad.height, len(cleaned.rows)) == (0, 0, 0)
