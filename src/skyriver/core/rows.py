"""Rows of the control state with what steps ask of them: one by its key, all of a kind, all that belongs to one.

A pass looks at every row, and a step at its neighbours: what is asked for often must not cost a walk over all. `Rows`
does not change; `changed` gives another one that shares all groups that it did not touch, so that a pass after one
write costs by what was written, not by what there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyriver.core.resources import Key, Resource

Group = dict[str, "Resource"]
"""By name, or by name and kind."""


def are_same(some: Sequence[Resource], others: Sequence[Resource]) -> bool:
    """Whether they are the same objects in the same order: whoever looks again and again at many rows need not read
    again what did not change, for snapshots share that."""
    return len(some) == len(others) and all(map(is_, some, others))


class Rows(Mapping["Key", "Resource"]):
    """(tenant, kind, name) -> row, in no order; `all` and `children` are in the order of names."""

    __slots__ = ("_by_kind", "_by_parent", "_rows", "_sorted")

    def __init__(self, rows: Iterable[Resource] = ()) -> None:
        self._rows: dict[Key, Resource] = {}
        self._by_kind: dict[tuple[str, str], Group] = {}
        self._by_parent: dict[tuple[str, str, str], Group] = {}
        self._sorted: dict[tuple[str, ...], tuple[Resource, ...]] = {}
        for row in rows:
            self._add(row)

    def __getitem__(self, key: Key) -> Resource:
        return self._rows[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def all(self, tenant: str, kind: str) -> tuple[Resource, ...]:
        return self._in_order((tenant, kind), self._by_kind.get((tenant, kind)))

    def children(self, tenant: str, parent: str, kind: str) -> tuple[Resource, ...]:
        """Of the row `parent` (kind/name)."""
        return self._in_order((tenant, parent, kind), self._by_parent.get((tenant, parent, kind)))

    def every(self, kind: str) -> tuple[Resource, ...]:
        """Of a kind, in all tenants."""
        return tuple(row for tenant, of in sorted(self._by_kind) if of == kind for row in self.all(tenant, of))

    def in_order(self) -> Iterator[Resource]:
        """All, by tenant, kind and name."""
        for tenant, kind in sorted(self._by_kind):
            yield from self.all(tenant, kind)

    def changed(self, rows: Iterable[Resource], gone: Iterable[Key] = ()) -> Rows:
        """These rows with `rows` put in (or in the place of those with their keys) and `gone` left out."""
        after = Rows()
        after._rows = dict(self._rows)
        after._by_kind = dict(self._by_kind)
        after._by_parent = dict(self._by_parent)
        after._sorted = dict(self._sorted)
        own: set[tuple[str, ...]] = set()
        for key in gone:
            after._remove(key, own)
        for row in rows:
            after._remove(row.key, own)
            after._own(row, own)
            after._add(row)
        return after

    def _in_order(self, key: tuple[str, ...], group: Group | None) -> tuple[Resource, ...]:
        if group is None:
            return ()
        found = self._sorted.get(key)
        if found is None:
            found = self._sorted[key] = tuple(group[name] for name in sorted(group))
        return found

    def _add(self, row: Resource) -> None:
        self._rows[row.key] = row
        self._by_kind.setdefault((row.tenant, row.kind), {})[row.name] = row
        if row.parent:
            self._by_parent.setdefault((row.tenant, row.parent, row.kind), {})[row.name] = row

    def _remove(self, key: Key, own: set[tuple[str, ...]]) -> None:
        row = self._rows.get(key)
        if row is None:
            return
        self._own(row, own)
        del self._rows[key]
        tenant, kind, name = key
        del self._by_kind[tenant, kind][name]
        if not self._by_kind[tenant, kind]:
            del self._by_kind[tenant, kind]
        if row.parent:
            group = self._by_parent[tenant, row.parent, kind]
            del group[name]
            if not group:
                del self._by_parent[tenant, row.parent, kind]

    def _own(self, row: Resource, own: set[tuple[str, ...]]) -> None:
        """The groups of `row` stop being those of the rows that this was made from."""
        kind_key = (row.tenant, row.kind)
        self._sorted.pop(kind_key, None)
        if kind_key not in own:
            own.add(kind_key)
            if kind_key in self._by_kind:
                self._by_kind[kind_key] = dict(self._by_kind[kind_key])
        if row.parent:
            parent_key = (row.tenant, row.parent, row.kind)
            self._sorted.pop(parent_key, None)
            if parent_key not in own:
                own.add(parent_key)
                if parent_key in self._by_parent:
                    self._by_parent[parent_key] = dict(self._by_parent[parent_key])
