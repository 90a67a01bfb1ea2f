"""Rows of Parquet files and Delta tables: the values, the memory, and what is wrong with a file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput, NotFound, SkyriverError
from skyriver.train.feed import files
from skyriver.train.feed.files import FileRows
from skyriver.train.feed.footer import NoFooter, read_footer


def frame(rows: int, first: int = 0) -> pl.DataFrame:
    number = np.arange(first, first + rows)
    return pl.DataFrame({"a": number.astype(np.float64), "b": -number, "label": number % 2 == 1, "w": 1.0 + number % 3})


def write(folder: Path, rows: int = 1000, files: int = 3, group: int = 100) -> None:
    for n in range(files):
        frame(rows, n * rows).write_parquet(folder / f"part-{n}.parquet", row_group_size=group)


def taken(found: FileRows, batch: int = 64, epochs: int = 1) -> list[tuple[Any, ...]]:
    order = found.order(batch, epochs, 7)
    reader = found.reader(order)
    try:
        return [found.parts(reader.take(step, slice(0, order.count(step)))) for step in range(order.steps)]
    finally:
        reader.close()


def test_all_rows_come_once_with_what_belongs_to_them(tmp_path: Path) -> None:
    write(tmp_path)
    found = sr.rows(str(tmp_path / "*.parquet"), x=["a", "b"], y="label", weight="w")
    x, y, w = (np.concatenate(part) for part in zip(*taken(found), strict=True))
    assert (len(found), x.dtype, x.shape, y.shape, w.shape) == (3000, np.float32, (3000, 2), (3000,), (3000,))
    assert np.array_equal(np.sort(x[:, 0]), np.arange(3000))
    assert not np.array_equal(x[:, 0], np.arange(3000))
    assert np.array_equal(x[:, 1], -x[:, 0])
    assert np.array_equal(y, x[:, 0] % 2)
    assert np.array_equal(w, 1 + x[:, 0] % 3)


def test_batches_for_whoever_has_no_ctx(tmp_path: Path) -> None:
    write(tmp_path, files=1)
    found = sr.rows(tmp_path, x=["a"], y="label")
    plain = list(found.batches(64, epochs=2, seed=7))
    assert len(plain) == 32
    for (x, y), (same_x, same_y) in zip(plain[:16], taken(found), strict=True):
        assert np.array_equal(x, same_x)
        assert np.array_equal(y, same_y)
    noisy = list(found.batches(64, epochs=2, seed=7, augment=[sr.Noise(std=0.1)]))
    off = [x - px for (x, _), (px, _) in zip(noisy, plain, strict=True)]
    assert 0.09 < np.concatenate(off).std() < 0.11


def test_x_alone_of_a_folder_and_of_a_list(tmp_path: Path) -> None:
    write(tmp_path)
    of_folder = sr.rows(tmp_path, x=["a"])
    of_list = sr.rows([tmp_path / "part-0.parquet", str(tmp_path / "part-[12].parquet")], x=["a"])
    for left, right in zip(taken(of_folder), taken(of_list), strict=True):
        assert len(left) == 1
        assert np.array_equal(left[0], right[0])
    assert of_folder.identity == of_list.identity


def test_blocks_are_row_groups_put_together_or_cut(tmp_path: Path) -> None:
    for group in (500, 60_000, 500_000):
        frame(200_000).write_parquet(tmp_path / "a.parquet", row_group_size=group)
        blocks = sr.rows(tmp_path / "a.parquet", x=["a"]).order(64, 1, 0).blocks
        assert sum(blocks) == 200_000
        assert len(blocks) == 4
        assert max(blocks) <= 65_536


def test_footers_of_files_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame(0).write_parquet(path)
    assert read_footer(path).groups == ()
    wide = pl.DataFrame({f"c{n}": ["x" * n, None, "z"] for n in range(40)}).with_columns(l=[[1], [], None])
    wide.write_parquet(path, row_group_size=2, compression="snappy")
    assert read_footer(path).groups == (2, 1)
    digest = read_footer(path).digest
    wide.with_columns(c3=pl.lit("y")).write_parquet(path, row_group_size=2, compression="snappy")
    assert read_footer(path).digest != digest


def test_a_footer_that_is_no_footer(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame(100).write_parquet(path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    for at in range(len(whole) - 8 - length, len(whole)):  # any byte of it
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(NoFooter):
            assert sum(read_footer(path).groups) >= 0


def test_memory_is_that_of_two_windows_and_not_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, block, window = 160_000, 1_000, 8
    monkeypatch.setattr(files, "BLOCK_ROWS", block)
    frame(rows).write_parquet(tmp_path / "a.parquet", row_group_size=block)
    found = sr.rows(tmp_path / "a.parquet", x=["a", "b"], y="label", window=window)
    order = found.order(256, 1, 7)
    assert len(order.blocks) == 160
    reader = found.reader(order)
    tracemalloc.start()  # of NumPy's arrays
    for step in range(order.steps):
        reader.take(step, slice(0, order.count(step)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    reader.close()
    assert reader.peak_rows <= (2 * window + 1) * block
    assert peak < 2 * (2 * window + 3) * block * 3 * 4 < rows * 3 * 4 / 4


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"x": ["a", "c"]}, "MISSING_COLUMN"),
        ({"x": ["a", "text"]}, "WRONG_COLUMN_TYPE"),
        ({"x": []}, "BAD_DATASET"),
        ({"x": "a"}, "BAD_DATASET"),
        ({"x": ["a", "label"], "y": "label"}, "BAD_DATASET"),
        ({"x": ["a"], "weight": "w"}, "BAD_DATASET"),
        ({"x": ["a"], "window": 0}, "BAD_DATASET"),
        ({"x": ["a"], "version": 3}, "BAD_DATASET"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_asked_for_wrongly(tmp_path: Path, given: dict[str, Any], code: str) -> None:
    frame(10).with_columns(text=pl.lit("x")).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InvalidInput) as refused:
        sr.rows(tmp_path / "a.parquet", **given)
    assert refused.value.code == code


def test_no_file_none_with_rows_and_one_that_is_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        sr.rows(tmp_path / "*.parquet", x=["a"])
    with pytest.raises(InvalidInput, match="not on this machine"):
        sr.rows("s3://bucket/a.parquet", x=["a"])
    frame(0).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InvalidInput) as refused:
        sr.rows(tmp_path, x=["a"])
    assert refused.value.code == "EMPTY_FILE"


def refused_at(found: FileRows) -> SkyriverError:
    with pytest.raises(SkyriverError) as refused:
        taken(found)
    return refused.value


@pytest.mark.parametrize("left", [0.0, 0.3, 0.99], ids=["nothing", "a third", "almost all"])
def test_a_file_that_was_cut_short(tmp_path: Path, left: float) -> None:
    write(tmp_path, files=2)
    path = tmp_path / "part-1.parquet"
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(InvalidInput, match=r"part-1\.parquet cannot be read") as refused:
        sr.rows(tmp_path, x=["a"])
    assert refused.value.code == "UNREADABLE_FILE"


def test_a_file_that_is_damaged_inside(tmp_path: Path) -> None:
    write(tmp_path, files=1)
    path = tmp_path / "part-0.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:200] + b"\xff" * 2000 + data[2200:])
    assert refused_at(sr.rows(tmp_path, x=["a"])).code == "UNREADABLE_FILE"


SHORT_OF_MEMORY = """
import resource, sys
import skyriver as sr
from skyriver.core.errors import SkyriverError

