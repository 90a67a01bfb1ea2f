"""Pages of a list of which a row is damaged: those that are whole are shown, and the damaged ones are named.

A store that finds a row which is not what was written gives none of its page. Which rows there are the control loop
knows, whose rows were whole when it read them; so they are read one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from skyriver.control.cloud import Cloud
from skyriver.core.contract import DamagedRow
from skyriver.core.errors import Corrupt, NotFound
from skyriver.core.resources import Resource


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of a list in the order of names. `last`: the name of the last one that was looked at, "" where the list
    ends."""

    rows: list[Resource]
    last: str
    damaged: tuple[DamagedRow, ...] = ()


def find_rows(cloud: Cloud, tenant: str, kind: str, after: str, asked: int) -> Found:
    """The next `asked` rows of a kind."""
    try:
        rows = cloud.store.rows(tenant, kind, after=after, limit=asked)
    except Corrupt:
        return _one_by_one(cloud, tenant, kind, after, asked)
    return Found(rows, rows[-1].name if len(rows) == asked else "")


def _one_by_one(cloud: Cloud, tenant: str, kind: str, after: str, asked: int) -> Found:
    names = [row.name for row in cloud.loop.snapshot().all(tenant, kind) if row.name > after][:asked]
    rows, damaged = [], []
    for name in names:
        try:
            rows.append(cloud.store.get(tenant, kind, name))
        except NotFound:  # it went meanwhile
            continue
        except Corrupt as error:
            told: DamagedRow = {
                "name": name,
                "code": error.code,
                "message": error.message,
                "next_action": error.next_action,
            }
            damaged.append(told)
    return Found(rows, names[-1] if len(names) == asked else "", tuple(damaged))
