"""What a commit says, read from its own file, and whether it is whole.

A Delta commit `_delta_log/00000000000000000007.json` is a few lines of JSON. Ours carry, within their `commitInfo`, a
ledger: the writer's offset, rows and bytes of the whole version, the schema, each new data file with its size, rows and
SHA-256, the digest of the commit before, and a digest over all of it. So one file of some 1 kB answers what a
version is; a torn or altered one is told from a whole one; and no reader trusts a file whose bytes it did not expect.
Other Delta readers pass over the ledger and read the same table.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from skyriver.core.errors import Corrupt, InvalidInput
from skyriver.core.names import digest
from skyriver.data.tables import TableVersion

KEY = "skyriver"
"""The name of the ledger in `commitInfo`."""
TXN = "skyriver"
"""The application whose transaction carries the offset."""
LOG = "_delta_log"
_COMMIT = re.compile(r"([0-9]{20})\.json")
_TYPES: dict[str, pl.DataType] = {
    "byte": pl.Int8(),
    "short": pl.Int16(),
    "integer": pl.Int32(),
    "long": pl.Int64(),
    "float": pl.Float32(),
    "double": pl.Float64(),
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "binary": pl.Binary(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}
"""Types by their names in Delta; `[]` behind one makes a list of it."""


@dataclass(frozen=True, slots=True)
class DataFile:
    path: str
    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """`files` are those that this commit added; rows and bytes are of the whole version. `base` is the newest version,
    this one or one before, that lists all files of the table: `whole`, in the order of their rows. The first version is
    one, and those that put files together (see `compacting`), which have `removed` files too."""

    version: int
    offset: int
    rows: int
    bytes: int
    schema: tuple[tuple[str, str], ...]
    files: tuple[DataFile, ...]
    previous: str
    """Digest of the ledger before, "" for the first."""
    base: int = 0
    whole: tuple[DataFile, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def of_version(self) -> TableVersion:
        return TableVersion(self.version, self.rows, self.bytes, self.offset)

    def body(self) -> dict[str, Any]:
        body = {
            "version": self.version,
            "offset": self.offset,
            "rows": self.rows,
            "bytes": self.bytes,
            "schema": [list(column) for column in self.schema],
            "files": _listed(self.files),
            "previous": self.previous,
        }
        if self.base:  # tables that were never put together keep the digests that they had
            body["base"] = self.base
        if self.base and self.base == self.version:
            body |= {"whole": _listed(self.whole), "removed": list(self.removed)}
        return body

    def digest(self) -> str:
        return digest(self.body())

    def to_json(self) -> dict[str, Any]:
        return {**self.body(), "digest": self.digest()}


def _listed(files: tuple[DataFile, ...]) -> list[list[Any]]:
    return [[f.path, f.bytes, f.rows, f.sha256] for f in files]


class NotWhole(Exception):
    """This commit, or a file that it names, is not what was written; the text says why."""


def versions(table: Path) -> list[int]:
    """Versions that have a commit file, ascending, whole or not."""
    try:
        names = [entry.name for entry in (table / LOG).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(found[1]) for found in map(_COMMIT.fullmatch, names) if found)


def commit_path(table: Path, version: int) -> Path:
    return table / LOG / f"{version:020d}.json"


def read_ledger(table: Path, version: int) -> Ledger:
    """Raises NotWhole; FileNotFoundError when there is no such commit."""
    data = commit_path(table, version).read_bytes()
    try:
        actions = [json.loads(line) for line in data.splitlines()]
        written = next(a["commitInfo"][KEY] for a in actions if "commitInfo" in a)
        ledger = Ledger(
            version=written["version"],
            offset=written["offset"],
            rows=written["rows"],
            bytes=written["bytes"],
            schema=tuple((name, kind) for name, kind in written["schema"]),
            files=tuple(DataFile(*file) for file in written["files"]),
            previous=written["previous"],
            base=written.get("base", 0),
            whole=tuple(DataFile(*file) for file in written.get("whole", () if version else written["files"])),
            removed=tuple(written.get("removed", ())),
        )
        added = [(a["add"]["path"], a["add"]["size"]) for a in actions if "add" in a]
        removed = [a["remove"]["path"] for a in actions if "remove" in a]
        offsets = [a["txn"]["version"] for a in actions if "txn" in a]
        sound = ledger.digest() == written["digest"] and ledger.version == version
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise NotWhole(f"{type(error).__name__} in reading it") from error
    if not sound:
        raise NotWhole("its digest is another")
    same = sorted(added) == sorted((f.path, f.bytes) for f in ledger.files) and sorted(removed) == sorted(
        ledger.removed
    )
    if not same or offsets != [ledger.offset]:
        raise NotWhole("its actions are not those of its ledger")
    return ledger


def check_file(table: Path, file: DataFile, *, content: bool) -> None:
    """Raises NotWhole when a data file is gone or of another size or, with `content`, of other bytes."""
    path = table / file.path
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise NotWhole(f"{file.path} has {size} bytes, {file.bytes} were written")
        if content:
            with path.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != file.sha256:
                raise NotWhole(f"{file.path} has other bytes than were written")
    except FileNotFoundError as error:
        raise NotWhole(f"{file.path} is gone") from error


def damaged(name: str, version: int, why: str) -> Corrupt:
    return Corrupt(
        f"Version {version} of {name} is damaged: {why}.",
        code="TABLE_CORRUPT",
        where=f"{name}@{version}",
        next_action="Restore it from a backup; for a stream's table, delete it and let it be made again from the log.",
    )


def delta_schema(frame: pl.DataFrame) -> tuple[tuple[str, str], ...]:
    """Names and Delta types of a frame's columns. Raises InvalidInput (UNSUPPORTED_TYPE) naming the column."""
    return tuple((name, _delta_type(name, dtype)) for name, dtype in frame.schema.items())


