"""The port for what a dispatcher remembers: one small SQL file, which its parts share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

Row = tuple[Any, ...]


class Transaction(Protocol):
    """Statements of SQLite's SQL, with `?` for values. Only inside of its block."""

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """The rows that it gives."""
        ...

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None: ...

    @property
    def changed(self) -> int:
        """Rows that the last statement changed."""
        ...


class Database(Protocol):
    """MUST: what a block of `transaction` wrote is there whole, and on the disk, once the block has ended; nothing of
    it when it raised, or when the process or the power ended within it. One transaction at a time, of one thread at a
    time. Raises Unavailable (DISK_FULL, DISPATCH_DISK), after which all is as before the block, and Corrupt
    (DISPATCH_DAMAGED).
    """

    def transaction(self) -> AbstractContextManager[Transaction]: ...

    def forget(self) -> None:
        """MUST: when it returns, no file has what was deleted or replaced before. Not within a transaction."""
        ...

    def close(self) -> None: ...
