"""A disk that is full or fails: the log is as it was, or says that it must be opened again."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.segments import log as log_module
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.core.errors import Unavailable
from skyriver.data import folders
from skyriver.data.log import Record, RecordKind


class FailingDisk:
    """The functions of `os`; the named one fails, from its `after`-th call on, `times` times."""

    def __init__(self, function: str, number: int, *, after: int = 0, times: int = 10**9) -> None:
        self.function, self.number, self.after, self.times = function, number, after, times
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(os, name)
        if name != self.function:
            return real

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.after < self.calls <= self.after + self.times:
                raise OSError(self.number, os.strerror(self.number))
            return real(*arguments)

        return call


def use(monkeypatch: pytest.MonkeyPatch, disk: Any) -> None:
    for module in (log_module, folders):
        monkeypatch.setattr(module, "os", disk)


def batch(first: int, count: int = 3) -> list[Record]:
    return [Record(RecordKind.EVENT, n, n.to_bytes(8, "little") * 8) for n in range(first, first + count)]


def times(log: SegmentLog | SegmentReader) -> list[int]:
    return [record.time for record in log.read()]


@pytest.fixture
def log(tmp_path: Path) -> SegmentLog:
    log = open_log(tmp_path, durability="disk", segment_bytes=2000, holder="test")
    log.append(batch(0))
    log.sync()
    return log


def reopened(log: SegmentLog, directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    use(monkeypatch, os)
    log.abandon()
    again = open_log(directory, durability="disk", holder="test")
    found = times(again)
    again.append(batch(90, 1))
    again.close()
    assert times(SegmentReader(directory)) == [*found, 90]
    return found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_without_room_the_log_goes_on_as_it_was(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    use(monkeypatch, FailingDisk("pwrite", number))
    assert log.append(batch(3)) == 3
    assert log.append(batch(6)) == 6
    with pytest.raises(Unavailable) as full:
        log.sync()
    assert full.value.code == "DISK_FULL"
    assert log.next_offset == 3
    use(monkeypatch, os)
    assert log.append(batch(10)) == 3
    log.sync()
    assert times(log) == times(SegmentReader(tmp_path)) == [0, 1, 2, 10, 11, 12]
    assert reopened(log, tmp_path, monkeypatch) == [0, 1, 2, 10, 11, 12]


def test_an_append_that_finds_no_room_takes_back_itself_alone(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_FLUSH_BYTES", 100)
    log.append(batch(3))
    use(monkeypatch, FailingDisk("pwrite", errno.ENOSPC, times=1))
    with pytest.raises(Unavailable):
        log.append(batch(6))
    assert log.next_offset == 6
    log.append(batch(7))
    log.sync()
    assert times(log) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert reopened(log, tmp_path, monkeypatch) == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_what_a_read_wrote_out_is_taken_back_too(log: SegmentLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(batch(3))
    assert times(log) == [0, 1, 2, 3, 4, 5]
    log.append(batch(6))
    use(monkeypatch, FailingDisk("pwrite", errno.ENOSPC))
    with pytest.raises(Unavailable):
        log.sync()
    use(monkeypatch, os)
    assert times(log) == [0, 1, 2]
    log.append(batch(20, 40))
    log.sync()
    assert times(log) == [0, 1, 2, *range(20, 60)]
    log.close()


@pytest.mark.parametrize(("function", "number"), [("pwrite", errno.EIO), ("fdatasync", errno.EIO)])
def test_after_an_error_of_the_disk_the_log_refuses_until_it_is_opened_again(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    use(monkeypatch, FailingDisk(function, number, times=1))
    log.append(batch(3))
    for _ in range(2):
        with pytest.raises(Unavailable) as failed:
            log.sync()
        assert failed.value.code == "LOG_FAILED"
        with pytest.raises(Unavailable):
            log.append(batch(6))
    assert times(log) == [0, 1, 2]
    assert times(SegmentReader(tmp_path)) == [0, 1, 2]
    found = reopened(log, tmp_path, monkeypatch)
    assert found in ([0, 1, 2], [0, 1, 2, 3, 4, 5])  # not acknowledged: there or not, but whole
    log.close()


def test_fdatasync_without_room_is_an_error_of_the_disk(log: SegmentLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it nobody knows what the disk has."""
    log.append(batch(3))
    use(monkeypatch, FailingDisk("fdatasync", errno.ENOSPC, times=1))
    with pytest.raises(Unavailable) as failed:
        log.sync()
    assert failed.value.code == "LOG_FAILED"
    with pytest.raises(Unavailable):
        log.append(batch(6))
    log.abandon()


