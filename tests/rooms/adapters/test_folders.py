"""Folders that are made, and what is synced then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.folders import make_folder
from skyriver.adapters.segments.log import open_log


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, below the test's folder; "." is itself."""
    found: list[str] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        found.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return found


def test_each_new_folder_is_synced_into_the_one_above_it(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [".", "a", "a/b"]
    make_folder(tmp_path / "a" / "b" / "d")
    assert synced[3:] == ["a/b"]
    make_folder(tmp_path / "a")
    assert len(synced) == 4
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="a"):
        make_folder(tmp_path / "a" / "b")


def test_a_new_log_and_new_objects_sync_all_above_them(tmp_path: Path, synced: list[str]) -> None:
    open_log(tmp_path / "streams" / "acme" / "log", durability="disk", holder="test").close()
    assert synced[:3] == [".", "streams", "streams/acme"]
    assert "streams/acme/log" in synced
    synced.clear()
    DirectoryObjects(tmp_path / "some" / "objects")
    assert synced[:2] == [".", "some"]
