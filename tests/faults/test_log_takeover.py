"""One writer a log: whoever holds it, whatever state he is in, the next one is alone."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skyriver.adapters.flock.lock import read_holder
from skyriver.adapters.processes.identity import identify
from skyriver.adapters.segments.log import SegmentReader, open_log
from skyriver.core.errors import Conflict
from skyriver.data.log import Record, RecordKind

HOLDER = """
import sys
from pathlib import Path
from skyriver.adapters.segments.log import open_log
from skyriver.core.errors import Conflict
from skyriver.data.log import Record, RecordKind

log = open_log(Path(sys.argv[1]), durability="process", holder="child")
log.append([Record(RecordKind.EVENT, 1, b"first")])
log.sync()
print("held", flush=True)
sys.stdin.readline()
try:
    log.append([Record(RecordKind.EVENT, 2, b"too late")])
    log.sync()
except Conflict as error:
    print(error.code, flush=True)
"""


def event(payload: bytes) -> Record:
    return Record(RecordKind.EVENT, 1, payload)


def payloads(directory: Path) -> list[bytes]:
    return [record.payload for record in SegmentReader(directory).read()]


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has said "held"."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
        process.stdin.close()


def say(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def test_a_live_holder_is_named(tmp_path: Path) -> None:
    with child(HOLDER, tmp_path) as holder:
        with pytest.raises(Conflict, match=f"process {holder.pid} \\(child\\)") as refused:
            open_log(tmp_path, durability="process", holder="second")
        assert refused.value.code == "LOG_HELD"
        assert holder.poll() is None


def test_a_stopped_holder_is_ended_and_cannot_write_when_it_is_continued(tmp_path: Path) -> None:
    with child(HOLDER, tmp_path) as holder:
        stop(holder)
        log = open_log(tmp_path, durability="process", holder="second", take_over=True)
        assert log.epoch == 2
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(60) == -signal.SIGKILL
        log.append([event(b"second")])
        log.sync()
        assert payloads(tmp_path) == [b"first", b"second"]
        log.close()


def test_a_holder_that_lost_its_lock_finds_a_newer_epoch(tmp_path: Path) -> None:
    with child(HOLDER, tmp_path) as holder:
        stop(holder)
        (tmp_path / "lock").unlink()  # as a careless hand would; the epoch still tells
        log = open_log(tmp_path, durability="process", holder="second")
        holder.send_signal(signal.SIGCONT)
        assert say(holder, "write") == "LOG_LOST"
        log.append([event(b"second")])
        log.sync()
        assert payloads(tmp_path) == [b"first", b"second"]
        log.close()


def test_the_log_of_a_process_of_ours_is_not_taken_over_from_ourselves(tmp_path: Path) -> None:
    log = open_log(tmp_path, durability="process", holder="us")
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        open_log(tmp_path, durability="process", holder="us again", take_over=True)
    log.append([event(b"ours")])
    log.close()
    assert payloads(tmp_path) == [b"ours"]


LOCKER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_only_the_recorded_process_is_ended_never_one_that_got_its_pid(tmp_path: Path) -> None:
    open_log(tmp_path, durability="process", holder="first").close()
    with child(LOCKER, tmp_path / "lock") as innocent:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        start = identify(innocent.pid).start_time
        assert start is not None
        recorded = {"pid": innocent.pid, "start": start - 1, "boot": boot, "token": "t", "name": "gone"}
        for record in (recorded, recorded | {"start": start, "boot": boot[::-1]}):
            (tmp_path / "holder.json").write_text(json.dumps(record))
            with pytest.raises(Conflict):
                open_log(tmp_path, durability="process", holder="second", take_over=True, wait_us=50_000)
            assert innocent.poll() is None


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"pid": 1}', "null"])
def test_a_record_that_is_not_whole_ends_nobody(tmp_path: Path, record: str) -> None:
    (tmp_path / "holder.json").write_text(record)
    assert read_holder(tmp_path) is None
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="left no record"):
            open_log(tmp_path, durability="process", holder="second", take_over=True, wait_us=20_000)
    open_log(tmp_path, durability="process", holder="second").close()


PARENT = """
import subprocess, sys
from pathlib import Path
from skyriver.adapters.segments.log import open_log
log = open_log(Path(sys.argv[1]), durability="process", holder="parent")
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False)
print("held", flush=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_process_that_the_holder_started_does_not_keep_the_lock(tmp_path: Path) -> None:
    with child(PARENT, tmp_path) as holder:
        assert holder.stdout is not None
        grandchild = os.pidfd_open(int(holder.stdout.readline()))
        holder.kill()
        holder.wait(60)
        try:
            open_log(tmp_path, durability="process", holder="second").close()
            signal.pidfd_send_signal(grandchild, 0)  # it still lives
        finally:
            signal.pidfd_send_signal(grandchild, signal.SIGKILL)
            os.close(grandchild)


FORKER = """
import os, sys
from pathlib import Path
from skyriver.adapters.segments.log import open_log
from skyriver.core.errors import Conflict
from skyriver.data.log import Record, RecordKind
log = open_log(Path(sys.argv[1]), durability="process", holder="parent")
log.append([Record(RecordKind.EVENT, 1, b"of both")])
pid = os.fork()
if pid == 0:
    code = 1
    try:
        log.sync()
    except Conflict:
        code = 0
    try:
        log.close()
    except Conflict:
        pass
    os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
log.append([Record(RecordKind.EVENT, 1, b"of the parent")])
log.sync()
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_forked_child_cannot_write_and_leaves_the_parent_its_log(tmp_path: Path) -> None:
    with child(FORKER, tmp_path) as parent:
        assert payloads(tmp_path) == [b"of both", b"of the parent"]
        holder = read_holder(tmp_path)
        assert holder is not None
        assert holder.pid == parent.pid
