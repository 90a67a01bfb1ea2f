"""Which process a pid means: pid, start time and boot together, since pids are used again (DESIGN section 5)."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    pid: int
    start_time: int
    """Clock ticks after boot, field 22 of /proc/PID/stat."""
    boot: str

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return look(self) is not None


@dataclass(frozen=True, slots=True)
class Look:
    """A running process at one moment."""

    parent: int
    start_time: int
    cpu_seconds: float
    rss_mb: float
    """MB are 10^6 bytes."""
    stopped: bool
    """By SIGSTOP; a debugger's hold is another thing."""


def readable(seconds: float | None, *descriptors: int) -> set[int]:
    """Those that can be read, waiting for one for at most `seconds` (None: for ever); a pid descriptor can when its
    process has ended. Not `select`: that one knows no descriptor above 1023."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    return {found for found, _ in waiting.poll(None if seconds is None else math.ceil(seconds * 1e3))}


@cache
def boot_id() -> str:
    """Of the running system; it cannot change under a running process."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def look(identity: Identity) -> Look | None:
    """None when this very process does not run any more."""
    seen = look_at(identity.pid) if identity.boot == boot_id() else None
    return seen if seen is not None and seen.start_time == identity.start_time else None


def look_at(pid: int) -> Look | None:
    """Of whichever process has the number now; None when none has, or a zombie. One read of one file, since it is done
    for every process in every pass."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        text = os.read(descriptor, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)
    fields = text[text.rindex(b")") + 2 :].split()  # the command before it may hold spaces and brackets
    if fields[0] in b"ZX":
        return None
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return Look(int(fields[1]), int(fields[19]), cpu, int(fields[21]) * _PAGE_MB, fields[0] == b"T")


_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def identify(pid: int) -> Identity | None:
    """The identity of a running process, None when it is gone."""
    seen = look_at(pid)
    return Identity(pid, seen.start_time, boot_id()) if seen is not None else None


def send_signal(identity: Identity, number: signal.Signals) -> bool:
    """Through a pid descriptor, so that the signal cannot hit another process that got the pid in between. Whether the
    process was still there."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not identity.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        return True
    finally:
        os.close(descriptor)


def age_seconds(identity: Identity) -> float:
    """How long ago it was started, by the clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - identity.start_time / _TICKS


def resident_mb(pid: int) -> float:
    """Resident memory in MB; 0 when the process is gone."""
    seen = look_at(pid)
    return seen.rss_mb if seen is not None else 0.0


def child_of(identity: Identity) -> int:
    """The first child of a process of one thread; 0 where there is none."""
    try:
        children = Path(f"/proc/{identity.pid}/task/{identity.pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children and identity.alive() else 0
