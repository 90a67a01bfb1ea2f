"""A writer that ends between any two steps of tiering or giving up: the log is whole, and nothing is named that is not
there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments import manifest as manifest_module
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.adapters.segments.manifest import ENTRY_BYTES, read_manifest
from skyriver.core.errors import Corrupt
from skyriver.data.log import Record, RecordKind

RECORDS = 60


class Killed(BaseException):
    """The end of the process."""


class Killer:
    """Counts what is done to files and objects; the step `at` is not done any more, or is the last one (`after`), or,
    of a write, is done in part (`torn`)."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.steps = at, how, 0

    def step(self, work: Callable[..., Any], *given: Any, **more: Any) -> Any:
        self.steps += 1
        number = self.steps  # what is done within it are steps too
        if number == self.at and self.how == "before":
            raise Killed
        found = work(*given, **more)
        if number == self.at:
            raise Killed
        return found

    def wrap(self, patch: pytest.MonkeyPatch) -> None:
        for owner, name in (
            (DirectoryObjects, "put_file"),
            (DirectoryObjects, "verify"),
            (DirectoryObjects, "delete"),
            (Path, "unlink"),
            (manifest_module, "replace_file"),
        ):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))
        killer = self

        class Os:
            def __getattr__(self, name: str) -> Any:
                return getattr(os, name)

            def pwrite(self, fd: int, data: bytes, at: int) -> int:
                def write() -> int:
                    cut = killer.how == "torn" and killer.steps == killer.at
                    return os.pwrite(fd, data[: len(data) // 2] if cut else data, at)

                return int(killer.step(write))

            def fdatasync(self, fd: int) -> None:
                killer.step(os.fdatasync, fd)

            def ftruncate(self, fd: int, size: int) -> None:
                if killer.steps < killer.at:  # the dead do not clean up
                    os.ftruncate(fd, size)

        patch.setattr(manifest_module, "os", Os())

    def _counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **more: Any) -> Any:
            return self.step(work, *given, **more)

        return counted


def opened(folder: Path) -> SegmentLog:
    tier = DirectoryObjects(folder / "tier")
    return open_log(folder / "log", durability="process", segment_bytes=1000, holder="test", tier=tier)


def record(number: int) -> Record:
    return Record(RecordKind.EVENT, number, number.to_bytes(4, "little") * 25)


def filled(folder: Path) -> SegmentLog:
    log = opened(folder)
    for number in range(RECORDS):
        log.append([record(number)])
        log.sync()
    return log


def keep_house(log: SegmentLog) -> None:
    """All there is to do, some of it twice, as a worker would do it."""
    for _ in range(3):
        log.tier_next()
    log.drop_local(4500)
    parts = log.parts()
    log.remove_before(parts[1].end)
    while log.tier_next():
        pass
    log.drop_local(0)
    log.remove_before(parts[min(4, len(parts) - 1)].end)


def check(folder: Path, least: int = 0) -> None:
    """A reader, beside or after whoever writes."""
    reader = SegmentReader(folder / "log", DirectoryObjects(folder / "tier"))
    first = reader.first_offset
    assert first >= least
    found = [(r.offset, r.payload) for r in reader.read(first)]
    assert found == [(n, record(n).payload) for n in range(first, RECORDS)]
    objects = {path.name for path in (folder / "tier").glob("??/*")}
    assert {tiered.digest for tiered in read_manifest(folder / "log").tiered.values()} <= objects


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_a_kill_at_any_step_leaves_a_whole_log(tmp_path: Path, how: str) -> None:
    at, steps = 0, 1
    while at < steps:
        at += 1
        folder = tmp_path / str(at)
        log = filled(folder)
        killer = Killer(at, how)
        with pytest.MonkeyPatch.context() as patch:
            killer.wrap(patch)
            try:
                keep_house(log)
            except Killed:
                steps = at + 1
        log.abandon()
        check(folder)
        log = opened(folder)
        check(folder)
        parts = log.parts()
        keep_house(log)
        check(folder, parts[1].end if len(parts) > 1 else 0)
        while log.tier_next():
            pass
        named = {tiered.digest for tiered in read_manifest(folder / "log").tiered.values()}
        left = {path.name for path in (folder / "tier").glob("??/*")} - named
        assert not left, f"killed at step {at}, objects are left that nobody names"
        log.close()
        check(folder)
    assert at > 20


def test_a_torn_entry_of_the_manifest_is_cut_and_one_that_rotted_is_told(tmp_path: Path) -> None:
    log = filled(tmp_path)
    for _ in range(3):
        log.tier_next()
    log.abandon()
    path = tmp_path / "log" / "manifest"
    whole = path.read_bytes()
    for size in range(ENTRY_BYTES, len(whole)):
        path.write_bytes(whole[:size])
        check(tmp_path)
    opened(tmp_path).close()
    assert len(path.read_bytes()) % ENTRY_BYTES == 0
    path.write_bytes(whole)
    for number in range(len(whole) // ENTRY_BYTES - 1):
        for byte in (0, 5, 40, 95):
            at = number * ENTRY_BYTES + byte
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
            with pytest.raises(Corrupt) as told:
                check(tmp_path)
            assert told.value.where == f"{path}:{number * ENTRY_BYTES}"
            with pytest.raises(Corrupt):
                opened(tmp_path)
    path.write_bytes(whole)
    check(tmp_path)


def test_a_manifest_of_another_log_is_told(tmp_path: Path) -> None:
    for name in ("one", "other"):
        log = filled(tmp_path / name)
        log.tier_next()
        log.tier_next()
        log.close()
    (tmp_path / "one" / "log" / "manifest").write_bytes((tmp_path / "other" / "log" / "manifest").read_bytes())
    with pytest.raises(Corrupt, match="another log"):
        opened(tmp_path / "one")


def test_without_its_manifest_a_log_that_has_given_up_its_beginning_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.remove_before(log.parts()[2].end)
    log.close()
    (tmp_path / "log" / "manifest").unlink()
    with pytest.raises(Corrupt, match="segments are missing"):
        opened(tmp_path)


def test_a_segment_that_somebody_removed_is_told(tmp_path: Path) -> None:
    log = filled(tmp_path)
    while log.tier_next():
        pass
    log.drop_local(4000)
    log.close()
    segments = sorted((tmp_path / "log").glob("*.log"))
    segments[0].unlink()
    check(tmp_path)  # the tier has it
    segments[-1].unlink()
    with pytest.raises(Corrupt):
        opened(tmp_path)
