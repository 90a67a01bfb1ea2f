"""Pages of a list of which a row is damaged: those that are whole are shown, and the damaged ones are named.

A store that finds a row which is not what was written gives none of its page, and says which row that is. So the rows
are read one by one, on behind each that is damaged.
"""

from __future__ import annotations

from dataclasses import dataclass

from skyriver.control.store import Store
from skyriver.core.contract import DamagedRow
from skyriver.core.errors import Corrupt
from skyriver.core.resources import Resource


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of a list in the order of names. `last`: the name of the last one that was looked at, "" where the list
    ends."""

    rows: list[Resource]
    last: str
    damaged: tuple[DamagedRow, ...] = ()


def find_rows(store: Store, tenant: str, kind: str, after: str, asked: int) -> Found:
    """The next `asked` rows of a kind. Raises Corrupt where the store cannot say which row is damaged."""
    try:
        rows = store.rows(tenant, kind, after=after, limit=asked)
    except Corrupt as error:
        if not error.details:
            raise
        return _one_by_one(store, tenant, kind, after, asked)
    return Found(rows, rows[-1].name if len(rows) == asked else "")


def _one_by_one(store: Store, tenant: str, kind: str, after: str, asked: int) -> Found:
    rows: list[Resource] = []
    damaged: list[DamagedRow] = []
    for _ in range(asked):
        try:
            found = store.rows(tenant, kind, after=after, limit=1)
        except Corrupt as error:
            name = str(error.details[0]["name"]) if error.details else ""
            if name <= after:  # nobody knows where it goes on
                raise
            damaged.append(
                {"name": name, "code": error.code, "message": error.message, "next_action": error.next_action}
            )
            after = name
            continue
        if not found:
            return Found(rows, "", tuple(damaged))
        rows += found
        after = found[0].name
    return Found(rows, after, tuple(damaged))
