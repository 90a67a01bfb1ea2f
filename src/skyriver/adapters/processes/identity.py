"""Which process a pid means: pid, start time and boot together, since pids are used again (DESIGN section 5)."""

from __future__ import annotations

import os
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
        return self.boot == boot_id() and _stat(self.pid) == (self.start_time, True)


@cache
def boot_id() -> str:
    """Of the running system; it cannot change under a running process."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[int, bool] | None:
    """(start time, runs) of a pid, None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the command before it may hold spaces and brackets
    return int(fields[19]), fields[0] not in "ZX"


def identify(pid: int) -> Identity | None:
    """The identity of a running process, None when it is gone."""
    seen = _stat(pid)
    return Identity(pid, seen[0], boot_id()) if seen is not None and seen[1] else None


def resident_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes); 0 when the process is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(pid: int) -> float:
    """Processor time used so far; 0 when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
