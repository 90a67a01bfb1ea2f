"""What MLflow's searches understand, and the values of metrics that are kept of many."""

from __future__ import annotations

import math
import re
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.control.mlflow.filters import Value, ordered, parse_filter, searched
from skyriver.control.mlflow.history import added, last_of, most_points, points_of
from skyriver.control.mlflow.like import is_like
from skyriver.control.mlflow.protocol import Asked
from skyriver.core.curves import Point
from skyriver.core.errors import InvalidInput
from skyriver.trust.tokens import Identity

WHO = Identity("t", "ana", "developer")
Row = dict[str, Any]


def row(name: str, **values: Any) -> Row:
    return {"": {"name": name, "start": values.pop("start", 0)}, "metrics": values, "tags": {"team": name[0]}}


def look(found: Row, kind: str, name: str) -> Value:
    value: Value = found.get(kind, {}).get(name)
    return value


ROWS = [row("ann", auc=0.5, start=3), row("bob", auc=0.9, start=1), row("cid", start=2), row("al'x", auc=math.nan)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["ann", "bob", "cid", "al'x"]),
        ("metrics.auc > 0.6", ["bob"]),
        ("metrics.auc >= 0.5 and metric.`auc` < 0.9", ["ann"]),
        ("metrics.auc != 0.5", ["bob", "al'x"]),
        ("tags.team = 'a'", ["ann", "al'x"]),
        ("tags.team != 'a' AND name LIKE 'b%'", ["bob"]),
        ("attributes.name ILIKE 'B_B'", ["bob"]),
        ("name IN (\"ann\", 'cid')", ["ann", "cid"]),
        ("run.name not in ('ann')", ["bob", "cid", "al'x"]),
        (r"name = 'al\'x'", ["al'x"]),
        ("metrics.auc IS NULL", ["cid"]),
        ("metrics.auc is not null and start > 1", ["ann"]),
        ("tags.nobody != 'x'", []),
    ],
)
def test_a_filter_holds_where_it_should(text: str, names: list[str]) -> None:
    terms = parse_filter(text)
    assert [r[""]["name"] for r in ROWS if all(t.holds(look(r, t.kind, t.name)) for t in terms)] == names


@pytest.mark.parametrize(
    "text",
    [
        "metrics.auc",
        "metrics.auc >",
        "metrics.auc > x",
        "metrics.auc > 'much'",
        "metrics.auc ~ 1",
        "colour.red = 'x'",
        "name = 'a' OR name = 'b'",
        "name = 'a",
        "name IN 'a'",
        "name IN ('a'",
        "metrics.auc LIKE 1",
        "= 3",
        "name = 'x' " + "AND name = 'x' " * 60,
        "x" * 5_001,
        f"name LIKE '{'a' * 501}'",
    ],
)
def test_what_is_not_understood_is_refused_with_how_it_is_written(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        [t.holds(look(r, t.kind, t.name)) for t in parse_filter(text) for r in ROWS]
    assert caught.value.next_action


def test_order_puts_what_has_no_value_last_and_leaves_ties_as_they_were() -> None:
    def names(*by: str) -> list[str]:
        return [r[""]["name"] for r in ordered(ROWS, by, look)]

    assert names("metrics.auc DESC") == ["bob", "ann", "al'x", "cid"]
    assert names("start") == ["al'x", "bob", "cid", "ann"]
    assert names("tags.team", "attributes.name DESC") == ["ann", "al'x", "bob", "cid"]
    for wrong in ("colours.red", "", "metrics."):
        with pytest.raises(InvalidInput):
            names(wrong)


@given(st.text("aAb%_.\n", max_size=8), st.text("aAb.\n", max_size=10), st.booleans())
def test_like_is_what_a_regular_expression_would_find(pattern: str, text: str, either_case: bool) -> None:
    signs = {"%": ".*", "_": "."}
    told = "".join(signs.get(sign, re.escape(sign)) for sign in pattern)
    wanted = re.fullmatch(told, text, re.DOTALL | (re.IGNORECASE if either_case else 0)) is not None
    assert is_like(text, pattern, either_case=either_case) == wanted


def test_no_pattern_filter_or_order_takes_long() -> None:
    """What backtracks takes hours on these, and holds the whole process: any limit tells the two apart."""
    begin = time.process_time()
    for many in ("%a" * 200, "_%" * 200, "%" + "a_" * 200, "%" * 400):
        assert not is_like("a" * 5_000, f"{many}b")
    for text in ("1" * 4_999 + "x", "1" * 2_400 + "e" + "1" * 2_400 + "x", " " * 4_999 + "~", "'" + "\\'" * 2_400):
        with pytest.raises(InvalidInput):
            parse_filter(text)
    for told in ("a" + " " * 498 + "b", "name" + " " * 490 + "DESC"):
        assert len(ordered(ROWS, [told] * 20, look)) == len(ROWS)
    for told in ("a" + " " * 8_000 + "b", "x" * 501):
        with pytest.raises(InvalidInput, match="500 characters"):
            ordered(ROWS, [told], look)
    assert time.process_time() - begin < 5


def test_pages_give_each_row_once() -> None:
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        asked = Asked(WHO, {"max_results": 3, "page_token": token, "order_by": ["name"]})
        page, token = searched(asked, ROWS, look, default=10, most=100)
        seen += [r[""]["name"] for r in page]
    assert seen == ["al'x", "ann", "bob", "cid"]
    for wrong in ({"max_results": 0}, {"max_results": "many"}, {"page_token": "x"}, {"order_by": [3]}):
        with pytest.raises(InvalidInput):
            searched(Asked(WHO, wrong), ROWS, look, default=10, most=100)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=400), st.integers(2, 50))
def test_of_many_values_few_are_kept_and_the_first_the_last_and_their_number_are_exact(
    values: list[float], most: int
) -> None:
    known: dict[str, Any] | None = None
    points = [Point(step, value, 1_000 + step) for step, value in enumerate(values)]
    for point in points:
        known = added(known, [point], most)
    assert known == added(None, points, most), "one by one or together"
    assert known is not None
    kept = points_of(known)
    assert known["seen"] == len(values)
    assert (kept[0], kept[-1], last_of(known)) == (points[0], points[-1], points[-1])
    assert set(kept) <= set(points)
    assert len(kept) <= most + 1
    steps = [point.step for point in kept[:-1]]
    assert len({b - a for a, b in pairwise(steps)}) <= 1, "evenly spread"
    assert len(kept) >= min(len(values), most // 2)


def test_a_value_that_is_sent_again_counts_once_and_an_older_step_is_not_the_newest() -> None:
    first = added(None, [Point(5, 0.5, 1)], 10)
    assert added(first, [Point(5, 0.5, 1)], 10) == first
    after = added(first, [Point(2, 0.9, 2)], 10)
    assert last_of(after).step == 5
    assert [point.step for point in points_of(after)] == [2, 5]
    at_once = added(after, [Point(5, 0.7, 1), Point(5, 0.6, 1)], 10)
    assert last_of(at_once).value == 0.6, "of one moment the one that was logged last"
    assert (most_points(1), most_points(100), most_points(10_000)) == (1_000, 10, 5)
