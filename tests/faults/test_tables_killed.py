"""A writer of a table dies at any moment: what append had returned is intact, and nothing torn is ever served."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from forked import forking

from skyriver.adapters.delta import writing
from skyriver.adapters.delta.ledger import commit_path, read_ledger
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import Conflict, Corrupt, NotFound, Unavailable
from skyriver.data.tables_exam import MORE, NAME, SCHEMA, frame, read

DEADLINE_S = 60

CHILD = """
import os, signal, sys
from pathlib import Path
from skyriver.adapters.delta import tables, writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.data.tables_exam import NAME, frame

root, point, when, count, start, offset, known = sys.argv[1:]
left = int(count)
place = tables if point == "make_folder" else writing
inner = getattr(place, point)

def dying(*arguments):
    global left
    left -= 1
    if not left and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = inner(*arguments)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(place, point, dying)
writing.FILE_ROWS = 5
writing.CHECKPOINT_EVERY = 3
DeltaTables(Path(root)).append(NAME, [frame(int(start), 10)], offset=int(offset), known=int(known) if known else None)
"""

LOADED = ("skyriver.adapters.delta.tables", "skyriver.data.tables_exam")
POINTS = [
    ("make_folder", "after", 1),
    ("write_file", "before", 1),
    ("write_file", "after", 1),
    ("write_file", "after", 2),
    ("commit", "before", 1),
    ("commit", "after", 1),
    ("sync_commit", "after", 1),
    ("checkpoint", "before", 1),
    ("sync_folder", "after", 4),
    ("sync_folder", "after", 5),
    ("checkpoint", "after", 1),
]


def die_in_append(root: Path, point: tuple[str, str, int], start: int, offset: int, known: int | None) -> None:
    name, when, count = point
    arguments = [str(root), name, when, str(count), str(start), str(offset), "" if known is None else str(known)]
    code, errors = forking(*LOADED).run(CHILD, *arguments)
    assert code == -signal.SIGKILL, f"the child ended with {code}: {errors}"


def three_versions(root: Path) -> DeltaTables:
    tables = DeltaTables(root)
    for number in range(3):
        tables.append(NAME, [frame(number * 10, 10)], offset=number, known=None)
    return tables


def assert_no_leftovers(root: Path) -> None:
    table = root / NAME
    newest = DeltaTables(root).latest(NAME).version
    named = {file.path for version in range(newest + 1) for file in read_ledger(table, version).files}
    assert {path.name for path in table.glob("*.parquet")} == named
    assert list((table / "_delta_log").glob("*.tmp")) == []
    assert not (table / ".checkpoint").exists()


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p[1]}-{p[0]}-{p[2]}")
def test_a_writer_killed_anywhere(point: tuple[str, str, int], tmp_path: Path) -> None:
    three_versions(tmp_path)
    die_in_append(tmp_path, point, start=30, offset=3, known=2)

    # 1. a reader that comes first sees the version before, or the whole new one
    reader = DeltaTables(tmp_path)
    seen = reader.latest(NAME)
    assert seen.version in (2, 3)
    assert read(reader, seen.version).equals(frame(0, 10 * (seen.version + 1)))
    # 2. the next writer repeats the work: it is there once, and what the dead one left is gone
    writer = DeltaTables(tmp_path)
    version = writer.append(NAME, [frame(30, 10)], offset=3, known=2)
    assert (version.version, version.rows, version.offset) == (3, 40, 3)
    version = writer.append(NAME, [frame(40, 10)], offset=4, known=None)
    assert version.version == 4
    assert read(DeltaTables(tmp_path), 4).equals(frame(0, 50))
    assert read(DeltaTables(tmp_path), 2).equals(frame(0, 30))
    assert_no_leftovers(tmp_path)
    assert pl.scan_delta(str(tmp_path / NAME)).sort("id").collect().equals(frame(0, 50))


@pytest.mark.parametrize("point", [("make_folder", "after", 1), ("write_file", "after", 2), ("commit", "after", 1)])
def test_the_first_writer_of_a_table_killed(point: tuple[str, str, int], tmp_path: Path) -> None:
    die_in_append(tmp_path, point, start=0, offset=0, known=None)
    if point[0] != "commit":
        with pytest.raises(NotFound):
            DeltaTables(tmp_path).latest(NAME)
        assert DeltaTables(tmp_path).names("acme") == []
    version = DeltaTables(tmp_path).append(NAME, [frame(0, 10)], offset=0, known=None)
    assert (version.version, version.rows) == (0, 10)
    assert read(DeltaTables(tmp_path), 0).equals(frame(0, 10))
    assert_no_leftovers(tmp_path)


def commit_file(table: Path) -> Path:
    return commit_path(table, 3)


def data_file(table: Path) -> Path:
    return table / read_ledger(table, 3).files[0].path


def cut(path: Path, length: int) -> None:
    os.truncate(path, length if length >= 0 else path.stat().st_size + length)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)


Tear = Callable[[Path], None]
TORN: dict[str, Tear] = {
    "commit is empty": lambda table: cut(commit_file(table), 0),
    "commit is cut in its first line": lambda table: cut(commit_file(table), 100),
    "commit is cut after its first line": lambda table: cut(
        commit_file(table), commit_file(table).read_bytes().index(b"\n") + 1
    ),
    "commit lacks its last byte but one": lambda table: cut(commit_file(table), -3),
    "commit is of zeros": lambda table: commit_file(table).write_bytes(b"\0" * 500) and None,
    "data file is gone": lambda table: data_file(table).unlink(),
    "data file is empty": lambda table: cut(data_file(table), 0),
    "data file is cut": lambda table: cut(data_file(table), -1),
}


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_commit_is_passed_over_and_taken_back(torn: str, tmp_path: Path) -> None:
    three_versions(tmp_path)
    DeltaTables(tmp_path).append(NAME, [frame(30, 10)], offset=3, known=2)
    TORN[torn](tmp_path / NAME)
    reader = DeltaTables(tmp_path)
    assert reader.latest(NAME).version == 2
    with pytest.raises(Corrupt):
        list(reader.scan(NAME, 3))
    version = DeltaTables(tmp_path).append(NAME, [frame(70, 10)], offset=3, known=2)
    assert (version.version, version.rows) == (3, 40)
    assert read(reader, 3).equals(pl.concat([frame(0, 30), frame(70, 10)]))
    assert_no_leftovers(tmp_path)


def test_a_data_file_of_other_bytes_is_found_before_it_is_adopted(tmp_path: Path) -> None:
    three_versions(tmp_path)
    DeltaTables(tmp_path).append(NAME, [frame(30, 10)], offset=3, known=2)
    flip(data_file(tmp_path / NAME), 77)
    version = DeltaTables(tmp_path).append(NAME, [frame(70, 10)], offset=3, known=2)
    assert read(DeltaTables(tmp_path), version.version).equals(pl.concat([frame(0, 30), frame(70, 10)]))


@pytest.mark.parametrize("torn", TORN)
def test_what_is_known_is_never_taken_back(torn: str, tmp_path: Path) -> None:
    writer = three_versions(tmp_path)
    writer.append(NAME, [frame(30, 10)], offset=3, known=2)
    TORN[torn](tmp_path / NAME)
    before = sorted(path.name for path in (tmp_path / NAME).rglob("*"))
    with pytest.raises(Corrupt):  # the control plane has recorded it
        DeltaTables(tmp_path).append(NAME, [frame(40, 10)], offset=4, known=3)
    with pytest.raises(Corrupt):  # this writer wrote it
        writer.append(NAME, [frame(40, 10)], offset=4, known=2)
    assert sorted(path.name for path in (tmp_path / NAME).rglob("*")) == before


def test_damage_below_the_newest_version_is_reported_not_repaired(tmp_path: Path) -> None:
    three_versions(tmp_path)
    cut(commit_path(tmp_path / NAME, 1), 0)
    with pytest.raises(Corrupt) as caught:
        DeltaTables(tmp_path).append(NAME, [frame(30, 10)], offset=3, known=None)
    assert caught.value.where == f"{NAME}@1"
    commit_path(tmp_path / NAME, 1).unlink()
    with pytest.raises(Corrupt):
        DeltaTables(tmp_path).append(NAME, [frame(30, 10)], offset=3, known=None)
    with pytest.raises((Corrupt, NotFound)):
        list(DeltaTables(tmp_path).scan(NAME, 2))


def test_no_flipped_bit_of_a_commit_goes_unnoticed(tmp_path: Path) -> None:
    """Either the version is refused, or what it says is what was written."""
    three_versions(tmp_path)
    path = commit_path(tmp_path / NAME, 1)
    whole = path.read_bytes()
    expected = DeltaTables(tmp_path).describe(NAME, 1)
    refused = 0
    for place in range(0, len(whole), 7):
        flip(path, place)
        try:
            assert DeltaTables(tmp_path).describe(NAME, 1) == expected
            assert read(DeltaTables(tmp_path), 1).equals(frame(0, 20))
        except Corrupt:
            refused += 1
        path.write_bytes(whole)
    assert refused > len(whole) // 7 // 2


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = three_versions(tmp_path)
    sync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable) as caught:
        tables.append(NAME, [frame(30, 10)], offset=3, known=2)
    assert caught.value.code == "DISK_FULL"
    monkeypatch.setattr(os, "fsync", sync)
    assert tables.latest(NAME).version == 2
    assert tables.append(NAME, [frame(30, 10)], offset=3, known=2).version == 3
    assert read(tables, 3).equals(frame(0, 40))
    assert_no_leftovers(tmp_path)


def test_everything_is_synced_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = three_versions(tmp_path)
    done: list[str] = []
    sync, commit = os.fsync, writing.commit

    def recorded_sync(descriptor: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(f"{tmp_path}/"))
        sync(descriptor)

    def recorded_commit(table: Path, ledger: object) -> None:
        done.append("commit")
        commit(table, ledger)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(writing, "commit", recorded_commit)
    monkeypatch.setattr(writing, "FILE_ROWS", 5)
    tables.append(NAME, [frame(30, 10)], offset=3, known=2)
    assert done == [
        str(Path(NAME).parent),
        f"{NAME}/part-0000000003-00000.parquet",
        f"{NAME}/part-0000000003-00001.parquet",
        NAME,
        "commit",
        f"{NAME}/_delta_log/{3:020d}.json",
        f"{NAME}/_delta_log",
        NAME,
    ]


def test_a_stopped_writer_keeps_its_table(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from skyriver.adapters.delta import writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.data.tables_exam import NAME, frame
def stopping(*arguments):
    print("stopped", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
writing.commit = stopping
DeltaTables(Path(sys.argv[1])).append(NAME, [frame(0, 10)], offset=0, known=None)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stopped\n"
        try:
            with pytest.raises(Conflict) as caught:
                DeltaTables(tmp_path).append(NAME, [frame(0, 10)], offset=0, known=None)
            assert caught.value.code == "TABLE_BUSY"
        finally:
            child.kill()
        child.wait(timeout=DEADLINE_S)
    assert DeltaTables(tmp_path).append(NAME, [frame(0, 10)], offset=0, known=None).rows == 10


WIDENING = """
import os, signal, sys
from pathlib import Path
from skyriver.adapters.delta import writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.data.tables_exam import MORE, NAME

