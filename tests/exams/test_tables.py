"""The exam of the tables, on each implementation; and that what is on disk is a plain Delta table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.memory.tables import MemoryTables, Shelf
from skyriver.data.tables import Tables, TableVersion
from skyriver.data.tables_exam import (
    COMPACTING_CHECKS,
    GROWING_CHECKS,
    NAME,
    REWRITING_CHECKS,
    TABLES_CHECKS,
    Make,
    Open,
    check_tables,
    damaged_rows_are_never_given,
    frame,
)

numbers = itertools.count()


def make_memory() -> Open:
    shelf = Shelf()
    return lambda: MemoryTables(shelf)


@pytest.fixture(params=["memory", "delta"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def make_delta() -> Open:
        root = tmp_path / f"tables-{next(numbers)}"
        return lambda: DeltaTables(root)

    return make_memory if request.param == "memory" else make_delta


@pytest.mark.parametrize("check", TABLES_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


@pytest.mark.parametrize("check", COMPACTING_CHECKS, ids=lambda check: check.__name__)
def test_law_of_compacting(check: Callable[[Any], None], make: Any) -> None:
    check(make)


@pytest.mark.parametrize("check", REWRITING_CHECKS, ids=lambda check: check.__name__)
def test_law_of_rewriting(check: Callable[[Any], None], make: Any) -> None:
    check(make)


@pytest.mark.parametrize("check", GROWING_CHECKS, ids=lambda check: check.__name__)
def test_law_of_growing(check: Callable[[Any], None], make: Any) -> None:
    check(make)


def test_damaged_rows_are_never_given(tmp_path: Path) -> None:
    def damage(name: str, version: int) -> None:
        path = next((tmp_path / name).glob(f"part-{version:010d}-*"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    damaged_rows_are_never_given(lambda: lambda: DeltaTables(tmp_path), damage)


def test_the_exam_finds_tables_that_break_a_law() -> None:
    class Forgetful(MemoryTables):
        def append(self, name: str, frames: Sequence[pl.DataFrame], *, offset: int, known: int | None) -> TableVersion:
            return super().append(name, frames[:1], offset=offset, known=known)

    def careless() -> Open:
        shelf = Shelf()
        return lambda: Forgetful(shelf)

    with pytest.raises(AssertionError, match="broken law: rows are those of the whole version"):
        check_tables(careless)


def test_other_programs_read_the_same_delta_table(tmp_path: Path) -> None:
    tables: Tables = DeltaTables(tmp_path)
    for number in range(103):
        tables.append(NAME, [frame(number, 1)], offset=number * 2, known=None)
    folder = str(tmp_path / NAME)
    table = DeltaTable(folder)
    assert table.version() == 102
    assert table.transaction_version("skyriver") == 204
    assert sorted(path.name for path in (tmp_path / NAME / "_delta_log").glob("*.checkpoint.parquet")) == [
        "00000000000000000050.checkpoint.parquet",
        "00000000000000000100.checkpoint.parquet",
    ]
    assert pl.scan_delta(folder).sort("id").collect().equals(frame(0, 103))
    assert pl.scan_delta(folder, version=7).collect().height == 8
    assert not (tmp_path / NAME / ".checkpoint").exists()
