"""What a worker tells of its lists, as JSON: times are microseconds, as in all answers of a stream."""

from __future__ import annotations

from typing import Any

from skyriver.decide.log.lists import List, Row
from skyriver.decide.log.records import Id

PAGE_IDS = 5_000


def page_of_list(of: List, start: int, time: int) -> dict[str, object]:
    """What is on it now, of PAGE_IDS ids from the `start`th on; `next`: where the next page begins, None at the end."""
    ids = of.page(start, PAGE_IDS)
    rows = [row for own in ids if (row := of.as_of(own, _now(time))) is not None]
    following = start + len(ids) if len(ids) == PAGE_IDS else None
    return {**_head(of, time), "items": [_row(of, row) for row in rows], "next": following}


def one_of_list(of: List, own: Id, time: int) -> dict[str, object]:
    """Whether it is on the list now, by which row, and its rows, the newest first."""
    row = of.as_of(own, _now(time))
    history = [{"what": of.says(each), **_row(of, each)} for each in of.history(own)]
    return {**_head(of, time), "id": own, "row": _row(of, row) if row is not None else None, "history": history}


def _head(of: List, time: int) -> dict[str, object]:
    spec = of.spec
    roles = {"id": spec.id, "time": spec.time, "until": spec.until}
    return {"list": spec.name, "as_of": _now(time), "ids": of.ids, "changed_at": of.changed_at, "fields": roles}


def _row(of: List, row: Row) -> dict[str, Any]:
    return {own.name: value for own, value in zip(of.spec.fields, row, strict=True)}


def _now(time: int) -> int:
    """Before the first event rows count that have no time of their own."""
    return max(time, 0)