found = sr.rows(sys.argv[1], x=["a"])
next(sr.rows(sys.argv[2], x=["a"]).batches(8))  # what reads has its threads
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 10_000_000, held + 10_000_000))
try:
    next(found.batches(8))
except SkyriverError as error:
    print(error.code, error.next_action)
"""


def test_memory_that_is_short_is_not_taken_for_a_bad_file(tmp_path: Path) -> None:
    write(tmp_path, files=1)
    numbers = np.random.default_rng(0).normal(size=4_000_000)
    pl.DataFrame({"a": numbers}).write_parquet(tmp_path / "large.parquet")
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path / "large.parquet"), str(tmp_path / "part-0.parquet")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith("OUT_OF_MEMORY")
    assert "window=" in told


def test_a_file_that_is_changed_or_gone_between_two_epochs(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "part-1.parquet"
    found = sr.rows(tmp_path, x=["a"])
    identity = found.identity
    seen = path.stat()
    frame(1000, 5000).write_parquet(path, row_group_size=100)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    changed = refused_at(found)
    assert (type(changed), changed.code) == (Conflict, "FILE_CHANGED")
    assert sr.rows(tmp_path, x=["a"]).identity != identity
    found = sr.rows(tmp_path, x=["a"])
    path.unlink()
    assert refused_at(found).code == "UNREADABLE_FILE"


def test_values_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    def holding(column: str, value: float | None, **given: Any) -> FileRows:
        known = frame(50).cast({"label": pl.Float64})
        known.with_columns(pl.when(pl.int_range(50) == 33).then(value).otherwise(column).alias(column)).write_parquet(
            path
        )
        return sr.rows(path, x=["a", "b"], y="label", **given)

    for value in (None, float("nan")):
        refused = refused_at(holding("b", value))
        assert refused.code == "MISSING_VALUE"
        assert "Row 34 of a.parquet has no value in 'b'" in refused.message
        assert refused_at(holding("label", value, missing=True)).code == "MISSING_VALUE"
        x, _ = (np.concatenate(part) for part in zip(*taken(holding("b", value, missing=True)), strict=True))
        assert np.isnan(x).sum() == 1
        assert np.isnan(x[x[:, 0] == 33, 1])
    for value in (float("inf"), 1e300):
        assert refused_at(holding("a", value, missing=True)).code == "NOT_FINITE"


def test_a_delta_table_at_a_version_whose_columns_grew(tmp_path: Path) -> None:
    import deltalake

    table = tmp_path / "table"
    deltalake.write_deltalake(table, frame(300).drop("w"))
    deltalake.write_deltalake(table, frame(200, 300), mode="append", schema_mode="merge")
    assert len(sr.rows(table, x=["a"], version=0)) == 300
    assert len(sr.rows(str(table), x=["a"])) == 500
    found = sr.rows(table, x=["a", "w"], y="label", missing=True)
    x, y = (np.concatenate(part) for part in zip(*taken(found), strict=True))
    assert len(found) == 500
    assert np.array_equal(np.isnan(x[:, 1]), x[:, 0] < 300)
    assert np.array_equal(y, x[:, 0] % 2)
    with pytest.raises(NotFound):
        sr.rows(table, x=["a"], version=9)


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_a_delta_table_has_the_columns_of_its_own_version_alone(tmp_path: Path, missing: bool) -> None:
    import deltalake

    table = tmp_path / "table"
    deltalake.write_deltalake(table, frame(300).drop("w"), partition_by=["label"])
    deltalake.write_deltalake(table, frame(200, 300), mode="append", schema_mode="merge")

    def refused(x: list[str], **given: Any) -> InvalidInput:
        with pytest.raises(InvalidInput) as refused:
            sr.rows(table, x=x, missing=missing, **given)
        return refused.value

    misspelt = refused(["a", "bb"])
    assert (misspelt.code, "did you mean 'b'?" in misspelt.message) == ("MISSING_COLUMN", True)
    assert refused(["a", "w"], version=0).code == "MISSING_COLUMN"
    for partition in (refused(["a", "label"]), refused(["a"], y="label")):
        assert (partition.code, "is partitioned by 'label'" in partition.message) == ("BAD_DATASET", True)
    assert len(sr.rows(table, x=["a", "b"], missing=missing)) == 500


def test_a_delta_table_with_column_mapping_is_refused(tmp_path: Path) -> None:
    import deltalake

    table = tmp_path / "table"
    deltalake.write_deltalake(table, frame(30))
    log = table / "_delta_log" / "00000000000000000000.json"
    mapped = log.read_text().replace('"configuration":{', '"configuration":{"delta.columnMapping.mode":"name"')
    assert mapped != log.read_text()
    log.write_text(mapped)
    with pytest.raises(InvalidInput, match="column mapping") as refused:
        sr.rows(table, x=["a"], missing=True)
    assert refused.value.code == "BAD_DATASET"


def test_a_table_of_the_cloud(tmp_path: Path) -> None:
    from skyriver.adapters.delta.tables import DeltaTables

    tables = DeltaTables(tmp_path)
    tables.append("shop/sales", [frame(300)], offset=1, known=None)
    tables.append("shop/sales", [frame(200, 300)], offset=2, known=0)
    (x,) = (np.concatenate(part) for part in zip(*taken(sr.rows(tmp_path / "shop" / "sales", x=["a"])), strict=True))
    assert np.array_equal(np.sort(x[:, 0]), np.arange(500))
