"""Rows of predictions that are about somebody who is erased, found by a key as people wrote it."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.decide.log.erasing import Erasing, Kept
from skyriver.decide.log.predicted import changed_predictions

STREAM = StreamSpec(
    name="orders",
    fields=(
        FieldSpec(name="number", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="who", type="text"),
        FieldSpec(name="shop", type="text"),
    ),
    id="number",
    time="at",
    key="who",
)


def erasing(field: str = "who", value: Any = "17", ids: tuple[int, ...] = (1, 3)) -> Erasing:
    return Erasing(STREAM, field, value, Kept(frozenset({"at"}), False), b"s" * 32, ids=set(ids))


def answers(**keys: list[Any]) -> pl.DataFrame:
    rows = len(next(iter(keys.values())))
    told = {"score": [0.5] * rows, "model": ["m"] * rows, "version": [2] * rows}
    return pl.DataFrame({**keys, **told})


@pytest.mark.parametrize("who", [["17", "170", None, "17"], [17, 170, None, 17]])
def test_rows_of_a_subject_lose_all_but_who_answered(who: list[Any]) -> None:
    by, before = erasing(), answers(who=who)
    after = changed_predictions(by, before, ["who"])
    assert after is not None
    assert after.schema == before.schema
    assert after["score"].to_list() == [None, 0.5, 0.5, None]
    assert after["who"].to_list() == [None, who[1], None, None]
    assert (after["version"].to_list(), by.rows) == ([2] * 4, 2)
    assert changed_predictions(by, after, ["who"]) is None, "once is enough"


def test_rows_of_a_subject_s_events_are_found_by_their_ids() -> None:
    after = changed_predictions(erasing(), answers(number=[1, 2, 3]), ["number"])
    assert after is not None
    assert after["score"].to_list() == [None, 0.5, None]


def test_a_column_that_names_something_else_is_left_alone() -> None:
    frame = answers(who=["17"], number=[1])
    assert changed_predictions(erasing("shop", "17", ids=()), frame, ["who", "number"]) is None
    assert changed_predictions(erasing(), frame, []) is None
