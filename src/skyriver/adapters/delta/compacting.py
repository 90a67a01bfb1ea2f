"""Many small files become few: a version with the same rows, in the same order, at the same offset.

A table that gets a commit a minute has 43,200 of them after a month, each with a small file. So now and then a commit
puts runs of small files into bigger ones: new files are written and synced, one commit removes the old ones and adds
the new ones, and is synced (DESIGN 6.14). Its ledger is a *base*: it lists all files of the table, so that reading
begins there and not at version 0.

Rows are only ever added at the end, so an older version is the first rows of any newer one: readers of any version read
the newest base, cut where their version ended. What bases before it need is kept for KEPT_SECONDS, for readers that are
at it; then `.versions` takes down what the versions below the newest base of that age were (rows, bytes, offset), their
commits are removed, and the files that nothing names any more. A name of a version stays good for ever.

Rows that get other values (`rewrite_base`) are a base too; what was there before it is removed at once, and older
versions are read from it like any other.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from skyriver.adapters.delta import writing
from skyriver.adapters.delta.ledger import (
    KEY,
    LOG,
    TXN,
    DataFile,
    Ledger,
    NotWhole,
    check_file,
    commit_path,
    read_ledger,
    versions,
    with_columns,
)
from skyriver.adapters.delta.past import Past, write_past
from skyriver.core.errors import Internal
from skyriver.data.folders import sync_folder
from skyriver.data.tables import Rewritten

EVERY = 50
"""Commits after a base before there is a new one."""
TARGET_ROWS = 1 << 20
TARGET_BYTES = 128 << 20
"""A file of so many rows or bytes is left as it is; files are put together up to that."""
RATIO = 4
"""A file is taken along by those after it when it has at most so many times their rows: each row is written again a few
times in its life (log of the target by this), not every time."""
KEPT_SECONDS = 86_400.0


def files_of(table: Path, ledger: Ledger) -> list[DataFile]:
    """All files of the newest version, `ledger`, in the order of their rows."""
    base = ledger if ledger.version == ledger.base else read_ledger(table, ledger.base)
    files = list(base.whole)
    for version in range(ledger.base + 1, ledger.version):
        files += read_ledger(table, version).files
    return files + list(ledger.files if ledger.version > ledger.base else ())


def runs(files: Sequence[DataFile]) -> list[tuple[int, int]]:
    """Which files to put together: (first, end) places, each run to become one file; in order."""
    found: list[tuple[int, int]] = []
    start = end = len(files)
    rows = size = 0
    for place in range(len(files) - 1, -1, -1):
        file = files[place]
        fits = rows + file.rows <= TARGET_ROWS and size + file.bytes <= TARGET_BYTES
        if start < end and fits and file.rows <= RATIO * rows:
            start, rows, size = place, rows + file.rows, size + file.bytes
        else:
            found.append((start, end))
            start, end, rows, size = place, place + 1, file.rows, file.bytes
    found.append((start, end))
    return [(first, last) for first, last in reversed(found) if last - first > 1]


def write_base(table: Path, last: Ledger) -> Ledger:
    """Writes and commits the version after `last`, with the same rows in fewer files; durable when this returns."""
    version = last.version + 1
    files = files_of(table, last)
    whole, made, removed, at = [], [], [], 0
    for number, (first, end) in enumerate(runs(files)):
        merged = _merge(table, f"part-{version:010d}-{number:05d}.parquet", files[first:end], last.schema)
        whole += [*files[at:first], merged]
        made.append(merged)
        removed += files[first:end]
        at = end
    whole += files[at:]
    return _commit_base(table, last, whole, made, removed, changes=False)


def rewrite_base(table: Path, last: Ledger, changed: Rewritten) -> Ledger:
    """Writes and commits the version after `last`, with the same rows in other values; durable when this returns.
    `last` itself where nothing is changed."""
    version = last.version + 1
    whole, made, removed = [], [], []
    for number, file in enumerate(files_of(table, last)):
        check_file(table, file, content=True)
        rows = with_columns(pl.scan_parquet(table / file.path, glob=False, hive_partitioning=False), last.schema)
        frame = rows.collect()
        other = changed(frame)
        if other is None or other.equals(frame):
            whole.append(file)
            continue
        if other.schema != frame.schema or len(other) != len(frame):
            raise Internal(f"The rows of {file.path} were to get other values, and are other rows now.")
        new = writing.write_file(table, f"part-{version:010d}-{number:05d}.parquet", other)
        whole.append(new)
        made.append(new)
        removed.append(file)
    return _commit_base(table, last, whole, made, removed, changes=True) if made else last


def _commit_base(
    table: Path,
    last: Ledger,
    whole: Sequence[DataFile],
    made: Sequence[DataFile],
    removed: Sequence[DataFile],
    *,
    changes: bool,
) -> Ledger:
    """The version after `last`, of the files `whole`; those that were `made` for it are written. `changes`: rows have
    other values."""
    sync_folder(table)
    version = last.version + 1
    ledger = replace(
        last,
        version=version,
        bytes=sum(file.bytes for file in whole),
        files=tuple(made),
        previous=last.digest(),
        base=version,
        whole=tuple(whole),
        removed=tuple(file.path for file in removed),
    )
    _commit(table, ledger, removed, changes=changes)
    writing.sync_commit(table, version)
    return ledger


def _merge(table: Path, name: str, files: Sequence[DataFile], schema: tuple[tuple[str, str], ...]) -> DataFile:
    """One file with the rows of these, in order, and all columns. Raises NotWhole where one of them is not what was
    written."""
    for file in files:
        check_file(table, file, content=True)
    scans = [pl.scan_parquet(table / file.path, glob=False, hive_partitioning=False) for file in files]
    frame = pl.concat([with_columns(scan, schema) for scan in scans])
    frame.sink_parquet(table / name, compression="zstd", row_group_size=writing.GROUP_ROWS, maintain_order=True)
    rows = sum(file.rows for file in files)
    found = pl.scan_parquet(table / name, glob=False).select(pl.len()).collect().item()
    if found != rows:
        raise NotWhole(f"{name} has {found} rows instead of {rows}")
    return writing.written_file(table, name, rows)


def _commit(table: Path, ledger: Ledger, removed: Sequence[DataFile], *, changes: bool) -> None:
    """Puts the commit in its place; deltalake commits additions alone. `changes`: rows have other values. Raises
    FileExistsError."""
    now = time.time_ns() // 1_000_000
    operation = "UPDATE" if changes else "OPTIMIZE"
    info = {"timestamp": now, "operation": operation, "operationParameters": {}, KEY: ledger.to_json()}
    lines: list[dict[str, Any]] = [
        {"commitInfo": info},
        {"txn": {"appId": TXN, "version": ledger.offset, "lastUpdated": now}},
    ]
    for old in removed:
        gone = {"path": old.path, "deletionTimestamp": now, "dataChange": changes, "extendedFileMetadata": True}
        lines.append({"remove": {**gone, "partitionValues": {}, "size": old.bytes}})
    for new in ledger.files:
        stats = json.dumps({"numRecords": new.rows})
        added = {"path": new.path, "partitionValues": {}, "size": new.bytes, "modificationTime": now}
        lines.append({"add": {**added, "dataChange": changes, "stats": stats}})
    temporary = table / LOG / f"_commit_{ledger.version}.json.tmp"
    with temporary.open("wb") as file:
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.link(temporary, commit_path(table, ledger.version))
    temporary.unlink()


def remove_old(table: Path, newest: Ledger, past: Past, *, now: float) -> None:
    """Removes commits and files that only readers of KEPT_SECONDS ago could be at. What a killed one left half done is
    done here too."""
    base = newest
    while base.base > past.end and commit_path(table, base.base).stat().st_mtime > now - KEPT_SECONDS:
        base = read_ledger(table, base.base - 1)
    base = read_ledger(table, base.base)
    if base.version > past.end:
        if _checkpointed(table) < base.version:
            writing.checkpoint(table, newest.version)  # other readers of Delta begin there
        figures = [read_ledger(table, version).of_version for version in range(past.end, base.version)]
        added = np.array([(v.rows, v.bytes, v.offset) for v in figures], "<i8")
        write_past(table, np.concatenate([past.figures, added]))
    elif not past.end or versions(table)[0] >= past.end:
        return
    named = {file.path for file in base.whole}
    for version in range(base.version + 1, newest.version + 1):
        named.update(file.path for file in read_ledger(table, version).files)
    for path in table.glob("part-*.parquet"):
        if path.name not in named:
            path.unlink()
    sync_folder(table)
    # The commits go last: one that is still there tells that a killed one left the rest half done.
    for version in versions(table):
        if version < base.version:
            commit_path(table, version).unlink()
            (table / LOG / f"{version:020d}.checkpoint.parquet").unlink(missing_ok=True)
    sync_folder(table / LOG)


def _checkpointed(table: Path) -> int:
    newest = table / LOG / "_last_checkpoint"
    return int(json.loads(newest.read_bytes())["version"]) if newest.exists() else -1
