"""The exam of the log, on each implementation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.memory.log import MemoryLog, MemoryLogReader, MemoryLogStore
from skyriver.adapters.segments import log as segment_log
from skyriver.adapters.segments.layout import FRAME, FRAME_HEADER_BYTES, SEAL_TAG, SEGMENT_HEADER_BYTES
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.data.log import Log, Record, RecordKind
from skyriver.data.log_exam import LOG_CHECKS, LogHarness, Make, check_log

NO_SPACE = 28


class SmallDisk:
    """The functions of `os`, on a disk that has `room` for that many more bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwrite(self, fd: int, data: bytes, position: int) -> int:
        growth = max(0, position + len(data) - os.fstat(fd).st_size)
        if growth and not self.room:
            raise OSError(NO_SPACE, os.strerror(NO_SPACE))
        taken = len(data) - max(0, growth - self.room)
        self.room -= min(growth, self.room)
        return os.pwrite(fd, data[:taken], position)

    def ftruncate(self, fd: int, size: int) -> None:
        self.room += max(0, os.fstat(fd).st_size - size)
        os.ftruncate(fd, size)


class SegmentHarness:
    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, durability: Any, segment_bytes: int) -> None:
        self._directory, self._patch, self._durability, self._bytes = directory, patch, durability, segment_bytes
        self._log: SegmentLog | None = None

    def open(self) -> Log:
        self._log = open_log(self._directory, durability=self._durability, segment_bytes=self._bytes, holder="exam")
        return self._log

    def reader(self) -> SegmentReader:
        return SegmentReader(self._directory)

    def crash(self) -> None:
        assert self._log is not None
        self._log.abandon()

    def usurp(self) -> Log:
        (self._directory / "lock").unlink()  # the lock would keep us out of our own process
        return self.open()

    def limit_room(self, room: int | None) -> None:
        self._patch.setattr(segment_log, "os", os if room is None else SmallDisk(room))

    def rot(self, offset: int) -> None:
        for path in self._directory.glob("*.log"):
            data = bytearray(path.read_bytes())
            at = SEGMENT_HEADER_BYTES
            while at < len(data):
                _, length, first, _, _, _, count, _, tag = FRAME.unpack_from(data, at)
                if tag != SEAL_TAG and first <= offset < first + count:
                    data[at + FRAME_HEADER_BYTES + length // 2] ^= 4
                    path.write_bytes(data)
                at += FRAME_HEADER_BYTES + length


class MemoryHarness:
    def __init__(self) -> None:
        self._store = MemoryLogStore()
        self._log: MemoryLog | None = None

    def open(self) -> Log:
        self._log = self._store.open()
        return self._log

    def usurp(self) -> Log:
        return self.open()

    def reader(self) -> MemoryLogReader:
        return self._store.reader()

    def crash(self) -> None:
        assert self._log is not None
        self._log.abandon()

    def limit_room(self, room: int | None) -> None:
        self._store.room = room

    def rot(self, offset: int) -> None:
        self._store.rotten.add(offset)


@pytest.fixture(params=["memory", "process", "process-small", "disk", "disk-small"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    numbers = itertools.count()
    durability, _, small = request.param.partition("-")

    def build() -> LogHarness:
        if durability == "memory":
            return MemoryHarness()
        directory = tmp_path / f"log-{next(numbers)}"
        return SegmentHarness(directory, monkeypatch, durability, 1000 if small else 64 << 20)

    return build


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


def test_the_exam_finds_a_log_that_breaks_a_law() -> None:
    class Forgetful(MemoryHarness):
        def crash(self) -> None:
            super().crash()
            del self._store.records[-1], self._store.offsets[-1]
            self._store.next_offset = self._store.offsets[-1] + 1 if self._store.offsets else 0

    with pytest.raises(AssertionError, match="broken law"):
        check_log(Forgetful)


def test_a_record_of_the_log_is_an_ordinary_record(tmp_path: Path) -> None:
    """Reading builds records around their frozen __init__: they must not be told apart."""
    log = open_log(tmp_path / "log", durability="process", holder="test")
    log.append([Record(RecordKind.EVENT, 5, b"x")])
    (read,) = log.read()
    assert read == Record(read.kind, 5, b"x", 1, 0, 0, log.epoch)
    assert hash(read) == hash(Record(read.kind, 5, b"x", 1, 0, 0, log.epoch))
    with pytest.raises(AttributeError):
        read.time = 6  # type: ignore[misc]
    log.close()
