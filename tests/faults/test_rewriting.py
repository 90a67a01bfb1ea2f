"""A writer that dies at any step of writing the parts of its log once more leaves each as it was or as it is to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.adapters.segments.manifest import ManifestWriter
from skyriver.data.log import Record, RecordKind

RECORDS = 40


class Dead(BaseException):
    """As the end of the process: nothing cleans up behind it that a kill would not let."""


class Fate:
    """Lets so many steps be, then ends it; before the step or right after it."""

    def __init__(self) -> None:
        self.steps = 10**9
        self.after = False

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            self.steps -= 1
            last = self.steps == 0
            if last and not self.after:
                raise Dead
            found = step(*args, **named)
            if last:
                raise Dead
            return found

        return run


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    found = Fate()
    for kind, name in (
        (DirectoryObjects, "put_file"),
        (DirectoryObjects, "verify"),
        (DirectoryObjects, "delete"),
        (ManifestWriter, "_append"),
        (Path, "rename"),
    ):
        monkeypatch.setattr(kind, name, found.around(getattr(kind, name)))
    return found


def opened(folder: Path, tier: DirectoryObjects) -> SegmentLog:
    return open_log(folder / "log", durability="process", segment_bytes=1000, holder="exam", tier=tier)


def payload(number: int) -> bytes:
    return b"%04d somebody " % number * 7


def changed(record: Record) -> bytes | None:
    return b"nobody" if record.offset % 5 == 0 else None


def rewrite_all(log: SegmentLog) -> None:
    for part in log.parts():
        log.rewrite(part.base, changed)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("local", [True, False], ids=["here and there", "only there"])
def test_a_death_at_any_step(tmp_path: Path, fate: Fate, local: bool, after: bool) -> None:
    died = 0
    for step in range(1, 1000):
        folder = tmp_path / str(step)
        tier = DirectoryObjects(folder / "tier")
        log = opened(folder, tier)
        for number in range(RECORDS):
            log.append([Record(RecordKind.EVENT, number, payload(number))])
            log.sync()
        log.end_part()
        while log.tier_next():
            pass
        if not local:
            log.drop_local(0)
        parts = [(part.base, part.end) for part in log.parts()]
        fate.steps, fate.after = step, after
        try:
            rewrite_all(log)
        except Dead:
            died += 1
        finished = fate.steps > 0
        fate.steps = 10**9
        log.abandon()

        found = {record.offset: record.payload for record in SegmentReader(folder / "log", tier).read()}
        for base, end in parts:
            old = {n: payload(n) for n in range(base, end)}
            new = old | {n: b"nobody" for n in range(base, end) if n % 5 == 0}
            assert {n: found[n] for n in range(base, end)} in (old, new)
        log = opened(folder, tier)
        rewrite_all(log)
        while log.tier_next():
            pass
        assert log.copies() == []
        log.close()
        files = [path for path in folder.rglob("*") if path.is_file()]
        gone = [payload(n)[:13] for n in range(0, RECORDS, 5)]
        assert not [path for path in files for mark in gone if mark in path.read_bytes()]
        assert not list(folder.rglob("*.new"))
        assert len(list((folder / "tier").glob("??/*"))) == len(parts)
        if finished:
            break
    assert died == step - 1 > 20
