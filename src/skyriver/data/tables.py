"""The port for versioned tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skyriver.core.errors import InvalidInput
from skyriver.core.names import check_name

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class TableVersion:
    """`rows` and `bytes` of the whole version; `offset` is the writer's position (the last log offset it holds)."""

    version: int
    rows: int
    bytes: int
    offset: int


class Tables(Protocol):
    """Append-only versioned tables, named `tenant/table`; names of parts of a stream have a dot (`payments.labels`).

    MUST: a version, once returned by `append`, is durable and never changes; a reader names the version it
    reads; an append that fails or is killed leaves nothing that `latest` gives after the next writer has looked;
    one writer per table at a time (a second one gets Conflict). Appending with an `offset` that is not above
    the last version's changes nothing and returns that version: a writer that repeats its work does no harm.
    Without rows, an append still is a version: its offset says that there was nothing up to there.
    The first append fixes the schema; a frame with another one is refused (InvalidInput, SCHEMA_MISMATCH). Raises
    NotFound for an unknown table or version, Corrupt when a file is not what was written or a version that is
    `known` is gone, InvalidInput for a bad name (BAD_NAME), an unknown column (UNKNOWN_COLUMN) or a first append
    without a frame (NO_SCHEMA), Unavailable (DISK_FULL) when there is no room; the table is then as it was.
    """

    def append(self, name: str, frames: Sequence[pl.DataFrame], *, offset: int, known: int | None) -> TableVersion:
        """Adds rows as one version. `known` is the newest version that the control plane has recorded (None: none):
        later commits are adopted when whole, removed when torn (DESIGN 6.14)."""
        ...

    def latest(self, name: str) -> TableVersion:
        """The newest whole version. Raises NotFound when there is none."""
        ...

    def describe(self, name: str, version: int) -> TableVersion: ...

    def scan(self, name: str, version: int, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The rows of a version, in bounded pieces, in the order in which they were appended, with the columns in
        the order asked for; one piece without rows when there are none."""
        ...

    def names(self, tenant: str) -> list[str]:
        """`tenant/table` of each table that has a version, sorted."""
        ...


class CompactingTables(Tables, Protocol):
    """Tables in which many small appends stay fast to open and to read.

    MUST: `compact` changes no row, nor their order, of any version; where there is much to put together it makes a new
    version with the rows and the offset of the last one, else it gives the last one; versions are described and read as
    before, also while it works and long after. Laws of `append` about killed writers, several writers and `known` hold
    for it too. Raises NotFound for an unknown table.
    """

    def compact(self, name: str, *, known: int | None) -> TableVersion:
        """The newest version, put together where that is worth it."""
        ...


class GrowingTables(Tables, Protocol):
    """Tables that may get more columns.

    MUST: after `widen` the table has the columns of `schema`, those that it had not behind the others, and null in each
    row that was there, also when an older version is read; that is a new version with the rows and the offset of the
    last one. A table that has them all stays as it is, and its last version is given. Laws of `append` about killed
    writers, several writers and `known` hold for it too. Raises NotFound for an unknown table, InvalidInput
    (SCHEMA_MISMATCH) where `schema` does not begin with what the table has.
    """

    def widen(self, name: str, schema: Mapping[str, pl.DataType], *, known: int | None) -> TableVersion: ...


Rewritten = Callable[["pl.DataFrame"], "pl.DataFrame | None"]
"""The same rows with other values; None: as they are."""


class RewritableTables(Tables, Protocol):
    """Tables whose rows can get other values, for somebody is to be erased from them.

    MUST: `rewrite` gives all rows of the newest version to `changed`, in pieces with all columns, in their order. What
    it returns is a new version with the rows and the offset of the last one; where nothing is changed, the last one is
    given. When it returns, no file of the table has the values of before: older versions, which are the first rows of
    newer ones, are described as before (but for their bytes) and read with the new values. Killed at any point the
    table is as before or as after, and calling it again does the rest. A reading that is under way may end with an
    error. Laws of `append` about several writers and `known` hold for it too. Raises NotFound for an unknown table.
    """

    def rewrite(self, name: str, changed: Rewritten, *, known: int | None) -> TableVersion: ...


class StreamTables(CompactingTables, GrowingTables, RewritableTables, Protocol):
    """What a stream's log is carried into."""


def columns_of(name: str, known: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """The columns to read: all `known`, or those asked for. Raises InvalidInput (UNKNOWN_COLUMN)."""
    wanted = list(known if asked is None else asked)
    unknown = next((column for column in wanted if column not in known), None)
    if unknown is not None:
        raise InvalidInput(
            f"The table {name} has no column {unknown!r}.",
            code="UNKNOWN_COLUMN",
            where=name,
            next_action=f"It has {', '.join(known[:50])}.",
        )
    return wanted


def split_name(name: str) -> tuple[str, str]:
    """(tenant, table) of `tenant/table`. Raises InvalidInput (BAD_NAME)."""
    tenant, slash, table = name.partition("/")
    if not slash:
        raise InvalidInput(f"{name!r} cannot name a table.", code="BAD_NAME", next_action="Write tenant/table.")
    check_name(tenant, "a tenant")
    for part in table.split("."):
        check_name(part, "a table")
    return tenant, table
