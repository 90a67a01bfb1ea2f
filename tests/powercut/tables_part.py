"""Tables under power cuts: every version that the store could name is whole."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import polars as pl

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.delta import compacting, writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import NotFound
from skyriver.data.tables import TableVersion


class TablesPart:
    """Append n of a table, at offset 10 n, adds rows that follow from n; now and then a version puts files together and
    removes old ones. The store names a version some time after it was made."""

    name = "tables"
    _TABLES = ("acme/payments", "acme/payments.labels")

    def __init__(self) -> None:
        writing.FILE_ROWS = 40
        writing.CHECKPOINT_EVERY = 4
        compacting.EVERY = 3
        compacting.TARGET_ROWS = 150
        compacting.KEPT_SECONDS = -1.0

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        tables = self._open(root)
        named: dict[str, int | None] = dict.fromkeys(self._TABLES)
        for number in range(11):
            for name in self._TABLES:
                named[name] = self._append(tables, name, number, named[name], say)
            if luck.random() < 0.3:
                tables = self._open(root)

    def check(self, root: Path, told: Told, say: Say) -> None:
        for name in self._TABLES:
            of_table = [words for words in told if words[1] == name]
            done, begun, named = (most(of_table, word, -1) for word in ("appended", "appending", "named"))
            self._look(self._open(root), name, done, begun, named)
            tables = self._open(root)
            held = -1
            with suppress(NotFound):
                held = tables.latest(name).offset // 10
            self._append(tables, name, held + 1, named if named >= 0 else None, say)
            self._look(self._open(root), name, held + 1, held + 1, named)
            found = pl.scan_delta(str(root / "home" / "tables" / name)).sort("n").collect()
            right(found.equals(_rows(0, held + 2)), f"another reader sees other rows in {name}")

    def _open(self, root: Path) -> DeltaTables:
        return DeltaTables(root / "home" / "tables")

    def _append(self, tables: DeltaTables, name: str, number: int, known: int | None, say: Say) -> int:
        say("appending", name, number)
        rows = _rows(number, number + 1)
        made = tables.append(name, [rows[:30], rows[30:]], offset=number * 10, known=known)
        right(made.offset == number * 10, f"append {number} of {name} came to the offset {made.offset}")
        say("appended", name, number)
        say("named", name, made.version)
        made = tables.compact(name, known=made.version)
        say("named", name, made.version)
        return made.version

    def _look(self, tables: DeltaTables, name: str, done: int, begun: int, named: int) -> None:
        try:
            latest = tables.latest(name)
        except NotFound:
            latest = TableVersion(-1, 0, 0, -10)
        held = latest.offset // 10
        need(held >= done, f"append {done} of {name} was done, the newest is {held}")
        need(latest.version >= named, f"version {named} of {name} was made, the newest is {latest.version}")
        right(held <= begun, f"append {held} of {name} was never made")
        right((name in tables.names("acme")) == (held >= 0), f"{name} is not listed rightly")
        for version in range(latest.version + 1):
            seen = tables.describe(name, version)
            rows = _rows(0, seen.offset // 10 + 1)
            right(seen.rows == len(rows) and seen.offset <= latest.offset, f"{name}@{version} is described wrongly")
            right(pl.concat(list(tables.scan(name, version))).equals(rows), f"{name}@{version} has other rows")


def _rows(first: int, end: int) -> pl.DataFrame:
    """Of versions first .. end - 1; every fourth version has none."""
    numbers = [v * 1000 + n for v in range(first, end) for n in range(0 if v % 4 == 3 else 50 + v * 13 % 60)]
    return pl.DataFrame(
        {"n": numbers, "text": [f"n{n}" if n % 5 else None for n in numbers]},
        schema={"n": pl.Int64(), "text": pl.String()},
    )
