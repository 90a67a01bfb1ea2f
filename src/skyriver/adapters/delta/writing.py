"""Writing a version in the order of DESIGN 6.14: data files, their folder, the commit, the log's folder; each synced.

deltalake writes the commit but syncs nothing, and its checkpoints would be in place before they are on disk: so
commits are synced here after it, and a checkpoint is made in a folder of its own and moved in when it is on disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from skyriver.adapters.delta.ledger import KEY, LOG, TXN, DataFile, Ledger, commit_path, schema_json
from skyriver.core.errors import Unavailable
from skyriver.data.folders import sync_folder

FILE_ROWS = 1 << 20
FILE_BYTES = 256 << 20
"""A data file holds at most so many rows, and about so many bytes in memory."""
GROUP_ROWS = 1 << 17
"""Rows of a row group: what a reader holds at least."""
CHECKPOINT_EVERY = 50
"""Commits between checkpoints: another Delta reader opens the table by the newest one and what came after."""
_SCRATCH = ".checkpoint"
_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_version(
    table: Path, last: Ledger | None, schema: tuple[tuple[str, str], ...], frames: Sequence[pl.DataFrame], offset: int
) -> Ledger:
    """Writes and commits the version after `last`; it is durable when this returns."""
    version = 0 if last is None else last.version + 1
    files = tuple(
        write_file(table, f"part-{version:010d}-{number:05d}.parquet", frame)
        for number, frame in enumerate(_cut(frames))
    )
    sync_folder(table)
    ledger = Ledger(
        version=version,
        offset=offset,
        rows=sum(f.rows for f in files) + (last.rows if last else 0),
        bytes=sum(f.bytes for f in files) + (last.bytes if last else 0),
        schema=schema,
        files=files,
        previous=last.digest() if last else "",
        base=last.base if last else 0,
        whole=() if last else files,
    )
    commit(table, ledger)
    sync_commit(table, version)
    return ledger


def _cut(frames: Sequence[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in frames that each fill one file."""
    waiting: list[pl.DataFrame] = []
    rows = size = 0
    for frame in frames:
        weight = max(1, int(frame.estimated_size()) // max(1, len(frame)))
        limit = max(1, min(FILE_ROWS, FILE_BYTES // weight))
        for piece in frame.iter_slices(limit):
            if waiting and (rows + len(piece) > FILE_ROWS or size + len(piece) * weight > FILE_BYTES):
                yield pl.concat(waiting)
                waiting, rows, size = [], 0, 0
            if len(piece):
                waiting.append(piece)
                rows += len(piece)
                size += len(piece) * weight
    if waiting:
        yield pl.concat(waiting)


def write_file(table: Path, name: str, frame: pl.DataFrame) -> DataFile:
    """One data file, synced (its folder is not)."""
    frame.write_parquet(table / name, compression="zstd", row_group_size=GROUP_ROWS)
    return written_file(table, name, len(frame))


def written_file(table: Path, name: str, rows: int) -> DataFile:
    """A data file that was written, synced now."""
    with (table / name).open("rb") as written:
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        os.fsync(written.fileno())
        return DataFile(name, os.fstat(written.fileno()).st_size, rows, sha256)


def commit(table: Path, ledger: Ledger) -> None:
    """Puts the commit file in its place, unsynced."""
    added = [
        AddAction(
            path=file.path,
            size=file.bytes,
            partition_values={},
            modification_time=int((table / file.path).stat().st_mtime * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": file.rows}),
        )
        for file in ledger.files
    ]
    schema = Schema.from_json(schema_json(ledger.schema))
    if ledger.version == 0:
        create_table_with_add_actions(
            str(table),
            schema,
            added,
            mode="error",
            configuration={"delta.enableExpiredLogCleanup": "false"},
            commit_properties=_properties(ledger),
            post_commithook_properties=_HOOKS,
        )
        return
    _opened(table, ledger.version).create_write_transaction(
        [*added],
        mode="append",
        schema=schema,
        commit_properties=_properties(ledger),
        post_commithook_properties=_HOOKS,
    )


def _properties(ledger: Ledger) -> CommitProperties:
    return CommitProperties(
        custom_metadata={KEY: ledger.to_json()},
        max_commit_retries=0,  # there is one writer: a version that is taken is an error, not a race
        app_transactions=[Transaction(TXN, ledger.offset)],
    )


def _opened(table: Path, version: int) -> DeltaTable:
    """The table, about to get this version."""
    opened = DeltaTable(str(table))
    if opened.version() != version - 1:
        raise Unavailable(
            f"Another program wrote to {table.name} meanwhile.",
            code="TABLE_CHANGED",
            next_action="Let nobody else write to this folder, and try again.",
        )
    return opened


def widen(table: Path, last: Ledger, schema: tuple[tuple[str, str], ...]) -> Ledger:
    """Commits the version after `last`: the same rows, with more columns; it is durable when this returns."""
    version = last.version + 1
    ledger = replace(last, version=version, schema=schema, files=(), previous=last.digest(), whole=(), removed=())
    fields = Schema.from_json(schema_json(schema[len(last.schema) :])).fields
    _opened(table, version).alter.add_columns(
        fields,
        commit_properties=_properties(ledger),
        post_commithook_properties=_HOOKS,
    )
    sync_commit(table, version)
    return ledger


def sync_commit(table: Path, version: int) -> None:
    sync_file(commit_path(table, version))
    sync_folder(table / LOG)
    sync_folder(table)


def checkpoint(table: Path, version: int) -> None:
    """Makes the checkpoint of `version`; a reader sees none of it before all of it is on disk."""
    scratch, log = table / _SCRATCH, table / LOG
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / LOG).mkdir(parents=True)
    start, newest = 0, log / "_last_checkpoint"
    if newest.exists():
        start = int(json.loads(newest.read_bytes())["version"])
        shutil.copy(newest, scratch / LOG)
        name = f"{start:020d}.checkpoint.parquet"
        os.link(log / name, scratch / LOG / name)
    for number in range(start, version + 1):
        os.link(commit_path(table, number), commit_path(scratch, number))
    DeltaTable(str(scratch)).create_checkpoint()
    for made in (f"{version:020d}.checkpoint.parquet", "_last_checkpoint"):
        sync_file(scratch / LOG / made)
        (scratch / LOG / made).replace(log / made)
        sync_folder(log)
    shutil.rmtree(scratch)


def remove_commit(table: Path, version: int) -> None:
    """Takes back a torn commit, and what was made from it."""
    commit_path(table, version).unlink()
    newest = table / LOG / "_last_checkpoint"
    made = table / LOG / f"{version:020d}.checkpoint.parquet"
    if made.exists():
        newest.unlink(missing_ok=True)
        made.unlink()
    sync_folder(table / LOG)


def remove_leftovers(table: Path, newest: int) -> None:
    """Removes what killed appends left: data files above the newest version, temporary files."""
    shutil.rmtree(table / _SCRATCH, ignore_errors=True)
    for path in table.glob("part-*.parquet"):
        if int(path.name.split("-")[1]) > newest:
            path.unlink()
    for path in (table / LOG).glob("*.tmp"):
        path.unlink()


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def translated(name: str) -> Iterator[None]:
    """What the disk and the libraries raise, in our words."""
    try:
        yield
    except (OSError, DeltaError, pl.exceptions.PolarsError) as error:
        full = getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error)
        raise Unavailable(
            f"The table {name} cannot be written: {str(error).splitlines()[0][:200]}.",
            code="DISK_FULL" if full else "TABLE_UNAVAILABLE",
            where=name,
            next_action="Free space on this disk and try again." if full else "Check the folder and its owner.",
        ) from error