root, point, when = sys.argv[1:]
inner = getattr(writing, point)

def dying(*arguments):
    if when == "after":
        inner(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(writing, point, dying)
DeltaTables(Path(root)).widen(NAME, MORE, known=0)
"""


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("point", [("widen", "before"), ("sync_commit", "before"), ("sync_commit", "after")])
def test_a_table_that_was_about_to_get_more_columns_is_whole(
    tmp_path: Path, point: tuple[str, str], torn: bool
) -> None:
    DeltaTables(tmp_path).append(NAME, [frame(0, 10)], offset=0, known=None)
    code, errors = forking(*LOADED).run(WIDENING, str(tmp_path), *point)
    assert code == -signal.SIGKILL, errors
    commit = commit_path(tmp_path / NAME, 1)
    assert commit.exists() == (point[0] == "sync_commit")
    if torn and commit.exists():
        commit.write_bytes(commit.read_bytes()[:40])
    reader = DeltaTables(tmp_path)
    assert read(reader, reader.latest(NAME).version).select(*SCHEMA).equals(frame(0, 10))
    writer = DeltaTables(tmp_path)
    assert writer.widen(NAME, MORE, known=0).version == 1
    rows = frame(10, 5).with_columns(arm=pl.lit("a"), weight=pl.lit(1.0))
    version = writer.append(NAME, [rows], offset=1, known=1)
    assert (version.version, version.rows) == (2, 15)
    assert read(DeltaTables(tmp_path), 2).select(*SCHEMA).equals(frame(0, 15))
    assert pl.scan_delta(str(tmp_path / NAME)).sort("id").collect()["arm"].to_list() == [None] * 10 + ["a"] * 5
