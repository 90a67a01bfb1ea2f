"""Folders that are made, and what is synced then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments.log import open_log
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.data.folders import make_folder, replace_file
from skyriver.trust.secretfile import write_secret
from skyriver.wiring.home import Home


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, below the test's folder; "." is itself."""
    found: list[str] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        found.append(os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return found


def test_each_new_folder_is_synced_into_the_one_above_it(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == ["..", ".", "a", "a/b"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_the_name_of_a_folder_that_is_there_is_synced_too(tmp_path: Path, synced: list[str]) -> None:
    """Who made it may have been killed before."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == ["a", "a/b", "a/b"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def recorded(path: Path, target: Path) -> Path:
        synced.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", recorded)
    for data in (b"old", b"new"):
        synced.clear()
        replace_file(tmp_path / "file", data)
        assert synced == [".file.new", "renamed", "."]
        assert (tmp_path / "file").read_bytes() == data
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="a"):
        make_folder(tmp_path / "a" / "b")


def test_a_new_log_and_new_objects_sync_all_above_them(tmp_path: Path, synced: list[str]) -> None:
    open_log(tmp_path / "streams" / "acme" / "log", durability="disk", holder="test").close()
    assert synced[:4] == ["..", ".", "streams", "streams/acme"]
    assert "streams/acme/log" in synced
    synced.clear()
    DirectoryObjects(tmp_path / "some" / "objects")
    assert synced[:3] == ["..", ".", "some"]


def test_a_new_store_a_new_home_and_a_new_secret_sync_all_above_them(tmp_path: Path, synced: list[str]) -> None:
    SqliteStore(tmp_path / "s" / "home" / "state.db").close()
    assert synced[:4] == ["..", ".", "s", "s/home"]
    synced.clear()
    Home(tmp_path / "h" / "home").make()
    assert synced == ["..", ".", "h"]
    synced.clear()
    write_secret(tmp_path / "k" / "keys" / "key", b"secret")
    assert {".", "k", "k/keys"} <= set(synced)


def test_the_highest_epoch_is_never_only_in_a_name_that_is_not_on_the_disk(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open that appended nothing leaves an empty segment; its name goes when that of the next one is synced."""
    open_log(tmp_path, durability="disk", holder="test").close()
    synced.clear()
    unlink = Path.unlink

    def recorded(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".log":
            synced.append("unlinked")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", recorded)
    log = open_log(tmp_path, durability="disk", holder="test")
    assert log.epoch == 2
    assert synced[-3:] == [".", "unlinked", "."]
    log.close()
