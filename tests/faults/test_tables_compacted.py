"""Putting small files together, with its writer killed at any moment, damage beneath it, and old readers about."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from forked import forking
from hypothesis import given
from hypothesis import strategies as st

from skyriver.adapters.delta import compacting, writing
from skyriver.adapters.delta.ledger import DataFile, commit_path, read_ledger, versions
from skyriver.adapters.delta.past import read_past
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import Corrupt, NotFound, Unavailable
from skyriver.data.tables_exam import NAME, frame, nobody, read

EVERY = 6
LOADED = ("skyriver.adapters.delta.compacting", "skyriver.adapters.delta.tables", "skyriver.data.tables_exam")

CHILD = """
import os, signal, sys, time
from pathlib import Path
from skyriver.adapters.delta import compacting, past, writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.data.tables_exam import NAME, frame

root, kill_at, kept = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
compacting.EVERY, compacting.KEPT_SECONDS, compacting.TARGET_ROWS = 6, kept, 12
step = 0

def counted(inner):
    def run(*given, **named):
        global step
        for _ in range(2):  # before and after
            step += 1
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if _ == 0:
                result = inner(*given, **named)
        return result
    return run

for place, names in ((os, ("fsync", "link", "unlink")), (Path, ("unlink", "replace", "open", "stat")),
                     (compacting, ("_merge",)), (writing, ("checkpoint",))):
    for name in names:
        setattr(place, name, counted(getattr(place, name)))
if len(sys.argv) > 4:
    from skyriver.data.tables_exam import nobody
    DeltaTables(Path(root)).rewrite(NAME, nobody, known=None)
else:
    DeltaTables(Path(root)).compact(NAME, known=None)
os._exit(7)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "EVERY", EVERY)
    monkeypatch.setattr(compacting, "TARGET_ROWS", 12)


def filled(root: Path, rows: int) -> DeltaTables:
    """A row a version."""
    tables = DeltaTables(root)
    for number in range(rows):
        tables.append(NAME, [frame(number, 1)], offset=number, known=None)
    return tables


def assert_sound(root: Path, rows: int) -> None:
    """All is there, once, for us and for others, and nothing else is."""
    reader, table = DeltaTables(root), root / NAME
    last = reader.latest(NAME)
    assert (last.rows, last.offset) == (rows, rows - 1)
    assert read(reader, last.version).equals(frame(0, rows))
    assert pl.scan_delta(str(table)).sort("id").collect().equals(frame(0, rows))
    for version in range(last.version):
        seen = reader.describe(NAME, version)
        assert seen.rows == seen.offset + 1
        assert read(reader, version).equals(frame(0, seen.rows))
    assert DeltaTable(str(table)).transaction_version("skyriver") == rows - 1


def assert_no_leftovers(root: Path) -> None:
    table = root / NAME
    ledgers = [read_ledger(table, version) for version in versions(table) if version >= read_past(table).end]
    named = {file.path for ledger in ledgers for file in (*ledger.files, *ledger.whole)}
    assert {path.name for path in table.glob("*.parquet")} == named
    assert list((table / "_delta_log").glob("*.tmp")) == []
    assert not (table / ".checkpoint").exists()


def test_files_become_few_and_old_ones_go_after_their_time(tmp_path: Path) -> None:
    tables, table = filled(tmp_path, 40), tmp_path / NAME
    assert len(list(table.glob("part-*"))) == 40
    made = tables.compact(NAME, known=39)
    assert made.version == 40
    assert len(list(table.glob("part-*"))) == 44, "the old ones are there for readers that are at it"
    assert len(DeltaTable(str(table)).file_uris()) == 4, "40 rows in files of 12 at most"
    assert_sound(tmp_path, 40)
    os.utime(commit_path(table, 40), (time.time() - compacting.KEPT_SECONDS - 60,) * 2)
    assert tables.compact(NAME, known=40) == made
    assert len(list(table.glob("part-*"))) == 4
    assert versions(table) == [40]
    assert read_past(table).end == 40
    assert_sound(tmp_path, 40)
    assert_no_leftovers(tmp_path)
    tables.append(NAME, [frame(40, 1)], offset=40, known=40)
    assert_sound(tmp_path, 41)
    with pytest.raises(NotFound):
        tables.describe(NAME, 42)


def test_a_table_of_the_release_before_is_put_together_too(tmp_path: Path) -> None:
    """Its ledgers know nothing of bases; their digests stay what they were."""
    filled(tmp_path, 3)
    for version in range(3):
        keys = set(read_ledger(tmp_path / NAME, version).body())
        assert keys == {"version", "offset", "rows", "bytes", "schema", "files", "previous"}