def test_a_file_that_cannot_be_cut_back_is_not_written_again(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(FailingDisk):
        def ftruncate(self, fd: int, size: int) -> None:
            raise OSError(errno.EIO, "stuck")

    use(monkeypatch, Stuck("pwrite", errno.ENOSPC))
    log.append(batch(3))
    with pytest.raises(Unavailable) as failed:
        log.sync()
    assert failed.value.code == "LOG_FAILED"
    assert reopened(log, tmp_path, monkeypatch) == [0, 1, 2]


@pytest.mark.parametrize("function", ["open", "write", "pwrite"])
def test_no_room_for_a_new_segment(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    log.append(batch(3, 30))
    log.sync()  # the segment is full now
    use(monkeypatch, FailingDisk(function, errno.ENOSPC, times=2))
    for _ in range(2):
        with pytest.raises(Unavailable) as full:
            log.append(batch(50))
        assert full.value.code == "DISK_FULL"
        assert log.next_offset == 33
        assert times(SegmentReader(tmp_path)) == [*range(33)]
    assert [path.name for path in tmp_path.glob("*.new")] == []
    assert log.append(batch(50)) == 33
    log.sync()
    assert times(log) == [*range(33), 50, 51, 52]
    assert len(list(tmp_path.glob("*.log"))) == 2
    assert reopened(log, tmp_path, monkeypatch) == [*range(33), 50, 51, 52]


def test_a_new_segment_whose_name_cannot_be_synced(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(batch(3, 30))
    log.sync()
    use(monkeypatch, FailingDisk("fsync", errno.EIO))
    with pytest.raises(Unavailable) as failed:
        log.append(batch(50))
    assert failed.value.code == "LOG_FAILED"
    assert reopened(log, tmp_path, monkeypatch) == [*range(33)]


@pytest.mark.parametrize("function", ["open", "write", "fdatasync", "fsync"])
def test_an_open_that_fails_leaves_the_log_to_the_next_one(
    log: SegmentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    log.close()
    use(monkeypatch, FailingDisk(function, errno.ENOSPC))
    with pytest.raises(Unavailable) as full:
        open_log(tmp_path, durability="disk", holder="test")
    assert full.value.code == "DISK_FULL"
    assert times(SegmentReader(tmp_path)) == [0, 1, 2]
    assert reopened(log, tmp_path, monkeypatch) == [0, 1, 2]


def test_an_interrupted_append_did_not_happen(log: SegmentLog) -> None:
    class Interrupting(list[Record]):
        def __iter__(self) -> Any:
            yield from super().__iter__()
            raise KeyboardInterrupt

    log.append(batch(3))
    with pytest.raises(KeyboardInterrupt):
        log.append(Interrupting(batch(6, 500)))
    log.append(batch(9))
    log.sync()
    assert times(log) == [0, 1, 2, 3, 4, 5, 9, 10, 11]
    log.close()


LIMITED = """
import resource, sys
from pathlib import Path
from skyriver.adapters.segments.log import open_log
from skyriver.core.errors import Unavailable
from skyriver.data import folders
from skyriver.data.log import Record, RecordKind

log = open_log(Path(sys.argv[1]), durability=sys.argv[2], holder="child")
limit = 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
number = refused = 0
while refused < 5:
    try:
        log.append([Record(RecordKind.EVENT, number, bytes(700))])
        log.sync()
        number += 1
    except Unavailable as error:
        assert error.code == "DISK_FULL", error.code
        assert log.next_offset == number
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(10):
    log.append([Record(RecordKind.EVENT, number, bytes(700))])
    log.sync()
    number += 1
print(number, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_real_limit_of_the_kernel(tmp_path: Path, durability: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(tmp_path), durability], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    number = int(process.stdout.readline())
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.stdin.close()
    process.stdout.close()
    assert number > 130
    assert times(SegmentReader(tmp_path)) == [*range(number)]
    log = open_log(tmp_path, durability="process", holder="test")
    assert log.torn is None
    assert times(log) == [*range(number)]
    log.close()
