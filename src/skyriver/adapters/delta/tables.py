"""`Tables` in a folder: ROOT/<tenant>/<table>/ is one Delta table.

Commits are read by `ledger` (no deltalake: a training job that only reads stays 16 MB smaller), written by `writing`.
The laws that need more than that:

- Only the newest commit can be torn, because each append first looks at what the one before left, and syncs all of its
  own before it returns. So a commit that is not whole is taken back when it is the newest and above `known`, and
  is damage (Corrupt, nothing touched) anywhere else.
- A commit that a killed writer left whole is adopted: synced once more, for its writer may not have come to it.
- Readers take no lock. They name versions, whose rows never change; `latest` passes over a torn newest commit. Which
  files hold those rows may change (`compacting`): they are looked up in the newest base.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl

from skyriver.adapters.delta.ledger import (
    DataFile,
    Ledger,
    NotWhole,
    check_file,
    damaged,
    delta_schema,
    empty_frame,
    read_ledger,
    typed_schema,
    versions,
    with_columns,
)
from skyriver.adapters.delta.past import Past, read_past
from skyriver.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from skyriver.core.names import check_name
from skyriver.data.folders import make_folder
from skyriver.data.tables import Rewritten, TableVersion, columns_of, split_name

PIECE_ROWS = 1 << 17
_LOCK = ".writer"


class DeltaTables:
    """`Tables` below `root`, which is made as needed. `verify`: data files are read only after their SHA-256 was
    compared (some 1.5 GB/s)."""

    def __init__(self, root: Path, *, verify: bool = True) -> None:
        self._root = root.absolute()
        self._verify = verify
        self._looked: dict[str, int] = {}
        """The newest version of each table that this writer has found whole or written."""

    def append(self, name: str, frames: Sequence[pl.DataFrame], *, offset: int, known: int | None) -> TableVersion:
        from skyriver.adapters.delta import writing  # deltalake weighs 16 MB and 0.1 s, and only writers need it

        table = self._place(name)
        with writing.translated(name):
            make_folder(table)
            with self._lock(table, name):
                last = self._recover(table, name, known)
                if last is not None and offset <= last.offset:
                    return last.of_version
                schema = _check_schema(name, frames, last)
                writing.remove_leftovers(table, -1 if last is None else last.version)
                ledger = writing.write_version(table, last, schema, frames, offset)
                self._looked[name] = ledger.version
                if ledger.version and ledger.version % writing.CHECKPOINT_EVERY == 0:
                    # The version stands; without a checkpoint, opening it elsewhere only takes longer.
                    with suppress(Unavailable), writing.translated(name):
                        writing.checkpoint(table, ledger.version)
        return ledger.of_version

    def widen(self, name: str, schema: Mapping[str, pl.DataType], *, known: int | None) -> TableVersion:
        from skyriver.adapters.delta import writing  # as in append

        with writing.translated(name), self._held(name, known) as (table, last):
            wanted = typed_schema(schema)
            if wanted[: len(last.schema)] != last.schema:
                raise _mismatch(name, wanted, last.schema)
            if wanted != last.schema:
                writing.remove_leftovers(table, last.version)
                last = writing.widen(table, last, wanted)
                self._looked[name] = last.version
        return last.of_version

    def latest(self, name: str) -> TableVersion:
        return self._newest(self._place(name), name).of_version

    def compact(self, name: str, *, known: int | None) -> TableVersion:
        from skyriver.adapters.delta import compacting, writing  # as in append

        with writing.translated(name), self._held(name, known) as (table, last):
            try:
                if last.version - last.base >= compacting.EVERY:
                    writing.remove_leftovers(table, last.version)
                    last = compacting.write_base(table, last)
                    self._looked[name] = last.version
                compacting.remove_old(table, last, read_past(table), now=time.time())
            except NotWhole as error:
                raise damaged(name, last.version, str(error)) from error
        return last.of_version

    def rewrite(self, name: str, changed: Rewritten, *, known: int | None) -> TableVersion:
        from skyriver.adapters.delta import compacting, writing  # as in append

        with writing.translated(name), self._held(name, known) as (table, last):
            writing.remove_leftovers(table, last.version)
            try:
                last = compacting.rewrite_base(table, last, changed)
                self._looked[name] = last.version
                compacting.remove_old(table, last, read_past(table), now=math.inf)
            except NotWhole as error:
                raise damaged(name, last.version, str(error)) from error
        return last.of_version

    def describe(self, name: str, version: int) -> TableVersion:
        table = self._place(name)
        try:
            return self._ledger(table, name, version).of_version
        except NotFound:
            past = self._past(table, name)
            if not 0 <= version < past.end:
                raise
            return past.describe(version)

    def scan(self, name: str, version: int, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        table = self._place(name)
        described = self.describe(name, version)
        newest = self._newest(table, name)
        if newest.version < version:  # torn: reading it tells how
            newest = self._ledger(table, name, version)
        wanted = columns_of(name, [column for column, _ in newest.schema], columns)
        return self._pieces(table, name, described, newest, wanted)

    def names(self, tenant: str) -> list[str]:
        folder = self._root / check_name(tenant, "a tenant")
        tables = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        return [f"{tenant}/{table}" for table in tables if self._has_version(f"{tenant}/{table}")]

    def _has_version(self, name: str) -> bool:
        try:
            self.latest(name)
        except NotFound:
            return False
        return True

    def _place(self, name: str) -> Path:
        tenant, table = split_name(name)
        return self._root / tenant / table

    def _newest(self, table: Path, name: str) -> Ledger:
        """The newest whole one."""
        found = versions(table)
        for version in found[-1:]:
            try:
                ledger = read_ledger(table, version)
                for file in ledger.files:
                    check_file(table, file, content=False)
                return ledger
            except (NotWhole, FileNotFoundError):
                pass  # being taken back, or torn: the one before is whole
        if len(found) > 1:
            return self._ledger(table, name, found[-2])
        raise _unknown(name)

    def _past(self, table: Path, name: str) -> Past:
        try:
            return read_past(table)
        except NotWhole as error:
            raise damaged(name, -1, str(error)) from error

    def _ledger(self, table: Path, name: str, version: int) -> Ledger:
        """The ledger of a version that is to be there."""
        try:
            return read_ledger(table, version)
        except NotWhole as error:
            raise damaged(name, version, str(error)) from error
        except FileNotFoundError as error:
            raise _unknown(name, version) from error

    def _recover(self, table: Path, name: str, known: int | None) -> Ledger | None:
        """The newest whole ledger, after a torn one was taken back and those above `known` were looked at."""
        from skyriver.adapters.delta import writing  # as in append

        past = self._past(table, name)
        found = [version for version in versions(table) if version >= past.end]
        newest = found[-1] if found else -1
        looked = max(-1 if known is None else known, self._looked.get(name, -1))
        if newest < looked:
            raise damaged(name, looked, "its commit is gone")
        if found != list(range(past.end, newest + 1)) or newest < past.end - 1:
            raise damaged(name, newest, "commits before it are gone")
        ledger: Ledger | None = None
        for version in range(max(looked, past.end), newest + 1):
            try:
                ledger = self._whole(table, version, content=version > looked)
            except NotWhole as error:
                if version < newest or version <= looked:
                    raise damaged(name, version, str(error)) from error
                writing.remove_commit(table, version)
                self._looked[name] = version - 1
                return ledger
            if version > looked:
                writing.sync_commit(table, version)
        self._looked[name] = newest
        return ledger

    def _whole(self, table: Path, version: int, *, content: bool) -> Ledger:
        ledger = read_ledger(table, version)
        for file in ledger.files:
            check_file(table, file, content=content)
        return ledger

    def _pieces(
        self, table: Path, name: str, described: TableVersion, newest: Ledger, columns: list[str]
    ) -> Iterator[pl.DataFrame]:
        base = self._base_of(table, name, newest)
        left, empty = described.rows, True
        for file in self._files(table, name, described.version, base):
            if not left:
                break  # the base holds what came after this version too
            for piece in self._file(table, name, described.version, file, newest.schema, columns):
                yield piece.head(left)
                left, empty = left - min(left, len(piece)), False
        if left and columns:
            raise damaged(name, described.version, f"it has {left} rows less than were written")
        if empty:
            yield empty_frame(newest.schema).select(columns)

    def _files(self, table: Path, name: str, version: int, base: Ledger) -> Iterator[DataFile]:
        """Files that hold at least the rows of the version, in their order."""
        yield from base.whole
        previous = base.digest()
        for number in range(base.version + 1, version + 1):
            try:
                ledger = self._ledger(table, name, number)
            except NotFound as error:
                if number < self._past(table, name).end:
                    raise _rewritten(name, version) from error
                raise
            if ledger.previous != previous:
                raise damaged(name, number, "it does not follow the version before it")
            previous = ledger.digest()
            yield from ledger.files

    def _file(
        self,
        table: Path,
        name: str,
        version: int,
        file: DataFile,
        schema: tuple[tuple[str, str], ...],
        columns: list[str],
    ) -> Iterator[pl.DataFrame]:
        rows = 0
        try:
            check_file(table, file, content=self._verify)
            frame = pl.scan_parquet(table / file.path, glob=False, hive_partitioning=False)
            frame = with_columns(frame, schema).select(columns)
            for piece in frame.collect_batches(chunk_size=PIECE_ROWS, maintain_order=True):
                yield piece
                rows += len(piece)
        except (NotWhole, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            if not (table / file.path).exists() and self._is_replaced(table, name, file):
                raise _rewritten(name, version) from error
            raise damaged(name, version, str(error).splitlines()[0]) from error
        if columns and rows != file.rows:
            raise damaged(name, version, f"{file.path} has {rows} rows, {file.rows} were written")

    def _base_of(self, table: Path, name: str, ledger: Ledger) -> Ledger:
        return ledger if ledger.version == ledger.base else self._ledger(table, name, ledger.base)

    def _is_replaced(self, table: Path, name: str, file: DataFile) -> bool:
        """Whether a base that is newer than the file does without it."""
        newest = self._newest(table, name)
        base = self._base_of(table, name, newest)
        return int(file.path.split("-")[1]) <= base.version and file not in base.whole

    @contextmanager
    def _held(self, name: str, known: int | None) -> Iterator[tuple[Path, Ledger]]:
        """A table that is there, locked: its place and its newest version. Raises NotFound."""
        table = self._place(name)
        if not table.is_dir():
            raise _unknown(name)
        with self._lock(table, name):
            last = self._recover(table, name, known)
            if last is None:
                raise _unknown(name)
            yield table, last

    @contextmanager
    def _lock(self, table: Path, name: str) -> Iterator[None]:
        """The table's writer lock; it goes with the process, however it ends. Raises Conflict (TABLE_BUSY)."""
        descriptor = os.open(table / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise
                raise Conflict(
                    f"Another process writes to {name} now.",
                    code="TABLE_BUSY",
                    where=name,
                    next_action="Wait until it has ended.",
                ) from error
            yield
        finally:
            os.close(descriptor)


def _check_schema(name: str, frames: Sequence[pl.DataFrame], last: Ledger | None) -> tuple[tuple[str, str], ...]:
    """The table's schema. Raises InvalidInput (SCHEMA_MISMATCH) naming the first column that differs."""
    if last is None and not frames:
        raise InvalidInput(
            f"The first append to {name} needs a frame.",
            code="NO_SCHEMA",
            where=name,
            next_action="Give a frame that has the columns, with or without rows.",
        )
    schema = last.schema if last is not None else delta_schema(frames[0])
    for frame in frames:
        given = delta_schema(frame)
        if given != schema:
            raise _mismatch(name, given, schema)
    return schema


def _mismatch(name: str, given: tuple[tuple[str, str], ...], schema: tuple[tuple[str, str], ...]) -> InvalidInput:
    differs = sorted(set(given) ^ set(schema)) or list(given)
    return InvalidInput(
        f"The rows do not fit the table {name}: {', '.join(f'{c} {t}' for c, t in differs[:6])} differ.",
        code="SCHEMA_MISMATCH",
        where=name,
        next_action=f"It has {', '.join(f'{c} {t}' for c, t in schema[:50])}, in this order.",
    )


def _rewritten(name: str, version: int) -> Unavailable:
    return Unavailable(
        f"Version {version} of {name} was rewritten while it was read.",
        code="TABLE_REWRITTEN",
        where=f"{name}@{version}",
        next_action="Read it again.",
    )


def _unknown(name: str, version: int | None = None) -> NotFound:
    what = f"table {name}" if version is None else f"version {version} of the table {name}"
    return NotFound(
        f"There is no {what}.",
        code="UNKNOWN_TABLE" if version is None else "UNKNOWN_VERSION",
        where=name,
        next_action="`skyriver table list` shows the tables, `skyriver table get NAME` the newest version of one.",
    )