@pytest.mark.parametrize("kept", [1e9, -1.0], ids=["old files stay", "old files go"])
def test_a_compaction_killed_anywhere(kept: float, tmp_path: Path) -> None:
    """At a sample of the steps that touch the disk, before and after each."""
    before = tmp_path / "before"
    tables = filled(before, 8)
    first = tables.compact(NAME, known=7)
    for number in range(8, 15):
        tables.append(NAME, [frame(number, 1)], offset=number, known=first.version)
    ended = killed = 0
    for at in itertools.count(1, 11 if kept > 0 else 37):  # of some 200 or 550 steps
        root = tmp_path / str(at)
        shutil.copytree(before, root)
        code, errors = forking(*LOADED).run(CHILD, str(root), str(at), str(kept))
        assert code in (-signal.SIGKILL, 7), errors
        killed += code == -signal.SIGKILL
        ended += code == 7
        assert_sound(root, 15)
        writer = DeltaTables(root)
        writer.append(NAME, [frame(15, 1)], offset=15, known=None)
        assert_sound(root, 16)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compacting, "KEPT_SECONDS", kept)
            writer.compact(NAME, known=None)
        assert_sound(root, 16)
        if kept < 0:
            assert_no_leftovers(root)
        shutil.rmtree(root)
        if ended:
            break
    assert killed >= 10


def test_a_damaged_file_is_not_put_together(tmp_path: Path) -> None:
    tables = filled(tmp_path, 8)
    path = tmp_path / NAME / read_ledger(tmp_path / NAME, 3).files[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt) as caught:
        tables.compact(NAME, known=7)
    assert path.name in str(caught.value)
    assert tables.latest(NAME).version == 7
    assert path.exists()


def test_no_flipped_bit_of_what_was_is_believed(tmp_path: Path) -> None:
    tables = filled(tmp_path, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "KEPT_SECONDS", -1.0)
        tables.compact(NAME, known=7)
    path = tmp_path / NAME / ".versions"
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            DeltaTables(tmp_path).describe(NAME, 2)
        with pytest.raises(Corrupt):
            DeltaTables(tmp_path).append(NAME, [frame(8, 1)], offset=8, known=8)
    path.write_bytes(whole)
    assert_sound(tmp_path, 8)


sizes = st.lists(st.tuples(st.integers(1, 2_000_000), st.integers(1, 200 << 20)), max_size=60)


@given(sizes)
def test_runs_are_in_order_bounded_and_worth_it(found: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "TARGET_ROWS", 1 << 20)
        files = [DataFile(str(n), size, rows, "") for n, (rows, size) in enumerate(found)]
        last = 0
        for first, end in compacting.runs(files):
            assert last <= first < end - 1 < len(files)
            last = end
            assert sum(f.rows for f in files[first:end]) <= 1 << 20
            assert sum(f.bytes for f in files[first:end]) <= 128 << 20


def test_a_row_is_written_again_a_few_times_in_its_life() -> None:
    """A commit of 10 rows a minute for two months."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "TARGET_ROWS", 1 << 20)
        files: list[DataFile] = []
        written = most = 0
        for minute in range(1, 60 * 24 * 60 + 1):
            files.append(DataFile("", 1_000, 10, ""))
            if minute % 50 == 0:
                for first, end in reversed(compacting.runs(files)):
                    rows = sum(f.rows for f in files[first:end])
                    files[first:end] = [DataFile("", 20 * rows, rows, "")]
                    written += rows
                most = max(most, len(files))
    rows = 10 * 60 * 24 * 60
    assert most < 20
    assert written < 12 * rows
    assert writing.FILE_ROWS == 1 << 20


def test_a_rewriting_killed_anywhere(tmp_path: Path) -> None:
    """All rows have their values of before, or all have the new ones; done again, nothing of before is left."""
    before = tmp_path / "before"
    filled(before, 8)
    new = nobody(frame(0, 8))
    assert new is not None
    killed = 0
    for at in itertools.count(1, 23):
        root = tmp_path / str(at)
        shutil.copytree(before, root)
        code, errors = forking(*LOADED).run(CHILD, str(root), str(at), "1e9", "rewrite")
        assert code in (-signal.SIGKILL, 7), errors
        killed += code == -signal.SIGKILL
        reader = DeltaTables(root)
        found = read(reader, reader.latest(NAME).version)
        assert found.equals(frame(0, 8)) or found.equals(new)
        for version in range(8):
            assert read(reader, version).equals(found.head(version + 1))
        last = DeltaTables(root).rewrite(NAME, nobody, known=None)
        assert read(reader, last.version).equals(new)
        assert pl.scan_delta(str(root / NAME)).collect().sort("id").equals(new.sort("id"))
        assert_no_leftovers(root)
        rows = pl.concat([pl.read_parquet(path) for path in (root / NAME).rglob("part-*.parquet")])
        assert not set(rows["note"].drop_nulls()) & {text for n, text in enumerate(frame(0, 8)["note"]) if n % 3 == 0}
        shutil.rmtree(root)
        if code == 7:
            break
    assert killed >= 4


def test_who_reads_what_is_rewritten_is_told_to_read_again(tmp_path: Path) -> None:
    tables = filled(tmp_path, 8)
    reader = DeltaTables(tmp_path)
    pieces = reader.scan(NAME, 7)
    next(pieces)
    tables.rewrite(NAME, nobody, known=7)
    with pytest.raises(Unavailable) as told:
        list(pieces)
    assert told.value.code == "TABLE_REWRITTEN"
    assert told.value.next_action
    assert len(read(reader, 7)) == 8
