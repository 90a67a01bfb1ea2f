"""The port for versioned tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
    The first append fixes the schema; a frame with another one is refused (InvalidInput, SCHEMA_MISMATCH). Raises
    NotFound for an unknown table or version, Corrupt when a file is not what was written.
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
        """The rows of a version, in bounded pieces, in the order in which they were appended."""
        ...

    def names(self, tenant: str) -> list[str]: ...
