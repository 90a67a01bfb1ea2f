"""What features ask of texts: the same of values one by one and of columns, and in the features of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.features.backfill import backfill
from skyriver.features.codegen import kernel_source
from skyriver.features.plan import plan_features
from skyriver.features.tables import TextColumn
from skyriver.features.texts import numbers_of_series, numbers_of_values
from skyriver.release.inputs import input_fields

TEXTS = ["web", None, "", "Web", "web ", "\U0001f30a", "web"]
NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", [1, NAN, 0, 0, 0, 0, 1]),
        ("", [0, NAN, 1, 0, 0, 0, 0]),
        ("\U0001f30a", [0, NAN, 0, 0, 0, 1, 0]),
        (None, [0, NAN, 0, 0, 0, 0, 0]),
    ],
)
def test_values_and_columns_say_the_same(text: str | None, expected: list[float]) -> None:
    column = TextColumn("channel", text)
    for given in (TEXTS, TEXTS[:1], [], [None, None]):
        one_by_one = numbers_of_values(column, given)
        whole = numbers_of_series(column, pl.Series("channel", given, dtype=pl.String))
        assert (one_by_one.dtype, whole.dtype) == (np.float64, np.float64)
        assert one_by_one.tobytes() == whole.tobytes()
    np.testing.assert_array_equal(numbers_of_values(column, TEXTS), expected)


def test_of_a_table_and_no_text_is_in_the_kernel(kernels: Path) -> None:
    class Call(sr.Event):
        call: int
        channel: str | None
        amount: float

    app = sr.App("test")
    calls = app.table("calls", Call, id="call")
    web = calls.channel == "web"
    told = {
        "web": web,
        "other": calls.channel != "web",
        "none": calls.channel.is_missing(),
        "of_web": web * calls.amount,
    }
    plan = plan_features(app.features("told", calls, told).spec, app.spec.tables[0])
    source = kernel_source(plan)
    assert "web" not in source
    assert "channel" not in source
    frame = pl.DataFrame({"call": [1, 2, 3], "channel": ["web", "shop", None], "amount": [2.0, 3.0, 4.0]})
    found = backfill(plan, kernels, [frame]).features
    np.testing.assert_array_equal(found, [[1, 0, 0, 2], [0, 1, 0, 0], [NAN, NAN, 1, NAN]])


def test_a_comparison_may_be_missing_where_its_field_may() -> None:
    class Call(sr.Event):
        call: int
        channel: str | None
        country: str

    app = sr.App("test")
    calls = app.table("calls", Call, id="call")
    told = {"web": calls.channel == "web", "be": calls.country == "BE", "none": calls.channel.is_missing()}
    features = app.features("told", calls, told)
    assert [field.nullable for field in input_fields(features.spec, app.spec.tables[0])] == [True, False, False]