def _delta_type(name: str, dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.List):
        return f"{_delta_type(name, pl.Series(dtype=dtype.inner).dtype)}[]"
    found = next((word for word, known in _TYPES.items() if known == dtype), None)
    if found is None:
        raise InvalidInput(
            f"The column {name!r} is {dtype}, which tables do not hold.",
            code="UNSUPPORTED_TYPE",
            where=name,
            next_action=f"Cast it to one of {', '.join(str(known) for known in _TYPES.values())}.",
        )
    return found


def empty_frame(schema: tuple[tuple[str, str], ...]) -> pl.DataFrame:
    return pl.DataFrame(schema={name: _polars_type(kind) for name, kind in schema})


def _polars_type(kind: str) -> pl.DataType:
    return pl.List(_polars_type(kind[:-2])) if kind.endswith("[]") else _TYPES[kind]


def typed_schema(schema: Mapping[str, pl.DataType]) -> tuple[tuple[str, str], ...]:
    """As `delta_schema`, of names and types."""
    return tuple((name, _delta_type(name, dtype)) for name, dtype in schema.items())


def with_columns(frame: pl.LazyFrame, schema: tuple[tuple[str, str], ...]) -> pl.LazyFrame:
    """The rows of a file with all columns: null in those that came later."""
    there = frame.collect_schema().names()
    later = [pl.lit(None, _polars_type(kind)).alias(name) for name, kind in schema if name not in there]
    return frame.with_columns(later).select([name for name, _ in schema]) if later else frame


def schema_json(schema: tuple[tuple[str, str], ...]) -> str:
    """The schema as Delta writes it; every column may be null."""
    fields = [{"name": name, "type": _json_type(kind), "nullable": True, "metadata": {}} for name, kind in schema]
    return json.dumps({"type": "struct", "fields": fields})


def _json_type(kind: str) -> str | dict[str, Any]:
    if kind.endswith("[]"):
        return {"type": "array", "elementType": _json_type(kind[:-2]), "containsNull": True}
    return kind
