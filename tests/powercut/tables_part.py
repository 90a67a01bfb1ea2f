"""Tables under power cuts: every version that the store could name is whole."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import polars as pl

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.delta import writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import NotFound


class TablesPart:
    """Version v of a table adds rows that follow from v. The store names a version some time after it was made."""

    name = "tables"
    _TABLES = ("acme/payments", "acme/payments.labels")

    def __init__(self) -> None:
        writing.FILE_ROWS = 40
        writing.CHECKPOINT_EVERY = 4

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        tables = self._open(root)
        for version in range(11):
            for name in self._TABLES:
                self._append(tables, name, version, version - 1 if version else None, say)
            if luck.random() < 0.3:
                tables = self._open(root)

    def check(self, root: Path, told: Told, say: Say) -> None:
        for name in self._TABLES:
            of_table = [words for words in told if words[1] == name]
            done, begun, named = (most(of_table, word, -1) for word in ("appended", "appending", "named"))
            self._look(self._open(root), name, done, begun)
            tables = self._open(root)
            held = -1
            with suppress(NotFound):
                held = tables.latest(name).version
            self._append(tables, name, held + 1, named if named >= 0 else None, say)
            self._look(self._open(root), name, held + 1, held + 1)
            found = pl.scan_delta(str(root / "home" / "tables" / name)).sort("n").collect()
            right(found.equals(_rows(0, held + 2)), f"another reader sees other rows in {name}")

    def _open(self, root: Path) -> DeltaTables:
        return DeltaTables(root / "home" / "tables")

    def _append(self, tables: DeltaTables, name: str, version: int, known: int | None, say: Say) -> None:
        say("appending", name, version)
        rows = _rows(version, version + 1)
        made = tables.append(name, [rows[:30], rows[30:]], offset=version * 10, known=known)
        right(made.version == version, f"version {version} of {name} became {made.version}")
        say("appended", name, version)
        say("named", name, version)

    def _look(self, tables: DeltaTables, name: str, done: int, begun: int) -> None:
        try:
            latest = tables.latest(name).version
        except NotFound:
            latest = -1
        need(latest >= done, f"version {done} of {name} was made, the newest is {latest}")
        right(latest <= begun, f"version {latest} of {name} was never made")
        right((name in tables.names("acme")) == (latest >= 0), f"{name} is not listed rightly")
        for version in range(latest + 1):
            rows = _rows(0, version + 1)
            seen = tables.describe(name, version)
            right((seen.rows, seen.offset) == (len(rows), version * 10), f"{name}@{version} is described wrongly")
            right(pl.concat(list(tables.scan(name, version))).equals(rows), f"{name}@{version} has other rows")


def _rows(first: int, end: int) -> pl.DataFrame:
    """Of versions first .. end - 1; every fourth version has none."""
    numbers = [v * 1000 + n for v in range(first, end) for n in range(0 if v % 4 == 3 else 50 + v * 13 % 60)]
    return pl.DataFrame(
        {"n": numbers, "text": [f"n{n}" if n % 5 else None for n in numbers]},
        schema={"n": pl.Int64(), "text": pl.String()},
    )
