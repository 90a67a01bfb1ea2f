"""What rules see of lists for many events at once: as `skyriver.decide.log.lists` says of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skyriver.data.columns import Column, Columns, Ints
from skyriver.decide.log.lists import List, Lists, Lookup, Row


def beside(lists: Lists, used: Sequence[int], columns: Columns, times: Ints) -> Columns:
    """The columns with those of lists behind them; of what is not `used` there is the first one again."""
    found = [columns.columns[0]] * lists.width
    for (index, by), wanted in lists.searches(used).items():
        of = lists.get(index)
        assert of is not None
        column = columns.columns[by]
        hits, rows = _search(of, column.to_list(), times)
        for place, lookup in wanted:
            found[place] = _column(lookup, column, hits, rows)
    return Columns((*columns.columns, *found), len(columns))


def _search(of: List, ids: list[Any], times: Ints) -> tuple[Ints, list[Row]]:
    """Places of the events that find a row, and these rows."""
    newest = list(map(of.rows.get, ids))
    places = [place for place, row in enumerate(newest) if row is not None]
    hits, rows = [], []
    for place, now in zip(places, times[places].tolist(), strict=True):
        row = of.valid(newest[place], ids[place], now)  # type: ignore[arg-type]  # those without one are left out
        if row is not None:
            hits.append(place)
            rows.append(row)
    return np.array(hits, np.int64), rows


def _column(lookup: Lookup, by: Column, hits: Ints, rows: list[Row]) -> Column:
    n = len(by.values)
    if lookup.column < 0:
        members = np.zeros(n, np.bool_)
        members[hits] = True
        return Column("bool", members, by.missing)
    values: list[Any] = [None] * n
    for place, row in zip(hits.tolist(), rows, strict=True):
        values[place] = row[lookup.column]
    return Column.of(lookup.type, values)
