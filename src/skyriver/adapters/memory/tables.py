"""`Tables` in memory: the twin that tests and trials run on. Instances given the same `shelf` are one store."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, NotFound
from skyriver.core.names import check_name
from skyriver.data.tables import Rewritten, TableVersion, columns_of, split_name

PIECE_ROWS = 1 << 17
COMPACT_EVERY = 50


@dataclass(slots=True)
class _Table:
    schema: pl.Schema
    versions: list[TableVersion] = field(default_factory=list)
    frames: list[tuple[pl.DataFrame, ...]] = field(default_factory=list)
    """Of each version, what it added."""
    base: int = 0


@dataclass(slots=True)
class Shelf:
    """What outlives an instance."""

    tables: dict[str, _Table] = field(default_factory=dict)
    locks: dict[str, threading.Lock] = field(default_factory=dict)


class MemoryTables:
    def __init__(self, shelf: Shelf | None = None) -> None:
        self._shelf = shelf or Shelf()

    def append(self, name: str, frames: Sequence[pl.DataFrame], *, offset: int, known: int | None) -> TableVersion:
        split_name(name)
        lock = self._shelf.locks.setdefault(name, threading.Lock())
        if not lock.acquire(blocking=False):
            raise Conflict(
                f"Another thread writes to {name} now.",
                code="TABLE_BUSY",
                where=name,
                next_action="Try again when it is done.",
            )
        try:
            return self._append(name, [frame.rechunk() for frame in frames], offset, known)
        finally:
            lock.release()

    def _append(self, name: str, frames: list[pl.DataFrame], offset: int, known: int | None) -> TableVersion:
        table = self._shelf.tables.get(name)
        if known is not None and (table is None or known >= len(table.versions)):
            raise Corrupt(f"Version {known} of {name} is gone.", code="TABLE_CORRUPT", where=name)
        if table is not None and offset <= table.versions[-1].offset:
            return table.versions[-1]
        if table is None:
            if not frames:
                raise InvalidInput(
                    f"The first append to {name} needs a frame.",
                    code="NO_SCHEMA",
                    where=name,
                    next_action="Give a frame that has the columns, with or without rows.",
                )
            table = _Table(frames[0].schema)
        for frame in frames:
            if list(frame.schema.items()) != list(table.schema.items()):
                raise InvalidInput(
                    f"The rows do not fit the table {name}.",
                    code="SCHEMA_MISMATCH",
                    where=name,
                    next_action=f"It has {', '.join(f'{c} {t}' for c, t in table.schema.items())}, in this order.",
                )
        last = table.versions[-1] if table.versions else TableVersion(-1, 0, 0, 0)
        version = TableVersion(
            version=last.version + 1,
            rows=last.rows + sum(len(frame) for frame in frames),
            bytes=last.bytes + sum(int(frame.estimated_size()) for frame in frames),
            offset=offset,
        )
        table.versions.append(version)
        table.frames.append(tuple(frames))
        self._shelf.tables[name] = table
        return version

    def compact(self, name: str, *, known: int | None) -> TableVersion:
        """Memory has no files to put together: a version now and then, as others make them."""
        table = self._table(name)
        last = table.versions[-1]
        if known is not None and known > last.version:
            raise Corrupt(f"Version {known} of {name} is gone.", code="TABLE_CORRUPT", where=name)
        if last.version - table.base < COMPACT_EVERY:
            return last
        table.base = last.version + 1
        table.versions.append(replace(last, version=table.base))
        table.frames.append(())
        return table.versions[-1]

    def widen(self, name: str, schema: Mapping[str, pl.DataType], *, known: int | None) -> TableVersion:
        table = self._table(name)
        last = table.versions[-1]
        if known is not None and known > last.version:
            raise Corrupt(f"Version {known} of {name} is gone.", code="TABLE_CORRUPT", where=name)
        had, wanted = list(table.schema.items()), list(schema.items())
        if wanted[: len(had)] != had:
            raise InvalidInput(
                f"The table {name} has other columns.",
                code="SCHEMA_MISMATCH",
                where=name,
                next_action="Give the columns that the table has, in their order, before new ones.",
            )
        if wanted == had:
            return last
        table.schema = pl.Schema(schema)
        table.versions.append(replace(last, version=last.version + 1))
        table.frames.append(())
        return table.versions[-1]

    def rewrite(self, name: str, changed: Rewritten, *, known: int | None) -> TableVersion:
        table = self._table(name)
        last = table.versions[-1]
        if known is not None and known > last.version:
            raise Corrupt(f"Version {known} of {name} is gone.", code="TABLE_CORRUPT", where=name)
        before = [frame for added in table.frames for frame in added]
        frames = [[self._changed(table, frame, changed) for frame in added] for added in table.frames]
        if all(a is b for a, b in zip(before, (frame for added in frames for frame in added), strict=True)):
            return last
        table.frames = [*map(tuple, frames), ()]
        table.base = last.version + 1
        table.versions.append(replace(last, version=table.base))
        return table.versions[-1]

    def _changed(self, table: _Table, frame: pl.DataFrame, changed: Rewritten) -> pl.DataFrame:
        later = [pl.lit(None, d).alias(n) for n, d in table.schema.items() if n not in frame.columns]
        whole = frame.with_columns(later)
        other = changed(whole)
        return frame if other is None or other.equals(whole) else other

    def latest(self, name: str) -> TableVersion:
        return self._table(name).versions[-1]

    def describe(self, name: str, version: int) -> TableVersion:
        table = self._table(name)
        if not 0 <= version < len(table.versions):
            raise NotFound(
                f"There is no version {version} of the table {name}.",
                code="UNKNOWN_VERSION",
                where=name,
                next_action=f"The newest is version {len(table.versions) - 1}.",
            )
        return table.versions[version]

    def scan(self, name: str, version: int, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        self.describe(name, version)
        table = self._table(name)
        wanted = columns_of(name, list(table.schema), columns)
        there = [frame for added in table.frames[: version + 1] for frame in added if len(frame)]
        later = [
            [pl.lit(None, d).alias(n) for n, d in table.schema.items() if n not in frame.columns] for frame in there
        ]
        frames = [frame.with_columns(more).select(wanted) for frame, more in zip(there, later, strict=True)]
        return (
            piece
            for frame in frames or [pl.DataFrame(schema=table.schema).select(wanted)]
            for piece in (frame.iter_slices(PIECE_ROWS) if len(frame) else (frame,))
        )

    def names(self, tenant: str) -> list[str]:
        check_name(tenant, "a tenant")
        return sorted(name for name in self._shelf.tables if name.startswith(f"{tenant}/"))

    def _table(self, name: str) -> _Table:
        split_name(name)
        table = self._shelf.tables.get(name)
        if table is None:
            raise NotFound(
                f"There is no table {name}.",
                code="UNKNOWN_TABLE",
                where=name,
                next_action="Append to it: that makes it.",
            )
        return table
