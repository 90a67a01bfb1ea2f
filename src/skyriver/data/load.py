"""Loading files into a plain table, and what loads of streams refused into theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import polars as pl

from skyriver.core.errors import InvalidInput, NotFound
from skyriver.core.jobs import Progress
from skyriver.core.spec import FieldSpec, TableSpec, with_roles
from skyriver.data.border_frame import schema_of
from skyriver.data.files import LoadFile
from skyriver.data.intake import Intake, LoadReport, append_dead, disk
from skyriver.data.stream_load import PreparedLoad
from skyriver.data.tables import Tables, TableVersion


def load_table(
    table: TableSpec,
    files: Sequence[LoadFile],
    tables: Tables,
    name: str,
    offset: int,
    known: int | None,
    progress: Progress,
    *,
    work_dir: Path,
) -> LoadReport:
    """Appends the files' rows to the plain table `name` as one version, bad ones to `<name>.dead`.

    An id that is in the table already, or comes again in the load, is a duplicate and left out. `offset` counts the
    loads of this table: one that was done before is not done again. Raises as `prepare_stream_load` does.
    """
    last = _latest(tables, name)
    if last is not None and offset <= last.offset:
        return LoadReport(0, 0, {}, (), 0, 0, 0, None, None, {}, repeated=True, version=last)
    with disk(work_dir):
        intake = Intake(work_dir, progress)
        frames = [schema_frame(table.fields)]
        fields = with_roles(table.fields, table.id)
        for file in files:
            if file.label:
                _refuse(file.name, "UNKNOWN_LABEL", f"{table.name} is a table: labels are columns of it.", "")
            if file.reference:
                _refuse(file.name, "UNKNOWN_REFERENCE", f"{table.name} is a table: streams have references.", "")
            frames.extend(cleaned.good for cleaned in intake.clean(file, fields, frozenset()))
        intake.check(table.max_bad)
        rows = pl.concat(frames)
        kept = rows.unique(subset=[table.id], keep="first", maintain_order=True)
        if last is not None:
            for piece in tables.scan(name, last.version, [table.id]):
                kept = kept.join(piece, on=table.id, how="anti", maintain_order="left")
        # The dead letters first: when they are there and the rows are not, the load is repeated, and does no harm.
        append_dead(tables, f"{name}.dead", intake.dead, offset)
        version = tables.append(name, [kept], offset=offset, known=known)
        return intake.report(duplicates=len(rows) - len(kept), version=version)


def store_dead(load: PreparedLoad, tables: Tables, name: str, position: int) -> TableVersion | None:
    """Appends a load's bad rows to the table `name`, once, however often it is called; None when there are none.

    `position`, their `_offset`, is the last log offset of the load and so its own. Whether its rows are there is
    looked up and not told from the table's offset: a load that was cut off may come again after others.
    """
    if not load.dead:
        return None
    last = _latest(tables, name)
    if last is None:
        return append_dead(tables, name, load.dead, position, version_offset=max(0, position))
    if any((piece["_offset"] == position).any() for piece in tables.scan(name, last.version, ["_offset"])):
        return last
    return append_dead(tables, name, load.dead, position, version_offset=max(position, last.offset + 1))


def schema_frame(fields: Sequence[FieldSpec]) -> pl.DataFrame:
    return pl.DataFrame(schema=schema_of(fields))


def _latest(tables: Tables, name: str) -> TableVersion | None:
    try:
        return tables.latest(name)
    except NotFound:
        return None


def _refuse(name: str, code: str, message: str, next_action: str) -> NoReturn:
    raise InvalidInput(message, code=code, where=name, next_action=next_action)
