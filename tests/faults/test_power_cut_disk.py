"""The model of a disk without power: it may do all that POSIX lets it do, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from powercut.disk import Disk
from powercut.fate import Fate
from powercut.layer import Event, Kind

FATES = 400
OLD = {"kept": b"k" * 1024}
INODES = {"a": 1, "b": 2, "folder": 3}


def event(kind: Kind, one: str = "", two: str = "", *, data: bytes = b"", inode: str = "", a: int = 0) -> Event:
    return Event(kind, one, two, data, INODES.get(inode, 0), a, 0o600)


def create(name: str, inode: str) -> Event:
    return event(Kind.CREATE, name, inode=inode)


def write(inode: str, offset: int, data: bytes) -> Event:
    return event(Kind.WRITE, inode=inode, data=data, a=offset)


def sync(inode: str) -> Event:
    return event(Kind.SYNC, inode=inode)


def rename(old: str, new: str) -> Event:
    return event(Kind.RENAME, old, new)


Left = Callable[..., set[tuple[tuple[str, bytes], ...]]]


@pytest.fixture
def left(tmp_path: Path) -> Left:
    """All trees that a cut after these events may leave, as sorted pairs of name and content."""

    def all_of(*events: Event, ordered: bool = False) -> set[tuple[tuple[str, bytes], ...]]:
        root = tmp_path / "root"
        root.mkdir()
        for name, data in OLD.items():
            (root / name).write_bytes(data)
        INODES["root"] = root.stat().st_ino
        disk = Disk(root, ordered=ordered)
        for each in events:
            disk.take(event(Kind.SYNC, inode="root") if each is SYNC_ROOT else each)
        found = set()
        for seed in range(FATES):
            place = tmp_path / f"left{seed}"
            disk.leave(place, Fate(seed))
            paths = sorted(p for p in place.rglob("*") if p.is_file())
            found.add(tuple((str(p.relative_to(place)), p.read_bytes()) for p in paths))
        return found

    return all_of


KEPT = ("kept", OLD["kept"])
SYNC_ROOT = event(Kind.SYNC)
"""Its inode is known once there is a root."""


def test_what_was_synced_with_its_name_is_there(left: Left) -> None:
    done = (create("a", "a"), write("a", 0, b"data"), sync("a"), SYNC_ROOT)
    assert left(*done) == {(("a", b"data"), KEPT)}


def test_a_synced_file_without_its_folder_may_have_no_name(left: Left) -> None:
    assert left(create("a", "a"), write("a", 0, b"data"), sync("a")) == {(("a", b"data"), KEPT), (KEPT,)}


def test_the_lenient_disk_takes_names_along(left: Left) -> None:
    assert left(create("a", "a"), write("a", 0, b"data"), sync("a"), ordered=True) == {(("a", b"data"), KEPT)}


def test_what_was_not_synced_may_be_lost_torn_empty_or_zeros(left: Left) -> None:
    data = b"1" * 512 + b"2" * 512 + b"3" * 100
    found = {dict(tree)["a"] for tree in left(create("a", "a"), SYNC_ROOT, write("a", 0, data))}
    assert {b"", data, bytes(len(data)), data[:512] + bytes(612), bytes(512) + data[512:]} <= found
    for content in found:
        assert len(content) in (0, len(data))
        for start in (0, 512, 1024):
            assert content[start : start + 512] in (data[start : start + 512], bytes(len(content[start : start + 512])))


def test_sectors_are_old_or_new_never_mixed(left: Left) -> None:
    events = (create("a", "a"), write("a", 0, b"o" * 2048), sync("a"), SYNC_ROOT)
    more = (write("a", 512, b"n" * 512), write("a", 1536, b"m" * 512))
    found = {dict(tree)["a"] for tree in left(*events, *more)}
    o, n, m = b"o" * 512, b"n" * 512, b"m" * 512
    assert found == {o + second + o + fourth for second in (o, n) for fourth in (o, m)}


def test_a_shorter_file_may_be_long_again_and_a_longer_one_short(left: Left) -> None:
    events = (create("a", "a"), write("a", 0, b"x" * 1024), sync("a"), SYNC_ROOT, event(Kind.TRUNCATE, inode="a", a=10))
    assert {b"x" * 10, b"x" * 1024} <= {dict(tree)["a"] for tree in left(*events)}


def test_a_rename_is_atomic(left: Left) -> None:
    """Over another file: the old one or the new one, never none; and never both names."""
    written = (create("a", "a"), write("a", 0, b"new"), sync("a"), SYNC_ROOT)
    assert left(*written, rename("a", "kept")) == {(("a", b"new"), KEPT), (("kept", b"new"),)}


def test_a_rename_before_its_data_was_synced_may_show_an_empty_file(left: Left) -> None:
    found = left(create("a", "a"), write("a", 0, b"new"), rename("a", "kept"), SYNC_ROOT)
    assert (("kept", b""),) in found
    assert (("kept", b"new"),) in found


def test_between_folders_both_names_may_stand_but_never_none(left: Left) -> None:
    written = (event(Kind.MKDIR, "folder", inode="folder"), create("a", "a"), write("a", 0, b"d"), sync("a"), SYNC_ROOT)
    moved = rename("a", "folder/a")
    assert left(*written, moved) == {
        (("a", b"d"), KEPT),
        (("folder/a", b"d"), KEPT),
        (("a", b"d"), ("folder/a", b"d"), KEPT),
    }


def test_a_folder_that_has_lost_its_name_is_lost_with_its_files(left: Left) -> None:
    made = (event(Kind.MKDIR, "folder", inode="folder"), create("folder/a", "a"), write("a", 0, b"d"), sync("a"))
    found = left(*made, sync("folder"))
    assert found == {(KEPT,), (("folder/a", b"d"), KEPT)}


def test_changes_of_one_name_happen_in_their_order(left: Left) -> None:
    """b took the place of a file that a sync had made durable: that one or nothing or b, never anything older."""
    made = (create("a", "a"), sync("a"), SYNC_ROOT, event(Kind.UNLINK, "a"), create("a", "b"), write("b", 0, b"2"))
    found = left(*made, sync("b"))
    assert found == {(("a", b""), KEPT), (KEPT,), (("a", b"2"), KEPT)}


def test_removals_may_be_undone_until_the_folder_is_synced(left: Left) -> None:
    assert left(event(Kind.UNLINK, "kept")) == {(KEPT,), ()}


def test_removals_stay_once_the_folder_is_synced(left: Left) -> None:
    assert left(event(Kind.UNLINK, "kept"), SYNC_ROOT) == {()}


def test_msync_makes_its_range_durable_and_the_size(left: Left) -> None:
    made = (create("a", "a"), SYNC_ROOT, event(Kind.TRUNCATE, inode="a", a=8192))
    written = (write("a", 0, b"1" * 512), write("a", 4096, b"2" * 512))
    ranged = Event(Kind.RANGESYNC, "", "", b"", INODES["a"], 4096, 4096)
    for tree in left(*made, *written, ranged):
        content = dict(tree)["a"]
        assert len(content) == 8192
        assert content[4096:4608] == b"2" * 512
